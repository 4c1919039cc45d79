/* SPDX-License-Identifier: Apache-2.0 */
/* wide_rows.h - what the warps of attend_wide.cu do with a step of a list. For device code. */
#ifndef BANYAN_ATTENTION_CUDA_WIDE_ROWS_H
#define BANYAN_ATTENTION_CUDA_WIDE_ROWS_H

#include "attention/cuda/decode.h"
#include "attention/cuda/decode_rows.h"
#include "attention/cuda/wide_q.h"

enum { MOST_STAGES = 4 };

/* Who does what, and where it lies: q, notes for each vector, and as many steps on their way as
 * the GPU has room for. */
template <typename B, int TILES> struct wide_plan {
    enum {
        WARPS = TILES == 1 ? 4 : 8,
        THREADS = 32 * WARPS,
        ROWS = 16 * TILES,
        GROUPS = WARPS / TILES,  /* of warps that share the tokens of a step */
        SUMS = 4 / GROUPS,       /* of weights, for each row of a warp */
        EACH = B::STEP / GROUPS, /* tokens of a warp */
        DIMS = B::VALUE / WARPS, /* of values, of a warp */
        Q = ROWS * B::KEY * 2,
        NOTES = (2 * GROUPS + 1) * ROWS * 4,
        NOTES_AT = Q,
        STAGES_AT = (NOTES_AT + NOTES + 127) / 128 * 128,
        LEAST = STAGES_AT + 2 * B::BYTES /* bytes */
    };
    static_assert(LEAST <= (B::KEY > 256 ? 163 : 99) << 10,
                  "8.0 and 9.0 have room, and for dim 256 every GPU from 8.0 on");
    /* Of a GPU whose thread blocks have so many bytes, at least LEAST. */
    static int stages_in(int room)
    {
        const int fit = (room - STAGES_AT) / (int)B::BYTES;
        return fit < MOST_STAGES ? fit : MOST_STAGES;
    }
    static_assert(EACH % 8 == 0 && DIMS % 32 == 0 && B::KEY % 64 == 0, "whole operands");
    static_assert(ROWS * B::STEP * 2 <= B::K_TILE - B::WEIGHTS, "weights where keys were");
};

/* [GROUPS][ROWS] each; the last one [ROWS]. In the end sums of weights, [4][ROWS], are where
 * the first are. */
template <typename B, int TILES> struct wide_notes {
    float *most;   /* the largest score that a group found */
    float *scale;  /* .. and the largest scale of a value that the vector sees */
    float *factor; /* of scores: scale log2(e), and what q was divided by */
};
template <typename B, int TILES> PTX_FN wide_notes<B, TILES> notes_of_block()
{
    typedef wide_plan<B, TILES> P;
    float *const notes = (float *)(dynamic_shared() + P::NOTES_AT);
    return {notes, notes + P::GROUPS * P::ROWS, notes + 2 * P::GROUPS * P::ROWS};
}

/* What a thread knows: of rows lane / 4 + 8 r of each tile, and of those of the tile whose
 * scores its warp has. */
template <typename B, int TILES> struct wide_rows {
    float o[TILES][wide_plan<B, TILES>::DIMS / 8][4];
    float m[TILES][2], unit[TILES][2]; /* unit: of o, where values have scales */
    /* Sums of weights, of the warp's tile and tokens. */
    float l[wide_plan<B, TILES>::SUMS][2];
    int32_t row[2]; /* of the batch, likewise */
};

PTX_FN int wide_warp()
{
    return (int)threadIdx.x / 32;
}
/* The row of thread `lane` in its warp's tile. */
template <int TILES> PTX_FN int own_row(int r, int lane)
{
    return wide_warp() % TILES * 16 + r * 8 + lane / 4;
}

template <typename B, int TILES>
PTX_FN void begin_wide(const banyan_strip *strip, wide_rows<B, TILES> &rows)
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            rows.m[t][r] = -INFINITY;
            rows.unit[t][r] = power_below(0);
        }
#pragma unroll
        for (int n = 0; n < wide_plan<B, TILES>::DIMS / 8; n++)
            for (int i = 0; i < 4; i++) rows.o[t][n][i] = 0;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int vector = own_row<TILES>(r, lane);
        for (int i = 0; i < wide_plan<B, TILES>::SUMS; i++) rows.l[i][r] = 0;
        rows.row[r] = vector < vectors_of(strip) ? row_of(strip, vector) : strip->first_row;
    }
}

