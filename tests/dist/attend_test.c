/* SPDX-License-Identifier: Apache-2.0 */
/* Attention across ranks against the float64 oracle: prefill in chunks of random sizes, decode, and
 * speculation that is taken back, for shapes, formats, patterns, placements and merges.
 *
 * Each case also shows that results come where they belong and nowhere else, that heads which a rank
 * does not hold are not read (they are NaN there), that a second run gives the same bits, as do all
 * ranks with `out` all, that heads of one holder cost no message, and that a rank keeps exactly the
 * bytes that its plan says. Arguments: names of cases; none: all. */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"

typedef struct shape_case {
    const char *name;
    int32_t layers, heads, kv_heads, key_dim, value_dim, block;
    int32_t tokens, rows, rollback;
    banyan_dtype cache, in, out;
    const char *rules[4]; /* pairs: layer digit, first head - last head, use: "*:0-3:s2 .." */
    const char *placement, *merge, *home, *where;
    int32_t threads, lost_rank;
} shape_case;

#define F32 BANYAN_F32
#define BF16 BANYAN_BF16
#define F16 BANYAN_F16

static const shape_case cases[] = {
    {"mha", 1,   4,   4,   64,     64,       16,      333,    64, 0,
     F32,   F32, F32, {0}, "line", "direct", "first", "home", 1,  -1},
    {"gqa", 1,   32,  8,   128,    128,    64,      500,    200, 0,
     BF16,  F32, F32, {0}, "line", "tree", "first", "home", 1,   -1},
    {"mqa", 1,   8,   1,   64,       64,       32,      450,    100, 5,
     F16,   F16, F32, {0}, "spread", "direct", "dealt", "home", 1,   -1},
    {"wide keys", 1,    4,    2,   192,    128,    32,      300,   90, 0,
     BF16,        BF16, BF16, {0}, "line", "tree", "first", "all", 2,  -1},
    {"few blocks", 1,   4,   2,   32,       32,     64,      70,    17, 0,
     F32,          F32, F32, {0}, "spread", "tree", "dealt", "all", 1,  -1},
    {"one token", 1,   6,   2,   16,       16,     16,      1,      1, 0,
     F32,         F32, F16, {0}, "spread", "tree", "first", "home", 3, -1},
    {"s2 per query head",
     1,
     8,
     2,
     64,
     64,
     16,
     700,
     150,
     20,
     F32,
     F32,
     F32,
     {"*:0-7:s2 stride=4 local=2 per=query"},
     "line",
     "tree",
     "first",
     "home",
     1,
     -1},
    {"s2 per KV head",
     1,
     16,
     8,
     32,
     32,
     16,
     600,
     300,
     0,
     BF16,
     F32,
     F32,
     {"*:0-15:s2 stride=8 local=4 per=kv"},
     "spread",
     "direct",
     "dealt",
     "home",
     2,
     -1},
    {"mixed",
     2,
     12,
     6,
     48,
     48,
     16,
     520,
     130,
     33,
     F32,
     F32,
     F32,
     {"*:4-7:sink_window sink=1 window=40t", "0:8-11:s2 stride=4 local=2", "1:0-3:sink_window"},
     "line",
     "direct",
     "dealt",
     "home",
     1,
     -1},
    {"mixed, everywhere",
     2,
     12,
     3,
     40,
     24,
     32,
     480,
     60,
     10,
     F16,
     F32,
     F32,
     {"*:1-6:sink_window sink=5t window=70t", "1:7-9:s2 stride=4 local=2"},
     "line",
     "tree",
     "first",
     "all",
     2,
     -1},
    {"whole heads", 1,        8,       8,      32,  32,  16,
     400,           128,      0,       F32,    F32, F32, {"*:2-7:sink_window sink=2 window=3"},
     "heads",       "direct", "first", "home", 1,   -1},
    {"wide group", 1,      80,      1,      16,  16,  16,
     200,          50,     0,       F32,    F32, F32, {"*:60-79:s2 stride=4 local=2 per=query"},
     "line",       "tree", "dealt", "home", 1,   -1},
    {"large blocks", 1,   4,   4,      64,     64,      256,    700, 256, 300, F16,
     BF16,           F32, {0}, "line", "tree", "first", "home", 2,   -1},
    {"row by row", 1,        4,       2,     16,  16,  16,
     90,           1,        7,       F32,   F32, F32, {"*:0-1:sink_window sink=1 window=30t"},
     "spread",     "direct", "first", "all", 3,   -1},
    {"largest dims", 1,   2,   1,   576,    512,      16,      60,     20, 0,
     BF16,           F32, F32, {0}, "line", "direct", "first", "home", 1,  -1},
    {"a rank lost", 2,   8,   2,   32,     32,     16,      350,   100, 0,
     F32,           F32, F32, {0}, "line", "tree", "first", "all", 1,   1},
};
enum { CASES = (int)(sizeof cases / sizeof *cases) };

/* ---- setting up ------------------------------------------------------------------------------ */

static void set_spec(const shape_case *c, banyan_spec *spec, banyan_rule *rules)
{
    banyan_spec_init(spec);
    spec->layers = c->layers;
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
    spec->placement = c->placement;
    spec->merge = c->merge;
    spec->home = c->home;
    spec->out = c->where;
    spec->threads = c->threads;
    spec->lost_rank = c->lost_rank;
    spec->rules = rules;
    for (int i = 0; i < 4 && c->rules[i]; i++) {
        const char *text = c->rules[i];
        banyan_rule *r = &rules[spec->rule_count++];
        *r = (banyan_rule){.first_layer = 0, .last_layer = -1, .use = strrchr(text, ':') + 1};
        if (text[0] != '*') r->first_layer = r->last_layer = text[0] - '0';
        CHECK(sscanf(text + 2, "%d-%d", &r->first_head, &r->last_head) == 2);
    }
}

/* ---- running: the same calls in the same order for a seed --------------------------------------- */

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
                CHECK_MSG(banyan_attend(cache, 0, at, rows, NULL, s->k_in, s->v_in, NULL,
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

/* ---- checking -------------------------------------------------------------------------------- */

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
        banyan_plan_owner(r->s->plan, r->layer, kv_head, token / spec->block_tokens) ==
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
    CHECK(banyan_plan_share(plan, plan->rank, s->tokens, &share) == BANYAN_OK);
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
    if (s->spec->out[0] == 'a') shared = plan->ranks > 1;
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
    set_spec(c, &spec, rules);
    if (spec.lost_rank >= banyan_comm_size(comm)) spec.lost_rank = -1;
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
    if (spec.out[0] == 'a') check_same_on_all_ranks(&s, hash[0], c->name);
    sequence_free(&s);
    banyan_plan_destroy(plan);
}

int main(int argc, char **argv)
{
    banyan_comm *comm = NULL;
    if (banyan_comm_create(NULL, NULL, &comm) != BANYAN_OK) {
        fprintf(stderr, "%s\n", banyan_error_message());
        return 1;
    }
    for (int i = 0; i < CASES; i++) {
        int wanted = argc == 1;
        for (int a = 1; a < argc; a++) wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (wanted) test_case(&cases[i], comm);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
