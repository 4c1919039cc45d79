/* SPDX-License-Identifier: Apache-2.0 */
/* Attention across ranks against the float64 oracle: prefill in chunks of random sizes, decode,
 * and speculation that is taken back, for shapes, formats, patterns, placements and merges.
 *
 * Each case also shows that results come where they belong and nowhere else, that heads which a
 * rank does not hold are not read (they are NaN there), that a second run gives the same bits,
 * as do all ranks with `out` all, that heads of one holder cost no message, and that a rank
 * keeps exactly the bytes that its plan says. Arguments: names of cases; none: all. */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"
#include "tests/world.h"

/* Left out: one layer, one thread, fp32 everywhere, dense, line, direct, first, home. */
typedef struct shape_case {
    const char *name;
    int32_t layers, heads, kv_heads, key_dim, value_dim, block;
    int32_t tokens, rows, rollback;
    banyan_dtype cache, in, out;
    const char *rules[4]; /* "LAYER:FIRST-LAST:USE", layer * for all, query heads */
    const char *placement, *merge;
    banyan_home home;
    banyan_out where;
    int32_t threads;
    int loses;  /* rank 1 is lost */
    int exact;  /* reproducible */
    int uneven; /* ranks of unequal bandwidth, planned for another length, by pairs */
} shape_case;

/* clang-format off */
#define SHAPE(h, g, k, v) .heads = h, .kv_heads = g, .key_dim = k, .value_dim = v
#define SIZES(b, n, most) .block = b, .tokens = n, .rows = most

