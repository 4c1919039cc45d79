/* SPDX-License-Identifier: Apache-2.0 */
/* sequence.h - a seeded sequence and everything that attending to it gave, for the tests of
 * attend.
 *
 * Every rank makes the same numbers, but what a rank should not read (heads that it does not
 * hold) it hands over as NaN, and where it should not write it puts a mark and looks for it
 * later. */
#ifndef BANYAN_TESTS_SEQUENCE_H
#define BANYAN_TESTS_SEQUENCE_H

#include "dist/cache.h"
#include "tests/test.h"

#include <math.h>

typedef struct sequence {
    banyan_plan *plan;
    const banyan_spec *spec;
    int64_t tokens;
    /* [layers][tokens][heads or KV heads][dim], fp32 values that in_dtype holds exactly */
    float *q, *k, *v;
    /* the same in in_dtype, as this rank hands it over */
    char *q_in, *k_in, *v_in;
    char *out;  /* [layers][tokens][heads][value_dim] of out_dtype */
    float *lse; /* [layers][tokens][heads] */
    float *mass;
    banyan_range probe; /* of calls with PROBE */
} sequence;

static const uint32_t sequence_mark = 0x7fc0beef; /* a NaN that nobody computes */

static inline void *sequence_take(int64_t count, size_t bytes)
{
    void *p = calloc((size_t)count, bytes);
    if (!p) abort();
    return p;
}

/* Random rows of `heads` heads, rounded to in_dtype; heads that this rank does not hold are NaN
 * in what is handed over. */
static inline void sequence_fill(sequence *s, uint64_t seed, int32_t heads, int32_t dim,
                                 float **values, char **in)
{
    int64_t row = (int64_t)heads * dim, rows = s->spec->layers * s->tokens;
    size_t bytes = banyan_dtype_bytes(s->spec->in_dtype);
    int32_t per_kv = heads / s->spec->kv_heads;
    float *x = sequence_take(rows * row, sizeof *x);
    char *y = sequence_take(rows * row, bytes);
    for (int64_t i = 0; i < rows * row; i++) x[i] = test_normal(&seed);
    banyan_from_float(y, s->spec->in_dtype, x, rows * row);
    banyan_to_float(x, y, s->spec->in_dtype, rows * row);
    for (int64_t i = 0; i < rows * heads; i++) {
        int32_t layer = (int32_t)(i / (s->tokens * heads)), head = (int32_t)(i % heads);
        if (banyan_plan_holds(s->plan, layer, head / per_kv, s->plan->rank)) continue;
        for (int32_t d = 0; d < dim; d++) {
            float nan = NAN;
            banyan_from_float(y + (size_t)(i * dim + d) * bytes, s->spec->in_dtype, &nan, 1);
        }
    }
    *values = x;
    *in = y;
}

static inline void sequence_make(sequence *s, banyan_plan *plan, int64_t tokens, uint64_t seed)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    *s = (sequence){.plan = plan, .spec = spec, .tokens = tokens};
    sequence_fill(s, seed, spec->heads, spec->key_dim, &s->q, &s->q_in);
    sequence_fill(s, seed + 1, spec->kv_heads, spec->key_dim, &s->k, &s->k_in);
    sequence_fill(s, seed + 2, spec->kv_heads, spec->value_dim, &s->v, &s->v_in);
    int64_t vectors = spec->layers * tokens * spec->heads;
    s->out = sequence_take(vectors * spec->value_dim, banyan_dtype_bytes(spec->out_dtype));
    s->lse = sequence_take(vectors, sizeof *s->lse);
    s->mass = sequence_take(vectors, sizeof *s->mass);
}

/* A number in what the test knows and in what is handed over, where NaN stays NaN. */
static inline void sequence_set(float *handed, float *value, float to)
{
    *value = to;
    if (!isnan(*handed)) *handed = to;
}

/* The next rows of a prefill in calls of random sizes. */
static inline int32_t sequence_chunk(uint64_t *seed, int64_t most, int64_t left)
{
    const int64_t rows = 1 + test_below(seed, most);
    return (int32_t)(rows < left ? rows : left);
}

static inline void sequence_free(sequence *s)
{
    free(s->q), free(s->k), free(s->v);
    free(s->q_in), free(s->k_in), free(s->v_in);
    free(s->out), free(s->lse), free(s->mass);
}

/* Everything attended before is forgotten: marks in place of results. */
static inline void sequence_mark_results(sequence *s)
{
    int64_t vectors = s->spec->layers * s->tokens * s->spec->heads;
    size_t bytes =
        (size_t)(vectors * s->spec->value_dim) * banyan_dtype_bytes(s->spec->out_dtype);
    for (size_t i = 0; i < bytes; i += 2) memcpy(s->out + i, &sequence_mark, 2);
    for (int64_t i = 0; i < vectors; i++) {
        memcpy(s->lse + i, &sequence_mark, 4);
        memcpy(s->mass + i, &sequence_mark, 4);
    }
}

