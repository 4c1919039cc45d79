/* SPDX-License-Identifier: Apache-2.0 */
/* exact_rows.h - what the warps of attend_exact.cu do with a block. For device code.
 *
 * A thread has, of rows lane / 4 + 8 r of the 16 vectors and of the dims of its warp, the bins
 * of o: 64 integers, in registers, so that adding to them costs no memory. Which of the four
 * bins a row's terms go to is found while running, so all four are written, three of them with
 * 0 more. */
#ifndef BANYAN_ATTENTION_CUDA_EXACT_ROWS_H
#define BANYAN_ATTENTION_CUDA_EXACT_ROWS_H

#include "attention/cuda/decode.h"
#include "attention/cuda/decode_rows.h"
#include "attention/cuda/exact_sum.h"
#include "attention/cuda/exact_tile.h"
#include "attention/cuda/wide_q.h"

enum { EXACT_MOST_STAGES = 4 };

/* Who does what, and where it lies. A warp has 32 dims of all vectors. */
template <typename B> struct exact_plan {
    enum {
        ROWS = CUDA_EXACT_VECTORS,
        WARPS = B::DIM / 32,
        THREADS = 32 * WARPS,
        Q = ROWS * ((B::DIM + 63) / 64 * 64) * 2,
        FACTORS_AT = Q,
        LARGEST_AT = FACTORS_AT + ROWS * 4,
        LENGTHS_AT = (LARGEST_AT + WARPS * ROWS * 4 + 15) / 16 * 16,
        STAGES_AT = (LENGTHS_AT + ROWS * (int)sizeof(exact_length) + 127) / 128 * 128,
        LEAST = STAGES_AT + B::RECORD /* bytes */
    };
    static_assert(ROWS == 16, "as many as a tile of m16n8k16 has");
    static_assert(LEAST <= 99 << 10, "every GPU from 8.0 on has room");
    static int stages_in(int room)
    {
        const int fit = (room - STAGES_AT) / (int)B::RECORD;
        return fit < EXACT_MOST_STAGES ? fit : EXACT_MOST_STAGES;
    }
};

/* Notes of a thread block, for each vector. */
struct exact_notes {
    float *factor;     /* of scores: scale log2(e), and what q was divided by */
    uint32_t *largest; /* [WARPS][ROWS]: bits of the largest size of a block's o */
    exact_length *length;
};
template <typename B> PTX_FN exact_notes exact_notes_of_block()
{
    typedef exact_plan<B> P;
    unsigned char *const at = dynamic_shared();
    return {(float *)(at + P::FACTORS_AT), (uint32_t *)(at + P::LARGEST_AT),
            (exact_length *)(at + P::LENGTHS_AT)};
}

struct exact_rows {
    int64_t bin[FIXED_BINS][4][4]; /* [][fragment of 8 dims][as a fragment has them] */
    exact_bin top[2];
    uint32_t plus, minus; /* bit 4 fragment + element: NaN or an inf was added */
    int32_t row[2];       /* of the batch */
};

/* What a thread knows of one block, of its two rows. */
struct exact_block {
    float base[2], l[2]; /* the base of weights in base 2; their sum */
    int whole[2];        /* of the exponent of o's and of l's unit: 16 n + whole */
    int unit[2];         /* of o alone, log2 */
    bool counts[2];      /* something was seen, and l is a number */
};

template <typename B> PTX_FN void begin_exact(const banyan_strip *strip, exact_rows &rows)
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int b = 0; b < FIXED_BINS; b++)
#pragma unroll
        for (int i = 0; i < 16; i++) rows.bin[b][i / 4][i % 4] = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int vector = r * 8 + lane / 4;
        rows.row[r] = vector < vectors_of(strip) ? row_of(strip, vector) : strip->first_row;
        rows.top[r] = {-INFINITY, 0};
        if (threadIdx.x < 32 && lane % 4 == 0)
            clear_length(exact_notes_of_block<B>().length + vector);
    }
    rows.plus = rows.minus = 0;
}

/* ---- a block ----------------------------------------------------------------------------- */

/* Scores of all vectors with all tokens, in base 2; -inf where a row does not see the token.
 * Each warp has them all: nothing is exchanged but what o's largest number is. */
template <typename B>
PTX_FN void score_exact(const decode_call &call, const banyan_strip *strip,
                        const decode_entry &entry, const exact_rows &rows,
                        float (&s)[EXACT_PARTS][4], uint32_t record, int lane)
{
    typedef exact_plan<B> P;
    const uint32_t q = shared_address(dynamic_shared());
    const exact_notes notes = exact_notes_of_block<B>();
    decode_sight sight[2] = {};
#pragma unroll 2
    for (int d = 0; d < B::DIM; d += 16) {
        uint32_t a[4];
        ldmatrix4(a, q + wide_at(P::ROWS, lane % 16, d + lane / 16 * 8));
        B::keys(s, a, record, d, lane);
    }
    for (int r = 0; entry.masked && r < 2; r++)
        sight[r] = sight_of<RECORD_TOKENS>(call, strip, entry, rows.row[r]);
#pragma unroll
    for (int t = 0; t < EXACT_PARTS; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int token = 8 * t + lane % 4 * 2 + i % 2;
            s[t][i] *= notes.factor[i / 2 * 8 + lane / 4];
            if (B::IS_SCALED) s[t][i] *= B::scale_at(record, false, token);
            if (entry.masked && !sees(sight[i / 2], token)) s[t][i] = -INFINITY;
        }
}

