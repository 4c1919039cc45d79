/* SPDX-License-Identifier: Apache-2.0 */
/* Appending: which blocks a sequence lets go, and which it takes.
 *
 *        settled                      floor = at - rollback        at       at + rows
 *     -----+------------------------------+------------------------+---------+-->  tokens
 *     only |  judged now: a block goes when no row from the floor   | forget, |
 *     perm.|  on will read it, that is when its last token + reach  | then    |
 *          |  < floor and it is not permanent                       | append  |
 *
 * The floor only rises, so each block is judged once. A block that is half forgotten keeps
 * stale rows behind `at`; no row sees them, since rows see only tokens up to their own, and by
 * then those are written anew. One that another sequence holds as well is copied before that.
 *
 * First the records that every rank will use are counted, and compared with what there is; then
 * all parts of the call let go; then all take. */
#include "dist/device_cache.h"
#include "dist/plan.h"

#include <string.h>

/* One part of a call, in its layer. */
typedef struct change {
    banyan_cache *c;
    banyan_sequence *s;
    int32_t layer;
    int64_t at, end, floor;
    int64_t keep, half; /* whole and half blocks before `at`: all, and whole ones */
} change;

static change change_of(banyan_cache *c, const banyan_call *call, int32_t part)
{
    const banyan_rows *rows = &call->batch[part];
    const int32_t tokens = c->plan->spec.block_tokens;
    change x = {.c = c,
                .s = rows->sequence,
                .layer = call->layer,
                .at = rows->at,
                .end = rows->at + rows->rows,
                .floor = rows->at - c->plan->spec.rollback_tokens};
    const int64_t floor = x.s->layer[x.layer].floor;
    if (x.floor < floor) x.floor = floor;
    x.keep = banyan_blocks(x.at, tokens);
    x.half = x.at / tokens;
    return x;
}

/* Does any block begin, go or change hands? */
static int changes_blocks(const change *x)
{
    const banyan_plan *plan = x->c->plan;
    const banyan_kind *kind = banyan_plan_kind(plan, x->layer);
    const banyan_layer *layer = &x->s->layer[x->layer];
    const int64_t blocks = banyan_blocks(layer->length, plan->spec.block_tokens);
    if (x->at < layer->length && (x->c->live > 1 || blocks > x->keep)) return 1;
    if (banyan_blocks(x->end, plan->spec.block_tokens) > x->keep) return 1;
    for (int32_t g = 0; plan->spec.evict && g < kind->shape.kv_heads; g++)
        if (banyan_settled(plan, &kind->head[g], x->floor) !=
            banyan_settled(plan, &kind->head[g], layer->floor))
            return 1;
    return 0;
}

int banyan_changes_blocks(banyan_cache *c, const banyan_call *call, int32_t part)
{
    const change x = change_of(c, call, part);
    return changes_blocks(&x);
}

static void count_drops(const change *x)
{
    banyan_count_drops(x->s, x->layer, x->keep, INT64_MAX, -1);
    banyan_count_drops(x->s, x->layer, 0, x->keep, x->floor);
}

static void count_takes(const change *x, int goes_back)
{
    const int64_t blocks = banyan_blocks(x->end, x->c->plan->spec.block_tokens);
    if (goes_back && x->keep > x->half) banyan_count_copies(x->s, x->layer, x->half);
    banyan_count_takes(x->s, x->layer, x->s->turn, x->keep, blocks);
}

/* ---- letting go -------------------------------------------------------------------------- */

static int64_t give_record(const change *x, int32_t j, const banyan_held *held)
{
    const int32_t kv_head = banyan_cache_part(x->c, x->layer)->mine[j].kv_head;
    if (banyan_is_shared(x->s, x->layer, kv_head, held->block)) return 0;
    banyan_record_give(x->c, x->layer, j, held->record);
    return 1;
}

/* Blocks with no token below `at` go. */
static void forget(const change *x, banyan_kept *kept, int32_t j)
{
    const int64_t count = banyan_kept_find(kept, x->keep);
    for (int64_t i = count; i < kept->count; i++) {
        const banyan_held held = banyan_kept_at(kept, i);
        give_record(x, j, &held);
    }
    banyan_kept_cut(x->c, kept, count);
}

/* Blocks that no row from the floor on reads go. */
static banyan_status evict(const change *x, banyan_kept *kept, int32_t j, int64_t *place)
{
    const banyan_plan *plan = x->c->plan;
    const int32_t kv_head = banyan_cache_part(x->c, x->layer)->mine[j].kv_head;
    const banyan_head_plan *head = &banyan_plan_kind(plan, x->layer)->head[kv_head];
    const int64_t before = banyan_settled(plan, head, x->s->layer[x->layer].floor);
    const int64_t now = banyan_settled(plan, head, x->floor);
    if (now == before) return BANYAN_OK;
    const int64_t end = banyan_kept_find(kept, now);
    int64_t to = banyan_kept_find(kept, before);
    for (int64_t i = to; i < kept->count; i++) {
        const banyan_held held = banyan_kept_at(kept, i);
        if (i < end && !banyan_retention_permanent(&head->retention, held.block)) {
            x->c->stats.evicted_blocks += give_record(x, j, &held);
            if (to < *place) *place = to;
            continue;
        }
        const banyan_status status = to < i ? banyan_kept_put(x->c, kept, to, held) : BANYAN_OK;
        if (status) return status;
        to++;
    }
    banyan_kept_cut(x->c, kept, to);
    return BANYAN_OK;
}

