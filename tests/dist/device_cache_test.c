/* SPDX-License-Identifier: Apache-2.0 */
/* Caches on a device, against the float64 oracle: ranks are threads, the device is fake_device.c, whose
 * work is done later. Chunked prefill, decode, speculation that is taken back, appending and attending
 * apart; patterns, placements and merges, with messages staged on the host and without. A device holds
 * the blocks that the CPU would, counts its pairs, and sends its messages; eviction never
 * shows; a probe's mass is the oracle's; what cannot be is refused by its words. */
#include "dist/device_cache.h"
#include "tests/comm/local.h"
#include "tests/dist/fake_device.h"
#include "tests/dist/sequence.h"
#include "tests/oracle.h"

typedef struct device_case {
    const char *name;
    int32_t heads, kv_heads, dim, block, tokens, rows, rollback;
    const char *rule[2]; /* "FIRST-LAST:USE", query heads */
    const char *placement, *merge, *home, *where;
    int loses;
} device_case;

/* clang-format off */
static const device_case cases[] = {
    {"dense", 4, 4, 32, 16, 330, 100, 0, {0}, "line", "direct", "first", "home", 0},
    {"groups", 8, 2, 32, 16, 300, 90, 20, {0}, "spread", "tree", "dealt", "home", 0},
    {"everywhere", 8, 2, 16, 32, 260, 70, 9, {"0-3:sink_window sink=1 window=40t"}, "line",
     "butterfly", "first", "all", 0},
    {"mixed", 12, 6, 16, 16, 520, 250, 33, {"4-7:sink_window sink=5t window=50t",
     "8-11:s2 stride=4 local=2"}, "line", "tree", "dealt", "home", 0},
    {"s2", 8, 2, 32, 16, 700, 150, 20, {"0-7:s2 stride=4 local=2 per=query"}, "line", "direct",
     "first", "home", 0},
    {"s2 in tokens", 8, 2, 16, 16, 400, 60, 5, {"0-7:s2 stride=3 local=10t per=query"}, "spread",
     "gather", "first", "all", 0},
    {"wide group", 80, 1, 16, 16, 200, 50, 0, {"60-79:s2 stride=4 local=2 per=query"}, "line",
     "tree", "dealt", "home", 0},
    {"a rank lost", 8, 2, 32, 16, 350, 100, 0, {"0-3:s2 stride=4 local=2"}, "spread", "tree",
     "first", "all", 1},
    {"whole heads", 8, 8, 32, 16, 400, 128, 0, {"2-7:sink_window sink=2 window=3"}, "heads",
     "direct", "first", "home", 0},
};
/* clang-format on */
enum { CASES = (int)(sizeof cases / sizeof *cases), MAX_RANKS = 7, LAYERS = 2 };

static void set_spec(const device_case *c, int ranks, banyan_spec *spec, banyan_rule *rule)
{
    banyan_spec_init(spec);
    spec->layers = LAYERS;
    spec->heads = c->heads;
    spec->kv_heads = c->kv_heads;
    spec->key_dim = c->dim;
    spec->max_tokens = c->tokens;
    spec->max_rows = c->rows;
    spec->block_tokens = c->block;
    spec->rollback_tokens = c->rollback;
    spec->placement = c->placement;
    spec->merge = c->merge;
    spec->home = c->home;
    spec->out = c->where;
    spec->threads = 1;
    spec->device = "cuda";
    spec->rules = rule;
    if (c->loses && ranks > 1) spec->lost_rank = 1;
    for (int i = 0; i < 2 && c->rule[i]; i++) {
        rule[i] = (banyan_rule){0, -1, 0, 0, strchr(c->rule[i], ':') + 1};
        CHECK(sscanf(c->rule[i], "%d-%d", &rule[i].first_head, &rule[i].last_head) == 2);
        spec->rule_count++;
    }
}

/* ---- running ------------------------------------------------------------------------------- */

static void settle(const banyan_cache *cache)
{
    const banyan_device_cache *d = cache->device;
    if (d) CHECK(!d->device->wait(d->queue));
}

