/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a snapshot: block tables. Which blocks a sequence has of a KV head on this rank
 * follows from the plan; each is looked up in the indexes, and listed to be read. */
#include "dist/snapshot_open.h"

#include "dist/device_cache.h"
#include "dist/plan.h"

#include <stdlib.h>

/* A KV head's entries in all indexes, and its sums where they are wanted. */
static banyan_status find_entries(const banyan_opening *o, int32_t layer, int32_t kv_head,
                                  banyan_entries *of, int32_t *count)
{
    const int adds = banyan_plan_kind(o->plan, layer)->head[kv_head].compensated != NULL;
    for (int32_t r = 0; r < o->s.ranks; r++) {
        const banyan_index *index = &o->index[r];
        const banyan_saved_group *group = banyan_index_find(index, layer, kv_head);
        if (!group) continue;
        banyan_entries *e = &of[(*count)++];
        *e = (banyan_entries){.index = index, .group = group};
        banyan_status status = banyan_index_entries(index, &o->s, group, &e->entry);
        if (!status && adds) status = banyan_index_sums(index, &o->s, group, &e->sum);
        if (status) return status;
    }
    return BANYAN_OK;
}

/* A record for the block, and where its rows come from. */
static banyan_status add_move(banyan_opening *o, const banyan_sequence *s, int32_t layer,
                              int32_t j, int64_t block, const banyan_entries *of, int32_t count,
                              void **record)
{
    const int32_t kv_head = banyan_cache_part(o->c, layer)->mine[j].kv_head;
    const banyan_entries *where;
    const banyan_saved_block *found;
    const banyan_status status =
        banyan_open_find(o, s, layer, kv_head, block, of, count, &where, &found);
    if (status) return status;
    *record = banyan_record_take(o->c, layer, j);
    if (!*record || o->moves == o->room)
        return banyan_fail(BANYAN_ERR_MEMORY, "open: a record is missing that was counted");
    o->saved[o->moves] = *found;
    o->move[o->moves] = (banyan_move){.shape = &banyan_plan_kind(o->plan, layer)->shape.block,
                                      .record = *record,
                                      .saved = &o->saved[o->moves],
                                      .layer = layer,
                                      .kv_head = kv_head,
                                      .rank = where->index->rank};
    o->moves++;
    return BANYAN_OK;
}

/* Chunks are shared with the sequence before it that has most blocks in common from the first
 * on. */
static banyan_status fill_table(banyan_opening *o, banyan_sequence *s, int32_t layer, int32_t j,
                                int64_t count)
{
    banyan_cache *c = o->c;
    banyan_kept *to = &s->layer[layer].kept[j];
    const banyan_kept *best = NULL;
    int64_t most = 0;
    for (const banyan_sequence *other = c->sequence; other < s; other++) {
        if (!other->is_live || other->family != s->family) continue;
        const banyan_kept *kept = &other->layer[layer].kept[j];
        int64_t n = 0;
        while (n < count && n < kept->count &&
               banyan_kept_at(kept, n).record == o->held[n].record)
            n++;
        if (n <= most) continue;
        most = n;
        best = kept;
    }
    if (best) banyan_kept_share(to, best, most);
    banyan_status status = BANYAN_OK;
    for (int64_t i = most; i < count && !status; i++)
        status = banyan_kept_add(c, to, o->held[i]);
    if (c->device) banyan_device_note(c, s, layer, j, 0);
    return status;
}

