#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# width.sh BANYAN CONFIGS MPIRUN: no verb prints a line of more than 120 characters, and with --wide the tables
# have the columns that were left out. Bars stand below bars, so that a cell has its own title above it.
banyan=$1 configs=$2 mpirun=$3
. "$(dirname "$0")/expect.sh"
cd "$folder" || exit 99

# fits COMMAND..: it runs, and all that it prints fits. wide WORDS COMMAND..: --wide adds this title, and length.
fits() {
  expect 0 "" "$@"
  long=$(awk 'length($0) > 120 { print length($0) ": " $0 }' "$folder/output")
  [ -z "$long" ] || { echo "$long" > "$folder/output"; fault "more than 120 characters from: $*"; }
  bars=$(awk 'function bars(s,  at, all, n) {
                while (n = index(s, " | ")) { at += n; all = all " " at; s = substr(s, n + 1) }
                return all
              }
              /^(method|row) / { title = bars($0); next }
              title && NF == 0 { title = "" }
              title && / \| / && bars($0) != title && !/^(prefill (vertical|flex)|decode (reprod|1000))/' "$folder/output")
  [ -z "$bars" ] || { echo "$bars" > "$folder/output"; fault "bars are not below bars in: $*"; }
}
wide() {
  words=$1
  shift
  grep -qF -e "$words" "$folder/output" && fault "\"$words\" without --wide from: $*"
  expect 0 "$words" "$@" --wide
  awk 'length($0) > 120 { long = 1 } END { exit !long }' "$folder/output" || fault "--wide is not wide: $*"
}

shape="--heads 8 --kv-heads 2 --key-dim 32 --threads 1"
for verb in $("$banyan" --help | sed -n '/^verbs:/,/^$/s/^  \([a-z0-9_]*\) .*/\1/p'); do fits "$banyan" "$verb" --help; done
fits "$banyan" list
fits "$banyan" list --fields

set -- "$mpirun" 3 "$banyan" scale $shape --steps 3 --warmup 1 --tokens 700,64k --machine machine.txtpb \
  --method line,spread,dcp,tree-attention,ring,ring-q,heads,reproducible
fits "$@"
wide "p95" "$@"
grep -q '^method *ranks nodes *tokens *a rank |  *median .* bits |  *MiB$' output || fault "scale --wide lacks columns"
fits "$mpirun" 2 "$banyan" scale $shape --tokens 64k --ranks 2,1 --method line --machine machine.txtpb \
  --set execution.memory_limit=12000000

set -- "$banyan" bench --quick --threads 1 --only "decode|vertical|flex"
fits "$@"
wide "MiB read" "$@"
fits "$mpirun" 2 "$banyan" bench --quick

for config in "$configs"/*.txtpb; do fits "$banyan" plan --config "$config" --ranks 64 --nodes 8; done
set -- --set shape.heads=8 --set shape.kv_heads=2 --set shape.key_dim=32 --set cache.max_tokens=64k
fits "$banyan" plan "$@" --ranks 64 --nodes 8 --machine machine.txtpb --disk 1GB/s --sequences 3
for use in "top blocks=64 by=minmax" "vertical_slash" "s2 stride=8 local=16"; do
  fits "$banyan" plan "$@" --ranks 7 --nodes 2 --use "$use" --placement heads
done

fits "$mpirun" 3 "$banyan" run $shape --tokens 500 --samples 3 --decode 2 --save saved
fits "$mpirun" 2 "$banyan" run $shape --tokens 500 --use "top blocks=4" --layers 2
fits "$banyan" snapshot saved --verify

fits "$banyan" model --out model --tokens 4k
lengths=600
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do lengths=$lengths,$((600 + 64 * n)); done
set -- "$mpirun" 2 "$banyan" needle --model model --lengths $lengths --depths 2 --task single,absent --colour never
fits "$@" --results one.jsonl
[ "$(grep -c '^   head' output)" = 2 ] || fault "17 lengths are not in two tables of heads"
expect 0 "" "$@" --results one.jsonl --wide
[ "$(grep -c '^   head' output)" = 1 ] || fault "17 lengths are not in one table of heads"

fits "$mpirun" 2 "$banyan" heads --model-dir heads --tokens 1k --depths 2 --repeat 20
set -- "$mpirun" 2 "$banyan" compare --model-dir heads --tokens 1k --depths 2 --use "s2 stride=8 local=2 per=query" \
  --use "0-3: dense; 4-: sink_window sink=1 window=2"
fits "$@"
wide "quartiles" "$@"
[ "$faults" = 0 ]
