/* SPDX-License-Identifier: Apache-2.0 */
/* The rate of 512-bit fp32 multiply-adds: enough of them in flight to hide their latency on
 * every port, and nothing from memory. */
#include "launch/machine/machine.h"

#include <immintrin.h>

enum { sums = 20 };

static bool avx512_peak_usable(void)
{
    return __builtin_cpu_supports("avx512f");
}

static float avx512_peak_loop(int64_t rounds)
{
    __m512 sum[sums], factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.5f);
    for (int i = 0; i < sums; i++) sum[i] = _mm512_set1_ps((float)i);
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 20
        for (int i = 0; i < sums; i++) sum[i] = _mm512_fmadd_ps(sum[i], factor, term);
    for (int i = 1; i < sums; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    return _mm512_cvtss_f32(sum[0]);
}

const peak peak_avx512 = {.name = "fp32 multiply-add, AVX-512",
                          .kernel = "avx512",
                          .flop_of_round = 2.0 * 16 * sums,
                          .usable = avx512_peak_usable,
                          .loop = avx512_peak_loop};