static inline char *sequence_out(const sequence *s, int32_t layer, int64_t row, int32_t head)
{
    int64_t i = ((layer * s->tokens + row) * s->spec->heads + head) * s->spec->value_dim;
    return s->out + (size_t)i * banyan_dtype_bytes(s->spec->out_dtype);
}
static inline float *sequence_lse(const sequence *s, int32_t layer, int64_t row, int32_t head)
{
    return s->lse + (layer * s->tokens + row) * s->spec->heads + head;
}
static inline float *sequence_mass(const sequence *s, int32_t layer, int64_t row, int32_t head)
{
    return s->mass + (layer * s->tokens + row) * s->spec->heads + head;
}

/* banyan_attend for a batch of one part: the first sequence of the cache. */
static inline banyan_status sequence_attend(banyan_cache *cache, int32_t layer, int64_t at,
                                            int32_t rows, const void *q, const void *k,
                                            const void *v, void *out, float *lse)
{
    const banyan_rows part = {.sequence = cache->sequence, .at = at, .rows = rows};
    return banyan_attend(cache, layer, &part, 1, q, k, v, out, lse);
}

/* One call of banyan_attend on rows at .. at+rows-1 of the sequence. */
enum { APPEND = 1, ATTEND = 2, PROBE = 4 };
static inline banyan_status sequence_call(sequence *s, banyan_cache *cache, int32_t layer,
                                          int64_t at, int32_t rows, int what)
{
    const banyan_spec *spec = s->spec;
    size_t bytes = banyan_dtype_bytes(spec->in_dtype);
    size_t first = (size_t)(layer * s->tokens + at);
    const char *q = s->q_in + first * (size_t)(spec->heads * spec->key_dim) * bytes;
    const char *k = s->k_in + first * (size_t)(spec->kv_heads * spec->key_dim) * bytes;
    const char *v = s->v_in + first * (size_t)(spec->kv_heads * spec->value_dim) * bytes;
    const banyan_rows part = {.sequence = cache->sequence,
                              .at = at,
                              .rows = rows,
                              .probes = &s->probe,
                              .probe_count = 1,
                              .mass = what & PROBE ? sequence_mass(s, layer, at, 0) : NULL};
    return banyan_attend(cache, layer, &part, 1, what & ATTEND ? q : NULL,
                         what & APPEND ? k : NULL, what & APPEND ? v : NULL,
                         sequence_out(s, layer, at, 0), sequence_lse(s, layer, at, 0));
}

/* FNV-1a (Fowler, Noll, Vo): equal hashes stand for equal bits. */
static inline uint64_t sequence_hash(const void *data, size_t bytes, uint64_t hash)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}
static inline uint64_t sequence_results_hash(const sequence *s)
{
    size_t vectors = (size_t)(s->spec->layers * s->tokens * s->spec->heads);
    size_t bytes =
        vectors * (size_t)s->spec->value_dim * banyan_dtype_bytes(s->spec->out_dtype);
    uint64_t hash = sequence_hash(s->out, bytes, 0xcbf29ce484222325u);
    hash = sequence_hash(s->lse, vectors * sizeof *s->lse, hash);
    return sequence_hash(s->mass, vectors * sizeof *s->mass, hash);
}

static inline int sequence_is_written(const sequence *s, int32_t head, int32_t layer)
{
    return s->spec->out == BANYAN_OUT_ALL ||
           banyan_plan_home(s->plan, layer, head) == s->plan->rank;
}

/* Is the mark still there, in all of a row's results of a head? */
static inline int sequence_is_untouched(const sequence *s, int32_t layer, int64_t row,
                                        int32_t head)
{
    size_t bytes = (size_t)s->spec->value_dim * banyan_dtype_bytes(s->spec->out_dtype);
    const char *out = sequence_out(s, layer, row, head);
    for (size_t i = 0; i < bytes; i += 2)
        if (memcmp(out + i, &sequence_mark, 2) != 0) return 0;
    return memcmp(sequence_lse(s, layer, row, head), &sequence_mark, 4) == 0;
}

static inline int64_t sequence_sum(banyan_plan *plan, int64_t mine)
{
    double total = (double)mine;
    CHECK(banyan_comm_allreduce(plan->comm, &total, 1, BANYAN_SUM) == BANYAN_OK);
    return (int64_t)total;
}

/* A plan that must be possible; NULL, and a failed check, if not. */
static inline banyan_plan *sequence_plan(const banyan_spec *spec, banyan_comm *comm)
{
    banyan_plan *plan = NULL;
    CHECK_MSG(banyan_plan_create(spec, comm, &plan) == BANYAN_OK, "%s", banyan_error_message());
    return plan;
}
static inline banyan_cache *sequence_cache(const banyan_plan *plan)
{
    banyan_cache *cache = NULL;
    banyan_sequence *first = NULL;
    CHECK_MSG(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK &&
                  banyan_sequence_create(cache, 0, &first) == BANYAN_OK,
              "%s", banyan_error_message());
    return cache;
}

#endif
