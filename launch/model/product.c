/* SPDX-License-Identifier: Apache-2.0 */
/* One row of input times a matrix as it lies in the file: what decoding waits for, and
 * nothing but reading memory. Columns are taken one after the other, since a single stream
 * is what processors fetch ahead best (four columns side by side read at half the rate), and
 * memory is asked for further ahead than they do by themselves. Each sum runs in 64 lanes,
 * folded at the end, the same for every processor: nothing is contracted or reordered.
 * Vectors of 16 are GCC's; a processor whose own are shorter takes several. */
#include "launch/isa.h"
#include "launch/model/safetensors.h"

#include <string.h>

enum { LANES = 16, SUMS = 4, AHEAD = 8192, AT_ONCE = 1024 };

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t bit_lanes __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

/* bf16 is the upper half of an fp32. */
static inline __attribute__((always_inline)) void take_bf16(const unsigned char *from,
                                                            floats *out)
{
    halves h;
    memcpy(&h, from, sizeof h);
    bit_lanes w = __builtin_convertvector(h, bit_lanes) << 16;
    memcpy(out, &w, sizeof *out);
}

static inline __attribute__((always_inline)) void take_f32(const unsigned char *from,
                                                           floats *out)
{
    memcpy(out, from, sizeof *out);
}

static float one_bf16(const unsigned char *from)
{
    uint16_t h;
    memcpy(&h, from, sizeof h);
    uint32_t w = (uint32_t)h << 16;
    float x;
    memcpy(&x, &w, sizeof x);
    return x;
}

static float one_f32(const unsigned char *from)
{
    float x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline __attribute__((always_inline)) float sum_lanes(const floats *lanes)
{
    float lane[LANES];
    memcpy(lane, lanes, sizeof lane);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

/* out[r] = rows of w, `step` bytes apart, times x. */
#define PRODUCT(name, bytes, take, one)                                                        \
    EACH_ISA static void name(const unsigned char *w, int64_t step, int64_t rows, int64_t in,  \
                              const float *x, float *out)                                      \
    {                                                                                          \
        for (int64_t r = 0; r < rows; r++, w += step) {                                        \
            floats sum[SUMS] = {{0}}, a, b;                                                    \
            int64_t i = 0;                                                                     \
            for (; i + SUMS * LANES <= in; i += SUMS * LANES)                                  \
                for (int k = 0; k < SUMS; k++) {                                               \
                    const unsigned char *at = w + (i + k * LANES) * bytes;                     \
                    if (k % (64 / LANES / bytes) == 0) __builtin_prefetch(at + AHEAD);         \
                    memcpy(&b, x + i + k * LANES, sizeof b);                                   \
                    take(at, &a);                                                              \
                    sum[k] += a * b;                                                           \
                }                                                                              \
            floats all = (sum[0] + sum[1]) + (sum[2] + sum[3]);                                \
            float rest = sum_lanes(&all);                                                      \
            for (; i < in; i++) rest += one(w + i * bytes) * x[i];                             \
            out[r] = rest;                                                                     \
        }                                                                                      \
    }

PRODUCT(multiply_bf16, 2, take_bf16, one_bf16)
PRODUCT(multiply_f32, 4, take_f32, one_f32)

/* What is not multiplied as it lies: through fp32, AT_ONCE values at a time. */
static void multiply_pieces(const tensor *t, int64_t row, int64_t step, int64_t count,
                            int64_t in, const float *x, float *out)
{
    float values[AT_ONCE];
    for (int64_t c = 0; c < count; c++) {
        out[c] = 0;
        for (int64_t i = 0, n; i < in; i += n) {
            float sum;
            n = in - i < AT_ONCE ? in - i : AT_ONCE;
            tensor_read(t, (row + c * step) * in + i, n, values);
            multiply_f32((const unsigned char *)values, 0, 1, n, x + i, &sum);
            out[c] += sum;
        }
    }
}

/* Input first: what lies together is one input's share of all columns, so that these are summed
 * side by side, in fp64 since the order is the input's. */
static void multiply_columns(const tensor *t, int64_t row, int64_t step, int64_t count,
                             int64_t in, const float *x, float *out)
{
    const size_t bytes = banyan_dtype_bytes(t->dtype);
    const tensor line = {.dtype = t->dtype, .data = t->data + (size_t)row * bytes};
    for (int64_t c = 0, n; c < count; c += n) {
        double sum[AT_ONCE] = {0};
        float values[AT_ONCE];
        n = step == 1 ? AT_ONCE : (AT_ONCE - 1) / step + 1;
        if (n > count - c) n = count - c;
        for (int64_t i = 0; i < in; i++) {
            tensor_read(&line, i * t->shape[0] + c * step, (n - 1) * step + 1, values);
            for (int64_t k = 0; k < n; k++) sum[k] += (double)x[i] * values[k * step];
        }
        for (int64_t k = 0; k < n; k++) out[c + k] = (float)sum[k];
    }
}

void tensor_multiply(const tensor *t, int64_t row, int64_t step, int64_t count, int64_t in,
                     const float *x, float *out)
{
    int64_t bytes = in * (int64_t)banyan_dtype_bytes(t->dtype);
    const unsigned char *from = t->data + row * bytes;
    if (t->layout == TENSOR_COLUMNS && step < AT_ONCE)
        multiply_columns(t, row, step, count, in, x, out);
    else if (t->layout != TENSOR_ROWS || t->dtype == BANYAN_F16)
        multiply_pieces(t, row, step, count, in, x, out);
    else if (t->dtype == BANYAN_BF16)
        multiply_bf16(from, step * bytes, count, in, x, out);
    else
        multiply_f32(from, step * bytes, count, in, x, out);
}
