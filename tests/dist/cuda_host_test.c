/* SPDX-License-Identifier: Apache-2.0 */
/* What the host does for a GPU, with the GPU left out: the emulator counts what is queued, and
 * does none of it. Llama-3-8B's heads at a million tokens, all of them S2. A call whose host
 * takes longer than its kernels is bound by the host, whatever these do.
 *
 * Alone it checks counts, and times against ten times their bars, since tests share a machine.
 * With --bars: the bars themselves, and what was measured. */
#include "dist/device_cache.h"
#include "emulator.h"
#include "tests/test.h"

#include <math.h>

enum { MILLION = 1 << 20, ROWS = 1 << 16, HEADS = 32, KV_HEADS = 8, DIM = 128, BLOCK = 64 };

/* Seconds: of the lists of a call of 65,536 rows, whose kernels take 115 ms on an H200 if they
 * reach 600 TFLOP/s; and of a decoded token in one layer (72 us). */
static const double bar_lists = 5e-3, bar_decode = 15e-6;
/* What CUDA's own functions take of a host: a launch, a copy from page-locked memory, an event,
 * in seconds. Not measured here: usual figures of the driver. */
static const double launch = 2.3e-6, copy = 1.8e-6, event = 0.6e-6;

typedef struct scene {
    banyan_comm *comm;
    banyan_plan *plan;
    banyan_cache *cache;
    void *rows; /* of the device: nobody reads them */
} scene;

static void attend(scene *s, int64_t at, int32_t rows, int appends, int attends)
{
    void *const kv = appends ? s->rows : NULL, *const q = attends ? s->rows : NULL;
    const banyan_rows part = {.sequence = s->cache->sequence, .at = at, .rows = rows};
    CHECK_MSG(banyan_attend(s->cache, 0, &part, 1, q, kv, kv, q, NULL) == BANYAN_OK, "%s",
              banyan_error_message());
}

static scene open_scene(int evict)
{
    const banyan_rule rule = {0, -1, 0, -1, "s2 stride=16 local=16"};
    scene s = {NULL};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = HEADS;
    spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.rules = &rule;
    spec.rule_count = 1;
    spec.max_tokens = MILLION + BLOCK;
    spec.max_rows = ROWS;
    spec.evict = evict;
    spec.cache_dtype = spec.in_dtype = spec.out_dtype = BANYAN_BF16;
    spec.device = "cuda";
    CHECK(banyan_comm_create("self", NULL, &s.comm) == BANYAN_OK);
    CHECK_MSG(banyan_plan_create(&spec, s.comm, &s.plan) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK_MSG(banyan_cache_create(s.plan, NULL, &s.cache) == BANYAN_OK, "%s",
              banyan_error_message());
    banyan_sequence *first = NULL;
    CHECK(banyan_sequence_create(s.cache, 0, &first) == BANYAN_OK);
    CHECK(cudaMalloc(&s.rows, 16) == cudaSuccess);
    for (int64_t at = 0; at < MILLION; at += ROWS) attend(&s, at, ROWS, 1, 0);
    return s;
}

static void close_scene(scene *s)
{
    banyan_cache_destroy(s->cache);
    banyan_plan_destroy(s->plan);
    banyan_comm_destroy(s->comm);
    cudaFree(s->rows);
}

/* ---- lists ------------------------------------------------------------------------------- */

static void build_lists(const scene *s)
{
    static banyan_span span[64];
    const banyan_kind *kind = banyan_plan_kind(s->plan, 0);
    for (int32_t h = 0; h < KV_HEADS; h++) {
        const banyan_layer *layer = &s->cache->sequence->layer[0];
        const banyan_held_set held = {
            .held = {layer->kept[h].chunk, layer->kept[h].count},
            .retention = &kind->head[h].retention,
            .settled = banyan_settled(s->plan, &kind->head[h], layer->floor)};
        for (int64_t row = MILLION - ROWS; row < MILLION; row += BLOCK) {
            banyan_span_list list = {.span = span, .capacity = 64};
            CHECK(banyan_spans_build(&kind->head[h].classes[0].pattern, row, row + BLOCK - 1,
                                     &held, 0, INT64_MAX, &list));
        }
    }
}

static double least_of(void (*work)(const scene *), const scene *s, int times)
{
    double least = INFINITY;
    for (int i = 0; i < times; i++) {
        const double begin = banyan_seconds();
        work(s);
        const double seconds = banyan_seconds() - begin;
        if (seconds < least) least = seconds;
    }
    return least;
}

static void whole_call(const scene *s)
{
    scene one = *s;
    attend(&one, MILLION - ROWS, ROWS, 0, 1);
}

/* ---- decode ------------------------------------------------------------------------------ */

/* The median token of a block: own seconds, and what is asked of CUDA. */
static double decode(scene *s, struct emulator_counts *counts)
{
    enum { TOKENS = BLOCK - 1 };
    double seconds[TOKENS];
    attend(s, MILLION, 1, 1, 1); /* begins the block */
    const struct emulator_counts before = emulator_count();
    for (int i = 0; i < TOKENS; i++) {
        const double begin = banyan_seconds();
        attend(s, MILLION + 1 + i, 1, 1, 1);
        seconds[i] = banyan_seconds() - begin;
        for (int j = i; j > 0 && seconds[j] < seconds[j - 1]; j--) {
            const double swap = seconds[j];
            seconds[j] = seconds[j - 1];
            seconds[j - 1] = swap;
        }
    }
    const struct emulator_counts after = emulator_count();
    *counts = (struct emulator_counts){.kernels = (after.kernels - before.kernels) / TOKENS,
                                       .copies = (after.copies - before.copies) / TOKENS,
                                       .events = (after.events - before.events) / TOKENS};
    return seconds[TOKENS / 2];
}

static void measure(int evict, double allowance, int says)
{
    scene s = open_scene(evict);
    struct emulator_counts counts;
    const double lists = least_of(build_lists, &s, 5);
    const double call = evict ? 0 : least_of(whole_call, &s, 3);
    const double own = decode(&s, &counts);
    const double step = own + (double)counts.kernels * launch + (double)counts.copies * copy +
                        (double)counts.events * event;
    CHECK_MSG(lists <= allowance * bar_lists, "lists of %d rows: %.2f ms, evict %d", (int)ROWS,
              1e3 * lists, evict);
    CHECK_MSG(step - own + own / allowance <= bar_decode, "a decoded token: %.1f us, evict %d",
              1e6 * step, evict);
    CHECK_MSG(counts.kernels == 3 && counts.copies <= 2 && counts.events <= 2,
              "a decoded token: %d kernels, %d copies, %d events", (int)counts.kernels,
              (int)counts.copies, (int)counts.events);
    if (says) {
        printf("%s: lists of 65,536 rows %.2f ms", evict ? "evicting    " : "evicting not",
               1e3 * lists);
        if (!evict) printf(", all of the host's part of the call %.2f ms", 1e3 * call);
        printf("\n  a decoded token %.1f us: %.1f own, %d launches, %d copies, %d events\n",
               1e6 * step, 1e6 * own, (int)counts.kernels, (int)counts.copies,
               (int)counts.events);
    }
    close_scene(&s);
}

int main(int argc, char **argv)
{
    const int bars = argc == 2 && !strcmp(argv[1], "--bars");
    emulator_set_idle(1);
    for (int evict = 0; evict < 2; evict++) measure(evict, bars ? 1 : 10, bars);
    return test_end();
}
