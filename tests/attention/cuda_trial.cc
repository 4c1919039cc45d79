/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/attention/cuda_trial.h"
#include "attention/cuda/entry.h"
#include "attention/cuda/record.h"
#include "attention/cuda/tiles.h"
extern "C" {
#include "tests/oracle.h"
}

#include "emulator.h"
#include <cuda_runtime_api.h>

#include <math.h>

static void *take(size_t bytes)
{
    void *const memory = calloc(1, bytes);
    if (!memory) abort();
    return memory;
}

static void must(const char *failed)
{
    if (!failed) return;
    fprintf(stderr, "%s\n", failed);
    abort();
}

/* ---- what is seen ------------------------------------------------------------------------ */

static const banyan_strip *strip_of(const trial *t, int head, int64_t row)
{
    const int64_t of_call = row + t->base - t->part.at;
    for (int i = 0; i < t->batch.strips; i++) {
        const banyan_strip *s = &t->strip[i];
        if (of_call >= s->first_row && of_call < s->first_row + s->rows &&
            head >= s->first_head && s->heads >> (head - s->first_head) & 1)
            return s;
    }
    return NULL;
}

/* A score of -inf is a token with weight 0: the oracle is spared it, since its bound would be
 * inf. */
static int is_negative(const trial *t, int64_t token)
{
    return t->kind == NEGATIVE && token % 5 == 3 && token < t->part.at - t->base - t->block;
}

int trial_reads(void *ctx, int head, int64_t row, int64_t token)
{
    const trial *t = (const trial *)ctx;
    const banyan_strip *strip = strip_of(t, head, row);
    const banyan_edge *edge = &t->edge[strip->edge];
    const int how = t->list[strip - t->strip][token / t->block];
    const int64_t at = token + t->base;
    if (how == 0 || is_negative(t, token)) return 0;
    if (how == 1) return 1;
    if (token > row || at < t->part.first_token || at >= t->part.end_token) return 0;
    return how == 2 || at < edge->sink_end || token > row - edge->window;
}

int trial_may_leak(const trial *t, int head, int64_t row)
{
    const trial_list *list = &t->list[strip_of(t, head, row) - t->strip];
    return t->kind == NAN_VALUE && (*list)[t->nan_token / t->block] > 1 &&
           !trial_reads((void *)t, head, row, t->nan_token);
}

/* ---- drawing ----------------------------------------------------------------------------- */

static int is_short(const trial *t)
{
    return t->seed >= SHORT_SEEDS;
}

static void draw_shape(trial *t, uint64_t *random)
{
    static const int32_t groups[] = {1, 2, 3, 4, 8}, processors[] = {1, 3, 132};
    t->way = test_below(random, 2) ? PORTABLE : HOPPER;
    t->dim = test_below(random, 2) ? 128 : 64;
    if (t->way == PORTABLE && test_below(random, 2)) t->dim = 96;
    if (t->seed >= WIDE_SEEDS) t->way = WIDE, t->dim = 256;
    if (is_short(t)) t->way = HOPPER, t->dim = 128;
    t->block = t->seed % 3 == 1 && !is_short(t) ? 32 : 64;
    t->shape.block_tokens = t->block;
    t->shape.key_dim = t->shape.value_dim = t->dim;
    t->shape.dtype = test_below(random, 2) ? BANYAN_BF16 : BANYAN_F16;
    if (t->way != HOPPER && test_below(random, 3) == 0) t->shape.dtype = BANYAN_E4M3;
    t->kind = (int)test_below(random, KINDS);
    /* e4m3 has no inf; and a scale of 2^-149 has no bits */
    if (t->shape.dtype == BANYAN_E4M3 && (t->kind == NEGATIVE || t->kind == TINY))
        t->kind = RANDOM;
    t->group = groups[test_below(random, 5)];
    t->kv_heads = 1 + (int32_t)test_below(random, t->group > 4 ? 1 : 2);
    t->heads = t->group * t->kv_heads;
    t->multiprocessors = processors[test_below(random, 3)];
    t->rows = 1 + (int32_t)test_below(random, test_below(random, 3) ? 80 : MOST_ROWS);
    int64_t before = test_below(random, (MOST_BLOCKS - 5) * t->block);
    if (is_short(t)) {
        t->kind = RANDOM;
        t->group = t->multiprocessors = 1;
        t->heads = t->kv_heads = 2;
        t->rows = MOST_ROWS;
        before = (MOST_BLOCKS - 8) * t->block + before % (3 * t->block);
    }
    t->base = test_below(random, 2) ? 0 : ((int64_t)5 << 25) * t->block;
    t->blocks = (int32_t)((before + t->rows + t->block - 1) / t->block);
    t->tokens = (int64_t)t->blocks * t->block;
    t->batch.shape = t->shape;
    t->batch.scale = (test_below(random, 4) ? 1 : -1) / sqrtf((float)t->dim);
    t->batch.heads = t->heads;
    t->part.at = t->base + before;
    t->batch.rows = t->rows;
    t->part.end_token = INT64_MAX;
    if (t->kind != NEGATIVE && test_below(random, 3) == 0 && !is_short(t)) {
        t->part.first_token = t->base + test_below(random, t->tokens);
        t->part.end_token = t->part.first_token + test_below(random, t->tokens);
    }
    t->batch.in_dtype = (banyan_dtype)test_below(random, 3);
    t->batch.out_dtype = (banyan_dtype)test_below(random, 3);
    t->batch.part = &t->part;
    t->batch.parts = 1;
    t->batch.strip = t->strip;
    t->batch.span = t->span;
    t->batch.edge = t->edge;
    t->batch.tables = t->kv_heads;
    t->batch.edges = MOST_STRIPS;
}

