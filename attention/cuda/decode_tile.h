/* SPDX-License-Identifier: Apache-2.0 */
/* decode_tile.h - the 16 tokens of a block that one warp multiplies with: from a record in
 * shared memory to operands, for 16-bit numbers and for e4m3. For device code.
 *
 * e4m3 becomes fp16 on the way (record.h has the order of its bytes). The scale of a key goes
 * into its score. The scale of a value goes into its weight, which must not leave fp16's range,
 * however large or small values are: it is divided by `unit`, the largest power of two not
 * above any scale that the row has seen, and o is in that unit, as m is the unit of weights.
 * scale / unit < 2, so weights are 2^14 times as large (not 2^15) and stay below 2^15. What is
 * lost is relative to the largest weight times the largest value: 2^-11 of each product above
 * 2^-28, 2^-39 at most of those below. A bound that is relative to the largest |value|, as
 * every bound here is, does not notice. */
#ifndef BANYAN_ATTENTION_CUDA_DECODE_TILE_H
#define BANYAN_ATTENTION_CUDA_DECODE_TILE_H

#include "attention/cuda/ptx.h"
#include "attention/cuda/record.h"

PTX_FN float weight_shift(__nv_bfloat16)
{
    return 0;
}
PTX_FN float weight_shift(__half)
{
    return 15;
}
PTX_FN bool divides_q(__nv_bfloat16)
{
    return false;
}
PTX_FN bool divides_q(__half)
{
    return true;
}

/* HEIGHT: tokens of a record. */
template <typename T, int DIMS, int HEIGHT> struct decode16 {
    typedef T number;
    enum {
        DIM = DIMS,
        TOKENS = HEIGHT,
        TILE = TOKENS * DIM * 2,
        RECORD = 2 * TILE,
        ROW = RECORD16_ROW(DIM),
        IS_SCALED = 0,
        WARPS = TOKENS / 16,            /* that a record needs for each tile of vectors */
        SHARES = RECORD_TOKENS / TOKENS /* records that four warps read at a time */
    };

    static __device__ __forceinline__ float shift()
    {
        return weight_shift(T());
    }
    /* The dim of q's column 2 (lane % 4), or of that + 8 (half), in step k; the next column has
     * the next. */
    static __device__ __forceinline__ int dim_of(int k, int half, int lane)
    {
        return k * 16 + half * 8 + lane % 4 * 2;
    }
    static __device__ __forceinline__ void scores(float (&s)[2][4],
                                                  const uint32_t (&q)[DIM / 16][4],
                                                  uint32_t record, int first, int lane)
    {
        const uint32_t token = first + lane % 8 + lane / 16 * 8, d = lane / 8 % 2 * 8;
#pragma unroll
        for (int step = 0; step < DIM / 16; step++) {
            uint32_t b[4];
            ldmatrix4(b, record + record16_at(TOKENS, DIM, token, step * 16 + d));
            mma(s[0], q[step], b[0], b[1], T());
            mma(s[1], q[step], b[2], b[3], T());
        }
    }
    static __device__ __forceinline__ void
    values(float (&o)[DIM / 8][4], const uint32_t (&p)[4], uint32_t record, int first, int lane)
    {
        const uint32_t token = first + lane % 16, d = lane / 16 * 8;
#pragma unroll
        for (int step = 0; step < DIM / 16; step++) {
            uint32_t b[4];
            ldmatrix4_transposed(b, record + TILE +
                                        record16_at(TOKENS, DIM, token, step * 16 + d));
            mma(o[2 * step], p, b[0], b[1], T());
            mma(o[2 * step + 1], p, b[2], b[3], T());
        }
    }
    /* Calls copy(place, place) for each 16 bytes that `share` of `shares` threads bring of the
     * 16 tokens. */
    template <typename Copy>
    static __device__ __forceinline__ void share_of(int first, int share, int shares, Copy copy)
    {
#pragma unroll
        for (int panel = 0; panel < RECORD / (TOKENS * ROW); panel++) {
            const int begin = (panel * TOKENS + first) * ROW;
#pragma unroll
            for (int i = 0; i < ROW / shares; i++) copy(begin + (i * shares + share) * 16);
        }
    }
};