static const shape_case cases[] = {
    {.name = "mha", SHAPE(4, 4, 64, 64), SIZES(16, 333, 64)},
    {.name = "gqa", SHAPE(32, 8, 128, 128), SIZES(64, 500, 200), .cache = BANYAN_BF16,
     .merge = "tree"},
    {.name = "mqa", SHAPE(8, 1, 64, 64), SIZES(32, 450, 100), .rollback = 5,
     .cache = BANYAN_F16, .in = BANYAN_F16, .placement = "spread", .home = BANYAN_HOME_DEALT},
    {.name = "wide keys", SHAPE(4, 2, 192, 128), SIZES(32, 300, 90), .cache = BANYAN_BF16,
     .in = BANYAN_BF16, .out = BANYAN_BF16, .merge = "tree", .where = BANYAN_OUT_ALL,
     .threads = 2},
    {.name = "few blocks", SHAPE(4, 2, 32, 32), SIZES(64, 70, 17), .placement = "spread",
     .merge = "butterfly", .home = BANYAN_HOME_DEALT, .where = BANYAN_OUT_ALL},
    {.name = "one token", SHAPE(6, 2, 16, 16), SIZES(16, 1, 1), .out = BANYAN_F16,
     .placement = "spread", .merge = "tree", .threads = 3},
    {.name = "s2 per query head", SHAPE(8, 2, 64, 64), SIZES(16, 700, 150), .rollback = 20,
     .rules = {"*:0-7:s2 stride=4 local=2 per=query"}, .merge = "tree"},
    {.name = "s2 per KV head", SHAPE(16, 8, 32, 32), SIZES(16, 600, 300), .cache = BANYAN_BF16,
     .rules = {"*:0-15:s2 stride=8 local=4 per=kv"}, .placement = "spread",
     .home = BANYAN_HOME_DEALT, .threads = 2},
    {.name = "mixed", .layers = 2, SHAPE(12, 6, 48, 48), SIZES(16, 520, 130), .rollback = 33,
     .rules = {"*:4-7:sink_window sink=1 window=40t", "0:8-11:s2 stride=4 local=2",
               "1:0-3:sink_window"},
     .home = BANYAN_HOME_DEALT},
    {.name = "mixed everywhere", .layers = 2, SHAPE(12, 3, 40, 24), SIZES(32, 480, 60),
     .rollback = 10, .cache = BANYAN_F16,
     .rules = {"*:1-6:sink_window sink=5t window=70t", "1:7-9:s2 stride=4 local=2"},
     .merge = "tree", .where = BANYAN_OUT_ALL, .threads = 2},
    {.name = "whole heads", SHAPE(8, 8, 32, 32), SIZES(16, 400, 128),
     .rules = {"*:2-7:sink_window sink=2 window=3"}, .placement = "heads"},
    {.name = "wide group", SHAPE(80, 1, 16, 16), SIZES(16, 200, 50),
     .rules = {"*:60-79:s2 stride=4 local=2 per=query"}, .merge = "tree",
     .home = BANYAN_HOME_DEALT},
    {.name = "wide group of pairs", SHAPE(160, 1, 16, 24), SIZES(16, 150, 40),
     .rules = {"*:100-159:sink_window sink=1 window=30t"}, .placement = "spread",
     .threads = 2},
    {.name = "large blocks", SHAPE(4, 4, 64, 64), SIZES(256, 700, 256), .rollback = 300,
     .cache = BANYAN_F16, .in = BANYAN_BF16, .merge = "tree", .threads = 2},
    {.name = "row by row", SHAPE(4, 2, 16, 16), SIZES(16, 90, 1), .rollback = 7,
     .rules = {"*:0-1:sink_window sink=1 window=30t"}, .placement = "spread", .merge = "gather",
     .where = BANYAN_OUT_ALL, .threads = 3},
    {.name = "largest dims", SHAPE(2, 1, 576, 512), SIZES(16, 60, 20), .cache = BANYAN_BF16},
    {.name = "a rank lost", .layers = 2, SHAPE(8, 2, 32, 32), SIZES(16, 350, 100),
     .merge = "tree", .where = BANYAN_OUT_ALL, .loses = 1},
    {.name = "all-reduces", .layers = 2, SHAPE(8, 4, 32, 24), SIZES(16, 420, 90),
     .rules = {"*:2-3:sink_window sink=1 window=40t", "1:4-7:s2 stride=4 local=2"},
     .merge = "allreduce", .where = BANYAN_OUT_ALL, .threads = 2, .loses = 1},
    {.name = "all-reduces at home", SHAPE(6, 3, 16, 16), SIZES(16, 200, 300),
     .placement = "spread", .merge = "allreduce", .home = BANYAN_HOME_DEALT},
    {.name = "reproducible", SHAPE(8, 2, 64, 64), SIZES(16, 400, 90), .rollback = 20,
     .cache = BANYAN_BF16, .rules = {"*:4-7:s2 stride=4 local=2"}, .merge = "tree",
     .threads = 2, .exact = 1},
    {.name = "reproducible everywhere", SHAPE(6, 3, 40, 24), SIZES(32, 300, 70),
     .out = BANYAN_F16, .rules = {"*:1-3:sink_window sink=1 window=50t"},
     .placement = "spread", .merge = "butterfly", .where = BANYAN_OUT_ALL, .exact = 1},
    {.name = "uneven", SHAPE(12, 4, 32, 48), SIZES(16, 640, 96), .in = BANYAN_F16,
     .rules = {"*:3-8:sink_window sink=1 window=3", "*:9-11:s2 stride=4 local=2 per=query"},
     .merge = "butterfly", .home = BANYAN_HOME_DEALT, .threads = 2, .uneven = 1},
};
/* clang-format on */
enum { CASES = (int)(sizeof cases / sizeof *cases) };

/* ---- setting up -------------------------------------------------------------------------- */

static void set_spec(const shape_case *c, int ranks, banyan_spec *spec, banyan_rule *rules)
{
    banyan_spec_init(spec);
    spec->layers = c->layers ? c->layers : 1;
    spec->heads = c->heads;
    spec->kv_heads = c->kv_heads;
    spec->key_dim = c->key_dim;
    spec->value_dim = c->value_dim;
    spec->max_tokens = c->tokens;
    spec->max_rows = c->rows;
    spec->block_tokens = c->block;
    spec->rollback_tokens = c->rollback;
    spec->cache_dtype = c->cache;
    spec->in_dtype = c->in;
    spec->out_dtype = c->out;
    spec->placement = c->placement ? c->placement : "line";
    spec->merge = c->merge ? c->merge : "direct";
    spec->home = c->home;
    spec->out = c->where;
    spec->threads = c->threads ? c->threads : 1;
    if (c->loses && ranks > 1) spec->lost_rank = 1;
    spec->reproducible = c->exact;
    spec->rules = rules;
    if (c->uneven) {
        static const double bandwidth[8] = {1, 0.5, 2, 1, 1.5, 0.25, 1, 3};
        spec->bandwidth = bandwidth;
        spec->planned_tokens = c->tokens / 4;
        spec->balance = BANYAN_BALANCE_PREFILL;
    }
    for (int i = 0; i < 4 && c->rules[i]; i++) {
        const char *text = c->rules[i];
        banyan_rule *r = &rules[spec->rule_count++];
        *r = (banyan_rule){.first_layer = 0, .last_layer = -1, .use = strrchr(text, ':') + 1};
        if (text[0] != '*') r->first_layer = r->last_layer = text[0] - '0';
        CHECK(sscanf(text + 2, "%d-%d", &r->first_head, &r->last_head) == 2);
    }
}

