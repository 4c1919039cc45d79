/* SPDX-License-Identifier: Apache-2.0 */
/* Element-wise work on rows of activations: every rank does all of it, so it is kept to one
 * pass over memory. Sums run in 16 lanes, folded at the end: compilers may not reorder a sum
 * of floats by themselves. */
#include "launch/isa.h"
#include "launch/model/runner.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

static inline __attribute__((always_inline)) float square_sum(const float *x, int64_t width)
{
    float lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j] * x[i + j];
    for (; i < width; i++) sum += x[i] * x[i];
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

static inline __attribute__((always_inline)) float sum(const float *x, int64_t width)
{
    float lane[LANES] = {0}, total = 0;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j];
    for (; i < width; i++) total += x[i];
    for (int j = 0; j < LANES; j++) total += lane[j];
    return total;
}

/* RMSNorm (Zhang and Sennrich, arXiv 1910.07467): x w / sqrt(mean x^2 + eps). */
static inline __attribute__((always_inline)) void
rms_row(const float *x, int64_t width, const float *restrict weight, double eps, float *h)
{
    float inverse = (float)(1.0 / sqrt(square_sum(x, width) / (double)width + eps));
    for (int64_t i = 0; i < width; i++) h[i] = x[i] * inverse * weight[i];
}

/* LayerNorm (Ba et al., arXiv 1607.06450): (x - mean) w / sqrt(variance + eps) + bias. */
static inline __attribute__((always_inline)) void layer_row(const float *x, int64_t width,
                                                            const norm *n, double eps, float *h)
{
    float mean = sum(x, width) / (float)width;
    for (int64_t i = 0; i < width; i++) h[i] = x[i] - mean;
    float inverse = (float)(1.0 / sqrt(square_sum(h, width) / (double)width + eps));
    for (int64_t i = 0; i < width; i++) h[i] = h[i] * inverse * n->weight[i];
    for (int64_t i = 0; n->bias && i < width; i++) h[i] += n->bias[i];
}

EACH_ISA void rows_norm(const float *x, int64_t rows, int64_t width, const norm *n,
                        norm_kind kind, double eps, float *h)
{
    for (int64_t row = 0; row < rows; row++, x += width, h += width)
        if (kind == NORM_LAYER)
            layer_row(x, width, n, eps, h);
        else
            rms_row(x, width, n->weight, eps, h);
}

EACH_ISA void rows_add(float *restrict x, const activation_columns *restrict columns_of,
                       int count, int64_t rows, int64_t width, float scale)
{
    for (int64_t row = 0; row < rows; row++, x += width)
        for (int p = 0; p < count; p++) {
            const float *restrict from = columns_of[p].data + row * columns_of[p].stride;
            float *restrict to = x + columns_of[p].first;
            for (int64_t i = 0; i < columns_of[p].count; i++) to[i] += scale * from[i];
        }
}

EACH_ISA void rows_scale(float *x, int64_t count, float scale)
{
    for (int64_t i = 0; i < count; i++) x[i] *= scale;
}

EACH_ISA void rows_bias(float *restrict x, int64_t rows, int64_t width,
                        const float *restrict bias)
{
    for (int64_t row = 0; row < rows; row++, x += width)
        for (int64_t i = 0; i < width; i++) x[i] += bias[i];
}

void rows_copy(float *to, int64_t to_stride, const float *from, int64_t from_stride,
               int64_t rows, int64_t width)
{
    for (int64_t row = 0; row < rows; row++)
        memcpy(to + row * to_stride, from + row * from_stride, (size_t)width * sizeof *to);
}

static float clamp_between(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

/* min(g, c) sigmoid(1.702 g) (clamp(u, -c, c) + 1) */
static float gegelu(float gate, float up, float cap)
{
    gate = gate < cap ? gate : cap;
    return gate / (1 + expf(-1.702f * gate)) * (clamp_between(up, -cap, cap) + 1);
}

/* gelu: x Phi(x) (Hendrycks and Gimpel, arXiv 1606.08415), exact and by tanh, section 2. */
static float activation_of(const description *d, float gate, float up)
{
    const float root = 0.7978845608028654f; /* sqrt(2 / pi) */
    switch (d->act) {
    case ACT_SILU: return gate / (1 + expf(-gate)) * up;
    case ACT_GELU: return 0.5f * gate * (1 + erff(gate * 0.7071067811865476f)) * up;
    case ACT_GELU_TANH:
        return 0.5f * gate * (1 + tanhf(root * (gate + 0.044715f * gate * gate * gate))) * up;
    case ACT_GEGELU: break;
    }
    return gegelu(gate, up, (float)d->act_cap);
}

void rows_activate(const description *d, const float *gate_up, int64_t rows, int64_t width,
                   float *out)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * width, *up = gate + width;
        for (int64_t i = 0; i < width; i++)
            out[row * width + i] = activation_of(d, gate[i], up[i]);
    }
}
