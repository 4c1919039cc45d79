/* SPDX-License-Identifier: Apache-2.0 */
/* wide_q.h - q of a strip in shared memory: for attend_wide.cu and attend_exact.cu, whose warps
 * all multiply with all of it. For device code. */
#ifndef BANYAN_ATTENTION_CUDA_WIDE_Q_H
#define BANYAN_ATTENTION_CUDA_WIDE_Q_H

#include "attention/cuda/decode.h"
#include "attention/cuda/decode_rows.h"
#include "attention/cuda/wide_tile.h"

/* To the beginning of shared memory, as wide_at has it, a warp for each vector; of those that
 * are not there, zeros. factors [ROWS]: of scores, scale log2(e) and what q was divided by. */
template <typename B, int DIM, int ROWS, int WARPS>
PTX_FN void put_wide_q(const decode_call &call, const banyan_strip *strip, float *factors)
{
    typedef typename B::number T;
    const int lane = (int)threadIdx.x % 32, EACH = (DIM + 63) / 64;
    const uint32_t q = shared_address(dynamic_shared());
    for (int vector = (int)threadIdx.x / 32; vector < ROWS; vector += WARPS) {
        const bool is_there = vector < vectors_of(strip);
        const int head = is_there ? head_of(strip, vector) : 0;
        const int64_t row = is_there ? row_of(strip, vector) : 0;
        const int64_t at = (row * call.heads + head) * DIM;
        float x[EACH][2], most = 0, largest = 1, factor = 1;
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int d = i * 64 + lane * 2 + e;
                x[i][e] = is_there && d < DIM ? load_number(call.q, at + d, call.in_dtype) : 0;
                most = fmaxf(most, fabsf(x[i][e]));
            }
        if (divides_q(T())) {
            for (int other = 16; other > 0; other /= 2)
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
            largest = power_below(most);
            factor = power_inverse(largest);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int d = i * 64 + lane * 2;
            if (d < DIM)
                shared_store(q + wide_at(ROWS, vector, B::column_of(d)),
                             pack2(x[i][0] * factor, x[i][1] * factor, T()));
        }
        if (lane == 0) factors[vector] = call.scale * largest;
    }
}

#endif
