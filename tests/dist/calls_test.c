/* SPDX-License-Identifier: Apache-2.0 */
/* What else a call can be: refused, with words and without a trace; probed; fed with a NaN;
 * half a call (append only, attend only). */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"
#include "tests/world.h"

#include <unistd.h>

enum { TOKENS = 300, BLOCK = 16, ROWS = 64, HEADS = 6, KV_HEADS = 3, DIM = 32 };

static const banyan_rule rules[] = {
    {0, -1, 2, 3, "sink_window sink=1 window=40t"},
    {0, -1, 4, 5, "s2 stride=4 local=2 per=query"},
};

static void set_spec(banyan_spec *spec, banyan_out out)
{
    banyan_spec_init(spec);
    spec->layers = 2;
    spec->heads = HEADS;
    spec->kv_heads = KV_HEADS;
    spec->key_dim = DIM;
    spec->max_tokens = TOKENS;
    spec->max_rows = ROWS;
    spec->block_tokens = BLOCK;
    spec->rollback_tokens = 10;
    spec->cache_dtype = BANYAN_F32;
    spec->rules = rules;
    spec->rule_count = 2;
    spec->out = out;
    spec->threads = 1;
}

static void prefill(sequence *s, banyan_cache *cache, int32_t layer, int64_t to, int what)
{
    for (int64_t at = 0; at < to; at += ROWS) {
        int32_t rows = to - at < ROWS ? (int32_t)(to - at) : ROWS;
        CHECK_MSG(sequence_call(s, cache, layer, at, rows, what) == BANYAN_OK, "%s",
                  banyan_error_message());
    }
}

/* ---- refused ----------------------------------------------------------------------------- */

typedef struct refusal {
    int32_t layer;
    int64_t at;
    int32_t rows;
    const char *given; /* of q, k, v, out */
    const char *words;
} refusal;

/* After 100 tokens in layer 0, and 60 + 5 taken back to 60 in layer 1. */
static const refusal refusals[] = {
    {2, 100, 1, "qkvo", "layer 2: the plan has layers 0..1"},
    {-1, 100, 1, "qkvo", "layer -1: the plan has layers 0..1"},
    {0, 100, -1, "qkvo", "rows -1: expected 0..64 (max_rows)"},
    {0, 100, 65, "qkvo", "rows 65: expected 0..64 (max_rows)"},
    {0, 100, 1, "qko", "k without v: expected both or neither"},
    {0, 100, 1, "qvo", "v without k: expected both or neither"},
    {0, 100, 1, "o", "neither q nor k and v"},
    {0, 100, 1, "qkv", "q without out"},
    {0, -1, 1, "kv", "at -1: expected 0 or more"},
    {0, 101, 1, "qkvo", "at 101 leaves a gap: layer 0 has 100 tokens, expected at <= 100"},
    {1, 100, 1, "kv", "at 100 leaves a gap: layer 1 has 60 tokens, expected at <= 60"},
    {0, 89, 1, "kv",
     "at 89 goes back too far: layer 0 had 100 tokens and rollback_tokens is 10, "
     "expected at >= 90"},
    {1, 54, 1, "kv", "at 54 goes back too far: layer 1 had 65 tokens"},
    {0, 100, 1, "qo", "at 100 with 1 rows and no k, v: past the 100 tokens of layer 0"},
    {0, INT64_MAX - 1, 2, "qo", "past the 100 tokens of layer 0"},
    {0, 53, 1, "qo", "at 53 goes back too far: blocks that only rows before 54 read are gone"},
};

