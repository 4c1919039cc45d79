#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# oracle.sh BANYAN MPIRUN RANKS: `banyan run` against its float64 oracle, for every attention shape and
# cache format, with contexts, rows per call, placements, merges and homes dealt to them in turn so
# that other ranks meet other ones. Exit code 1 of `run`: a row is beyond its bound.
banyan=$1 mpirun=$2 ranks=$3
. "$(dirname "$0")/expect.sh"
run() {
  expect 0 "12 rows checked" "$mpirun" "$ranks" "$banyan" run --samples 12 --threads 1 "$@"
}
merges=$("$banyan" list | sed -n '/^merges:/,/^$/s/^  \([a-z0-9_]\{1,\}\) .*/\1/p')
nth() { shift $(($1 % ($# - 1) + 1)) && echo "$1"; }

i=$ranks
for shape in "8 8 64 64" "32 8 128 128" "8 1 64 64" "4 4 192 128" "16 1 128 128"; do
  for dtype in fp32 bf16 fp16; do
    i=$((i + 1))
    # tokens, append only below, rows per step, steps, rows per call: no multiple of a block; fewer blocks
    # than ranks (but on one); all in steps; nearly nothing prefilled; one step of 4096 rows; ..
    context=$(nth $i "333 0 1 3 100" "100 77 7 2 512" "0 0 300 2 300" "1000 999 33 3 65" "5 0 4096 1 4096" \
      "2111 1500 512 1 512" "63 1 64 2 64")
    set -- $shape $context
    run --heads "$1" --kv-heads "$2" --key-dim "$3" --value-dim "$4" --dtype $dtype --tokens "$5" --at "$6" \
      --rows "$7" --decode "$8" --placement "$(nth $i line spread line heads)" \
      --merge "$(nth $i $merges)" --out "$(nth $((i / 2)) home all)" \
      --set execution.home="$(nth $((i / 3)) first dealt)" --max-rows "$9"
  done
done

# the same bits on every rank (run says so itself), and in repeated runs
bits() {
  "$mpirun" "$ranks" "$banyan" run --heads 8 --kv-heads 2 --key-dim 64 --tokens 700 --samples 0 --out all \
    --threads 2 | grep "output bits.*on every rank"
}
first=$(bits)
[ -n "$first" ] && [ "$(bits)" = "$first" ] || fault "another run, other bits"
[ $faults = 0 ]
