#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compare.sh BANYAN MPIRUN: patterns side by side, on 1, 2, 3 and 7 ranks: the same needles are found and the
# same bytes kept, as many as the plan says; a pattern of a file, and a checkpoint that is not the constructed one.
banyan=$1
mpirun=$2
. "$(dirname "$0")/expect.sh"
model=$folder/model
awk 'BEGIN { for (l = 0; l < 6; l++) print "1.0\t0.2\t0.9\t0.1" }' > "$folder/heads.tsv"
set -- --tokens 1k --depths 2 --model-dir "$model" --use "0-3: dense; 4-: sink_window sink=1 window=2" \
  --use "s2 stride=8 local=2 per=query" --use "sink_window sink=1 window=2" --use "a_shape sink=1 window=2" \
  --use "tri_shape sink=1 window=2" --use "top blocks=4" --use "top by=minmax blocks=4" \
  --use "tidal first=1 again=0 tokens=20" \
  --pattern "$folder/heads.tsv" --sparsity 0.5 --rest "sink_window sink=1 window=2"
field() { sed -n "$2p" "$folder/$1.jsonl" | sed "s/.*\"$3\":\(\[[^]]*\]\|[^,}]*\).*/\1/"; }
same() { # WHAT HAVE EXPECTED
  [ "$2" = "$3" ] || { faults=$((faults + 1)); echo "failed: $1 is $2, expected $3"; }
}
for ranks in 1 2 3 7; do
  expect 0 'sink=1 window=2' "$mpirun" $ranks "$banyan" compare "$@" --json "$folder/$ranks.jsonl"
  grep -qE ' NO$' "$folder/output" && { faults=$((faults + 1)); echo "failed: a row is not as predicted"; }
  same "rows on $ranks" "$(wc -l < "$folder/$ranks.jsonl")" 10
  same "rows that are as predicted on $ranks" "$(grep -c '"unequal":0' "$folder/$ranks.jsonl")" 10
  for row in 1 2 3 4 5 6 7 8 9 10; do
    same "kept by $row" "$(field $ranks $row kept_bytes)" "$(field $ranks $row planned_bytes)"
    for what in kept_bytes single multikey absent; do
      same "$what of $row on $ranks ranks" "$(field $ranks $row $what)" "$(field 1 $row $what)"
    done
  done
done
# what the definitions say: a window sees what lies in it, half dense heads see all, as do the last rows of tri_shape
same "needles of dense" "$(field 1 1 single)$(field 1 1 multikey)$(field 1 1 absent)" '[2,2][2,2][2,2]'
same "needles of half" "$(field 1 2 single)$(field 1 2 multikey)" '[2,2][2,2]'
same "needles of a window" "$(field 1 4 single)$(field 1 4 multikey)$(field 1 4 absent)" '[1,2][1,2][2,2]' # one lies in it
same "needles of tri_shape" "$(field 1 6 single)$(field 1 6 error)" '[2,2]0.0'
same "needles of the file" "$(field 1 10 single)" '[2,2]'
awk -v e="$(field 1 4 error)" -v h="$(field 1 2 error)" 'BEGIN { exit !(e > 0.6 && h > 0.4 && h < e) }' || {
  faults=$((faults + 1))
  echo "failed: errors $(field 1 4 error) and $(field 1 2 error)"
}

# the picture: a line of three bars for each pattern, the best on top
expect 0 'sink=1 window=2' "$mpirun" 1 "$banyan" compare --tokens 1k --depths 2 --model-dir "$model" --svg "$folder/c.svg" \
  --use "sink_window sink=1 window=2" --use "0-3: dense; 4-: sink_window sink=1 window=2"
if command -v gnuplot > /dev/null; then
  same "names in the picture" "$(grep -o '>0-3: dense; 4-: sink_wi\|>dense\|>sink_window sink=1 wind' "$folder/c.svg" | tr '\n' ' ')" \
    '>0-3: dense; 4-: sink_wi >dense >sink_window sink=1 wind '
  same "shares in the picture" "$(grep -c '>[0-9.]* %<' "$folder/c.svg")" 9
fi

# a checkpoint that says nothing of being constructed, with ids of one's own
mkdir "$folder/own"
ln -s "$model"/*.safetensors "$folder/own/"
sed 's/"banyan_constructed"/"something_else"/' "$model/config.json" > "$folder/own/config.json"
cd "$folder" || exit 1
echo 0 0 0 0 > prefix
awk 'BEGIN { for (i = 0; i < 777; i++) print 1000 + (i * 7919) % 20000 }' > hay
echo 8 30001 30002 30003 9 31001 31002 31003 31004 10 > needle
echo 1 30001 30002 30003 9 > question
echo 31001 31002 31003 31004 10 > answer
set -- --model own --ids --prefix prefix --haystack hay --needle needle --question question --tokens 1k --depths 2
expect 0 "the model's own" "$mpirun" 3 "$banyan" compare "$@" --answer answer --json own.jsonl \
  --use "sink_window sink=1 window=2" --use "0-3: dense; 4-: sink_window sink=1 window=2" 
same "a checkpoint's needles" "$(field own 1 single)$(field own 2 single)$(field own 3 single)" '[2,2][1,2][2,2]'
same "a checkpoint's bytes" "$(field own 2 kept_bytes)" "$(field own 2 planned_bytes)"

expect 2 'unknown selector "dens"' "$mpirun" 2 "$banyan" compare --tokens 1k --model-dir "$model" --use dens
expect 2 'nowhere.tsv: No such file' "$mpirun" 2 "$banyan" compare --tokens 1k --model-dir "$model" --pattern nowhere.tsv
expect 2 'expected one' "$mpirun" 2 "$banyan" compare --tokens 1k,2k --model-dir "$model"
expect 2 'finds needles in layer 2 of 6; expected the last layer' "$mpirun" 2 "$banyan" needle --model "$model"
expect 2 'the config has rules' "$mpirun" 2 "$banyan" compare --set rule[0].use=dense
[ "$faults" = 0 ]
