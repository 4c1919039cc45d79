/* SPDX-License-Identifier: Apache-2.0 */
/* portable_tile.h - one warp, 16 query vectors and one record of KEYS = 64 keys, or 32, by
 * mma.sync: for prefill_portable.cu. The fragments' layouts are those of ptx.h.
 *
 *     scores  [16 vectors][KEYS]  fragments of 16 x 8: s[t][e], key 8 t + 2 (lane % 4) + e % 2,
 *     out     [16 vectors][DIM]   likewise;  vector lane / 4 + 8 (e / 2)
 *
 * The scores of two neighbouring fragments are, rounded, one `a` fragment of the second
 * product. */
#ifndef BANYAN_ATTENTION_CUDA_PORTABLE_TILE_H
#define BANYAN_ATTENTION_CUDA_PORTABLE_TILE_H

#include "attention/cuda/ptx.h"
#include "attention/cuda/record.h"

/* A block of 16-bit numbers in shared memory. */
template <typename T, int DIM, int HEIGHT> struct block16 {
    typedef T number;
    enum { KEYS = HEIGHT, PARTS = KEYS / 8, BYTES = 2 * KEYS * DIM * 2 };

    /* Of q's 16 columns in fragment k, the dim of column 2 (lane % 4) (+ 8 for `upper`), and
     * the next. */
    static __device__ __forceinline__ int column(int k, int lane, int upper)
    {
        return 16 * k + 8 * upper + 2 * (lane & 3);
    }
    static __device__ __forceinline__ void
    scores(float (&s)[PARTS][4], const uint32_t (&q)[DIM / 16][4], uint32_t k_tile, int lane)
    {
#pragma unroll
        for (int t = 0; t < PARTS; t += 2) {
            const uint32_t token = (uint32_t)(8 * t + (lane & 7) + (lane >> 4 << 3));
#pragma unroll
            for (int k = 0; k < DIM / 16; k++) {
                uint32_t b[4];
                ldmatrix4(
                    b, k_tile + record16_at(KEYS, DIM, token, (uint32_t)(16 * k + (lane & 8))));
                mma(s[t], q[k], b[0], b[1], T());
                mma(s[t + 1], q[k], b[2], b[3], T());
            }
        }
    }
    /* Nothing to be scaled. */
    static __device__ __forceinline__ void scale_keys(float (&)[PARTS][4], uint32_t, int)
    {
    }
    static __device__ __forceinline__ float largest_scale(uint32_t, int)
    {
        return 1;
    }
    static __device__ __forceinline__ void scale_values(float (&)[PARTS][4], float, uint32_t,
                                                        int)
    {
    }
    static __device__ __forceinline__ void
    values(float (&o)[DIM / 8][4], const uint32_t (&p)[KEYS / 16][4], uint32_t block, int lane)
    {
        const uint32_t v_tile = block + record16_tile_bytes(KEYS, DIM);
#pragma unroll
        for (int d = 0; d < DIM / 8; d += 2)
#pragma unroll
            for (int k = 0; k < KEYS / 16; k++) {
                uint32_t b[4];
                ldmatrix4_transposed(
                    b, v_tile + record16_at(KEYS, DIM, (uint32_t)(16 * k + (lane & 15)),
                                            (uint32_t)(8 * d + (lane >> 4 << 3))));
                mma(o[d], p[k], b[0], b[1], T());
                mma(o[d + 1], p[k], b[2], b[3], T());
            }
    }
};

/* A block of e4m3: its bytes become fp16 on the way to a fragment; see record.h for their
 * order. */
template <int DIM, int HEIGHT> struct block8 {
    typedef __half number;
    enum { KEYS = HEIGHT, PARTS = KEYS / 8, BYTES = 2 * KEYS * DIM + 2 * KEYS * 4 };

    static __device__ __forceinline__ int column(int k, int lane, int upper)
    {
        return 16 * k + 4 * (lane & 3) + 2 * upper;
    }
    static __device__ __forceinline__ void
    scores(float (&s)[PARTS][4], const uint32_t (&q)[DIM / 16][4], uint32_t k_tile, int lane)
    {
#pragma unroll
        for (int t = 0; t < PARTS; t += 4)
#pragma unroll
            for (int k = 0; k < DIM / 16; k++) {
                uint32_t b[4];
                ldmatrix4(b, k_tile + record8_k_at(KEYS, DIM, (uint32_t)(8 * t + lane),
                                                   (uint32_t)(16 * k)));
#pragma unroll
                for (int i = 0; i < 4; i++)
                    mma(s[t + i], q[k], half2_from_e4m3((uint16_t)b[i]),
                        half2_from_e4m3((uint16_t)(b[i] >> 16)), __half());
            }
    }
    static __device__ __forceinline__ float scale_at(uint32_t scales, int token)
    {
        return __uint_as_float(shared_load(scales + 4 * (uint32_t)token));
    }
    static __device__ __forceinline__ void scale_keys(float (&s)[PARTS][4], uint32_t block,
                                                      int lane)
    {
        const uint32_t scales = block + record8_k_scales(KEYS, DIM, DIM);
#pragma unroll
        for (int t = 0; t < PARTS; t++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[t][e] *= scale_at(scales, 8 * t + 2 * (lane & 3) + (e & 1));
    }
    /* Of the block's values: the same in all lanes. */
    static __device__ __forceinline__ float largest_scale(uint32_t block, int lane)
    {
        const uint32_t scales = block + record8_v_scales(KEYS, DIM, DIM);
        float most = scale_at(scales, lane);
        if (KEYS > 32) most = fmaxf(most, scale_at(scales, lane + 32));
        for (int other = 16; other > 0; other /= 2)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
        return most;
    }
    static __device__ __forceinline__ void scale_values(float (&p)[PARTS][4], float inverse,
                                                        uint32_t block, int lane)
    {
        const uint32_t scales = block + record8_v_scales(KEYS, DIM, DIM);
#pragma unroll
        for (int t = 0; t < PARTS; t++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                p[t][e] *= scale_at(scales, 8 * t + 2 * (lane & 3) + (e & 1)) * inverse;
    }
    static __device__ __forceinline__ void
    values(float (&o)[DIM / 8][4], const uint32_t (&p)[KEYS / 16][4], uint32_t block, int lane)
    {
        const uint32_t v_tile = block + record8_v_tile(KEYS, DIM);
#pragma unroll
        for (int d = 0; d < DIM / 8; d += 4)
#pragma unroll
            for (int k = 0; k < KEYS / 16; k++) {
                uint32_t b[4];
                ldmatrix4(b, v_tile + record8_v_at(KEYS, (uint32_t)(16 * k),
                                                   (uint32_t)(8 * d + lane)));
#pragma unroll
                for (int i = 0; i < 4; i++)
                    mma(o[d + i], p[k], half2_from_e4m3((uint16_t)b[i]),
                        half2_from_e4m3((uint16_t)(b[i] >> 16)), __half());
            }
    }
};

#endif
