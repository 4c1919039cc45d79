#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# scale.sh BANYAN MPIRUN: every method, phase and mode of the scaling benchmark, tiny; what is counted is
# what it must be, results agree with the oracle (exit code 0), and bad input is refused in words.
banyan=$1 mpirun=$2
. "$(dirname "$0")/expect.sh"
cd "$folder" || exit 99
shape="--heads 8 --kv-heads 2 --key-dim 32 --threads 1"
quick="$shape --steps 5 --warmup 1 --machine machine.txtpb"
all="line,spread,dcp,tree-attention,ring,ring-q,heads"

lines() { grep -c "$1" "$folder/scale.json"; }
field() { sed -n "/\"method\":\"$1\".*\"ranks\":$2,/s/.*\"$3\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$folder/scale.json"; }
check() { [ "$1" = "$2" ] || fault "$3: got $1, expected $2"; }

# alone: all methods, and with one rank they are all the same computation
expect 0 "measured in" "$banyan" scale $quick --tokens 700 --method $all --json "$folder/scale.json"
check "$(lines '"measured":true')" 7 "cases of one rank"
for method in spread dcp tree-attention ring ring-q heads; do
  check "$(field $method 1 bits)" "$(field line 1 bits)" "bits of $method on one rank"
done
check "$(field line 1 speedup)" 1.0 "speed-up of one rank against itself"
grep -q 'inside_alpha' "$folder/machine.txtpb" && fault "one rank measured a link"

# a ring's plan is of one rank's tokens, and its rows are compared over all
expect 0 "" "$mpirun" 2 "$banyan" scale --heads 4 --kv-heads 2 --key-dim 32 --tokens 64k --steps 1 --warmup 1 \
  --method ring --ranks 2

# three ranks; figures are measured, kept, and used again
rm -f "$folder/machine.txtpb"
expect 0 "measured in" "$mpirun" 3 "$banyan" scale $quick --tokens 700,1500 --method $all --ranks 1,2,3 \
  --json "$folder/scale.json" --markdown "$folder/scale.md" --svg "$folder/scale.svg"
check "$(lines '"measured":true')" 42 "cases of three ranks"
for name in method phase mode ranks nodes tokens tokens_per_rank layers heads kv_heads key_dim value_dim \
  dtype pattern threads oversubscribed steps warmup median_seconds p95_seconds p99_seconds spread \
  compute_most_seconds compute_mean_seconds imbalance communication_seconds communication_share messages \
  bytes most_messages most_bytes predicted_seconds measured_over_predicted one_rank_seconds speedup \
  efficiency pairs kv_bytes kv_bytes_per_second share_of_read_bandwidth worst_error error_over_bound bits \
  same_bits plan kernel merge peak_bytes; do
  check "$(lines "\"$name\":[^n]")" 42 "lines with $name"
done
for name in inside_alpha inside_beta read_together 'together: 3' seconds_together pair; do
  grep -q "$name" "$folder/machine.txtpb" || fault "no $name in the machine's figures"
done
grep -q "^worth having: 2 ranks" "$folder/output" || fault "no advice"
# 8 heads x (32 + 2) floats and a header of 64 bytes; a tree on three ranks; ring: 11 or 12 blocks of 8 KiB in two heads
head -n 21 "$folder/scale.json" > "$folder/first" && mv "$folder/first" "$folder/scale.json"
check "$(field spread 2 bytes)" 1152 "bytes of spread on two ranks"
check "$(field spread 3 messages)" 2 "messages of spread on three ranks"
# every rank of three is a home (of 3, 2 and 3 heads); of two each sends the other 4 heads in one message
check "$(field dcp 3 messages)" 6 "messages of dcp on three ranks"
check "$(field dcp 2 bytes)" 1216 "bytes of dcp on two ranks"
check "$(field ring 3 messages)" 12 "messages of ring on three ranks"
check "$(field ring-q 3 bytes)" 2112 "bytes of ring-q on three ranks"
check "$(field heads 2 messages)" 0 "messages of whole heads"
check "$(field tree-attention 2 messages)" 6 "messages of three all-reduces on two ranks"
pipes=$(awk -F'|' '/^\|/ { print NF }' "$folder/scale.md" | sort -u)
check "$pipes" 19 "columns of the Markdown table"
check "$(grep -c '^|' "$folder/scale.md")" 44 "lines of the Markdown table"
if command -v gnuplot > /dev/null; then
  grep -q '</svg>' "$folder/scale.svg" || fault "no picture"
  for word in tree-attention ring-q ideal efficiency "1500 tokens"; do
    grep -q "$word" "$folder/scale.svg" || fault "no $word in the picture"
  done
fi

# fixed-point sums: one hash for any number of ranks, larger messages than partials
expect 0 "" "$mpirun" 3 "$banyan" scale $quick --tokens 1500 --method line,reproducible --ranks 1,2,3 \
  --json "$folder/scale.json"
