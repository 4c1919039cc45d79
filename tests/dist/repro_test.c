/* SPDX-License-Identifier: Apache-2.0 */
/* Reproducible results: whatever the number of ranks, the placement, the merge, where the
 * output goes and how many threads there are, out, lse and probed mass have the bits that one
 * rank computes alone with one thread. Every rank works that out for itself, and compares what
 * it was given.
 *
 * Cases: prefill in chunks, speculation that is taken back, decode with a probe, for shapes,
 * formats, patterns and blocks, on data that are random, of scores of +-200 and more, of values
 * of all sizes, and with NaN and inf in some keys and values. Arguments: names of cases; none:
 * all. */
#include "tests/dist/sequence.h"
#include "tests/world.h"

enum { USUAL, FAR_APART, ANY_SIZE, ODD };

typedef struct repro_case {
    const char *name;
    int data;
    int32_t heads, kv_heads, key_dim, value_dim, block, tokens, rows, rollback;
    banyan_dtype cache, out;
    const char *rules[3]; /* "FIRST-LAST:USE", query heads */
} repro_case;

/* clang-format off */
static const repro_case cases[] = {
    {"bf16", USUAL, 8, 2, 64, 64, 16, 300, 48, 0, BANYAN_BF16, BANYAN_F32, {0}},
    {"fp32", FAR_APART, 6, 3, 40, 24, 16, 250, 70, 5, BANYAN_F32, BANYAN_BF16,
     {"2-3:s2 stride=4 local=2", "4-5:sink_window sink=1 window=30t"}},
    {"fp16", ANY_SIZE, 4, 1, 32, 48, 32, 280, 33, 0, BANYAN_F16, BANYAN_F16, {0}},
    {"odd", ODD, 8, 4, 16, 16, 16, 260, 40, 9, BANYAN_BF16, BANYAN_F32,
     {"0-5:s2 stride=4 local=2 per=query", "6-7:sink_window sink=3t window=2"}},
    {"wide", USUAL, 70, 1, 16, 20, 64, 150, 130, 40, BANYAN_F32, BANYAN_F32,
     {"60-69:sink_window sink=1 window=50t"}},
};

/* How it is run: by numbers of the case's own, so that all meet all in the end. */
typedef struct way {
    const char *placement, *merge;
    banyan_home home;
    banyan_out where;
    int32_t threads;
    int uneven;
} way;

static const way ways[] = {
    {"line", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 1, 0},
    {"line", "direct", BANYAN_HOME_DEALT, BANYAN_OUT_ALL, 2, 1},
    {"line", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 2, 0},
    {"line", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 1, 1},
    {"line", "butterfly", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 2, 0},
    {"line", "gather", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 1, 0},
    {"spread", "direct", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 2, 0},
    {"spread", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 1, 0},
    {"spread", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 1, 0},
    {"spread", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 2, 1},
    {"spread", "butterfly", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 1, 0},
    {"spread", "gather", BANYAN_HOME_DEALT, BANYAN_OUT_ALL, 3, 0},
    {"heads", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 2, 0},
};
/* clang-format on */

static void set_spec(const repro_case *c, const way *w, banyan_spec *spec, banyan_rule *rules)
{
    banyan_spec_init(spec);
    *spec = (banyan_spec){.size = sizeof *spec,
                          .sequences = 1,
                          .layers = 1,
                          .heads = c->heads,
                          .kv_heads = c->kv_heads,
                          .key_dim = c->key_dim,
                          .value_dim = c->value_dim,
                          .rules = rules,
                          .max_tokens = c->tokens,
                          .max_rows = c->rows,
                          .block_tokens = c->block,
                          .rollback_tokens = c->rollback,
                          .cache_dtype = c->cache,
                          .evict = 1,
                          .out_dtype = c->out,
                          .placement = w->placement,
                          .balance = w->uneven ? BANYAN_BALANCE_PREFILL : BANYAN_BALANCE_DECODE,
                          .merge = w->merge,
                          .device = "cpu",
                          .home = w->home,
                          .out = w->where,
                          .reproducible = 1,
                          .threads = w->threads,
                          .lost_rank = -1,
                          .lost_layer = -1};
    static const double bandwidth[16] = {1, 0.5, 2, 1, 1.5, 0.25, 1, 3, 1, 1, 2, 1, 1, 1, 4, 1};
    if (w->uneven) spec->bandwidth = bandwidth;
    for (int i = 0; i < 3 && c->rules[i]; i++) {
        banyan_rule *r = &rules[spec->rule_count++];
        *r = (banyan_rule){.last_layer = -1, .use = strchr(c->rules[i], ':') + 1};
        CHECK(sscanf(c->rules[i], "%d-%d", &r->first_head, &r->last_head) == 2);
    }
}

