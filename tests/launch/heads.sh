#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# heads.sh BANYAN MPIRUN: which heads copy an answer out of a needle, by what they look at; on 1, 3 and 7 ranks the
# same, and the files that are written are the ones that --pattern reads.
banyan=$1
mpirun=$2
. "$(dirname "$0")/expect.sh"
cd "$folder" || exit 1
check() { # WHAT HAVE EXPECTED
  [ "$2" = "$3" ] || { faults=$((faults + 1)); echo "failed: $1 is $2, expected $3"; }
}
# Layer 1 has heads that find needles, and two that see too little: the second group's.
blind='--set rule[0].layers=1 --set rule[0].heads=4-7'
for ranks in 1 3 7; do
  mkdir $ranks
  expect 0 '4 of 4 needles were answered' "$mpirun" $ranks "$banyan" heads --tokens 1k --depths 4 --repeat 150 \
    --model-dir model $blind --set "rule[0].use=sink_window sink=1 window=2" --json $ranks/all.jsonl \
    --duo $ranks/full_attention_heads.tsv --scores $ranks/scores.json --razor $ranks/razor.json
  for file in full_attention_heads.tsv scores.json razor.json; do
    cmp -s 1/$file $ranks/$file || { faults=$((faults + 1)); echo "failed: $file on $ranks ranks is another"; }
  done
done
score() { sed -n "$(($1 * 8 + $2 + 1))p" 1/all.jsonl | sed "s/.*\"$3\":\([^,}]*\).*/\1/"; }
for head in 0 1 2 3; do # all of a needle, and the tokens that followed the earlier copies
  check "retrieval of head $head" "$(score 1 $head retrieval)" 1.0
  check "induction of head $head" "$(printf %.2f "$(score 1 $head induction)")" 1.00
  check "echo of head $head" "$(printf %.2f "$(score 1 $head echo)")" 0.00
done
for head in 4 7; do # copies are 150 tokens apart: a window of 2 blocks has none
  awk -v r="$(score 1 $head retrieval)" -v i="$(score 1 $head induction)" 'BEGIN { exit !(r < 0.6 && i < 0.1) }' || {
    faults=$((faults + 1))
    echo "failed: head $head scores $(score 1 $head retrieval) and $(score 1 $head induction)"
  }
done
# layer 0 copies the token before, whatever it is; it looks at its window alone
check "retrieval of layer 0" "$(score 0 0 retrieval)" 0.0
check "window of layer 0" "$(score 0 0 window)" 1.0
check "list of induction heads" "$(cat 1/razor.json)" '{"prefix_matching": {"1": [0]}, "copying": {"0": [0]}}'

# read again: the heads that found needles are dense, of KV heads one of four
expect 0 'layers: "0-1" heads: "0-3" use: "dense"' "$banyan" plan --pattern 1/razor.json --layers 2 --heads 8 \
  --kv-heads 2 --key-dim 128 --print-config
for file in full_attention_heads.tsv scores.json; do
  expect 0 'layers: "1" heads: "0-3" use: "dense"' "$banyan" plan --pattern 1/$file --sparsity 0.8 --layers 2 --heads 8 --kv-heads 2 \
    --key-dim 128 --print-config
done
# nothing but the needle is there without random tokens; and what is wrong is said
expect 0 '0.000' "$mpirun" 2 "$banyan" heads --tokens 1k --depths 2 --repeat 0 --model-dir model --top 3
grep -q '.. 13 more' output || { faults=$((faults + 1)); echo "failed: a table of 3"; }
expect 2 '--repeat "x": expected 0..' "$mpirun" 2 "$banyan" heads --repeat x --model-dir model
expect 2 'expected one' "$mpirun" 2 "$banyan" heads --tokens 1k,2k --model-dir model
expect 3 'nowhere/heads.tsv' "$mpirun" 2 "$banyan" heads --duo nowhere/heads.tsv --model-dir model
[ "$faults" = 0 ]
