/* SPDX-License-Identifier: Apache-2.0 */
/* hopper_softmax.h - what the Hopper prefill does between its two products: mask, exponentials,
 * weights.
 *
 * A thread has two rows, l / 4 and l / 4 + 8 of its warp, and of each 32 of a step's 128 scores
 * (wgmma.h). With c = scale log2(e), exp(scale (s - m)) is 2^(s c - m c): one multiplication
 * and addition.
 *
 * Weights lie in 0 .. 1. As fp16, those below 2^-24 would be lost, and in a row of a million
 * tokens they may be half of it; so all are 2^LIFT times as large, m c being less by LIFT, and
 * sums and outputs are divided by it in the end. bf16 has the exponents of fp32. */
#ifndef BANYAN_ATTENTION_CUDA_HOPPER_SOFTMAX_H
#define BANYAN_ATTENTION_CUDA_HOPPER_SOFTMAX_H

#include "attention/cuda/hopper.h"

template <typename T> struct hopper_lift;
template <> struct hopper_lift<__nv_bfloat16> {
    static const int LIFT = 0;
};
template <> struct hopper_lift<__half> {
    static const int LIFT = 15;
};

/* ---- masks ------------------------------------------------------------------------------- */

PTX_FN uint64_t bits_below(int64_t n)
{
    return n <= 0 ? 0 : n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
}

/* Bit i: the row at token `row` sees token i of a block, of HEIGHT tokens. masked: as in
 * banyan_span, 1 or
 * 2. */
template <int HEIGHT>
PTX_FN uint64_t seen_tokens(const hopper_params &params, const cuda_subtile &subtile,
                            int64_t row, int32_t block, int masked)
{
    const int64_t first = (int64_t)block * HEIGHT;
    const int64_t end = row + 1 < params.end_token ? row + 1 : params.end_token;
    const uint64_t range = bits_below(end - first) & ~bits_below(params.first_token - first);
    if (masked < 2) return range;
    return range & (bits_below(subtile.sink_end - first) |
                    ~bits_below(row + 1 - subtile.window - first));
}

/* A step's scores of its block number `place`. seen[r]: of row l / 4 + 8 r. */
template <int HEIGHT>
PTX_FN void mask_scores(float (&s)[64], int place, const uint64_t (&seen)[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint64_t mine = seen[r] >> 2 * (threadIdx.x % 4);
#pragma unroll
        for (int j = 0; j < HEIGHT / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (!(mine >> (8 * j + e) & 1))
                    s[HEIGHT / 2 * place + 4 * j + 2 * r + e] = -INFINITY;
    }
}

/* how: of this block, for this subtile; row: tokens of the thread's rows. */
template <int HEIGHT>
PTX_FN void mask_block(float (&s)[64], int place, const hopper_params &params,
                       const cuda_subtile &subtile, const int64_t (&row)[2], int32_t block,
                       int how)
{
    uint64_t seen[2] = {0, 0};
    if (!(how & (CUDA_MASK | CUDA_NOTHING))) return;
    if (!(how & CUDA_NOTHING))
#pragma unroll
        for (int r = 0; r < 2; r++)
            seen[r] = seen_tokens<HEIGHT>(params, subtile, row[r], block, how & CUDA_MASK);
    mask_scores<HEIGHT>(s, place, seen);
}

/* What a span's `how` says of subtile `index`. */
PTX_FN int subtile_sight(int how, int index)
{
    return (how >> index * CUDA_MASK_BITS & CUDA_MASK) | (how & CUDA_NOTHING);
}
template <int HEIGHT>
PTX_FN void mask_step(float (&s)[64], const hopper_params &params, const cuda_subtile &subtile,
                      int index, const int64_t (&row)[2], const hopper_step &step)
{
#pragma unroll
    for (int i = 0; i < CUDA_STEP(HEIGHT); i++)
        mask_block<HEIGHT>(s, i, params, subtile, row, step.block[i],
                           subtile_sight(step.how >> i * CUDA_HOW_BITS, index));
}

/* ---- exponentials ------------------------------------------------------------------------ */

/* The four threads of a row, each with a quarter of it. */
PTX_FN float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
PTX_FN float row_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

/* m c of a row, less the lift; of a row that has seen nothing, a number that keeps 2^(-inf -
 * it) at 0. */
template <typename T> PTX_FN float row_base(float m, float factor)
{
    return m == -INFINITY ? 0 : fmaf(m, factor, (float)-hopper_lift<T>::LIFT);
}

/* Scores become weights; m, l go along (l: of this thread's columns), and what was summed up
 * before is to be multiplied by decay. A score that is NaN makes its weight and l NaN, and no
 * other. */
template <typename T>
PTX_FN void soften(float (&s)[64], float (&m)[2], float (&l)[2], float (&decay)[2],
                   float factor)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = m[r], sum = 0;
#pragma unroll
        for (int j = 0; j < 16; j++)
            top = fmaxf(top, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
        top = row_max(top);
        const float base = row_base<T>(top, factor);
        decay[r] = m[r] == -INFINITY ? 0 : exp2_fast(row_base<T>(m[r], factor) - base);
        m[r] = top;
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &x = s[4 * j + 2 * r + e];
                x = exp2_fast(fmaf(x, factor, -base));
                sum += x;
            }
        l[r] = l[r] * decay[r] + sum;
    }
}

/* Weights as the left side of the second product: [k slice of 16 keys][4]. */
template <typename T> PTX_FN void pack_weights(uint32_t (&p)[8][4], const float (&s)[64])
{
#pragma unroll
    for (int i = 0; i < 32; i++) p[i / 4][i % 4] = pack2(s[2 * i], s[2 * i + 1], T());
}

#endif
