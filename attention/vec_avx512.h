/* SPDX-License-Identifier: Apache-2.0 */
/* vec_avx512.h - the vector vocabulary of the kernel bodies, in AVX-512 (F, BW, DQ, VL).
 *
 * vec_avx2.h has the same words. `vec` is VEC_LANES floats; `pairs` is VEC_LANES 32-bit words,
 * each of them two bf16: the even element in the low half. Where a max meets a NaN it answers
 * its second argument, so that an accumulator stays a number: max(x, acc).
 * With VEC_DOT the dot product of bf16 pairs is there as well (AVX512_BF16). */
#ifndef BANYAN_VEC_AVX512_H
#define BANYAN_VEC_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

/* A register tile is VEC_ROWS x VEC_GROUP accumulators, 24 of 32 registers: 4 loads and 6
 * broadcasts feed 24 multiply-adds. A panel is the columns that lie together in a record.
 * VEC_BUNDLES tiles use it one after the other, while it is in the level 1 cache. */
enum { VEC_LANES = 16, VEC_GROUP = 4, VEC_ROWS = 6, VEC_BUNDLES = 1, VEC_PANEL = 64 };
#define VEC_GROUP_OF_4
#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef __m512 vec;
typedef __m512i pairs;

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
    return _mm512_set1_ps(x);
}
VEC_INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
VEC_INLINE void vec_store(float *p, vec x)
{
    _mm512_storeu_ps(p, x);
}
VEC_INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
VEC_INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}
VEC_INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}
VEC_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
VEC_INLINE vec vec_max(vec x, vec acc)
{
    return _mm512_max_ps(x, acc);
}
VEC_INLINE float vec_highest(vec x)
{
    return _mm512_reduce_max_ps(x);
}
/* Sums in a fixed tree. */
VEC_INLINE float vec_total(vec x)
{
    return _mm512_reduce_add_ps(x);
}
VEC_INLINE int vec_any_above(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}
/* Is some |x| not below the limit: too large for a format, inf or NaN? */
VEC_INLINE int vec_any_beyond(vec x, float limit)
{
    return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(limit), _CMP_NLT_UQ) != 0;
}
/* Lanes whose bit is not set become -inf. */
VEC_INLINE vec vec_keep(vec x, uint32_t bits)
{
    return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)bits, x);
}
VEC_INLINE vec vec_and(vec x, uint32_t word)
{
    return _mm512_and_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32((int)word)));
}

/* sum += x * factor for VEC_LANES of them, to the nearest integer, which is below 2^51 in
 * size. */
VEC_INLINE void vec_add_units(int64_t *sum, const float *x, double factor)
{
    const __m512d by = _mm512_set1_pd(factor);
    __m512d lo = _mm512_cvtps_pd(_mm256_loadu_ps(x));
    __m512d hi = _mm512_cvtps_pd(_mm256_loadu_ps(x + 8));
    __m512i a = _mm512_cvtpd_epi64(_mm512_mul_pd(lo, by));
    __m512i b = _mm512_cvtpd_epi64(_mm512_mul_pd(hi, by));
    _mm512_storeu_si512(sum, _mm512_add_epi64(_mm512_loadu_si512(sum), a));
    _mm512_storeu_si512(sum + 8, _mm512_add_epi64(_mm512_loadu_si512(sum + 8), b));
}

/* p * 2^n for 0.5 < p < 2, x <= 0 and n = x rounded; rest = x - n. The vec that holds n is for
 * vec_power alone: vec_avx2.h has it in another form. vreduce and vscalef know -inf (rest 0,
 * result 0), NaN and denormal results. */
VEC_INLINE vec vec_split(vec x, vec *rest)
{
    *rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
VEC_INLINE vec vec_power(vec p, vec n)
{
    return _mm512_scalef_ps(p, n);
}

VEC_INLINE vec vec_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
VEC_INLINE void vec_to_f16(uint16_t *p, vec x)
{
    _mm256_storeu_si256((__m256i *)p,
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC_INLINE vec vec_from_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

VEC_INLINE pairs pairs_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
VEC_INLINE void pairs_store(void *p, pairs x)
{
    _mm512_storeu_si512(p, x);
}
VEC_INLINE pairs pairs_zero(void)
{
    return _mm512_setzero_si512();
}
/* The larger of the words, and the bits of x as a word, all of them without a sign. */
VEC_INLINE pairs pairs_largest(pairs acc, vec x)
{
    return _mm512_max_epi32(acc, _mm512_castps_si512(x));
}
VEC_INLINE uint32_t pairs_highest(pairs x)
{
    return (uint32_t)_mm512_reduce_max_epi32(x);
}
VEC_INLINE vec pairs_even(pairs x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
VEC_INLINE vec pairs_odd(pairs x)
{
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000u)));
}
/* bf16 in the high half of each lane, rounded to nearest even; a NaN is made quiet, and
 * stays. */
VEC_INLINE __m512i vec_round_bf16(vec x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits,
                                _mm512_set1_epi32(0x400000));
}
VEC_INLINE pairs pairs_join(vec even, vec odd)
{
    __m512i high = _mm512_and_si512(vec_round_bf16(odd), _mm512_set1_epi32((int)0xffff0000u));
    return _mm512_or_si512(high, _mm512_srli_epi32(vec_round_bf16(even), 16));
}

/* x[i] lane j <-> x[j] lane i: 4 x 4 squares inside each 128-bit quarter, then the quarters. */
VEC_INLINE void vec_transpose(vec x[VEC_LANES])
{
    vec a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        __m512d lo0 = _mm512_castps_pd(a[i]), lo1 = _mm512_castps_pd(a[i + 2]);
        __m512d hi0 = _mm512_castps_pd(a[i + 1]), hi1 = _mm512_castps_pd(a[i + 3]);
        b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo0, lo1));
        b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo0, lo1));
        b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi0, hi1));
        b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi0, hi1));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vec even_lo = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
        vec odd_lo = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        vec even_hi = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        vec odd_hi = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
        x[i] = _mm512_shuffle_f32x4(even_lo, even_hi, 0x88);
        x[i + 4] = _mm512_shuffle_f32x4(odd_lo, odd_hi, 0x88);
        x[i + 8] = _mm512_shuffle_f32x4(even_lo, even_hi, 0xdd);
        x[i + 12] = _mm512_shuffle_f32x4(odd_lo, odd_hi, 0xdd);
    }
}

#ifdef VEC_DOT
/* Pairs of VEC_LANES consecutive bf16 each. */
VEC_INLINE pairs pairs_weave(const void *even, const void *odd)
{
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)even));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
VEC_INLINE pairs pairs_set(uint32_t word)
{
    return _mm512_set1_epi32((int)word);
}
/* acc + even * even + odd * odd in each lane. Denormal inputs count as zero. */
VEC_INLINE vec pairs_dot(vec acc, pairs a, pairs b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
/* 2 x VEC_LANES consecutive floats as VEC_LANES pairs of neighbours. */
VEC_INLINE pairs pairs_pack(vec first, vec second)
{
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}
#endif

#endif
