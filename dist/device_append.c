/* SPDX-License-Identifier: Apache-2.0 */
/* Appending on a device: the tables follow the held blocks, and the call's rows are packed, all
 * KV heads and blocks in one go.
 */
#include "dist/device_cache.h"

/* ---- capturing --------------------------------------------------------------------------- */

banyan_status banyan_device_check_staged(const banyan_cache *c, const banyan_call *call)
{
    const banyan_device_cache *d = c->device;
    const banyan_plan *plan = c->plan;
    const banyan_kind *kind = banyan_plan_kind(plan, call->layer);
    const uint8_t *role = d->role[kind - plan->kind];
    for (int32_t h = 0; call->q && d->memory.is_staged && h < plan->spec.heads; h++)
        if (role[h] & BANYAN_ITEM_MOVES)
            return banyan_fail(
                BANYAN_ERR_UNSUPPORTED,
                "layer %d is merged by transport \"%s\", which moves host memory "
                "and waits for the device: it cannot be captured in a graph",
                (int)call->layer, plan->comm->transport->name);
    return BANYAN_OK;
}

banyan_status banyan_device_check(banyan_cache *c, const banyan_call *call)
{
    if (!banyan_device_is_captured(c)) return BANYAN_OK;
    const banyan_status status = banyan_device_check_staged(c, call);
    if (status) return status;
    for (int32_t i = 0; call->k && i < call->count; i++) {
        const banyan_rows *part = &call->batch[i];
        if (part->rows && !banyan_is_stepped(c, part) && banyan_changes_blocks(c, call, i))
            return banyan_fail(
                BANYAN_ERR_UNSUPPORTED,
                "rows %lld..%lld of layer %d begin a block or give one up: such a "
                "call cannot be captured in a graph, one within a block can",
                (long long)part->at, (long long)part->at + part->rows - 1, (int)call->layer);
    }
    return BANYAN_OK;
}

/* ---- rows -------------------------------------------------------------------------------- */

/* A part's rows of one KV head: a packing for each block of theirs that is held. They are the
 * last ones. `first`: the part's first row in the call. */
static int64_t add_packings(const banyan_cache *c, const banyan_rows *part,
                            const banyan_kept *kept, int32_t kv_head, int32_t first,
                            size_t slot_bytes, banyan_packing *out)
{
    const int32_t slots = banyan_device_slots(c->plan);
    const int64_t tokens = c->plan->spec.block_tokens / slots;
    const int64_t call_end = part->at + part->rows;
    int64_t count = 0;
    for (int64_t i = kept->count * slots - 1; i >= 0; i--) {
        const banyan_held held = banyan_kept_at(kept, i / slots);
        const int64_t begin = (held.block * slots + i % slots) * tokens, end = begin + tokens;
        if (begin >= call_end) continue; /* of a block that the call does not fill */
        if (end <= part->at) break;
        const int64_t from = begin < part->at ? part->at : begin;
        const int64_t to = end > call_end ? call_end : end;
        out[count++] =
            (banyan_packing){.record = (char *)held.record + (size_t)(i % slots) * slot_bytes,
                             .kv_head = kv_head,
                             .row = first + (int32_t)(from - part->at),
                             .first = (int32_t)(from - begin),
                             .rows = (int32_t)(to - from),
                             .fresh = from == begin};
    }
    return count;
}

banyan_status banyan_device_write(banyan_cache *c, const banyan_call *call)
{
    banyan_device_cache *d = c->device;
    const banyan_plan *plan = c->plan;
    const banyan_shape *shape = &banyan_plan_kind(plan, call->layer)->shape;
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const size_t slot_bytes =
        banyan_cache_pool(c, call->layer)->record_bytes / (size_t)banyan_device_slots(plan);
    int64_t count = 0;
    int32_t first = 0;
    for (int32_t i = 0; i < call->count; i++) {
        const banyan_rows *rows = &call->batch[i];
        const int32_t most = call->is_recorded ? d->graph.rows[i] : rows->rows;
        const int is_there = rows->rows && (!call->is_recorded || d->graph.is_rewritten);
        if (is_there) {
            const banyan_status status = banyan_device_follow(c, rows->sequence, call->layer);
            if (status) return status;
        }
        for (int32_t j = 0; j < part->mine_count; j++) {
            int64_t n = 0;
            if (is_there)
                n = add_packings(c, rows, banyan_part_kept(rows, call->layer, j),
                                 part->mine[j].kv_head, first, slot_bytes, d->packing + count);
            while (call->is_recorded && n < banyan_device_pieces(plan, most))
                d->packing[count + n++] = (banyan_packing){0};
            count += n;
        }
        first += most;
    }
    banyan_status status = count ? banyan_device_tape_begin(c, call) : BANYAN_OK;
    if (status || !count) return status;
    status =
        banyan_device_said(d->device->pack(d->queue, &shape->block, shape->kv_heads, call->k,
                                           call->v, plan->spec.in_dtype, d->packing, count));
    return status ? status : banyan_device_tape_end(c, call);
}

banyan_status banyan_device_copy(banyan_cache *c, void *to, const void *from, size_t bytes)
{
    return banyan_device_said(banyan_memory_copy(&c->device->memory, to, from, bytes));
}