static banyan_status drop_blocks(const change *x)
{
    const banyan_part *part = banyan_cache_part(x->c, x->layer);
    banyan_layer *layer = &x->s->layer[x->layer];
    banyan_status status = BANYAN_OK;
    x->s->goes_back = x->at < layer->length;
    x->s->step = 0; /* what was appended by itself may have gone back behind its last step */
    count_drops(x);
    for (int32_t j = 0; j < part->mine_count && !status; j++) {
        banyan_kept *kept = &layer->kept[j];
        forget(x, kept, j);
        int64_t place = kept->count;
        if (layer->compensation) banyan_compensation_settle(x->c, x->s, x->layer, j, x->floor);
        status = evict(x, kept, j, &place);
        if (x->c->device) banyan_device_note(x->c, x->s, x->layer, j, place);
    }
    layer->length = x->at;
    layer->floor = x->floor;
    if (layer->clean > x->half) layer->clean = x->half;
    if (layer->written > x->at) layer->written = x->at;
    if (layer->replayed > x->at) layer->replayed = x->at;
    return status;
}

/* ---- taking ------------------------------------------------------------------------------ */

static banyan_status take_record(const change *x, int32_t j, void **record)
{
    *record = banyan_record_take(x->c, x->layer, j);
    if (*record) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_MEMORY,
                       "cache: layer %d has no room for a block, though it was counted: %lld "
                       "records are all that were planned",
                       (int)x->layer, (long long)banyan_cache_pool(x->c, x->layer)->capacity);
}

/* The block that the call goes on with in its middle, where other sequences hold it too. */
static banyan_status copy_half(const change *x, banyan_kept *kept, int32_t j, int32_t kv_head)
{
    const int64_t place = banyan_kept_find(kept, x->half);
    if (place == kept->count || !banyan_is_shared(x->s, x->layer, kv_head, x->half))
        return BANYAN_OK;
    const banyan_held half = banyan_kept_at(kept, place);
    void *record = NULL;
    banyan_status status = take_record(x, j, &record);
    if (!status)
        status = x->c->backend->copy(x->c, record, half.record,
                                     banyan_cache_pool(x->c, x->layer)->record_bytes);
    if (!status) status = banyan_kept_put(x->c, kept, place, (banyan_held){x->half, record});
    if (x->c->device) banyan_device_note(x->c, x->s, x->layer, j, place);
    return status;
}

static banyan_status take_blocks(const change *x)
{
    const banyan_plan *plan = x->c->plan;
    const banyan_kind *kind = banyan_plan_kind(plan, x->layer);
    const banyan_part *part = banyan_cache_part(x->c, x->layer);
    banyan_layer *layer = &x->s->layer[x->layer];
    banyan_status status = BANYAN_OK;
    count_takes(x, x->s->goes_back);
    for (int32_t j = 0; x->s->goes_back && x->keep > x->half && j < part->mine_count; j++) {
        status = copy_half(x, &layer->kept[j], j, part->mine[j].kv_head);
        if (status) return status;
    }
    if (x->s->goes_back) banyan_turns_branch(x->s, x->layer, x->half, x->keep > x->half);
    const int64_t blocks = banyan_blocks(x->end, plan->spec.block_tokens);
    for (int32_t j = 0; j < part->mine_count; j++) {
        const banyan_mine *mine = &part->mine[j];
        const banyan_head_plan *head = &kind->head[mine->kv_head];
        for (int64_t b = x->keep; b < blocks && !status; b++) {
            void *record = NULL;
            if (banyan_head_owner(head, x->s->turn, b) != mine->index) continue;
            status = take_record(x, j, &record);
            if (!status)
                status = banyan_kept_add(x->c, &layer->kept[j], (banyan_held){b, record});
        }
    }
    layer->length = x->end;
    if (x->end > layer->longest) layer->longest = x->end;
    return status;
}

/* ---- writing ----------------------------------------------------------------------------- */

/* Spread over (KV head, piece) pairs. */
typedef struct writing {
    const banyan_cache *c;
    const banyan_call *call;
    const banyan_part *part;
    const banyan_panel *panel;
} writing;

