/* SPDX-License-Identifier: Apache-2.0 */
/* Number formats, over all 65,536 values of bf16 and fp16, against arithmetic on real numbers:
 * a value is (-1)^s 2^e (1 + f), and rounding takes the nearest, of two equally near the even
 * one. */
#include "attention/attention.h"
#include "tests/test.h"

#include <math.h>

typedef struct format {
    banyan_dtype dtype;
    int exponent_bits, fraction_bits;
} format;

static const format formats[] = {{BANYAN_BF16, 8, 7}, {BANYAN_F16, 5, 10}};

/* From the definition, in double; every such value fits. */
static double meaning(const format *f, uint16_t x)
{
    int bias = (1 << (f->exponent_bits - 1)) - 1;
    int exponent = x >> f->fraction_bits & ((1 << f->exponent_bits) - 1);
    int fraction = x & ((1 << f->fraction_bits) - 1);
    double sign = x & 0x8000 ? -1 : 1, steps = ldexp(fraction, -f->fraction_bits);
    if (exponent == (1 << f->exponent_bits) - 1) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(steps, 1 - bias);
    return sign * ldexp(1 + steps, exponent - bias);
}

static float to_float(const format *f, uint16_t x)
{
    return f->dtype == BANYAN_BF16 ? banyan_bf16_to_float(x) : banyan_f16_to_float(x);
}

static uint16_t from_float(const format *f, float x)
{
    return f->dtype == BANYAN_BF16 ? banyan_bf16_from_float(x) : banyan_f16_from_float(x);
}

