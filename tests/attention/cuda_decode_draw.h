/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_decode_draw.h - cuda_decode_test's trials: drawn from a seed. Keys that nobody sees are
 * NaN. */
#ifndef BANYAN_TESTS_ATTENTION_CUDA_DECODE_DRAW_H
#define BANYAN_TESTS_ATTENTION_CUDA_DECODE_DRAW_H

#include "attention/cuda/entry.h"
#include "attention/cuda/record.h"
#include "tests/oracle.h"
#include "tests/test.h"

#include <math.h>
#include <vector>

enum { UNTOUCHED = 0x7b };

enum kind { NORMAL, LARGE, EQUAL, TINY, SPREAD, INFINITE, KINDS };

struct trial {
    uint64_t random;
    banyan_block_shape shape;
    kind data;
    int block; /* tokens of one */
    int kv_heads, group, heads, rows, processors;
    int64_t at, tokens, first_token, end_token;
    banyan_dtype in_dtype, out_dtype;
    std::vector<float> q, k, v;          /* as the kernels see them */
    std::vector<float> k_scale, v_scale; /* e4m3 */
    std::vector<unsigned char> k_byte, v_byte;
    std::vector<std::vector<banyan_slot>> slot;    /* of each KV head */
    std::vector<std::vector<unsigned char>> bytes; /* its records */
    std::vector<banyan_strip> strip;
    std::vector<banyan_span> span;
    std::vector<banyan_edge> edge;
    std::vector<std::vector<int>> seen; /* of each strip: 0, or 1 + masked, by block */
    std::vector<int> strip_of;          /* of each query head, or -1 */
    std::vector<int> is_partial;        /* of each query head */
    bool is_exact;                      /* does the kernel round q? */
    bool is_long, is_split;             /* see is_long, is_split */
    bool has_lse;                       /* was it asked for? */
    int64_t hidden;                     /* a token whose score is -inf, or -1 */
};

static int below(trial &t, int n)
{
    return (int)test_below(&t.random, n);
}

static bool sees(const trial &t, int head, int64_t row, int64_t token)
{
    const int s = t.strip_of[head];
    if (s < 0 || token == t.hidden) return false;
    const int how = t.seen[s][token / t.block] - 1;
    if (how < 0) return false;
    if (how == 0) return true;
    if (token > row || token < t.first_token || token >= t.end_token) return false;
    if (how == 1) return true;
    const banyan_edge &edge = t.edge[t.strip[s].edge];
    return token < edge.sink_end || token > row - edge.window;
}
static int reads(void *t, int head, int64_t row, int64_t token)
{
    return sees(*(const trial *)t, head, row, token);
}

/* ---- drawing ----------------------------------------------------------------------------- */

/* As the cache has it; e4m3 with the bytes and the scale of each row. */
static void round_rows(const trial &t, size_t dim, std::vector<float> &x,
                       std::vector<float> &scale, std::vector<unsigned char> &byte)
{
    if (t.shape.dtype != BANYAN_E4M3) {
        oracle_round(x.data(), (int64_t)x.size(), t.shape.dtype);
        return;
    }
    byte.resize(x.size());
    for (size_t row = 0; row < x.size(); row += dim) {
        float most = 0;
        for (size_t d = 0; d < dim; d++) most = fmaxf(most, fabsf(x[row + d]));
        scale.push_back(most / 448);
        for (size_t d = 0; d < dim; d++) {
            byte[row + d] = most > 0 ? banyan_e4m3_from_float(x[row + d] / scale.back()) : 0;
            x[row + d] = banyan_e4m3_to_float(byte[row + d]) * scale.back();
        }
    }
}

/* Values of very different sizes, by far the largest of them where few rows see them. */
static void draw_sizes(trial &t)
{
    const bool is_narrow = t.shape.dtype == BANYAN_F16;
    const size_t dim = (size_t)t.shape.value_dim;
    for (size_t row = 0; row < t.v.size() / dim; row++) {
        const int64_t token = (int64_t)row / t.kv_heads;
        int power = is_narrow ? below(t, 12) - 6 : below(t, 40) - 20;
        if (!is_narrow && token > t.at + (t.rows - 1) / 2) power += 95;
        for (size_t d = 0; d < dim; d++) t.v[row * dim + d] *= ldexpf(1, power);
    }
}

