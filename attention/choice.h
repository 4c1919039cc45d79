/* SPDX-License-Identifier: Apache-2.0 */
/* choice.h - blocks that are chosen by what is in them: what is remembered of a block, how a
 * query judges it by that, and the best so many of all. Included by attention.h. */
#ifndef BANYAN_ATTENTION_CHOICE_H
#define BANYAN_ATTENTION_CHOICE_H

#include <stdint.h>

/* What is remembered of a full block's keys: `vectors` vectors of key_dim floats. One portable
 * routine each, without contraction: the same bits on every processor. */
typedef struct banyan_summary {
    const char *name;
    int32_t vectors;
    /* keys [rows][key_dim] -> out [vectors][key_dim] */
    void (*make)(const float *keys, int32_t rows, int32_t key_dim, float *out);
    /* What a query [key_dim] is to such a summary, added to `to` [vectors][key_dim]: queries
     * that choose together become one, whose score is the sum of theirs. */
    void (*add)(const double *q, int32_t key_dim, double *to);
} banyan_summary;

/* A summary's product with what `add` made; numbers: vectors * key_dim. next: a summary that is
 * asked for meanwhile, or this one. */
double banyan_summary_score(const float *summary, const float *query, int32_t numbers,
                            const float *next);

enum { BANYAN_SUMMARY_MEAN, BANYAN_SUMMARY_BOUNDS, BANYAN_SUMMARIES };
enum { BANYAN_SUMMARY_VECTORS = 2 };                     /* of a summary, at most */
const banyan_summary *banyan_summary_row(int32_t index); /* NULL past the end */
static inline int64_t banyan_summary_bytes(int32_t index, int32_t key_dim)
{
    return banyan_summary_row(index)->vectors * key_dim * (int64_t)sizeof(float);
}

/* Of the blocks first .. own - local, the rows of own block `own` read the best `blocks`
 * besides what `select` gives them; with mass > 0 the fewest of these that have that share of
 * the softmax over all of those blocks' scores, of mean queries, times `sharpness`. */
typedef struct banyan_choice {
    int32_t summary;
    int64_t first, local, blocks;
    double mass, sharpness;
} banyan_choice;

/* Decoded rows (parts of one row) read all in the layers below `first`; in `first`, and `again`
 * if it is not 0, they read all, and the `tokens` tokens of the largest q . k are remembered,
 * of equal ones the lower; in all other layers they read those of the last layer which did so,
 * and nothing else. */
typedef struct banyan_following {
    int32_t first, again;
    int64_t tokens;
} banyan_following;

static inline int banyan_remembers(const banyan_following *law, int32_t layer)
{
    return layer == law->first || (law->again && layer == law->again);
}
/* The layer whose tokens are read in this one, or -1: all are. */
static inline int32_t banyan_follows(const banyan_following *law, int32_t layer)
{
    if (layer <= law->first || banyan_remembers(law, layer)) return -1;
    return law->again && layer > law->again ? law->again : law->first;
}

/* A block and how good it is. More is better; of equal scores the lower block is. */
typedef struct banyan_pick {
    double score;
    int64_t block;
} banyan_pick;

#define BANYAN_NO_BLOCK INT64_MAX /* of picks that are not used: worse than every block */

void banyan_picks_clear(banyan_pick *pick, int64_t count);
/* Of all that were offered to a cleared array its `count` best, in no order. A score that is
 * NaN counts as infinite, so that it is read and noticed. */
void banyan_picks_offer(banyan_pick *pick, int64_t count, double score, int64_t block);
void banyan_picks_rank(banyan_pick *pick, int64_t count); /* best first */
/* The best `count` of two ranked arrays of different blocks, ranked; out may be either. scratch
 * [count]. */
void banyan_picks_combine(banyan_pick *out, const banyan_pick *lo, const banyan_pick *hi,
                          int64_t count, banyan_pick *scratch);
/* Ascending by block; returns how many are blocks. */
int64_t banyan_picks_list(banyan_pick *pick, int64_t count);
/* Of `count` picks in any order, whose scores are not negative, the fewest of the best whose
 * sum is a share `mass` of all scores, but at least `least`: they come to the end of the array,
 * the best last. Returns how many. */
int64_t banyan_picks_reach(banyan_pick *pick, int64_t count, double mass, int64_t least);

/* exp(score) of many blocks added up, the same whatever the order and whoever adds: whole
 * numbers, one for each power of two. sum[i] counts in 2^(top - i - 40); what is smaller than
 * all of them is left out. */
enum { BANYAN_TALLY_POWERS = 63 };
typedef struct banyan_tally {
    int64_t top;
    int64_t sum[BANYAN_TALLY_POWERS];
} banyan_tally;

void banyan_tally_clear(banyan_tally *tally);
void banyan_tally_add(banyan_tally *tally, double score);
void banyan_tally_combine(banyan_tally *out, const banyan_tally *lo, const banyan_tally *hi);
/* How many of the ranked picks, at most `count`, have a share `mass` of the tally; scores times
 * `factor` were added to it. At least 1 of those that are blocks. */
int64_t banyan_tally_reach(const banyan_tally *tally, const banyan_pick *pick, int64_t count,
                           double factor, double mass);

#endif
