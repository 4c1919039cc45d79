#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# words.sh BANYAN [CUDA]: what bad input gets: exit code 2, the value, what was expected, the nearest name, and
# no partial output.
banyan=$1
. "$(dirname "$0")/expect.sh"
shape="--heads 4 --kv-heads 2 --key-dim 32"
plan_shape="--set shape.heads=4 --set shape.key_dim=32 --set cache.max_tokens=1m"

# verbs and flags
expect 2 "usage: banyan VERB" "$banyan"
expect 2 'no verb "pln"; did you mean "plan"?' "$banyan" pln
expect 2 'no verb "qqqqqqq"; "banyan --help" lists them' "$banyan" qqqqqqq
expect 2 'the first word is a verb, not "--ranks"' "$banyan" --ranks 4
expect 2 'no flag "--rank" in plan; did you mean "--ranks"?' "$banyan" plan --rank 4
expect 2 'no flag "--zzzzzz" in plan; "banyan plan --help"' "$banyan" plan --zzzzzz
expect 2 '"4" is not expected here; flags begin with "--"' "$banyan" plan 4
expect 2 '--ranks needs a value: --ranks N' "$banyan" plan --ranks
expect 2 '--fields is a switch: it takes no value, got "yes"' "$banyan" list --fields=yes

# a launcher that started more ranks than MPI knows of
expect_once 2 "rank 2 of 4 (PMI_RANK, PMI_SIZE), but" env PMI_RANK=2 PMI_SIZE=4 "$banyan" run $shape --tokens 64

# fields
expect 2 'no field "max_token" in Cache; did you mean "max_tokens"?' \
  "$banyan" plan --set cache.max_token=1
expect 2 '--set "cache.max_tokens": expected FIELD=VALUE' "$banyan" plan --set cache.max_tokens
expect 2 'max_tokens: "12x" is not a 64-bit integer' "$banyan" plan --set cache.max_tokens=12x
expect 2 'dtype: "fp9" is not one of FP32, BF16, FP16, FP8' "$banyan" run --dtype fp9
expect 2 'no kernel of device cpu supports fp8 blocks of 64 tokens with key_dim 64' \
  "$banyan" run $shape --tokens 64 --key-dim 64 --dtype fp8
expect 2 'rule[0].layers "3-1": expected "5", "0-3", "4-" or "all"' \
  "$banyan" run $shape --tokens 64 --set "rule[0].layers=3-1"

# config files
expect 2 'cannot read config "/nowhere/a.txtpb": No such file' "$banyan" plan --config /nowhere/a.txtpb
expect 2 'Is a directory' "$banyan" plan --config "$folder"
printf 'shape {\n  heads: 8\n  kv_head: 2\n}\n' > "$folder/a.txtpb"
expect 2 'a.txtpb:3:10: no field "kv_head" in Shape; did you mean "kv_heads"?' \
  "$banyan" plan --config "$folder/a.txtpb"
printf 'shape {\n  heads: eight\n}\n' > "$folder/a.txtpb"
expect 2 'a.txtpb:2:10: expected integer' "$banyan" plan --config "$folder/a.txtpb"
printf '\357\273\277# 3m\nshape { heads: 8 kv_heads: 2 key_dim: 64 }\ncache { max_tokens: 1m max_rows: 1K } # 2x\n' > "$folder/a.txtpb"
expect 0 "1048576 tokens" "$banyan" plan --config "$folder/a.txtpb"
printf 'cache { max_tokens: 1m max_rows: 1k  max_row: 3 }\n' > "$folder/a.txtpb"
expect 2 'a.txtpb:1:45: no field "max_row" in Cache' "$banyan" plan --config "$folder/a.txtpb"
printf 'rule { use: "s2 stride=1m \\" 2k" } cache { max_tokens: 99999999999999g }\n' > "$folder/a.txtpb"
expect 2 'a.txtpb:1:56: "99999999999999g" is beyond 64 bits' "$banyan" plan --config "$folder/a.txtpb"
printf 'shape { heads: 8 key_dim: 32 }\nrule { use: "dense 1m" }\n' > "$folder/a.txtpb"
expect 2 'dense 1m' "$banyan" plan --config "$folder/a.txtpb" --max-tokens 1k
printf 'shape { heads: 8x }\n' > "$folder/a.txtpb"
expect 2 'a.txtpb:1:17: ' "$banyan" plan --config "$folder/a.txtpb"
printf 'shape {\n' > "$folder/a.txtpb"
expect 2 'a.txtpb:2:1: ' "$banyan" plan --config "$folder/a.txtpb"