/* ---- running: the same calls in the same order for a seed -------------------------------- */

static void call(sequence *s, banyan_cache *cache, int64_t at, int32_t rows, int what)
{
    for (int32_t layer = 0; layer < s->spec->layers; layer++)
        CHECK_MSG(sequence_call(s, cache, layer, at, rows, what) == BANYAN_OK, "%s",
                  banyan_error_message());
}

static void run_script(sequence *s, banyan_cache *cache, uint64_t seed)
{
    int64_t at = 0, decode = s->tokens > 12 ? s->tokens - 9 : s->tokens - 1;
    int32_t most = s->spec->max_rows;
    while (at < decode) {
        int32_t rows = (int32_t)test_below(&seed, most) + 1;
        if (rows > decode - at) rows = (int32_t)(decode - at);
        switch (test_below(&seed, 4)) {
        case 0: /* in two steps */
            call(s, cache, at, rows, APPEND);
            call(s, cache, at, rows, ATTEND);
            break;
        case 1: /* speculate, and take it back: other keys at first, then the right ones */
            if (s->spec->rollback_tokens >= rows)
                CHECK_MSG(sequence_attend(cache, 0, at, rows, NULL, s->k_in, s->v_in, NULL,
                                          NULL) == BANYAN_OK,
                          "%s", banyan_error_message());
            call(s, cache, at, rows, APPEND | ATTEND);
            break;
        default: call(s, cache, at, rows, APPEND | ATTEND);
        }
        at += rows;
    }
    for (; at < s->tokens; at++) call(s, cache, at, 1, APPEND | ATTEND);
}

/* ---- checking ---------------------------------------------------------------------------- */

typedef struct reader {
    const sequence *s;
    int32_t layer;
} reader;

/* What the pattern lets a row read, less what was lost. */
static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    const banyan_spec *spec = r->s->spec;
    int32_t kv_head = head / (spec->heads / spec->kv_heads);
    if (spec->lost_rank >= 0 &&
        banyan_plan_owner(r->s->plan, 0, r->layer, kv_head, token / spec->block_tokens) ==
            spec->lost_rank)
        return 0;
    return banyan_plan_reads(r->s->plan, r->layer, head, row, token);
}

static void check_row(const sequence *s, const oracle *o, int32_t layer, int64_t row,
                      const char *name)
{
    const banyan_spec *spec = s->spec;
    double expect[BANYAN_MAX_DIM], lse;
    bound b = {.block_tokens = spec->block_tokens,
               .combines = s->plan->ranks + spec->threads,
               .rounds = bound_rounds(s->plan->kernel->name, spec->cache_dtype)};
    for (int32_t h = 0; h < spec->heads; h++) {
        if (!sequence_is_written(s, h, layer)) {
            CHECK_MSG(sequence_is_untouched(s, layer, row, h), "%s: layer %d row %lld head %d",
                      name, layer, (long long)row, h);
            continue;
        }
        const float *q =
            s->q + ((layer * s->tokens + row) * spec->heads + h) * (int64_t)spec->key_dim;
        oracle_row(o, q, h, row, expect, &lse, &b);
        double error =
            oracle_compare(expect, lse, &b, spec->value_dim, sequence_out(s, layer, row, h),
                           spec->out_dtype, sequence_lse(s, layer, row, h));
        CHECK_MSG(error <= 1, "%s: layer %d row %lld head %d: %g times the bound", name, layer,
                  (long long)row, h, error);
    }
}