/* Scores of row r become weights 2^(score - base), base the whole number above the largest: of
 * this block alone, so that they are the same whatever else is read. Weights of values with
 * scales are relative to a power of two, unit, which no scale of a token that weighs is below
 * by more than a factor of 2. */
template <typename B>
PTX_FN void soften_exact(float (&s)[EXACT_PARTS][4], int r, exact_block &block, uint32_t record,
                         int lane)
{
    float most = -INFINITY, sum = 0, scale = 0;
#pragma unroll
    for (int t = 0; t < EXACT_PARTS; t++)
        most = fmaxf(most, fmaxf(s[t][2 * r], s[t][2 * r + 1]));
    most = quad_max(most);
    /* nothing seen: 2^(-inf - 0) = 0, where -inf - -inf is NaN */
    const float base = most == -INFINITY ? 0 : ceilf(most), shift = (float)B::shift() - base;
#pragma unroll
    for (int t = 0; t < EXACT_PARTS; t++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[t][2 * r + e];
            x = exp2_fast(x + shift);
            sum += x;
            if (B::IS_SCALED && x != 0)
                scale = fmaxf(scale, B::scale_at(record, true, 8 * t + lane % 4 * 2 + e));
        }
    block.base[r] = base;
    block.l[r] = quad_sum(sum);
    block.counts[r] = fabsf(base) < INFINITY && block.l[r] > 0 && block.l[r] < INFINITY;
    block.unit[r] = 0;
    if (!B::IS_SCALED) return;
    const float unit = power_below(quad_max(scale)), inverse = power_inverse(unit);
    block.unit[r] = (int)(__float_as_uint(unit) >> 23) - 127;
#pragma unroll
    for (int t = 0; t < EXACT_PARTS; t++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            /* a token that weighs nothing has no say, whatever its scale is */
            float &x = s[t][2 * r + e];
            if (x != 0) x *= B::scale_at(record, true, 8 * t + lane % 4 * 2 + e) * inverse;
        }
}

/* NaN and inf are no integers: they become flags and 0. Returns the bits of the largest size in
 * row r. */
PTX_FN uint32_t flag_odd(float (&o)[4][4], int r, bool counts, exact_rows &rows)
{
    uint32_t largest = 0;
#pragma unroll
    for (int f = 0; f < 4; f++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = o[f][2 * r + e];
            const uint32_t bits = __float_as_uint(x) & 0x7fffffffu;
            if (bits < 0x7f800000u) {
                largest = bits > largest ? bits : largest;
                continue;
            }
            if (counts && !(x < 0)) rows.plus |= 1u << (4 * f + 2 * r + e);
            if (counts && !(x > 0)) rows.minus |= 1u << (4 * f + 2 * r + e);
            x = 0;
        }
    for (int other = 1; other < 4; other *= 2) {
        const uint32_t theirs = __shfl_xor_sync(0xffffffffu, largest, other);
        largest = theirs > largest ? theirs : largest;
    }
    return largest;
}

/* Row r of o to its bins. */
PTX_FN void add_row(exact_rows &rows, const float (&o)[4][4], int r, const exact_place &place)
{
    const int rise = raise_top(rows.top[r], place.at);
    const int below = bins_below(rows.top[r], place.at);
#pragma unroll
    for (int f = 0; f < 4; f++)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) {
            for (int up = 0; up < rise; up++) {
#pragma unroll
                for (int b = FIXED_BINS - 1; b > 0; b--)
                    rows.bin[b][f][i] = rows.bin[b - 1][f][i];
                rows.bin[0][f][i] = 0;
            }
            const int64_t units = units_of(o[f][i], place.factor);
#pragma unroll
            for (int b = 0; b < FIXED_BINS; b++) rows.bin[b][f][i] += b == below ? units : 0;
        }
}

/* Where l's terms go, of row r. n is whole, and a base has no more bits than a float. */
template <typename B> PTX_FN double bin_of_base(const exact_block &block, int r, int *whole)
{
    const float n = floorf(block.base[r] * (1.0f / FIXED_WIDTH));
    *whole = (int)(block.base[r] - n * FIXED_WIDTH) - B::shift();
    return (double)n;
}

template <typename B> PTX_FN void add_exact_length(const exact_block &block, int r, int lane)
{
    exact_length *const length = exact_notes_of_block<B>().length + (r * 8 + lane / 4);
    if (block.counts[r]) {
        int whole;
        const double n = bin_of_base<B>(block, r, &whole);
        add_length(length, place_of(n, whole, __float_as_uint(block.l[r])), block.l[r]);
    } else if (block.l[r] != 0) {
        length->is_nan = 1;
    }
}

