/* SPDX-License-Identifier: Apache-2.0 */
/* The uniform head: a query of zeros scores every key alike, so that
 *
 *     lse = ln n        out = (1/n) sum over visible tokens of their values
 *
 * and with a Hadamard row as each token's value, H' out n / D counts the visible tokens of each
 * class (D classes, a power of two). A block that is missing, doubled or merged with a wrong
 * weight changes both. This needs no model: keys and values are written straight into a
 * cache with the last layer's heads, rules and placement, on these ranks. */
#include "launch/needle/evaluate.h"

#include "launch/device.h"
#include "launch/single.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Neighbouring blocks, and neighbouring tokens, differ; no period of a power of two. */
static int32_t class_of(int64_t token, int32_t classes)
{
    return (int32_t)((token * 7 + token / 64 * 5 + token / 4093) % classes);
}

static float hadamard(int32_t row, int32_t column)
{
    return __builtin_popcount((unsigned)(row & column)) & 1 ? -1.0f : 1.0f;
}

/* Largest power of two that a value has room for. */
static int32_t classes_of(int32_t value_dim)
{
    int32_t classes = 1;
    while (classes * 2 <= value_dim) classes *= 2;
    return classes;
}

/* The spec of one layer that is like the last. rules: room for as many. */
static banyan_spec last_layer_spec(const evaluation *e, int64_t length, banyan_rule *rules)
{
    banyan_spec spec = e->spec;
    int32_t last = e->shape.layers - 1, count = 0;
    for (int32_t i = 0; i < e->spec.rule_count; i++) {
        banyan_rule r = e->spec.rules[i];
        if (last < r.first_layer || (r.last_layer >= 0 && last > r.last_layer)) continue;
        r.first_layer = 0;
        r.last_layer = -1;
        rules[count++] = r;
    }
    spec.rules = rules;
    spec.rule_count = count;
    spec.layers = 1;
    spec.heads = e->shape.heads;
    spec.kv_heads = e->shape.kv_heads;
    spec.key_dim = spec.value_dim = e->shape.head_dim;
    spec.shape_count = 0;
    spec.max_tokens = spec.planned_tokens = length;
    spec.in_dtype = spec.out_dtype = BANYAN_F32;
    spec.out = BANYAN_OUT_HOME;
    if (spec.lost_layer >= 0 && spec.lost_layer != last) spec.lost_rank = -1;
    spec.lost_layer = -1;
    return spec;
}

static banyan_status append_all(const evaluation *e, banyan_cache *cache,
                                banyan_sequence *sequence, int64_t length, int32_t max_rows,
                                int32_t classes, const device_array *keys,
                                const device_array *values)
{
    device *d = e->j->device;
    float *k = keys->host, *v = values->host;
    int32_t heads = e->shape.kv_heads, dim = e->shape.head_dim;
    uint64_t random = e->wish->seed;
    for (int64_t i = 0; i < (int64_t)max_rows * heads * dim; i++)
        k[i] = (float)(int64_t)needle_below(&random, 17) / 8 - 1;
    for (int64_t at = 0; at < length; at += max_rows) {
        int32_t rows = length - at < max_rows ? (int32_t)(length - at) : max_rows;
        for (int32_t i = 0; i < rows; i++) {
            int32_t row = class_of(at + i, classes);
            float *to = v + (int64_t)i * heads * dim;
            for (int32_t d = 0; d < dim; d++) to[d] = d < classes ? hadamard(row, d) : 0;
            for (int32_t h = 1; h < heads; h++)
                memcpy(to + (int64_t)h * dim, to, (size_t)dim * sizeof *to);
        }
        banyan_status status = device_send(d, keys, keys->bytes);
        if (!status) status = device_send(d, values, values->bytes);
        if (!status)
            status = single_attend(cache, sequence, 0, at, rows, NULL, keys->there,
                                   values->there, NULL, NULL);
        if (!status) status = device_wait(d);
        if (status) return status;
        progress(e->j, "uniform head, %lld tokens: %lld", (long long)length, (long long)at);
    }
    return BANYAN_OK;
}

/* Counts of visible tokens by class; returns all. */
static int64_t count_visible(const predictor *p, int32_t head, int64_t length, int32_t classes,
                             int64_t *count)
{
    int64_t all = 0;
    memset(count, 0, (size_t)classes * sizeof *count);
    for (int64_t t = 0; t < length; t++) {
        if (!predictor_reads(p, 0, head, length - 1, t)) continue;
        count[class_of(t, classes)]++;
        all++;
    }
    return all;
}

/* The heads whose home is here: worst[0] error of lse, worst[1] of a count. */
static void compare_uniform(const evaluation *e, const banyan_plan *plan, int64_t length,
                            int32_t classes, const float *out, const float *lse, int64_t *count,
                            double worst[2])
{
    predictor p;
    predictor_init(&p, plan, &e->constructed);
    for (int32_t h = 0; h < e->shape.heads; h++) {
        if (banyan_plan_home(plan, 0, h) != e->j->rank) continue;
        int64_t n = count_visible(&p, h, length, classes, count);
        const float *o = out + (int64_t)h * e->shape.head_dim;
        double error = n ? fabs((double)lse[h] - log((double)n)) : lse[h] == -INFINITY ? 0 : 1;
        if (!(error <= worst[0])) worst[0] = isfinite(error) ? error : 1e30;
        for (int32_t c = 0; c < classes; c++) {
            double sum = 0;
            for (int32_t d = 0; d < classes; d++) sum += (double)o[d] * hadamard(c, d);
            error = fabs(sum * (double)n / classes - (double)count[c]);
            if (!(error <= worst[1])) worst[1] = isfinite(error) ? error : 1e30;
        }
    }
}