static void call(sequence *s, banyan_cache *cache, int64_t at, int32_t rows, int what)
{
    for (int32_t layer = 0; layer < LAYERS; layer++)
        CHECK_MSG(sequence_call(s, cache, layer, at, rows, what) == BANYAN_OK, "%s",
                  banyan_error_message());
}

/* A ring that is full every few calls. */
static void shrink_ring(banyan_cache *cache)
{
    int64_t most = 1;
    for (int32_t layer = 0; layer < LAYERS; layer++)
        for (int32_t j = 0; j < banyan_cache_part(cache, layer)->mine_count; j++)
            if (cache->layer[layer].kept[j].capacity > most)
                most = cache->layer[layer].kept[j].capacity;
    CHECK(most <= cache->device->ring_slots);
    cache->device->ring_slots = most;
}

static void run_script(sequence *s, banyan_cache *cache, uint64_t seed)
{
    const int64_t decode = s->tokens - 40;
    for (int64_t at = 0; at < s->tokens;) {
        const int64_t left = at < decode ? decode - at : s->tokens - at;
        const int64_t most = at < decode ? s->spec->max_rows : 1;
        int32_t rows = (int32_t)test_below(&seed, most) + 1;
        if (rows > left) rows = (int32_t)left;
        switch (test_below(&seed, 4)) {
        case 0:
            call(s, cache, at, rows, APPEND);
            call(s, cache, at, rows, ATTEND);
            break;
        case 1: /* other keys at first, then the right ones */
            if (s->spec->rollback_tokens >= rows)
                CHECK(banyan_attend(cache, 0, at, rows, NULL, s->k_in, s->v_in, NULL, NULL) ==
                      BANYAN_OK);
            call(s, cache, at, rows, APPEND | ATTEND);
            break;
        default: call(s, cache, at, rows, APPEND | ATTEND);
        }
        at += rows;
    }
    settle(cache);
}

/* ---- checking ------------------------------------------------------------------------------ */

typedef struct reader {
    const sequence *s;
    int32_t layer;
    int64_t first, end; /* tokens */
} reader;

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    const banyan_spec *spec = r->s->spec;
    const int32_t kv_head = head / (spec->heads / spec->kv_heads);
    if (token < r->first || token >= r->end) return 0;
    if (spec->lost_rank >= 0 &&
        banyan_plan_owner(r->s->plan, r->layer, kv_head, token / spec->block_tokens) ==
            spec->lost_rank)
        return 0;
    return banyan_plan_reads(r->s->plan, r->layer, head, row, token);
}

static oracle oracle_of(const sequence *s, reader *r)
{
    const banyan_spec *spec = s->spec;
    const int64_t layer = r->layer * s->tokens * spec->kv_heads;
    return (oracle){.heads = spec->heads,
                    .kv_heads = spec->kv_heads,
                    .key_dim = spec->key_dim,
                    .value_dim = spec->value_dim,
                    .tokens = s->tokens,
                    .scale = spec->scale,
                    .k = s->k + layer * spec->key_dim,
                    .v = s->v + layer * spec->value_dim,
                    .reads = reads,
                    .ctx = r};
}

/* Partials of masked and other blocks are combined, and those of ranks. */
static bound bound_of(const sequence *s)
{
    return (bound){.block_tokens = s->spec->block_tokens, .combines = s->plan->ranks + 2};
}

static const float *query(const sequence *s, int32_t layer, int64_t row, int32_t head)
{
    return s->q +
           ((layer * s->tokens + row) * s->spec->heads + head) * (int64_t)s->spec->key_dim;
}