/* One block in one list. style 0: all blocks; 1: a stride and a window; 2: any; 3: four, other
 * ones for each strip. */
static int draw_seen(const trial *t, int style, int64_t block, int64_t own, int64_t window,
                     uint64_t *random)
{
    const int64_t begin = t->base + block * t->block, end = begin + t->block;
    int how = 1;
    if (block > own || begin >= t->part.end_token || end <= t->part.first_token) return 0;
    if (style == 1 && block % 4 != 1 && own - block > 5) return 0;
    if (style == 2 && block != own && test_below(random, 3) == 0) return 0;
    if (style == 3 && block / 4 != t->batch.strips % 8) return 0;
    if (begin < t->part.first_token || end > t->part.end_token || block == own) how = 2;
    if (window && own - block >= window / t->block - 1 && test_below(random, 2)) how = 3;
    return how;
}

static void add_strip(trial *t, int kv_head, uint64_t heads, int first_row, int rows, int style,
                      uint64_t *random)
{
    const int index = t->batch.strips++;
    banyan_strip *s = &t->strip[index];
    const int64_t own = (t->part.at - t->base + first_row) / t->block;
    int32_t place = 0;
    t->edge[index].sink_end = t->base + test_below(random, 100);
    t->edge[index].window = 64 + test_below(random, 300);
    s->table = kv_head;
    s->first_head = kv_head * t->group;
    s->heads = heads;
    s->first_row = first_row;
    s->rows = rows;
    s->first_span = t->batch.spans;
    s->edge = index;
    if (index >= MOST_STRIPS) abort();
    const int is_empty = test_below(random, 12) == 0;
    for (int64_t block = 0; block < t->blocks && !is_empty; block++) {
        const int how =
            draw_seen(t, style, block, own, style == 0 ? 0 : t->edge[index].window, random);
        if (!t->held[kv_head][block]) continue;
        if (how) {
            banyan_span *last = s->spans ? &t->span[t->batch.spans - 1] : NULL;
            t->list[index][block] = (unsigned char)how;
            s->blocks++;
            if (last && last->masked == how - 1 &&
                (last->count == 1 || place == last->first + last->count * last->step)) {
                last->step = (place - last->first) / last->count;
                last->count++;
            } else {
                const banyan_span span = {place, 1, 1, how - 1};
                t->span[t->batch.spans++] = span;
                s->spans++;
            }
        }
        place++;
    }
}

