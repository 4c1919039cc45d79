/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels on data whose answer is known exactly, so that nothing is hidden by a tolerance:
 *
 *  - counting: keys are 0, so every score is 0 and every weight 1; values are small integers.
 *    Then m = 0, l is the number of tokens seen, and o their sum, all exact in fp32 in any
 *    order. Lists are long enough for every kind of window, with heads that read different
 *    blocks.
 *  - the base point: scores around +-300, where fp32 has steps of 3e-5. The m that is stored
 *    rounds, and l must make up for it: m + ln l is right to the accuracy of l, not of m. (Not
 *    the scalar kernel, which rounds every score.)
 *  - addresses: the same bits wherever the arrays lie. */
#include "attention/attention.h"
#include "tests/test.h"

#include <math.h>

enum { MAX_ENTRIES = 192 };

typedef struct problem {
    banyan_block_shape shape;
    int32_t heads, rows, blocks;
    int64_t at, first_token, end_token;
    banyan_entry entry[MAX_ENTRIES];
    banyan_edge edge[2];
    int64_t entries;
    float scale, *q, *k, *v; /* [heads][rows][key_dim], [tokens][..] */
} problem;

static void *take(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) exit(99);
    memset(memory, 0xff, bytes);
    return memory;
}

/* The blocks in order, but records in slots at random, as a cache that evicts would have
 * them. */
static char *records_pack(problem *t, const banyan_kernel *kernel, uint64_t seed)
{
    const size_t bytes = kernel->record_bytes(&t->shape);
    const int32_t tokens = t->shape.block_tokens, slots = t->blocks + 3;
    char *memory = take((size_t)slots * bytes), *slot[256];
    for (int32_t i = 0; i < slots; i++) slot[i] = memory + (size_t)i * bytes;
    for (int32_t i = slots - 1; i > 0; i--) {
        int32_t other = (int32_t)test_below(&seed, i + 1);
        char *swap = slot[i];
        slot[i] = slot[other], slot[other] = swap;
    }
    for (int32_t block = 0; block < t->blocks; block++) {
        const float *k = t->k + (int64_t)block * tokens * t->shape.key_dim;
        const float *v = t->v + (int64_t)block * tokens * t->shape.value_dim;
        kernel->pack(&t->shape, slot[block], 1, 0, tokens, k, t->shape.key_dim, v,
                     t->shape.value_dim, BANYAN_F32);
    }
    for (int64_t i = 0; i < t->entries; i++) t->entry[i].record = slot[t->entry[i].block];
    return memory;
}

/* The partial of the whole list; `shift` moves every array. Entries from..to only. */
static void problem_attend(const problem *t, const banyan_kernel *kernel, int64_t from,
                           int64_t to, int shift, float *partial)
{
    const size_t total = (size_t)t->heads * (size_t)t->rows;
    const size_t q_floats = total * (size_t)t->shape.key_dim;
    const size_t floats = total * banyan_partial_floats(t->shape.value_dim);
    float *q = take((q_floats + 16) * sizeof(float)), *p = take((floats + 16) * sizeof(float));
    char *work = take(kernel->workspace_bytes(&t->shape, t->heads, t->rows) + 64 * 8);
    memcpy(q + shift, t->q, q_floats * sizeof(float));
    memcpy(p + shift, partial, floats * sizeof(float));
    banyan_tile tile = {.shape = t->shape,
                        .scale = t->scale,
                        .heads = t->heads,
                        .rows = t->rows,
                        .at = t->at,
                        .q = q + shift,
                        .entry = t->entry + from,
                        .entries = to - from,
                        .edge = t->edge,
                        .first_token = t->first_token,
                        .end_token = t->end_token,
                        .partial = p + shift,
                        .workspace = work + 64 * (shift % 8)};
    kernel->attend(&tile);
    memcpy(partial, p + shift, floats * sizeof(float));
    free(work);
    free(p);
    free(q);
}

static float *partial_new(const problem *t)
{
    const int64_t total = (int64_t)t->heads * t->rows;
    float *p = take((size_t)total * banyan_partial_floats(t->shape.value_dim) * sizeof(float));
    banyan_partial_clear(p, t->shape.value_dim, total);
    return p;
}

static void problem_free(problem *t)
{
    free(t->q);
    free(t->k);
    free(t->v);
}

