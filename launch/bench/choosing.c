/* SPDX-License-Identifier: Apache-2.0 */
/* A decoded row that chooses its blocks by data, against one that reads all of them. One cache,
 * three layers: the second and the third read what the first one keeps, by other rules, so that
 * a million tokens lie in memory once and the three can be timed in turn. Under mpirun each
 * rank has a part, and a thread; the slowest rank's time counts. What is read of blocks is
 * counted by the cache, of summaries it is what the plan says of a choice. (Every chunk of
 * tokens has the same keys here: choices are ties, and take what any take.) */
#include "launch/bench/bench.h"

#include "launch/columns.h"

#include <jansson.h>
#include <omp.h>

enum { LAYERS = 3, most_turns = 31 };

static const char *const use[LAYERS] = {"dense", "top blocks=64", "top by=minmax blocks=64"};
static const double bar[LAYERS] = {1, 12, 8}; /* so many times as fast, at least */
static const double most_read[LAYERS] = {1, 1. / 48, 1. / 27}; /* of the bytes, at most */

#define LLAMA                                                                                  \
    .heads = 32, .kv_heads = 8, .key_dim = 128, .value_dim = 128, .dtype = BANYAN_BF16,        \
    .tokens = 1024 * 1024, .rows = 1, .layers = LAYERS, .layer_use = use

static const bench_row rows[] = {{"choosing, whole heads", LLAMA, .placement = "heads"},
                                 {"choosing, spread heads", LLAMA, .placement = "spread"}};
const char *const choosing_names[] = {"choosing, whole heads", "choosing, spread heads", NULL};

/* Of one layer, all ranks together where it is not a time. */
typedef struct taken {
    double seconds[most_turns], faster[most_turns];
    double blocks, summaries;             /* bytes read in a step */
    double messages, sent, merge_seconds; /* of a step, the mean; seconds of the slowest rank */
} taken;

typedef struct choosing {
    const bench *b;
    sequence s;
    int turns;
    taken of[LAYERS];
} choosing;

/* One decoded row of a layer. */
static banyan_status decode_layer(choosing *c, int32_t layer, double *seconds,
                                  banyan_stats *after)
{
    banyan_comm *comm = c->s.comm;
    banyan_status status = banyan_comm_agree(comm, BANYAN_OK);
    if (status) return status;
    const double start = pace_seconds(&c->b->pace, 1);
    status = sequence_layer(&c->s, layer, c->s.tokens - 1, 1, false, true);
    *seconds = pace_seconds(&c->b->pace, 1) - start;
    banyan_cache_stats(c->s.cache, after);
    return status ? status : banyan_comm_allreduce(comm, seconds, 1, BANYAN_MAX);
}

/* Every layer once. */
static banyan_status decode_layers(choosing *c)
{
    banyan_stats before, after;
    banyan_status status = BANYAN_OK;
    const int i = c->turns++;
    banyan_cache_stats(c->s.cache, &before);
    for (int32_t layer = 0; layer < LAYERS && !status; layer++) {
        taken *t = &c->of[layer];
        status = decode_layer(c, layer, &t->seconds[i], &after);
        t->faster[i] = c->of[0].seconds[i] / t->seconds[i];
        t->blocks += (double)(after.pairs - before.pairs);
        t->messages += (double)(after.messages - before.messages);
        t->sent += (double)(after.bytes_sent - before.bytes_sent);
        t->merge_seconds += after.merge_seconds - before.merge_seconds;
        before = after;
    }
    return status;
}

/* From sums of counters to bytes and means, over all ranks. */
static banyan_status settle(choosing *c)
{
    const bench_row *row = c->s.row;
    const banyan_spec *spec = banyan_plan_spec(c->s.plan);
    const double group = (double)row->heads / row->kv_heads;
    const double block_bytes = (double)spec->block_tokens * (row->key_dim + row->value_dim) *
                               (double)banyan_dtype_bytes(row->dtype);
    banyan_status status = BANYAN_OK;
    for (int32_t layer = 0; layer < LAYERS && !status; layer++) {
        taken *t = &c->of[layer];
        banyan_choosing choice;
        double sums[3] = {t->blocks, t->messages, t->sent};
        status = banyan_comm_allreduce(c->s.comm, sums, 3, BANYAN_SUM);
        if (!status)
            status = banyan_comm_allreduce(c->s.comm, &t->merge_seconds, 1, BANYAN_MAX);
        t->blocks = sums[0] / c->turns / group * block_bytes;
        t->messages = sums[1] / c->turns;
        t->sent = sums[2] / c->turns;
        t->merge_seconds /= c->turns;
        if (!banyan_plan_chooses(c->s.plan, layer, 0, &choice)) continue;
        const int64_t last = (c->s.tokens - 1) / spec->block_tokens - choice.local;
        t->summaries =
            (double)(row->kv_heads * (last - choice.first + 1)) * (double)choice.summary_bytes;
    }
    return status;
}

