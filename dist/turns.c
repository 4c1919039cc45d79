/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds what, on all ranks, without a message.
 *
 * Block b of a sequence with turn t is dealt as bitreverse64(ordinal(b) + t). A fork keeps its
 * parent's turns up to the fork and has its own from its first own block on:
 *
 *     parent        blocks 0 ..            turn 0, id 1
 *     fork at 5     blocks 0 .. 4          turn 0, id 1       shared: the parent's records
 *                   block  5, half full    turn 0, id 2       a copy, on the same rank
 *                   blocks 6 ..            turn 3, id 2       its own
 *
 * Two sequences hold the same record of a block iff its id is the same in both, and both hold
 * the block at all, which follows from a layer's length and floor. So each rank can count what
 * every rank uses: a block that is taken adds a record where it is dealt to, one that is let go
 * by its last holder frees it. That is compared with what each rank has room for before
 * anything changes, and "full" is said by all ranks alike. */
#include "dist/plan.h"
#include "dist/cache.h"

#include <string.h>

int64_t banyan_settled(const banyan_plan *plan, const banyan_head_plan *head, int64_t floor)
{
    const int64_t reach = head->retention.reach;
    return plan->spec.evict && floor > reach ? (floor - reach) / plan->spec.block_tokens : 0;
}

const banyan_turn *banyan_turn_of(const banyan_layer *layer, int64_t block)
{
    int32_t i = layer->turn_count - 1;
    while (i > 0 && layer->turns[i].first > block) i--;
    return &layer->turns[i];
}

static const banyan_head_plan *layer_head(const banyan_sequence *s, int32_t layer,
                                          int32_t kv_head)
{
    return &banyan_plan_kind(s->cache->plan, layer)->head[kv_head];
}

static int32_t kv_heads(const banyan_sequence *s, int32_t layer)
{
    return banyan_plan_kind(s->cache->plan, layer)->shape.kv_heads;
}

static int64_t layer_blocks(const banyan_sequence *s, int32_t layer)
{
    return banyan_blocks(s->layer[layer].length, s->cache->plan->spec.block_tokens);
}

static int holds(const banyan_sequence *s, int32_t layer, const banyan_head_plan *head,
                 int64_t block)
{
    return block < layer_blocks(s, layer) &&
           (block >= banyan_settled(s->cache->plan, head, s->layer[layer].floor) ||
            banyan_retention_permanent(&head->retention, block));
}

int banyan_holds(const banyan_sequence *s, int32_t layer, int32_t kv_head, int64_t block)
{
    return holds(s, layer, layer_head(s, layer, kv_head), block);
}

/* Among the first `end` of the cache. */
static const banyan_sequence *shared_with(const banyan_sequence *s, int32_t layer,
                                          int32_t kv_head, int64_t block, int32_t end)
{
    const banyan_cache *c = s->cache;
    if (c->live < 2) return NULL;
    const banyan_head_plan *head = layer_head(s, layer, kv_head);
    const uint64_t id = banyan_turn_of(&s->layer[layer], block)->id;
    for (int32_t i = 0; i < end; i++) {
        const banyan_sequence *other = &c->sequence[i];
        if (other == s || !other->is_live || other->family != s->family) continue;
        if (banyan_turn_of(&other->layer[layer], block)->id == id &&
            holds(other, layer, head, block))
            return other;
    }
    return NULL;
}

int banyan_is_shared(const banyan_sequence *s, int32_t layer, int32_t kv_head, int64_t block)
{
    return shared_with(s, layer, kv_head, block, s->cache->plan->spec.sequences) != NULL;
}

const banyan_sequence *banyan_is_shared_before(const banyan_sequence *s, int32_t layer,
                                               int32_t kv_head, int64_t block)
{
    return shared_with(s, layer, kv_head, block, (int32_t)(s - s->cache->sequence));
}

/* ---- counting ---------------------------------------------------------------------------- */

