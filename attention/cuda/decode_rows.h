/* SPDX-License-Identifier: Apache-2.0 */
/* decode_rows.h - what one warp does with its 16 tokens of each block, and how four warps' sums
 * become one result. For device code.
 *
 * The vectors (head, row) of a strip are the rows of m16n8k16, in 1 or 2 tiles of 16. For each
 * tile a block's 64 tokens go to four warps, 16 each, which know nothing of each other until
 * the list ends (of blocks of 32 tokens, two warps have every other one):
 *
 *     scores  [16][16] = q [16][dim] k^T     dim / 16 steps, two fragments of 8 tokens
 *     weights [16][16] = 2^(score - m)       in registers; a score fragment is an operand of
 *                                            the next
 *     o       [16][dim] += weights v         one step for each 8 dims
 *
 * The score is in base 2: c = scale log2(e), m = max c q.k, weight 2^(c q.k - m), one
 * multiply-add.
 *
 * fp16 has a narrow range. q is divided by the power of two below its row's maximum, which goes
 * into c instead. Weights are 2^15 times as large, and so are l and o until the end: below
 * 2^-29 (instead of 2^-14) of the largest they lose bits, below 2^-40 (2^-25) they vanish. So a
 * million of them may be small, and what they lose together is below 2^-20 of the largest
 * value. */
#ifndef BANYAN_ATTENTION_CUDA_DECODE_ROWS_H
#define BANYAN_ATTENTION_CUDA_DECODE_ROWS_H

#include "attention/cuda/decode.h"
#include "attention/cuda/decode_list.h"
#include "attention/cuda/decode_tile.h"
#include "attention/cuda/ptx.h"

enum {
    DECODE_WARPS = 4
}; /* that compute, for each tile of vectors (and each group of records) */

/* Of a power of two: 1 / x. */
PTX_FN float power_inverse(float x)
{
    return __uint_as_float((254u << 23) - __float_as_uint(x));
}
/* The power of two that is not above x >= 0, in 2^-126 .. 2^126 (so for inf and NaN). */
PTX_FN float power_below(float x)
{
    const uint32_t bits = __float_as_uint(x) & 0x7f800000u;
    const uint32_t low = 1u << 23, high = 253u << 23;
    return __uint_as_float(bits < low ? low : bits > high ? high : bits);
}
/* Over the four threads that share a row. */
PTX_FN float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
PTX_FN float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
PTX_FN int clamp(int64_t x, int low, int high)
{
    return x < low ? low : x > high ? high : (int)x;
}

PTX_FN int vectors_of(const banyan_strip *strip)
{
    return __popcll(strip->heads) * strip->rows;
}
PTX_FN int head_of(const banyan_strip *strip, int vector)
{
    return strip->first_head + nth_head(strip->heads, vector / strip->rows);
}
PTX_FN int row_of(const banyan_strip *strip, int vector)
{
    return strip->first_row + vector % strip->rows;
}

/* One warp's rows: thread l has rows l / 4 + 8 r of its tile, as the fragments have them. */
template <typename B> struct decode_rows {
    uint32_t q[B::DIM / 16][4];
    float o[B::DIM / 8][4];
    float unit[2]; /* of o, where values have scales */
    float c[2];    /* if not all are alike: q was divided */
    float m[2], l[2];
    int32_t row[2]; /* of the batch */
};
/* Of each four warps, warp w % 4 has its 16 tokens of a record, or of one of two. With two
 * tiles warps 0 - 3 have the first 16 vectors, 4 - 7 the others. With two groups
 * (decode_hopper.cu) the next warps have every other record. */
template <int TILES> PTX_FN int tile_of_warp()
{
    return (int)(threadIdx.x / 32 / DECODE_WARPS % TILES);
}
/* Warps with the same number read the same records, one of every SHARES times as many as there
 * are groups. */
