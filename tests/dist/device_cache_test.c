/* SPDX-License-Identifier: Apache-2.0 */
/* Caches on a device, against the float64 oracle: ranks are threads, the device is
 * fake_device.c, whose work is done later. Chunked prefill, decode, speculation that is taken
 * back, appending and attending apart; patterns, placements and merges, with messages staged on
 * the host and without. A device holds the blocks that the CPU would, counts its pairs, and
 * sends its messages; eviction never shows; a probe's mass is the oracle's; what cannot be is
 * refused by its words. */
#include "tests/dist/fake_device.h"

#define DEVICE_DECODES 40
#define DEVICE_PARTS 0
#define DEVICE_ROUNDS(dtype) 0
#include "tests/dist/device_sequence.h"

/* clang-format off */
#define FORMATS BANYAN_BF16, BANYAN_F32, BANYAN_F32

static const device_case cases[] = {
    {"dense", 4, 4, 32, 16, 330, 100, 0, FORMATS, {0},
     "line", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"groups", 8, 2, 32, 16, 300, 90, 20, FORMATS, {0},
     "spread", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"everywhere", 8, 2, 16, 32, 260, 70, 9, FORMATS, {"0-3:sink_window sink=1 window=40t"},
     "line", "butterfly", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 0},
    {"mixed", 12, 6, 16, 16, 520, 250, 33, FORMATS,
     {"4-7:sink_window sink=5t window=50t", "8-11:s2 stride=4 local=2"},
     "line", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"s2", 8, 2, 32, 16, 700, 150, 20, FORMATS, {"0-7:s2 stride=4 local=2 per=query"},
     "line", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"s2 in tokens", 8, 2, 16, 16, 400, 60, 5, FORMATS,
     {"0-7:s2 stride=3 local=10t per=query"}, "spread", "gather",
     BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 0},
    {"wide group", 80, 1, 16, 16, 200, 50, 0, FORMATS, {"60-79:s2 stride=4 local=2 per=query"},
     "line", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"a rank lost", 8, 2, 32, 16, 350, 100, 0, FORMATS, {"0-3:s2 stride=4 local=2"},
     "spread", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 1},
    {"of the prompt", 8, 4, 32, 16, 420, 150, 0, FORMATS,
     {"0-3:a_shape prompt=333 sink=5t window=50t",
      "4-7:tri_shape prompt=333 last=70 sink=1 window=2"},
     "spread", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"spans and strides", 8, 4, 32, 16, 500, 150, 7, FORMATS,
     {"0-3:span alpha=-40 beta=0.375 sink=20t",
      "4-7:strided local=2 stride1=2 range1=5 stride2=3 range2=9"},
     "line", "direct", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"whole heads", 8, 8, 32, 16, 400, 128, 0, FORMATS, {"2-7:sink_window sink=2 window=3"},
     "heads", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
};
/* clang-format on */
enum { CASES = (int)(sizeof cases / sizeof *cases) };

static void test_cases(banyan_comm *comm, void *arg)
{
    (void)arg;
    for (int i = 0; i < CASES; i++) test_case(&cases[i], comm);
    for (int i = 0; i < CASES; i++)
        if (cases[i].rows >= 93) test_device_batches(&cases[i], comm);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static void expect_plan(const banyan_spec *spec, banyan_comm *comm, banyan_status status,
                        const char *words)
{
    banyan_plan *plan = NULL;
    CHECK(banyan_plan_create(spec, comm, &plan) == status);
    CHECK_MSG(strstr(banyan_error_message(), words), "\"%s\" lacks \"%s\"",
              banyan_error_message(), words);
    banyan_plan_destroy(plan);
}

static void test_plans(banyan_comm *comm)
{
    banyan_spec good, spec;
    banyan_rule rules[2];
    set_spec(&cases[0], 1, &good, rules);
    spec = good;
    spec.device = "cudo";
    expect_plan(&spec, comm, BANYAN_ERR_CONFIG, "device is \"cudo\": expected cpu or cuda");
    spec = good;
    spec.reproducible = 1;
    expect_plan(&spec, comm, BANYAN_ERR_UNSUPPORTED, "reproducible is set and device is");
    spec = good;
    spec.kernel = "hopper";
    expect_plan(&spec, comm, BANYAN_ERR_CONFIG, "cannot run on this device");
    spec = good;
    spec.kernel = "scalar";
    expect_plan(&spec, comm, BANYAN_ERR_CONFIG, "is for device cpu, not cuda");
    spec = good;
    spec.block_tokens = 128;
    spec.cache_dtype = BANYAN_F16;
    expect_plan(
        &spec, comm, BANYAN_ERR_CONFIG,
        "has no kernel for block_tokens 128, key_dim 32, value_dim 32, cache_dtype fp16: "
        "expected block_tokens 16, 32, 64, (key_dim, value_dim) (16, 16), (32, 32), "
        "(48, 32), (48, 48), (64, 64), cache_dtype fp32, bf16");
    spec = good;
    spec.memory_limit = 1000;
    expect_plan(&spec, comm, BANYAN_ERR_MEMORY, "free on the device (memory_limit)");
}

/* Every selector that chooses by data is refused by its name. */
static void test_choosing(banyan_comm *comm)
{
    int refused = 0;
    for (int i = 0; banyan_selector_row(i); i++) {
        const banyan_selector *selector = banyan_selector_row(i);
        if (!selector->chooses && !selector->lines && !selector->follows) continue;
        banyan_spec spec;
        banyan_rule rules[2];
        char words[128];
        set_spec(&cases[0], 1, &spec, rules);
        const banyan_rule all = {0, -1, 0, -1, selector->name};
        spec.rules = &all;
        spec.rule_count = 1;
        spec.placement = "heads";
        snprintf(words, sizeof words, "selector \"%s\" and device \"cuda\"", selector->name);
        expect_plan(&spec, comm, BANYAN_ERR_UNSUPPORTED, words);
        expect_plan(&spec, comm, BANYAN_ERR_UNSUPPORTED,
                    "on the CPU only, expected device cpu");
        refused++;
    }
    CHECK(refused >= 4);
}

static void test_memory(banyan_comm *comm)
{
    banyan_spec spec;
    banyan_rule rules[2];
    set_spec(&cases[0], 1, &spec, rules);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = NULL;
    banyan_share share;
    CHECK(banyan_plan_share(plan, 0, 1, 1, &share) == BANYAN_OK);
    fake_memory_free = share.device_bytes - 1;
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_ERR_MEMORY && !cache);
    CHECK_MSG(strstr(banyan_error_message(), "free on the device"), "%s",
              banyan_error_message());
    fake_memory_free++;
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    fake_memory_free = INT64_C(1) << 40;
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

/* Of the calls in a graph, those that a replay may make again. */
static void test_captured(banyan_comm *comm, void *arg)
{
    const int is_staged = arg != NULL;
    banyan_spec spec;
    banyan_rule rules[2];
    set_spec(&cases[0], comm->size, &spec, rules);
    stream *on = stream_open(1);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = NULL;
    sequence s;
    CHECK(banyan_cache_create(plan, on, &cache) == BANYAN_OK);
    banyan_sequence *first = NULL;
    CHECK(banyan_sequence_create(cache, 0, &first) == BANYAN_OK);
    sequence_make(&s, plan, cases[0].tokens, 1);
    oracle_round(s.k, LAYERS * s.tokens * spec.kv_heads * spec.key_dim, spec.cache_dtype);
    oracle_round(s.v, LAYERS * s.tokens * spec.kv_heads * spec.key_dim, spec.cache_dtype);
    for (int64_t at = 0; at < 300; at += 60)
        CHECK(sequence_call(&s, cache, 0, at, 60, APPEND) == BANYAN_OK);
    CHECK(sequence_call(&s, cache, 0, 300, 1, APPEND) == BANYAN_OK); /* 301 = 18 x 16 + 13 */
    int moves = 0;
    for (int32_t h = 0; h < spec.heads; h++)
        moves |= cache->device->role[0][h] & BANYAN_ITEM_MOVES;
    stream_wait(on);
    sequence_mark_results(&s);
    stream_begin_capture(on);
    CHECK(sequence_call(&s, cache, 0, 301, 4, APPEND | ATTEND) == BANYAN_ERR_UNSUPPORTED);
    CHECK_MSG(strstr(banyan_error_message(),
                     is_staged && moves ? "moves host memory" : "rows 301..304 of layer 0"),
              "%s", banyan_error_message());
    const banyan_status status = sequence_call(&s, cache, 0, 301, 3, APPEND | ATTEND);
    stream_graph *graph = stream_end_capture(on);
    if (is_staged && moves) {
        CHECK(status == BANYAN_ERR_UNSUPPORTED);
        /* nothing was changed by what was refused */
        CHECK(sequence_call(&s, cache, 0, 301, 3, APPEND | ATTEND) == BANYAN_OK);
        stream_wait(on);
    } else {
        CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
        for (int i = 0; i < 3; i++) {
            stream_wait(on);
            for (int64_t row = 301; row < 304; row++)
                for (int32_t h = 0; i == 0 && h < spec.heads; h++)
                    CHECK(sequence_is_untouched(&s, 0, row, h));
            sequence_mark_results(&s);
            stream_replay(on, graph);
            stream_wait(on);
            for (int64_t row = 301; row < 304; row++) check_row(&s, 0, row, "captured");
        }
    }
    stream_forget(graph);
    CHECK_MSG(sequence_call(&s, cache, 0, 304, 1, APPEND | ATTEND) == BANYAN_OK, "%s",
              banyan_error_message());
    stream_wait(on);
    check_row(&s, 0, 304, "after");
    banyan_cache_destroy(cache);
    sequence_free(&s);
    banyan_plan_destroy(plan);
    stream_close(on);
}

/* A long prefill waits for the device once in several calls of the largest size, evicting or
 * not. */
static void test_waits(banyan_comm *comm)
{
    enum { HEADS = 64, ROWS = 2048, CALLS = 16, DIM = 8 };
    banyan_spec spec;
    float *kv = calloc((size_t)ROWS * HEADS * DIM, sizeof *kv);
    for (int evict = 0; kv && evict < 2; evict++) {
        const banyan_rule rule = {0, -1, 0, -1, "sink_window sink=1 window=4"};
        banyan_plan *plan = NULL;
        banyan_cache *cache = NULL;
        banyan_spec_init(&spec);
        spec.layers = 1;
        spec.heads = spec.kv_heads = HEADS;
        spec.key_dim = DIM;
        spec.block_tokens = 16;
        spec.max_rows = ROWS;
        spec.max_tokens = (int64_t)ROWS * CALLS;
        spec.evict = evict;
        spec.rules = &rule;
        spec.rule_count = 1;
        spec.device = "cuda";
        CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
                  banyan_error_message());
        CHECK_MSG(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK, "%s",
                  banyan_error_message());
        banyan_sequence *sequence = NULL;
        CHECK(banyan_sequence_create(cache, 0, &sequence) == BANYAN_OK);
        const int64_t before = fake_waits;
        for (int i = 0; sequence && i < CALLS; i++) {
            const banyan_rows part = {
                .sequence = sequence, .at = (int64_t)i * ROWS, .rows = ROWS};
            CHECK_MSG(banyan_attend(cache, 0, &part, 1, NULL, kv, kv, NULL, NULL) == BANYAN_OK,
                      "%s", banyan_error_message());
        }
        CHECK_MSG(fake_waits - before <= CALLS / 4, "%lld waits in %d calls, evict %d",
                  (long long)(fake_waits - before), (int)CALLS, evict);
        banyan_cache_destroy(cache);
        banyan_plan_destroy(plan);
    }
    free(kv);
}

int main(void)
{
    static const int32_t ranks[] = {1, 2, 3, 5, 7};
    banyan_comm *self = NULL;
    CHECK(banyan_comm_create("self", NULL, &self) == BANYAN_OK);
    test_plans(self);
    test_choosing(self);
    test_memory(self);
    test_waits(self);
    test_cases(self, NULL);
    banyan_comm_destroy(self);
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        local_with(ranks[i], NULL, test_cases, NULL);           /* staged */
        local_with(ranks[i], &stream_device, test_cases, NULL); /* a device's transport */
    }
    local_with(1, NULL, test_captured, self);
    local_with(3, NULL, test_captured, self);
    return test_end();
}