static banyan_status make_table(banyan_opening *o, banyan_sequence *s, int32_t layer, int32_t j,
                                const banyan_entries *of, int32_t of_count)
{
    const banyan_mine *mine = &banyan_cache_part(o->c, layer)->mine[j];
    const banyan_kind *kind = banyan_plan_kind(o->plan, layer);
    const banyan_layer *l = &s->layer[layer];
    const int64_t blocks = banyan_blocks(l->length, o->s.block_tokens);
    const int64_t room = banyan_plan_capacity(kind, mine->kv_head, o->plan->rank);
    int64_t count = 0;
    for (int64_t b = 0; b < blocks; b++) {
        const banyan_turn *turn = banyan_turn_of(l, b);
        if (!banyan_holds(s, layer, mine->kv_head, b) ||
            banyan_head_owner(&kind->head[mine->kv_head], turn->turn, b) != mine->index)
            continue;
        if (count == room)
            return banyan_fail(BANYAN_ERR_MEMORY,
                               "open: layer %d, KV head %d: a sequence has more blocks here "
                               "than the %lld that were planned (sequences is %d)",
                               (int)layer, (int)mine->kv_head, (long long)room,
                               (int)o->plan->spec.sequences);
        void *record = NULL;
        const banyan_sequence *other = banyan_is_shared_before(s, layer, mine->kv_head, b);
        if (other) {
            const banyan_kept *kept = &other->layer[layer].kept[j];
            const int64_t place = banyan_kept_find(kept, b);
            if (place == kept->count || banyan_kept_at(kept, place).block != b)
                return banyan_fail(BANYAN_ERR_FILE,
                                   "\"%s\": sequences share block %lld of layer %d, and deal "
                                   "it differently",
                                   o->folder, (long long)b, (int)layer);
            record = banyan_kept_at(kept, place).record;
        } else {
            const banyan_status status = add_move(o, s, layer, j, b, of, of_count, &record);
            if (status) return status;
        }
        o->held[count++] = (banyan_held){b, record};
    }
    return fill_table(o, s, layer, j, count);
}

/* Of one KV head, of all sequences. */
static banyan_status make_tables(banyan_opening *o, int32_t layer, int32_t j,
                                 banyan_entries *of)
{
    int32_t count = 0;
    banyan_status status =
        find_entries(o, layer, banyan_cache_part(o->c, layer)->mine[j].kv_head, of, &count);
    for (int32_t i = 0; i < o->s.sequences && !status; i++)
        status = make_table(o, &o->c->sequence[i], layer, j, of, count);
    for (int32_t i = 0; i < o->s.sequences && !status; i++)
        status = banyan_open_sums(o, i, layer, j, of, count);
    for (int32_t i = 0; i < count; i++) free(of[i].entry), free(of[i].sum);
    return status;
}

static int64_t largest_table(const banyan_plan *plan)
{
    int64_t most = 0;
    for (int32_t k = 0; k < plan->kinds; k++)
        for (int32_t g = 0; g < plan->kind[k].shape.kv_heads; g++) {
            const int64_t room = banyan_plan_capacity(&plan->kind[k], g, plan->rank);
            if (room > most) most = room;
        }
    return most;
}

static size_t largest_block(const banyan_plan *plan)
{
    size_t most = 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const size_t bytes = banyan_plain_bytes(&plan->kind[k].shape.block);
        if (bytes > most) most = bytes;
    }
    return most;
}

banyan_status banyan_open_tables(banyan_opening *o)
{
    const banyan_plan *plan = o->plan;
    banyan_entries *of = calloc((size_t)o->s.ranks, sizeof *of);
    o->held = calloc((size_t)largest_table(plan) + 1, sizeof *o->held);
    o->saved = calloc((size_t)o->room + 1, sizeof *o->saved);
    o->move = calloc((size_t)o->room + 1, sizeof *o->move);
    o->block = malloc(largest_block(plan));
    o->reader = (banyan_block_reader){.folder = o->folder, .fd = -1};
    banyan_status status =
        of && o->held && o->saved && o->move && o->block
            ? BANYAN_OK
            : banyan_fail(BANYAN_ERR_MEMORY, "open: no memory to list %lld blocks",
                          (long long)o->room);
    for (int32_t layer = 0; layer < plan->spec.layers; layer++)
        for (int32_t j = 0; j < banyan_kept_count(o->c, layer) && !status; j++)
            status = make_tables(o, layer, j, of);
    banyan_block_reader_end(&o->reader);
    free(o->block);
    free(of);
    return status;
}