static void draw_lists(trial *t, uint64_t *random)
{
    const int missing = test_below(random, 2) || is_short(t) ? 0 : 4;
    for (int kv = 0; kv < t->kv_heads; kv++) {
        const uint64_t all = ((uint64_t)1 << t->group) - 1;
        const uint64_t some = t->group > 2 && test_below(random, 3) == 0 ? all & 5 : all;
        const int style = is_short(t) ? 3 : (int)test_below(random, 3);
        for (int b = 0; b < t->blocks; b++)
            t->held[kv][b] = !missing || test_below(random, missing) > 0;
        for (int row = 0, rows; row < t->rows; row += rows) {
            rows = t->block - (int)((t->part.at + row) % t->block);
            if (rows > t->rows - row) rows = t->rows - row;
            add_strip(t, kv, some, row, rows, style, random);
            if (some != all) add_strip(t, kv, all & ~some, row, rows, (style + 1) % 3, random);
        }
    }
    for (int h = 0; h < t->heads; h++) t->wants_partial[h] = (int)test_below(random, 2);
}

/* The scale of a row of e4m3: NaN for one with a NaN. */
static float scale_of(const float *x, int32_t dim)
{
    float most = 0;
    for (int32_t d = 0; d < dim; d++) {
        if (isnan(x[d])) return NAN;
        most = fmaxf(fabsf(x[d]), most);
    }
    return most / 448;
}
static unsigned char byte_of(float x, float scale)
{
    return scale > 0 ? banyan_e4m3_from_float(x / scale) : 0;
}
/* As a cache has them. */
static void round_rows(const trial *t, float *x, int64_t count, float *scale)
{
    if (t->shape.dtype != BANYAN_E4M3) {
        oracle_round(x, count, t->shape.dtype);
        return;
    }
    for (float *row = x; row < x + count; row += t->dim, scale++) {
        *scale = scale_of(row, t->dim);
        for (int32_t d = 0; d < t->dim; d++)
            row[d] = banyan_e4m3_to_float(byte_of(row[d], *scale)) * *scale;
    }
}

static void draw_data(trial *t, uint64_t *random)
{
    const int64_t per_token = (int64_t)t->kv_heads * t->dim, keys = t->tokens * per_token;
    const int64_t queries = (int64_t)t->rows * t->heads * t->dim;
    const float q_size = t->kind == LARGE ? 200.0f / sqrtf((float)t->dim) : 1;
    const float size = t->kind == TINY ? 0x1p-140f : 1;
    t->q = (float *)take((size_t)queries * sizeof(float));
    t->k = (float *)take((size_t)keys * sizeof(float));
    t->v = (float *)take((size_t)keys * sizeof(float));
    t->k_scale = (float *)take((size_t)(t->tokens * t->kv_heads) * sizeof(float));
    t->v_scale = (float *)take((size_t)(t->tokens * t->kv_heads) * sizeof(float));
    for (int64_t i = 0; i < queries; i++)
        t->q[i] = t->kind == EQUAL ? 0 : q_size * test_normal(random);
    if (t->kind == LARGE) /* towards and away from what keys share */
        for (int64_t i = 0; i < queries; i++)
            t->q[i] = (i / t->dim % 2 ? 200 : -200) / sqrtf((float)t->dim) * (i % 3 ? 1 : -1);
    for (int64_t i = 0; i < keys; i++) {
        t->k[i] = size * test_normal(random);
        t->v[i] = size * test_normal(random);
    }
    if (t->kind == NEGATIVE) {
        for (int64_t i = 0; i < queries; i += t->dim) t->q[i] = t->batch.scale > 0 ? 1 : -1;
        for (int64_t i = 0; i < t->tokens * t->kv_heads; i++)
            if (is_negative(t, i / t->kv_heads)) t->k[i * t->dim] = -INFINITY;
    }
    const int64_t any = test_below(random, keys);
    t->nan_token = any / per_token;
    if (t->kind == NAN_KEY) t->k[any] = NAN;
    if (t->kind == NAN_VALUE) t->v[any] = NAN;
    /* keys of tokens that nobody has seen yet */
    for (int64_t i = (t->part.at + t->rows - t->base) * per_token; i < keys; i++) t->k[i] = NAN;
    const int is_8 = t->shape.dtype == BANYAN_E4M3;
    oracle_round(t->q, queries, is_8 ? BANYAN_F16 : t->shape.dtype);
    oracle_round(t->q, queries, t->batch.in_dtype);
    round_rows(t, t->k, keys, t->k_scale);
    round_rows(t, t->v, keys, t->v_scale);
}

