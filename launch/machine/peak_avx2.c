/* SPDX-License-Identifier: Apache-2.0 */
/* The rate of 256-bit fp32 multiply-adds: enough of them in flight to hide their latency on
 * every port, and nothing from memory. */
#include "launch/machine/machine.h"

#include <immintrin.h>

enum { sums = 14 };

static bool avx2_peak_usable(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static float avx2_peak_loop(int64_t rounds)
{
    __m256 sum[sums], factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.5f);
    for (int i = 0; i < sums; i++) sum[i] = _mm256_set1_ps((float)i);
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 14
        for (int i = 0; i < sums; i++) sum[i] = _mm256_fmadd_ps(sum[i], factor, term);
    for (int i = 1; i < sums; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    return _mm256_cvtss_f32(sum[0]);
}

const peak peak_avx2 = {.name = "fp32 multiply-add, AVX2",
                        .kernel = "avx2",
                        .flop_of_round = 2.0 * 8 * sums,
                        .usable = avx2_peak_usable,
                        .loop = avx2_peak_loop};
