/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_fp16.h - IEEE half precision: 1 sign, 5 exponent, 10 mantissa bits. */
#ifndef BANYAN_EMU_CUDA_FP16_H
#define BANYAN_EMU_CUDA_FP16_H

#include "cuda_runtime.h"

/* To nearest even, also where the result is subnormal; NaN becomes 0x7fff, as the device's cvt
 * does. */
static inline unsigned short emu_half_from_float(float x)
{
    const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffff;
    const uint32_t sign = bits >> 16 & 0x8000;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return (unsigned short)(sign | 0x7c00); /* 65520 and more */
    if (magnitude < 0x38800000) /* below 2^-14: a multiple of 2^-24 */
        return (unsigned short)(sign | (uint32_t)nearbyintf(fabsf(x) * 0x1p24f));
    const uint32_t rebiased = magnitude - (112u << 23);
    return (unsigned short)(sign | (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}
static inline float emu_float_from_half(unsigned short h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | magnitude << 13);
    if (magnitude >= 0x400) return __uint_as_float(sign | ((magnitude << 13) + (112u << 23)));
    return __uint_as_float(sign | __float_as_uint((float)magnitude * 0x1p-24f));
}

struct __half_raw {
    unsigned short x;
};
struct __half2_raw {
    unsigned short x, y;
};
struct __align__(2) __half
{
    unsigned short __x;
    __half() = default;
    __half(__half_raw raw) : __x(raw.x)
    {
    }
    explicit __half(float x) : __x(emu_half_from_float(x))
    {
    }
    operator __half_raw() const
    {
        return {__x};
    }
    operator float() const
    {
        return emu_float_from_half(__x);
    }
};
struct __align__(4) __half2
{
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half x)
{
    return (float)x;
}
static inline __half __float2half(float x)
{
    return __half(x);
}
static inline __half __float2half_rn(float x)
{
    return __half(x);
}
static inline __half2 __floats2half2_rn(float lo, float hi)
{
    return {__half(lo), __half(hi)};
}
static inline float2 __half22float2(__half2 x)
{
    return {(float)x.x, (float)x.y};
}
static inline unsigned short __half_as_ushort(__half x)
{
    return x.__x;
}
static inline __half __ushort_as_half(unsigned short x)
{
    return __half(__half_raw{x});
}

#endif
