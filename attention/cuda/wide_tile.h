/* SPDX-License-Identifier: Apache-2.0 */
/* wide_tile.h - a step of attend_wide.cu in shared memory, some tokens of a record, and its
 * numbers as operands. For device code.
 *
 * A step has its panels one behind the other, as its record has, with as many rows as it has
 * tokens: since rows are swizzled by their number's low bits, a run of 8 rows or more of a
 * panel is copied as it is.
 *
 * e4m3 becomes fp16 on the way, its scales are treated as in decode_tile.h, and q is in the
 * order that its keys' bytes have (record.h). */
#ifndef BANYAN_ATTENTION_CUDA_WIDE_TILE_H
#define BANYAN_ATTENTION_CUDA_WIDE_TILE_H

#include "attention/cuda/ptx.h"
#include "attention/cuda/record.h"

/* Place of a 16-bit number in panels of `rows` rows of 64 numbers: of q and, by TOKENS, of a
 * step. */
PTX_FN uint32_t wide_at(uint32_t rows, uint32_t row, uint32_t d)
{
    return d / 64 * (rows * 128) + record_swizzle(row, d % 64 * 2);
}

/* IN_KEY: a value is the first numbers of its key. HEIGHT: tokens of a record. */
template <typename T, int KEYS, int VALUES, bool IN_KEY, int HEIGHT> struct wide16 {
    typedef T number;
    enum {
        KEY = KEYS,
        TOKENS = HEIGHT,
        VALUE = VALUES,
        STEP = 32,
        IS_SCALED = 0,
        PANEL = STEP * 128,
        K_TILE = KEY / 64 * PANEL,
        V_TILE = IN_KEY ? 0 : K_TILE,                       /* where it begins */
        BYTES = K_TILE + (IN_KEY ? 0 : VALUE / 64 * PANEL), /* of a step */
        RECORD = BYTES / STEP * TOKENS,
        /* Weights take the place of keys, which have been used by then, and are no values. */
        WEIGHTS = IN_KEY ? VALUE / 64 * PANEL : 0
    };

    static __device__ __forceinline__ float shift()
    {
        return sizeof(T) && is_narrow(T()) ? 15 : 0;
    }
    static __device__ __forceinline__ bool is_narrow(__half)
    {
        return true;
    }
    static __device__ __forceinline__ bool is_narrow(__nv_bfloat16)
    {
        return false;
    }
    /* Byte of the record that is byte `at` of its step number `step`. */
    static __device__ __forceinline__ int record_at(int step, int at)
    {
        return at / PANEL * (TOKENS * RECORD_ROW) + step * PANEL + at % PANEL;
    }
    /* The column, of those of an operand, that q's number d is in. */
    static __device__ __forceinline__ int column_of(int d)
    {
        return d;
    }
    /* s, odd: two fragments of 8 tokens each, from `token` on; += q of dims d .. d + 31, in two
     * steps. */
    static __device__ __forceinline__ void keys(float (*s)[4], float (*odd)[4],
                                                const uint32_t (&q)[2][4], uint32_t stage,
                                                int token, int d, int lane)
    {
        const uint32_t row = token + lane % 8 + lane / 16 * 8, begin = d + lane / 8 % 2 * 8;
        uint32_t b[4], c[4];
        ldmatrix4(b, stage + wide_at(STEP, row, begin));
        ldmatrix4(c, stage + wide_at(STEP, row, begin + 16));
        mma(s[0], q[0], b[0], b[1], T());
        mma(s[1], q[0], b[2], b[3], T());
        mma(odd[0], q[1], c[0], c[1], T());
        mma(odd[1], q[1], c[2], c[3], T());
    }
    /* Of one fragment. */
    static __device__ __forceinline__ void keys_of_8(float (&s)[4], float (&odd)[4],
                                                     const uint32_t (&q)[2][4], uint32_t stage,
                                                     int token, int d, int lane)
    {
        uint32_t b[4];
        ldmatrix4(b, stage + wide_at(STEP, token + lane % 8, d + lane / 8 * 8));
        mma(s, q[0], b[0], b[1], T());
        mma(odd, q[1], b[2], b[3], T());
    }
    /* o [TILES] += weights of 16 tokens x 32 dims of their values, from d on. */
    template <int TILES, int DIMS>
    static __device__ __forceinline__ void values(float (&o)[TILES][DIMS / 8][4], int n,
                                                  const uint32_t (&p)[TILES][4], uint32_t stage,
                                                  int token, int d, int lane)
    {
        const uint32_t row = token + lane % 16, begin = d + lane / 16 * 8;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t b[4];
            ldmatrix4_transposed(b, stage + V_TILE + wide_at(STEP, row, begin + half * 16));
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                mma(o[t][n + 2 * half], p[t], b[0], b[1], T());
                mma(o[t][n + 2 * half + 1], p[t], b[2], b[3], T());
            }
        }
    }
    /* Nothing to be scaled. */
    static __device__ __forceinline__ float scale_at(uint32_t, bool, int)
    {
        return 1;
    }
};

