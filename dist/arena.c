/* SPDX-License-Identifier: Apache-2.0 */
/* What the layouts of a cache share: places in an arena, and which items a rank has. */
#include "dist/cache.h"

size_t banyan_arena_bytes(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

void *banyan_arena_take(banyan_arena *arena, int64_t count, size_t bytes)
{
    size_t at = arena->used;
    arena->used += banyan_arena_bytes((size_t)count * bytes);
    return arena->base ? arena->base + at : NULL;
}

int banyan_item_is_here(const banyan_plan *plan, const banyan_item *item, int rank)
{
    if (plan->spec.out == BANYAN_OUT_ALL || plan->merge->reduce || item->home == rank) return 1;
    for (int32_t i = 0; i < item->holders; i++)
        if (item->holder[i] == rank) return 1;
    return 0;
}
