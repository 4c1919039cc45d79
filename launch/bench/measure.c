/* SPDX-License-Identifier: Apache-2.0 */
/* One row of the bench. The bound comes first, from what must be done whatever the code:
 *
 *     bytes   blocks that the last row reads x block_tokens x (key_dim + value_dim, or key_dim
 *             where values are a part of it) x format
 *     flops   (query row, token) pairs that are visible x 2 (key_dim + value_dim)
 *     bound   max(bytes / read bandwidth, flops / arithmetic rate)
 *
 * Ceilings and repetitions take turns, and each repetition is compared with the ceilings of
 * just before it:
 *
 *     ceilings 1 | repetition 1 | ceilings 2 | repetition 2 | ..      fraction = median of
 *                                                                     bound i / seconds i
 *
 * A repetition of a decode row is one call. A prefill is timed call by call as the sequence
 * grows, and its calls are dealt to four repetitions, 0 1 2 3 3 2 1 0 0 .., so that each of
 * them has a quarter of the work at every length. What it reads stays in the caches, so
 * arithmetic is its only bound. A peer has its turns between repetitions. */
#include "launch/bench/bench.h"

#include <stdlib.h>

enum { most_repetitions = 64, parts = 4 };

typedef struct repetition {
    rates at_most; /* of a prefill's part: their last */
    double bytes, flops, memory_bound, math_bound, seconds;
} repetition;

typedef struct measuring {
    const bench *b;
    const ceilings *c;
    sequence s;
    int threads;
    double bytes;  /* that a decode call reads */
    int64_t pairs; /* (query row, block) pairs counted so far */
    double enough; /* seconds of repetitions */
    int repetitions;
    repetition done[most_repetitions];
} measuring;

/* The operations of a call that has just been made: from the (row, block) pairs that the cache
 * counts, less what rows do not see of their own blocks. */
static double call_flops(measuring *m, int64_t at, int32_t rows)
{
    const banyan_spec *spec = banyan_plan_spec(m->s.plan);
    const int32_t block = spec->block_tokens;
    banyan_stats stats;
    banyan_cache_stats(m->s.cache, &stats);
    double unseen = 0, pairs = (double)(stats.pairs - m->pairs);
    for (int64_t t = at; t < at + rows; t++) unseen += block - 1 - (double)(t % block);
    unseen *= m->s.sequences * m->s.layers;
    m->pairs = stats.pairs;
    return (pairs * block - unseen * spec->heads) * 2 * (spec->key_dim + spec->value_dim);
}

/* A call, timed, and its bound added to a repetition. */
static banyan_status timed_call(measuring *m, int64_t at, int32_t rows, bool appends,
                                repetition *to)
{
    to->at_most = ceilings_measure(m->c, !appends);
    double start = pace_seconds(&m->b->pace, m->threads);
    banyan_status status = sequence_call(&m->s, at, rows, appends, true);
    to->seconds += pace_seconds(&m->b->pace, m->threads) - start;
    double flops = call_flops(m, at, rows);
    to->flops += flops;
    to->math_bound += flops / to->at_most.flops;
    if (!appends) to->bytes += m->bytes;
    if (!appends) to->memory_bound += m->bytes / to->at_most.read;
    return status;
}

static banyan_status bench_decode(measuring *m)
{
    const bench_row *row = m->s.row;
    const banyan_spec *spec = banyan_plan_spec(m->s.plan);
    const int64_t at = m->s.tokens - row->rows;
    const int least = m->b->pace.quick ? 1 : 7;
    banyan_share share;
    banyan_status status =
        banyan_plan_share(m->s.plan, 0, m->s.sequences, m->s.tokens - 1, &share);
    if (status) return status;
    m->bytes = (double)share.read_blocks * spec->block_tokens *
               (spec->key_dim + (row->value_in_key ? 0 : spec->value_dim)) *
               (double)banyan_dtype_bytes(spec->cache_dtype);

    status = sequence_fill(&m->s);
    if (!status) status = sequence_call(&m->s, at, row->rows, false, true); /* warms up */
    if (!status) call_flops(m, at, row->rows);
    double start = now_seconds();
    while (!status && m->repetitions < most_repetitions &&
           (m->repetitions < least || now_seconds() - start < m->enough)) {
        status = timed_call(m, at, row->rows, false, &m->done[m->repetitions++]);
        if (m->b->peer) bench_peer_turn(m->b->peer);
    }
    return status;
}