static void test_refusals(banyan_plan *plan)
{
    banyan_cache *cache = sequence_cache(plan);
    if (!cache) return;
    sequence s;
    sequence_make(&s, plan, TOKENS, 21);
    sequence_mark_results(&s);
    prefill(&s, cache, 0, 100, APPEND);
    prefill(&s, cache, 1, 60, APPEND);
    CHECK(sequence_call(&s, cache, 1, 60, 5, APPEND) == BANYAN_OK);
    CHECK(sequence_call(&s, cache, 1, 59, 1, APPEND) == BANYAN_OK); /* back: 60 tokens again */
    banyan_stats before, after;
    banyan_cache_stats(cache, &before);
    uint64_t hash = sequence_results_hash(&s);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        banyan_status status = sequence_attend(
            cache, r->layer, r->at, r->rows, strchr(r->given, 'q') ? s.q_in : NULL,
            strchr(r->given, 'k') ? s.k_in : NULL, strchr(r->given, 'v') ? s.v_in : NULL,
            strchr(r->given, 'o') ? s.out : NULL, NULL);
        CHECK_MSG(status == BANYAN_ERR_ARGUMENT && strstr(banyan_error_message(), r->words),
                  "case %d: %s: \"%s\", expected \"%s\"", (int)i, banyan_status_name(status),
                  banyan_error_message(), r->words);
    }
    banyan_cache_stats(cache, &after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    CHECK(hash == sequence_results_hash(&s));

    /* up to max_tokens, and not one further */
    for (int64_t at = 100; at < TOKENS; at += 50)
        CHECK_MSG(sequence_call(&s, cache, 0, at, 50, APPEND) == BANYAN_OK, "%s",
                  banyan_error_message());
    CHECK(sequence_attend(cache, 0, TOKENS, 1, NULL, s.k_in, s.v_in, NULL, NULL) ==
          BANYAN_ERR_ARGUMENT);
    CHECK(strstr(banyan_error_message(), "at 300 with 1 rows: past max_tokens 300"));
    const banyan_rows part = {.sequence = cache->sequence, .at = 90, .rows = 1};
    CHECK(banyan_attend(NULL, 0, &part, 1, s.q_in, s.k_in, s.v_in, s.out, NULL) ==
          BANYAN_ERR_ARGUMENT);
    CHECK(banyan_cache_wait(NULL) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_cache_wait(cache) == BANYAN_OK);
    s.probe = (banyan_range){290, 301};
    CHECK(sequence_call(&s, cache, 0, 299, 1, ATTEND | PROBE) == BANYAN_ERR_ARGUMENT);
    CHECK(strstr(banyan_error_message(), "expected a range within 0..299"));
    s.probe = (banyan_range){-1, 1};
    CHECK(sequence_call(&s, cache, 0, 299, 1, ATTEND | PROBE) == BANYAN_ERR_ARGUMENT);
    sequence_free(&s);
    banyan_cache_destroy(cache);

    CHECK(banyan_cache_create(plan, &cache, &cache) != BANYAN_OK);
    CHECK(strstr(banyan_error_message(), "stream"));
    banyan_cache_destroy(NULL);
}

/* A comm that failed once: every further call says so. */
static void test_broken(banyan_plan *plan)
{
    banyan_cache *cache = sequence_cache(plan);
    if (!cache) return;
    sequence s;
    sequence_make(&s, plan, TOKENS, 22);
    plan->comm->broken = 1;
    CHECK(sequence_call(&s, cache, 0, 0, 1, APPEND | ATTEND) == BANYAN_ERR_COMM);
    CHECK(strstr(banyan_error_message(), "this comm is broken: an earlier transfer failed"));
    plan->comm->broken = 0;
    CHECK(sequence_call(&s, cache, 0, 0, 1, APPEND | ATTEND) == BANYAN_OK);
    sequence_free(&s);
    banyan_cache_destroy(cache);
}

/* ---- sequences that ended, and steps that were left -------------------------------------- */