/* All threads bring step number `step` of a record. */
template <typename B, int TILES>
PTX_FN void bring_step(uint32_t stage, const unsigned char *record, int step)
{
    const int THREADS = wide_plan<B, TILES>::THREADS;
    for (int at = 16 * (int)threadIdx.x; at < B::BYTES; at += 16 * THREADS)
        async_copy16(stage + (uint32_t)at, record + B::record_at(step, at));
}

/* ---- a step ------------------------------------------------------------------------------ */

/* Scores of the warp's tile with its tokens, `first` .. of the step: fragments of 16 x 8. */
template <typename B, int TILES>
PTX_FN void score_step(float (&s)[wide_plan<B, TILES>::EACH / 8][4], uint32_t stage, int first,
                       int lane)
{
    typedef wide_plan<B, TILES> P;
    const uint32_t q = shared_address(dynamic_shared());
    const uint32_t row = wide_warp() % TILES * 16 + lane % 16, column = lane / 16 * 8;
    float odd[P::EACH / 8][4] = {}; /* two chains of products, each half as long */
#pragma unroll 4                    /* not more: registers */
    for (int d = 0; d < B::KEY; d += 32) {
        uint32_t a[2][4];
        ldmatrix4(a[0], q + wide_at(P::ROWS, row, d + column));
        ldmatrix4(a[1], q + wide_at(P::ROWS, row, d + 16 + column));
        if constexpr (P::EACH == 8)
            B::keys_of_8(s[0], odd[0], a, stage, first, d, lane);
        else
#pragma unroll
            for (int n = 0; n < P::EACH / 8; n += 2)
                B::keys(s + n, odd + n, a, stage, first + 8 * n, d, lane);
    }
#pragma unroll
    for (int n = 0; n < P::EACH / 8; n++)
        for (int i = 0; i < 4; i++) s[n][i] += odd[n][i];
}

/* Scores in base 2, -inf where a row does not see the token; and what the warp found, to the
 * notes. token: of the block, of the thread's first score. */
template <typename B, int TILES>
PTX_FN void note_scores(const decode_call &call, const banyan_strip *strip,
                        const decode_entry &entry, const wide_rows<B, TILES> &rows,
                        float (&s)[wide_plan<B, TILES>::EACH / 8][4], uint32_t stage, int token,
                        int lane)
{
    typedef wide_plan<B, TILES> P;
    const wide_notes<B, TILES> notes = notes_of_block<B, TILES>();
    const int place = wide_warp() / TILES * P::ROWS;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int vector = own_row<TILES>(r, lane);
        const float factor = notes.factor[vector];
        float most = -INFINITY, scale = 0;
        decode_sight sight = {};
        if (entry.masked) sight = sight_of<B::TOKENS>(call, strip, entry, rows.row[r]);
#pragma unroll
        for (int n = 0; n < P::EACH / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &x = s[n][2 * r + e];
                const int at = token + 8 * n + e;
                x *= factor;
                if (B::IS_SCALED) x *= B::scale_at(stage, false, at);
                if (entry.masked && !sees(sight, at)) x = -INFINITY;
                most = fmaxf(most, x);
                if (B::IS_SCALED && x != -INFINITY)
                    scale = fmaxf(scale, B::scale_at(stage, true, at));
            }
        most = quad_max(most);
        if (B::IS_SCALED) scale = quad_max(scale);
        if (lane % 4) continue;
        notes.most[place + vector] = most;
        if (B::IS_SCALED) notes.scale[place + vector] = scale;
    }
}