/* One pass over the sequence fills four repetitions. */
static banyan_status prefill_pass(measuring *m, double give_up)
{
    const int every = m->b->pace.quick || !m->s.row->every ? 1 : m->s.row->every;
    banyan_status status = sequence_new_cache(&m->s);
    int64_t call = 0, timed = 0;
    m->pairs = 0;
    for (int64_t at = 0; !status && at < m->s.tokens; at += SEQUENCE_CHUNK, call++) {
        int64_t left = m->s.tokens - at;
        int32_t rows = (int32_t)(left < SEQUENCE_CHUNK ? left : SEQUENCE_CHUNK);
        if (call % every != every - 1) {
            status = sequence_call(&m->s, at, rows, true, false);
            continue;
        }
        progress(m->b->j, "%s: %lld tokens", m->s.row->name, (long long)at);
        int64_t part = timed / parts % 2 ? parts - 1 - timed % parts : timed % parts;
        status = timed_call(m, at, rows, true, &m->done[m->repetitions + part]);
        if (m->b->peer && timed % parts == parts - 1) bench_peer_turn(m->b->peer);
        if (++timed >= parts && now_seconds() > give_up) break;
    }
    m->repetitions += timed < parts ? (int)timed : parts;
    return status;
}

static banyan_status bench_prefill(measuring *m)
{
    double start = now_seconds();
    banyan_status status = BANYAN_OK;
    do status = prefill_pass(m, start + 10 * m->enough + 1);
    while (!status && m->repetitions + parts <= most_repetitions &&
           now_seconds() - start < m->enough);
    return status;
}

static double median_of(const measuring *m, size_t offset, double *spread)
{
    double values[most_repetitions];
    for (int i = 0; i < m->repetitions; i++)
        values[i] = *(const double *)((const char *)&m->done[i] + offset);
    double median = numbers_median(values, m->repetitions);
    if (spread) *spread = numbers_spread(values, m->repetitions);
    return median;
}

static void summarise_bench(measuring *m, bench_result *out)
{
    double fraction[most_repetitions];
    for (int i = 0; i < m->repetitions; i++) {
        const repetition *r = &m->done[i];
        fraction[i] =
            (r->memory_bound > r->math_bound ? r->memory_bound : r->math_bound) / r->seconds;
    }
#define MEDIAN(field) median_of(m, offsetof(repetition, field), NULL)
    out->repetitions = m->repetitions;
    out->at_most = (rates){.read = MEDIAN(at_most.read), .flops = MEDIAN(at_most.flops)};
    out->bytes = MEDIAN(bytes);
    out->flops = MEDIAN(flops);
    out->memory_bound = MEDIAN(memory_bound);
    out->math_bound = MEDIAN(math_bound);
    out->seconds = median_of(m, offsetof(repetition, seconds), &out->spread);
    out->fraction = numbers_median(fraction, m->repetitions);
#undef MEDIAN
}

int bench_measure(const bench *b, ceilings *c, const bench_row *row, int threads,
                  bench_result *out)
{
    *out = (bench_result){.threads = threads};
    measuring m = {.b = b, .c = c, .threads = threads, .enough = b->pace.quick ? 0 : 0.8};
    banyan_status status =
        sequence_open(&m.s, row, b->pace.quick ? row->tokens / 64 : row->tokens, NULL, threads);
    if (!status) {
        out->kernel = banyan_plan_spec(m.s.plan)->kernel;
        if (!ceilings_choose(c, &b->pace, threads, out->kernel, row->dtype))
            status = BANYAN_ERR_MEMORY;
        out->math = c->math;
    }
    if (!status && b->peer)
        bench_peer_row(b->peer, row, b->pace.quick ? row->tokens / 64 : row->tokens, threads);
    if (!status) status = row->rows ? bench_decode(&m) : bench_prefill(&m);
    if (!status) summarise_bench(&m, out);
    progress_end(b->j);
    int code = status ? job_failed(b->j, status, row->name) : EXIT_OK;
    sequence_close(&m.s);
    return code;
}