/* A handle of a sequence that was destroyed means nothing, until its place is taken. */
static void test_ended(banyan_plan *plan)
{
    banyan_cache *cache = sequence_cache(plan);
    banyan_sequence *fork = NULL;
    int64_t block;
    void *record;
    size_t bytes;
    sequence s;
    if (!cache) return;
    sequence_make(&s, plan, TOKENS, 23);
    prefill(&s, cache, 0, 50, APPEND);
    banyan_sequence *ended = cache->sequence;
    CHECK(banyan_sequence_owner(ended, 0, 0, TOKENS / BLOCK) >= 0); /* 300 tokens end in it */
    CHECK(banyan_sequence_owner(ended, 0, 0, TOKENS / BLOCK + 1) == -1);
    banyan_sequence_destroy(ended);
    CHECK(banyan_sequence_fork(ended, 10, 0, &fork) == BANYAN_ERR_ARGUMENT && !fork);
    CHECK(strstr(banyan_error_message(), "the sequence was destroyed"));
    CHECK(sequence_call(&s, cache, 0, 50, 1, APPEND) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_sequence_length(ended, 0) == -1 && banyan_sequence_length(ended, -1) == -1);
    CHECK(banyan_sequence_owner(ended, 0, 0, 0) == -1);
    CHECK(!banyan_sequence_record(ended, 0, 0, 0, &block, &record, &bytes));
    sequence_free(&s);
    banyan_cache_destroy(cache);
}

/* A step's rows, and then a row before them by itself: rows like the step's that follow are
 * appended. */
static void test_left_step(banyan_plan *plan)
{
    banyan_cache *cache = sequence_cache(plan), *plain = sequence_cache(plan);
    sequence s, expect;
    if (!cache || !plain) return;
    sequence_make(&s, plan, TOKENS, 27), sequence_make(&expect, plan, TOKENS, 27);
    sequence_mark_results(&s), sequence_mark_results(&expect);
    for (int32_t layer = 0; layer < 2; layer++) {
        prefill(&s, cache, layer, 64, APPEND | ATTEND);
        prefill(&expect, plain, layer, 67, APPEND | ATTEND);
    }
    const banyan_rows part = {.sequence = cache->sequence, .at = 64, .rows = 3};
    CHECK(banyan_cache_step(cache, &part, 1) == BANYAN_OK);
    for (int32_t layer = 0; layer < 2; layer++) {
        CHECK(sequence_call(&s, cache, layer, 64, 3, APPEND | ATTEND) == BANYAN_OK);
        CHECK(sequence_call(&s, cache, layer, 63, 1, APPEND | ATTEND) == BANYAN_OK);
        CHECK(banyan_sequence_length(cache->sequence, layer) == 64);
        CHECK(sequence_call(&s, cache, layer, 64, 3, APPEND | ATTEND) == BANYAN_OK);
        CHECK_MSG(banyan_sequence_length(cache->sequence, layer) == 67, "%lld tokens",
                  (long long)banyan_sequence_length(cache->sequence, layer));
    }
    CHECK_MSG(sequence_results_hash(&s) == sequence_results_hash(&expect), "other results");
    sequence_free(&s), sequence_free(&expect);
    banyan_cache_destroy(cache), banyan_cache_destroy(plain);
}

/* ---- half a call ------------------------------------------------------------------------- */

/* Append only, then attend only (twice: layers that share a cache), gives what one call
 * gives. */
static void test_halves(banyan_plan *plan)
{
    banyan_cache *one = sequence_cache(plan), *two = sequence_cache(plan);
    if (!one || !two) return;
    sequence s;
    sequence_make(&s, plan, TOKENS, 23);
    sequence_mark_results(&s);
    prefill(&s, one, 0, TOKENS, APPEND | ATTEND);
    uint64_t hash = sequence_results_hash(&s);
    sequence_mark_results(&s);
    for (int64_t at = 0; at < TOKENS; at += ROWS) {
        int32_t rows = TOKENS - at < ROWS ? (int32_t)(TOKENS - at) : ROWS;
        CHECK(sequence_call(&s, two, 0, at, rows, APPEND) == BANYAN_OK);
        CHECK(sequence_call(&s, two, 0, at, rows, ATTEND) == BANYAN_OK);
        CHECK(sequence_call(&s, two, 0, at, rows, ATTEND) == BANYAN_OK);
    }
    CHECK(hash == sequence_results_hash(&s));
    sequence_free(&s);
    banyan_cache_destroy(one);
    banyan_cache_destroy(two);
}

