/* SPDX-License-Identifier: Apache-2.0 */
/* lines.h - columns and diagonals: single tokens that all rows read, and single distances at
 * which they do; what the softmax of some observed rows puts on each. Included by
 * attention.h. */
#ifndef BANYAN_ATTENTION_LINES_H
#define BANYAN_ATTENTION_LINES_H

#include <stddef.h>
#include <stdint.h>

enum {
    BANYAN_LINE_ROWS = 128,   /* observed at most */
    BANYAN_LINE_TOKENS = 256, /* of a block, at most */
    BANYAN_LINE_LANES = 16    /* that a row's sum is added up in, at most */
};

/* Which lines rows of a part of a call read that has at least `rows` rows; one of fewer reads
 * all. The last `rows` of it are observed as if they ended the prompt: p is the softmax of each
 * of them. Read are the `columns` tokens of the largest sum of p over rows, and the `diagonals`
 * distances (row - token) of the largest sum of p along them; the first `sink` tokens and the
 * distances below `local` come before all others; of equal sums the lower is better. Diagonals
 * are read in whole blocks: at distance d the rows of own block i read the blocks i - d /
 * block_tokens, rounded down and up.
 *
 * With `mass` > 0 both are instead the fewest of the largest sums that are this share of all
 * sums, and at least `columns` and `diagonals`; the first `sink` tokens and the distances below
 * `local` are read besides. And where the observed rows' mean query tells by the means of keys
 * which blocks p is on, the rows of an own block choose blocks in this way instead of lines: of
 * pooled logits
 *
 *     s(block) = scale (mean of queries) . (mean of the block's keys up to the last of the
 *     rows)
 *
 * over the blocks up to their own, the fewest of the best whose share of softmax(s) is `mass`,
 * at least `blocks` of them, and besides the first block and their own. It tells if the square
 * root of the Jensen-Shannon divergence (natural logarithm) of softmax(s) of all observed rows
 * together, and of their sums of p on each block, is less than `divergence`; 0: it never
 * does. */
typedef struct banyan_lines {
    int32_t rows;
    int64_t columns, diagonals;
    int64_t sink, local;
    double mass, divergence;
    int64_t blocks;
} banyan_lines;

/* The observed rows at .. at+rows-1 of one query head, which meet the blocks twice (kernels'
 * `observe`), each time in ascending order. A row whose softmax is no number observes
 * nothing. */
typedef struct banyan_observed {
    int32_t rows, block_tokens;
    int64_t at;
    double *diagonal;              /* [at + rows]: the sum of p of each distance */
    float *score;                  /* [rows][block_tokens], 64-byte aligned: a kernel's */
    float most[BANYAN_LINE_ROWS];  /* q . k before scaling, the largest */
    float share[BANYAN_LINE_ROWS]; /* 1 over the sum of exp(scale (q . k - most)) */
    float sum[BANYAN_LINE_ROWS][BANYAN_LINE_LANES];
} banyan_observed;

/* Before the first and before the second pass. */
void banyan_observe_begin(banyan_observed *o);
void banyan_observe_turn(banyan_observed *o);
/* Of a block, p of all rows along distances: the last row is rows-1 from the front, its first
 * token comes first, and each row before it begins one later. distance [block_tokens + rows -
 * 1]. */
void banyan_observe_distances(banyan_observed *o, int64_t block, const float *distance);

/* Tokens of the block that row i sees. */
static inline int32_t banyan_observed_tokens(const banyan_observed *o, int32_t i, int64_t block)
{
    const int64_t seen = o->at + i + 1 - block * o->block_tokens;
    return seen < 0 ? 0 : seen > o->block_tokens ? o->block_tokens : (int32_t)seen;
}

static inline int banyan_bit(const uint64_t *bits, int64_t i)
{
    return (int)(bits[i / 64] >> i % 64 & 1);
}
static inline void banyan_bit_set(uint64_t *bits, int64_t i)
{
    bits[i / 64] |= UINT64_C(1) << i % 64;
}

#endif