void banyan_count_begin(banyan_cache *c)
{
    const size_t bytes = (size_t)c->plan->ranks * sizeof *c->pool->change;
    for (int32_t i = 0; i < c->plan->pools; i++) memset(c->pool[i].change, 0, bytes);
}

static banyan_status check_pool(const banyan_plan *plan, const banyan_pool *pool)
{
    for (int32_t r = 0; r < plan->ranks; r++)
        if (pool->change[r] > 0 && pool->used[r] + pool->change[r] > pool->most[r])
            return banyan_fail(
                BANYAN_ERR_MEMORY,
                "cache: %lld blocks more are needed on rank %d, which has %lld of "
                "%lld left (pool_tokens is %lld): destroy a sequence, or plan for "
                "more",
                (long long)pool->change[r], (int)r, (long long)(pool->most[r] - pool->used[r]),
                (long long)pool->most[r], (long long)plan->spec.pool_tokens);
    return BANYAN_OK;
}

banyan_status banyan_count_check(banyan_cache *c)
{
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; i < c->plan->pools && !status; i++)
        status = check_pool(c->plan, &c->pool[i]);
    return status;
}

void banyan_count_end(banyan_cache *c)
{
    for (int32_t i = 0; i < c->plan->pools; i++)
        for (int32_t r = 0; r < c->plan->ranks; r++) c->pool[i].used[r] += c->pool[i].change[r];
}

static void count_block(banyan_sequence *s, int32_t layer, const banyan_head_plan *head,
                        uint64_t turn, int64_t block, int64_t records)
{
    const banyan_holder *holder = &head->placed.holder[banyan_head_owner(head, turn, block)];
    banyan_cache_pool(s->cache, layer)->change[holder->rank] += records;
}

void banyan_count_drops(banyan_sequence *s, int32_t layer, int64_t first, int64_t end,
                        int64_t floor)
{
    const banyan_plan *plan = s->cache->plan;
    const int64_t blocks = layer_blocks(s, layer);
    if (end > blocks) end = blocks;
    for (int32_t g = 0; g < kv_heads(s, layer) && first < end; g++) {
        const banyan_head_plan *head = layer_head(s, layer, g);
        const int64_t before = banyan_settled(plan, head, s->layer[layer].floor);
        int64_t from = first, to = end;
        if (floor >= 0) {
            const int64_t settled = banyan_settled(plan, head, floor);
            if (settled < to) to = settled;
            if (before > from) from = before;
        }
        for (int64_t b = from; b < to; b++) {
            const int permanent = banyan_retention_permanent(&head->retention, b);
            if (floor >= 0 ? permanent : !permanent && b < before) continue;
            if (!banyan_is_shared(s, layer, g, b))
                count_block(s, layer, head, banyan_turn_of(&s->layer[layer], b)->turn, b, -1);
        }
    }
}

void banyan_count_takes(banyan_sequence *s, int32_t layer, uint64_t turn, int64_t first,
                        int64_t end)
{
    for (int32_t g = 0; g < kv_heads(s, layer) && first < end; g++) {
        const banyan_head_plan *head = layer_head(s, layer, g);
        for (int64_t b = first; b < end; b++) count_block(s, layer, head, turn, b, 1);
    }
}

void banyan_count_kept(banyan_sequence *s, int32_t layer)
{
    for (int32_t g = 0; g < kv_heads(s, layer); g++) {
        const banyan_head_plan *head = layer_head(s, layer, g);
        for (int64_t b = 0; b < layer_blocks(s, layer); b++)
            if (holds(s, layer, head, b) && !banyan_is_shared_before(s, layer, g, b))
                count_block(s, layer, head, banyan_turn_of(&s->layer[layer], b)->turn, b, 1);
    }
}

void banyan_count_copies(banyan_sequence *s, int32_t layer, int64_t block)
{
    const uint64_t turn = banyan_turn_of(&s->layer[layer], block)->turn;
    for (int32_t g = 0; g < kv_heads(s, layer); g++)
        if (banyan_is_shared(s, layer, g, block))
            count_block(s, layer, layer_head(s, layer, g), turn, block, 1);
}