static int same(double a, double b)
{
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

/* Every value means what the format says, and survives the way there and back bit for bit. */
static void test_values(const format *f)
{
    for (uint32_t x = 0; x < 65536; x++) {
        float value = to_float(f, (uint16_t)x);
        CHECK_MSG(same(value, meaning(f, (uint16_t)x)), "%s %04x is %g",
                  banyan_dtype_name(f->dtype), x, value);
        uint16_t back = from_float(f, value);
        if (isnan(value))
            CHECK(isnan(to_float(f, back)) && !signbit(value) == !signbit(to_float(f, back)));
        else
            CHECK_MSG(back == x, "%s %04x came back as %04x", banyan_dtype_name(f->dtype), x,
                      back);
    }
}

/* Between neighbours: below, on and above the middle, which rounds to the even one. */
static void test_rounding(const format *f)
{
    uint16_t infinite = (uint16_t)(((1u << f->exponent_bits) - 1) << f->fraction_bits);
    for (uint16_t x = 0; x < infinite; x++) {
        double here = meaning(f, x), next = meaning(f, x + 1);
        if (x + 1 == infinite) next = 2 * here - meaning(f, x - 1); /* what would come next */
        float middle = (float)((here + next) / 2);
        CHECK((double)middle == (here + next) / 2);
        uint16_t even = x % 2 ? (uint16_t)(x + 1) : x;
        CHECK_MSG(from_float(f, middle) == even, "%s middle of %04x",
                  banyan_dtype_name(f->dtype), x);
        CHECK(from_float(f, nextafterf(middle, 0)) == x);
        CHECK(from_float(f, nextafterf(middle, INFINITY)) == x + 1);
        CHECK(from_float(f, -middle) == (even | 0x8000));
    }
    CHECK(from_float(f, INFINITY) == infinite);
    CHECK(from_float(f, 3.4e38f) == infinite);
    CHECK(from_float(f, -INFINITY) == (infinite | 0x8000));
    CHECK(isnan(to_float(f, from_float(f, NAN))));
    uint32_t low_payload = 0x7f800001; /* a NaN whose payload lies below the kept bits */
    float nan;
    memcpy(&nan, &low_payload, sizeof(nan));
    CHECK(isnan(to_float(f, from_float(f, nan))));
    CHECK(from_float(f, 0x1p-149f) == 0 && from_float(f, -0.0f) == 0x8000);
}

/* e4m3: all 256, and the same places between neighbours; beyond the largest it saturates. */
static double meaning_e4m3(uint8_t x)
{
    int exponent = x >> 3 & 15, fraction = x & 7;
    double sign = x & 0x80 ? -1 : 1, steps = ldexp(fraction, -3);
    if (exponent == 15 && fraction == 7) return NAN;
    return sign * (exponent ? ldexp(1 + steps, exponent - 7) : ldexp(steps, -6));
}

static void test_e4m3(void)
{
    enum { LARGEST = 0x7e, NOT_A_NUMBER = 0x7f };
    for (int x = 0; x < 256; x++) {
        float value = banyan_e4m3_to_float((uint8_t)x);
        CHECK_MSG(same(value, meaning_e4m3((uint8_t)x)), "fp8 %02x is %g", x, value);
        CHECK_MSG(banyan_e4m3_from_float(value) == x || (x & 0x7f) == NOT_A_NUMBER,
                  "fp8 %02x came back as %02x", x, banyan_e4m3_from_float(value));
    }
    for (uint8_t x = 0; x < LARGEST; x++) {
        uint8_t even = x % 2 ? (uint8_t)(x + 1) : x;
        float middle = (float)((meaning_e4m3(x) + meaning_e4m3((uint8_t)(x + 1))) / 2);
        CHECK_MSG(banyan_e4m3_from_float(middle) == even, "fp8 middle of %02x", x);
        CHECK(banyan_e4m3_from_float(nextafterf(middle, 0)) == x);
        CHECK(banyan_e4m3_from_float(nextafterf(middle, INFINITY)) == x + 1);
        CHECK(banyan_e4m3_from_float(-middle) == (even | 0x80));
    }
    static const float large[] = {448, 464, 465, 512, 1e30f, INFINITY};
    for (int i = 0; i < 6; i++) {
        CHECK(banyan_e4m3_from_float(large[i]) == LARGEST);
        CHECK(banyan_e4m3_from_float(-large[i]) == (LARGEST | 0x80));
    }
    CHECK((banyan_e4m3_from_float(NAN) & 0x7f) == NOT_A_NUMBER);
    CHECK(banyan_e4m3_from_float(0x1p-149f) == 0 && banyan_e4m3_from_float(-0.0f) == 0x80);

    float in[3] = {1.3f, -500, 0.001f}, out[3];
    uint8_t bytes[3];
    banyan_from_float(bytes, BANYAN_E4M3, in, 3);
    banyan_to_float(out, bytes, BANYAN_E4M3, 3);
    CHECK(bytes[0] == banyan_e4m3_from_float(1.3f) && out[0] == 1.25f && out[1] == -448);
    CHECK(out[2] == 0x1p-9f * (0.001f > 0x1p-10f));
    CHECK(!strcmp(banyan_dtype_name(BANYAN_E4M3), "fp8") &&
          banyan_dtype_bytes(BANYAN_E4M3) == 1);
}

static void test_arrays(void)
{
    float in[5] = {1, -2.5f, 1e-7f, 65504, 0.1f}, out[5];
    uint16_t half[5];
    CHECK(banyan_dtype_bytes(BANYAN_F32) == 4 && banyan_dtype_bytes(BANYAN_BF16) == 2 &&
          banyan_dtype_bytes(BANYAN_F16) == 2);
    CHECK(!strcmp(banyan_dtype_name(BANYAN_F32), "fp32"));
    CHECK(!strcmp(banyan_dtype_name(BANYAN_BF16), "bf16"));
    CHECK(!strcmp(banyan_dtype_name(BANYAN_F16), "fp16"));
    for (size_t i = 0; i < 2; i++) {
        banyan_from_float(half, formats[i].dtype, in, 5);
        banyan_to_float(out, half, formats[i].dtype, 5);
        for (int j = 0; j < 5; j++) {
            CHECK(half[j] == from_float(&formats[i], in[j]));
            CHECK(out[j] == to_float(&formats[i], half[j]));
        }
    }
    banyan_from_float(out, BANYAN_F32, in, 5);
    CHECK(!memcmp(in, out, sizeof(in)));
    memset(out, 0, sizeof(out));
    banyan_to_float(out, in, BANYAN_F32, 5);
    CHECK(!memcmp(in, out, sizeof(in)));
}

int main(void)
{
    for (size_t i = 0; i < 2; i++) {
        test_values(&formats[i]);
        test_rounding(&formats[i]);
    }
    test_e4m3();
    test_arrays();
    return test_end();
}
