/* SPDX-License-Identifier: Apache-2.0 */
/* exact_tile.h - a record in shared memory as operands of attend_exact.cu: all 64 tokens as
 * keys, and 32 dims of their values. For device code. q lies in shared memory too, in 16 rows
 * (wide_at).
 *
 * e4m3 becomes fp16 on the way, its scales are treated as in decode_tile.h, and q is in the
 * order that its keys' bytes have (record.h). */
#ifndef BANYAN_ATTENTION_CUDA_EXACT_TILE_H
#define BANYAN_ATTENTION_CUDA_EXACT_TILE_H

#include "attention/cuda/decode_tile.h"
#include "attention/cuda/wide_tile.h"

enum { EXACT_PARTS = RECORD_TOKENS / 8 }; /* fragments of 16 x 8 scores */

template <typename T, int DIMS> struct exact16 {
    typedef T number;
    enum { DIM = DIMS, TILE = RECORD_TOKENS * DIM * 2, RECORD = 2 * TILE, IS_SCALED = 0 };

    static __device__ __forceinline__ int shift()
    {
        return (int)weight_shift(T());
    }
    /* The column, of those of an operand, that q's number d is in. */
    static __device__ __forceinline__ int column_of(int d)
    {
        return d;
    }
    /* s += q of dims d .. d + 15 times those of the keys. */
    static __device__ __forceinline__ void
    keys(float (&s)[EXACT_PARTS][4], const uint32_t (&q)[4], uint32_t record, int d, int lane)
    {
        const uint32_t token = lane % 8 + lane / 16 * 8, at = d + lane / 8 % 2 * 8;
#pragma unroll
        for (int t = 0; t < EXACT_PARTS; t += 2) {
            uint32_t b[4];
            ldmatrix4(b, record + record16_at(RECORD_TOKENS, DIM, 8 * t + token, at));
            mma(s[t], q, b[0], b[1], T());
            mma(s[t + 1], q, b[2], b[3], T());
        }
    }
    /* o += weights of the 16 tokens from `token` on times dims d .. d + 31 of their values. */
    static __device__ __forceinline__ void values(float (&o)[4][4], const uint32_t (&p)[4],
                                                  uint32_t record, int token, int d, int lane)
    {
        const uint32_t row = token + lane % 16, at = d + lane / 16 * 8;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t b[4];
            ldmatrix4_transposed(b, record + TILE +
                                        record16_at(RECORD_TOKENS, DIM, row, at + 16 * half));
            mma(o[2 * half], p, b[0], b[1], T());
            mma(o[2 * half + 1], p, b[2], b[3], T());
        }
    }
    /* Nothing to be scaled. */
    static __device__ __forceinline__ float scale_at(uint32_t, bool, int)
    {
        return 1;
    }
};

template <int DIMS> struct exact8 {
    typedef __half number;
    typedef wide8<DIMS, RECORD_TOKENS> tile;
    enum { DIM = DIMS, TILE = RECORD_TOKENS * DIM, RECORD = tile::BYTES, IS_SCALED = 1 };

    static __device__ __forceinline__ int shift()
    {
        return (int)tile::shift();
    }
    static __device__ __forceinline__ int column_of(int d)
    {
        return tile::column_of(d);
    }
    static __device__ __forceinline__ void
    keys(float (&s)[EXACT_PARTS][4], const uint32_t (&q)[4], uint32_t record, int d, int lane)
    {
#pragma unroll
        for (int t = 0; t < EXACT_PARTS; t += 4) {
            uint32_t b[4];
            ldmatrix4(b, record + record8_k_at(RECORD_TOKENS, DIM, 8 * t + lane, d));
#pragma unroll
            for (int i = 0; i < 4; i++) tile::product(s[t + i], q, b[i]);
        }
    }
    static __device__ __forceinline__ void values(float (&o)[4][4], const uint32_t (&p)[4],
                                                  uint32_t record, int token, int d, int lane)
    {
        uint32_t b[4];
        ldmatrix4(b, record + TILE + record8_v_at(RECORD_TOKENS, token, d + lane));
#pragma unroll
        for (int i = 0; i < 4; i++) tile::product(o[i], p, b[i]);
    }
    static __device__ __forceinline__ float scale_at(uint32_t record, bool of_values, int token)
    {
        return tile::scale_at(record, of_values, token);
    }
};

#endif