template <int DIM, int HEIGHT> struct wide8 {
    typedef __half number;
    enum {
        KEY = DIM,
        TOKENS = HEIGHT,
        VALUE = DIM,
        STEP = TOKENS,
        IS_SCALED = 1,
        K_TILE = TOKENS * DIM,
        BYTES = 2 * K_TILE + 2 * TOKENS * 4,
        RECORD = BYTES,
        WEIGHTS = 0
    };

    static __device__ __forceinline__ float shift()
    {
        return 14;
    }
    static __device__ __forceinline__ int record_at(int, int at)
    {
        return at;
    }
    static __device__ __forceinline__ int column_of(int d)
    {
        return (d & ~15) + (d & 12) / 2 + (d & 2) * 4 + (d & 1);
    }
    static __device__ __forceinline__ void product(float (&c)[4], const uint32_t (&a)[4],
                                                   uint32_t bytes)
    {
        mma(c, a, half2_from_e4m3((uint16_t)bytes), half2_from_e4m3((uint16_t)(bytes >> 16)),
            __half());
    }
    static __device__ __forceinline__ void keys(float (*s)[4], float (*odd)[4],
                                                const uint32_t (&q)[2][4], uint32_t stage,
                                                int token, int d, int lane)
    {
        uint32_t b[4];
        ldmatrix4(b, stage + record8_k_at(TOKENS, DIM, token + lane % 16,
                                          (uint32_t)(d + lane / 16 * 16)));
        product(s[0], q[0], b[0]);
        product(s[1], q[0], b[1]);
        product(odd[0], q[1], b[2]);
        product(odd[1], q[1], b[3]);
    }
    /* The same 8 rows twice: a product takes half of what ldmatrix brings. */
    static __device__ __forceinline__ void keys_of_8(float (&s)[4], float (&odd)[4],
                                                     const uint32_t (&q)[2][4], uint32_t stage,
                                                     int token, int d, int lane)
    {
        uint32_t b[4];
        ldmatrix4(b, stage + record8_k_at(TOKENS, DIM, token + lane % 8,
                                          (uint32_t)(d + lane / 16 * 16)));
        product(s, q[0], b[0]);
        product(odd, q[1], b[2]);
    }
    template <int TILES, int DIMS>
    static __device__ __forceinline__ void values(float (&o)[TILES][DIMS / 8][4], int n,
                                                  const uint32_t (&p)[TILES][4], uint32_t stage,
                                                  int token, int d, int lane)
    {
        uint32_t b[4];
        ldmatrix4(b, stage + K_TILE + record8_v_at(TOKENS, token, d + lane));
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int t = 0; t < TILES; t++) product(o[t][n + i], p[t], b[i]);
    }
    static __device__ __forceinline__ float scale_at(uint32_t stage, bool of_values, int token)
    {
        const uint32_t scales = stage + (of_values ? record8_v_scales(TOKENS, DIM, DIM)
                                                   : record8_k_scales(TOKENS, DIM, DIM));
        return __uint_as_float(shared_load(scales + 4 * token));
    }
};

#endif
