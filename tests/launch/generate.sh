#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# generate.sh BANYAN TOKENIZERS [MPIRUN]: `model` and `generate` as a user starts them, and what they say to what
# cannot be. With MPIRUN on three ranks, where every error is said once.
banyan=$1 tokenizers=$2 mpirun=$3
. "$(dirname "$0")/expect.sh"
ranks() {
  if [ -n "$mpirun" ]; then "$mpirun" 3 "$banyan" "$@"; else "$banyan" "$@"; fi
}
timeout() { shift; "$@"; } # of expect, which cannot start a function; the test has a limit itself
le() { # little endian
  for n in "$@"; do
    printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $((n & 255)) $((n >> 8 & 255)) $((n >> 16 & 255)) \
      $((n >> 24)))"
  done
}
m=$folder/m ids=$folder/ids.u32

expect 2 "--out DIR is needed" "$banyan" model
expect 2 "at least 3 heads" "$banyan" model --out "$m" --heads 2 --kv-heads 1
expect 2 "8 heads and 3 KV heads" "$banyan" model --out "$m" --kv-heads 3
expect 2 "shards is 99; expected 1 .. 21" "$banyan" model --out "$m" --shards 99
expect 2 "67108864 tokens" "$banyan" model --out "$m" --tokens 64m
expect 2 "No such file or directory" "$banyan" model --out "$folder/no/where"
[ ! -e "$m" ] || fault "a refused model left files"
expect 3 "cannot write \"/dev/full\"" "$banyan" model --out "$folder/n" --json /dev/full
# A disk that is full: a small one of our own, where that is permitted.
mkdir "$folder/disk"
if mount -t tmpfs -o size=1m tmpfs "$folder/disk" 2> /dev/null; then
  for flags in "" "--shards 3"; do
    expect 3 "No space left" "$banyan" model --out "$folder/disk/m" --tokens 4k $flags
    expect_no_file "$folder/disk/m"
  done
  head -c 2000000 /dev/zero > "$folder/disk/fill" 2> /dev/null
  expect 3 "No space left" "$banyan" list --json "$folder/disk/list"
  expect_no_file "$folder/disk/list"
  umount "$folder/disk"
fi
expect 0 "" "$banyan" model --out "$m" --tokens 4k --heads 6 --kv-heads 3 --dtype fp16 --shards 2

# BOS, a needle (key 700 701 702, value 900 901 902 903), words, the question: answer and dot, then
# what follows the dot, which is asked for again.
le 0 0 0 0 500 8 700 701 702 9 900 901 902 903 10 600 601 602 1 700 701 702 9 > "$ids"
ranks generate --model "$m" --ids "$ids" --count 5 --logits "$folder/l" \
  --json "$folder/json" > "$folder/output" 2> "$folder/errors" ||
  fault "generate failed: $(cat "$folder/errors")"
[ "$(tr '\n' ' ' < "$folder/output")" = "900 901 902 903 10 " ] || fault "another answer"
[ "$(wc -c < "$folder/l")" = $((32768 * 4)) ] || fault "logits of another size"
[ "$(head -1 "$folder/json")" = '{"position":23,"id":900}' ] || fault "generate --json"
tail -1 "$folder/json" | grep -q '"prefill_tokens":23,.*"decode_tokens":4,"decode_seconds":[0-9]' ||
  fault "generate --json says nothing of time"
sed -i 's/"max_position_embeddings": 4096/"max_position_embeddings": 20/' "$m/config.json"
expect_once 0 "warning: 23 tokens, and the model was made for 20" \
  ranks generate --model "$m" --ids "$ids" --count 1
sed -i 's/"max_position_embeddings": 20/"max_position_embeddings": 4096/' "$m/config.json"
le 0 0 0 0 500 8 700 701 702 9 900 901 902 903 10 600 601 602 1 700 701 703 9 > "$ids"
expect_once 0 2 ranks generate --model "$m" --ids "$ids" --count 1


# The same as text: in this vocabulary (, ), ! and * are the ids of <K>, <V>, <Q> and of the dot, which the
# config says ends an answer. A value is a letter cut in two.
cp "$tokenizers/gpt2/tokenizer.json" "$m"
e='<|endoftext|>'
prompt="$e$e$e${e}a(QXZ)ñJK*bcd!QXZ)"
says() { # OUTPUT FLAGS..: what follows the prompt
  want=$1
  shift
  ranks generate --model "$m" "$@" > "$folder/output" 2>&1 || fault "generate $*"
  [ "$(cat "$folder/output")" = "$want" ] || fault "not \"$want\" from: $*"
}
says "ñJK" --prompt "$prompt"
says "ñJK*" --prompt "$prompt" --ignore-eos --count 5
says "ñ" --prompt "$prompt" --count 2
says "ñ" --prompt "$prompt" --stop "JK"
says "" --prompt "$prompt" --stop "ñ"
says "ñJK" --prompt "$prompt" --stop "JKL"
printf '%s' "$prompt" > "$folder/text"
says "ñJK" --prompt-file "$folder/text"
printf '%s' "$prompt" | ranks generate --model "$m" --prompt-file - > "$folder/output" 2>&1
[ "$(cat "$folder/output")" = "ñJK" ] || fault "--prompt-file -"
ids_of() { "$banyan" tokenize --model "$m" --file "$folder/text" "$@"; }
third=$(ranks generate --model "$m" --prompt "$prompt" --count 3 --json /dev/stdout 2> /dev/null |
  sed -n 's/.*"id":\([0-9]*\).*/\1/p' | sed -n 3p)
