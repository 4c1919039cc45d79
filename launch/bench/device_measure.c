/* SPDX-License-Identifier: Apache-2.0 */
/* Measuring a row on a device. What must be done whatever the code:
 *
 *     bytes   blocks that the last row reads x block_tokens x 2 dim x format
 *     flops   (query row, token) pairs that are visible x 4 dim
 *
 * Time is the device's own clock, from before the first of some calls to after the last, by
 * their number. A decode step is recorded as a graph where the library lets it be, and
 * replayed: then the host's part is not in it. Each repetition of a prefill is a pass over the
 * sequence from an empty cache, its appends included.
 *
 * Every call brings the same random chunk of tokens: they cost what any cost. q, k, v and out
 * are bf16. */
#include "launch/bench/device.h"

#include "launch/data.h"

#include <stdlib.h>
#include <string.h>

enum { chunk = 8192, distinct = 256, most_repetitions = 31 };

typedef struct device_work {
    const bench *b;
    const device_bench_row *row;
    device *d;
    banyan_comm *comm;
    banyan_plan *plan;
    banyan_cache *cache;
    banyan_sequence *sequence;
    device_array q, k, v, out; /* [rows of a call][heads][dim] */
    int64_t tokens, from;
    int32_t rows; /* the most of a call */
    double seconds[most_repetitions];
    int repetitions;
} device_work;

/* bf16 rows of random numbers, the first `distinct` of them again and again. */
static banyan_status make_bf16_rows(device_work *w, int32_t heads, int what, device_array *out)
{
    const int64_t width = (int64_t)heads * w->row->dim;
    const size_t bytes = (size_t)(w->rows * width) * sizeof(uint16_t);
    float *row = malloc((size_t)w->row->dim * sizeof *row);
    banyan_status status = device_array_make(w->d, bytes, DEVICE_NAN, out);
    if (!row && !status) status = BANYAN_ERR_MEMORY;
    uint16_t *to = out->host;
    for (int64_t i = 0; i < w->rows && !status; i++, to += width) {
        if (i >= distinct) {
            memcpy(to, to - distinct * width, (size_t)width * sizeof *to);
            continue;
        }
        for (int32_t h = 0; h < heads; h++) {
            data_row(row, 1, what, 0, i, h, w->row->dim);
            data_round_bf16(row, w->row->dim);
            for (int32_t n = 0; n < w->row->dim; n++) {
                uint32_t bits;
                memcpy(&bits, &row[n], sizeof bits);
                to[h * w->row->dim + n] = (uint16_t)(bits >> 16);
            }
        }
    }
    free(row);
    return status ? status : device_send(w->d, out, bytes);
}

static banyan_status make_plan(device_work *w)
{
    const device_bench_row *row = w->row;
    const banyan_rule rules[] = {
        {.last_layer = -1, .last_head = -1, .use = row->use ? row->use : "dense"},
        {.last_layer = row->dense_layers - 1, .last_head = -1, .use = "dense"}};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = row->layers;
    spec.heads = row->heads;
    spec.kv_heads = row->kv_heads;
    spec.key_dim = row->dim;
    spec.cache_dtype = row->dtype;
    spec.in_dtype = spec.out_dtype = BANYAN_BF16;
    spec.max_tokens = w->tokens;
    spec.max_rows = w->rows;
    spec.rollback_tokens = 1;
    spec.rules = rules;
    spec.rule_count = row->dense_layers ? 2 : 1;
    spec.device = w->d->row->name;
    banyan_status status = banyan_comm_create("self", NULL, &w->comm);
    return status ? status : banyan_plan_create(&spec, w->comm, &w->plan);
}

static banyan_status new_cache(device_work *w)
{
    banyan_cache_destroy(w->cache);
    w->cache = NULL;
    return single_create(w->plan, device_stream(w->d), &w->cache, &w->sequence);
}

static banyan_status call_layers(device_work *w, int64_t at, int32_t rows, bool appends,
                                 bool attends)
{
    banyan_status status = BANYAN_OK;
    for (int32_t layer = 0; layer < w->row->layers && !status; layer++)
        status =
            single_attend(w->cache, w->sequence, layer, at, rows, attends ? w->q.there : NULL,
                          appends ? w->k.there : NULL, appends ? w->v.there : NULL,
                          attends ? w->out.there : NULL, NULL);
    return status;
}

/* Tokens first .. end-1, in calls of w->rows. */
static banyan_status calls(device_work *w, int64_t first, int64_t end, bool attends)
{
    banyan_status status = BANYAN_OK;
    for (int64_t at = first; at < end && !status; at += w->rows) {
        const int64_t left = end - at;
        progress(w->b->j, "%s: %lld tokens", w->row->name, (long long)at);
        status = call_layers(w, at, left < w->rows ? (int32_t)left : w->rows, true, attends);
    }
    return status;
}

static banyan_status mark_stream(device_work *w, int which)
{
    return device_said(w->d, w->d->row->mark(w->d->own, which));
}

/* One decode step as a graph; NULL where the library or the device refuses. What it said is no
 * error then: the step is simply called. */
static void *record(device_work *w)
{
    void *graph = NULL;
    const device_row *r = w->d->row;
    if (r->capture(w->d->own)) return NULL;
    const banyan_status status = call_layers(w, w->tokens - 1, 1, false, true);
    const char *words = r->captured(w->d->own, &graph);
    if (!status && !words) return graph;
    if (graph) r->drop(w->d->own, graph);
    return NULL;
}

