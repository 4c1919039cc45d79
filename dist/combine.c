/* SPDX-License-Identifier: Apache-2.0 */
/* Results of the same rows that attended to different tokens, joined: a result and its lse are
 * a partial of l = 1,
 *
 *     S = sum_i exp(lse_i - M) + exp(sink - M)     out = sum_i exp(lse_i - M) out_i / S
 *                                                  lse = M + ln S
 *
 * with M the largest of them all. The sink joins here, once, since results of a range of tokens
 * have none. Sums are taken in double, in the order of the results, alike on every rank. */
#include "dist/device_cache.h"

#include <math.h>

typedef struct combine_call {
    const banyan_plan *plan;
    const banyan_kind *kind;
    int32_t layer, count;
    int64_t rows;
    const void *const *outs;
    const float *const *lses;
    void *out;
    float *lse;
} combine_call;

static int is_written_here(const combine_call *j, int64_t head)
{
    return j->plan->spec.out == BANYAN_OUT_ALL || j->kind->home[head] == j->plan->rank;
}

static double sink_of(const combine_call *j, int64_t head)
{
    const banyan_spec *spec = &j->plan->spec;
    return spec->sinks ? (double)spec->sinks[j->layer * (int64_t)spec->heads + head]
                       : -INFINITY;
}

/* `at`: of [rows][heads]. */
static void join_row(const combine_call *j, int64_t at, double sink)
{
    const banyan_dtype dtype = j->plan->spec.out_dtype;
    const int32_t value_dim = j->kind->shape.value_dim;
    const size_t bytes = (size_t)value_dim * banyan_dtype_bytes(dtype);
    double sum = 0, top = sink, mean[BANYAN_MAX_DIM] = {0};
    float row[BANYAN_MAX_DIM];
    for (int32_t i = 0; i < j->count; i++) {
        const double lse = (double)j->lses[i][at];
        if (lse > top || lse != lse) top = lse; /* NaN stays */
    }
    if (sink > -INFINITY) sum = exp(sink - top);
    for (int32_t i = 0; i < j->count; i++) {
        if (j->lses[i][at] == -INFINITY) continue; /* nothing was seen */
        const double weight = exp((double)j->lses[i][at] - top);
        banyan_to_float(row, (const char *)j->outs[i] + (size_t)at * bytes, dtype, value_dim);
        for (int32_t d = 0; d < value_dim; d++) mean[d] += weight * (double)row[d];
        sum += weight;
    }
    for (int32_t d = 0; d < value_dim; d++)
        row[d] = top == -INFINITY ? 0 : (float)(mean[d] / sum);
    banyan_from_float((char *)j->out + (size_t)at * bytes, dtype, row, value_dim);
    if (j->lse) j->lse[at] = top == -INFINITY ? -INFINITY : (float)(top + log(sum));
}

static void combine_head(void *arg, int64_t head, int32_t worker)
{
    (void)worker;
    const combine_call *j = arg;
    const banyan_spec *spec = &j->plan->spec;
    if (!is_written_here(j, head)) return;
    const double sink = sink_of(j, head);
    for (int64_t row = 0; row < j->rows; row++) join_row(j, row * spec->heads + head, sink);
}

static banyan_status check_combine(const banyan_cache *cache, const combine_call *j)
{
    const banyan_spec *spec = &cache->plan->spec;
    if (j->layer < 0 || j->layer >= spec->layers)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "combine: layer %d: the plan has layers 0..%d",
                           (int)j->layer, (int)spec->layers - 1);
    if (j->rows < 1 || j->count < 1)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "combine: %lld rows of %d results: expected 1 or more of both",
                           (long long)j->rows, (int)j->count);
    if (!j->outs || !j->lses || !j->out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "combine: %s is NULL",
                           !j->outs   ? "outs"
                           : !j->lses ? "lses"
                                      : "out");
    for (int32_t i = 0; i < j->count; i++)
        if (!j->outs[i] || !j->lses[i])
            return banyan_fail(BANYAN_ERR_ARGUMENT, "combine: result %d has no %s", (int)i,
                               j->outs[i] ? "lse" : "out");
    return BANYAN_OK;
}

static banyan_status join_on_device(banyan_cache *cache, const combine_call *j)
{
    const banyan_device_cache *d = cache->device;
    const banyan_spec *spec = &j->plan->spec;
    const float *sinks = spec->sinks ? spec->sinks + j->layer * (int64_t)spec->heads : NULL;
    for (int32_t h = 0; h < spec->heads; h++) d->is_mine[h] = (uint8_t)is_written_here(j, h);
    const int device = banyan_device_enter(cache);
    const char *failed =
        d->device->join(d->queue, j->outs, j->lses, j->count, sinks, d->is_mine, spec->heads,
                        j->kind->shape.value_dim, j->rows, j->out, spec->out_dtype, j->lse);
    banyan_device_leave(cache, device);
    return banyan_device_said(failed);
}

banyan_status banyan_combine(banyan_cache *cache, int32_t layer, int64_t rows, int32_t count,
                             const void *const *outs, const float *const *lses, void *out,
                             float *lse)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "combine: cache is NULL");
    combine_call j = {cache->plan, NULL, layer, count, rows, outs, lses, out, lse};
    const banyan_status status = check_combine(cache, &j);
    if (status != BANYAN_OK) return status;
    j.kind = banyan_plan_kind(cache->plan, layer);
    if (cache->device) return join_on_device(cache, &j);
    const int32_t heads = cache->plan->spec.heads;
    const int64_t numbers = rows * heads * j.kind->shape.value_dim * count;
    banyan_each(numbers < 1 << 16 ? 1 : cache->sizes.workers, heads, combine_head, &j);
    return BANYAN_OK;
}
