/* SPDX-License-Identifier: Apache-2.0 */
/* The rate of 512-bit bf16 dot products (pairs of bf16, summed in fp32): 32 multiply-adds
 * each. */
#include "launch/machine/machine.h"

#include <immintrin.h>

enum { sums = 20 };

static bool avx512_bf16_peak_usable(void)
{
    return __builtin_cpu_supports("avx512bf16");
}

static float avx512_bf16_peak_loop(int64_t rounds)
{
    __m512 sum[sums], one = _mm512_set1_ps(1);
    __m512bh a = _mm512_cvtne2ps_pbh(one, one), b = a;
    for (int i = 0; i < sums; i++) sum[i] = _mm512_set1_ps((float)i);
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 20
        for (int i = 0; i < sums; i++) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
    for (int i = 1; i < sums; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}

const peak peak_avx512_bf16 = {.name = "bf16 dot product, AVX-512",
                               .kernel = "avx512",
                               .bf16 = true,
                               .flop_of_round = 2.0 * 32 * sums,
                               .usable = avx512_bf16_peak_usable,
                               .loop = avx512_bf16_peak_loop};