/* Half of the heads read everything; the others their own blocks, some through an edge. */
static void problem_draw(problem *t, uint64_t *random)
{
    static const int32_t tokens[] = {16, 32, 64, 128}, blocks[] = {120, 60, 40, 20};
    const int pick = (int)test_below(random, 4);
    *t = (problem){.end_token = INT64_MAX, .scale = 0.5f};
    t->shape.block_tokens = tokens[pick];
    t->shape.key_dim = 1 + (int32_t)test_below(random, 40);
    t->shape.value_dim = 1 + (int32_t)test_below(random, 90);
    t->shape.dtype = (banyan_dtype)test_below(random, 3);
    t->blocks = blocks[pick] - (int32_t)test_below(random, blocks[pick] / 2);
    t->heads = 1 + (int32_t)test_below(random, 9);
    t->rows = 1 + (int32_t)test_below(random, test_below(random, 2) ? 3 : tokens[pick]);
    t->at = (int64_t)(t->blocks - 1) * tokens[pick] +
            test_below(random, tokens[pick] - t->rows + 1);
    const int64_t end = (int64_t)t->blocks * tokens[pick];
    t->edge[0] = (banyan_edge){test_below(random, end), 1 + test_below(random, end)};
    t->edge[1] = (banyan_edge){0, 1 + test_below(random, end)};
    if (test_below(random, 3) == 0) {
        t->first_token = test_below(random, end);
        t->end_token = t->first_token + test_below(random, end);
    }
    const uint64_t all = ((uint64_t)1 << t->heads) - 1, some = test_random(random) & all;
    for (int32_t block = 0; block < t->blocks; block++) {
        uint64_t heads = some | (test_random(random) & all);
        if (test_below(random, 8) == 0 || !heads) continue;
        int32_t edge = test_below(random, 3) ? -1 : (int32_t)test_below(random, 2);
        t->entry[t->entries++] = (banyan_entry){NULL, block, heads, edge, NULL, NULL};
    }
    t->q = take((size_t)t->heads * (size_t)t->rows * (size_t)t->shape.key_dim * sizeof(float));
    t->k = take((size_t)end * (size_t)t->shape.key_dim * sizeof(float));
    t->v = take((size_t)end * (size_t)t->shape.value_dim * sizeof(float));
    for (int64_t i = 0; i < (int64_t)t->heads * t->rows * t->shape.key_dim; i++)
        t->q[i] = test_normal(random);
    for (int64_t i = 0; i < end * t->shape.key_dim; i++) t->k[i] = 0;
    for (int64_t i = 0; i < end * t->shape.value_dim; i++)
        t->v[i] = (float)(test_below(random, 17) - 8);
}

static int sees(const problem *t, const banyan_entry *e, int64_t row, int64_t token)
{
    if (token > row || token < t->first_token || token >= t->end_token) return 0;
    if (e->edge < 0) return 1;
    return token < t->edge[e->edge].sink_end || token > row - t->edge[e->edge].window;
}

static int count_row(const problem *t, int32_t head, int32_t row, const float *p)
{
    const int32_t value_dim = t->shape.value_dim, tokens = t->shape.block_tokens;
    int64_t count = 0, sum[BANYAN_MAX_DIM] = {0};
    for (int64_t i = 0; i < t->entries; i++) {
        const banyan_entry *e = &t->entry[i];
        for (int64_t s = e->block * tokens; s < (e->block + 1) * tokens; s++) {
            if (!(e->heads >> head & 1) || !sees(t, e, t->at + row, s)) continue;
            count++;
            for (int32_t d = 0; d < value_dim; d++) sum[d] += (int64_t)t->v[s * value_dim + d];
        }
    }
    int right = p[value_dim] == (count ? 0 : -INFINITY) && p[value_dim + 1] == (float)count;
    for (int32_t d = 0; d < value_dim; d++) right = right && p[d] == (float)sum[d];
    return right;
}

static void test_counting(const banyan_kernel *kernel, uint64_t seed)
{
    uint64_t random = seed;
    problem t;
    problem_draw(&t, &random);
    if (kernel->supports(&t.shape)) {
        char *records = records_pack(&t, kernel, seed);
        float *partial = partial_new(&t);
        problem_attend(&t, kernel, 0, t.entries, 0, partial);
        for (int32_t i = 0; i < t.heads * t.rows; i++) {
            const float *p = partial + (int64_t)i * (t.shape.value_dim + 2);
            int right = count_row(&t, i / t.rows, i % t.rows, p);
            CHECK_MSG(right, "%s, seed %llu, %s: head %d row %d miscounts (m %g, l %g)",
                      kernel->name, (unsigned long long)seed, banyan_dtype_name(t.shape.dtype),
                      i / t.rows, i % t.rows, p[t.shape.value_dim], p[t.shape.value_dim + 1]);
            if (!right) break;
        }
        free(partial);
        free(records);
    }
    problem_free(&t);
}