/* What becomes of a row of the warp's own tile: weight 2^(score - base), relative to a unit. */
struct wide_base {
    float base[2], inverse[2];
};
/* All rows follow the largest of the notes, and their sums with them. */
template <typename B, int TILES>
PTX_FN wide_base follow_notes(wide_rows<B, TILES> &rows, int lane)
{
    typedef wide_plan<B, TILES> P;
    const wide_notes<B, TILES> notes = notes_of_block<B, TILES>();
    wide_base own = {};
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int vector = t * 16 + r * 8 + lane / 4;
            float most = rows.m[t][r], scale = 0, inverse = 1;
#pragma unroll
            for (int g = 0; g < P::GROUPS; g++) {
                most = fmaxf(most, notes.most[g * P::ROWS + vector]);
                if (B::IS_SCALED) scale = fmaxf(scale, notes.scale[g * P::ROWS + vector]);
            }
            /* nothing seen: 2^(-inf - 0) = 0, where -inf - -inf is NaN */
            const float base = most == -INFINITY ? 0 : most;
            shrink[r] = exp2_fast(rows.m[t][r] - base);
            rows.m[t][r] = most;
            for (int i = 0; i < P::SUMS && t == wide_warp() % TILES; i++)
                rows.l[i][r] *= shrink[r];
            if (B::IS_SCALED) {
                const float larger = fmaxf(rows.unit[t][r], power_below(scale));
                inverse = power_inverse(larger);
                shrink[r] *= rows.unit[t][r] * inverse;
                rows.unit[t][r] = larger;
            }
            if (t != wide_warp() % TILES) continue;
            own.base[r] = base;
            own.inverse[r] = inverse;
        }
        shrink_values<P::DIMS>(rows.o[t], shrink);
    }
    return own;
}

/* Place of a weight: rows of 128 bytes, or of 64 where a step has 32 tokens. */
template <typename B> PTX_FN uint32_t wide_weight_at(uint32_t row, uint32_t token)
{
    return B::WEIGHTS +
           (B::STEP == 64 ? record_swizzle(row, token * 2) : record_swizzle64(row, token * 2));
}

/* Scores become weights, in the step's memory. first: the warp's first token in it. */
template <typename B, int TILES>
PTX_FN void put_weights(const wide_base &own, float (&s)[wide_plan<B, TILES>::EACH / 8][4],
                        wide_rows<B, TILES> &rows, uint32_t stage, int first, int lane)
{
    typedef wide_plan<B, TILES> P;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float shift = B::shift() - own.base[r];
        float sum[P::SUMS] = {};
#pragma unroll
        for (int n = 0; n < P::EACH / 8; n++) {
            const int token = first + 8 * n + lane % 4 * 2;
            float p[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                p[e] = exp2_fast(s[n][2 * r + e] + shift);
                sum[n / (P::EACH / 8 / P::SUMS)] += p[e];
                /* a token that weighs nothing has no say, whatever its scale is */
                if (B::IS_SCALED && p[e] != 0)
                    p[e] *= B::scale_at(stage, true, token + e) * own.inverse[r];
            }
            shared_store(stage + wide_weight_at<B>(own_row<TILES>(r, lane), token),
                         pack2(p[0], p[1], typename B::number()));
        }
        for (int i = 0; i < P::SUMS; i++) rows.l[i][r] += sum[i];
    }
}

template <typename B, int TILES>
PTX_FN void add_wide_values(wide_rows<B, TILES> &rows, uint32_t stage, int lane)
{
    typedef wide_plan<B, TILES> P;
#pragma unroll
    for (int k = 0; k < B::STEP; k += 16) {
        uint32_t p[TILES][4];
#pragma unroll
        for (int t = 0; t < TILES; t++)
            ldmatrix4(p[t], stage + wide_weight_at<B>(16 * t + lane % 16, k + lane / 16 * 8));
#pragma unroll
        for (int d = 0; d < P::DIMS; d += 32)
            B::template values<TILES, P::DIMS>(rows.o, d / 8, p, stage, k,
                                               wide_warp() * P::DIMS + d, lane);
    }
}

/* Tokens `begin` .. of the block, which lie in `stage`. */
template <typename B, int TILES>
PTX_FN void read_step(const decode_call &call, const banyan_strip *strip,
                      const decode_entry &entry, wide_rows<B, TILES> &rows, uint32_t stage,
                      int begin)
{
    typedef wide_plan<B, TILES> P;
    const int lane = (int)threadIdx.x % 32, first = wide_warp() / TILES * P::EACH;
    float s[P::EACH / 8][4] = {};
    score_step<B, TILES>(s, stage, first, lane);
    note_scores<B, TILES>(call, strip, entry, rows, s, stage, begin + first + lane % 4 * 2,
                          lane);
    __syncthreads(); /* notes are there, and keys have been used */
    const wide_base own = follow_notes(rows, lane);
    put_weights<B, TILES>(own, s, rows, stage, first, lane);
    __syncthreads();
    add_wide_values(rows, stage, lane);
}

#endif
