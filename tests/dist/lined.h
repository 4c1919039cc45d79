/* SPDX-License-Identifier: Apache-2.0 */
/* lined.h - a prompt, prefilled in calls of random sizes, and rows decoded behind it; which
 * tokens each row has read, every token being a probe of its own; for the tests of selectors
 * that choose columns, diagonals and blocks once a call. */
#ifndef BANYAN_TESTS_LINED_H
#define BANYAN_TESTS_LINED_H

#include "tests/dist/sequence.h"
#include "tests/oracle.h"
#include "tests/world.h"

enum {
    TOKENS = 310,
    PROMPT = 304,
    ROWS = 150,
    BLOCK = 16,
    HEADS = 8,
    KV_HEADS = 4,
    GROUP = 2,
    DIM = 40,
    VALUE_DIM = 24
};

enum { WHOLE_NUMBERS, REAL, BITS, MODES };

typedef struct trial {
    sequence s;
    float *mass; /* [TOKENS][ROWS][HEADS] of a call */
    char read[TOKENS][HEADS][TOKENS];
    int64_t call_at[TOKENS], call_end[TOKENS];
} trial;

/* ---- running ----------------------------------------------------------------------------- */

/* Rows at .. at+rows-1, and which tokens each has read. */
static inline void call(trial *t, banyan_cache *cache, int64_t at, int32_t rows)
{
    sequence *s = &t->s;
    banyan_range probe[TOKENS];
    int64_t strongest[ROWS * HEADS];
    for (int64_t j = 0; j < TOKENS; j++) probe[j] = (banyan_range){j, j + 1};
    const banyan_rows part = {.sequence = cache->sequence,
                              .at = at,
                              .rows = rows,
                              .probes = probe,
                              .probe_count = (int32_t)(at + rows),
                              .mass = s->spec->reproducible ? NULL : t->mass,
                              .strongest = strongest};
    const float *q = (float *)(void *)s->q_in + at * HEADS * DIM;
    const float *k = (float *)(void *)s->k_in + at * KV_HEADS * DIM;
    const float *v = (float *)(void *)s->v_in + at * KV_HEADS * VALUE_DIM;
    CHECK_MSG(banyan_attend(cache, 0, &part, 1, q, k, v, sequence_out(s, 0, at, 0),
                            sequence_lse(s, 0, at, 0)) == BANYAN_OK,
              "%s", banyan_error_message());
    for (int64_t r = at; r < at + rows; r++) {
        t->call_at[r] = at, t->call_end[r] = at + rows;
        for (int head = 0; head < HEADS && part.mass; head++) {
            float most = -1;
            if (!sequence_is_written(s, head, 0)) continue;
            const int64_t best = strongest[(r - at) * HEADS + head];
            for (int64_t j = 0; j <= r; j++) {
                const float m = t->mass[(j * rows + r - at) * HEADS + head];
                t->read[r][head][j] = m > 0;
                most = fmaxf(most, m);
            }
            CHECK_MSG(best >= 0 && best <= r &&
                          t->mass[(best * rows + r - at) * HEADS + head] >= most * 0.9999f,
                      "head %d, row %lld: the strongest token is %lld", head, (long long)r,
                      (long long)best);
        }
    }
}

static inline void run(trial *t, banyan_cache *cache)
{
    uint64_t seed = 9;
    for (int64_t at = 0, rows; at < PROMPT; at += rows) {
        rows = sequence_chunk(&seed, ROWS, PROMPT - at);
        call(t, cache, at, (int32_t)rows);
    }
    for (int64_t at = PROMPT; at < TOKENS; at++) call(t, cache, at, 1);
}

static inline void make_whole(sequence *s)
{
    uint64_t seed = 77;
    float *q = (float *)(void *)s->q_in, *k = (float *)(void *)s->k_in;
    for (int64_t i = 0; i < (int64_t)TOKENS * HEADS * DIM; i++)
        sequence_set(&q[i], &s->q[i], (float)test_below(&seed, 5) - 2);
    for (int64_t i = 0; i < (int64_t)TOKENS * KV_HEADS * DIM; i++)
        sequence_set(&k[i], &s->k[i], (float)test_below(&seed, 3) - 1);
}

static inline banyan_spec spec_of(const banyan_rule *rule)
{
    banyan_spec spec = test_spec(HEADS, KV_HEADS, DIM, BLOCK, TOKENS, rule);
    spec.value_dim = VALUE_DIM;
    spec.max_rows = ROWS;
    spec.placement = "heads";
    spec.threads = 2;
    return spec;
}

/* mode: one of the above. 0: a test has failed, and there is nothing to look at. */
static inline int run_trial(trial *t, const char *use, int heads, banyan_comm *comm, int mode,
                            banyan_plan **plan)
{
    const banyan_rule rule = {0, -1, 0, heads - 1, use};
    banyan_spec spec = spec_of(&rule);
    if (mode == WHOLE_NUMBERS) {
        spec.cache_dtype = BANYAN_BF16;
        spec.scale = 0.25f;
    }
    spec.reproducible = mode == BITS;
    spec.threads = mode == BITS ? 2 : 1;
    *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = *plan ? sequence_cache(*plan) : NULL;
    if (!cache) return 0;
    sequence_make(&t->s, *plan, TOKENS, 3);
    if (mode == WHOLE_NUMBERS) make_whole(&t->s);
    t->mass = sequence_take((int64_t)TOKENS * ROWS * HEADS, sizeof *t->mass);
    sequence_mark_results(&t->s);
    run(t, cache);
    banyan_cache_destroy(cache);
    return 1;
}

static inline void end_trial(trial *t, banyan_plan *plan)
{
    if (plan) sequence_free(&t->s), free(t->mass);
    t->mass = NULL;
    banyan_plan_destroy(plan);
}

/* ---- checks ------------------------------------------------------------------------------ */

/* Is a block at this distance one of a diagonal's two? */
static inline int is_of_diagonal(int64_t distance, int64_t block_distance)
{
    return distance / BLOCK == block_distance ||
           (distance + BLOCK - 1) / BLOCK == block_distance;
}

static inline void check_result(const trial *t, oracle_reads_fn reads, void *ctx,
                                const char *use, int head, int64_t row)
{
    const sequence *s = &t->s;
    double out[VALUE_DIM], lse;
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = VALUE_DIM,
                      .tokens = TOKENS,
                      .scale = (double)s->spec->scale,
                      .k = s->k,
                      .v = s->v,
                      .reads = reads,
                      .ctx = ctx};
    bound b = {.block_tokens = BLOCK, .combines = s->plan->ranks + 1};
    oracle_row(&o, s->q + (row * HEADS + head) * DIM, head, row, out, &lse, &b);
    const double share = oracle_compare(out, lse, &b, VALUE_DIM, sequence_out(s, 0, row, head),
                                        BANYAN_F32, sequence_lse(s, 0, row, head));
    CHECK_MSG(share <= 1, "%s: head %d, row %lld: error is %.3g of its bound", use, head,
              (long long)row, share);
}

static inline void check_alone(const trial *t, const trial *one, const char *use, int head,
                               int64_t row, int mode)
{
    CHECK_MSG(mode == BITS || !memcmp(t->read[row][head], one->read[row][head], TOKENS),
              "%s: head %d, row %lld: other tokens than of one rank alone", use, head,
              (long long)row);
    if (mode == BITS)
        CHECK_MSG(!memcmp(sequence_out(&t->s, 0, row, head),
                          sequence_out(&one->s, 0, row, head), VALUE_DIM * sizeof(float)),
                  "%s: head %d, row %lld: other bits than of one rank alone", use, head,
                  (long long)row);
}

#endif