static void check_row(const sequence *s, int32_t layer, int64_t row, const char *name)
{
    reader r = {s, layer, 0, INT64_MAX};
    const oracle o = oracle_of(s, &r);
    double expect[BANYAN_MAX_DIM], lse;
    for (int32_t h = 0; h < s->spec->heads; h++) {
        if (!sequence_is_written(s, h, layer)) {
            CHECK_MSG(sequence_is_untouched(s, layer, row, h), "%s: row %lld head %d", name,
                      (long long)row, h);
            continue;
        }
        bound b = bound_of(s);
        oracle_row(&o, query(s, layer, row, h), h, row, expect, &lse, &b);
        const double error =
            oracle_compare(expect, lse, &b, s->spec->value_dim, sequence_out(s, layer, row, h),
                           s->spec->out_dtype, sequence_lse(s, layer, row, h));
        CHECK_MSG(error <= 1,
                  "%s: rank %d of %d, layer %d row %lld head %d: %g times the bound", name,
                  s->plan->rank, s->plan->ranks, layer, (long long)row, h, error);
    }
}

static void check_results(const sequence *s, const char *name)
{
    uint64_t seed = 99;
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        for (int i = 0; i < 6; i++) check_row(s, layer, test_below(&seed, s->tokens), name);
        check_row(s, layer, 0, name);
        check_row(s, layer, s->tokens - 1, name);
    }
}

/* What is held, computed and sent is what the CPU holds, computes and sends. */
static void check_stats(const sequence *s, const banyan_cache *cache, banyan_comm *comm,
                        const char *name)
{
    banyan_spec spec = *s->spec;
    banyan_stats here, there;
    banyan_share share;
    spec.device = "cpu";
    spec.kernel = "scalar";
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cpu = plan ? sequence_cache(plan) : NULL;
    if (!cpu) return;
    run_script((sequence *)(uintptr_t)s, cpu, 5);
    banyan_cache_stats(cache, &here);
    banyan_cache_stats(cpu, &there);
    CHECK_MSG(here.blocks == there.blocks && here.evicted_blocks == there.evicted_blocks &&
                  here.pairs == there.pairs,
              "%s: blocks %lld %lld, pairs %lld %lld", name, (long long)here.blocks,
              (long long)there.blocks, (long long)here.pairs, (long long)there.pairs);
    CHECK_MSG((here.messages > 0) == (there.messages > 0) && here.messages <= there.messages,
              "%s: messages %lld %lld", name, (long long)here.messages,
              (long long)there.messages);
    CHECK(banyan_plan_share(s->plan, s->plan->rank, s->tokens, &share) == BANYAN_OK);
    CHECK_MSG(here.workspace_bytes <= share.workspace_bytes, "%s: %lld, planned %lld", name,
              (long long)here.workspace_bytes, (long long)share.workspace_bytes);
    CHECK(here.capacity_bytes == share.capacity_bytes && here.device_bytes &&
          here.device_bytes == share.device_bytes && !there.device_bytes);
    CHECK(share.kept_bytes == here.bytes);
    banyan_cache_destroy(cpu);
    banyan_plan_destroy(plan);
}

/* The share of the mass of tokens `first` .., of the last `rows` rows. With both lse right to their
 * bounds a and b, exp(lse' - lse) is right to a factor of exp(a + b), and a few roundings. */
static void check_mass(sequence *s, banyan_cache *cache, int64_t first, int64_t count,
                       const char *name)
{
    const int32_t rows = s->spec->max_rows < 30 ? s->spec->max_rows : 30;
    const int64_t at = s->tokens - rows;
    double expect[BANYAN_MAX_DIM];
    /* rows that may be asked for again: those that eviction counted with */
    if (cache->layer[0].floor > at) return;
    CHECK(banyan_cache_probe(cache, first, count, sequence_mass(s, 0, at, 0)) == BANYAN_OK);
    CHECK_MSG(sequence_call(s, cache, 0, at, rows, ATTEND) == BANYAN_OK, "%s",
              banyan_error_message());
    settle(cache);
    check_row(s, 0, at, name);
    for (int32_t h = 0; h < s->spec->heads; h++) {
        if (!sequence_is_written(s, h, 0)) continue;
        for (int64_t row = at; row < s->tokens; row += 7) {
            reader all = {s, 0, 0, INT64_MAX}, part = {s, 0, first, first + count};
            bound a = bound_of(s), b = bound_of(s);
            double lse, probed;
            oracle o = oracle_of(s, &all);
            oracle_row(&o, query(s, 0, row, h), h, row, expect, &lse, &a);
            o.ctx = &part;
            oracle_row(&o, query(s, 0, row, h), h, row, expect, &probed, &b);
            const double mass = exp(probed - lse), got = *sequence_mass(s, 0, row, h);
            const double off = mass * (expm1(bound_lse(&a) + bound_lse(&b)) + 8 * BOUND_U);
            CHECK_MSG(lse == -INFINITY || fabs(got - mass) <= off,
                      "%s: row %lld head %d: mass %g, expected %g", name, (long long)row, h,
                      got, mass);
        }
    }
}

