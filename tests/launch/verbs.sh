#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# verbs.sh BANYAN CONFIGS: every verb of the base doing its work once, every config planned.
banyan=$1 configs=$2
. "$(dirname "$0")/expect.sh"

expect 0 "banyan 0." "$banyan" --version
expect 0 "verbs:" "$banyan" --help
for verb in $("$banyan" --help | sed -n '/^verbs:/,/^$/s/^  \([a-z0-9_]*\) .*/\1/p'); do
  expect 0 "usage: " "$banyan" "$verb" --help
  expect 0 "--config FILE" "$banyan" "$verb" -h
  expect 2 "no flag \"--zzzzzz\" in $verb;" "$banyan" "$verb" --zzzzzz # its .name
done
expect 0 "(run.tokens)" "$banyan" run --help

# list
for word in selectors: kernels: placements: merges: transports: verbs: s2 stride= scalar line direct self; do
  expect 0 "$word" "$banyan" list --json "$folder/list.json"
done
grep -q '{"table":"selectors","name":"dense",' "$folder/list.json" || fault "list --json lacks dense"
expect 0 "cache.dtype                 FP32, BF16, FP16" "$banyan" list --fields

# every config, on an uneven machine
for config in "$configs"/*.txtpb; do
  expect 0 "coverage" "$banyan" plan --config "$config" --ranks 7 --nodes 2 --json "$folder/plan.json"
  grep -q 'warning' "$folder/output" && fault "$config warns"
  [ "$(grep -c '"rank":6' "$folder/plan.json")" -ge 4 ] || fault "plan --json of $config"
  grep -q '"imbalance":1.0' "$folder/plan.json" || fault "no balanced length in $config"
done
expect 0 "ranks      11 on 2 nodes" "$banyan" plan --config "$configs/laptop.txtpb" --topology "node:2 rank:8,3"

# run: shapes, formats, any `at`, blocks that do not fit, fewer blocks than rows
checked() { expect 0 "6 rows checked" "$banyan" run --samples 6 --decode 2 --threads 1 "$@"; }
for dtype in fp32 bf16 fp16; do
  checked --heads 4 --kv-heads 4 --key-dim 64 --tokens 200 --dtype $dtype
  checked --heads 8 --kv-heads 2 --key-dim 128 --tokens 333 --dtype $dtype --at 77
done
checked --heads 8 --kv-heads 1 --key-dim 64 --tokens 150 --at 150 --rows 7
checked --heads 8 --kv-heads 4 --key-dim 32 --tokens 3000 --at 2500 --max-rows 99 --rows 3 --use "top blocks=5 by=minmax per=query"
checked --heads 4 --kv-heads 4 --key-dim 192 --value-dim 128 --tokens 100 --max-rows 33
checked --heads 4 --kv-heads 2 --key-dim 16 --tokens 1 --rows 300
checked --heads 8 --kv-heads 1 --key-dim 576 --value-dim 512 --value-in-key --tokens 200 --at 130 --rows 2
grep -q "key 576, value 512 in the key, bf16" "$folder/output" || fault "run does not say that values are in the keys"
checked --heads 4 --kv-heads 2 --key-dim 16 --tokens 0
checked --heads 4 --kv-heads 2 --key-dim 32 --tokens 3000 --max-rows 100 \
  --use "s2 stride=2 local=4" --set "rule[1].use=sink_window sink=4t window=100t" --set "rule[1].heads=2-3"
checked --config "$configs/laptop.txtpb" --tokens 1000 --json "$folder/run.json"
grep -q '"checked":6,"worst_error":' "$folder/run.json" || fault "run --json lacks the summary"
expect_no_file "$folder/run.json.partial"

# the same bits again, and others from another seed
bits() { "$banyan" run --heads 4 --kv-heads 2 --key-dim 32 --tokens 500 --seed "$1" | grep "output bits"; }
[ "$(bits 3)" = "$(bits 3)" ] || fault "another run, other bits"
[ "$(bits 3)" != "$(bits 4)" ] || fault "another seed, the same bits"

# bench: a table with every row, JSON lines with the same; decode steps take no memory but their blocks
expect 0 "decode 1000 steps" "$banyan" bench --quick --wide --json "$folder/bench.json"
for row in "decode dense bf16" "decode 8 rows bf16" "prefill s2 bf16" "prefill 192/128 bf16"; do
  grep -q "^$row .* math \|^$row .* memory " "$folder/output" || fault "bench lacks \"$row\""
  grep -q "\"row\":\"$row\",.*\"bound_by\":\"m.*\"fraction\":[0-9.e-]*,\"bar\":0" \
    "$folder/bench.json" || fault "bench --json lacks \"$row\""
done
grep -q 'x the time of its operations at the rate of "prefill dense bf16" (at most 1.15)' \
  "$folder/output" || fault "bench does not compare s2 with dense"
grep -q '^decode reproducible .* x as long .* (at most 1.10)' "$folder/output" ||
  fault "bench does not compare reproducible decode"
grep -q '"row":"decode reproducible",.*"ratio":[0-9.]*,"spread":0.0,.*"bar":1.1' "$folder/bench.json" ||
  fault "bench --json lacks reproducible decode"
for row in vertical_slash flex; do
  grep -q "\"row\":\"prefill $row\",.*\"choice_share\":[0-9.]*,\"kept_share\":[0-9.]*," "$folder/bench.json" ||
    fault "bench --json lacks a prefill of columns and diagonals: $row"
done
grep -q '"heap_growth":0.0' "$folder/bench.json" || fault "decode steps took memory from the heap"
grep -q "page ends), the heap by 0 bytes;" "$folder/output" || fault "decode steps took memory"
expect 0 "CPU seconds of each thread" "$banyan" bench --quick --cpu-time --threads 1 --only "decode s2"
[ "$(grep -c "^decode" "$folder/output")" = 1 ] || fault "--only or --threads let another row through"
[ $faults = 0 ]