template <int DIMS, int HEIGHT> struct decode8 {
    typedef __half number;
    enum {
        DIM = DIMS,
        TOKENS = HEIGHT,
        TILE = TOKENS * DIM,
        RECORD = 2 * TILE + 2 * TOKENS * 4,
        ROW = RECORD8_ROW(DIM),
        IS_SCALED = 1,
        WARPS = TOKENS / 16,
        SHARES = RECORD_TOKENS / TOKENS
    };

    static __device__ __forceinline__ float shift()
    {
        return 14;
    }
    static __device__ __forceinline__ int dim_of(int k, int half, int lane)
    {
        return k * 16 + lane % 4 * 4 + half * 2;
    }
    static __device__ __forceinline__ void product(float (&c)[4], const uint32_t (&a)[4],
                                                   uint32_t bytes)
    {
        mma(c, a, half2_from_e4m3((uint16_t)bytes), half2_from_e4m3((uint16_t)(bytes >> 16)),
            __half());
    }
    static __device__ __forceinline__ void scores(float (&s)[2][4],
                                                  const uint32_t (&q)[DIM / 16][4],
                                                  uint32_t record, int first, int lane)
    {
        const uint32_t token = first + lane % 16, d = lane / 16 * 16;
        float odd[2][4] =
            {}; /* two chains half as long: a record of half the bytes leaves less time */
#pragma unroll
        for (int step = 0; step < DIM / 16; step += 2) {
            uint32_t b[4];
            ldmatrix4(b, record + record8_k_at(TOKENS, DIM, token, step * 16 + d));
            product(s[0], q[step], b[0]);
            product(s[1], q[step], b[1]);
            product(odd[0], q[step + 1], b[2]);
            product(odd[1], q[step + 1], b[3]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) s[i / 4][i % 4] += odd[i / 4][i % 4];
    }
    static __device__ __forceinline__ void
    values(float (&o)[DIM / 8][4], const uint32_t (&p)[4], uint32_t record, int first, int lane)
    {
#pragma unroll
        for (int d = 0; d < DIM; d += 32) {
            uint32_t b[4];
            ldmatrix4(b, record + TILE + record8_v_at(TOKENS, first, d + lane));
#pragma unroll
            for (int i = 0; i < 4; i++) product(o[d / 8 + i], p, b[i]);
        }
    }
    /* Of the four tokens of this thread's scores: 2 (lane % 4), the next, and both + 8. */
    static __device__ __forceinline__ void scales(float (&x)[4], uint32_t record,
                                                  bool of_values, int first, int lane)
    {
        const uint32_t at =
            record + record8_k_scales(TOKENS, DIM, DIM) + (of_values ? TOKENS * 4 : 0);
        for (int i = 0; i < 4; i++)
            x[i] = __uint_as_float(
                shared_load(at + (first + lane % 4 * 2 + i % 2 + i / 2 * 8) * 4));
    }
    template <typename Copy>
    static __device__ __forceinline__ void share_of(int first, int share, int shares, Copy copy)
    {
#pragma unroll
        for (int i = 0; i < (DIM + shares - 1) / shares; i++) {
            const int n = i * shares + share;
            if (n >= DIM) break;
            const int panel = ROW == DIM ? 0 : n / ROW;
            copy((panel * TOKENS + first) * ROW + (n - panel * ROW) * 16);
            copy(TILE + (int)record8_v_at(TOKENS, first, n));
        }
        if (share < 8) copy(2 * TILE + share / 4 * TOKENS * 4 + first * 4 + share % 4 * 16);
    }
};

#endif
