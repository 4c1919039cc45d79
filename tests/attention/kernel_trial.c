/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/attention/kernel_trial.h"
#include "tests/oracle.h"

#include <math.h>

/* The definition, written anew: entries, clip, causality, edges. Tokens relative to base. */
static int trial_reads(void *ctx, int head, int64_t row, int64_t token)
{
    const trial *t = ctx;
    int64_t absolute = t->base + token;
    if (token > row || absolute < t->first_token || absolute >= t->end_token) return 0;
    for (int64_t i = 0; i < t->entries; i++) {
        const banyan_entry *e = &t->entry[i];
        if (e->block != absolute / t->shape.block_tokens || !(e->heads >> head / t->unit & 1))
            continue;
        if (e->edge < 0) return 1;
        const banyan_edge *edge = &t->edge[e->edge];
        return absolute < edge->sink_end || token > row - edge->window;
    }
    return 0;
}

static int anybody_reads(trial *t, int64_t token)
{
    for (int32_t h = 0; h < t->heads; h++)
        for (int32_t i = 0; i < t->rows; i++)
            if (trial_reads(t, h, t->at + i, token)) return 1;
    return 0;
}

void *take(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) abort();
    return memory;
}

void fill_garbage(void *memory, size_t bytes, uint64_t *random)
{
    int all_ones = (int)test_below(random, 2); /* NaN in every format, or anything */
    unsigned char *byte = memory;
    for (size_t i = 0; i < bytes; i++)
        byte[i] = all_ones ? 0xff : (unsigned char)test_random(random);
}

/* ---- drawing a trial --------------------------------------------------------------------- */

static int32_t draw_dim(uint64_t *random)
{
    static const int32_t usual[] = {1,  2,  3,   8,   16,  33,  64, 64,
                                    80, 96, 128, 128, 192, 256, 576};
    if (test_below(random, 4) == 0) return 1 + (int32_t)test_below(random, BANYAN_MAX_DIM);
    return usual[test_below(random, sizeof(usual) / sizeof(usual[0]))];
}

static void draw_shape(trial *t, uint64_t *random)
{
    static const int32_t blocks[] = {16, 32, 64, 64, 128, 256};
    t->shape.block_tokens = blocks[test_below(random, 6)];
    t->shape.key_dim = draw_dim(random);
    t->shape.value_dim = test_below(random, 2) ? t->shape.key_dim : draw_dim(random);
    t->shape.value_in_key = test_below(random, 4) == 0;
    if (t->shape.value_in_key && t->shape.value_dim > t->shape.key_dim)
        t->shape.value_dim = 1 + (int32_t)test_below(random, t->shape.key_dim);
    t->shape.dtype = (banyan_dtype)test_below(random, 3);
    t->in_dtype = (banyan_dtype)test_below(random, 3);
    t->kind = (int)test_below(random, KINDS);

    int64_t tokens = t->shape.block_tokens;
    t->blocks = 1 + (int32_t)test_below(random, MAX_BLOCKS);
    t->base = test_below(random, 2) ? 0 : tokens * (((int64_t)3 << 31) + 5);
    /* bounded work: query rows x tokens x dims */
    int64_t pairs =
        3000000 / (t->blocks * tokens * (t->shape.key_dim + t->shape.value_dim)) + 1;
    int64_t most = pairs < BANYAN_TILE_HEADS ? pairs : BANYAN_TILE_HEADS;
    t->unit = 1 + (int32_t)(test_below(random, 3) == 0);
    t->heads = t->unit * (1 + (int32_t)test_below(random, most));
    most = pairs / t->heads < tokens ? pairs / t->heads : tokens;
    t->rows = 1 + (int32_t)test_below(random, most > 0 ? most : 1);
    t->at = (t->blocks - 1) * tokens + test_below(random, tokens - t->rows + 1);
    t->tokens = t->blocks * tokens;
    t->scale = 1 / sqrtf((float)t->shape.key_dim);
}

static void draw_entries(trial *t, uint64_t *random)
{
    const int32_t bits = t->heads / t->unit;
    uint64_t all = bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
    for (int i = 0; i < MAX_EDGES; i++)
        t->edge[i] = (banyan_edge){.sink_end = t->base + test_below(random, t->tokens) *
                                                             test_below(random, 2),
                                   .window = test_below(random, t->tokens + 2)};
    for (int32_t b = 0; b < t->blocks; b++) {
        if (test_below(random, 6) == 0) continue;
        uint64_t heads = test_below(random, 2) ? all : test_random(random) & all;
        uint64_t second = test_below(random, 3) ? 0 : test_random(random) & heads;
        int32_t edge = (int32_t)test_below(random, 2 * MAX_EDGES) - MAX_EDGES;
        banyan_entry e = {.record = t->record[b],
                          .block = t->base / t->shape.block_tokens + b,
                          .heads = heads & ~second,
                          .edge = edge < 0 ? -1 : edge};
        if (e.heads) t->entry[t->entries++] = e;
        e.heads = second;
        e.edge = e.edge < 0 ? 0 : (e.edge + 1) % MAX_EDGES;
        if (e.heads) t->entry[t->entries++] = e;
    }
    t->first_token = 0;
    t->end_token = INT64_MAX;
    if (test_below(random, 3) == 0) {
        t->first_token = t->base + test_below(random, t->tokens);
        t->end_token = t->base + test_below(random, t->tokens + 1);
    }
}

