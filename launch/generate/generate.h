/* SPDX-License-Identifier: Apache-2.0 */
/* generate.h - one continuation: what the prompt is, how the next id is chosen, where it ends,
 * what is printed.
 *
 * Knows: the job and its flags, text.h. Refuses to know: how logits come about (model.h),
 * ranks: all of this is rank 0's; the others are told the prompt and each id. */
#ifndef BANYAN_GENERATE_H
#define BANYAN_GENERATE_H

#include "launch/launch.h"
#include "launch/text/text.h"

/* How the next id is drawn from the logits. */
typedef struct sampling {
    double temperature; /* 0: nothing is drawn, the largest logit is taken */
    double top_p;       /* of the most probable ids, as few as have this mass; 1: all */
    int64_t top_k;      /* of the most probable ids, so many; 0: all */
    uint64_t seed;
} sampling;

typedef struct prompt_wish {
    const char *model;                      /* folder */
    const char *ids, *prompt, *prompt_file; /* one of them */
    const char *system, *stop;              /* NULL: none */
    bool chat, ignores_eos;
    const char *save, *load; /* folders of snapshots; NULL: none */
    int64_t count;           /* to generate */
    sampling sampling;
} prompt_wish;

/* What the flags say. false: reported, on every rank. */
bool wish_read(const job *j, prompt_wish *w);

typedef struct continuation {
    uint32_t *ids; /* the prompt, and room for wish->count more; for free() */
    int64_t prompt;
    uint64_t digest; /* of the model whose snapshot it goes on from */
    uint32_t *ends;  /* ids that end it; for free() */
    int64_t end_count;
    tokenizer *tokenizer; /* NULL: ids in, ids out */
    token_decoder decoder;
    text held; /* text that may become the stop text */
    const char *stop;
} continuation;

/* Rank 0: reads the prompt, the tokenizer where it is text, and the model's ends. false:
 * why. */
bool continuation_begin(const prompt_wish *w, continuation *c, char *why, size_t why_bytes);
void continuation_free(continuation *c);
/* The next id, printed on stdout: as text, as far as its characters are whole, or as a number.
 * *ends: it was the last. false: out of memory. */
bool continuation_add(continuation *c, uint32_t id, bool *ends);
/* What is left of the text, and a line end. */
bool continuation_end(continuation *c);

/* ends.c: eos_token_id, a number or a list, of generation_config.json, else of config.json. */
bool ends_read(const char *dir, uint32_t **ends, int64_t *count, char *why, size_t why_bytes);

/* sample.c: an id drawn from `logits` [vocab], none of them NaN, at token `position`: the same
 * for the same logits, seed and position. work [vocab]. */
typedef struct scored {
    float logit;
    uint32_t id;
} scored;
uint32_t sample(const sampling *s, const float *logits, int32_t vocab, int64_t position,
                scored *work);

#endif
