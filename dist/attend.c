/* SPDX-License-Identifier: Apache-2.0 */
/* The one verb. Append what is given, then attend in panels: compute this rank's partials,
 * merge them, write results. Decode is a part of one row, prefill one of many, a batch some of
 * each; nothing else differs. */
#include "dist/device_cache.h"
#include "dist/follow.h"

static banyan_status check_arrays(const banyan_cache *cache, const banyan_call *call)
{
    const banyan_spec *spec = &cache->plan->spec;
    if (call->layer < 0 || call->layer >= spec->layers)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "layer %d: the plan has layers 0..%d",
                           call->layer, spec->layers - 1);
    if (!call->batch || call->count < 1)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "attend: a batch of %d parts, expected 1 or more",
                           call->batch ? call->count : 0);
    if (banyan_plan_kind(cache->plan, call->layer)->shape.block.value_in_key) {
        if (call->v)
            return banyan_fail(BANYAN_ERR_ARGUMENT,
                               "v of layer %d, whose values are a part of its keys "
                               "(value_in_key): expected none",
                               call->layer);
    } else if (!call->k != !call->v) {
        return banyan_fail(BANYAN_ERR_ARGUMENT, "%s without %s: expected both or neither",
                           call->k ? "k" : "v", call->k ? "v" : "k");
    }
    if (call->k && call->cache_layer != call->layer)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "k and v of layer %d, which reads what layer %d keeps: expected "
                           "neither",
                           call->layer, call->cache_layer);
    if (!call->q && !call->k)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "neither q nor k and v: expected something to attend or append");
    if (call->q && !call->out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "q without out: expected a place for results");
    return BANYAN_OK;
}

banyan_status banyan_check_append(const banyan_cache *cache, int32_t index,
                                  const banyan_rows *part)
{
    const banyan_spec *spec = &cache->plan->spec;
    const banyan_layer *layer = &part->sequence->layer[index];
    const long long at = part->at, length = layer->length, longest = layer->longest;
    if (at > length)
        return banyan_fail(
            BANYAN_ERR_ARGUMENT,
            "at %lld leaves a gap: layer %d has %lld tokens, expected at <= %lld", at, index,
            length, length);
    if (at > spec->max_tokens - part->rows)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "at %lld with %d rows: past max_tokens %lld, expected at <= %lld",
                           at, part->rows, (long long)spec->max_tokens,
                           (long long)spec->max_tokens - part->rows);
    if (at < longest - spec->rollback_tokens)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "at %lld goes back too far: layer %d had %lld tokens and "
                           "rollback_tokens is %d, expected at >= %lld",
                           at, index, longest, spec->rollback_tokens,
                           longest - spec->rollback_tokens);
    return BANYAN_OK;
}

/* A call with k and v: may the part's rows be appended now, or were they by a step? */
static banyan_status check_appended(const banyan_cache *cache, const banyan_call *call,
                                    const banyan_rows *part)
{
    if (part->sequence->call == cache->calls)
        return banyan_fail(
            BANYAN_ERR_ARGUMENT,
            "a sequence stands in two parts of a call with k and v: expected one");
    return banyan_is_stepped(cache, part) ? BANYAN_OK
                                          : banyan_check_append(cache, call->layer, part);
}

banyan_status banyan_check_floor(const banyan_cache *cache, int32_t index,
                                 const banyan_rows *part)
{
    const banyan_layer *layer = &part->sequence->layer[index];
    if (part->at >= layer->floor) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_ARGUMENT,
                       "at %lld goes back too far: blocks that only rows before %lld read "
                       "are gone from layer %d (rollback_tokens is %d)",
                       (long long)part->at, (long long)layer->floor, index,
                       cache->plan->spec.rollback_tokens);
}

/* May the part's rows attend to what is there? */
static banyan_status check_attend_only(const banyan_call *call, const banyan_rows *part)
{
    const int64_t length = part->sequence->layer[call->cache_layer].length;
    if (part->at <= length - part->rows) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_ARGUMENT,
                       "at %lld with %d rows and no k, v: past the %lld tokens of layer %d",
                       (long long)part->at, part->rows, (long long)length, call->layer);
}

/* A range, and what else is asked of the rows. */
static banyan_status check_probes(const banyan_cache *cache, const banyan_rows *part)
{
    const int64_t max = cache->plan->spec.max_tokens;
    if ((part->first || part->end) && (part->first < 0 || part->end <= part->first))
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "first %lld, end %lld: expected 0 <= first < end, or 0 and 0 for "
                           "all",
                           (long long)part->first, (long long)part->end);
    if (cache->device && (part->strongest || (part->mass && part->probe_count > 1)))
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "device is \"%s\", which measures the mass of one probe and finds "
                           "no strongest token: expected device cpu for more",
                           cache->plan->spec.device);
    if (!part->mass) return BANYAN_OK;
    if (part->probe_count < 1 || !part->probes)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "mass without probes: expected 1 or more");
    for (int32_t i = 0; i < part->probe_count; i++) {
        const banyan_range *p = &part->probes[i];
        if (p->first < 0 || p->end < p->first || p->end > max)
            return banyan_fail(
                BANYAN_ERR_ARGUMENT,
                "probe %d: first %lld, end %lld: expected a range within 0..%lld", (int)i,
                (long long)p->first, (long long)p->end, (long long)max - 1);
    }
    return BANYAN_OK;
}

