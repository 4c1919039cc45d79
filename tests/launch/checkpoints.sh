#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# checkpoints.sh BANYAN MPIRUN: broken checkpoints, through `generate` and `needle` on three ranks: one
# message that names the file and what is wrong with it, exit code 2, no results.
banyan=$1 mpirun=$2
. "$(dirname "$0")/expect.sh"
m=$folder/m data=$folder/m/model.safetensors
"$banyan" model --out "$m" --tokens 1k --heads 4 --kv-heads 2 --dtype bf16 || exit 1
printf '\0\0\0\0\5\0\0\0\7\0\0\0' > "$folder/ids"

# The checkpoint is large and changed in place: put TEXT OFFSET, and swap OLD NEW of equal length in
# its header (or with a third argument in config.json); `back` undoes the last.
put() { printf "$1" | dd of="$data" bs=1 seek="$2" conv=notrunc status=none; }
place_of() { head -c 8192 "$1" | LC_ALL=C grep -aboF -e "$2" | head -1 | cut -d: -f1; }
swap() {
  old=$1 new=$2 at=$(place_of "$data" "$1")
  [ -n "$at" ] && [ ${#old} = ${#new} ] || { echo "failed: cannot swap $1"; exit 1; }
  put "$new" "$at"
}
back() { put "$old" "$at"; }

refused() {
  expect_once 2 "$1" "$mpirun" 3 "$banyan" generate --model "$m" --ids "$folder/ids" --count 1
}
refused_by_both() {
  refused "$1"
  expect_once 2 "$1" "$mpirun" 3 "$banyan" needle --model "$m" --lengths 512 --depths 2 \
    --results "$folder/r.jsonl" --csv "$folder/r.csv" --json "$folder/r.json" --svg "$folder/r.svg"
  expect_no_file "$folder/r."
}

swap '[50331648,50333184]' '[50331640,50333176]'
refused_by_both "tensors 'model.embed_tokens.weight' and 'model.layers.0.input_layernorm.weight' overlap"
back
swap '[50331648,50333184]' '[50331656,50333192]'
refused "a hole of 8 bytes before tensor 'model.layers.0.input_layernorm.weight'"
back
swap '[0,50331648]' '[0,50331650]'
refused "has 50331650 bytes, but its shape and dtype BF16 need 50331648"
back
last=$(head -c 8192 "$data" | LC_ALL=C grep -ao ',1[0-9]*\]}' | tail -1)
swap "$last" ",999999999]}"
refused "999999999), out of range: the file has"
back
swap '"dtype":"BF16","shape":[32768,768]' '"dtype":"XF16","shape":[32768,768]'
refused_by_both "'model.embed_tokens.weight' has dtype XF16; BF16, F16 and F32 are read"
back
swap '"dtype":"BF16","shape":[32768,768]' '"dtype":"I16" ,"shape":[32768,768]'
refused "'model.embed_tokens.weight' has dtype I16; BF16, F16 and F32 are read"
back
swap 'model.layers.1.self_attn.k_proj.weight' 'model.layers.1.self_attn.x_proj.weight'
refused_by_both "model.layers.1.self_attn.k_proj.weight"
back
swap '"shape":[512,768]' '"shape":[768,512]'
refused "model.layers.0.self_attn.q_proj.weight"
back

header=$(od -An -tu8 -N8 "$data" | tr -d ' ')
length=$(od -An -to1 -N8 "$data" | sed 's/ /\\/g')
put '\377\377\377\377\377\377\377\377' 0
refused_by_both "says that its header has 18446744073709551615 bytes"
put '\0\0\0\5\0\0\0\0' 0
refused "header is no valid JSON"
put '\100\0\0\0\0\0\0\0' 0
refused "header is no valid JSON"
put '\0\0\0\0\0\0\0\0' 0
refused "header is no valid JSON"
put "$length" 0

# a NaN (bf16 7fc0) in the embedding, which ranks test in parts, and in the last rank's part of a matrix
embedding=$((8 + header))
for row in 3 32000; do
  put '\300\177' $((embedding + row * 1536 + 20))
  refused_by_both "tensor 'model.embed_tokens.weight' holds a NaN or an infinity at [$row, 10]"
  put '\200\277' $((embedding + row * 1536 + 20))
done
end=$(wc -c < "$data")
put '\300\177' $((end - 2))
refused "tensor 'lm_head.weight' holds a NaN or an infinity at [32767, 767]"
put '\0\0' $((end - 2))

# shapes in config.json that no file has, each said as such and not as a lack of memory
config() {
  cp "$m/config.json" "$folder/config"
  sed "$1" "$folder/config" > "$m/config.json"
  refused "$2"
  cp "$folder/config" "$m/config.json"
}
config 's/"hidden_size": 768/"hidden_size": 2147483647/' "model.embed_tokens.weight"
config 's/"intermediate_size": 16/"intermediate_size": 2147483647/' "mlp.gate_proj.weight"
config 's/"num_hidden_layers": 2/"num_hidden_layers": 3/' "model.layers.2."
config 's/"num_key_value_heads": 2/"num_key_value_heads": 3/' "4 with 3 num_key_value_heads"
config 's/"num_attention_heads": 4/"num_attention_heads": 0/' "num_attention_heads is 0"
config 's/"head_dim": 128/"head_dim": 577/' "head_dim is 577"
config 's/"vocab_size": 32768/"vocab_size": 32769/' "32769"
config 's/"silu"/"relu"/' "relu"
config 's/"num_hidden_layers": 2/"num_hidden_layers": 1/' "model.layers.1.input_layernorm.weight' is read by nobody"
config 's/{/[/' "config.json: line 2"

truncate -s $((end - 1)) "$data"
refused_by_both "truncated"
truncate -s 7 "$data"
refused "shorter than 8 bytes"
rm "$data"
refused_by_both "holds neither model.safetensors nor model.safetensors.index.json"
mkdir "$data"
refused "not a file"
rmdir "$data"
echo '{"weight_map":{"a":"b.safetensors"}}' > "$m/model.safetensors.index.json"
refused "b.safetensors: No such file or directory"
echo '{"weight_map":{"a":7}}' > "$m/model.safetensors.index.json"
refused "is no file name"
echo '{' > "$m/model.safetensors.index.json"
refused "index.json: line "
[ $faults = 0 ]
