/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_bf16.h - bfloat16: the upper half of an fp32. */
#ifndef BANYAN_EMU_CUDA_BF16_H
#define BANYAN_EMU_CUDA_BF16_H

#include "cuda_runtime.h"

/* To nearest even; every NaN becomes 0x7fff, as the device's cvt does. */
static inline unsigned short emu_bf16_from_float(float x)
{
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct __nv_bfloat16_raw {
    unsigned short x;
};
struct __align__(2) __nv_bfloat16
{
    unsigned short __x;
    __nv_bfloat16() = default;
    __nv_bfloat16(__nv_bfloat16_raw raw) : __x(raw.x)
    {
    }
    explicit __nv_bfloat16(float x) : __x(emu_bf16_from_float(x))
    {
    }
    operator __nv_bfloat16_raw() const
    {
        return {__x};
    }
    operator float() const
    {
        return __uint_as_float((uint32_t)__x << 16);
    }
};
struct __align__(4) __nv_bfloat162
{
    __nv_bfloat16 x, y;
};
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __bfloat162float(__nv_bfloat16 x)
{
    return (float)x;
}
static inline __nv_bfloat16 __float2bfloat16(float x)
{
    return __nv_bfloat16(x);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    return __nv_bfloat16(x);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float lo, float hi)
{
    return {__nv_bfloat16(lo), __nv_bfloat16(hi)};
}
static inline float2 __bfloat1622float2(__nv_bfloat162 x)
{
    return {(float)x.x, (float)x.y};
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x)
{
    return x.__x;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x)
{
    return __nv_bfloat16(__nv_bfloat16_raw{x});
}

#endif
