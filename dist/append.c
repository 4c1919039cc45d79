/* SPDX-License-Identifier: Apache-2.0 */
/* Appending: which blocks a rank lets go, and which it takes.
 *
 *        settled                      floor = at - rollback        at       at + rows
 *     -----+------------------------------+------------------------+---------+-->  tokens
 *     only |  judged now: a block goes when no row from the floor   | forget, |
 *     perm.|  on will read it, that is when its last token + reach  | then    |
 *          |  < floor and it is not permanent                       | append  |
 *
 * The floor only rises, so each block is judged once: `settled` marks how far that has come. A
 * block that is half forgotten keeps stale rows behind `at`; no row sees them, since rows see only
 * tokens up to their own, and by then those are written anew. */
#include "dist/device_cache.h"

#include <string.h>

static void *record_take(banyan_kept *kept, size_t record_bytes)
{
    if (kept->spare) return kept->held[kept->capacity - kept->spare--].record;
    if (kept->touched == kept->capacity) return NULL;
    return kept->records + (size_t)kept->touched++ * record_bytes;
}

/* The block is no longer among the held ones, so that there is room for its record behind them. */
static void record_give(banyan_kept *kept, void *record)
{
    kept->held[kept->capacity - ++kept->spare].record = record;
}

/* The first held block that is not below `block`. */
static int64_t held_find(const banyan_kept *kept, int64_t block)
{
    int64_t lo = 0, hi = kept->count;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (kept->held[mid].block < block)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Blocks with no token below `at` go. */
static void forget(banyan_kept *kept, int64_t at, int32_t block_tokens)
{
    while (kept->count > 0 && kept->held[kept->count - 1].block * block_tokens >= at) {
        void *record = kept->held[--kept->count].record;
        record_give(kept, record);
    }
}

enum { AT_ONCE = 64 };

/* Blocks that no row at or after `row` reads go, so many at once at most; returns how many. *place
 * becomes the first place that has another block then. */
static int64_t evict_some(banyan_kept *kept, const banyan_retention *retention, int64_t row,
                          int32_t block_tokens, int64_t *place)
{
    void *record[AT_ONCE];
    int64_t i = held_find(kept, kept->settled), to = i, gone = 0;
    for (; i < kept->count && gone < AT_ONCE; i++) {
        banyan_held h = kept->held[i];
        int64_t last = h.block * block_tokens + block_tokens - 1;
        if (row <= last || row - last <= retention->reach) break;
        if (banyan_retention_keeps(retention, h.block, row, block_tokens)) {
            kept->held[to++] = h;
        } else {
            if (!gone && to < *place) *place = to;
            record[gone++] = h.record;
        }
        kept->settled = h.block + 1;
    }
    if (gone == 0) return 0;
    memmove(kept->held + to, kept->held + i, (size_t)(kept->count - i) * sizeof *kept->held);
    kept->count -= gone;
    for (int64_t r = 0; r < gone; r++) record_give(kept, record[r]);
    return gone;
}

static int64_t evict(banyan_kept *kept, const banyan_retention *retention, int64_t row,
                     int32_t block_tokens, int64_t *place)
{
    int64_t all = 0, gone;
    do {
        gone = evict_some(kept, retention, row, block_tokens, place);
        all += gone;
    } while (gone == AT_ONCE);
    return all;
}

static int is_mine(const banyan_head_plan *head, int32_t index, int64_t block)
{
    return banyan_head_owner(head, 0, block) == index;
}

/* Room for the blocks of tokens at .. end-1 that are dealt to this rank. */
static banyan_status make_room(banyan_kept *kept, const banyan_head_plan *head,
                               const banyan_mine *mine, int64_t at, int64_t end,
                               const banyan_shape *shape)
{
    int32_t tokens = shape->block.block_tokens;
    /* A block that begins before `at` has its record since then. */
    for (int64_t b = (at + tokens - 1) / tokens; b * tokens < end; b++) {
        if (!is_mine(head, mine->index, b)) continue;
        void *record = record_take(kept, shape->record_bytes);
        if (!record)
            return banyan_fail(BANYAN_ERR_MEMORY,
                               "cache: KV head %d holds %lld blocks, all that were planned, "
                               "and has no room for block %lld",
                               mine->kv_head, (long long)kept->count, (long long)b);
        kept->held[kept->count++] = (banyan_held){.block = b, .record = record};
    }
    return BANYAN_OK;
}

/* Writing is spread over (KV head, block) pairs. */
typedef struct writing {
    const banyan_cache *c;
    const banyan_call *call;
    const banyan_part *part;
    int64_t first_block, blocks;
} writing;

static void write_block(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const writing *w = arg;
    const banyan_plan *plan = w->c->plan;
    const banyan_spec *spec = &plan->spec;
    const banyan_call *call = w->call;
    const banyan_shape *shape = &banyan_plan_kind(plan, call->layer)->shape;
    int64_t j = i / w->blocks, block = w->first_block + i % w->blocks;
    const banyan_kept *kept = &w->c->layer[call->cache_layer].kept[j];
    int64_t place = held_find(kept, block);
    if (place == kept->count || kept->held[place].block != block) return; /* not dealt to us */

    int64_t begin = block * spec->block_tokens, end = begin + spec->block_tokens;
    int64_t from = begin < call->at ? call->at : begin;
    int64_t to = end > call->at + call->rows ? call->at + call->rows : end;
    int64_t k_stride = (int64_t)shape->kv_heads * shape->key_dim;
    int64_t v_stride = (int64_t)shape->kv_heads * shape->value_dim;
    int64_t row = from - call->at, head = w->part->mine[j].kv_head;
    size_t bytes = banyan_dtype_bytes(spec->in_dtype);
    const char *k =
        (const char *)call->k + (size_t)(row * k_stride + head * shape->key_dim) * bytes;
    const size_t v_at = (size_t)(row * v_stride + head * shape->value_dim) * bytes;
    const char *v = call->v ? (const char *)call->v + v_at : NULL; /* value_in_key */
    plan->kernel->pack(&shape->block, kept->held[place].record, from == begin,
                       (int32_t)(from - begin), (int32_t)(to - from), k, k_stride, v, v_stride,
                       spec->in_dtype);
}

banyan_status banyan_host_write(banyan_cache *c, const banyan_call *call)
{
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const int32_t tokens = c->plan->spec.block_tokens;
    const int64_t end = call->at + call->rows;
    writing w = {.c = c, .call = call, .part = part, .first_block = call->at / tokens};
    w.blocks = (end - 1) / tokens - w.first_block + 1;
    /* A decoded row is written before other threads have woken. */
    int32_t threads = call->rows < tokens ? 1 : c->sizes.workers;
    banyan_each(threads, part->mine_count * w.blocks, write_block, &w);
    return BANYAN_OK;
}

banyan_status banyan_cache_append(banyan_cache *c, const banyan_call *call)
{
    const banyan_plan *plan = c->plan;
    const banyan_kind *kind = banyan_plan_kind(plan, call->layer);
    const banyan_part *part = banyan_cache_part(c, call->layer);
    banyan_layer *layer = &c->layer[call->cache_layer];
    int32_t tokens = plan->spec.block_tokens;
    int64_t end = call->at + call->rows, floor = call->at - plan->spec.rollback_tokens;

    if (floor > layer->floor) layer->floor = floor;
    for (int32_t j = 0; j < part->mine_count; j++) {
        const banyan_mine *mine = &part->mine[j];
        const banyan_head_plan *head = &kind->head[mine->kv_head];
        banyan_kept *kept = &layer->kept[j];
        forget(kept, call->at, tokens);
        int64_t place = kept->count;
        if (plan->spec.evict && floor > 0)
            c->stats.evicted_blocks += evict(kept, &head->retention, floor, tokens, &place);
        banyan_status status = make_room(kept, head, mine, call->at, end, &kind->shape);
        if (status != BANYAN_OK) return status;
        if (c->device) banyan_device_note(c->device, call->layer, j, place);
    }
    layer->length = end;
    if (end > layer->longest) layer->longest = end;

    return c->way->write(c, call);
}
