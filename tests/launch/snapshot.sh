#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# snapshot.sh BANYAN MPIRUN [LENGTH EVERY]: snapshots as a user makes them: run, generate and needle, on some
# ranks and gone on with on others; needle also when a rank is killed at 60 % of a haystack of LENGTH tokens
# (default 16k), of which there is a snapshot every EVERY (2k).
banyan=$1 mpirun=$2 length=${3:-16384} every=${4:-2048}
. "$(dirname "$0")/expect.sh"
timeout() { shift; "$@"; } # of expect, which cannot start a function; the test has a limit itself
ranks() { n=$1; shift; "$mpirun" "$n" "$banyan" "$@"; }
s=$folder/s

# ---- run ---------------------------------------------------------------------------------------
shape="--heads 6 --kv-heads 3 --key-dim 32 --decode 2 --samples 6"
rule="s2 stride=4 local=4"
expect 0 "" ranks 1 run --tokens 700 $shape --use "$rule" --save "$s"
expect 0 "sequence 0: 702 tokens" "$banyan" snapshot "$s"
expect 0 "heads 0-5: s2 stride=4 local=4" "$banyan" snapshot --verify "$s"
grep -q "all checksums are right: " "$folder/output" || fault "not verified"
expect 0 "snapshot         702 tokens" ranks 3 run --tokens 1000 $shape --use "$rule" --load "$s" --save "$s"
expect 0 "snapshot         1002 tokens" ranks 2 run --tokens 1100 $shape --use "$rule" --load "$s"
expect_once 2 "of seed 1, not 2" ranks 2 run --tokens 1100 $shape --use "$rule" --load "$s" --seed 2
expect_once 2 "has 1002 tokens; expected at most 900" ranks 2 run --tokens 900 $shape --load "$s"
expect_once 2 "it was let go there (rule \"$rule\"), and \"dense\" keeps it" \
  ranks 2 run --tokens 1100 $shape --load "$s"
expect_once 2 "kv_heads is 6: the snapshot in" ranks 2 run --tokens 1100 $shape --kv-heads 6 --use "$rule" --load "$s"
expect_once 3 "No such file or directory" ranks 2 run --tokens 1100 $shape --load "$folder/none"
expect_once 3 "cannot be made: No such file or directory" ranks 2 run --tokens 99 $shape --save "$folder/no/where"
: > "$folder/file"
expect 3 "" ranks 2 run --tokens 99 $shape --save "$folder/file"
expect 2 "the folder is needed" "$banyan" snapshot
expect 3 "No such file or directory" "$banyan" snapshot "$folder/none"

# ---- plan --------------------------------------------------------------------------------------
# 8 KV heads, 2 x 128 numbers of 2 bytes, 32 layers: 128 KiB a token.
expect 0 "a snapshot of 1048576 tokens takes 128.00 GiB, a rank up to 16.00 GiB: 137.4 s at 1.00 GB/s" \
  "$banyan" plan --ranks 8 --layers 32 --heads 32 --kv-heads 8 --key-dim 128 --max-tokens 1m --disk 1GB/s
expect 2 "expected a rate" "$banyan" plan --heads 1 --key-dim 8 --max-tokens 1k --disk fast

# ---- generate ----------------------------------------------------------------------------------
m=$folder/m
expect 0 "" "$banyan" model --out "$m" --tokens 4k --heads 6 --kv-heads 3
echo 0 0 0 0 500 8 700 701 702 9 900 901 902 903 10 600 601 602 | tr ' ' '\n' > "$folder/read"
echo 1 700 701 702 9 | tr ' ' '\n' > "$folder/asked"
says() { # IDS RANKS FLAGS..
  want=$1
  shift
  ranks "$@" > "$folder/output" 2> "$folder/errors" || fault "$(cat "$folder/errors"): $*"
  [ "$(tr '\n' ' ' < "$folder/output")" = "$want" ] || fault "not \"$want\" from: $*"
}
says "" 2 generate --model "$m" --ids "$folder/read" --count 0 --save "$s"
expect 0 "after 18 token ids" "$banyan" snapshot "$s"
says "900 901 902 903 10 " 3 generate --model "$m" --load "$s" --ids "$folder/asked" --count 5
says "900 901 " 1 generate --model "$m" --load "$s" --ids "$folder/asked" --count 2 --save "$folder/s2"
says "902 903 10 " 3 generate --model "$m" --load "$folder/s2" --count 3
expect_once 2 "has read all of its 18 ids: expected a prompt" ranks 2 generate --model "$m" --load "$s"
expect 0 "" "$banyan" model --out "$folder/m2" --tokens 8k --heads 6 --kv-heads 3
expect_once 2 "is of another model" ranks 2 generate --model "$folder/m2" --load "$s" --ids "$folder/asked"

# ---- needle ------------------------------------------------------------------------------------
needle() { # RANKS RESULTS FLAGS..
  n=$1 results=$2
  shift 2
  ranks "$n" needle --lengths "$length" --depths 4 --results "$folder/$results" --model-dir "$folder/nm" \
    --context "sink_window sink=1 window=3" --retrieval "0-3: dense; 4-7: s2 stride=4" "$@"
}
# cell, what came of it, and what each head saw
cells() {
  grep -o '"cell":"[^"]*"\|"outcome":"[^"]*"\|"got":\[[^]]*\]\|"saw":\[[^]]*\]\|"equal":[a-z]*' "$folder/$1"
}
tokens() { "$banyan" snapshot "$1" 2> /dev/null | sed -n 's/.*sequence 0: \([0-9]*\) tokens.*/\1/p'; }
needle 4 whole > "$folder/output" 2>&1 || fault "needle"
# Each rank says which process it is.
mkdir "$folder/pid"
"$mpirun" 4 sh -c "echo \$\$ > $folder/pid/$rank; exec \"\$0\" \"\$@\"" "$banyan" needle --lengths "$length" \
  --depths 4 --results "$folder/broken" --model-dir "$folder/nm" --context "sink_window sink=1 window=3" \
  --retrieval "0-3: dense; 4-7: s2 stride=4" --checkpoint "$folder/c" --every "$every" \
  > "$folder/output" 2>&1 &
job=$!
until at=$(tokens "$folder/c"); [ "${at:-0}" -ge $((length * 6 / 10)) ]; do
  kill -0 $job 2> /dev/null || break
  sleep 0.1
done
kill -KILL "$(cat "$folder/pid/2")" && ! wait $job || fault "needle was not ended in the middle"
[ ! -s "$folder/broken" ] || fault "needle had cells when it was ended"
needle 3 broken --checkpoint "$folder/c" --every "$every" > "$folder/output" 2>&1 || fault "needle goes on"
from=$(sed -n 's/banyan: goes on at token \([0-9]*\) of .*/\1/p' "$folder/output")
[ "${from:-0}" -ge "$at" ] || fault "went on at ${from:-the beginning}, there was a snapshot of $at tokens"
[ "$(cells whole)" = "$(cells broken)" ] || { cells broken > "$folder/output"; fault "other cells"; }
[ "$(grep -c '"equal":true' "$folder/broken")" = 8 ] || fault "not 8 cells as predicted"
# It is of this prompt alone.
length=1024
needle 3 other --seed 2 --checkpoint "$folder/c" --every "$every" > "$folder/output" 2>&1 || fault "another seed"
grep -q "goes on at" "$folder/output" && fault "went on from another prompt"
[ $faults = 0 ]