template <typename B, int TILES> PTX_FN int share_of_warp()
{
    return (int)(threadIdx.x / 32 / DECODE_WARPS / TILES) * B::SHARES +
           (int)(threadIdx.x / 32 % DECODE_WARPS) / B::WARPS;
}
template <typename B> PTX_FN int first_token_of_warp()
{
    return (int)(threadIdx.x / 32 % B::WARPS) * 16;
}

/* Numbers d, d + 1 of a vector, times `factor`. */
template <typename T>
PTX_FN uint32_t load_pair(const decode_call &call, int64_t at, float factor)
{
    return pack2(load_number(call.q, at, call.in_dtype) * factor,
                 load_number(call.q, at + 1, call.in_dtype) * factor, T());
}

template <typename B, int TILES>
PTX_FN void begin_row(const decode_call &call, const banyan_strip *strip, int r,
                      decode_rows<B> &rows)
{
    typedef typename B::number T;
    const int lane = (int)(threadIdx.x % 32);
    const int vector = tile_of_warp<TILES>() * 16 + r * 8 + lane / 4;
    const bool is_there = vector < vectors_of(strip);
    const int row = is_there ? row_of(strip, vector) : 0;
    const int head = is_there ? head_of(strip, vector) : 0;
    const int64_t at = ((int64_t)row * call.heads + head) * B::DIM;
    float most = 1, factor = 1;
    if (divides_q(T())) {
        most = 0;
        for (int i = 0; is_there && i < B::DIM / 4; i++)
            most =
                fmaxf(most, fabsf(load_number(call.q, at + i * 4 + lane % 4, call.in_dtype)));
        most = power_below(quad_max(most));
        factor = power_inverse(most);
    }
    rows.unit[r] = power_below(0);
    rows.c[r] = call.scale * most;
    rows.row[r] = row;
    rows.m[r] = -INFINITY;
    rows.l[r] = 0;
#pragma unroll
    for (int k = 0; k < B::DIM / 16; k++)
        for (int half = 0; half < 2; half++)
            rows.q[k][2 * half + r] =
                is_there ? load_pair<T>(call, at + B::dim_of(k, half, lane), factor) : 0;
}

template <typename B, int TILES>
PTX_FN void begin_rows(const decode_call &call, const banyan_strip *strip, decode_rows<B> &rows)
{
    begin_row<B, TILES>(call, strip, 0, rows);
    begin_row<B, TILES>(call, strip, 1, rows);
#pragma unroll
    for (int n = 0; n < B::DIM / 8; n++)
        for (int i = 0; i < 4; i++) rows.o[n][i] = 0;
}

/* What a row sees of the block that begins at token `base`: tokens first .. last, and where an
 * edge cuts, only those below sink or above recent. */
struct decode_sight {
    int first, last, sink, recent;
};
template <int TOKENS>
PTX_FN decode_sight sight_of(const decode_call &call, const banyan_strip *strip,
                             const decode_entry &entry, int32_t row)
{
    const banyan_batch_part part = staged(call, call.part, strip->part);
    const int64_t token = part.at + (row - part.first_row);
    const int64_t base = (int64_t)entry.block * TOKENS;
    decode_sight sight;
    const int64_t end = token < part.end_token - 1 ? token : part.end_token - 1;
    sight.first = clamp(part.first_token - base, 0, TOKENS);
    sight.last = clamp(end - base, -1, TOKENS - 1);
    sight.sink = TOKENS;
    sight.recent = -1;
    if (entry.masked == 2) {
        const banyan_edge *const edge = &staged(call, call.edge, strip->edge);
        sight.sink = clamp(edge->sink_end - base, 0, TOKENS);
        sight.recent = clamp(token - edge->window - base, -1, TOKENS);
    }
    return sight;
}
PTX_FN bool sees(const decode_sight &sight, int token)
{
    return token >= sight.first && token <= sight.last &&
           (token < sight.sink || token > sight.recent);
}

