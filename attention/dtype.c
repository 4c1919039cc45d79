/* SPDX-License-Identifier: Apache-2.0 */
/* Number formats, in integer arithmetic, so that they need no instruction set and round alike
 * on every machine.
 *
 *              sign  exponent  fraction  bias   largest    smallest normal   subnormal step
 *     fp32      1       8         23      127   3.4e38     2^-126            2^-149
 *     bf16      1       8          7      127   3.4e38     2^-126            2^-133
 *     fp16      1       5         10       15   65504      2^-14             2^-24
 *     e4m3      1       4          3        7   448        2^-6              2^-9
 *
 * bf16 is the upper half of fp32, so rounding to it is an integer addition: adding 0x7fff, plus
 * 1 when the lowest kept bit is set, carries exactly when nearest-even rounds up, and a carry
 * out of the fraction is the next exponent, up to infinity. fp16 does the same 13 bits lower
 * after its exponent has been re-biased; below 2^-14 its step is 2^-24, which is also the step
 * of fp32 numbers in [1/2, 1), so that adding 1/2 leaves the rounded subnormal in the low bits.
 * e4m3 ("fp8") likewise, with 2^-9 and [2^14, 2^15). It has no infinities: its largest exponent
 * is a number's, but for the fraction 7, which is NaN; and what is too large becomes 448, since
 * a cached number that is a little too large must not make a row NaN. */
#include "attention/attention.h"

#include <string.h>

static uint32_t float_bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

float banyan_bf16_to_float(uint16_t x)
{
    return float_of((uint32_t)x << 16);
}

uint16_t banyan_bf16_from_float(float x)
{
    uint32_t bits = float_bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* quiet */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float banyan_f16_to_float(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16;
    uint32_t exponent = x >> 10 & 0x1fu, fraction = x & 0x3ffu;

    if (exponent == 0) /* zero and subnormals: fraction steps of 2^-24, exact in fp32 */
        return float_of(sign | float_bits_of((float)fraction * 0x1p-24f));
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    return float_of(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

uint16_t banyan_f16_from_float(float x)
{
    uint32_t bits = float_bits_of(x), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);

    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= 0x47800000u)
        return sign | 0x7c00u;   /* 65536 and more; 65520.. carry below */
    if (magnitude < 0x38800000u) /* below 2^-14 */
        return (uint16_t)(sign |
                          (float_bits_of(float_of(magnitude) + 0.5f) - float_bits_of(0.5f)));
    magnitude -= (127u - 15u) << 23;
    return (uint16_t)(sign | (magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

float banyan_e4m3_to_float(uint8_t x)
{
    uint32_t sign = (uint32_t)(x & 0x80u) << 24;
    uint32_t exponent = x >> 3 & 0xfu, fraction = x & 7u;

    if ((x & 0x7fu) == 0x7fu) return float_of(sign | 0x7fc00000u);
    if (exponent == 0) return float_of(sign | float_bits_of((float)fraction * 0x1p-9f));
    return float_of(sign | (exponent + 127 - 7) << 23 | fraction << 20);
}

uint8_t banyan_e4m3_from_float(float x)
{
    uint32_t bits = float_bits_of(x), magnitude = bits & 0x7fffffffu;
    uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);

    if (magnitude > 0x7f800000u) return sign | 0x7fu;
    if (magnitude >= 0x43e00000u) return sign | 0x7eu; /* 448 and more */
    if (magnitude < 0x3c800000u)                       /* below 2^-6 */
        return (uint8_t)(sign | (float_bits_of(float_of(magnitude) + 16384.0f) -
                                 float_bits_of(16384.0f)));
    magnitude -= (127u - 7u) << 23;
    return (uint8_t)(sign | (magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20);
}

void banyan_to_float(float *out, const void *in, banyan_dtype dtype, int64_t count)
{
    const uint16_t *half = in;
    const uint8_t *byte = in;
    if (dtype == BANYAN_F32) memcpy(out, in, (size_t)count * sizeof(*out));
    if (dtype == BANYAN_BF16)
        for (int64_t i = 0; i < count; i++) out[i] = banyan_bf16_to_float(half[i]);
    if (dtype == BANYAN_F16)
        for (int64_t i = 0; i < count; i++) out[i] = banyan_f16_to_float(half[i]);
    if (dtype == BANYAN_E4M3)
        for (int64_t i = 0; i < count; i++) out[i] = banyan_e4m3_to_float(byte[i]);
}

void banyan_from_float(void *out, banyan_dtype dtype, const float *in, int64_t count)
{
    uint16_t *half = out;
    uint8_t *byte = out;
    if (dtype == BANYAN_F32) memcpy(out, in, (size_t)count * sizeof(*in));
    if (dtype == BANYAN_BF16)
        for (int64_t i = 0; i < count; i++) half[i] = banyan_bf16_from_float(in[i]);
    if (dtype == BANYAN_F16)
        for (int64_t i = 0; i < count; i++) half[i] = banyan_f16_from_float(in[i]);
    if (dtype == BANYAN_E4M3)
        for (int64_t i = 0; i < count; i++) byte[i] = banyan_e4m3_from_float(in[i]);
}