void trial_draw(trial *t, int seed, uint64_t *random)
{
    memset(t, 0, sizeof *t);
    t->seed = seed;
    t->has_lse = seed % 8 != 3;
    draw_shape(t, random);
    draw_lists(t, random);
    draw_data(t, random);
}

void trial_free(trial *t)
{
    free(t->q);
    free(t->k);
    free(t->v);
    free(t->k_scale);
    free(t->v_scale);
    free(t->got_out);
    free(t->got_lse);
    free(t->got_partial);
}

/* ---- running ----------------------------------------------------------------------------- */

static void *on_device(const void *host, size_t bytes)
{
    void *memory = NULL;
    if (cudaMalloc(&memory, bytes ? bytes : 1) != cudaSuccess ||
        cudaMemcpy(memory, host, bytes, cudaMemcpyHostToDevice) != cudaSuccess)
        abort();
    return memory;
}

static void to_host(void *host, const void *device, size_t bytes)
{
    if (cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost) != cudaSuccess) abort();
}

/* Row `row` of k and of v to a record. */
static void put16(const trial *t, char *record, uint32_t token, int64_t row)
{
    const uint32_t dim = (uint32_t)t->dim, tokens = (uint32_t)t->block;
    for (uint32_t d = 0; d < dim; d++) {
        const uint32_t to = record16_at(tokens, dim, token, d);
        const int64_t at = row * t->dim + d;
        banyan_from_float(record + to, t->shape.dtype, &t->k[at], 1);
        banyan_from_float(record + record16_tile_bytes(tokens, dim) + to, t->shape.dtype,
                          &t->v[at], 1);
    }
}
static void put8(const trial *t, char *record, uint32_t token, int64_t row)
{
    const uint32_t dim = (uint32_t)t->dim, tokens = (uint32_t)t->block;
    const float *const k_scale = &t->k_scale[row], *const v_scale = &t->v_scale[row];
    for (uint32_t d = 0; d < dim; d++) {
        const int64_t at = row * t->dim + d;
        record[record8_k_at(tokens, dim, token, d)] = (char)byte_of(t->k[at], *k_scale);
        record[record8_v_tile(tokens, dim) + record8_v_at(tokens, token, d)] =
            (char)byte_of(t->v[at], *v_scale);
    }
    memcpy(record + record8_k_scales(tokens, dim, dim) + 4 * token, k_scale, 4);
    memcpy(record + record8_v_scales(tokens, dim, dim) + 4 * token, v_scale, 4);
}

/* Records of a KV head, the last held block first, with one of NaNs after each. */
static void make_table(const trial *t, int kv, banyan_table_of_blocks *out)
{
    const uint32_t dim = (uint32_t)t->dim, tokens = (uint32_t)t->block;
    const int is_8 = t->shape.dtype == BANYAN_E4M3;
    const size_t bytes =
        is_8 ? record8_bytes(tokens, dim, dim) : 2 * record16_tile_bytes(tokens, dim);
    banyan_slot slot[MOST_BLOCKS];
    int places = 0, next = 0;
    for (int b = 0; b < t->blocks; b++) places += t->held[kv][b];
    char *records = (char *)take((size_t)(2 * places + 1) * bytes);
    memset(records, 0xff, (size_t)(2 * places + 1) * bytes);
    for (int b = 0; b < t->blocks; b++) {
        if (!t->held[kv][b]) continue;
        slot[next].block = (int32_t)(t->base / t->block + b);
        slot[next].record = (uint32_t)(2 * (places - 1 - next));
        char *record = records + slot[next++].record * bytes;
        for (int i = 0; i < t->block; i++) {
            const int64_t row = ((int64_t)b * t->block + i) * t->kv_heads + kv;
            (is_8 ? put8 : put16)(t, record, (uint32_t)i, row);
        }
    }
    out->records = on_device(records, (size_t)(2 * places + 1) * bytes);
    out->slot = (const banyan_slot *)on_device(slot, (size_t)places * sizeof slot[0]);
    free(records);
}