banyan_status banyan_check_rows(const banyan_cache *cache, const banyan_rows *part)
{
    const banyan_sequence *s = part->sequence;
    const int32_t most = cache->plan->spec.max_rows;
    if (part->rows < 0 || part->rows > most)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "rows %d: expected 0..%d (max_rows)",
                           part->rows, most);
    if (!part->rows) return BANYAN_OK;
    if (!s || s->cache != cache || !s->is_live)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "the part's sequence is %s: expected one of "
                           "this cache",
                           s ? "another cache's, or destroyed" : "NULL");
    if (part->at < 0)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "at %lld: expected 0 or more",
                           (long long)part->at);
    return BANYAN_OK;
}

static banyan_status check_call_part(const banyan_cache *cache, const banyan_call *call,
                                     const banyan_rows *part)
{
    banyan_status status = banyan_check_rows(cache, part);
    if (status || !part->rows) return status;
    status = call->k ? check_appended(cache, call, part) : check_attend_only(call, part);
    if (!status) status = banyan_check_floor(cache, call->cache_layer, part);
    return status ? status : check_probes(cache, part);
}

/* -1 outside the plan. */
static int32_t checked_cache_layer(const banyan_cache *cache, int32_t layer)
{
    const banyan_spec *spec = &cache->plan->spec;
    return layer >= 0 && layer < spec->layers ? spec->cache_layer[layer] : -1;
}

static banyan_status check_attend(banyan_cache *cache, banyan_call *call)
{
    if (cache->plan->comm->broken) return banyan_comm_is_broken(cache->plan->comm);
    banyan_status status = check_arrays(cache, call);
    int64_t rows = 0;
    if (!status && cache->device && banyan_device_records(cache))
        return banyan_device_check_recorded(cache, call);
    cache->calls++;
    for (int32_t i = 0; i < call->count && !status; i++) {
        const banyan_rows *part = &call->batch[i];
        const banyan_mark mark = {"part", i};
        status = check_call_part(cache, call, part);
        if (status) return call->count > 1 ? banyan_fail_at(status, &mark, 1) : status;
        if (!part->rows) continue;
        part->sequence->call = cache->calls;
        rows += part->rows;
        if (call->q && part->mass && part->probe_count > call->probes)
            call->probes = part->probe_count;
        call->strongest |= call->q && part->strongest;
    }
    if (status) return status;
    if (rows > cache->plan->spec.max_rows)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "rows of all parts are %lld: expected at most %d (max_rows)",
                           (long long)rows, cache->plan->spec.max_rows);
    call->rows = (int32_t)rows;
    return cache->device ? banyan_device_check(cache, call) : BANYAN_OK;
}

/* Partials that other ranks wait for come first: they are under way while the rest is
 * computed. */
static banyan_status attend_panel(banyan_cache *cache, const banyan_call *call,
                                  const banyan_panel *panel)
{
    const banyan_part *part = banyan_cache_part(cache, call->layer);
    const double start = banyan_seconds();
    banyan_status status = banyan_panel_pick(cache, call, panel);
    if (!status) status = cache->backend->compute(cache, call, panel, 0, part->early);
    const double early = banyan_seconds();
    if (!status) status = cache->backend->send(cache, call, panel);
    const double sent = banyan_seconds();
    if (!status)
        status = cache->backend->compute(cache, call, panel, part->early, part->mine_count);
    const double computed = banyan_seconds();
    if (!status) status = cache->backend->merge(cache, call, panel);
    for (int32_t i = 0; i < call->probes && cache->backend->probe && !status; i++)
        status = cache->backend->probe(cache, call, panel, i);
    if (!status && call->strongest)
        status = cache->backend->probe(cache, call, panel, BANYAN_WHAT_STRONGEST);
    cache->stats.attend_seconds += early - start + computed - sent;
    cache->stats.merge_seconds += sent - early + banyan_seconds() - computed;
    return status;
}

static banyan_status attend_panels(banyan_cache *cache, const banyan_call *call)
{
    int32_t most = cache->plan->panel_rows;
    if (call->probes && most > BANYAN_PROBE_ROWS) most = BANYAN_PROBE_ROWS;
    banyan_panel panel = {.attends = 1};
    while (banyan_panel_next(cache, call, most, &panel)) {
        const banyan_status status = attend_panel(cache, call, &panel);
        if (status != BANYAN_OK) {
            /* others may wait for ever for what we did not send */
            banyan_comm_break(cache->plan->comm);
            return status;
        }
        cache->stats.merges++;
    }
    return BANYAN_OK;
}

static banyan_status append_and_attend(banyan_cache *cache, const banyan_call *call)
{
    banyan_forget_followed(cache, call);
    if (call->k) {
        const double start = banyan_seconds();
        const banyan_status status = call->is_recorded ? cache->backend->write(cache, call)
                                                       : banyan_cache_append(cache, call);
        cache->stats.append_seconds += banyan_seconds() - start;
        if (status != BANYAN_OK) return status;
    }
    return call->q ? attend_panels(cache, call) : BANYAN_OK;
}

banyan_status banyan_attend(banyan_cache *cache, int32_t layer, const banyan_rows *batch,
                            int32_t count, const void *q, const void *k, const void *v,
                            void *out, float *lse)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "attend: cache is NULL");
    banyan_call call = {.layer = layer,
                        .cache_layer = checked_cache_layer(cache, layer),
                        .batch = batch,
                        .count = count,
                        .q = q,
                        .k = k,
                        .v = v,
                        .out = out,
                        .lse = lse};
    banyan_status status = check_attend(cache, &call);
    if (status != BANYAN_OK) return status;
    const int device = banyan_device_enter(cache);
    status = append_and_attend(cache, &call);
    banyan_device_leave(cache, device);
    return status;
}
