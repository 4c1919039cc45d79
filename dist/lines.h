/* SPDX-License-Identifier: Apache-2.0 */
/* lines.h - columns and diagonals, or blocks, that all rows of a part of a call choose together
 * (lines.c, pooled.c): for the files that build lists of them. */
#ifndef BANYAN_DIST_LINES_H
#define BANYAN_DIST_LINES_H

#include "dist/cache.h"

/* pooled.c. Rows first .. first+rows-1 of the call, the last of which is at token end - 1, and
 * the pooled softmax (attention/lines.h) over all blocks up to there, mass [blocks], which adds
 * up to 1. */
typedef struct banyan_pooled {
    int64_t first;
    int32_t rows;
    int64_t end;
    double *mass;
} banyan_pooled;

/* Fills `mass` of rows [count] of a query head, at most BANYAN_POOLED of them. */
void banyan_pooled_mass(const banyan_cache *c, const banyan_call *call, const banyan_kind *kind,
                        const banyan_kept *kept, int32_t head, const banyan_pooled *rows,
                        int32_t count, const banyan_worker *worker);
/* The root of the Jensen-Shannon divergence of two distributions. */
double banyan_divergence(const double *p, const double *q, int64_t count);
/* The blocks that a panel's pieces read, of the heads that choose blocks. */
void banyan_panel_pool(banyan_cache *c, const banyan_call *call, const banyan_panel *panel);
static inline int64_t banyan_block_words(const banyan_plan *plan)
{
    return (plan->spec.max_tokens / plan->spec.block_tokens + 64) / 64;
}
static inline uint64_t *banyan_only(const banyan_plan *plan, const banyan_line_set *set,
                                    int64_t piece)
{
    return set->only + piece * banyan_block_words(plan);
}
/* Blocks of the longest sequence. */
static inline int64_t banyan_most_blocks(const banyan_plan *plan)
{
    return (plan->spec.max_tokens + plan->spec.block_tokens - 1) / plan->spec.block_tokens;
}

/* lines.c. Before the first panel of a long part: the columns and diagonals that its rows
 * read. */
void banyan_panel_observe(banyan_cache *c, const banyan_call *call, const banyan_panel *panel);
/* What a class of query heads of a KV head chose; NULL: all. */
const banyan_line_set *banyan_lined(const banyan_cache *c, const banyan_kind *kind,
                                    int32_t kv_head, int32_t subgroup, const banyan_class *of);
/* Behind the entries at `entry`, those of the columns that rows of an own block see besides, of
 * the tokens of a range; *mask: room for masks, moved on. Returns how many there are. */
int64_t banyan_line_entries(const banyan_cache *c, const banyan_kind *kind,
                            const banyan_line_set *set, const banyan_kept *kept, uint64_t heads,
                            int64_t own, banyan_range range, banyan_entry *entry,
                            uint64_t **mask);
static inline int64_t banyan_mask_words(const banyan_plan *plan)
{
    return (plan->spec.block_tokens + 63) / 64;
}

#endif