/* The same plan once more: whether it cuts is what a trial is to show. */
static int count_cuts(const trial *t)
{
    const cuda_tiles_limits limits = {banyan_cuda_subtiles(t->strip, t->batch.strips),
                                      t->batch.strips, t->batch.spans, t->batch.tables,
                                      t->multiprocessors};
    size_t device_bytes;
    cuda_tiles tiles;
    void *const room = take(banyan_cuda_tiles_bytes(&limits, &device_bytes));
    banyan_cuda_tiles(&t->batch, &limits, room, &tiles);
    free(room);
    return tiles.cuts;
}

int trial_run(trial *t)
{
    const size_t values = (size_t)t->rows * (size_t)t->heads * (size_t)t->dim;
    const size_t out_bytes = values * banyan_dtype_bytes(t->batch.out_dtype);
    const size_t lse_bytes = (size_t)t->rows * (size_t)t->heads * sizeof(float);
    const size_t part = (size_t)t->rows * (size_t)(t->dim + 2),
                 partial_bytes = part * 4 * t->heads;
    banyan_table_of_blocks table[MOST_HEADS];
    float *partial[MOST_HEADS];
    banyan_device_limits limits = {};
    banyan_queue *queue;
    emulator_set_multiprocessors(t->multiprocessors);
    t->multiprocessors = emulator_get_multiprocessors();
    limits.shape = t->shape;
    limits.heads = t->heads;
    limits.kv_heads = t->kv_heads;
    limits.rows = t->rows;
    limits.parts = 1;
    limits.tables = t->kv_heads;
    limits.strips = t->batch.strips;
    limits.spans = t->batch.spans;
    must(banyan_cuda_open(&limits, NULL, &queue));

    char *const q = (char *)take(values * 4);
    banyan_from_float(q, t->batch.in_dtype, t->q, (int64_t)values);
    t->got_out = (char *)take(out_bytes);
    t->got_lse = (float *)take(lse_bytes);
    t->got_partial = (float *)take(partial_bytes);
    memset(t->got_out, FILL, out_bytes);
    memset(t->got_partial, FILL, partial_bytes);
    t->batch.q = on_device(q, values * banyan_dtype_bytes(t->batch.in_dtype));
    t->batch.out = on_device(t->got_out, out_bytes);
    float *const lse = (float *)on_device(t->got_lse, lse_bytes);
    t->batch.lse = t->has_lse ? lse : NULL;
    float *const partials = (float *)on_device(t->got_partial, partial_bytes);
    for (int h = 0; h < t->heads; h++)
        partial[h] = t->wants_partial[h] ? partials + (size_t)h * part : NULL;
    for (int kv = 0; kv < t->kv_heads; kv++) make_table(t, kv, &table[kv]);
    t->batch.table = table;
    t->batch.partial = partial;
    /* copies from pageable memory may still be under way, and the queue's stream is not ordered
     * with them */
    if (cudaDeviceSynchronize() != cudaSuccess) abort();

    const auto prefill = t->way == WIDE       ? banyan_cuda_attend_wide
                         : t->way == PORTABLE ? banyan_cuda_prefill
                                              : banyan_cuda_prefill_hopper;
    must(prefill(queue, &t->batch));
    must(banyan_cuda_wait(queue));
    must(prefill(queue, &t->batch)); /* the counter is where it was */
    must(banyan_cuda_wait(queue));
    to_host(t->got_out, t->batch.out, out_bytes);
    to_host(t->got_lse, lse, lse_bytes);
    to_host(t->got_partial, partials, partial_bytes);
    cudaFree((void *)t->batch.q);
    cudaFree(t->batch.out);
    cudaFree(lse);
    cudaFree(partials);
    for (int kv = 0; kv < t->kv_heads; kv++) {
        cudaFree((void *)table[kv].records);
        cudaFree((void *)table[kv].slot);
    }
    banyan_cuda_close(queue);
    free(q);
    return t->way == HOPPER ? count_cuts(t) : 0;
}
