/* SPDX-License-Identifier: Apache-2.0 */
/* The decode kernels, portable and with bulk copies, against the float64 oracle: random shapes, lists of
 * spans with steps, ranges of tokens and edges, partials and final results, few multiprocessors and
 * many. Keys that nobody sees are NaN, results that nobody asked for must stay as they were, and a second run
 * must give the same bits. */
#include "attention/cuda/entry.h"
#include "attention/cuda/record.h"
#include "emulator.h"
#include "tests/oracle.h"
#include "tests/test.h"

#include <cuda_runtime.h>
#include <math.h>
#include <vector>

enum { BLOCK = RECORD_TOKENS, UNTOUCHED = 0x7b };

typedef const char *(*decode_fn)(banyan_queue *, const banyan_batch *);

enum kind { NORMAL, LARGE, EQUAL, TINY, SPREAD, INFINITE, KINDS };

struct trial {
    uint64_t random;
    banyan_block_shape shape;
    kind data;
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
    const int how = t.seen[s][token / BLOCK] - 1;
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

/* ---- drawing ------------------------------------------------------------------------------------ */

/* As the cache has it; e4m3 with the bytes and the scale of each row. */
static void round_rows(const trial &t, std::vector<float> &x, std::vector<float> &scale,
                       std::vector<unsigned char> &byte)
{
    if (t.shape.dtype != BANYAN_E4M3) {
        oracle_round(x.data(), (int64_t)x.size(), t.shape.dtype);
        return;
    }
    const size_t dim = (size_t)t.shape.key_dim;
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
        if (!is_narrow && token > t.at + (t.rows - 1) / 2) power += 60;
        for (size_t d = 0; d < dim; d++) t.v[row * dim + d] *= ldexpf(1, power);
    }
}

static void draw_data(trial &t)
{
    const int dim = t.shape.key_dim;
    t.q.resize((size_t)t.rows * t.heads * dim);
    t.k.resize((size_t)t.tokens * t.kv_heads * dim);
    t.v.resize(t.k.size());
    const float q_size = t.data == LARGE ? 10 : 1, k_size = t.data == LARGE ? 20 : 1;
    for (float &x : t.q) x = q_size * test_normal(&t.random);
    for (float &x : t.k) x = k_size * test_normal(&t.random);
    for (float &x : t.v) x = test_normal(&t.random);
    if (t.data == EQUAL)
        for (size_t i = 0; i < t.k.size(); i++) t.k[i] = t.k[i % dim];
    /* fp16: subnormal values; q far beyond fp16's range, and keys that make up for it */
    if (t.data == TINY) {
        for (float &x : t.v) x *= 1e-6f;
        for (float &x : t.q) x *= 1e6f;
        for (float &x : t.k) x *= 1e-4f;
    }
    if (t.data == SPREAD) draw_sizes(t);
    if (t.data == INFINITE) {
        /* q.k of the hidden token is -inf: its first number, times one over 0 */
        for (size_t i = 0; i < t.q.size(); i += dim) t.q[i] = fabsf(t.q[i]) + 0.5f;
        for (int h = 0; h < t.kv_heads; h++) t.k[(t.hidden * t.kv_heads + h) * dim] = -INFINITY;
    }
    t.is_exact = below(t, 4) > 0;
    if (t.is_exact) oracle_round(t.q.data(), (int64_t)t.q.size(), BANYAN_BF16);
    oracle_round(t.q.data(), (int64_t)t.q.size(), t.in_dtype);
    round_rows(t, t.k, t.k_scale, t.k_byte);
    round_rows(t, t.v, t.v_scale, t.v_byte);
}

/* One token of one KV head; `token` < 0: one that was never written, with a key that is NaN. */
static void put16(const trial &t, int h, int64_t token, uint32_t place, unsigned char *record)
{
    const int dim = t.shape.key_dim;
    const size_t from = ((size_t)token * t.kv_heads + h) * dim;
    for (int d = 0; token >= 0 && d < dim; d++) {
        unsigned char *const to = record + record16_at(dim, place, d);
        banyan_from_float(to, t.shape.dtype, &t.k[from + d], 1);
        banyan_from_float(to + record16_tile_bytes(dim), t.shape.dtype, &t.v[from + d], 1);
    }
}
static void put8(const trial &t, int h, int64_t token, uint32_t place, unsigned char *record)
{
    const int dim = t.shape.key_dim;
    const size_t row = token < 0 ? 0 : (size_t)token * t.kv_heads + h;
    const float scale[] = {token < 0 ? NAN : t.k_scale[row], token < 0 ? NAN : t.v_scale[row]};
    for (int d = 0; d < dim; d++) {
        record[record8_k_at(dim, place, d)] = token < 0 ? 0x7f : t.k_byte[row * dim + d];
        record[record8_v_tile(dim) + record8_v_at(place, d)] =
            token < 0 ? 0 : t.v_byte[row * dim + d];
    }
    memcpy(record + record8_k_scales(dim, dim) + 4 * place, &scale[0], 4);
    memcpy(record + record8_v_scales(dim, dim) + 4 * place, &scale[1], 4);
}