static void test_case(const device_case *c, banyan_comm *comm)
{
    banyan_spec spec;
    banyan_rule rules[2];
    uint64_t hash[3] = {0};
    set_spec(c, comm->size, &spec, rules);
    for (int again = 0; again < 3; again++) { /* the last time nothing is evicted */
        spec.evict = again < 2;
        banyan_plan *plan = sequence_plan(&spec, comm);
        banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
        if (!cache) return;
        sequence s;
        if (again != 1) shrink_ring(cache);
        sequence_make(&s, plan, c->tokens, 1234);
        oracle_round(s.k, LAYERS * s.tokens * spec.kv_heads * c->dim, spec.cache_dtype);
        oracle_round(s.v, LAYERS * s.tokens * spec.kv_heads * c->dim, spec.cache_dtype);
        sequence_mark_results(&s);
        run_script(&s, cache, 5);
        hash[again] = sequence_results_hash(&s);
        if (again == 0) check_results(&s, c->name);
        if (again == 1) check_mass(&s, cache, s.tokens - 50, 37, c->name);
        if (again == 2) check_mass(&s, cache, 3, s.tokens / 2, c->name);
        if (again == 0) check_stats(&s, cache, comm, c->name);
        banyan_cache_destroy(cache);
        sequence_free(&s);
        banyan_plan_destroy(plan);
    }
    CHECK_MSG(hash[0] == hash[1], "%s: a second run gave other bits", c->name);
    CHECK_MSG(hash[0] == hash[2], "%s: eviction shows", c->name);
}

static void test_cases(banyan_comm *comm, void *arg)
{
    (void)arg;
    for (int i = 0; i < CASES; i++) test_case(&cases[i], comm);
}

/* ---- refusals ------------------------------------------------------------------------------ */

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
    spec.merge = "allreduce";
    expect_plan(&spec, comm, BANYAN_ERR_UNSUPPORTED, "merge is \"allreduce\"");
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

static void test_memory(banyan_comm *comm)
{
    banyan_spec spec;
    banyan_rule rules[2];
    set_spec(&cases[0], 1, &spec, rules);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = NULL;
    banyan_share share;
    CHECK(banyan_plan_share(plan, 0, 1, &share) == BANYAN_OK);
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

static void with_ranks(int32_t ranks, const local_device *device,
                       void (*body)(banyan_comm *, void *), void *arg)
{
    banyan_comm *comm[MAX_RANKS] = {NULL};
    CHECK(local_create(ranks, NULL, device, comm) == BANYAN_OK);
    local_run(comm, ranks, body, arg);
    for (int32_t r = 0; r < ranks; r++) banyan_comm_destroy(comm[r]);
}

int main(void)
{
    static const int32_t ranks[] = {1, 2, 3, 5, 7};
    banyan_comm *self = NULL;
    CHECK(banyan_comm_create("self", NULL, &self) == BANYAN_OK);
    test_plans(self);
    test_memory(self);
    test_cases(self, NULL);
    banyan_comm_destroy(self);
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        with_ranks(ranks[i], NULL, test_cases, NULL);           /* staged */
        with_ranks(ranks[i], &stream_device, test_cases, NULL); /* a device's transport */
    }
    with_ranks(1, NULL, test_captured, self);
    with_ranks(3, NULL, test_captured, self);
    return test_end();
}