/* The block whose record is at `record`. All threads: one barrier, behind which the record has
 * been read. */
template <typename B>
PTX_FN void read_exact(const decode_call &call, const banyan_strip *strip,
                       const decode_entry &entry, exact_rows &rows, uint32_t record)
{
    typedef typename B::number T;
    typedef exact_plan<B> P;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const exact_notes notes = exact_notes_of_block<B>();
    float s[EXACT_PARTS][4] = {}, o[4][4] = {};
    exact_block block = {};
    score_exact<B>(call, strip, entry, rows, s, record, lane);
    soften_exact<B>(s, 0, block, record, lane);
    soften_exact<B>(s, 1, block, record, lane);
#pragma unroll
    for (int k = 0; k < EXACT_PARTS / 2; k++) {
        const uint32_t p[4] = {pack2(s[2 * k][0], s[2 * k][1], T()),
                               pack2(s[2 * k][2], s[2 * k][3], T()),
                               pack2(s[2 * k + 1][0], s[2 * k + 1][1], T()),
                               pack2(s[2 * k + 1][2], s[2 * k + 1][3], T())};
        B::values(o, p, record, 16 * k, 32 * warp, lane);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t largest = flag_odd(o, r, block.counts[r], rows);
        if (lane % 4 == 0) notes.largest[warp * P::ROWS + r * 8 + lane / 4] = largest;
        if (warp == 0 && lane % 4 == 0) add_exact_length<B>(block, r, lane);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t largest = 0;
        int whole;
        for (int w = 0; w < P::WARPS; w++) {
            const uint32_t theirs = notes.largest[w * P::ROWS + r * 8 + lane / 4];
            largest = theirs > largest ? theirs : largest;
        }
        if (!block.counts[r] || largest == 0) continue;
        const double n = bin_of_base<B>(block, r, &whole);
        add_row(rows, o, r, place_of(n, whole + block.unit[r], largest));
    }
}

/* ---- the end of a list ------------------------------------------------------------------- */

/* The flags of row r that this warp's dims have, a bit for each, in all lanes of a quad. */
PTX_FN uint32_t quad_flags(uint32_t flags, int r, int lane)
{
    uint32_t bits = 0;
#pragma unroll
    for (int f = 0; f < 4; f++)
        bits |= (flags >> (4 * f + 2 * r) & 3) << (8 * f + lane % 4 * 2);
    for (int other = 1; other < 4; other *= 2)
        bits |= __shfl_xor_sync(0xffffffffu, bits, other);
    return bits;
}

/* Head of a row in memory, by one thread: all but the flags of values. */
PTX_FN void store_head(int64_t *to, int dim, const exact_bin &top, const exact_length *l)
{
    uint32_t *const plus = (uint32_t *)(to + FIXED_HEAD), *const minus =
                                                              plus + 2 * fixed_flags(dim);
    *(double *)to = top.n;
    to[1] = top.j;
    *(double *)(to + 2) = l->top.n;
    to[3] = l->top.j;
    for (int i = 0; i < FIXED_BINS; i++) to[4 + i] = l->bin[i];
    for (int i = dim / 32; i < 2 * fixed_flags(dim); i++)
        plus[i] = minus[i] = i == dim / 32 && l->is_nan;
}

/* To scratch, or to the head's partials: each warp its dims of all vectors. */
template <typename B>
PTX_FN void store_exact(const decode_call &call, const banyan_strip *strip, int partial,
                        const exact_rows &rows)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, DIM = B::DIM;
    const int64_t words = fixed_words(DIM);
    float *const *const of_head = carried_at(call.carried, call.results.partial);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int vector = r * 8 + lane / 4;
        const uint32_t plus = quad_flags(rows.plus, r, lane);
        const uint32_t minus = quad_flags(rows.minus, r, lane);
        if (vector >= vectors_of(strip)) continue;
        int64_t *const to =
            partial >= 0
                ? (int64_t *)call.scratch + ((int64_t)partial * call.stride + vector) * words
                : (int64_t *)of_head[head_of(strip, vector)] + rows.row[r] * words;
        int64_t *const bins = to + fixed_bins_at(DIM) + 32 * warp + lane % 4 * 2;
#pragma unroll
        for (int b = 0; b < FIXED_BINS; b++)
#pragma unroll
            for (int f = 0; f < 4; f++)
                for (int e = 0; e < 2; e++)
                    bins[b * DIM + 8 * f + e] = rows.bin[b][f][2 * r + e];
        if (lane % 4) continue;
        uint32_t *const flags = (uint32_t *)(to + FIXED_HEAD);
        flags[warp] = plus;
        flags[2 * fixed_flags(DIM) + warp] = minus;
        if (warp == 0)
            store_head(to, DIM, rows.top[r], exact_notes_of_block<B>().length + vector);
    }
}

#endif
