/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_fp8.h - e4m3: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity, NaN is 0x7f and
 * 0xff, the largest number 448. */
#ifndef BANYAN_EMU_CUDA_FP8_H
#define BANYAN_EMU_CUDA_FP8_H

#include "cuda_fp16.h"

typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
typedef enum { __NV_NOSAT, __NV_SATFINITE } __nv_saturation_t;
typedef enum { __NV_E4M3 } __nv_fp8_interpretation_t; /* e5m2 is not used */

static inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x,
                                                 __nv_fp8_interpretation_t)
{
    const unsigned magnitude = x & 0x7f, sign = (x & 0x80u) << 8;
    if (magnitude == 0x7f) return {0x7fff};
    if (magnitude < 8) /* subnormal: magnitude 2^-9 */
        return {(unsigned short)(sign | emu_half_from_float((float)magnitude * 0x1p-9f))};
    return {(unsigned short)(sign | ((magnitude << 7) + ((15 - 7) << 10)))};
}
static inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t x,
                                                     __nv_fp8_interpretation_t as)
{
    const __half_raw lo = __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)(x & 0xff), as);
    const __half_raw hi = __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)(x >> 8), as);
    return {lo.x, hi.x};
}
/* To nearest even. With saturation what is out of range (infinity too) becomes 448, else
 * NaN. */
static inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t saturation,
                                                       __nv_fp8_interpretation_t)
{
    const unsigned sign = signbit(x) ? 0x80 : 0;
    float magnitude = fabsf(x);
    if (isnan(x)) return 0x7f;
    if (magnitude >= 0x1p-6f && magnitude <= 448) { /* to 4 significant bits */
        int exponent;
        frexpf(magnitude, &exponent);
        magnitude = ldexpf(nearbyintf(ldexpf(magnitude, 4 - exponent)), exponent - 4);
    }
    if (magnitude > 448) {
        /* 464, half way to 480, is a tie that goes to the even 448 */
        if (saturation == __NV_SATFINITE || magnitude <= 464)
            return (unsigned char)(sign | 0x7e);
        return (unsigned char)(sign | 0x7f);
    }
    if (magnitude < 0x1p-6f) /* steps of 2^-9; 8 of them are the first normal number's code */
        return (unsigned char)(sign | (unsigned)nearbyintf(magnitude * 0x1p9f));
    int exponent;
    const float mantissa = frexpf(magnitude, &exponent); /* 0.5 .. 1 */
    return (unsigned char)(sign | (unsigned)(exponent + 6) << 3 |
                           ((unsigned)(mantissa * 16) - 8));
}
static inline __nv_fp8x2_storage_t
__nv_cvt_float2_to_fp8x2(float2 x, __nv_saturation_t saturation, __nv_fp8_interpretation_t as)
{
    return (__nv_fp8x2_storage_t)(__nv_cvt_float_to_fp8(x.x, saturation, as) |
                                  __nv_cvt_float_to_fp8(x.y, saturation, as) << 8);
}

#endif
