/* SPDX-License-Identifier: Apache-2.0 */
/* result.h - where the result of a (query head, row) vector goes: to its head's partials, or,
 * where the head is all here, to out and lse. For device code. */
#ifndef BANYAN_ATTENTION_CUDA_RESULT_H
#define BANYAN_ATTENTION_CUDA_RESULT_H

#include "attention/attention.h"
#include "attention/cuda/ptx.h"

/* As in banyan_batch, but with the array of partials on the device as well. */
struct cuda_results {
    float *const *partial; /* [heads], each [rows][value_dim + 2] or NULL */
    void *out;
    float *lse;
    int32_t heads;
    banyan_dtype out_dtype;
};

/* Bit `index` (from 0) of the bits that are set. */
PTX_FN int nth_head(uint64_t heads, int index)
{
    for (; index > 0; index--) heads &= heads - 1;
    return __ffsll((long long)heads) - 1;
}

PTX_FN void store_number(void *to, int64_t at, float x, banyan_dtype dtype)
{
    if (dtype == BANYAN_F32)
        ((float *)to)[at] = x;
    else if (dtype == BANYAN_BF16)
        ((__nv_bfloat16 *)to)[at] = __float2bfloat16_rn(x);
    else
        ((__half *)to)[at] = __float2half_rn(x);
}
PTX_FN float load_number(const void *from, int64_t at, banyan_dtype dtype)
{
    if (dtype == BANYAN_F32) return ((const float *)from)[at];
    if (dtype == BANYAN_BF16) return __bfloat162float(((const __nv_bfloat16 *)from)[at]);
    return __half2float(((const __half *)from)[at]);
}

/* Number d of a vector, of sum(exp(s - m) v): `scale` is 1 / l, or 0 where nothing was seen. */
template <int DIM>
PTX_FN void result_number(const cuda_results &results, int head, int32_t row, int d, float o,
                          float scale)
{
    float *const partial = results.partial[head];
    if (partial)
        partial[(int64_t)row * (DIM + 2) + d] = o;
    else
        store_number(results.out, ((int64_t)row * results.heads + head) * DIM + d, o * scale,
                     results.out_dtype);
}
/* .. and what belongs to it: m and l, or lse = m + ln l (-inf where nothing was seen). */
template <int DIM>
PTX_FN void result_sums(const cuda_results &results, int head, int32_t row, float m, float l)
{
    float *const partial = results.partial[head];
    if (partial) {
        partial[(int64_t)row * (DIM + 2) + DIM] = m;
        partial[(int64_t)row * (DIM + 2) + DIM + 1] = l;
    } else if (results.lse) {
        results.lse[(int64_t)row * results.heads + head] = l == 0 ? -INFINITY : m + logf(l);
    }
}

#endif