/* ---- probed ------------------------------------------------------------------------------ */

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const sequence *s = ctx;
    return banyan_plan_reads(s->plan, 0, head, row, token);
}

typedef struct range {
    int64_t first, end;
    const sequence *s;
} range;

static int reads_in_range(void *ctx, int head, int64_t row, int64_t token)
{
    const range *r = ctx;
    return token >= r->first && token < r->end &&
           banyan_plan_reads(r->s->plan, 0, head, row, token);
}

/* mass = exp(lse of the probed tokens - lse): off by at most both bounds of lse, relatively. */
static void check_mass(const sequence *s, const range *probed, int64_t row, int32_t head)
{
    oracle o = {.heads = HEADS,
                .kv_heads = KV_HEADS,
                .key_dim = DIM,
                .value_dim = DIM,
                .tokens = s->tokens,
                .scale = s->spec->scale,
                .k = s->k,
                .v = s->v,
                .reads = reads,
                .ctx = (void *)s};
    double out[DIM], all, part;
    bound b = {.block_tokens = BLOCK,
               .combines = s->plan->ranks,
               .rounds = bound_rounds(s->plan->kernel->name, s->spec->cache_dtype)};
    const float *q = s->q + (row * HEADS + head) * DIM;
    oracle_row(&o, q, head, row, out, &all, &b);
    double limit = 2 * bound_lse(&b);
    o.reads = reads_in_range;
    o.ctx = (void *)probed;
    oracle_row(&o, q, head, row, out, &part, NULL);
    double expect = part == -INFINITY ? 0 : exp(part - all);
    float got = *sequence_mass(s, 0, row, head);
    CHECK_MSG(fabs(got - expect) <= expect * (expm1(limit) + 0x1p-23),
              "row %lld head %d: mass %g, expected %g", (long long)row, head, got, expect);
}

static void test_probe(banyan_plan *plan)
{
    banyan_cache *cache = sequence_cache(plan);
    if (!cache) return;
    sequence s;
    sequence_make(&s, plan, TOKENS, 24);
    sequence_mark_results(&s);
    const range ranges[] = {{0, 1, &s},      {90, 103, &s}, {7, 250, &s},
                            {0, TOKENS, &s}, {50, 50, &s},  {255, 300, &s}};
    prefill(&s, cache, 0, 256, APPEND | ATTEND);
    int64_t at = 256;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++, at += 5) {
        const range *r = &ranges[i];
        s.probe = (banyan_range){r->first, r->end};
        CHECK(sequence_call(&s, cache, 0, at, 5, APPEND | PROBE) ==
              BANYAN_OK); /* asks nothing */
        CHECK(sequence_call(&s, cache, 0, at, 5, ATTEND | PROBE) == BANYAN_OK);
        for (int64_t row = at; row < at + 5; row++)
            for (int32_t h = 0; h < HEADS; h++)
                if (sequence_is_written(&s, h, 0)) check_mass(&s, r, row, h);
        /* it changes nothing else */
        uint64_t hash = sequence_results_hash(&s);
        CHECK(sequence_call(&s, cache, 0, at, 5, ATTEND) == BANYAN_OK);
        CHECK(sequence_call(&s, cache, 0, at, 5, ATTEND) == BANYAN_OK);
        CHECK_MSG(hash == sequence_results_hash(&s), "a probe changed results");
    }
    sequence_free(&s);
    banyan_cache_destroy(cache);
}

/* ---- a NaN ------------------------------------------------------------------------------- */

static int is_all_nan(const float *x, int32_t count)
{
    int nan = 1;
    for (int32_t i = 0; i < count; i++) nan &= isnan(x[i]) != 0;
    return nan;
}