# numbers that would run over, or for ever
expect 2 'max_tokens' "$banyan" run $shape --tokens 9223372036854775807
expect 2 'run.tokens' "$banyan" run $shape --tokens 9223372036854775807 --max-tokens 1k
expect 2 'at most 1048576 of each' "$banyan" scale --tokens 1k --samples 2147483647
expect 2 'at most 1048576 of each' "$banyan" scale --tokens 1k --warmup 2147483647
expect 2 'expected a number, 1..65536' "$banyan" plan $plan_shape --ranks 1048576
expect 2 '1048576 ranks; expected at most 65536' "$banyan" plan $plan_shape --topology "rank:1048576"
expect 0 '65536 on 1 node' "$banyan" plan $plan_shape --ranks 65536

# specs
expect 2 'dence' "$banyan" run $shape --tokens 64 --use dence
expect 2 'dense' "$banyan" run $shape --tokens 64 --use dence
expect 2 'strid' "$banyan" run $shape --tokens 64 --use "s2 strid=4"
expect 2 'kv_heads' "$banyan" run --heads 4 --kv-heads 3 --key-dim 32 --tokens 64
expect 2 'key_dim' "$banyan" run --heads 4 --tokens 64
expect 2 'value_dim is 64: expected at most key_dim, 32, with value_in_key' \
  "$banyan" run $shape --tokens 64 --value-dim 64 --value-in-key
expect 2 'value_in_key: expected with plan and run only' "$banyan" scale $shape --set shape.value_in_key=true
expect 2 'block_tokens' "$banyan" run $shape --tokens 64 --set cache.block_tokens=48
expect 2 'did you mean "line"' "$banyan" run $shape --tokens 64 --placement lime
expect 2 'did you mean "tree"' "$banyan" run $shape --tokens 64 --merge tee
expect 2 'did you mean "scalar"' "$banyan" run $shape --tokens 64 --kernel scaler
expect 2 'needs' "$banyan" run $shape --tokens 64k --set execution.memory_limit=4096
expect 2 'bandwidth has 2 values; this job has 1 ranks' \
  "$banyan" run $shape --tokens 64 --set execution.bandwidth=1,2
expect 2 'did you mean "self"' "$banyan" run $shape --tokens 64 --set execution.transport=sel
expect 2 '"imaginary" serves "banyan plan" only' \
  "$banyan" run $shape --tokens 64 --set execution.transport=imaginary

for verb in plan run generate needle; do expect 0 "--strict" "$banyan" $verb --help; done
expect 2 'expected all, as strict is set' \
  "$banyan" run $shape --tokens 64 --strict --use "s2 stride=16 local=4 step=1"

# more memory than there is: said before any is taken
expect 2 'with 65536 layers of 65536 KV heads that is 1.1e+25 bytes' "$banyan" plan --set shape.layers=65536 \
  --set shape.heads=65536 --set shape.key_dim=576 --set cache.max_tokens=1024g --set cache.block_tokens=16
expect 2 'q, k, v and out of 16777216 rows (cache.max_rows): needs 9220.0 GiB on this machine' \
  sh "$limited" "$banyan" run --heads 64 --key-dim 576 --tokens 5 --max-rows 16m
expect 2 'expected at most 1048576 of each' "$banyan" run $shape --tokens 64 --samples 1g

# what a verb is asked
expect 2 'run.at 65: expected 0..64 (run.tokens)' "$banyan" run $shape --tokens 64 --at 65
expect 2 'expected 1..32 tokens in all (cache.max_tokens)' \
  "$banyan" run $shape --tokens 64 --max-tokens 32