/* Records in any order; numbers of tokens that were never written: keys NaN, values zero (e4m3: with a
 * scale that is NaN). */
static void draw_records(trial &t)
{
    const int dim = t.shape.key_dim, blocks = (int)((t.tokens + BLOCK - 1) / BLOCK);
    const bool is_8 = t.shape.dtype == BANYAN_E4M3;
    const size_t tile = record16_tile_bytes(dim);
    const size_t record = is_8 ? record8_bytes(dim, dim) : 2 * tile;
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
        for (const banyan_slot &s : slot) {
            unsigned char *const to = &bytes[record * s.record];
            if (!is_8) memset(to + tile, 0, tile);
            for (int i = 0; i < BLOCK; i++) {
                const int64_t token = (int64_t)s.block * BLOCK + i;
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
    return block >= t.at / BLOCK || block * BLOCK < t.first_token ||
           (block + 1) * BLOCK > t.end_token;
}
static bool is_out(const trial &t, int64_t block)
{
    return block > t.at / BLOCK || (block + 1) * BLOCK <= t.first_token ||
           block * BLOCK >= t.end_token;
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
            std::vector<int> seen((size_t)((t.tokens + BLOCK - 1) / BLOCK), 0);
            draw_spans(t, strip, seen);
            for (int i = 0; i < t.group; i++)
                if (heads >> i & 1) t.strip_of[strip.first_head + i] = (int)t.strip.size();
            t.strip.push_back(strip);
            t.seen.push_back(seen);
        }
    }
    for (int h = 0; h < t.heads; h++) t.is_partial.push_back(below(t, 2));
}