ids_of | ranks generate --model "$m" --ids - --count 9 > "$folder/output" 2>&1
[ "$(wc -l < "$folder/output")" = 5 ] || fault "ids beyond the end"
[ "$(tail -1 "$folder/output")" = 10 ] || fault "the end is not the dot"
echo '{"eos_token_id": ['"$third"', 7]}' > "$m/generation_config.json"
ids_of --u32 | ranks generate --model "$m" --ids /dev/stdin --count 9 > "$folder/output" 2>&1
[ "$(wc -l < "$folder/output")" = 3 ] || fault "the end of generation_config.json"
says "ñ" --prompt "$prompt"
echo '{"eos_token_id": "*"}' > "$m/generation_config.json"
expect_once 2 'generation_config.json: eos_token_id is "*"; expected a token id' \
  ranks generate --model "$m" --prompt "$prompt"
rm "$m/generation_config.json"
# A sharp model draws what it says at any moderate temperature; at a high one the seed decides.
says "ñJK" --prompt "$prompt" --temperature 0.01 --top-p 0.9 --top-k 50 --seed 3
for seed in 1 1 2; do
  ranks generate --model "$m" --ids "$ids" --count 4 --ignore-eos --temperature 1000 --seed $seed 2>&1
done > "$folder/output"
[ "$(sed -n 1,4p "$folder/output")" = "$(sed -n 5,8p "$folder/output")" ] || fault "one seed, other ids"
[ "$(sed -n 1,4p "$folder/output")" != "$(sed -n 9,12p "$folder/output")" ] || fault "another seed, same ids"

expect_once 2 "only one of --prompt TEXT" ranks generate --model "$m" --prompt a --ids "$ids"
expect_once 2 "one of --prompt TEXT" ranks generate --model "$m"
expect_once 2 "--stop is for text" ranks generate --model "$m" --ids "$ids" --stop x
expect_once 2 "--system: only with --chat" ranks generate --model "$m" --prompt a --system x
expect_once 2 "no known chat layout" ranks generate --model "$m" --prompt a --chat
expect_once 2 "--top-p: without --temperature" ranks generate --model "$m" --prompt a --top-p 0.5
expect_once 2 '--top-p "1.5": expected a number above 0, at most 1' \
  ranks generate --model "$m" --prompt a --temperature 1 --top-p 1.5
expect_once 2 '--temperature "nan": expected a number above 0' ranks generate --model "$m" --prompt a --temperature nan
expect_once 2 '--seed "-1": expected a number' ranks generate --model "$m" --prompt a --temperature 1 --seed -1
expect_once 2 "the prompt is empty" ranks generate --model "$m" --prompt ""
printf 'ab\377' > "$folder/text"
expect_once 2 "the prompt: byte 2, 0xFF, is not UTF-8" ranks generate --model "$m" --prompt-file "$folder/text"
mv "$m/tokenizer.json" "$m/tokenizer.model"
expect_once 2 "no tokenizer.json, only tokenizer.model; this makes one" ranks generate --model "$m" --prompt a
rm "$m/tokenizer.model"

expect_once 2 "--model DIR is needed" ranks generate --ids "$ids"
expect_once 2 "--ids FILE" ranks generate --model "$m"
expect_once 2 '--count "x": expected a number' ranks generate --model "$m" --ids "$ids" --count x
expect_once 2 "ids.u32: No such file" ranks generate --model "$m" --ids "$folder/no/ids.u32"
expect_once 2 "max_tokens 24" ranks generate --model "$m" --ids "$ids" --count 9 \
  --set cache.max_tokens=24
expect_once 2 "config.json" ranks generate --model "$folder/none" --ids "$ids"
for flag in --logits --json; do
  expect_once 3 'cannot write "/dev/full": No space left' \
    ranks generate --model "$m" --ids "$ids" $flag /dev/full --count 1
done
expect_once 2 "a chunk of 16777216 rows (max_rows): needs" sh "$limited" \
  ${mpirun:+"$mpirun" 3} "$banyan" generate --model "$m" --ids "$ids" --count 1 --set cache.max_rows=16m
expect_once 2 "expected all, as strict is set" ranks generate --model "$m" --ids "$ids" --count 1 --strict \
  --use "s2 stride=16 local=4 step=1"
expect_once 2 'did you mean "dense"' ranks generate --model "$m" --ids "$ids" --use dence
: > "$ids"
expect_once 2 "empty; expected at least one token id" ranks generate --model "$m" --ids "$ids"
le 0 5 > "$ids" && printf x >> "$ids"
expect_once 2 "1 bytes after the last id" ranks generate --model "$m" --ids "$ids"
le 0 5 40000 > "$ids"
expect_once 2 "id 40000 at position 2 is beyond the vocabulary of 32768" \
  ranks generate --model "$m" --ids "$ids"

le 0 5 > "$ids"
truncate -s 5000 "$m/model-00002-of-00002.safetensors"
expect_once 2 "model-00002-of-00002.safetensors" ranks generate --model "$m" --ids "$ids"
rm "$m/model-00002-of-00002.safetensors"
expect_once 2 "model-00002-of-00002.safetensors: No such file" ranks generate --model "$m" --ids "$ids"
sed -i 's/LlamaForCausalLM/GPTNeoXForCausalLM/' "$m/config.json"
expect_once 2 'architectures is ["GPTNeoXForCausalLM"]; expected LlamaForCausalLM' \
  ranks generate --model "$m" --ids "$ids"
[ $faults = 0 ]