/* One key of one KV head is NaN: exactly the rows and heads that read it are. */
static void test_nan(banyan_plan *plan, int64_t token, int32_t kv_head)
{
    banyan_cache *clean_cache = sequence_cache(plan), *cache = sequence_cache(plan);
    if (!clean_cache || !cache) return;
    sequence clean, s;
    sequence_make(&clean, plan, TOKENS, 25);
    sequence_make(&s, plan, TOKENS, 25);
    sequence_mark_results(&clean);
    sequence_mark_results(&s);
    ((float *)s.k_in)[(token * KV_HEADS + kv_head) * DIM + 3] = NAN;
    prefill(&clean, clean_cache, 0, TOKENS, APPEND | ATTEND);
    prefill(&s, cache, 0, TOKENS, APPEND | ATTEND);
    int poisoned = 0;
    for (int64_t row = 0; row < TOKENS; row++) {
        for (int32_t h = 0; h < HEADS; h++) {
            const char *out = sequence_out(&s, 0, row, h);
            if (h / (HEADS / KV_HEADS) == kv_head && sequence_is_written(&s, h, 0) &&
                banyan_plan_reads(plan, 0, h, row, token)) {
                poisoned++;
                CHECK_MSG(is_all_nan((const float *)out, DIM) &&
                              isnan(*sequence_lse(&s, 0, row, h)),
                          "row %lld head %d reads a NaN and is none", (long long)row, h);
            } else {
                CHECK_MSG(memcmp(out, sequence_out(&clean, 0, row, h), DIM * 4) == 0,
                          "row %lld head %d does not read the NaN, but changed", (long long)row,
                          h);
            }
        }
    }
    CHECK(sequence_sum(plan, poisoned) > 0);
    sequence_free(&clean);
    sequence_free(&s);
    banyan_cache_destroy(clean_cache);
    banyan_cache_destroy(cache);
}

/* ---- a rank that stays away -------------------------------------------------------------- */

/* The others learn who is missing within the time limit, and the comm is broken from then on.
 * Ends the job with exit code 7 when that is what happened. */
static int test_absent(banyan_comm *comm)
{
    int rank = banyan_comm_rank(comm), absent = banyan_comm_size(comm) - 1;
    banyan_spec spec;
    set_spec(&spec, BANYAN_OUT_ALL);
    spec.placement = "spread";
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
    if (!cache) return test_end();
    sequence s;
    sequence_make(&s, plan, TOKENS, 26);
    prefill(&s, cache, 0, 256, APPEND | ATTEND);
    if (rank == absent) sleep(60);
    banyan_comm_timeout(comm, 0.5);
    char words[64];
    snprintf(words, sizeof words, "rank %d did not arrive", absent);
    CHECK(sequence_call(&s, cache, 0, 256, 1, APPEND | ATTEND) == BANYAN_ERR_COMM);
    CHECK_MSG(rank != 0 || strstr(banyan_error_message(), words), "%s", banyan_error_message());
    CHECK(sequence_call(&s, cache, 0, 257, 1, APPEND | ATTEND) == BANYAN_ERR_COMM);
    CHECK(strstr(banyan_error_message(), "this comm is broken"));
    sequence_free(&s);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
    return test_failures ? test_end() : 7;
}

int main(int argc, char **argv)
{
    banyan_comm *comm = test_comm(NULL);
    if (argc > 1 && strcmp(argv[1], "absent") == 0) return test_absent(comm);
    for (int all = 0; all < 2; all++) {
        banyan_spec spec;
        set_spec(&spec, all ? BANYAN_OUT_ALL : BANYAN_OUT_HOME);
        spec.threads = 1 + all;
        spec.placement = all ? "spread" : "line";
        banyan_plan *plan = sequence_plan(&spec, comm);
        if (!plan) continue;
        test_refusals(plan);
        test_broken(plan);
        test_ended(plan);
        test_left_step(plan);
        test_halves(plan);
        test_probe(plan);
        for (int32_t g = 0; g < KV_HEADS; g++) test_nan(plan, 37 + 11 * g, g);
        banyan_plan_destroy(plan);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
