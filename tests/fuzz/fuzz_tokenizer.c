/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json, and behind a 0 byte, where there is one, a text for it. */
#include "launch/text/text.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static const char sample[] =
    "Two words, 12345 numbers: \xc3\xa9t\xc3\xa9 <|left|> \xf0\x9f\x8c\xb3\n\n\tend";

static void decode(const tokenizer *t, const token_ids *ids)
{
    token_decoder d = {.t = t};
    text out = {0};
    for (int64_t i = 0; i < ids->count; i++) {
        FUZZ_CHECK(ids->id[i] < (uint32_t)tokenizer_ids(t));
        FUZZ_CHECK(decoder_add(&d, ids->id[i], &out));
    }
    FUZZ_CHECK(decoder_end(&d, &out));
    free(out.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[1024] = "";
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    const size_t json = zero ? (size_t)(zero - data) : size;
    const char *words = zero ? (const char *)zero + 1 : sample;
    const size_t bytes = zero ? size - json - 1 : sizeof sample - 1;
    fuzz_put("tokenizer.json", data, json);
    tokenizer *t = tokenizer_open(fuzz_folder(), why, sizeof why);
    FUZZ_CHECK(t || *why);
    if (!t) return 0;
    token_ids ids = {0};
    if (tokenizer_encode(t, words, bytes, true, &ids, why, sizeof why))
        decode(t, &ids);
    else
        FUZZ_CHECK(*why);
    free(ids.id);
    tokenizer_close(t);
    return 0;
}
