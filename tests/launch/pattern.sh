#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# pattern.sh BANYAN MPIRUN: --pattern on the verbs that take it, alone and on 3 ranks. MPIRUN "": alone only.
banyan=$1
mpirun=${2:-}
. "$(dirname "$0")/expect.sh"
model="--heads 32 --kv-heads 8 --key-dim 128"
mkdir "$folder/duo"
duo=$folder/duo/full_attention_heads.tsv

# 32 layers of 8 KV heads, numbers in [0, 1) that differ
awk 'BEGIN { for (l = 0; l < 32; l++) for (h = 0; h < 8; h++)
  printf "%.18e%s", (l * 8 + h) * 89 % 257 / 257, h < 7 ? "\t" : "\n" }' > "$duo"
echo '{"sink_size": 64, "recent_size": 256, "threshold": 0.5, "sparsity": null}' > "$folder/duo/config.json"

# half of the KV heads of a million tokens: as good as half of the bytes
kept() { "$banyan" plan $model --max-tokens 1m "$@" | awk '/all ranks keep/ { print $5 }'; }
half=$(kept --pattern "$folder/duo" --sparsity 0.5)
all=$(kept --layers 32)
awk -v a="$all" -v h="$half" 'BEGIN { exit !(h > 0 && a / h >= 1.99) }' || {
  faults=$((faults + 1))
  echo "failed: DuoAttention at 50 % keeps $half blocks of $all"
}

# a file, and the rules that it becomes, are the same plan
expect 0 'use: "sink_window sink=64t window=256t"' \
  "$banyan" plan --pattern "$duo" --sparsity 0.5 $model --print-config
cp "$folder/output" "$folder/rules.txtpb"
hash() { "$banyan" plan $model --max-tokens 64k "$@" | awk 'NR == 1 { print $2 }'; }
one=$(hash --pattern "$duo" --sparsity 0.5) two=$(hash --layers 32 --config "$folder/rules.txtpb")
[ -n "$one" ] && [ "$one" = "$two" ] || { faults=$((faults + 1)); echo "failed: plans $one and $two"; }

# what is asked for by flags
expect 2 '--sparsity is of a pattern file: expected --pattern FILE' "$banyan" plan $model --sparsity 0.5
expect 2 '--pattern and --use: give one or the other' "$banyan" plan $model --pattern "$duo" --use dense
expect 2 'nowhere: No such file' "$banyan" plan $model --pattern "$folder/nowhere"
expect 2 '32 layers of 8 KV heads; the model has 32 of 4' \
  "$banyan" plan --heads 32 --kv-heads 4 --key-dim 64 --max-tokens 4k --pattern "$duo"
expect 2 'unknown selector "dens", did you mean "dense"?' \
  "$banyan" plan $model --max-tokens 4k --pattern "$duo" --rest dens

# MInference's file: a_shape until the prompt's end, dense after it
echo '[{"0": ["stream_llm", 20, 100, 1], "1": ["vertical_and_slash", 30, 800, 1]}]' > "$folder/m.json"
echo '{"alphas": [[-100, 0, 64, 128]], "betas": [[0.5, 0.25, 0.125, 0]]}' > "$folder/moa.json"
small="--heads 4 --kv-heads 2 --key-dim 32 --tokens 700 --decode 12 --samples 24 --max-rows 96"
expect 0 '1: vertical_slash columns=30 diagonals=800' \
  "$banyan" plan --pattern "$folder/m.json" --key-dim 32 --max-tokens 4k
expect 0 'lines      1 query heads choose columns and diagonals, in calls of at least 64 rows' \
  "$banyan" plan --pattern "$folder/m.json" --key-dim 32 --max-tokens 4k
expect 2 'selector "vertical_slash" needs it whole: expected a placement of whole heads' \
  "$banyan" plan --ranks 3 --placement spread --layers 1 --heads 2 --kv-heads 2 --key-dim 32 --max-tokens 64k \
  --pattern "$folder/m.json"
expect 0 '0: a_shape sink=20t window=100t prompt=4096' \
  "$banyan" plan --pattern "$folder/m.json" --key-dim 32 --max-tokens 4k
expect 0 '' "$banyan" run $small --pattern "$folder/m.json"
expect 0 '' "$banyan" run $small --pattern "$folder/moa.json"
expect 0 '' "$banyan" run $small --use "tri_shape sink=40t window=90t"
expect 0 '' "$banyan" scale --tokens 2k --phase prefill --steps 1 --warmup 1 --heads 4 --kv-heads 2 --key-dim 32 \
  --pattern "$folder/m.json"
echo '{"prefix_matching": {"0": [1]}, "copying": {}}' > "$folder/razor.json"
razor="--pattern $folder/razor.json --rest"
expect 2 'selector "razor" needs it whole: expected a placement of whole heads' \
  "$banyan" plan --ranks 3 --placement spread --layers 1 --heads 4 --kv-heads 2 --key-dim 32 --max-tokens 64k \
  $razor razor
device_says='selector "razor" and device "cuda": compensation tokens are made on the CPU only'
"$banyan" list | grep -q '^ *cuda .*not in this build' && device_says='device is "cuda", which is not in this build'
expect 2 "$device_says" \
  "$banyan" plan --device cuda --layers 1 --heads 4 --kv-heads 2 --key-dim 64 --max-tokens 64k $razor razor
expect 0 '' "$banyan" run $small --layers 1 $razor "razor sink=20t recent=80t part=0"
if [ -n "$mpirun" ]; then
  expect 0 '' "$mpirun" 3 "$banyan" run $small --layers 1 --placement heads $razor "razor sink=20t recent=80t part=0"
  expect 0 '' "$mpirun" 3 "$banyan" run $small --placement heads --pattern "$folder/m.json"
  expect 0 '' "$mpirun" 3 "$banyan" run $small --pattern "$folder/moa.json"
  echo '{"alphas": [[0, 0, 0, 0]], "betas": [[0, 0, 0]]}' > "$folder/moa.json"
  expect_once 2 'betas[0] has 3 heads; expected 4' "$mpirun" 3 "$banyan" run $small --pattern "$folder/moa.json"
fi
[ "$faults" = 0 ]