static banyan_status measure_choice(choosing *c, const bench_row *row)
{
    const bench *b = c->b;
    const int64_t tokens = b->pace.quick ? row->tokens / 64 : row->tokens;
    const int threads = b->j->ranks > 1 ? 1 : omp_get_max_threads();
    banyan_status status = sequence_open(&c->s, row, tokens, b->j->comm, threads);
    if (!status) status = sequence_fill(&c->s);
    if (!status) status = decode_layers(c); /* warms up */
    c->turns = 0;
    for (int32_t layer = 0; layer < LAYERS; layer++) c->of[layer] = (taken){0};
    while (!status && c->turns < (b->pace.quick ? 1 : most_turns)) {
        progress(b->j, "%s: turn %d", row->name, c->turns + 1);
        status = decode_layers(c);
    }
    return status ? status : settle(c);
}

static void write_line(const choosing *c, const char *name, int32_t layer, double ms,
                       double faster, double spread, double share)
{
    const taken *t = &c->of[layer];
    json_t *line = json_pack(
        "{s:s,s:s,s:i,s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:i}", "row", name, "use",
        use[layer], "ranks", c->b->j->ranks, "tokens", (json_int_t)c->s.tokens,
        "median_seconds", ms * 1e-3, "faster", faster, "spread", spread, "bar", bar[layer],
        "bytes", t->blocks, "summary_bytes", t->summaries, "share", share, "share_bar",
        most_read[layer], "messages", t->messages, "bytes_sent", t->sent, "merge_seconds",
        t->merge_seconds, "repetitions", c->turns);
    output_line(c->b->json, line);
}

static void print_choice(choosing *c, const char *name)
{
    const double all = c->of[0].blocks;
    const bool quick = c->b->pace.quick;
    printf("%s: %d rank%s, %lld tokens, %s\n", name, c->b->j->ranks,
           c->b->j->ranks == 1 ? "" : "s", (long long)c->s.tokens,
           banyan_plan_spec(c->s.plan)->kernel);
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        taken *t = &c->of[layer];
        wrapping w;
        FILE *in = wrapped_begin(&w, stdout);
        const double ms = numbers_median(t->seconds, c->turns) * 1e3;
        const double faster = numbers_median(t->faster, c->turns);
        const double read = t->blocks + t->summaries, share = read / all;
        fprintf(in, "  %-24s %9.3f ms +-%.1f%% | %8.1f MiB", use[layer], ms,
                numbers_spread(t->seconds, c->turns) * 100, read / (1 << 20));
        if (layer)
            fprintf(
                in,
                ", 1/%.1f of dense (at most 1/%.0f); %.1f x as fast +-%.1f%% (at least %.0f)%s",
                1 / share, 1 / most_read[layer], faster,
                numbers_spread(t->faster, c->turns) * 100, bar[layer],
                !quick && (faster < bar[layer] || share > most_read[layer]) ? ": missed" : "");
        fprintf(in, "; messages %.0f, %.1f KiB, %.3f ms\n", t->messages, t->sent / 1024,
                t->merge_seconds * 1e3);
        wrapped_end(&w, c->b->is_wide, BENCH_WORDS);
        if (c->b->json)
            write_line(c, name, layer, ms, faster, numbers_spread(t->faster, c->turns), share);
    }
}

int choosing_run(const bench *b, int index)
{
    const job *j = b->j;
    choosing c = {.b = b};
    banyan_status status = measure_choice(&c, &rows[index]);
    progress_end(j);
    const int code = status ? job_failed(j, status, rows[index].name) : EXIT_OK;
    if (!code && j->rank == 0) print_choice(&c, rows[index].name);
    sequence_close(&c.s);
    return code;
}