static void write_piece(void *arg, int64_t i, int32_t worker)
{
    const writing *w = arg;
    const banyan_plan *plan = w->c->plan;
    const banyan_spec *spec = &plan->spec;
    const int64_t j = i / w->panel->pieces;
    const banyan_piece *piece = &w->panel->piece[i % w->panel->pieces];
    const banyan_rows *rows = &w->call->batch[piece->part];
    const banyan_kept *kept = banyan_part_kept(rows, w->call->layer, (int32_t)j);
    const int64_t block = piece->at / spec->block_tokens;
    /* It is among the last: a sequence goes on at its end. */
    const int64_t place = banyan_kept_find(kept, block);
    if (place == kept->count) return;
    const banyan_held held = banyan_kept_at(kept, place);
    if (held.block != block) return; /* not dealt to us */

    const int32_t first = (int32_t)(piece->at % spec->block_tokens);
    const banyan_kind *kind = banyan_plan_kind(plan, w->call->layer);
    const banyan_shape *shape = &kind->shape;
    const int64_t k_stride = (int64_t)shape->kv_heads * shape->key_dim;
    const int64_t v_stride = (int64_t)shape->kv_heads * shape->value_dim;
    const int64_t head = w->part->mine[j].kv_head;
    const size_t bytes = banyan_dtype_bytes(spec->in_dtype);
    const char *k = (const char *)w->call->k +
                    (size_t)(piece->first * k_stride + head * shape->key_dim) * bytes;
    const size_t v_at = (size_t)(piece->first * v_stride + head * shape->value_dim) * bytes;
    const char *v = w->call->v ? (const char *)w->call->v + v_at : NULL; /* value_in_key */
    plan->kernel->pack(&shape->block, held.record, first == 0, first, piece->rows, k, k_stride,
                       v, v_stride, spec->in_dtype);
    if (first + piece->rows == spec->block_tokens)
        banyan_summarise(w->c, kind, held.record, &w->c->worker[worker]);
}

banyan_status banyan_host_write(banyan_cache *c, const banyan_call *call)
{
    writing w = {.c = c, .call = call, .part = banyan_cache_part(c, call->layer)};
    banyan_panel panel = {0};
    w.panel = &panel;
    while (banyan_panel_next(c, call, c->plan->panel_rows, &panel)) {
        /* A decoded row is written before other threads have woken. */
        const int32_t threads = panel.rows < c->plan->spec.block_tokens ? 1 : c->sizes.workers;
        banyan_each(threads, (int64_t)w.part->mine_count * panel.pieces, write_piece, &w);
    }
    return BANYAN_OK;
}

banyan_status banyan_host_copy(banyan_cache *c, void *to, const void *from, size_t bytes)
{
    (void)c;
    memcpy(to, from, bytes);
    return BANYAN_OK;
}

/* A place kept free, or what a step has appended. */
static int is_nothing(const banyan_cache *c, const banyan_rows *part)
{
    return !part->rows || banyan_is_stepped(c, part);
}

typedef banyan_status (*change_fn)(const change *x);

/* fn for each part in each layer first .. last. */
static banyan_status each_change(banyan_cache *c, const banyan_call *call, int32_t first,
                                 int32_t last, change_fn fn)
{
    banyan_status status = BANYAN_OK;
    banyan_call one = *call;
    for (one.layer = first; one.layer <= last; one.layer++)
        for (int32_t i = 0; i < call->count && !status; i++) {
            if (!banyan_keeps_own(c->plan, one.layer) || is_nothing(c, &call->batch[i]))
                continue;
            const change x = change_of(c, &one, i);
            status = fn(&x);
        }
    return status;
}

static banyan_status count_change(const change *x)
{
    if (!changes_blocks(x)) return BANYAN_OK;
    count_drops(x);
    count_takes(x, x->at < x->s->layer[x->layer].length);
    return BANYAN_OK;
}

banyan_status banyan_append_blocks(banyan_cache *c, const banyan_call *call, int32_t first,
                                   int32_t last)
{
    banyan_count_begin(c);
    (void)each_change(c, call, first, last, count_change);
    banyan_status status = banyan_count_check(c);
    if (status) return status;

    banyan_count_begin(c);
    status = each_change(c, call, first, last, drop_blocks);
    if (!status) status = each_change(c, call, first, last, take_blocks);
    banyan_count_end(c);
    return status;
}

/* What was left out before `at` stays so. */
void banyan_layer_write(banyan_layer *layer, int64_t at, int64_t end)
{
    int64_t *to = at <= layer->written ? &layer->written : &layer->replayed;
    if (at <= *to && end > *to) *to = end;
}

banyan_status banyan_cache_append(banyan_cache *c, const banyan_call *call)
{
    banyan_status status = banyan_append_blocks(c, call, call->layer, call->layer);
    if (!status) status = c->backend->write(c, call);
    for (int32_t i = 0; i < call->count && !status; i++) {
        const banyan_rows *part = &call->batch[i];
        if (!part->rows) continue;
        /* A step's rows may come more than once: a block that was saved in between is another
         * then. */
        banyan_layer *layer = &part->sequence->layer[call->layer];
        const int64_t block = part->at / c->plan->spec.block_tokens;
        if (layer->clean > block) layer->clean = block;
        banyan_layer_write(layer, part->at, part->at + part->rows);
    }
    return status;
}