static banyan_status time_decode(device_work *w, device_result *out)
{
    const device_row *r = w->d->row;
    const int least = w->b->pace.quick ? 1 : 7, steps = w->b->pace.quick ? 1 : 16;
    banyan_status status = new_cache(w);
    if (!status) status = calls(w, 0, w->tokens, false);
    if (!status) status = call_layers(w, w->tokens - 1, 1, false, true); /* warms up */
    if (!status) status = device_wait(w->d);
    if (status) return status;
    void *graph = record(w);
    const double start = now_seconds();
    while (!status && w->repetitions < most_repetitions &&
           (w->repetitions < least || (!w->b->pace.quick && now_seconds() - start < 0.8))) {
        double *seconds = &w->seconds[w->repetitions++];
        status = mark_stream(w, 0);
        for (int i = 0; i < steps && !status; i++)
            status = graph ? device_said(w->d, r->replay(w->d->own, graph))
                           : call_layers(w, w->tokens - 1, 1, false, true);
        if (!status) status = mark_stream(w, 1);
        if (!status) status = device_said(w->d, r->elapsed(w->d->own, seconds));
        *seconds /= steps;
    }
    out->is_replayed = graph != NULL;
    if (graph) r->drop(w->d->own, graph);
    return status;
}

static banyan_status time_prefill(device_work *w)
{
    const int least = w->b->pace.quick ? 1 : 3;
    const double start = now_seconds();
    banyan_status status = BANYAN_OK;
    /* the first pass warms up */
    for (int i = w->b->pace.quick ? 0 : -1;
         !status && w->repetitions < most_repetitions &&
         (w->repetitions < least || (!w->b->pace.quick && now_seconds() - start < 2));
         i++) {
        double seconds = 0;
        status = new_cache(w);
        if (!status) status = calls(w, 0, w->from, false);
        if (!status) status = mark_stream(w, 0);
        if (!status) status = calls(w, w->from, w->tokens, true);
        if (!status) status = mark_stream(w, 1);
        if (!status) status = device_said(w->d, w->d->row->elapsed(w->d->own, &seconds));
        if (i >= 0) w->seconds[w->repetitions++] = seconds;
    }
    return status;
}

/* From the plan and the pairs that the cache counted in the last pass, or of one decoded
 * row. */
static banyan_status count_work(device_work *w, device_result *out)
{
    const banyan_spec *s = banyan_plan_spec(w->plan);
    banyan_share share;
    banyan_stats stats;
    banyan_status status = banyan_plan_share(w->plan, 0, 1, w->tokens, &share);
    if (status) return status;
    banyan_cache_stats(w->cache, &stats);
    const double pair = 2.0 * (s->key_dim + s->value_dim);
    double pairs = (double)(is_decode(w->row) ? share.pairs : stats.pairs), unseen = 0;
    for (int64_t t = w->from; t < w->tokens; t++)
        unseen += s->block_tokens - 1 - (double)(t % s->block_tokens);
    out->flops = (pairs * s->block_tokens - unseen * s->heads * s->layers) * pair;
    if (is_decode(w->row))
        out->bytes = (double)share.read_blocks * s->block_tokens * (s->key_dim + s->value_dim) *
                     (double)banyan_dtype_bytes(s->cache_dtype);
    return BANYAN_OK;
}

static banyan_status measure_on_device(device_work *w, device_result *out)
{
    const device_bench_row *row = w->row;
    banyan_status status = make_plan(w);
    if (status) return status;
    out->kernel = banyan_plan_spec(w->plan)->kernel;
    if (!status) status = make_bf16_rows(w, row->heads, DATA_Q, &w->q);
    if (!status) status = make_bf16_rows(w, row->kv_heads, DATA_K, &w->k);
    if (!status) status = make_bf16_rows(w, row->kv_heads, DATA_V, &w->v);
    if (!status) status = make_bf16_rows(w, row->heads, DATA_Q, &w->out);
    if (!status) status = is_decode(row) ? time_decode(w, out) : time_prefill(w);
    if (!status) status = count_work(w, out);
    if (status) return status;
    out->repetitions = w->repetitions;
    out->seconds = numbers_median(w->seconds, w->repetitions);
    out->spread = numbers_spread(w->seconds, w->repetitions);
    return BANYAN_OK;
}

banyan_status device_measure(const bench *b, const device_bench_row *row, device_result *out)
{
    *out = (device_result){0};
    device_work w = {.b = b, .row = row, .d = b->j->device};
    const int part = b->pace.quick ? 64 : 1;
    w.tokens = row->tokens / part;
    w.from = is_decode(row) ? w.tokens - 1 : row->from / part;
    w.rows = w.tokens < chunk ? (int32_t)w.tokens : chunk;
    w.d->why[0] = 0;
    banyan_status status =
        ceilings_copy(w.d, (int64_t)(b->pace.quick ? 1 << 20 : 1 << 30), &out->copy);
    if (!status) status = ceilings_matrix(w.d, b->pace.quick ? 64 : 8192, &out->matrix);
    if (!status) status = measure_on_device(&w, out);
    progress_end(b->j);
    device_wait(w.d); /* what failed may have left work behind */
    banyan_cache_destroy(w.cache);
    if (status || !out->kernel) out->kernel = "?";
    banyan_plan_destroy(w.plan);
    banyan_comm_destroy(w.comm);
    device_array *all[] = {&w.q, &w.k, &w.v, &w.out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) device_array_free(w.d, all[i]);
    return status;
}
