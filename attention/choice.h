/* SPDX-License-Identifier: Apache-2.0 */
/* choice.h - blocks that are chosen by what is in them: what is remembered of a block, how a query
 * judges it by that, and the best so many of all. Included by attention.h. */
#ifndef BANYAN_ATTENTION_CHOICE_H
#define BANYAN_ATTENTION_CHOICE_H

#include <stdint.h>

/* What is remembered of a full block's keys: `vectors` vectors of key_dim floats. One portable routine
 * each, without contraction: the same bits on every processor. */
typedef struct banyan_summary {
    const char *name;
    int32_t vectors;
    int is_linear; /* the score of a sum of queries is the sum of their scores, but for rounding */
    /* keys [rows][key_dim] -> out [vectors][key_dim] */
    void (*make)(const float *keys, int32_t rows, int32_t key_dim, float *out);
    double (*score)(const float *summary, const float *q, int32_t key_dim);
} banyan_summary;

enum { BANYAN_SUMMARY_MEAN, BANYAN_SUMMARY_BOUNDS, BANYAN_SUMMARIES };
const banyan_summary *banyan_summary_row(int32_t index); /* NULL past the end */

/* Of the blocks first .. own - local, the rows of own block `own` read the best `blocks` besides what
 * `select` gives them. */
typedef struct banyan_choice {
    int32_t summary;
    int64_t first, local, blocks;
} banyan_choice;

/* A block and how good it is. More is better; of equal scores the lower block is. */
typedef struct banyan_pick {
    double score;
    int64_t block;
} banyan_pick;

#define BANYAN_NO_BLOCK INT64_MAX /* of picks that are not used: worse than every block */

void banyan_picks_clear(banyan_pick *pick, int64_t count);
/* Of all that were offered to a cleared array its `count` best, in no order. A score that is NaN counts
 * as infinite, so that it is read and noticed. */
void banyan_picks_offer(banyan_pick *pick, int64_t count, double score, int64_t block);
void banyan_picks_rank(banyan_pick *pick, int64_t count); /* best first */
/* The best `count` of two ranked arrays of different blocks, ranked; out may be either. scratch [count]. */
void banyan_picks_combine(banyan_pick *out, const banyan_pick *lo, const banyan_pick *hi,
                          int64_t count, banyan_pick *scratch);
/* Ascending by block; returns how many are blocks. */
int64_t banyan_picks_list(banyan_pick *pick, int64_t count);

#endif