static trial draw(uint64_t seed)
{
    static const banyan_dtype dtypes[] = {BANYAN_F32, BANYAN_BF16, BANYAN_F16};
    static const banyan_dtype formats[] = {BANYAN_BF16, BANYAN_F16, BANYAN_E4M3};
    trial t = {};
    t.random = seed;
    const int dim = 64 + 32 * below(t, 3);
    t.shape = banyan_block_shape{BLOCK, dim, dim, formats[below(t, 3)], 0};
    t.data = (kind)(below(t, 2) ? NORMAL : below(t, KINDS));
    t.kv_heads = 1 + below(t, 3);
    t.group = 1 + below(t, 8);
    t.heads = t.kv_heads * t.group;
    const int most = 32 / t.group < 8 ? 32 / t.group : 8;
    t.rows = 1 + below(t, most);
    t.processors = below(t, 3) ? 1 + below(t, 8) : 132;
    if (t.shape.dtype == BANYAN_E4M3 && below(t, 3) == 0) t.data = SPREAD;
    const int64_t own = below(t, t.data == SPREAD ? 2 : 8) ? below(t, 40) : 0;
    t.at = own * BLOCK + below(t, BLOCK - t.rows + 1);
    t.tokens = t.at + t.rows;
    t.end_token = INT64_MAX;
    if (below(t, 3) == 0) t.first_token = below(t, (int)t.tokens);
    if (below(t, 3) == 0) t.end_token = t.first_token + 1 + below(t, (int)t.tokens);
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

/* ---- running ------------------------------------------------------------------------------------ */

static void *to_device(const void *from, size_t bytes, std::vector<void *> &all)
{
    void *to = NULL;
    CHECK(cudaMalloc(&to, bytes ? bytes : 16) == cudaSuccess);
    if (bytes) CHECK(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    all.push_back(to);
    return to;
}

struct results {
    std::vector<unsigned char> out;
    std::vector<float> lse;
    std::vector<std::vector<float>> partial; /* of each query head */
};

static void run(const trial &t, decode_fn decode, results &r)
{
    const size_t dim = (size_t)t.shape.value_dim, vectors = (size_t)t.rows * t.heads;
    std::vector<void *> all;
    banyan_device_limits limits = {};
    limits.shape = t.shape;
    limits.heads = t.heads;
    limits.kv_heads = t.kv_heads;
    limits.rows = t.rows;
    limits.parts = 1, limits.tables = t.kv_heads;
    limits.strips = (int64_t)t.strip.size();
    limits.spans = (int64_t)t.span.size();
    banyan_queue *queue;
    emulator_set_multiprocessors(t.processors);
    const char *failed = banyan_cuda_open(&limits, NULL, &queue);
    CHECK_MSG(!failed, "%s", failed);
    if (failed) return;

    std::vector<unsigned char> q(t.q.size() * banyan_dtype_bytes(t.in_dtype));
    banyan_from_float(q.data(), t.in_dtype, t.q.data(), (int64_t)t.q.size());
    std::vector<banyan_table_of_blocks> table;
    for (int h = 0; h < t.kv_heads; h++)
        table.push_back(banyan_table_of_blocks{
            to_device(t.bytes[h].data(), t.bytes[h].size(), all),
            (const banyan_slot *)to_device(t.slot[h].data(),
                                           t.slot[h].size() * sizeof(banyan_slot), all)});
    r.out.assign(vectors * dim * banyan_dtype_bytes(t.out_dtype), UNTOUCHED);
    r.lse.assign(vectors, 0);
    memset(r.lse.data(), UNTOUCHED, vectors * sizeof(float));
    void *const out = to_device(r.out.data(), r.out.size(), all);
    void *const lse = to_device(r.lse.data(), vectors * sizeof(float), all);
    std::vector<float *> partial(t.heads, NULL);
    r.partial.assign(t.heads, std::vector<float>((size_t)t.rows * (dim + 2), -77));
    const size_t partial_bytes = (size_t)t.rows * (dim + 2) * sizeof(float);
    for (int h = 0; h < t.heads; h++)
        if (t.is_partial[h])
            partial[h] = (float *)to_device(r.partial[h].data(), partial_bytes, all);

    banyan_batch batch = {};
    batch.shape = t.shape;
    batch.scale = 1 / sqrtf((float)dim);
    batch.heads = t.heads;
    const banyan_batch_part part = {t.at, t.first_token, t.end_token, 0};
    batch.part = &part;
    batch.parts = 1;
    batch.rows = t.rows;
    batch.q = to_device(q.data(), q.size(), all);
    batch.in_dtype = t.in_dtype;
    batch.out_dtype = t.out_dtype;
    batch.table = table.data();
    batch.strip = t.strip.data();
    batch.span = t.span.data();
    batch.edge = t.edge.data();
    batch.tables = t.kv_heads;
    batch.strips = (int32_t)t.strip.size();
    batch.spans = (int32_t)t.span.size();
    batch.edges = (int32_t)t.edge.size();
    batch.partial = partial.data();
    batch.out = out;
    batch.lse = (float *)lse;
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    failed = decode(queue, &batch);
    CHECK_MSG(!failed, "%s", failed);
    failed = banyan_cuda_wait(queue);
    CHECK_MSG(!failed, "%s", failed);
    cudaMemcpy(r.out.data(), out, r.out.size(), cudaMemcpyDeviceToHost);
    cudaMemcpy(r.lse.data(), lse, vectors * sizeof(float), cudaMemcpyDeviceToHost);
    for (int h = 0; h < t.heads; h++)
        if (partial[h])
            cudaMemcpy(r.partial[h].data(), partial[h], partial_bytes, cudaMemcpyDeviceToHost);
    for (void *memory : all) cudaFree(memory);
    banyan_cuda_close(queue);
}

/* ---- checking ----------------------------------------------------------------------------------- */

/* Where q has few enough bits that no kernel rounds it, the weights' rounding for the product with v is
 * all that is not fp32 (bounds.h, e_p = 2^-8 and e_q = 0): fp32's bound and e_p (R + |out|) for out. l is
 * summed before that rounding: fp32's bound for lse, which one token more or less breaks. */
static double compare_exact(const trial &t, bound b, const std::vector<double> &expect,
                            double expect_lse, const float *out, banyan_dtype dtype, float lse)
{
    b.rounds = 0;
    double worst = 0;
    const double walk = BOUND_LAMBDA * b.value * b.spread;
    for (int d = 0; d < t.shape.value_dim; d++) {
        const double reach = walk < b.value ? walk : b.value;
        const double rounded = BOUND_BF16 * (reach + 2 * fabs(expect[d]));
        const double error = fabs(out[d] - expect[d]);
        const double ratio = error / (bound_out(&b, expect[d], dtype) + 1.01 * rounded);
        if (!(ratio <= worst)) worst = ratio;
    }
    if (isinf(expect_lse) || isnan(lse))
        return expect_lse == (double)lse ? worst : (double)INFINITY;
    const double ratio = fabs(lse - expect_lse) / bound_lse(&b);
    return ratio > worst ? ratio : worst;
}

/* One vector: |error| / bound. Kernels round q and weights to bf16 at worst (rounds: 2^-8 each; fp16 is
 * finer, and the weights below 2^-40 that it drops are far below 2^-8). Each rescale by a new maximum, by
 * the merge of the warps and by the combine of the slots is one of `combines`. */
static double compare(const trial &t, const results &r, int head, int row)
{
    const int dim = t.shape.value_dim;
    oracle o = {};
    o.heads = t.heads;
    o.kv_heads = t.kv_heads;
    o.key_dim = o.value_dim = dim;
    o.tokens = t.tokens;
    o.scale = (double)(1 / sqrtf((float)dim));
    o.k = t.k.data();
    o.v = t.v.data();
    o.reads = reads;
    o.ctx = (void *)&t;
    bound b = {};
    std::vector<double> expect(dim);
    double expect_lse;
    oracle_row(&o, &t.q[((size_t)row * t.heads + head) * dim], head, t.at + row, expect.data(),
               &expect_lse, &b);
    b.block_tokens = BLOCK;
    b.combines = 4 + emulator_get_multiprocessors();
    b.rounds = 1;
    if (t.data != NORMAL) b.spread = 1;

    const size_t at = (size_t)row * t.heads + head;
    std::vector<float> out(dim);
    float lse = r.lse[at];
    banyan_dtype dtype = BANYAN_F32; /* of what is compared */
    if (t.is_partial[head]) {
        banyan_partial_finish(&r.partial[head][(size_t)row * (dim + 2)], dim, 1, out.data(),
                              BANYAN_F32, dim, &lse, 1);
    } else {
        dtype = t.out_dtype;
        banyan_to_float(out.data(), &r.out[at * dim * banyan_dtype_bytes(dtype)], dtype, dim);
    }
    std::vector<unsigned char> stored(dim * banyan_dtype_bytes(dtype));
    banyan_from_float(stored.data(), dtype, out.data(), dim);
    const double worst =
        oracle_compare(expect.data(), expect_lse, &b, dim, stored.data(), dtype, &lse);
    if (!t.is_exact) return worst;
    const double exact = compare_exact(t, b, expect, expect_lse, out.data(), dtype, lse);
    return exact > worst ? exact : worst;
}

/* Results that belong to no strip are as they were; so are out and lse of heads with partials. */
static bool is_untouched(const trial &t, const results &r, int head, int row)
{
    const size_t at = (size_t)row * t.heads + head;
    const size_t bytes = t.shape.value_dim * banyan_dtype_bytes(t.out_dtype);
    const unsigned char *const lse = (const unsigned char *)&r.lse[at];
    bool is = true;
    for (size_t i = 0; i < bytes; i++) is &= r.out[at * bytes + i] == UNTOUCHED;
    for (size_t i = 0; i < sizeof(float); i++) is &= lse[i] == UNTOUCHED;
    return is;
}

static void check(uint64_t seed, decode_fn decode, const char *name)
{
    const trial t = draw(seed);
    results r, again;
    run(t, decode, r);
    run(t, decode, again);
    CHECK_MSG(r.out == again.out &&
                  !memcmp(r.lse.data(), again.lse.data(), r.lse.size() * sizeof(float)),
              "%s, trial %llu: other bits the second time", name, (unsigned long long)seed);
    for (int head = 0; head < t.heads; head++) {
        for (int row = 0; row < t.rows; row++) {
            if (t.strip_of[head] < 0 || t.is_partial[head])
                CHECK(is_untouched(t, r, head, row));
            if (t.strip_of[head] < 0) continue;
            const double worst = compare(t, r, head, row);
            CHECK_MSG(worst <= 1,
                      "%s, trial %llu (%s, dim %d, data %d, %d x %d heads, %d rows, at %lld): "
                      "head %d, row %d: error/bound %g",
                      name, (unsigned long long)seed, banyan_dtype_name(t.shape.dtype),
                      t.shape.key_dim, (int)t.data, t.kv_heads, t.group, t.rows,
                      (long long)t.at, head, row, worst);
        }
    }
}

int main(int argc, char **argv)
{
    const int first = argc > 1 ? atoi(argv[1]) : 0, end = argc > 2 ? atoi(argv[2]) : 60;
    for (int seed = first; seed < end; seed++) {
        check(1000 + (uint64_t)seed, banyan_cuda_decode, "portable");
        check(1000 + (uint64_t)seed, banyan_cuda_decode_hopper, "hopper");
    }
    return test_end();
}
