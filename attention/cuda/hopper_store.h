/* SPDX-License-Identifier: Apache-2.0 */
/* hopper_store.h - the end of a portion of the Hopper prefill: rows of out and lse, or of
 * partials. */
#ifndef BANYAN_ATTENTION_CUDA_HOPPER_STORE_H
#define BANYAN_ATTENTION_CUDA_HOPPER_STORE_H

#include "attention/cuda/hopper_softmax.h"

/* Two neighbouring numbers at element `at` (even) of an array of `dtype`. */
PTX_FN void store_pair(void *to, int64_t at, float a, float b, banyan_dtype dtype)
{
    if (dtype == BANYAN_F32)
        *(float2 *)((float *)to + at) = make_float2(a, b);
    else if (dtype == BANYAN_BF16)
        *(uint32_t *)((uint16_t *)to + at) = pack2(a, b, __nv_bfloat16());
    else
        *(uint32_t *)((uint16_t *)to + at) = pack2(a, b, __half());
}

/* o [DIM] of one row, in the thread's columns: times `times`. r: which of the thread's rows. */
template <int DIM>
PTX_FN void store_row(const float (&o)[DIM / 2], int r, float times, void *to, int64_t at,
                      banyan_dtype dtype)
{
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
        store_pair(to, at + 8 * j + 2 * (threadIdx.x % 4), o[4 * j + 2 * r] * times,
                   o[4 * j + 2 * r + 1] * times, dtype);
}

/* o, m and l as the products and `soften` left them; l of the thread's columns. index: the
 * subtile. */
template <typename T, int DIM>
PTX_FN void store_rows(const hopper_params &params, const cuda_work &work, int index,
                       const float (&o)[DIM / 2], const float (&m)[2], const float (&l)[2])
{
    const cuda_subtile &subtile = work.subtile[index];
    const int thread = threadIdx.x % 128, lane = threadIdx.x % 32;
    const float drop = 1.0f / (1 << hopper_lift<T>::LIFT), ln2 = 0.693147180559945309f;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = row_sum(l[r]) * drop;
        const float top = m[r] * params.factor * ln2; /* of scale q.k */
        const int vector = thread / 32 * 16 + lane / 4 + 8 * r;
        if (vector >= subtile.vectors) continue;
        int32_t row, head;
        hopper_vector(subtile, vector, &row, &head);
        float *partial = NULL;
        if (work.partial >= 0)
            partial =
                params.scratch +
                (((int64_t)work.partial * CUDA_SUBTILES + index) * CUDA_SUBTILE + vector) *
                    (DIM + 2);
        else if (params.results.partial[head])
            partial = params.results.partial[head] + (int64_t)row * (DIM + 2);
        const int64_t at = (int64_t)row * params.results.heads + head;
        if (partial) {
            store_row<DIM>(o, r, drop, partial, 0, BANYAN_F32);
            if (lane % 4 == 0) *(float2 *)(partial + DIM) = make_float2(top, sum);
        } else {
            store_row<DIM>(o, r, sum == 0 ? 0 : drop / sum, params.results.out, at * DIM,
                           params.results.out_dtype);
            if (lane % 4 == 0 && params.results.lse)
                params.results.lse[at] = sum == 0 ? -INFINITY : top + logf(sum);
        }
    }
}

#endif
