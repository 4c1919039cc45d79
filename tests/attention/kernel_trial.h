/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_trial.h - one random case for a kernel: shape, format, which blocks which heads see
 * and through which edges, the clip, the data, and records packed the way a cache does. */
#ifndef BANYAN_KERNEL_TRIAL_H
#define BANYAN_KERNEL_TRIAL_H

#include "attention/attention.h"
#include "tests/test.h"

enum { MAX_BLOCKS = 6, MAX_EDGES = 3, MAX_ENTRIES = 2 * MAX_BLOCKS, GUARD = 64 };

/* What the data look like. */
enum { RANDOM, LARGE, ALIKE, RISING, NEGATIVE, ONE_NAN, KINDS };

typedef struct trial {
    uint64_t seed;
    const banyan_kernel *kernel;
    banyan_block_shape shape;
    banyan_dtype in_dtype;
    int kind;
    int32_t heads, rows, blocks;
    int32_t unit;       /* query heads that a bit of an entry stands for */
    int64_t base;       /* absolute token of the oracle's token 0 */
    int64_t at, tokens; /* relative to base; tokens that the oracle knows */
    banyan_entry entry[MAX_ENTRIES];
    int64_t entries;
    banyan_edge edge[MAX_EDGES];
    int64_t first_token, end_token; /* absolute */
    float *q, *k, *v;               /* [heads][rows][key_dim], [tokens][..] */
    void *record[MAX_BLOCKS];
    float scale;
} trial;

/* Draws everything from t->seed, for t->kernel. 0 when the kernel does not support the
 * shape. */
int trial_draw(trial *t, uint64_t *random);
void trial_free(trial *t);
/* Packs all blocks, and rounds k and v to what the records then hold. 0 when the kernel wrote
 * past a record's end. */
int trial_pack(trial *t, uint64_t *random);
/* Attends to `entries` of the list from `first` on, into sums, or else (NULL) into a partial.
 * The workspace is garbage, and what is behind it must stay as it is. */
void trial_attend(const trial *t, int64_t first, int64_t entries, void *sums, float *partial,
                  uint64_t *random);

/* A row of a head beside the oracle's. */
typedef struct trial_verdict {
    double error;                  /* shares of the bound: at most 1 if all is right */
    int64_t tokens;                /* that it reads */
    float out, lse;                /* out: the first number .. */
    double expect_out, expect_lse; /* .. and what it should be */
} trial_verdict;
trial_verdict trial_compare(trial *t, int32_t head, int32_t row, const float *partial);

void *take(size_t bytes); /* 64-byte aligned */
void fill_garbage(void *memory, size_t bytes, uint64_t *random);

#endif
