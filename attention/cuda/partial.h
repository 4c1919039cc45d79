/* SPDX-License-Identifier: Apache-2.0 */
/* partial.h - rows of partials on the device, a warp each; as in partial.c, whose comment
 * derives the laws. For device code. */
#ifndef BANYAN_ATTENTION_CUDA_PARTIAL_H
#define BANYAN_ATTENTION_CUDA_PARTIAL_H

#include "attention/cuda/ptx.h"

enum { PARTIAL_THREADS = 128, PARTIAL_WARPS = PARTIAL_THREADS / 32 };

/* m and l of a partial. */
struct ends {
    float m, l;
};

PTX_FN ends ends_of(const float *partial, int dim)
{
    return {partial[dim], partial[dim + 1]};
}
PTX_FN bool is_empty(ends e)
{
    return e.m == -INFINITY && e.l == 0;
}
PTX_FN int64_t row_of_warp()
{
    return (int64_t)blockIdx.x * PARTIAL_WARPS + threadIdx.x / 32;
}

/* Thread blocks of so many rows. */
static inline unsigned partial_blocks(int64_t rows)
{
    return (unsigned)((rows + PARTIAL_WARPS - 1) / PARTIAL_WARPS);
}

#endif
