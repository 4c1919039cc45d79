/* SPDX-License-Identifier: Apache-2.0 */
/* The one verb. Append what is given, then attend in panels: compute this rank's partials, merge
 * them, write results. Decode is a call of one row, prefill one of many; nothing else differs. */
#include "dist/device_cache.h"

static banyan_status check_arrays(const banyan_cache *cache, const banyan_call *call)
{
    const banyan_spec *spec = &cache->plan->spec;
    if (call->layer < 0 || call->layer >= spec->layers)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "layer %d: the plan has layers 0..%d",
                           call->layer, spec->layers - 1);
    if (call->rows < 1 || call->rows > spec->max_rows)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "rows %d: expected 1..%d (max_rows)",
                           call->rows, spec->max_rows);
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

/* May rows `at` .. at+rows-1 be appended now? */
static banyan_status check_append(const banyan_cache *cache, const banyan_call *call)
{
    const banyan_spec *spec = &cache->plan->spec;
    const banyan_layer *layer = &cache->layer[call->cache_layer];
    long long at = call->at, length = layer->length, longest = layer->longest;
    if (at > length)
        return banyan_fail(
            BANYAN_ERR_ARGUMENT,
            "at %lld leaves a gap: layer %d has %lld tokens, expected at <= %lld", at,
            call->layer, length, length);
    if (at > spec->max_tokens - call->rows)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "at %lld with %d rows: past max_tokens %lld, expected at <= %lld",
                           at, call->rows, (long long)spec->max_tokens,
                           (long long)spec->max_tokens - call->rows);
    if (at < longest - spec->rollback_tokens)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "at %lld goes back too far: layer %d had %lld tokens and "
                           "rollback_tokens is %d, expected at >= %lld",
                           at, call->layer, longest, spec->rollback_tokens,
                           longest - spec->rollback_tokens);
    return BANYAN_OK;
}

/* May rows `at` .. at+rows-1 attend to what is there? */
static banyan_status check_attend_only(const banyan_cache *cache, const banyan_call *call)
{
    const banyan_layer *layer = &cache->layer[call->cache_layer];
    long long at = call->at, length = layer->length;
    if (at > length - call->rows)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "at %lld with %d rows and no k, v: past the %lld tokens of layer %d",
                           at, call->rows, length, call->layer);
    if (at < layer->floor)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "at %lld goes back too far: blocks that only rows before %lld read "
                           "are gone from layer %d (rollback_tokens is %d)",
                           at, (long long)layer->floor, call->layer,
                           cache->plan->spec.rollback_tokens);
    return BANYAN_OK;
}

/* -1 outside the plan. */
static int32_t cache_layer_of(const banyan_cache *cache, int32_t layer)
{
    const banyan_spec *spec = &cache->plan->spec;
    return layer >= 0 && layer < spec->layers ? spec->cache_layer[layer] : -1;
}

static banyan_status check(const banyan_cache *cache, const banyan_call *call)
{
    if (cache->plan->comm->broken)
        return banyan_fail(BANYAN_ERR_COMM, "this comm is broken: an earlier transfer failed");
    banyan_status status = check_arrays(cache, call);
    if (status != BANYAN_OK) return status;
    if (call->at < 0)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "at %lld: expected 0 or more",
                           (long long)call->at);
    status = call->k ? check_append(cache, call) : check_attend_only(cache, call);
    return status || !cache->device ? status : banyan_device_check(cache, call);
}

/* Partials that other ranks wait for come first: they are under way while the rest is computed. */
static banyan_status attend_panel(banyan_cache *cache, const banyan_call *call, int32_t first,
                                  int32_t rows)
{
    const banyan_part *part = banyan_cache_part(cache, call->layer);
    const double start = banyan_seconds();
    banyan_status status = cache->way->compute(cache, call, first, rows, 0, part->early);
    const double early = banyan_seconds();
    if (!status) status = cache->way->send(cache, call, first, rows);
    const double sent = banyan_seconds();
    if (!status)
        status = cache->way->compute(cache, call, first, rows, part->early, part->mine_count);
    const double computed = banyan_seconds();
    if (!status) status = cache->way->merge(cache, call, first, rows);
    cache->stats.attend_seconds += early - start + computed - sent;
    cache->stats.merge_seconds += sent - early + banyan_seconds() - computed;
    return status;
}

static banyan_status attend_panels(banyan_cache *cache, const banyan_call *call)
{
    int32_t most = cache->plan->panel_rows;
    if (call->mass && most > BANYAN_PROBE_ROWS) most = BANYAN_PROBE_ROWS;
    for (int32_t first = 0; first < call->rows; first += most) {
        int32_t rows = call->rows - first < most ? call->rows - first : most;
        banyan_status status = attend_panel(cache, call, first, rows);
        if (status != BANYAN_OK) {
            cache->plan->comm->broken =
                1; /* others may wait for ever for what we did not send */
            return status;
        }
    }
    return BANYAN_OK;
}

static banyan_status append_and_attend(banyan_cache *cache, const banyan_call *call)
{
    if (call->k) {
        const double start = banyan_seconds();
        const banyan_status status = banyan_cache_append(cache, call);
        cache->stats.append_seconds += banyan_seconds() - start;
        if (status != BANYAN_OK) return status;
    }
    if (!call->q) return BANYAN_OK;
    cache->probe = NULL;
    return attend_panels(cache, call);
}

banyan_status banyan_attend(banyan_cache *cache, int32_t layer, int64_t at, int32_t rows,
                            const void *q, const void *k, const void *v, void *out, float *lse)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "attend: cache is NULL");
    banyan_call call = {.layer = layer,
                        .cache_layer = cache_layer_of(cache, layer),
                        .at = at,
                        .rows = rows,
                        .q = q,
                        .k = k,
                        .v = v,
                        .out = out,
                        .lse = lse,
                        .mass = q ? cache->probe : NULL};
    banyan_status status = check(cache, &call);
    if (status != BANYAN_OK) return status;
    const int device = banyan_device_enter(cache);
    status = append_and_attend(cache, &call);
    banyan_device_leave(cache, device);
    return status;
}
