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

#include <math.h>
#include <string.h>

enum { AT_ONCE = 1024 }; /* values converted and tested at a time */

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

static void widen_values(const tensor *t, const unsigned char *in, int64_t count, float *out)
{
    if (t->dtype == BANYAN_BF16)
        from_bf16(in, count, out);
    else if (t->dtype == BANYAN_F16)
        from_f16(in, count, out);
    else
        memcpy(out, in, (size_t)count * sizeof *out);
}

/* Numbers that lie `pitch` bytes apart. */
static void read_apart(const tensor *t, const unsigned char *in, size_t pitch, int64_t count,
                       float *out)
{
    unsigned char together[AT_ONCE * sizeof(float)];
    const size_t bytes = banyan_dtype_bytes(t->dtype);
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done < AT_ONCE ? count - done : AT_ONCE;
        for (int64_t i = 0; i < n; i++, in += pitch)
            memcpy(together + (size_t)i * bytes, in, bytes);
        widen_values(t, together, n, out + done);
    }
}

static void read_columns(const tensor *t, int64_t first, int64_t count, float *out)
{
    const int64_t in = t->shape[1];
    const size_t bytes = banyan_dtype_bytes(t->dtype), pitch = (size_t)t->shape[0] * bytes;
    for (int64_t n; count > 0; first += n, count -= n, out += n) {
        const int64_t row = first / in, at = first % in;
        n = in - at < count ? in - at : count;
        read_apart(t, t->data + (size_t)at * pitch + (size_t)row * bytes, pitch, n, out);
    }
}

/* A scale of 0 is 2^-127, which fp32 has as a subnormal; 255 is no number. */
static float mx_factor(int scale)
{
    return scale == MX_NAN ? NAN : ldexpf(1, scale - 127);
}

static void read_mxfp4(const tensor *t, int64_t first, int64_t count, float *out)
{
    static const float value[] = {0,    .5f,  1,  1.5f,  2,  3,  4,  6,
                                  -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
    for (int64_t n; count > 0; first += n, count -= n, out += n) {
        const float factor = mx_factor(t->scales[first / MX_BLOCK]);
        n = MX_BLOCK - first % MX_BLOCK;
        if (n > count) n = count;
        for (int64_t i = 0, at = first; i < n; i++, at++)
            out[i] = value[t->data[at / 2] >> at % 2 * 4 & 15] * factor;
    }
}

void tensor_read(const tensor *t, int64_t first, int64_t count, float *out)
{
    switch (t->layout) {
    case TENSOR_ROWS:
        widen_values(t, t->data + (size_t)first * banyan_dtype_bytes(t->dtype), count, out);
        break;
    case TENSOR_COLUMNS: read_columns(t, first, count, out); break;
    case TENSOR_MXFP4: read_mxfp4(t, first, count, out); break;
    }
}

int64_t tensor_room(const tensor *t, int64_t count)
{
    if (t->layout == TENSOR_MXFP4) return count / 2 + count / MX_BLOCK;
    return count * (int64_t)banyan_dtype_bytes(t->dtype);
}

int64_t tensor_to_float(const tensor *t, int64_t first, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i += AT_ONCE) {
        int64_t n = count - i < AT_ONCE ? count - i : AT_ONCE;
        tensor_read(t, first + i, n, out + i);
        if (!any_bad(out + i, n)) continue;
        while (!any_bad(out + i, 1)) i++;
        return first + i;
    }
    return -1;
}

int64_t tensor_find_bad(const tensor *t, int64_t first, int64_t count)
{
    float values[AT_ONCE];
    for (int64_t i = 0; i < count; i += AT_ONCE) {
        int64_t n = count - i < AT_ONCE ? count - i : AT_ONCE;
        int64_t bad = tensor_to_float(t, first + i, n, values);
        if (bad >= 0) return bad;
    }
    return -1;
}