expect 2 'run.rows 64: expected 1..32 (cache.max_rows)' \
  "$banyan" run $shape --tokens 64 --rows 64 --max-rows 32
expect 2 'cache.max_tokens -5: expected 1 or more' "$banyan" run $shape --tokens 64 --max-tokens=-5
expect 2 'execution.timeout -1: expected seconds' \
  "$banyan" run $shape --tokens 64 --set execution.timeout=-1
expect 2 'run: --tokens N is needed' "$banyan" run $shape
expect 2 '--config is given twice: "a" and "b"' "$banyan" plan --config a --config b
expect 0 "ranks      1024" "$banyan" plan --heads 64 --key-dim 32 --max-tokens 1m --ranks 1k
expect 2 '--ranks "0": expected a number, 1..' "$banyan" plan --ranks 0
expect 2 '--nodes 3: expected 1..2 (--ranks)' "$banyan" plan --ranks 2 --nodes 3
expect 2 'stands for --ranks and --nodes' "$banyan" plan --ranks 2 --topology "rank:2"
expect 2 'node:x' "$banyan" plan --topology "node:x"
expect 2 '--only "(": ' "$banyan" bench --only "("
expect 2 '--only "nothing" matches no row' "$banyan" bench --only nothing

# devices that are none, or not here: said before anything is done, and nothing is written
expect 2 'execution.device "cuba": expected cpu or cuda (did you mean "cuda"?)' \
  "$banyan" run $shape --tokens 64 --device cuba
none="this build has none; configure with -DBANYAN_CUDA=ON"
[ -z "$2" ] || none="no CUDA device: "
if [ -z "$2" ] || [ ! -e /dev/nvidia0 ]; then
  expect_once 2 "banyan: device cuda: $none" "$banyan" run $shape --tokens 64 --device cuda --json "$folder/x.json"
  expect_once 2 "banyan: device cuda: $none" "$banyan" scale --device cuda --json "$folder/x.json"
  expect_once 2 "banyan: device cuda: $none" "$banyan" bench --set execution.device=cuda --json "$folder/x.json"
  expect_once 2 "banyan: device cuda: $none" "$banyan" needle --device cuda --results "$folder/x.jsonl"
  expect_once 2 "banyan: device cuda: $none" "$banyan" generate --device cuda --model nowhere --ids nothing
  expect_no_file "$folder/x.json"
  expect_no_file "$folder/constructed"
fi

# a hole in the coverage: a warning, and with --strict a refusal
hole="--set shape.heads=8 --set shape.kv_heads=8 --set shape.key_dim=64 --set cache.max_tokens=64k"
expect 0 'banyan: warning: ' "$banyan" plan $hole --ranks 2 --use "s2 stride=16 local=4 step=1"
expect 2 'banyan: ' "$banyan" plan $hole --ranks 2 --use "s2 stride=16 local=4 step=1" --strict

# a full disk, and files that cannot be
expect 3 'cannot write "/dev/full": No space left' \
  "$banyan" run $shape --tokens 64 --json /dev/full
[ -c /dev/full ] || { echo "failed: /dev/full was replaced"; faults=$((faults + 1)); }
expect 3 'cannot write "/nowhere/a.json": No such file' \
  "$banyan" run $shape --tokens 64 --json /nowhere/a.json
expect 3 'cannot write to standard output' sh -c '"$1" list > /dev/full' sh "$banyan"
grep -q "output bits" "$folder/output" && fault "everything was computed before that was said"
for flag in json markdown svg; do
  expect 3 "cannot write \"/nowhere/a\": No such file" "$banyan" scale $shape --tokens 2k --$flag /nowhere/a
  grep -q "measured in" "$folder/output" && fault "scale --$flag: noticed late"
done
expect 2 'key_dim' "$banyan" run --heads 4 --tokens 64 --json "$folder/x.json"
expect_no_file "$folder/x.json"
[ $faults = 0 ]
