/* SPDX-License-Identifier: Apache-2.0 */
/* vec_avx2.h - the vector vocabulary of the kernel bodies, in AVX2 with FMA and F16C. The words
 * are explained in vec_avx512.h. */
#ifndef BANYAN_VEC_AVX2_H
#define BANYAN_VEC_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

/* 12 of 16 registers are accumulators: 2 loads and 6 broadcasts feed 12 multiply-adds. Of a
 * level 1 cache of 32 KiB a panel of keys takes 8, and the q of 4 bundles 12 (128 dims). */
enum { VEC_LANES = 8, VEC_GROUP = 2, VEC_ROWS = 6, VEC_BUNDLES = 4, VEC_PANEL = 16 };
#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef __m256 vec;
typedef __m256i pairs;

/* Ask for a line: into the level 1 cache, or as far as level 2. */
VEC_INLINE void vec_prefetch_near(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}
VEC_INLINE void vec_prefetch_far(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}
VEC_INLINE vec vec_set(float x)
{
    return _mm256_set1_ps(x);
}
VEC_INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
VEC_INLINE void vec_store(float *p, vec x)
{
    _mm256_storeu_ps(p, x);
}
VEC_INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
VEC_INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}
VEC_INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}
VEC_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}
VEC_INLINE vec vec_max(vec x, vec acc)
{
    return _mm256_max_ps(x, acc);
}
VEC_INLINE float vec_highest(vec x)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
VEC_INLINE float vec_total(vec x)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
VEC_INLINE int vec_any_above(vec a, vec b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
VEC_INLINE int vec_any_beyond(vec x, float limit)
{
    __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    return _mm256_movemask_ps(_mm256_cmp_ps(size, _mm256_set1_ps(limit), _CMP_NLT_UQ)) != 0;
}
VEC_INLINE vec vec_keep(vec x, uint32_t bits)
{
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)bits), lane);
    __m256 kept = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane));
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, kept);
}
VEC_INLINE vec vec_and(vec x, uint32_t word)
{
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32((int)word)));
}
/* Doubles of 2^52 and more have their last bit at 1. */
VEC_INLINE void vec_add_units(int64_t *sum, const float *x, double factor)
{
    const __m256d large = _mm256_set1_pd(0x1.8p52), by = _mm256_set1_pd(factor);
    __m256d lo = _mm256_cvtps_pd(_mm_loadu_ps(x));
    __m256d hi = _mm256_cvtps_pd(_mm_loadu_ps(x + 4));
    __m256i a = _mm256_castpd_si256(_mm256_add_pd(_mm256_mul_pd(lo, by), large));
    __m256i b = _mm256_castpd_si256(_mm256_add_pd(_mm256_mul_pd(hi, by), large));
    const __m256i zero = _mm256_castpd_si256(large);
    __m256i *to = (__m256i *)sum;
    a = _mm256_add_epi64(_mm256_loadu_si256(to), _mm256_sub_epi64(a, zero));
    b = _mm256_add_epi64(_mm256_loadu_si256(to + 1), _mm256_sub_epi64(b, zero));
    _mm256_storeu_si256(to, a);
    _mm256_storeu_si256(to + 1, b);
}

/* Below 2^-151 everything rounds to 0, so that clamping there changes no result; the clamp also
 * turns -inf into a number, and lets NaN through. Adding 1.5 x 2^23 rounds to the nearest
 * integer, ties to even, and leaves it in the last bits of the sum: one shift makes of them the
 * exponent of 2^(n + 63). What is returned is that sum, for vec_power alone. */
VEC_INLINE vec vec_split(vec x, vec *rest)
{
    const vec round = _mm256_set1_ps(0x1.8p23f + 127 + 63);
    x = _mm256_max_ps(_mm256_set1_ps(-160), x);
    vec n = _mm256_add_ps(x, round);
    *rest = _mm256_sub_ps(x, _mm256_sub_ps(n, round));
    return n;
}
/* 2^n in two factors, each a normal number: only the second product can round. */
VEC_INLINE vec vec_power(vec p, vec n)
{
    vec raised = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(n), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, raised), _mm256_set1_ps(0x1p-63f));
}

VEC_INLINE vec vec_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
VEC_INLINE void vec_to_f16(uint16_t *p, vec x)
{
    _mm_storeu_si128((__m128i *)p,
                     _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC_INLINE vec vec_from_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

VEC_INLINE pairs pairs_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
VEC_INLINE void pairs_store(void *p, pairs x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}
VEC_INLINE pairs pairs_zero(void)
{
    return _mm256_setzero_si256();
}
VEC_INLINE pairs pairs_largest(pairs acc, vec x)
{
    return _mm256_max_epi32(acc, _mm256_castps_si256(x));
}
VEC_INLINE uint32_t pairs_highest(pairs x)
{
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_max_epi32(half, _mm_unpackhi_epi64(half, half));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 1));
    return (uint32_t)_mm_cvtsi128_si32(half);
}
VEC_INLINE vec pairs_even(pairs x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}
VEC_INLINE vec pairs_odd(pairs x)
{
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000u)));
}
VEC_INLINE __m256i vec_round_bf16(vec x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(up, quiet,
                              _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
VEC_INLINE pairs pairs_join(vec even, vec odd)
{
    __m256i low = _mm256_srli_epi32(vec_round_bf16(even), 16);
    return _mm256_blend_epi16(low, vec_round_bf16(odd), 0xaa);
}

/* 4 x 4 squares inside each half, then the halves. */
VEC_INLINE void vec_transpose(vec x[VEC_LANES])
{
    vec a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        x[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

#endif