static void test_addresses(const banyan_kernel *kernel, uint64_t seed)
{
    uint64_t random = seed;
    problem t;
    problem_draw(&t, &random);
    if (kernel->supports(&t.shape)) {
        const int64_t k_count = (int64_t)t.blocks * t.shape.block_tokens * t.shape.key_dim;
        for (int64_t i = 0; i < k_count; i++) t.k[i] = test_normal(&random);
        const size_t bytes = (size_t)t.heads * (size_t)t.rows *
                             banyan_partial_floats(t.shape.value_dim) * sizeof(float);
        float *one = partial_new(&t), *other = partial_new(&t);
        for (int shift = 0; shift < 12; shift += 5) {
            float *p = shift ? other : one;
            char *records = records_pack(&t, kernel, seed + (uint64_t)shift);
            banyan_partial_clear(p, t.shape.value_dim, (int64_t)t.heads * t.rows);
            problem_attend(&t, kernel, 0, t.entries, shift, p);
            if (shift)
                CHECK_MSG(!memcmp(one, other, bytes), "%s, seed %llu: bits depend on addresses",
                          kernel->name, (unsigned long long)seed);
            free(records);
        }
        free(one);
        free(other);
    }
    problem_free(&t);
}

/* Integers, whose dot products are exact: score of token s is scale (base - s % 16), value is
 * 1. The kernel's relative error in l, with u = 2^-24: a weight exp(-x) has 4 u from the
 *   exponential (2
 * ulp), 4 u x from rounding scale, |scale| log2(e) and their product with the difference, and
 * adding n weights in lanes and chunks costs at most (16 + n / 64) u; 8 u more for the end. */
static void test_base(const banyan_kernel *kernel, banyan_dtype dtype, float sign)
{
    enum { TOKENS = 64, BLOCKS = 12, DIM = 16, COUNT = TOKENS * BLOCKS };
    problem t = {.shape = {TOKENS, DIM, 1, dtype},
                 .heads = 3,
                 .rows = 1,
                 .blocks = BLOCKS,
                 .at = COUNT - 1,
                 .end_token = INT64_MAX,
                 .scale = sign * 0.088388346f};
    t.q = take(3 * DIM * sizeof(float));
    t.k = take(COUNT * DIM * sizeof(float));
    t.v = take(COUNT * sizeof(float));
    for (int i = 0; i < 3 * DIM; i++) t.q[i] = (float)(i % DIM == 0 ? 200 + i : i % DIM == 1);
    for (int s = 0; s < COUNT; s++) {
        for (int d = 0; d < DIM; d++)
            t.k[s * DIM + d] = (float)(d == 0 ? 17 : d == 1 ? -(s % 16) : 0);
        t.v[s] = 1;
    }
    for (int i = 0; i < BLOCKS; i++)
        t.entry[t.entries++] = (banyan_entry){NULL, i, 7, -1, NULL, NULL};
    char *records = records_pack(&t, kernel, 1);
    for (int64_t cut = 0; cut < BLOCKS; cut += 5) {
        float *partial = partial_new(&t);
        problem_attend(&t, kernel, 0, cut, 0, partial);
        problem_attend(&t, kernel, cut, t.entries, 0, partial);
        for (int h = 0; h < 3; h++) {
            const float *p = partial + h * 3;
            const double scale = t.scale, u = 0x1p-24;
            const double base = 17 * (double)t.q[h * DIM];
            double top = -INFINITY, l = 0, error = 0;
            for (int s = 0; s < 16; s++) top = fmax(top, scale * (base - s));
            for (int s = 0; s < 16; s++) {
                double x = top - scale * (base - s), weight = COUNT / 16 * exp(-x);
                l += weight;
                error += weight * (4 + 4 * x) * u;
            }
            error = error / l + (16 + COUNT / 64 + 8) * u;
            double off = fabs(p[1] + log((double)p[2]) - (top + log(l)));
            CHECK_MSG(off <= error, "%s in %s, cut %lld: lse %g is off by %g, bound %g",
                      kernel->name, banyan_dtype_name(dtype), (long long)cut, top + log(l), off,
                      error);
            double weights = dtype == BANYAN_BF16 ? 0x1p-8 : 0; /* rounded to bf16 for o */
            CHECK_MSG(fabs(p[0] - p[2]) <= p[2] * (weights + (16 + COUNT) * u),
                      "%s in %s: o %g, l %g", kernel->name, banyan_dtype_name(dtype), p[0],
                      p[2]);
        }
        free(partial);
    }
    free(records);
    problem_free(&t);
}

int main(void)
{
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_kernel *kernel = banyan_kernel_row(i);
        if (kernel->device || !kernel->usable()) continue;
        for (uint64_t seed = 1; seed <= 24; seed++) test_counting(kernel, seed);
        for (uint64_t seed = 1; seed <= 8; seed++) test_addresses(kernel, seed);
        for (int dtype = BANYAN_F32; dtype <= BANYAN_F16 && strcmp(kernel->name, "scalar");
             dtype++) {
            test_base(kernel, (banyan_dtype)dtype, 1);
            test_base(kernel, (banyan_dtype)dtype, -1);
        }
    }
    return test_end();
}