static void check_results(const sequence *s, const char *name)
{
    const banyan_spec *spec = s->spec;
    int64_t k_layer = s->tokens * spec->kv_heads * spec->key_dim;
    int64_t v_layer = s->tokens * spec->kv_heads * spec->value_dim;
    uint64_t seed = 99;
    for (int32_t layer = 0; layer < spec->layers; layer++) {
        reader r = {s, layer};
        oracle o = {.heads = spec->heads,
                    .kv_heads = spec->kv_heads,
                    .key_dim = spec->key_dim,
                    .value_dim = spec->value_dim,
                    .tokens = s->tokens,
                    .scale = spec->scale,
                    .k = s->k + layer * k_layer,
                    .v = s->v + layer * v_layer,
                    .reads = reads,
                    .ctx = &r};
        for (int i = 0; i < 6; i++) check_row(s, &o, layer, test_below(&seed, s->tokens), name);
        check_row(s, &o, layer, 0, name);
        check_row(s, &o, layer, s->tokens - 1, name);
    }
}

static void check_stats(const sequence *s, const banyan_cache *cache, const char *name)
{
    const banyan_plan *plan = s->plan;
    banyan_stats stats;
    banyan_share share;
    banyan_cache_stats(cache, &stats);
    CHECK(banyan_plan_share(plan, plan->rank, 1, s->tokens, &share) == BANYAN_OK);
    CHECK_MSG(stats.bytes == share.kept_bytes, "%s: rank %d keeps %lld bytes, planned %lld",
              name, plan->rank, (long long)stats.bytes, (long long)share.kept_bytes);
    CHECK(stats.blocks == share.kept_blocks && stats.tokens == s->tokens);
    CHECK(stats.capacity_bytes == share.capacity_bytes);
    CHECK_MSG(stats.workspace_bytes <= share.workspace_bytes, "%lld, planned %lld",
              (long long)stats.workspace_bytes, (long long)share.workspace_bytes);

    int shared = 0;
    for (int32_t layer = 0; layer < s->spec->layers; layer++)
        for (int32_t g = 0; g < s->spec->kv_heads; g++)
            shared |= banyan_plan_kind(plan, layer)->head[g].placed.count > 1;
    if (s->spec->out == BANYAN_OUT_ALL || plan->merge->reduce) shared = plan->ranks > 1;
    int64_t messages = sequence_sum(s->plan, stats.messages);
    CHECK_MSG(shared == (messages > 0), "%s: heads are %s, %lld messages", name,
              shared ? "shared" : "not shared", (long long)messages);
}

static void check_same_on_all_ranks(const sequence *s, uint64_t hash, const char *name)
{
    uint64_t all[64];
    CHECK(banyan_comm_allgather(s->plan->comm, &hash, sizeof hash, all) == BANYAN_OK);
    for (int r = 1; r < s->plan->ranks; r++)
        CHECK_MSG(all[r] == all[0], "%s: rank %d has other bits than rank 0", name, r);
}

static void test_case(const shape_case *c, banyan_comm *comm)
{
    banyan_spec spec;
    banyan_rule rules[4];
    set_spec(c, banyan_comm_size(comm), &spec, rules);
    banyan_plan *plan = sequence_plan(&spec, comm);
    if (!plan) return;
    sequence s;
    sequence_make(&s, plan, c->tokens, 1234);
    oracle_round(s.k, spec.layers * s.tokens * spec.kv_heads * spec.key_dim, spec.cache_dtype);
    oracle_round(s.v, spec.layers * s.tokens * spec.kv_heads * s.spec->value_dim,
                 spec.cache_dtype);
    uint64_t hash[2] = {0};
    for (int again = 0; again < 2; again++) {
        banyan_cache *cache = sequence_cache(plan);
        if (!cache) break;
        sequence_mark_results(&s);
        run_script(&s, cache, 5);
        hash[again] = sequence_results_hash(&s);
        if (!again) check_results(&s, c->name);
        if (!again) check_stats(&s, cache, c->name);
        banyan_cache_destroy(cache);
    }
    CHECK_MSG(hash[0] == hash[1], "%s: a second run gave other bits", c->name);
    if (spec.out == BANYAN_OUT_ALL) check_same_on_all_ranks(&s, hash[0], c->name);
    sequence_free(&s);
    banyan_plan_destroy(plan);
}

int main(int argc, char **argv)
{
    banyan_comm *comm = test_comm(NULL);
    for (int i = 0; i < CASES; i++) {
        int wanted = argc == 1;
        for (int a = 1; a < argc; a++) wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (wanted) test_case(&cases[i], comm);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
