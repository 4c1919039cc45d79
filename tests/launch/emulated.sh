#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# emulated.sh BANYAN_EMU MPIRUN RANKS VERB: a verb with --device cuda on the emulated GPU, tiny: against its
# oracle or against the CPU.
banyan=$1 mpirun=$2 ranks=$3
. "$(dirname "$0")/expect.sh"
if [ "$ranks" = 1 ]; then mpirun=env ranks_of=""; else ranks_of=$ranks; fi
start() { "$mpirun" $ranks_of "$banyan" "$@"; }
all() { code=$1 words=$2; shift 2; expect "$code" "$words" "$mpirun" $ranks_of "$banyan" "$@"; }
cuda="--device cuda --set execution.transport=$([ "$ranks" = 1 ] && echo self || echo mpi)"

case $4 in
run)
  shape="--heads 4 --kv-heads 2 --key-dim 64 --threads 1 --samples 6 --decode 2"
  all 0 "6 rows checked" run $shape $cuda --tokens 200 --max-rows 100
  all 0 "6 rows checked" run $shape $cuda --tokens 333 --at 250 --dtype fp16 --out all --rows 2
  all 0 "6 rows checked" run $shape $cuda --tokens 700 --at 640 --use "s2 stride=2 local=2" --placement spread
  all 0 "6 rows checked" run --heads 2 --kv-heads 1 --key-dim 256 --threads 1 --samples 6 --decode 2 $cuda --tokens 150
  all 0 "6 rows checked" run $shape $cuda --tokens 300 --max-rows 140 --set cache.block_tokens=128 --placement spread
  all 0 "6 rows checked" run $shape $cuda --tokens 300 --at 200 --dtype fp8 --set cache.block_tokens=32 --placement spread
  all 0 "6 rows checked" run --heads 16 --kv-heads 1 --key-dim 576 --value-dim 512 --value-in-key --threads 1 \
    --samples 6 --decode 2 $cuda --tokens 90 --at 80 --placement spread
  all 0 "device           cuda: " run $shape $cuda --tokens 64 --dtype fp8
  expect 2 "" "$banyan" run $shape --device cuda --tokens 64 --dtype fp32
  # one hash, whatever the number of ranks and of multiprocessors
  hash_of() { sed -n 's/^output bits *\([0-9a-f]\{16\}\).*/\1/p' "$folder/output"; }
  expect 0 "6 rows checked" "$banyan" run $shape --device cuda --reproducible --tokens 300 --at 290 --rows 7
  one=$(hash_of)
  BANYAN_EMU_SMS=5 all 0 "6 rows checked" run $shape $cuda --reproducible --tokens 300 --at 290 --rows 7 --placement spread
  [ -n "$one" ] && [ "$(hash_of)" = "$one" ] || fault "$(hash_of) on $ranks ranks, $one on one"
  ;;
model)
  # the same ids, and needles that are found as predicted
  expect 0 "" "$banyan" model --out "$folder/m" --tokens 4096 --heads 4 --kv-heads 2
  printf '\000\000\000\000\020\000\000\000\021\000\000\000\011\000\000\000\022\000\000\000\001\000\000\000' > "$folder/ids"
  start generate --model "$folder/m" --ids "$folder/ids" --count 4 > "$folder/cpu" 2> "$folder/errors"
  start generate --model "$folder/m" --ids "$folder/ids" --count 4 $cuda > "$folder/output" 2>> "$folder/errors"
  [ "$(wc -l < "$folder/cpu")" = 4 ] && cmp -s "$folder/cpu" "$folder/output" || fault "other ids than on the CPU"
  all 0 "" needle $cuda --lengths 256 --depths 2 --task single,uniform --heads 4 --kv-heads 2 \
    --set constructed.max_tokens=4096 --set cache.max_rows=128 --results "$folder/r.jsonl"
  ;;
scale)
  shape="--heads 4 --kv-heads 2 --key-dim 64 --threads 1 --steps 3 --warmup 1"
  # figures of the CPU: measuring reads 192 MiB of keys, which the emulator would take minutes for
  all 0 "measured in" scale $shape --tokens 64 --method line --machine "$folder/machine.txtpb"
  all 0 "spread" scale $shape $cuda --tokens 300 --method line,spread,heads,reproducible \
    --machine "$folder/machine.txtpb" --json "$folder/scale.json"
  grep -q '"measured":false' "$folder/scale.json" && fault "a case was not measured"
  # rings, compared with the oracle; with more ranks than shards of a block as well
  for tokens in 500 130; do
    all 0 "ring-q" scale $shape $cuda --tokens $tokens --method ring,ring-q --machine "$folder/machine.txtpb" \
      --json "$folder/ring.json"
    grep -q '"measured":false' "$folder/ring.json" && fault "a ring was not measured"
    [ "$(grep -c '"method":"ring' "$folder/ring.json")" -ge 2 ] || fault "a ring is missing"
  done
  all 2 'method "ring" prefills on the cpu only; device is cuda' scale $shape $cuda --tokens 300 \
    --phase prefill --method ring
  # what may be asked of a device when nothing is said
  all 0 "spread" scale $shape $cuda --tokens 200 --phase prefill --max-rows 100 --machine "$folder/machine.txtpb"
  ;;
bench)
  all 0 "decode 132 cuts" bench --device cuda --quick --only "cuts" --json "$folder/bench.json"
  grep -q '"graph":' "$folder/bench.json" || fault "no JSON"
  ;;
esac
[ $faults = 0 ]
