/* SPDX-License-Identifier: Apache-2.0 */
/* One row of the bench. The bound comes first, from what must be done whatever the code:
 *
 *     bytes   blocks that the last row reads x block_tokens x (key_dim + value_dim) x format
 *     flops   (query row, token) pairs that are visible x 2 (key_dim + value_dim)
 *     bound   max(bytes / read bandwidth, flops / arithmetic rate)
 *
 * both ceilings measured in this process with as many threads. Keys are the same random chunk over
 * and over: they cost what any keys cost. */
#include "launch/bench/bench.h"

#include "launch/data.h"

#include <stdlib.h>
#include <string.h>

enum { most_repetitions = 64, chunk_rows = 512 };

typedef struct bench_run {
    const job *j;
    const bench_row *row;
    banyan_comm *comm;
    banyan_plan *plan;
    banyan_cache *cache;
    int64_t tokens;
    float *q, *k, *v, *out;
    double seconds[most_repetitions];
} bench_run;

static float *make_array(int64_t rows, int32_t heads, int32_t dim, int what)
{
    size_t bytes = (size_t)rows * (size_t)heads * (size_t)dim * sizeof(float);
    float *array = aligned_alloc(64, (bytes + 63) / 64 * 64);
    for (int64_t i = 0; array && i < rows; i++)
        for (int32_t h = 0; h < heads; h++)
            data_row(array + (i * heads + h) * dim, 1, what, 0, i, h, dim);
    return array;
}

static banyan_status prepare(bench_run *b, int threads)
{
    const bench_row *row = b->row;
    banyan_spec s;
    banyan_spec_init(&s);
    banyan_rule rule = {.last_layer = -1, .last_head = -1, .use = row->use};
    s.layers = 1;
    s.heads = row->heads;
    s.kv_heads = row->kv_heads;
    s.key_dim = row->key_dim;
    s.value_dim = row->value_dim;
    s.cache_dtype = row->dtype;
    s.kernel = row->kernel;
    s.max_tokens = b->tokens;
    s.max_rows = chunk_rows;
    s.rollback_tokens = row->rows;
    s.threads = threads;
    s.rules = row->use ? &rule : NULL;
    s.rule_count = row->use ? 1 : 0;
    banyan_status status = banyan_comm_create("self", NULL, &b->comm);
    if (!status) status = banyan_plan_create(&s, b->comm, &b->plan);
    if (status) return status;
    b->q = make_array(chunk_rows, s.heads, s.key_dim, DATA_Q);
    b->k = make_array(chunk_rows, s.kv_heads, s.key_dim, DATA_K);
    b->v = make_array(chunk_rows, s.kv_heads, s.value_dim, DATA_V);
    b->out = make_array(chunk_rows, s.heads, s.value_dim, DATA_Q);
    return b->q && b->k && b->v && b->out ? BANYAN_OK : BANYAN_ERR_MEMORY;
}

static void finish(bench_run *b)
{
    free(b->q);
    free(b->k);
    free(b->v);
    free(b->out);
    banyan_cache_destroy(b->cache);
    banyan_plan_destroy(b->plan);
    banyan_comm_destroy(b->comm);
}

/* A new cache with all tokens in it, attended to or not. */
static banyan_status fill(bench_run *b, bool attends)
{
    banyan_cache_destroy(b->cache);
    b->cache = NULL;
    banyan_status status = banyan_cache_create(b->plan, NULL, &b->cache);
    for (int64_t at = 0; !status && at < b->tokens; at += chunk_rows) {
        int64_t rows = b->tokens - at < chunk_rows ? b->tokens - at : chunk_rows;
        if (attends) progress(b->j, "%s: %lld tokens", b->row->name, (long long)at);
        status = banyan_attend(b->cache, 0, at, (int32_t)rows, attends ? b->q : NULL, b->k,
                               b->v, attends ? b->out : NULL, NULL);
    }
    return status;
}

