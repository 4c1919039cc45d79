/* SPDX-License-Identifier: Apache-2.0 */
/* single.h - a cache of one sequence, and calls of one part, as most verbs want them. */
#ifndef BANYAN_SINGLE_H
#define BANYAN_SINGLE_H

#include "banyan.h"

/* Collective; the sequence may fail on one rank alone. On failure *cache may be there without
 * it, for banyan_cache_destroy. */
static inline banyan_status single_create(const banyan_plan *plan, void *stream,
                                          banyan_cache **cache, banyan_sequence **sequence)
{
    const banyan_status status = banyan_cache_create(plan, stream, cache);
    return status ? status : banyan_sequence_create(*cache, 0, sequence);
}

/* The same of a plan that several ranks have, which are `comm`: fails on all or on none. */
static inline banyan_status single_create_on(banyan_comm *comm, const banyan_plan *plan,
                                             void *stream, banyan_cache **cache,
                                             banyan_sequence **sequence)
{
    const banyan_status status = banyan_cache_create(plan, stream, cache);
    return status ? status
                  : banyan_comm_agree(comm, banyan_sequence_create(*cache, 0, sequence));
}

static inline banyan_status single_attend(banyan_cache *cache, banyan_sequence *sequence,
                                          int32_t layer, int64_t at, int32_t rows,
                                          const void *q, const void *k, const void *v,
                                          void *out, float *lse)
{
    const banyan_rows part = {.sequence = sequence, .at = at, .rows = rows};
    return banyan_attend(cache, layer, &part, 1, q, k, v, out, lse);
}

#endif
