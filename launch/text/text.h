/* SPDX-License-Identifier: Apache-2.0 */
/* text.h - text to token ids and back, as a checkpoint's tokenizer.json says.
 *
 * Knows: Hugging Face `tokenizers` files of byte-level BPE and of BPE with byte fallback, and
 * the layouts in which chat models want a question.
 * Refuses to know: models, ranks, flags. What a file asks for and is not done here is an error
 * in words when it is opened; ids are equal to those of the `tokenizers` package, or there are
 * none.
 *
 * A tokenizer is for one thread at a time: it remembers how it cut the words that it met. */
#ifndef BANYAN_TEXT_H
#define BANYAN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tokenizer tokenizer;

/* A text that grows. Zeros are an empty one; data is for free(). */
typedef struct text {
    char *data;
    size_t bytes, room;
} text;
bool text_add(text *t, const char *data, size_t bytes); /* false: out of memory */

typedef struct token_ids {
    uint32_t *id; /* for free() */
    int64_t count, room;
} token_ids;
bool ids_add(token_ids *ids, uint32_t id); /* false: out of memory */

/* DIR/tokenizer.json. NULL: why, in words. */
tokenizer *tokenizer_open(const char *dir, char *why, size_t why_bytes);
void tokenizer_close(tokenizer *t);

/* Append the ids of a text. with_ends: also what the file's post-processor puts before and
 * behind it (bos). Added tokens are recognised where they stand in the text. false: why; it is
 * not UTF-8, or out of memory. */
bool tokenizer_encode(tokenizer *t, const char *data, size_t bytes, bool with_ends,
                      token_ids *ids, char *why, size_t why_bytes);

/* Ids are below this. */
int32_t tokenizer_ids(const tokenizer *t);
/* The id of an added token by its name ("<|im_end|>"); -1: there is none. */
int64_t tokenizer_added(const tokenizer *t, const char *name);

/* From ids to text, a token at a time. A character that tokens cut in two comes out when it is
 * whole; bytes that are none come out as U+FFFD, as many as `tokenizers` gives, but that of a
 * run of byte tokens (byte fallback) what was whole before the fault stands. */
typedef struct token_decoder {
    const tokenizer *t;
    bool has_begun; /* set it to go on in mid text: nothing is stripped from the first token */
    bool skips_special; /* special tokens give no text */
    char held[4];       /* of a character that is not whole yet */
    int held_bytes;
} token_decoder;
bool decoder_add(token_decoder *d, uint32_t id, text *out); /* false: out of memory */
bool decoder_end(token_decoder *d, text *out);

/* The bytes of the UTF-8 character at s (n > 0 bytes): 1 .. 4; 0: it is cut off by the end; -k:
 * k bytes are none (the longest beginning of a character that goes wrong). */
int utf8_next(const char *s, size_t n, uint32_t *code);

/* ---- layouts ----------------------------------------------------------------------------- */

/* One row of layouts.def. */
typedef struct chat_layout {
    const char *name, *end;                     /* the token that ends an answer */
    const char *begin, *system, *user, *answer; /* with %s, where it has one, for the words */
    const char *needs, *lacks; /* added tokens, parted by spaces: all of them, none of them */
    int coding;                /* 0 any, 1 byte-level, 2 byte fallback */
    int trims; /* white space goes: 0 nowhere, 1 around the question, 2 around all words */
} chat_layout;
/* The layout whose tokens this tokenizer has. NULL: why. */
const chat_layout *chat_choose(const tokenizer *t, char *why, size_t why_bytes);
/* One turn, up to where the answer begins: to be encoded without ends. system NULL: none.
 * false: out of memory. */
bool chat_write(const chat_layout *layout, const char *system, const char *user, text *out);
/* What stands before the words of a user's turn, and what behind them up to where the answer
 * begins. */
bool chat_frame(const chat_layout *layout, const char *system, text *before, text *after);
/* Append the ids of a question (`bytes` of it, and a 0 behind them) in the tokenizer's layout,
 * which is returned; NULL: why. */
const chat_layout *chat_encode(tokenizer *t, const char *system, const char *user, size_t bytes,
                               token_ids *ids, char *why, size_t why_bytes);

#endif