/* Scores s [2 fragments][4] of one tile become weights, for row r of a thread's two; returns by
 * what l and o shrink. */
template <bool MASKED>
PTX_FN float weigh_tile(float (&s)[2][4], int r, float c, float &m, float &l,
                        const decode_sight &sight, int first_token, float weight_shift)
{
    float most = m;
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[n][2 * r + e];
            if (MASKED) x = sees(sight, first_token + 8 * n + e) ? x * c : -INFINITY;
            most = fmaxf(most, MASKED ? x : x * c);
        }
    }
    most = quad_max(most);
    /* nothing seen: 2^(-inf - 0) = 0, where -inf - -inf is NaN */
    const float base = most == -INFINITY ? 0 : most;
    const float shrink = exp2_fast(m - base), shift = weight_shift - base;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[n][2 * r + e];
            x = exp2_fast(MASKED ? x + shift : fmaf(x, c, shift));
            sum += x;
        }
    }
    l = l * shrink + sum;
    m = most;
    return shrink;
}

template <int DIM> PTX_FN void shrink_values(float (&o)[DIM / 8][4], const float (&shrink)[2])
{
    if (!__any_sync(0xffffffffu, shrink[0] != 1 || shrink[1] != 1)) return;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
        for (int i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
}

template <int DIM, int HEIGHT>
PTX_FN void scale_scores(decode8<DIM, HEIGHT>, float (&s)[2][4], uint32_t record, int first,
                         int lane)
{
    float scale[4];
    decode8<DIM, HEIGHT>::scales(scale, record, false, first, lane);
    for (int i = 0; i < 8; i++) s[i / 4][i % 4] *= scale[i / 4 * 2 + i % 2];
}
/* Weights of row r take the scales of their values, and the row's unit grows with them; returns
 * by what o shrinks for that. A token that is not seen (or weighs nothing) has no say, whatever
 * its scale is. */
template <int DIM, int HEIGHT>
PTX_FN float scale_weights(decode8<DIM, HEIGHT>, float (&s)[2][4], int r, float &unit,
                           uint32_t record, int first, int lane)
{
    float scale[4], most = 0;
    decode8<DIM, HEIGHT>::scales(scale, record, true, first, lane);
    for (int i = 0; i < 4; i++)
        if (s[i / 2][2 * r + i % 2] != 0) most = fmaxf(most, scale[i]);
    const float larger = fmaxf(unit, power_below(quad_max(most))),
                inverse = power_inverse(larger);
    for (int i = 0; i < 4; i++) {
        float &x = s[i / 2][2 * r + i % 2];
        x = x == 0 ? 0 : x * (scale[i] * inverse);
    }
    const float shrink = unit * inverse;
    unit = larger;
    return shrink;
}
template <typename T, int DIM, int HEIGHT>
PTX_FN void scale_scores(decode16<T, DIM, HEIGHT>, float (&)[2][4], uint32_t, int, int)
{
}
template <typename T, int DIM, int HEIGHT>
PTX_FN float scale_weights(decode16<T, DIM, HEIGHT>, float (&)[2][4], int, float &, uint32_t,
                           int, int)
{
    return 1;
}

/* A block whose record is at `record` in shared memory. */
template <typename B, bool MASKED>
PTX_FN void read_block(decode_rows<B> &rows, const decode_call &call, const banyan_strip *strip,
                       const decode_entry &entry, uint32_t record)
{
    typedef typename B::number T;
    const int lane = (int)(threadIdx.x % 32), first = first_token_of_warp<B>();
    float s[2][4] = {}, shrink[2];
    B::scores(s, rows.q, record, first, lane);
    scale_scores(B(), s, record, first, lane);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        decode_sight sight = {};
        if (MASKED) sight = sight_of<B::TOKENS>(call, strip, entry, rows.row[r]);
        shrink[r] = weigh_tile<MASKED>(s, r, divides_q(T()) ? rows.c[r] : call.scale, rows.m[r],
                                       rows.l[r], sight, first + lane % 4 * 2, B::shift());
        shrink[r] *= scale_weights(B(), s, r, rows.unit[r], record, first, lane);
    }
    shrink_values<B::DIM>(rows.o, shrink);
    const uint32_t p[4] = {pack2(s[0][0], s[0][1], T()), pack2(s[0][2], s[0][3], T()),
                           pack2(s[1][0], s[1][1], T()), pack2(s[1][2], s[1][3], T())};
    B::values(rows.o, p, record, first, lane);
}