static banyan_status once(bench_run *b, double *seconds)
{
    double start = now_seconds();
    banyan_status status = b->row->rows == 0
                               ? fill(b, true)
                               : banyan_attend(b->cache, 0, b->tokens - b->row->rows,
                                               b->row->rows, b->q, NULL, NULL, b->out, NULL);
    *seconds = now_seconds() - start;
    return status;
}

/* Visible (query row, token) pairs of one repetition, from the (row, block) pairs that the cache
 * counts: of its own block, a row sees the tokens up to itself. */
static double visible_pairs(const bench_run *b, double pairs)
{
    double block = banyan_plan_spec(b->plan)->block_tokens, unseen = 0;
    int64_t first = b->row->rows ? b->tokens - b->row->rows : 0;
    for (int64_t t = first; t < b->tokens; t++)
        unseen += block - 1 - (double)(t % (int64_t)block);
    return pairs * block - unseen * b->row->heads;
}

static banyan_status derive(const bench_run *b, double pairs, bench_result *out)
{
    const banyan_spec *s = banyan_plan_spec(b->plan);
    banyan_share share;
    banyan_status status = banyan_plan_share(b->plan, 0, b->tokens, &share);
    if (status) return status;
    double width = s->key_dim + s->value_dim;
    out->bytes = (double)share.read_blocks * s->block_tokens * width *
                 (double)banyan_dtype_bytes(s->cache_dtype);
    out->flops = visible_pairs(b, pairs) * 2 * width;
    out->memory_bound = b->row->rows ? out->bytes / out->at_most.read : 0;
    out->math_bound = out->flops / out->at_most.flops;
    return BANYAN_OK;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Until a second has passed (decode) or three times (prefill); the first decode warms up. */
static banyan_status repeat(bench_run *b, bool quick, bench_result *out)
{
    int least = quick ? 1 : b->row->rows ? 7 : 3, count = 0;
    double passed = 0, enough = quick ? 0 : b->row->rows ? 2 : 0;
    banyan_status status = BANYAN_OK;
    if (b->row->rows) status = once(b, &b->seconds[0]);
    while (!status && count < most_repetitions && (count < least || passed < enough)) {
        status = once(b, &b->seconds[count]);
        passed += b->seconds[count++];
        if (passed > 40) break;
    }
    if (status) return status;
    qsort(b->seconds, (size_t)count, sizeof(double), compare);
    out->repetitions = count;
    out->median = b->seconds[count / 2];
    out->spread = (b->seconds[count * 3 / 4] - b->seconds[count / 4]) / 2 / out->median;
    return BANYAN_OK;
}

static banyan_status measure(bench_run *b, int threads, bool quick, bench_result *out)
{
    banyan_stats before = {0}, after;
    banyan_status status = prepare(b, threads);
    if (!status && b->row->rows) status = fill(b, false);
    if (status) return status;
    out->threads = threads;
    out->kernel = banyan_plan_spec(b->plan)->kernel;
    if (!ceilings_measure(threads, quick, out->kernel, b->row->dtype, &out->at_most))
        return BANYAN_ERR_MEMORY;
    if (b->row->rows) {
        double warm;
        banyan_cache_stats(b->cache, &before);
        status = once(b, &warm);
        banyan_cache_stats(b->cache, &after);
    }
    if (!status) status = repeat(b, quick, out);
    if (status) return status;
    if (!b->row->rows) banyan_cache_stats(b->cache, &after); /* a fresh cache each time */
    return derive(b, (double)(after.pairs - before.pairs), out);
}

int bench_measure(const job *j, const bench_row *row, int threads, bool quick,
                  bench_result *out)
{
    *out = (bench_result){0};
    bench_run b = {.j = j, .row = row, .tokens = quick ? row->tokens / 64 : row->tokens};
    banyan_status status = measure(&b, threads, quick, out);
    progress_end(j);
    int code = status ? job_failed(j, status, row->name) : EXIT_OK;
    finish(&b);
    return code;
}