check "$(lines '"method":"reproducible".*"measured":true')" 3 "reproducible cases"
check "$(field reproducible 2 bits)" "$(field reproducible 1 bits)" "bits of reproducible on two ranks"
check "$(field reproducible 3 bits)" "$(field reproducible 1 bits)" "bits of reproducible on three ranks"
[ "$(field line 3 bits)" != "$(field line 1 bits)" ] || fault "partials on 1 and 3 ranks: the hash is blind"
[ "$(field reproducible 3 bytes)" -gt "$(field line 3 bytes)" ] || fault "fixed-point sums are no larger"

# the same config, the same bits
bits() {
  timeout 60 "$mpirun" 3 "$banyan" scale $quick --tokens 700 --ranks 3 --method line,ring --merge direct \
    --seed "$1" --json "$folder/scale.json" > "$folder/output" 2>&1
  grep -q 'measured in' "$folder/output" && fault "measured although there was a file"
  sed 's/.*"bits":"\([^"]*\)".*/\1/' "$folder/scale.json"
}
[ "$(bits 3)" = "$(bits 3)" ] || fault "another run, other bits"
[ "$(bits 3)" != "$(bits 4)" ] || fault "another seed, the same bits"

# prefill, weak, patterns, formats, more ranks than blocks, several layers
prefill="--phase prefill --steps 1 --max-rows 100"
expect 0 "weak scaling, work per rank" "$mpirun" 4 "$banyan" scale $quick $prefill --mode weak-work \
  --tokens 333 --method line,spread,tree-attention,ring,heads --ranks 1,3,4 --json "$folder/scale.json"
check "$(field ring 4 tokens)" 666 "tokens of a prefill on four ranks"
check "$(lines '"measured":true')" 15 "cases of the prefill"
expect 0 "as many as 64 threads on" "$mpirun" 1 "$banyan" scale $quick --tokens 128 --threads 64 --method line
expect 0 "weak scaling, tokens per rank" "$mpirun" 4 "$banyan" scale $quick --mode weak --tokens 130 --layers 2 \
  --use "s2 stride=2 local=2" --dtype fp32 --ranks 4,1 --json "$folder/scale.json"
check "$(field line 4 tokens)" 520 "tokens of four ranks"
check "$(lines '"measured":true')" 8 "ring is left out where heads are sparse"
expect 0 "node sweep" "$mpirun" 4 "$banyan" scale $quick --mode nodes --per-node 3 --tokens 100 --method ring,line \
  --out all --json "$folder/scale.json"
check "$(field ring 3 nodes)" 1 "nodes of a node sweep"
expect 0 "n/a: needs" "$mpirun" 2 "$banyan" scale $quick --tokens 64k --method line --ranks 1,2 \
  --set execution.memory_limit=12000000 --json "$folder/scale.json"
check "$(lines '"measured":false')" 1 "cases that do not fit"

# plans by measured figures
expect 0 "worth having: 2 ranks" "$banyan" plan $(echo "--set shape.heads=8 --set shape.kv_heads=2 --set shape.key_dim=32") \
  --set cache.max_tokens=64k --ranks 4 --nodes 2 --machine "$folder/machine.txtpb"
expect 0 "predicted, decode at 4096 tokens: 1 rank" "$banyan" plan --set shape.heads=8 --set shape.key_dim=32 \
  --set cache.max_tokens=4k --ranks 3 --measure

# words
refuse() { code=$1 words=$2; shift 2; expect_once "$code" "$words" "$mpirun" 3 "$banyan" scale $shape "$@"; }
refuse 2 'no method "rink"; expected line, spread' --method rink
refuse 2 'did you mean "ring"?' --method rink
refuse 2 'scale.ranks 4: expected 1..3, the ranks of this job' --ranks 1,4
refuse 2 'scale.nodes 2: expected 1..1, the nodes of this job' --nodes 2
refuse 2 'scale.per_node 4: expected 1..3' --mode nodes --per-node 4
refuse 2 'give one of them' --mode nodes --ranks 2
refuse 2 'scale.mode "week": expected strong, weak, weak-work or nodes (did you mean "weak"?)' --mode week
refuse 2 'scale.phase "decoding": expected decode or prefill' --phase decoding
refuse 2 'expected phase prefill, or mode weak' --mode weak-work
refuse 2 'scale.tokens 0: expected 1..' --tokens 0
refuse 2 'expected 1 step and 1 to warm up or more' --steps 0
refuse 2 'method "ring-q" decodes only' --method ring-q --phase prefill
refuse 2 'method "ring" rotates dense heads only; rule[0] reads "s2' --method ring --use "s2 stride=2 local=2"
printf 'shape { heads: 4 }\n' > "$folder/none.txtpb"
refuse 2 'holds no machine { .. }' --machine "$folder/none.txtpb"
refuse 2 'did you mean "tree"' --tokens 64 --method line --merge tee --machine "$folder/machine.txtpb"
refuse 3 'cannot write "/nowhere/scale.json"' --tokens 64 --json /nowhere/scale.json \
  --machine "$folder/machine.txtpb"
[ $faults = 0 ]