static void draw_data(trial &t)
{
    const int dim = t.shape.key_dim;
    t.q.resize((size_t)t.rows * t.heads * dim);
    t.k.resize((size_t)t.tokens * t.kv_heads * dim);
    t.v.resize((size_t)t.tokens * t.kv_heads * t.shape.value_dim);
    const float q_size = t.data == LARGE ? 10 : 1, k_size = t.data == LARGE ? 20 : 1;
    for (float &x : t.q) x = q_size * test_normal(&t.random);
    for (float &x : t.k) x = k_size * test_normal(&t.random);
    for (float &x : t.v) x = test_normal(&t.random);
    if (t.data == EQUAL)
        for (size_t i = 0; i < t.k.size(); i++) t.k[i] = t.k[i % dim];
    /* fp16: subnormal values; q far beyond fp16's range, every other row in what one lane of a
     * warp reads alone, and keys that make up for it */
    if (t.data == TINY) {
        for (float &x : t.v) x *= 1e-6f;
        for (size_t i = 0; i < t.q.size(); i++) {
            const bool is_small = i / dim % 2 && i % dim % 64 >= 2;
            t.q[i] *= is_small ? 1e6f * 0x1p-20f : 1e6f;
        }
        for (float &x : t.k) x *= 1e-4f;
    }
    if (t.data == SPREAD) draw_sizes(t);
    if (t.data == INFINITE) {
        /* q.k of the hidden token is -inf: its first number that is no value's, times one over
         * 0 */
        const size_t d = t.shape.value_in_key ? t.shape.value_dim : 0;
        for (size_t i = d; i < t.q.size(); i += dim) t.q[i] = fabsf(t.q[i]) + 0.5f;
        for (int h = 0; h < t.kv_heads; h++)
            t.k[(t.hidden * t.kv_heads + h) * dim + d] = -INFINITY;
    }
    t.is_exact = below(t, 4) > 0;
    if (t.is_exact) oracle_round(t.q.data(), (int64_t)t.q.size(), BANYAN_BF16);
    oracle_round(t.q.data(), (int64_t)t.q.size(), t.in_dtype);
    round_rows(t, t.shape.key_dim, t.k, t.k_scale, t.k_byte);
    round_rows(t, t.shape.value_dim, t.v, t.v_scale, t.v_byte);
    for (size_t i = 0; t.shape.value_in_key && i < t.v.size(); i++)
        t.v[i] = t.k[i / t.shape.value_dim * dim + i % t.shape.value_dim];
}

/* One token of one KV head; `token` < 0: one that was never written, with a key that is NaN
 * where it is no value. */
static void put16(const trial &t, int h, int64_t token, uint32_t place, unsigned char *record)
{
    const banyan_block_shape &s = t.shape;
    const size_t row = token < 0 ? 0 : (size_t)token * t.kv_heads + h;
    const float zero = 0;
    for (int d = 0; d < s.key_dim; d++) {
        unsigned char *const to = record + record16_at(t.block, s.key_dim, place, d);
        const bool is_value = s.value_in_key && d < s.value_dim;
        const float *const x = token < 0 ? &zero : &t.k[row * s.key_dim + d];
        if (token >= 0 || is_value) banyan_from_float(to, s.dtype, x, 1);
    }
    record += record16_tile_bytes(t.block, s.key_dim);
    for (int d = 0; !s.value_in_key && d < s.value_dim; d++)
        banyan_from_float(record + record16_at(t.block, s.value_dim, place, d), s.dtype,
                          token < 0 ? &zero : &t.v[row * s.value_dim + d], 1);
}
static void put8(const trial &t, int h, int64_t token, uint32_t place, unsigned char *record)
{
    const int dim = t.shape.key_dim;
    const size_t row = token < 0 ? 0 : (size_t)token * t.kv_heads + h;
    const float scale[] = {token < 0 ? NAN : t.k_scale[row], token < 0 ? NAN : t.v_scale[row]};
    for (int d = 0; d < dim; d++) {
        record[record8_k_at(t.block, dim, place, d)] =
            token < 0 ? 0x7f : t.k_byte[row * dim + d];
        record[record8_v_tile(t.block, dim) + record8_v_at(t.block, place, d)] =
            token < 0 ? 0 : t.v_byte[row * dim + d];
    }
    memcpy(record + record8_k_scales(t.block, dim, dim) + 4 * place, &scale[0], 4);
    memcpy(record + record8_v_scales(t.block, dim, dim) + 4 * place, &scale[1], 4);
}

/* Records in any order; numbers of tokens that were never written: keys NaN, values zero (e4m3:
 * with a scale that is NaN). */
