/* SPDX-License-Identifier: Apache-2.0 */
/* Conversions, over all codes: what a code stands for comes from the format's definition in
 * double, and rounding is tried at every code, at every midpoint between two, and on both sides
 * of it. */
#include "tests/emu/trial.h"

/* Sign, exponent and mantissa bits, as IEEE 754 reads them: subnormals at exponent field 0. */
static double value_of(unsigned magnitude, int mantissa_bits, int bias)
{
    const int exponent = (int)(magnitude >> mantissa_bits);
    const unsigned mantissa = magnitude & ((1u << mantissa_bits) - 1);
    if (exponent == 0) return ldexp(mantissa, 1 - bias - mantissa_bits);
    return ldexp((1u << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

/* Codes 0 .. last are finite numbers, ascending. `convert` to the code, with sign bit
 * `sign`. */
template <typename F, typename G>
static void test_format(const char *name, unsigned last, int mantissa_bits, int bias,
                        unsigned sign, F convert, G back)
{
    for (unsigned code = 0; code <= last; code++) {
        const double value = value_of(code, mantissa_bits, bias);
        CHECK_MSG(back(code) == (float)value, "%s: 0x%x is %g", name, code, (double)back(code));
        CHECK(back(code | sign) == (float)-value && signbit(back(code | sign)));
        CHECK(convert((float)value) == code && convert((float)-value) == (code | sign));
        if (code == last) break;
        const float middle = (float)((value + value_of(code + 1, mantissa_bits, bias)) / 2);
        const unsigned even = code + code % 2;
        CHECK_MSG(convert(middle) == even, "%s: %a gives 0x%x, not 0x%x", name, (double)middle,
                  convert(middle), even);
        CHECK(convert(-middle) == (even | sign));
        CHECK(convert(nextafterf(middle, INFINITY)) == code + 1);
        CHECK(convert(nextafterf(middle, 0)) == code);
    }
}

static unsigned to_bf16(float x)
{
    return bits_of(x, __nv_bfloat16());
}
static float from_bf16(unsigned x)
{
    return __bfloat162float(__ushort_as_bfloat16((unsigned short)x));
}
static unsigned to_half(float x)
{
    return bits_of(x, __half());
}
static float from_half(unsigned x)
{
    return __half2float(__ushort_as_half((unsigned short)x));
}
static unsigned to_e4m3(float x)
{
    return e4m3_from_floats(x, 0) & 0xff;
}
static float from_e4m3(unsigned x)
{
    return from_half(half2_from_e4m3((uint16_t)(x << 8)) >> 16);
}

int main()
{
    test_format("half", 0x7bff, 10, 15, 0x8000, to_half, from_half);
    test_format("e4m3", 0x7e, 3, 7, 0x80, to_e4m3, from_e4m3);
    test_format("bf16", 0x7f7f, 7, 127, 0x8000, to_bf16, from_bf16);

    CHECK(to_half(65519.996f) == 0x7bff && to_half(65520) == 0x7c00 &&
          to_half(-1e9f) == 0xfc00);
    CHECK(to_half(INFINITY) == 0x7c00 && to_half(NAN) == 0x7fff && isnan(from_half(0x7e01)));
    CHECK(isinf(from_half(0xfc00)) && from_half(0xfc00) < 0);
    CHECK(to_bf16(3.4e38f) == 0x7f80 && to_bf16(-INFINITY) == 0xff80 && to_bf16(NAN) == 0x7fff);
    CHECK(to_e4m3(1e9f) == 0x7e && to_e4m3(-INFINITY) == 0xfe && to_e4m3(449) == 0x7e);
    CHECK(to_e4m3(NAN) == 0x7f && isnan(from_e4m3(0x7f)) && isnan(from_e4m3(0xff)));
    CHECK(__nv_cvt_float_to_fp8(464, __NV_NOSAT, __NV_E4M3) == 0x7e);
    CHECK(__nv_cvt_float_to_fp8(465, __NV_NOSAT, __NV_E4M3) == 0x7f);

    CHECK(pack2(1, 2, __nv_bfloat16()) == 0x40003f80 && pack2(1, 2, __half()) == 0x40003c00);
    CHECK(e4m3_from_floats(1, 2) == 0x4038 && half2_from_e4m3(0x4038) == 0x40003c00);
    CHECK(exp2_fast(-INFINITY) == 0 && exp2_fast(3) == 8 && exp2_fast(-127) == 0);
    CHECK(__byte_perm(0x33221100, 0x77665544, 0x7520) == 0x77552200);
    return test_end();
}
