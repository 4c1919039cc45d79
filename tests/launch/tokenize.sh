#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tokenize.sh BANYAN TOKENIZERS: `tokenize` as a user starts it, in all formats of ids, and what it says to
# what is neither text nor ids.
banyan=$1 tokenizers=$2
. "$(dirname "$0")/expect.sh"
m=$tokenizers/llama3
printf 'Hello, na\303\257ve world \360\237\230\200\n' > "$folder/text"
"$banyan" tokenize --model "$m" < "$folder/text" > "$folder/ids" || fault "tokenize"
"$banyan" tokenize --model "$m" --file "$folder/text" --u32 > "$folder/ids.u32" || fault "tokenize --u32"
[ "$(wc -c < "$folder/ids.u32")" = $((4 * $(wc -l < "$folder/ids"))) ] || fault "--u32: another count"
tr '\n' ',' < "$folder/ids" | sed 's/.*/[&]/' > "$folder/list"
for form in ids ids.u32 list; do
  "$banyan" tokenize --model "$m" --decode < "$folder/$form" | cmp - "$folder/text" || fault "--decode of $form"
done
"$banyan" tokenize --model "$m" --ends < "$folder/text" | tail -n +2 | cmp - "$folder/ids" || fault "--ends: no bos"
[ "$("$banyan" tokenize --model "$m" --file /dev/null | wc -c)" = 0 ] || fault "ids of nothing"


# A chat's layout, by the tokens that the vocabulary has.
mkdir "$folder/chat"
sed 's/"added_tokens": *\[/&{"id":900,"content":"<|im_start|>","special":true},{"id":901,"content":"<|im_end|>","special":true},/' \
  "$tokenizers/gpt2/tokenizer.json" > "$folder/chat/tokenizer.json"
laid() { "$banyan" tokenize --model "$folder/chat" --chat "$@" < "$folder/text" | "$banyan" tokenize --model "$folder/chat" --decode; }
printf '<|im_start|>user\n%s\n<|im_end|>\n<|im_start|>assistant\n' "$(cat "$folder/text")" > "$folder/plain"
{ printf '<|im_start|>system\nBe brief.<|im_end|>\n'; cat "$folder/plain"; } > "$folder/brief"
laid | cmp - "$folder/plain" || fault "tokenize --chat"
laid --system "Be brief." | cmp - "$folder/brief" || fault "tokenize --chat --system"
expect 2 "--system: only with --chat" "$banyan" tokenize --model "$m" --system x
expect 2 "no known chat layout" "$banyan" tokenize --model "$tokenizers/gpt2" --chat --file "$folder/text"

expect 2 "--model DIR is needed" "$banyan" tokenize
expect 2 "no/tokenizer.json: No such file" "$banyan" tokenize --model "$folder/no"
expect 2 "$folder/none: No such file" "$banyan" tokenize --model "$m" --file "$folder/none"
printf 'ab\377' > "$folder/bad"
expect 2 "byte 2, 0xFF, is not UTF-8" "$banyan" tokenize --model "$m" --file "$folder/bad"
expect 2 "3 bytes after the last id" "$banyan" tokenize --model "$m" --decode --file "$folder/bad"
echo "1 2 99999" > "$folder/far"
expect 2 "id 99999 at position 2 is beyond the vocabulary of" "$banyan" tokenize --model "$m" --decode --file "$folder/far"
echo "1 99999999999999999999999" > "$folder/far"
expect 2 "id 99999999999999999999999 at position 1 is beyond 32 bits" "$banyan" tokenize --model "$m" --decode \
  --file "$folder/far"
printf '\005\0\0\0\0\0\0\0\006\0\0\0\0\0\0\0' > "$folder/wide"
expect 2 "2 ids of 8 bytes; expected 4 bytes each" "$banyan" tokenize --model "$m" --decode --file "$folder/wide"
printf '\223NUMPY\001\000' > "$folder/ids.npy"
expect 2 "a NumPy file" "$banyan" tokenize --model "$m" --decode --file "$folder/ids.npy"
: > "$folder/empty"
expect 2 "empty; expected at least one token id" "$banyan" tokenize --model "$m" --decode --file "$folder/empty"
echo " , " > "$folder/empty"
expect 2 "no token id in it" "$banyan" tokenize --model "$m" --decode --file "$folder/empty"
"$banyan" tokenize --model "$m" < "$folder/text" > /dev/full 2> /dev/null && fault "a full disk"
[ $faults = 0 ]