/* ---- the end of a list ----------------------------------------------------------------------
 * Sums of warp w (of
 * all groups), vector i lie in shared memory at sums + (w 16 TILES + i) (DIM + 8): rows are 8
 * banks apart, so that the fragments' pairs meet no other's. */

template <int DIM, int TILES, int GROUPS = 1> PTX_FN constexpr int sums_bytes()
{
    return GROUPS * DECODE_WARPS * 16 * TILES * (DIM + 8) * (int)sizeof(float);
}

/* share: which of the portion's records the warp has read, counted from its first. */
template <typename B, int TILES>
PTX_FN void put_sums(const decode_rows<B> &rows, int share, float *sums)
{
    const int DIM = B::DIM;
    const int lane = (int)(threadIdx.x % 32);
    const int warp = share * B::WARPS + (int)(threadIdx.x / 32 % B::WARPS);
    const float shift = exp2_fast(-B::shift());
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int vector = tile_of_warp<TILES>() * 16 + r * 8 + lane / 4;
        const float unit = B::IS_SCALED ? shift * rows.unit[r] : shift;
        float *const to = sums + (warp * 16 * TILES + vector) * (DIM + 8);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            for (int e = 0; e < 2; e++)
                to[n * 8 + lane % 4 * 2 + e] = rows.o[n][2 * r + e] * unit;
        const float l = quad_sum(rows.l[r]) * shift;
        if (lane % 4) continue;
        to[DIM] = rows.m[r];
        to[DIM + 1] = l;
    }
}

/* All warps merge vectors, each the sums of its four (or eight) warps in their order, and write
 * them: to scratch, or as the result. */
template <int DIM, int TILES, int GROUPS = 1>
PTX_FN void merge_sums(const decode_call &call, const banyan_strip *strip, int partial,
                       const float *sums)
{
    const int lane = (int)(threadIdx.x % 32), WARPS = DECODE_WARPS * GROUPS;
    const int vectors = vectors_of(strip);
    cuda_results results = call.results;
    results.partial = carried_at(call.carried, results.partial);
    for (int vector = (int)(threadIdx.x / 32); vector < vectors; vector += WARPS * TILES) {
        const float *const from = sums + vector * (DIM + 8);
        const int step = 16 * TILES * (DIM + 8);
        float most = -INFINITY, l = 0, weight[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++) most = fmaxf(most, from[w * step + DIM]);
        const float base = most == -INFINITY ? 0 : most;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            weight[w] = exp2_fast(from[w * step + DIM] - base);
            l += weight[w] * from[w * step + DIM + 1];
        }
        const int head = head_of(strip, vector), row = row_of(strip, vector);
        const float m = most * 0.69314718055994530942f, scale = l == 0 ? 0 : 1 / l;
        float *const to = call.scratch + ((int64_t)partial * call.stride + vector) * (DIM + 2);
#pragma unroll
        for (int d = lane; d < DIM; d += 32) {
            float o = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) o += weight[w] * from[w * step + d];
            if (partial >= 0)
                to[d] = o;
            else
                result_number<DIM>(results, head, row, d, o, scale);
        }
        if (lane) continue;
        if (partial < 0) {
            result_sums<DIM>(results, head, row, m, l);
        } else {
            to[DIM] = m;
            to[DIM + 1] = l;
        }
    }
}

#endif
