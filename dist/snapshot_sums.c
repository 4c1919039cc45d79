/* SPDX-License-Identifier: Apache-2.0 */
/* Sums for compensation tokens (compensation.c) of an opened cache.
 *
 *     tokens    0 .. first | first .. saved end | .. end of the floor here |
 *     sums        read     | from the snapshot  | blocks, added and let go | blocks, held
 *
 * A saved sum is of keys and values of one KV head's tokens, whatever the rules were: it is
 * gone on with where it begins at the same token and does not go beyond what is left out here.
 * Else all blocks from the first on are added, where they are there: so what was read under
 * other rules is opened as well. Token by token in their order, as a cache adds them that was
 * never saved: the bits are the same. */
#include "dist/snapshot_open.h"

#include <stdlib.h>
#include <string.h>

static int by_sequence(const void *a, const void *b)
{
    const banyan_saved_sum *x = a, *y = b;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

/* The saved sum that is furthest along and of use for tokens first .. end-1; none: `kept` stays
 * empty. */
static void take_saved(int32_t index, int64_t first, int64_t end, const banyan_entries *of,
                       int32_t count, banyan_compensation *kept)
{
    const banyan_saved_sum wanted = {.sequence = index};
    for (int32_t i = 0; i < count; i++) {
        if (!of[i].sum) continue;
        const banyan_saved_sum *sum =
            bsearch(&wanted, of[i].sum, (size_t)of[i].group->sums, sizeof *sum, by_sequence);
        if (!sum || sum->first != first || sum->end > end || sum->end <= kept->end) continue;
        kept->end = sum->end;
        memcpy(kept->sum, sum->sum, (size_t)sum->numbers * sizeof *sum->sum);
    }
}

/* Of block `block`, the tokens from kept->end on, and below `end`. */
static banyan_status add_saved_block(banyan_opening *o, const banyan_sequence *s, int32_t layer,
                                     int32_t kv_head, int64_t end, const banyan_entries *of,
                                     int32_t count, banyan_compensation *kept)
{
    const banyan_shape *shape = &banyan_plan_kind(o->plan, layer)->shape;
    const int64_t tokens = o->s.block_tokens, block = kept->end / tokens, at = block * tokens;
    const banyan_entries *where;
    const banyan_saved_block *saved;
    banyan_status status =
        banyan_open_find(o, s, layer, kv_head, block, of, count, &where, &saved);
    if (!status)
        status = banyan_block_read(&o->reader, where->index, where->group, saved, o->block,
                                   banyan_plain_bytes(&shape->block));
    if (status) return status;
    const banyan_plain plain = banyan_plain_at(&shape->block, o->block);
    const int64_t to = at + tokens < end ? at + tokens : end;
    banyan_compensation_add_rows(shape, &plain, (int32_t)(kept->end - at), (int32_t)(to - at),
                                 kept->sum);
    kept->end = to;
    return BANYAN_OK;
}

banyan_status banyan_open_sums(banyan_opening *o, int32_t index, int32_t layer, int32_t j,
                               const banyan_entries *of, int32_t count)
{
    const int32_t kv_head = banyan_cache_part(o->c, layer)->mine[j].kv_head;
    const banyan_sequence *s = &o->c->sequence[index];
    int64_t first, end;
    if (!banyan_compensation_range(o->c, layer, j, s->layer[layer].floor, &first, &end))
        return BANYAN_OK;
    banyan_compensation *kept = &s->layer[layer].compensation[j];
    banyan_status status = BANYAN_OK;
    take_saved(index, first, end, of, count, kept);
    if (kept->end < first) kept->end = first;
    while (!status && kept->end < end)
        status = add_saved_block(o, s, layer, kv_head, end, of, count, kept);
    return status;
}