/* ---- turns ------------------------------------------------------------------------------- */

/* Is there another sequence in which blocks of this id go on beyond `first`, or may? The last
 * id of a list is that of the blocks to come: no two sequences have the same one there. */
static int goes_on(const banyan_sequence *s, int32_t layer, uint64_t id, int64_t first)
{
    const banyan_cache *c = s->cache;
    for (int32_t i = 0; i < c->plan->spec.sequences; i++) {
        const banyan_sequence *other = &c->sequence[i];
        if (other == s || !other->is_live || other->family != s->family) continue;
        const banyan_layer *l = &other->layer[layer];
        for (int32_t j = 0; j < l->turn_count; j++) {
            const int is_last = j + 1 == l->turn_count;
            if (l->turns[j].id == id && (is_last || l->turns[j + 1].first > first)) return 1;
        }
    }
    return 0;
}

static void join_equal(banyan_layer *l)
{
    int32_t n = 1;
    for (int32_t j = 1; j < l->turn_count; j++) {
        const banyan_turn *before = &l->turns[n - 1];
        if (before->turn != l->turns[j].turn || before->id != l->turns[j].id)
            l->turns[n++] = l->turns[j];
    }
    l->turn_count = n;
}

/* Everywhere in the family. */
static void rename_id(const banyan_sequence *s, int32_t layer, uint64_t from, uint64_t to)
{
    const banyan_cache *c = s->cache;
    for (int32_t i = 0; i < c->plan->spec.sequences; i++) {
        const banyan_sequence *other = &c->sequence[i];
        if (!other->is_live || other->family != s->family) continue;
        banyan_layer *l = &other->layer[layer];
        for (int32_t j = 0; j < l->turn_count; j++) {
            if (l->turns[j].id != from) continue;
            l->turns[j].id = to;
            if (l->clean > l->turns[j].first) l->clean = l->turns[j].first;
        }
        join_equal(l);
    }
}

/* Two ids of one turn are one when nobody has blocks of the first where the second begins. Each
 * pair that remains has a sequence of its own for which it does, so that lists stay short. */
static void join_turns(banyan_sequence *s, int32_t layer)
{
    banyan_layer *l = &s->layer[layer];
    for (int32_t j = 0; j + 1 < l->turn_count;) {
        if (l->turns[j].turn == l->turns[j + 1].turn && l->turns[j].id != l->turns[j + 1].id &&
            !goes_on(s, layer, l->turns[j].id, l->turns[j + 1].first))
            rename_id(s, layer, l->turns[j + 1].id, l->turns[j].id);
        else
            j++;
    }
}

static void add_turn(banyan_layer *l, int64_t first, uint64_t turn, uint64_t id)
{
    if (l->turn_count && l->turns[l->turn_count - 1].first == first) l->turn_count--;
    l->turns[l->turn_count++] = (banyan_turn){first, turn, id};
}

void banyan_turns_branch(banyan_sequence *s, int32_t layer, int64_t block, int is_half)
{
    banyan_layer *l = &s->layer[layer];
    const banyan_turn at = *banyan_turn_of(l, block);
    const int64_t own = block + (is_half != 0); /* the first that is dealt anew */
    const int is_written = is_half && goes_on(s, layer, at.id, block);
    while (l->turn_count > 1 && l->turns[l->turn_count - 1].first >= own) l->turn_count--;
    const banyan_turn last = l->turns[l->turn_count - 1];
    if (is_written || last.turn != s->turn || goes_on(s, layer, last.id, own)) {
        const uint64_t id = ++s->cache->next_id;
        if (is_written) add_turn(l, block, at.turn, id);
        if (!is_written || at.turn != s->turn) add_turn(l, own, s->turn, id);
    }
    join_turns(s, layer);
}
