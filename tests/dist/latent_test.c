/* SPDX-License-Identifier: Apache-2.0 */
/* Latent attention as DeepSeek-V2 and V3 decode it (arXiv 2405.04434, section 2.1, absorbed):
 * 128 query heads share one KV head of 576 numbers, of which the first 512 are the value.
 * Against the float64 oracle; and what is kept is 576 numbers for each token. Argument: how
 * many tokens, default 700. */
#include "dist/plan.h"
#include "tests/oracle.h"
#include "tests/world.h"

#include <math.h>

enum { HEADS = 128, KEY = 576, VALUE = 512, BLOCK = 64, ROWS = 9, APPENDED = 4096 };

typedef struct data {
    int64_t tokens;
    float *q, *k, *v, *out, *lse; /* q [ROWS][HEADS][KEY] of the last rows; k, v [tokens][..] */
} data;

static float *take(int64_t count)
{
    float *p = calloc((size_t)count, sizeof *p);
    if (!p) abort();
    return p;
}

static data make(int64_t tokens, banyan_dtype dtype)
{
    uint64_t seed = 4;
    data d = {tokens,
              take((int64_t)ROWS * HEADS * KEY),
              take(tokens * KEY),
              take(tokens * VALUE),
              take((int64_t)ROWS * HEADS * VALUE),
              take((int64_t)ROWS * HEADS)};
    for (int64_t i = 0; i < (int64_t)ROWS * HEADS * KEY; i++) d.q[i] = test_normal(&seed);
    for (int64_t i = 0; i < tokens * KEY; i++) d.k[i] = test_normal(&seed);
    oracle_round(d.k, tokens * KEY, dtype);
    for (int64_t t = 0; t < tokens; t++)
        memcpy(d.v + t * VALUE, d.k + t * KEY, VALUE * sizeof(float));
    return d;
}

static void release(data *d)
{
    free(d->q), free(d->k), free(d->v), free(d->out), free(d->lse);
}

static banyan_spec usual(int64_t tokens, banyan_dtype dtype, int32_t threads, int reproducible,
                         const banyan_layer_shape *shape)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = HEADS;
    spec.kv_heads = 1;
    spec.key_dim = KEY;
    spec.value_dim = VALUE;
    spec.shapes = shape;
    spec.shape_count = 1;
    spec.max_tokens = tokens;
    spec.max_rows = APPENDED;
    spec.block_tokens = BLOCK;
    spec.cache_dtype = dtype;
    spec.threads = threads;
    spec.reproducible = reproducible;
    return spec;
}

/* All tokens are appended, then the last rows attend: some one by one, the others together. */
static void run(const data *d, banyan_cache *cache)
{
    banyan_sequence *s = NULL;
    CHECK(banyan_sequence_create(cache, 0, &s) == BANYAN_OK);
    for (int64_t at = 0; at < d->tokens; at += APPENDED) {
        const int64_t left = d->tokens - at;
        const banyan_rows part = {
            .sequence = s, .at = at, .rows = left < APPENDED ? (int32_t)left : APPENDED};
        CHECK_MSG(banyan_attend(cache, 0, &part, 1, NULL, d->k + at * KEY, NULL, NULL, NULL) ==
                      BANYAN_OK,
                  "%s", banyan_error_message());
    }
    for (int row = 0, rows = 1; row < ROWS; row += rows) {
        if (row == 2) rows = ROWS - row;
        const banyan_rows part = {.sequence = s, .at = d->tokens - ROWS + row, .rows = rows};
        CHECK_MSG(banyan_attend(cache, 0, &part, 1, d->q + (int64_t)row * HEADS * KEY, NULL,
                                NULL, d->out + (int64_t)row * HEADS * VALUE,
                                d->lse + row * HEADS) == BANYAN_OK,
                  "%s", banyan_error_message());
    }
}

static void check(const data *d, const banyan_plan *plan, const char *name)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    const oracle o = {.heads = HEADS,
                      .kv_heads = 1,
                      .key_dim = KEY,
                      .value_dim = VALUE,
                      .tokens = d->tokens,
                      .scale = (double)banyan_spec_shape(spec, 0).scale,
                      .k = d->k,
                      .v = d->v};
    for (int row = 0; row < ROWS; row += 2)
        for (int h = row; h < HEADS; h += 21) {
            const int64_t at = (int64_t)row * HEADS + h;
            double expect[VALUE], lse;
            bound b = {.block_tokens = BLOCK,
                       .combines = plan->ranks + spec->threads + d->tokens / BLOCK,
                       .rounds = bound_rounds(plan->kernel->name, spec->cache_dtype)};
            if (banyan_plan_home(plan, 0, h) != plan->rank) continue;
            oracle_row(&o, d->q + at * KEY, h, d->tokens - ROWS + row, expect, &lse, &b);
            b.spread = 1; /* values are not drawn apart from keys */
            const double error = oracle_compare(expect, lse, &b, VALUE, d->out + at * VALUE,
                                                BANYAN_F32, d->lse + at);
            CHECK_MSG(error <= 1, "%s: row %d head %d: %g times the bound", name, row, h,
                      error);
        }
}

static void test(banyan_comm *comm, int64_t tokens, const char *kernel, banyan_dtype dtype,
                 int32_t threads, int reproducible)
{
    const banyan_layer_shape shape = {0, -1, 1, KEY, VALUE, 0.0722f, 1};
    banyan_spec spec = usual(tokens, dtype, threads, reproducible, &shape);
    banyan_plan *plan = NULL;
    banyan_cache *cache = NULL;
    char name[96];
    snprintf(name, sizeof name, "%s, %s, %d threads", kernel, banyan_dtype_name(dtype),
             threads);
    spec.kernel = kernel;
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    if (!plan) return;
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    data d = make(tokens, dtype);
    run(&d, cache);
    check(&d, plan, name);

    banyan_stats stats;
    banyan_cache_stats(cache, &stats);
    double bytes = (double)stats.bytes;
    CHECK(banyan_comm_allreduce(comm, &bytes, 1, BANYAN_SUM) == BANYAN_OK);
    const int64_t whole = (tokens + BLOCK - 1) / BLOCK * BLOCK;
    CHECK_MSG(bytes == (double)(whole * KEY * (int64_t)banyan_dtype_bytes(dtype)),
              "%s: %.0f bytes for %lld tokens", name, bytes, (long long)whole);
    release(&d);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

/* Values in keys have no factors of their own. */
static void test_refusal(banyan_comm *comm)
{
    const banyan_layer_shape shape = {0, -1, 1, KEY, VALUE, 0, 1};
    const banyan_spec spec = usual(1000, BANYAN_E4M3, 1, 0, &shape);
    banyan_plan *plan = NULL;
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_UNSUPPORTED);
    CHECK_MSG(strstr(banyan_error_message(), "shape 0: value_in_key with cache_dtype fp8: "
                                             "expected fp32, bf16 or fp16"),
              "%s", banyan_error_message());
}

int main(int argc, char **argv)
{
    const int64_t tokens = argc > 1 ? strtoll(argv[1], NULL, 10) : 700;
    banyan_comm *comm = test_comm(NULL);
    test_refusal(comm);
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_kernel *kernel = banyan_kernel_row(i);
        if (kernel->device || !kernel->usable()) continue;
        test(comm, tokens, kernel->name, BANYAN_BF16, 1 + i % 2, 0);
        if (argc > 1) continue;
        test(comm, tokens, kernel->name, BANYAN_F16, 1, 0);
        test(comm, tokens, kernel->name, BANYAN_F32, 2, 1);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
