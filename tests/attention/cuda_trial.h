/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_trial.h - one random batch for the prefill kernels, and its run on the (emulated)
 * device. */
#ifndef BANYAN_CUDA_TRIAL_H
#define BANYAN_CUDA_TRIAL_H

#include "attention/attention.h"
#include "tests/test.h"

enum { MOST_BLOCKS = 40, MOST_HEADS = 16, MOST_STRIPS = 64, MOST_ROWS = 200, FILL = 0x5a };

/* What the data look like: normal; scores of +-200; all scores equal; some scores -inf; numbers
 * that fp32 cannot normalise; one key that is NaN; one value that is. */
enum { RANDOM, LARGE, EQUAL, NEGATIVE, TINY, NAN_KEY, NAN_VALUE, KINDS };

/* Of seeds from WIDE_SEEDS on: heads too wide for a warp. From SHORT_SEEDS on: lists that
 * Hopper's goes through in as many steps as its ring has stages, each of one subtile: the other
 * one skips all, and may be ahead. */
enum { HOPPER, PORTABLE, WIDE, WIDE_SEEDS = 1000, SHORT_SEEDS = 2000 };

/* How a strip sees a block: one more than banyan_span.masked; 0: not at all. */
typedef unsigned char trial_list[MOST_BLOCKS];

typedef struct trial {
    int64_t seed;
    banyan_block_shape shape;
    int kind, multiprocessors;
    int way;   /* which prefill */
    int block; /* tokens of one */
    int32_t dim, heads, kv_heads, group, rows, blocks;
    int64_t base, tokens; /* absolute token of the oracle's token 0; how many it knows */
    int wants_partial[MOST_HEADS];
    int has_lse;                       /* was it asked for? */
    int held[MOST_HEADS][MOST_BLOCKS]; /* of a KV head: does it hold this block? */
    trial_list list[MOST_STRIPS];
    banyan_strip strip[MOST_STRIPS];
    banyan_edge edge[MOST_STRIPS];
    banyan_span span[MOST_STRIPS * MOST_BLOCKS];
    banyan_batch_part part;
    banyan_batch batch;
    int64_t nan_token;
    float *q, *k, *v;         /* [rows][heads][dim], [tokens][kv_heads][dim] */
    float *k_scale, *v_scale; /* [tokens][kv_heads], of e4m3 */
    char *got_out;
    float *got_lse, *got_partial; /* [heads][rows][dim + 2] */
} trial;

void trial_draw(trial *t, int seed, uint64_t *random);
/* Returns how many lists were cut. */
int trial_run(trial *t);
void trial_free(trial *t);
/* Does the row of a head read a token? Both relative to base. An oracle_reads_fn. */
int trial_reads(void *t, int head, int64_t row, int64_t token);
/* Through a mask it may not look through: what attention/device.h says of values that are
 * NaN. */
int trial_may_leak(const trial *t, int head, int64_t row);

#endif
