/* SPDX-License-Identifier: Apache-2.0 */
/* A step: tokens are appended to all layers at once, but for their keys and values. All layers'
 * blocks are counted together, so that a step is in all layers or in none, and all let go
 * before any takes. */
#include "dist/device_cache.h"

/* The part's sequence has the same tokens in all layers, and may go on at `at`. */
static banyan_status check_layers(const banyan_cache *c, const banyan_rows *part)
{
    const banyan_sequence *s = part->sequence;
    const int64_t length = s->layer[0].length; /* layer 0 has keys of its own */
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; i < c->plan->spec.layers && !status; i++) {
        if (!banyan_keeps_own(c->plan, i)) continue;
        if (s->layer[i].length != length)
            return banyan_fail(BANYAN_ERR_ARGUMENT,
                               "step: layer %d has %lld tokens, layer 0 has %lld: expected the "
                               "same in all layers",
                               (int)i, (long long)s->layer[i].length, (long long)length);
        status = banyan_check_append(c, i, part);
        if (!status) status = banyan_check_floor(c, i, part);
    }
    return status;
}

static banyan_status check_step_part(const banyan_cache *c, const banyan_rows *part)
{
    banyan_status status = banyan_check_rows(c, part);
    if (status || !part->rows) return status;
    if (part->sequence->call == c->calls)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "a sequence stands in two parts of a step: expected one");
    part->sequence->call = c->calls;
    return check_layers(c, part);
}

static banyan_status check_parts(banyan_cache *c, const banyan_rows *batch, int32_t count)
{
    int64_t rows = 0;
    c->calls++;
    for (int32_t i = 0; i < count; i++) {
        const banyan_mark mark = {"part", i};
        const banyan_status status = check_step_part(c, &batch[i]);
        if (status) return count > 1 ? banyan_fail_at(status, &mark, 1) : status;
        rows += batch[i].rows;
    }
    if (rows > c->plan->spec.max_rows)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "rows of all parts are %lld: expected at most %d (max_rows)",
                           (long long)rows, c->plan->spec.max_rows);
    return BANYAN_OK;
}

static banyan_status take_step_blocks(banyan_cache *c, const banyan_rows *batch, int32_t count)
{
    const banyan_call call = {.batch = batch, .count = count};
    c->steps++;
    const banyan_status status = banyan_append_blocks(c, &call, 0, c->plan->spec.layers - 1);
    if (status) return status;
    for (int32_t i = 0; i < count; i++) {
        banyan_sequence *s = batch[i].sequence;
        if (!batch[i].rows) continue;
        s->step = c->steps;
        s->step_at = batch[i].at;
        s->step_rows = batch[i].rows;
    }
    return c->device ? banyan_device_step(c, batch, count) : BANYAN_OK;
}

banyan_status banyan_cache_step(banyan_cache *cache, const banyan_rows *batch, int32_t count)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "step: cache is NULL");
    if (!batch || count < 1)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "step: a batch of %d parts, expected 1 or more",
                           batch ? count : 0);
    if (cache->plan->comm->broken) return banyan_comm_is_broken(cache->plan->comm);
    const int device = banyan_device_enter(cache);
    const int is_captured = cache->device && banyan_device_is_captured(cache);
    banyan_status status = is_captured ? banyan_device_record_step(cache, batch, count)
                                       : check_parts(cache, batch, count);
    if (!status && !is_captured) status = take_step_blocks(cache, batch, count);
    banyan_device_leave(cache, device);
    return status;
}
