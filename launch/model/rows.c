/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of steps.h on the CPU: every rank does all of them, so each is kept to one pass
 * over memory. Sums run in 16 lanes, folded at the end: compilers may not reorder a sum of
 * floats by themselves. */
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
static inline __attribute__((always_inline)) void
layer_row(const float *x, int64_t width, const step_norm *n, double eps, float *h)
{
    float mean = sum(x, width) / (float)width;
    for (int64_t i = 0; i < width; i++) h[i] = x[i] - mean;
    float inverse = (float)(1.0 / sqrt(square_sum(h, width) / (double)width + eps));
    for (int64_t i = 0; i < width; i++) h[i] = h[i] * inverse * n->weight[i];
    for (int64_t i = 0; n->bias && i < width; i++) h[i] += n->bias[i];
}

EACH_ISA static void norm_each(const step_norm *n, const float *x, int64_t rows, int64_t width,
                               float *h)
{
    for (int64_t row = 0; row < rows; row++, x += width, h += width)
        if (n->kind == NORM_LAYER)
            layer_row(x, width, n, n->eps, h);
        else
            rms_row(x, width, n->weight, n->eps, h);
}

static void rows_norm(void *own, const step_norm *n, const float *x, int64_t rows,
                      int64_t width, float *h, uint16_t *narrow)
{
    (void)own;
    (void)narrow;
    norm_each(n, x, rows, width, h);
}

static void rows_move(void *own, const step_move *list, int count)
{
    (void)own;
    for (const step_move *m = list; m < list + count; m++)
        for (int32_t row = 0; row < m->rows; row++)
            memcpy(m->to + row * m->to_stride, m->from + row * m->from_stride,
                   (size_t)m->width * sizeof *m->to);
}

EACH_ISA static void add_scaled(float *restrict to, const float *restrict from, int32_t width,
                                float scale)
{
    for (int32_t i = 0; i < width; i++) to[i] += scale * from[i];
}

static void rows_add(void *own, const step_move *list, int count)
{
    (void)own;
    for (const step_move *m = list; m < list + count; m++)
        for (int32_t row = 0; row < m->rows; row++)
            add_scaled(m->to + row * m->to_stride, m->from + row * m->from_stride, m->width,
                       m->scale);
}

static void rows_zero(void *own, float *x, int64_t count)
{
    (void)own;
    memset(x, 0, (size_t)count * sizeof *x);
}

EACH_ISA static void rows_scale(void *own, float *x, int64_t count, float scale)
{
    (void)own;
    for (int64_t i = 0; i < count; i++) x[i] *= scale;
}

static void rows_embed(void *own, const step_table *table, const uint32_t *ids, int32_t rows,
                       int64_t width, float scale, float *x)
{
    for (int32_t row = 0; row < rows; row++)
        tensor_read(table->tensor, ids[row] * width, width, x + row * width);
    if (scale != 1) rows_scale(own, x, rows * width, scale);
}

EACH_ISA static void rows_bias(void *own, float *restrict x, int64_t rows, int64_t width,
                               const float *restrict bias)
{
    (void)own;
    for (int64_t row = 0; row < rows; row++, x += width)
        for (int64_t i = 0; i < width; i++) x[i] += bias[i];
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
static float activation_of(activation act, float cap, float gate, float up)
{
    const float root = 0.7978845608028654f; /* sqrt(2 / pi) */
    switch (act) {
    case ACT_SILU: return gate / (1 + expf(-gate)) * up;
    case ACT_GELU: return 0.5f * gate * (1 + erff(gate * 0.7071067811865476f)) * up;
    case ACT_GELU_TANH:
        return 0.5f * gate * (1 + tanhf(root * (gate + 0.044715f * gate * gate * gate))) * up;
    case ACT_GEGELU: break;
    }
    return gegelu(gate, up, cap);
}

static void rows_activate(void *own, activation act, float cap, const float *gate_up,
                          int64_t rows, int64_t width, float *out)
{
    (void)own;
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = gate_up + row * 2 * width, *up = gate + width;
        for (int64_t i = 0; i < width; i++)
            out[row * width + i] = activation_of(act, cap, gate[i], up[i]);
    }
}

static void rows_turns(void *own, const step_rope *r, const int64_t *at, int32_t rows,
                       float *turn)
{
    (void)own;
    rope_table(r->rope, *at, rows, turn);
}

static void rows_heads(void *own, const step_heads *h)
{
    (void)own;
    float *x = h->x;
    for (int64_t row = 0; row < h->rows; row++, x += h->stride) {
        if (h->norm.weight) norm_each(&h->norm, x, h->heads, h->dim, x);
        if (h->turn) rope_turn(x, h->heads, h->dim, h->pairs, h->turn + row * 2 * h->pairs);
    }
}

static void rows_silence(void *own, float *logits, int32_t rows, int64_t count, int64_t first,
                         const int32_t *ids, int32_t dummies)
{
    (void)own;
    for (int32_t i = 0; i < dummies; i++) {
        const int64_t column = ids[i] - first;
        if (column < 0 || column >= count) continue;
        for (int32_t row = 0; row < rows; row++) logits[row * count + column] = -INFINITY;
    }
}

static void rows_choose(void *own, const float *logits, int32_t rows, int64_t count,
                        int64_t first, uint64_t *choice)
{
    (void)own;
    for (int32_t row = 0; row < rows; row++, logits += count) {
        int64_t best = 0;
        for (int64_t i = 1; i < count; i++)
            if (logits[i] > logits[best]) best = i;
        choice[row] = count == 0 ? CHOICE_NONE
                      : finite_row(logits, count)
                          ? choice_make(logits[best], (uint32_t)(first + best))
                          : choice_make(NAN, (uint32_t)first);
    }
}

const step_row step_row_cpu = {.name = "cpu",
                               .embed = rows_embed,
                               .norm = rows_norm,
                               .move = rows_move,
                               .add = rows_add,
                               .zero = rows_zero,
                               .scale = rows_scale,
                               .bias = rows_bias,
                               .activate = rows_activate,
                               .turns = rows_turns,
                               .heads = rows_heads,
                               .silence = rows_silence,
                               .choose = rows_choose};