/* Rewrites what sequence_make drew; `in` is fp32, NaN where a rank holds nothing. */
static void spoil(float *in, int64_t count, int data, int is_value, uint64_t seed)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (int64_t i = 0; i < count; i++) {
        const uint64_t draw = test_random(&seed);
        if (data == FAR_APART && !is_value) in[i] *= 6;
        if (data == ANY_SIZE && is_value) in[i] = ldexpf(in[i], (int)(draw % 24) - 12);
        if (data == ODD && draw % 3000 == 0) in[i] = odd[draw / 3000 % 4];
    }
}

static void make(sequence *s, banyan_plan *plan, const repro_case *c)
{
    sequence_make(s, plan, c->tokens, 77);
    const int64_t tokens = c->tokens;
    spoil((float *)(void *)s->q_in, tokens * c->heads * c->key_dim,
          c->data == ODD ? USUAL : c->data, 0, 1);
    spoil((float *)(void *)s->k_in, tokens * c->kv_heads * c->key_dim, c->data, 0, 2);
    spoil((float *)(void *)s->v_in, tokens * c->kv_heads * c->value_dim, c->data, 1, 3);
    sequence_mark_results(s);
}

static void call(sequence *s, banyan_cache *cache, int64_t at, int32_t rows, int what)
{
    CHECK_MSG(sequence_call(s, cache, 0, at, rows, what) == BANYAN_OK, "%s",
              banyan_error_message());
}

/* The same calls for every way. */
static void run(sequence *s, banyan_plan *plan)
{
    const banyan_spec *spec = s->spec;
    banyan_cache *cache = sequence_cache(plan);
    if (!cache) return;
    int64_t at = 0, decode = s->tokens - 6;
    for (int i = 0; at < decode; i++) {
        int32_t rows = i % 3 == 1 ? spec->max_rows / 3 : spec->max_rows;
        if (rows > decode - at) rows = (int32_t)(decode - at);
        if (spec->rollback_tokens >= rows / 2 && rows / 2 > 0)
            CHECK(sequence_attend(cache, 0, at, rows / 2, NULL, s->k_in, s->v_in, NULL, NULL) ==
                  BANYAN_OK);
        call(s, cache, at, rows, APPEND | ATTEND);
        at += rows;
    }
    for (; at < s->tokens; at++) {
        s->probe = (banyan_range){s->tokens / 3, s->tokens / 3 + s->tokens / 2};
        call(s, cache, at, 1, APPEND | ATTEND | PROBE);
    }
    banyan_cache_destroy(cache);
}

/* What one rank gives alone, with one thread. */
static int run_alone(const repro_case *c, sequence *s)
{
    static const way alone = {"line", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 1, 0};
    banyan_comm *self = NULL;
    banyan_plan *plan = NULL;
    banyan_spec spec;
    banyan_rule rules[3];
    set_spec(c, &alone, &spec, rules);
    CHECK(banyan_comm_create("self", NULL, &self) == BANYAN_OK);
    plan = sequence_plan(&spec, self);
    if (!plan) return 0;
    make(s, plan, c);
    run(s, plan);
    return 1;
}