static void draw_records(trial &t)
{
    const banyan_block_shape &s = t.shape;
    const int blocks = (int)((t.tokens + t.block - 1) / t.block);
    const bool is_8 = s.dtype == BANYAN_E4M3;
    const size_t record = is_8
                              ? record8_bytes(t.block, s.key_dim, s.value_dim)
                              : record16_bytes(t.block, s.key_dim, s.value_dim, s.value_in_key);
    for (int h = 0; h < t.kv_heads; h++) {
        std::vector<banyan_slot> slot;
        const int every = 1 + below(t, 3); /* one of `every` blocks is missing, or none */
        for (int b = 0; b < blocks; b++)
            if (every == 1 || below(t, 8)) slot.push_back(banyan_slot{b, 0});
        const int held = (int)slot.size();
        for (int i = 0; i < held; i++) slot[i].record = (uint32_t)i + 1;
        for (int i = held - 1; i > 0; i--)
            std::swap(slot[i].record, slot[below(t, i + 1)].record);
        std::vector<unsigned char> bytes(record * (size_t)(held + 1), 0xff); /* 0xffff: a NaN */
        for (const banyan_slot &held_slot : slot) {
            unsigned char *const to = &bytes[record * held_slot.record];
            for (int i = 0; i < t.block; i++) {
                const int64_t token = (int64_t)held_slot.block * t.block + i;
                (is_8 ? put8 : put16)(t, h, token < t.tokens ? token : -1, (uint32_t)i, to);
            }
        }
        t.slot.push_back(slot);
        t.bytes.push_back(bytes);
    }
}

/* Must a span be masked that has this block? */
static bool is_cut(const trial &t, int64_t block)
{
    return block >= t.at / t.block || block * t.block < t.first_token ||
           (block + 1) * t.block > t.end_token;
}
static bool is_out(const trial &t, int64_t block)
{
    return block > t.at / t.block || (block + 1) * t.block <= t.first_token ||
           block * t.block >= t.end_token;
}

static void draw_spans(trial &t, banyan_strip &strip, std::vector<int> &seen)
{
    const std::vector<banyan_slot> &slot = t.slot[strip.table];
    int place = 0, end = (int)slot.size();
    while (place < end && is_out(t, slot[place].block)) place++;
    while (place < end && is_out(t, slot[end - 1].block)) end--;
    strip.first_span = (int)t.span.size();
    while (place < end && below(t, 20)) {
        banyan_span span = {place, 1, 1 + below(t, 3), 0};
        const int most = (end - 1 - place) / span.step + 1;
        span.count = 1 + below(t, most);
        /* all up to the own block */
        if ((t.is_split || (t.is_long && below(t, 2))) && place + 1 < end)
            span.step = 1, span.count = end - 1 - place;
        int at = place;
        bool cut = false;
        for (int i = 0; i < span.count; i++, at += span.step) cut |= is_cut(t, slot[at].block);
        if (cut || below(t, 4) == 0) span.masked = 1;
        if (strip.edge >= 0 && span.masked && below(t, 3)) span.masked = 2;
        at = place;
        for (int i = 0; i < span.count; i++, at += span.step)
            seen[slot[at].block] = 1 + span.masked;
        strip.blocks += span.count;
        strip.spans++;
        t.span.push_back(span);
        place = at - span.step + 1 + below(t, 3);
        if (below(t, 3) == 0 && place < end) place = end - 1; /* the own block, if it is held */
    }
}

static void draw_strips(trial &t)
{
    t.strip_of.assign(t.heads, -1);
    for (int h = 0; h < t.kv_heads; h++) {
        uint64_t left = (1ull << t.group) - 1;
        while (left && below(t, 12)) { /* now and then heads in no strip */
            uint64_t heads = left;
            if (below(t, 2)) heads &= test_random(&t.random);
            if (!heads) continue;
            left &= ~heads;
            banyan_strip strip = {};
            strip.table = h;
            strip.first_head = h * t.group;
            strip.heads = heads;
            strip.first_row = 0;
            strip.rows = t.rows;
            strip.edge = -1;
            if (below(t, 2)) {
                strip.edge = (int)t.edge.size();
                t.edge.push_back(banyan_edge{below(t, 200), 1 + below(t, (int)t.tokens + 100)});
            }
            std::vector<int> seen((size_t)((t.tokens + t.block - 1) / t.block), 0);
            draw_spans(t, strip, seen);
            for (int i = 0; i < t.group; i++)
                if (heads >> i & 1) t.strip_of[strip.first_head + i] = (int)t.strip.size();
            t.strip.push_back(strip);
            t.seen.push_back(seen);
        }
    }
    for (int h = 0; h < t.heads; h++) t.is_partial.push_back(below(t, 2));
}