/* What the call of the last row reads and writes. */
typedef struct arrays {
    device_array k, v, q, out, lse;
    int64_t *count; /* [classes] */
} arrays;

static banyan_status make_uniform_arrays(const evaluation *e, int32_t rows, int32_t classes,
                                         arrays *a)
{
    device *d = e->j->device;
    int32_t heads = e->shape.heads, dim = e->shape.head_dim;
    size_t kv = (size_t)rows * (size_t)e->shape.kv_heads * (size_t)dim * sizeof(float);
    size_t row = (size_t)heads * (size_t)dim * sizeof(float);
    banyan_status status = device_array_make(d, kv, DEVICE_NAN, &a->k);
    if (!status) status = device_array_make(d, kv, DEVICE_NAN, &a->v);
    if (!status) status = device_array_make(d, row, 0, &a->q);
    if (!status) status = device_array_make(d, row, 0, &a->out);
    if (!status) status = device_array_make(d, (size_t)heads * sizeof(float), 0, &a->lse);
    if (!status) a->count = malloc((size_t)classes * sizeof *a->count);
    return status ? status : a->count ? BANYAN_OK : BANYAN_ERR_MEMORY;
}

static void free_arrays(const evaluation *e, arrays *a)
{
    device_array *all[] = {&a->k, &a->v, &a->q, &a->out, &a->lse};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device_array_free(e->j->device, all[i]);
    free(a->count);
}

static banyan_status attend_last(const evaluation *e, banyan_cache *cache,
                                 banyan_sequence *sequence, int64_t length, const arrays *a)
{
    device *d = e->j->device;
    banyan_status status = single_attend(cache, sequence, 0, length - 1, 1, a->q.there, NULL,
                                         NULL, a->out.there, a->lse.there);
    if (!status) status = device_fetch(d, &a->out, a->out.bytes);
    return status ? status : device_fetch(d, &a->lse, a->lse.bytes);
}

static int measure_uniform(evaluation *e, const banyan_plan *plan, banyan_cache *cache,
                           banyan_sequence *sequence, int64_t length, double worst[2],
                           double seconds[2])
{
    int32_t classes = classes_of(e->shape.head_dim);
    int32_t rows = banyan_plan_spec(plan)->max_rows;
    arrays a = {0};
    int code = evaluation_agree(e, make_uniform_arrays(e, rows, classes, &a), "uniform head");
    if (!code) {
        double start = now_seconds();
        banyan_status status =
            append_all(e, cache, sequence, length, rows, classes, &a.k, &a.v);
        seconds[0] = now_seconds() - start;
        start = now_seconds();
        if (!status) status = attend_last(e, cache, sequence, length, &a);
        seconds[1] = now_seconds() - start;
        code = evaluation_agree(e, status, "uniform head");
    }
    if (!code) {
        compare_uniform(e, plan, length, classes, a.out.host, a.lse.host, a.count, worst);
        code = evaluation_agree(e, banyan_comm_allreduce(e->j->comm, worst, 2, BANYAN_MAX),
                                "uniform head");
    }
    free_arrays(e, &a);
    return code;
}

static int keep_uniform(evaluation *e, banyan_cache *cache, int64_t length,
                        const double worst[2], const double seconds[2])
{
    banyan_stats stats;
    banyan_cache_stats(cache, &stats);
    double sums[3] = {(double)stats.messages, (double)stats.bytes_sent, (double)stats.bytes};
    int code = evaluation_agree(e, banyan_comm_allreduce(e->j->comm, sums, 3, BANYAN_SUM),
                                "uniform head");
    if (code) return code;
    json_t *record = NULL;
    if (e->j->rank == 0) {
        usage used = {(int64_t)sums[0], (int64_t)sums[1], (int64_t)sums[2], 0};
        record = record_begin(e, "uniform", length, 0, 0);
        json_object_set_new(record, "lse_error", json_real(worst[0]));
        json_object_set_new(record, "error", json_real(worst[1]));
        json_object_set_new(record, "equal", json_boolean(worst[0] <= 1e-5 && worst[1] < .5));
        record_usage(record, &used, seconds[0], seconds[1]);
    }
    return evaluation_keep(e, record);
}

int evaluate_uniform(evaluation *e, int64_t length)
{
    bool missing;
    int32_t total;
    int code = evaluation_missing(e, "uniform", length, 0, 0, 1, &missing, &total);
    if (code || !total) return code;
    banyan_rule *rules = calloc((size_t)e->spec.rule_count + 1, sizeof *rules);
    code = evaluation_agree(e, rules ? BANYAN_OK : BANYAN_ERR_MEMORY, "uniform head");
    if (code) goto done;
    banyan_spec spec = last_layer_spec(e, length, rules);
    banyan_plan *plan = NULL;
    banyan_cache *cache = NULL;
    banyan_sequence *sequence = NULL;
    banyan_status status = banyan_plan_create(&spec, e->j->comm, &plan);
    if (!status)
        status =
            single_create_on(e->j->comm, plan, device_stream(e->j->device), &cache, &sequence);
    double worst[2] = {0}, seconds[2] = {0};
    code = status ? job_failed(e->j, status, "uniform head") : EXIT_OK;
    if (!code) code = measure_uniform(e, plan, cache, sequence, length, worst, seconds);
    if (!code) code = keep_uniform(e, cache, length, worst, seconds);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
done:
    free(rules);
    return code;
}
