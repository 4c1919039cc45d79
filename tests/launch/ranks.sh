#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ranks.sh BANYAN MPIRUN: run on several ranks, and errors that all of them share: said once, with one
# exit code, and nothing hangs.
banyan=$1 mpirun=$2
. "$(dirname "$0")/expect.sh"
shape="--heads 8 --kv-heads 2 --key-dim 32 --threads 1 --samples 8 --decode 3"

expect 0 "8 rows checked" "$mpirun" 3 "$banyan" run $shape --tokens 700 --at 130 --out all
expect 0 "8 rows checked" "$mpirun" 4 "$banyan" run $shape --tokens 500 --merge tree --json "$folder/run.json"
[ "$(grep -c '"rank":' "$folder/run.json")" = 4 ] || fault "run --json lacks ranks"
expect 0 "8 rows checked" "$mpirun" 3 "$banyan" run $shape --tokens 2000 --at 1500 --use "top blocks=4" --placement spread
expect 0 "8 rows checked" "$mpirun" 5 "$banyan" run $shape --tokens 100 --placement spread
expect 0 "8 rows checked" "$mpirun" 3 "$banyan" run $shape --tokens 900 --use "s2 stride=2 local=3" \
  --set execution.lost_rank=1
expect 0 "8 rows checked" "$mpirun" 3 "$banyan" run $shape --kv-heads 1 --key-dim 576 --value-dim 512 --value-in-key \
  --tokens 500 --placement spread
expect 0 "on every rank" "$mpirun" 3 "$banyan" run $shape --tokens 100 --out all --dtype fp32 \
  --set execution.bandwidth=1,2,1 --rows 40
printf 'shape { heads: 4 key_dim: 16 }\nrun { tokens: 90 }\n' > "$folder/a.txtpb"
expect 0 "rows checked" "$mpirun" 2 "$banyan" run --config "$folder/a.txtpb"

expect 0 "ranks: decode dense bf16" "$mpirun" 2 "$banyan" bench --quick --json "$folder/bench.json"
grep -q "^ranks: prefill .* 2 ranks x 1 thread [0-9.]* ms, 1 rank x 2 threads [0-9.]* ms" \
  "$folder/output" || fault "bench under mpirun lacks the prefill"
[ "$(grep -c '"ranks":2,"batch_seconds":' "$folder/bench.json")" = 1 ] || fault "bench --json of a batch"
[ "$(grep -c '"ranks":2,"together_seconds":' "$folder/bench.json")" = 2 ] || fault "bench --json of ranks"
choosing() { # PLACE MESSAGES: lines of both choosing layers that sent none, or some
  [ "$(grep "\"choosing, $1 heads\",\"use\":\"top" "$folder/bench.json" | grep -c "\"messages\":$2")" = 2 ] ||
    fault "bench --json of choices, $1 heads"
}
choosing whole '0\.0'
choosing spread '[1-9]'
expect_once 2 '--only "s2" matches no row that is for several ranks' \
  "$mpirun" 3 "$banyan" bench --quick --only s2

# mpirun-here without words
expect 2 "RANKS and PROGRAM are missing; usage: mpirun-here RANKS PROGRAM" "$mpirun"
expect 2 'RANKS is "list", expected a number' "$mpirun" list "$banyan"
expect 2 "PROGRAM is missing" "$mpirun" 3

# At 256 MiB of keys and values a rank and more, memory is compared with them by run itself (within
# 10 %); what is kept is what the plan says.
large() {
  expect 0 "6 rows checked" "$mpirun" 3 "$banyan" run --heads 32 --kv-heads 8 --key-dim 128 --decode 2 \
    --samples 6 --threads 1 --json "$folder/run.json" "$@"
  sed -n 's/.*"kept_bytes":\([0-9]*\),"planned_bytes":\([0-9]*\),.*/\1 \2/p' "$folder/run.json" > "$folder/bytes"
  while read -r kept planned; do
    [ "$kept" -ge 268435456 ] && [ "$kept" = "$planned" ] || fault "kept $kept of $planned bytes: $*"
  done < "$folder/bytes"
  [ "$(wc -l < "$folder/bytes")" = 3 ] || fault "three ranks report: $*"
}
large --tokens 210000 --at 210000
large --tokens 840000 --at 840000 --use "s2 stride=4 local=16"
large --tokens 430000 --at 430000 --use "sink_window sink=4 window=210000t" --max-rows 4096

expect_once 0 "banyan 0." "$mpirun" 3 "$banyan" --version
expect_once 2 'no verb "rum"; did you mean "run"?' "$mpirun" 3 "$banyan" rum
expect_once 2 'no flag "--token" in run; did you mean "--tokens"?' "$mpirun" 3 "$banyan" run --token 4
expect_once 2 'cannot read config "/nowhere/b.txtpb"' "$mpirun" 3 "$banyan" run --config /nowhere/b.txtpb
printf 'shape { heads: 4\n key_dimm: 16 }\n' > "$folder/b.txtpb"
expect_once 2 'b.txtpb:2:10: no field "key_dimm"' "$mpirun" 3 "$banyan" run --config "$folder/b.txtpb"
expect_once 2 'did you mean "dense"' "$mpirun" 3 "$banyan" run $shape --tokens 64 --use dence
[ -e /dev/nvidia0 ] || expect_once 2 'banyan: device cuda: ' "$mpirun" 3 "$banyan" run $shape --tokens 64 --device cuda
expect_once 2 'expected cpu or cuda' "$mpirun" 3 "$banyan" run $shape --tokens 64 --device gpu
expect_once 2 '"plan" runs in one process' "$mpirun" 2 "$banyan" plan --ranks 4
expect_once 2 '"self" is one rank; this job has 2' \
  "$mpirun" 2 "$banyan" run $shape --tokens 64 --set execution.transport=self
expect_once 2 'bandwidth has 3 values; this job has 2 ranks' \
  "$mpirun" 2 "$banyan" run $shape --tokens 64 --set execution.bandwidth=1,2,1
expect_once 3 'cannot write "/dev/full": No space left' \
  "$mpirun" 2 "$banyan" run $shape --tokens 64 --json /dev/full
expect_once 2 'q, k, v and out of 16777216 rows (cache.max_rows): needs' \
  sh "$limited" "$mpirun" 3 "$banyan" run --heads 64 --key-dim 576 --tokens 5 --max-rows 16m
expect_once 2 'expected all, as strict is set' \
  "$mpirun" 3 "$banyan" run $shape --tokens 64 --strict --use "s2 stride=16 local=4 step=1"
expect_once 0 'warning: layer 0: heads cover 2 of 16 residues, 87.5 % of the far context is invisible' \
  "$mpirun" 3 "$banyan" run $shape --tokens 64 --use "s2 stride=16 local=4 step=1"
expect_once 2 'rank 1 was given another command line than rank 0' \
  "$mpirun" 2 sh -c 'exec "$0" "$@" --tokens $((64 + '"$rank"'))' "$banyan" run $shape
[ $faults = 0 ]
