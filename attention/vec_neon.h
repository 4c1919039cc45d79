/* SPDX-License-Identifier: Apache-2.0 */
/* vec_neon.h - the vector vocabulary of the kernel bodies, in the Advanced SIMD that every
 * AArch64 processor has. The words are explained in vec_avx512.h. */
#ifndef BANYAN_VEC_NEON_H
#define BANYAN_VEC_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <stdint.h>

/* 24 of 32 registers are accumulators: 4 loads and 6 broadcasts feed 24 multiply-adds. */
enum { VEC_LANES = 4, VEC_GROUP = 4, VEC_ROWS = 6, VEC_BUNDLES = 1, VEC_PANEL = 16 };
#define VEC_GROUP_OF_4
#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef float32x4_t vec;
typedef uint32x4_t pairs;

/* Ask for a line: into the level 1 cache, or as far as level 2. */
VEC_INLINE void vec_prefetch_near(const void *p)
{
    __builtin_prefetch(p, 0, 3);
}
VEC_INLINE void vec_prefetch_far(const void *p)
{
    __builtin_prefetch(p, 0, 2);
}
VEC_INLINE vec vec_set(float x)
{
    return vdupq_n_f32(x);
}
VEC_INLINE vec vec_load(const float *p)
{
    return vld1q_f32(p);
}
VEC_INLINE void vec_store(float *p, vec x)
{
    vst1q_f32(p, x);
}
VEC_INLINE vec vec_add(vec a, vec b)
{
    return vaddq_f32(a, b);
}
VEC_INLINE vec vec_sub(vec a, vec b)
{
    return vsubq_f32(a, b);
}
VEC_INLINE vec vec_mul(vec a, vec b)
{
    return vmulq_f32(a, b);
}
VEC_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return vfmaq_f32(c, a, b);
}
/* By comparing: the maximum instructions make a NaN of a NaN, this keeps acc. */
VEC_INLINE vec vec_max(vec x, vec acc)
{
    return vbslq_f32(vcgtq_f32(x, acc), x, acc);
}
VEC_INLINE float vec_highest(vec x)
{
    return vmaxvq_f32(x);
}
VEC_INLINE float vec_total(vec x)
{
    return vaddvq_f32(x);
}
VEC_INLINE int vec_any_above(vec a, vec b)
{
    return vmaxvq_u32(vcgtq_f32(a, b)) != 0;
}
VEC_INLINE int vec_any_beyond(vec x, float limit)
{
    return vminvq_u32(vcltq_f32(vabsq_f32(x), vdupq_n_f32(limit))) == 0;
}
VEC_INLINE vec vec_keep(vec x, uint32_t bits)
{
    const uint32x4_t lane = {1, 2, 4, 8};
    return vbslq_f32(vtstq_u32(vdupq_n_u32(bits), lane), x, vdupq_n_f32(-INFINITY));
}
VEC_INLINE vec vec_and(vec x, uint32_t word)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(word)));
}
/* Doubles of 2^52 and more have their last bit at 1. */
VEC_INLINE void vec_add_units(int64_t *sum, const float *from, double factor)
{
    const vec x = vld1q_f32(from);
    const float64x2_t large = vdupq_n_f64(0x1.8p52), by = vdupq_n_f64(factor);
    float64x2_t lo = vmulq_f64(vcvt_f64_f32(vget_low_f32(x)), by);
    float64x2_t hi = vmulq_f64(vcvt_high_f64_f32(x), by);
    const int64x2_t zero = vreinterpretq_s64_f64(large);
    int64x2_t a = vsubq_s64(vreinterpretq_s64_f64(vaddq_f64(lo, large)), zero);
    int64x2_t b = vsubq_s64(vreinterpretq_s64_f64(vaddq_f64(hi, large)), zero);
    vst1q_s64(sum, vaddq_s64(vld1q_s64(sum), a));
    vst1q_s64(sum + 2, vaddq_s64(vld1q_s64(sum + 2), b));
}

/* Below 2^-151 everything rounds to 0, so that clamping there changes no result; the clamp also
 * turns -inf into a number, and lets NaN through. */
VEC_INLINE vec vec_split(vec x, vec *rest)
{
    x = vec_max(vdupq_n_f32(-160), x);
    vec n = vrndnq_f32(x);
    *rest = vsubq_f32(x, n);
    return n;
}
/* 2^n in two factors, each a normal number: only the second product can round. */
VEC_INLINE vec vec_power(vec p, vec n)
{
    const int32x4_t bias = vdupq_n_s32(127);
    int32x4_t whole = vcvtq_s32_f32(n);
    int32x4_t first = vshrq_n_s32(whole, 1);
    int32x4_t second = vsubq_s32(whole, first);
    first = vshlq_n_s32(vaddq_s32(first, bias), 23);
    second = vshlq_n_s32(vaddq_s32(second, bias), 23);
    p = vmulq_f32(p, vreinterpretq_f32_s32(first));
    return vmulq_f32(p, vreinterpretq_f32_s32(second));
}

VEC_INLINE vec vec_from_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
VEC_INLINE void vec_to_f16(uint16_t *p, vec x)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}
VEC_INLINE vec vec_from_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

VEC_INLINE pairs pairs_load(const void *p)
{
    return vreinterpretq_u32_u8(vld1q_u8(p));
}
VEC_INLINE void pairs_store(void *p, pairs x)
{
    vst1q_u8(p, vreinterpretq_u8_u32(x));
}
VEC_INLINE pairs pairs_zero(void)
{
    return vdupq_n_u32(0);
}
VEC_INLINE pairs pairs_largest(pairs acc, vec x)
{
    return vmaxq_u32(acc, vreinterpretq_u32_f32(x));
}
VEC_INLINE uint32_t pairs_highest(pairs x)
{
    return vmaxvq_u32(x);
}
VEC_INLINE vec pairs_even(pairs x)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(x, 16));
}
VEC_INLINE vec pairs_odd(pairs x)
{
    return vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000u)));
}
VEC_INLINE uint32x4_t vec_round_bf16(vec x)
{
    uint32x4_t bits = vreinterpretq_u32_f32(x);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t up = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vbslq_u32(vceqq_f32(x, x), up, quiet);
}
VEC_INLINE pairs pairs_join(vec even, vec odd)
{
    return vsriq_n_u32(vec_round_bf16(odd), vec_round_bf16(even), 16);
}

/* Neighbours, then halves. */
VEC_INLINE void vec_transpose(vec x[VEC_LANES])
{
    float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(x[0], x[1]));
    float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(x[0], x[1]));
    float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(x[2], x[3]));
    float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(x[2], x[3]));
    x[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    x[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    x[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    x[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

#endif
