/* SPDX-License-Identifier: Apache-2.0 */
/* Values of a mapped tensor as fp32.
 *
 * bf16 is the upper half of an fp32. fp16 has 5 exponent bits with bias 15: moved to the
 * place of fp32's fields, its value is too small by 2^(127-15), for subnormals too, so that
 * one multiplication repairs both; only inf and NaN need their exponent set. All three loops
 * are branch-free, and the test for values that are not finite is folded in: an exponent
 * field of all ones. */
#include "launch/model/safetensors.h"
#include "launch/isa.h"

#include <string.h>

enum { PIECE = 1024 }; /* values converted and tested at a time */

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

EACH_ISA static void from_bf16(const unsigned char *in, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t x;
        memcpy(&x, in + 2 * i, sizeof x);
        out[i] = from_bits((uint32_t)x << 16);
    }
}

EACH_ISA static void from_f16(const unsigned char *in, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t x;
        memcpy(&x, in + 2 * i, sizeof x);
        uint32_t u = to_bits(from_bits((uint32_t)(x & 0x7fff) << 13) * 0x1p112f);
        u |= (x & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
        out[i] = from_bits(u | (uint32_t)(x & 0x8000) << 16);
    }
}

EACH_ISA static uint32_t any_bad(const float *x, int64_t count)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
    }
    return bad;
}

void tensor_read(const tensor *t, int64_t first, int64_t count, float *out)
{
    const unsigned char *in = t->data + (size_t)first * banyan_dtype_bytes(t->dtype);
    if (t->dtype == BANYAN_BF16)
        from_bf16(in, count, out);
    else if (t->dtype == BANYAN_F16)
        from_f16(in, count, out);
    else
        memcpy(out, in, (size_t)count * sizeof *out);
}

int64_t tensor_to_float(const tensor *t, int64_t first, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t n = count - i < PIECE ? count - i : PIECE;
        tensor_read(t, first + i, n, out + i);
        if (!any_bad(out + i, n)) continue;
        while (!any_bad(out + i, 1)) i++;
        return first + i;
    }
    return -1;
}

int64_t tensor_find_bad(const tensor *t, int64_t first, int64_t count)
{
    float piece[PIECE];
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t n = count - i < PIECE ? count - i : PIECE;
        int64_t bad = tensor_to_float(t, first + i, n, piece);
        if (bad >= 0) return bad;
    }
    return -1;
}
