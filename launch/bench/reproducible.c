/* SPDX-License-Identifier: Apache-2.0 */
/* What reproducible results cost: decode calls over 1,048,576 tokens with fixed-point sums
 * against the same calls without. Both have their plan, cache and arrays; they take turns, now
 * one first and now the other, and each turn is compared with its neighbour. Two KV heads with
 * their four query heads each: what a block costs is the same for more, and both caches are far
 * larger than the processor's. */
#include "launch/bench/bench.h"

#include "launch/columns.h"

#include <jansson.h>

const char reproducible_name[] = "decode reproducible";

static const bench_row usual = {.name = reproducible_name,
                                .heads = 8,
                                .kv_heads = 2,
                                .key_dim = 128,
                                .value_dim = 128,
                                .dtype = BANYAN_BF16,
                                .tokens = 1024 * 1024,
                                .rows = 1};
static const double bar = 1.10;

enum { most_turns = 31 };

typedef struct cost {
    sequence exact, usual;
    int turns;
    double exact_seconds[most_turns], usual_seconds[most_turns], ratio[most_turns];
} cost;

static banyan_status time_step(const bench *b, sequence *s, int threads, double *seconds)
{
    double start = pace_seconds(&b->pace, threads);
    banyan_status status = sequence_call(s, s->tokens - 1, 1, false, true);
    *seconds = pace_seconds(&b->pace, threads) - start;
    return status;
}

static banyan_status time_exact_and_usual(const bench *b, cost *c, int threads)
{
    const int i = c->turns++, swap = i % 2;
    double *seconds[2] = {&c->exact_seconds[i], &c->usual_seconds[i]};
    sequence *s[2] = {&c->exact, &c->usual};
    banyan_status status = time_step(b, s[swap], threads, seconds[swap]);
    if (!status) status = time_step(b, s[!swap], threads, seconds[!swap]);
    c->ratio[i] = c->exact_seconds[i] / c->usual_seconds[i];
    return status;
}

static banyan_status measure_cost(const bench *b, cost *c, const bench_row *exact, int threads)
{
    const int64_t tokens = b->pace.quick ? usual.tokens / 64 : usual.tokens;
    banyan_status status = sequence_open(&c->exact, exact, tokens, NULL, threads);
    if (!status) status = sequence_open(&c->usual, &usual, tokens, NULL, threads);
    if (!status) status = sequence_fill(&c->exact);
    if (!status) status = sequence_fill(&c->usual);
    if (!status) status = time_exact_and_usual(b, c, threads); /* warms up */
    c->turns = 0;
    while (!status && c->turns < (b->pace.quick ? 1 : most_turns)) {
        progress(b->j, "%s: turn %d", reproducible_name, c->turns + 1);
        status = time_exact_and_usual(b, c, threads);
    }
    return status;
}

static void print_cost(const bench *b, cost *c, int threads)
{
    const char *kernel = banyan_plan_spec(c->exact.plan)->kernel;
    const double exact = numbers_median(c->exact_seconds, c->turns);
    const double usual_seconds = numbers_median(c->usual_seconds, c->turns);
    const double ratio = numbers_median(c->ratio, c->turns);
    const double spread = numbers_spread(c->ratio, c->turns);
    wrapped(stdout, b->is_wide, BENCH_WORDS,
            "%-24s %-11s %7d | %.3f ms, without %.3f ms: %.3f x as long +-%.1f%% (at most "
            "%.2f)%s",
            reproducible_name, kernel, threads, exact * 1e3, usual_seconds * 1e3, ratio,
            spread * 100, bar, !b->pace.quick && ratio > bar ? ": above" : "");
    if (!b->json) return;
    json_t *line =
        json_pack("{s:s,s:s,s:i,s:I,s:f,s:f,s:f,s:f,s:i,s:f}", "row", reproducible_name,
                  "kernel", kernel, "threads", threads, "tokens", (json_int_t)c->exact.tokens,
                  "reproducible_seconds", exact, "usual_seconds", usual_seconds, "ratio", ratio,
                  "spread", spread, "repetitions", c->turns, "bar", bar);
    output_line(b->json, line);
}

int reproducible_run(const bench *b, int threads)
{
    bench_row exact = usual;
    cost c = {0};
    exact.reproducible = true;
    banyan_status status = measure_cost(b, &c, &exact, threads);
    progress_end(b->j);
    int code = status ? job_failed(b->j, status, reproducible_name) : EXIT_OK;
    if (!code) print_cost(b, &c, threads);
    sequence_close(&c.exact);
    sequence_close(&c.usual);
    return code;
}