/* Long lists, of e4m3 or of blocks of 32 tokens, on one multiprocessor: records arrive in any
 * order, and warps that compute with some of them only may be ahead of the others by as many as
 * there is room for. Lists are looked up 32 entries at a time, and most of these have more than
 * 64. */
static bool is_long(uint64_t seed)
{
    return seed >= 5000 && seed < 9000;
}

/* One list of so many blocks that its parts are more than the combine of parts reads ahead, on
 * each of the chains in which it adds them up. */
static bool is_split(uint64_t seed)
{
    return (seed >= 4000 && seed < 5000) || seed >= 9900;
}

/* Heads that are too wide for a warp. */
static bool is_wide(uint64_t seed)
{
    return seed >= 9000;
}

static trial draw(uint64_t seed)
{
    static const banyan_dtype dtypes[] = {BANYAN_F32, BANYAN_BF16, BANYAN_F16};
    static const banyan_dtype formats[] = {BANYAN_BF16, BANYAN_F16, BANYAN_E4M3};
    trial t = {};
    t.random = seed;
    const int dim = is_wide(seed) ? 256 : is_long(seed) ? 128 : 64 + 32 * below(t, 3);
    t.block = seed % 3 == 1 ? 32 : 64;
    t.shape = banyan_block_shape{t.block, dim, dim, formats[below(t, 3)], 0};
    if (is_wide(seed) && below(t, 2))
        t.shape = banyan_block_shape{t.block, 576, 512, formats[below(t, 2)], 1};
    t.data = (kind)(below(t, 2) ? NORMAL : below(t, KINDS));
    if (is_wide(seed) && !t.shape.value_in_key && below(t, 2)) t.shape.dtype = BANYAN_E4M3;
    t.kv_heads = 1 + below(t, 3);
    t.group = 1 + below(t, t.shape.value_in_key ? 60 : is_wide(seed) ? 16 : 8);
    t.heads = t.kv_heads * t.group;
    const int vectors = is_wide(seed) ? 160 : 32;
    const int most = vectors / t.group < 8 ? vectors / t.group : 8;
    t.rows = 1 + below(t, most);
    t.processors = below(t, 3) ? 1 + below(t, 8) : 132;
    if (t.shape.dtype == BANYAN_E4M3 && below(t, is_wide(seed) ? 2 : 3) == 0) t.data = SPREAD;
    int64_t own = below(t, t.data == SPREAD ? 2 : 8) ? below(t, 40) : 0;
    t.is_long = is_long(seed);
    t.has_lse = seed % 8 != 3;
    if (t.is_long) {
        if (t.block == 64 || below(t, 2)) t.shape.dtype = BANYAN_E4M3;
        t.data = NORMAL;
        t.kv_heads = t.rows = t.processors = 1;
        t.heads = t.group;
        own = 66 + below(t, 10);
    }
    t.is_split = is_split(seed);
    if (t.is_split) {
        t.data = NORMAL;
        t.kv_heads = t.group = t.heads = t.rows = 1;
        t.processors = 132;
        own = 160;
    }
    t.at = own * t.block + below(t, t.block - t.rows + 1);
    t.tokens = t.at + t.rows;
    t.end_token = INT64_MAX;
    if (below(t, 3) == 0 && !t.is_split) t.first_token = below(t, (int)t.tokens);
    if (below(t, 3) == 0 && !t.is_split)
        t.end_token = t.first_token + 1 + below(t, (int)t.tokens);
    t.in_dtype = dtypes[below(t, 3)];
    t.out_dtype = dtypes[below(t, 3)];
    if (t.data == SPREAD) t.out_dtype = dtypes[below(t, 2)]; /* beyond fp16 */
    if (t.data == TINY) t.in_dtype = below(t, 2) ? BANYAN_F32 : BANYAN_BF16;
    if (t.data == INFINITE && t.shape.dtype == BANYAN_E4M3) t.data = NORMAL; /* has no inf */
    t.hidden = t.data == INFINITE ? below(t, (int)t.tokens) : -1;
    draw_data(t);
    draw_records(t);
    draw_strips(t);
    return t;
}

#endif