static void draw_data(trial *t, uint64_t *random)
{
    int32_t key_dim = t->shape.key_dim, value_dim = t->shape.value_dim;
    float norm = sqrtf((float)key_dim);
    for (int64_t i = 0; i < (int64_t)t->heads * t->rows * key_dim; i++) {
        t->q[i] = test_normal(random);
        if (t->kind == LARGE) t->q[i] *= 40; /* scores of +-100 and more */
        if (t->kind >= ALIKE && t->kind <= NEGATIVE) t->q[i] = 1 + 0.1f * t->q[i];
    }
    for (int64_t s = 0; s < t->tokens; s++) {
        float rise = ((float)s / (float)t->tokens - 0.5f) * 200; /* of the score */
        for (int32_t d = 0; d < key_dim; d++) {
            float *k = &t->k[s * key_dim + d];
            *k = test_normal(random);
            if (t->kind == ALIKE) *k = 0.5f;
            if (t->kind == RISING) *k = rise / norm;
            if (t->kind == NEGATIVE) *k = (-200 + *k) / norm;
        }
        for (int32_t d = 0; d < value_dim; d++) t->v[s * value_dim + d] = test_normal(random);
    }
    if (t->kind == ONE_NAN) {
        if (test_below(random, 2))
            t->k[test_below(random, t->tokens * key_dim)] = NAN;
        else
            t->v[test_below(random, t->tokens * value_dim)] = NAN;
    }
    static const float poison[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (int64_t s = 0; s < t->tokens; s++) {
        if (anybody_reads(t, s)) continue;
        for (int32_t d = 0; d < key_dim; d++)
            t->k[s * key_dim + d] = poison[test_below(random, 4)];
        for (int32_t d = 0; d < value_dim; d++)
            t->v[s * value_dim + d] = poison[test_below(random, 4)];
    }
    for (int64_t s = 0; t->shape.value_in_key && s < t->tokens; s++)
        memcpy(&t->v[s * value_dim], &t->k[s * key_dim], (size_t)value_dim * sizeof(float));
    oracle_round(t->k, t->tokens * key_dim, t->in_dtype); /* what the caller has */
    oracle_round(t->v, t->tokens * value_dim, t->in_dtype);
}

/* ---- packing ----------------------------------------------------------------------------- */

/* `rows` rows of x, in another format, `stride` apart, at an odd element. */
static void *strided(const float *x, int32_t rows, int32_t dim, int64_t stride,
                     banyan_dtype dtype, void **memory)
{
    size_t element = banyan_dtype_bytes(dtype);
    *memory = take(((size_t)rows * (size_t)stride + 1) * element);
    for (int32_t i = 0; i < rows; i++)
        banyan_from_float((char *)*memory + (1 + (size_t)(i * stride)) * element, dtype,
                          x + (int64_t)i * dim, dim);
    return (char *)*memory + element;
}

static void pack_rows(trial *t, int32_t block, int fresh, int32_t first, int32_t rows,
                      const float *k, const float *v, uint64_t *random)
{
    int64_t k_stride = t->shape.key_dim + test_below(random, 4);
    int64_t v_stride = t->shape.value_dim + test_below(random, 4);
    void *k_memory, *v_memory;
    void *k_in = strided(k, rows, t->shape.key_dim, k_stride, t->in_dtype, &k_memory);
    void *v_in = strided(v, rows, t->shape.value_dim, v_stride, t->in_dtype, &v_memory);
    t->kernel->pack(&t->shape, t->record[block], fresh, first, rows, k_in, k_stride,
                    t->shape.value_in_key ? NULL : v_in, v_stride, t->in_dtype);
    free(k_memory);
    free(v_memory);
}

/* Write a block as a cache does: runs of rows in order, now and then with rows that are taken
 * back and written again. The last block is filled up to some row after the last one that
 * attends. */
static void pack_block(trial *t, int32_t block, uint64_t *random)
{
    int32_t key_dim = t->shape.key_dim, value_dim = t->shape.value_dim;
    int64_t first_token = (int64_t)block * t->shape.block_tokens;
    int32_t end = t->shape.block_tokens, row = 0;
    if (block == t->blocks - 1) {
        int32_t needed = (int32_t)(t->at - first_token) + t->rows;
        end = needed + (int32_t)test_below(random, end - needed + 1);
    }
    while (row < end) {
        int32_t rows = 1 + (int32_t)test_below(random, end - row);
        if (test_below(random, 3) == 0) rows = end - row;
        int fresh = row == 0;
        if (test_below(random, 4) == 0) {
            /* speculation: other rows, forgotten again */
            int32_t wrong = 1 + (int32_t)test_below(random, t->shape.block_tokens - row);
            const float *other_k = t->k + test_below(random, t->tokens - wrong + 1) * key_dim;
            const float *other_v = t->v + test_below(random, t->tokens - wrong + 1) * value_dim;
            pack_rows(t, block, fresh, row, wrong, other_k, other_v, random);
            fresh = 0;
        }
        pack_rows(t, block, fresh, row, rows, t->k + (first_token + row) * key_dim,
                  t->v + (first_token + row) * value_dim, random);
        row += rows;
    }
}

int trial_pack(trial *t, uint64_t *random)
{
    size_t record_bytes = t->kernel->record_bytes(&t->shape);
    int clean = 1;
    for (int32_t b = 0; b < t->blocks; b++) {
        fill_garbage(t->record[b], record_bytes, random);
        memset((char *)t->record[b] + record_bytes, 0x5a, GUARD);
        pack_block(t, b, random);
        for (int i = 0; i < GUARD; i++)
            clean &= ((unsigned char *)t->record[b])[record_bytes + (size_t)i] == 0x5a;
    }
    oracle_round(t->k, t->tokens * t->shape.key_dim, t->shape.dtype);
    oracle_round(t->v, t->tokens * t->shape.value_dim, t->shape.dtype);
    return clean;
}

int trial_draw(trial *t, uint64_t *random)
{
    draw_shape(t, random);
    if (!t->kernel->supports(&t->shape)) return 0;
    size_t record_bytes = t->kernel->record_bytes(&t->shape);
    for (int32_t b = 0; b < t->blocks; b++) t->record[b] = take(record_bytes + GUARD);
    t->q = take((size_t)t->heads * (size_t)t->rows * (size_t)t->shape.key_dim * sizeof(float));
    t->k = take((size_t)t->tokens * (size_t)t->shape.key_dim * sizeof(float));
    t->v = take((size_t)t->tokens * (size_t)t->shape.value_dim * sizeof(float));
    draw_entries(t, random);
    draw_data(t, random);
    return 1;
}

void trial_attend(const trial *t, int64_t first, int64_t entries, void *sums, float *partial,
                  uint64_t *random)
{
    const size_t bytes = t->kernel->workspace_bytes(&t->shape, t->heads, t->rows);
    unsigned char *workspace = take(bytes + GUARD);
    fill_garbage(workspace, bytes, random);
    memset(workspace + bytes, 0x5a, GUARD);
    const banyan_tile tile = {.shape = t->shape,
                              .scale = t->scale,
                              .heads = t->heads,
                              .rows = t->rows,
                              .unit = t->unit,
                              .at = t->base + t->at,
                              .q = t->q,
                              .entry = t->entry + first,
                              .entries = entries,
                              .edge = t->edge,
                              .first_token = t->first_token,
                              .end_token = t->end_token,
                              .partial = partial,
                              .sums = sums,
                              .workspace = workspace};
    t->kernel->attend(&tile);
    for (int i = 0; i < GUARD; i++) CHECK(workspace[bytes + (size_t)i] == 0x5a);
    free(workspace);
}

trial_verdict trial_compare(trial *t, int32_t head, int32_t row, const float *partial)
{
    const int32_t value_dim = t->shape.value_dim;
    const float *q = t->q + ((int64_t)head * t->rows + row) * t->shape.key_dim;
    double expect[BANYAN_MAX_DIM];
    float out[BANYAN_MAX_DIM];
    trial_verdict v;
    const oracle o = {.heads = t->heads,
                      .kv_heads = 1,
                      .key_dim = t->shape.key_dim,
                      .value_dim = value_dim,
                      .tokens = t->tokens,
                      .scale = t->scale,
                      .k = t->k,
                      .v = t->v,
                      .reads = trial_reads,
                      .ctx = t};
    bound b = {.block_tokens = t->shape.block_tokens,
               .combines = 1,
               .rounds = bound_rounds(t->kernel->name, t->shape.dtype)};
    oracle_row(&o, q, head, t->at + row, expect, &v.expect_lse, &b);
    if ((t->kind >= ALIKE && t->kind <= NEGATIVE) || t->shape.value_in_key) b.spread = 1;
    banyan_partial_finish(partial, value_dim, 1, out, BANYAN_F32, value_dim, &v.lse, 1);
    v.error = oracle_compare(expect, v.expect_lse, &b, value_dim, out, BANYAN_F32, &v.lse);
    v.tokens = b.tokens;
    v.out = out[0];
    v.expect_out = expect[0];
    return v;
}

void trial_free(trial *t)
{
    for (int32_t b = 0; b < t->blocks; b++) free(t->record[b]);
    free(t->q);
    free(t->k);
    free(t->v);
}
