/* SPDX-License-Identifier: Apache-2.0 */
/* Decode steps take no memory but the blocks that they append: resident memory grows by their
 * bytes, rounded up to pages in each KV head's records, and the heap does not grow at all.
 * (That no step calls an allocator, not even to give back at once, is counted by
 * tests/dist/steady_test.c.) */
#include "launch/bench/bench.h"

#include "launch/columns.h"

#include <jansson.h>
#include <malloc.h>
#include <unistd.h>

const char steady_name[] = "decode 1000 steps";

typedef struct memory {
    double resident, heap; /* bytes */
    banyan_stats cache;
} memory;

typedef struct growth {
    const char *kernel;
    int threads;
    double resident, most, heap; /* bytes; most: the bar of resident */
    double step_seconds;
} growth;

/* Bytes that allocations hold; 0 where the C library does not tell. */
static double heap_bytes(void)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
    struct mallinfo2 info = mallinfo2();
    return (double)info.uordblks + (double)info.hblkhd;
#else
    return 0;
#endif
}

static memory look(const sequence *s)
{
    memory m = {0};
    banyan_cache_stats(s->cache, &m.cache);
    m.heap = heap_bytes();
    m.resident = (double)memory_resident();
    return m;
}

static banyan_status append_steps(sequence *s, int64_t at, int64_t steps)
{
    banyan_status status = BANYAN_OK;
    for (int64_t i = 0; !status && i < steps; i++)
        status = sequence_call(s, at + i, 1, true, true);
    return status;
}

static banyan_status measure_growth(sequence *s, const bench *b, int64_t first, int64_t steps,
                                    growth *out)
{
    enum { WARM = 64 };
    banyan_status status = sequence_new_cache(s);
    for (int64_t at = 0; !status && at < first; at += SEQUENCE_CHUNK)
        status = sequence_call(s, at, SEQUENCE_CHUNK, true, false);
    if (!status) status = append_steps(s, first, WARM);
    if (status) return status;
    look(s); /* whatever looking takes, it has taken now */
    memory before = look(s);
    double start = pace_seconds(&b->pace, out->threads);
    status = append_steps(s, first + WARM, steps);
    out->step_seconds = (pace_seconds(&b->pace, out->threads) - start) / (double)steps;
    memory after = look(s);
    out->resident = after.resident - before.resident;
    out->heap = after.heap - before.heap;
    out->most = (double)(after.cache.bytes - before.cache.bytes) +
                s->row->kv_heads * (double)sysconf(_SC_PAGESIZE);
    return status;
}

static void print_growth(const bench *b, const growth *g)
{
    bool is_above = g->resident > g->most || g->heap > 0;
    wrapped(stdout, b->is_wide, BENCH_WORDS,
            "%-24s %-11s %7d | resident memory grew by %.0f KiB (at most %.0f: appended blocks "
            "and page ends), the heap by %.0f bytes%s; %.3f ms a step",
            steady_name, g->kernel, g->threads, g->resident / 1024, g->most / 1024, g->heap,
            is_above ? ": above" : "", g->step_seconds * 1e3);
    if (!b->json) return;
    json_t *line =
        json_pack("{s:s,s:s,s:i,s:f,s:f,s:f,s:f}", "row", steady_name, "kernel", g->kernel,
                  "threads", g->threads, "resident_growth", g->resident, "resident_bar",
                  g->most, "heap_growth", g->heap, "step_seconds", g->step_seconds);
    output_line(b->json, line);
}

int steady_run(const bench *b, int threads)
{
    const bench_row row = {.name = steady_name,
                           .heads = 32,
                           .kv_heads = 8,
                           .key_dim = 128,
                           .value_dim = 128,
                           .dtype = BANYAN_BF16};
    const int64_t steps = b->pace.quick ? 100 : 1000,
                  first = (b->pace.quick ? 1 : 32) * SEQUENCE_CHUNK;
    growth g = {.threads = threads};
    sequence s;
    banyan_status status = sequence_open(&s, &row, first + 2 * steps, NULL, threads);
    if (!status) status = measure_growth(&s, b, first, steps, &g);
    int code = status ? job_failed(b->j, status, steady_name) : EXIT_OK;
    if (!code) {
        g.kernel = banyan_plan_spec(s.plan)->kernel;
        print_growth(b, &g);
    }
    sequence_close(&s);
    return code;
}