static void compare(const repro_case *c, const way *w, const sequence *s, const sequence *alone)
{
    const size_t bytes = (size_t)c->value_dim * banyan_dtype_bytes(c->out);
    for (int64_t row = 0; row < c->tokens; row++) {
        for (int32_t h = 0; h < c->heads; h++) {
            if (!sequence_is_written(s, h, 0)) {
                CHECK(sequence_is_untouched(s, 0, row, h));
                continue;
            }
            const int same_out =
                !memcmp(sequence_out(s, 0, row, h), sequence_out(alone, 0, row, h), bytes);
            const int same_lse = !memcmp(sequence_lse(s, 0, row, h),
                                         sequence_lse(alone, 0, row, h), sizeof(float));
            const int same_mass = !memcmp(sequence_mass(s, 0, row, h),
                                          sequence_mass(alone, 0, row, h), sizeof(float));
            CHECK_MSG(same_out && same_lse && same_mass,
                      "%s, %s %s %d %d, %d ranks, %d threads: row %lld head %d: out %d lse %d "
                      "mass %d",
                      c->name, w->placement, w->merge, (int)w->home, (int)w->where,
                      s->plan->ranks, w->threads, (long long)row, h, same_out, same_lse,
                      same_mass);
            if (!same_out || !same_lse || !same_mass) return;
        }
    }
}

static void test_case(const repro_case *c, banyan_comm *comm)
{
    sequence alone;
    if (!run_alone(c, &alone)) return;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        banyan_spec spec;
        banyan_rule rules[3];
        set_spec(c, &ways[i], &spec, rules);
        banyan_plan *plan = sequence_plan(&spec, comm);
        if (!plan) continue;
        sequence s;
        make(&s, plan, c);
        run(&s, plan);
        compare(c, &ways[i], &s, &alone);
        sequence_free(&s);
        banyan_plan_destroy(plan);
    }
    banyan_comm *self = alone.plan->comm;
    banyan_plan_destroy(alone.plan);
    banyan_comm_destroy(self);
    sequence_free(&alone);
}

/* A lost rank's blocks depend on where they are, so bits may be compared among merges and
 * threads only; a row that sees nothing is empty. */
static void test_lost(banyan_comm *comm)
{
    static const repro_case c = {"lost", USUAL, 8, 2,          32,         32, 16,
                                 100,    30,    0, BANYAN_F32, BANYAN_F32, {0}};
    sequence first = {0};
    for (int i = 0; i < 4; i++) {
        const way w = {"spread",          i % 2 ? "tree" : "direct",
                       BANYAN_HOME_FIRST, BANYAN_OUT_ALL,
                       i / 2 + 1,         0};
        banyan_spec spec;
        banyan_rule rules[3];
        set_spec(&c, &w, &spec, rules);
        spec.lost_rank = 0;
        banyan_plan *plan = sequence_plan(&spec, comm);
        if (!plan) return;
        sequence s;
        make(&s, plan, &c);
        run(&s, plan);
        if (i) compare(&c, &w, &s, &first);
        const float *out = (const float *)(void *)sequence_out(&s, 0, 0, 0);
        if (banyan_plan_owner(plan, 0, 0, 0, 0) == 0)
            CHECK(out[0] == 0 && *sequence_lse(&s, 0, 0, 0) == -INFINITY);
        if (!i) {
            first = s;
            continue;
        }
        sequence_free(&s);
        banyan_plan_destroy(plan);
    }
    banyan_plan_destroy(first.plan);
    sequence_free(&first);
}

/* What cannot be is said at once. */
static void test_words(banyan_comm *comm)
{
    banyan_plan *plan = NULL;
    banyan_spec spec;
    banyan_rule rules[3];
    way w = ways[0];
    w.merge = "allreduce";
    set_spec(&cases[0], &w, &spec, rules);
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_CONFIG);
    CHECK_MSG(strstr(banyan_error_message(), "merge is \"allreduce\", which adds up floats"),
              "%s", banyan_error_message());
    set_spec(&cases[0], &ways[0], &spec, rules);
    spec.max_tokens = (INT64_C(16) << 22) + 1;
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_CONFIG);
    CHECK_MSG(strstr(banyan_error_message(),
                     "max_tokens is 67108865: expected at most 67108864 with reproducible"),
              "%s", banyan_error_message());
}

int main(int argc, char **argv)
{
    banyan_comm *comm = test_comm(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int wanted = argc == 1;
        for (int a = 1; a < argc; a++) wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (wanted) test_case(&cases[i], comm);
    }
    if (argc == 1) test_lost(comm);
    if (argc == 1) test_words(comm);
    banyan_comm_destroy(comm);
    return test_end();
}
