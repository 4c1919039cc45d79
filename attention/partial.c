/* SPDX-License-Identifier: Apache-2.0 */
/* Partials: softmax attention stopped half way.
 *
 * For a set S of tokens with scores s_i and values v_i, take any number m and let
 *
 *     l = sum_S exp(s_i - m)        o = sum_S exp(s_i - m) v_i
 *
 * Attention over S is o / l, and its normaliser is lse = m + ln l; neither depends on m, which
 * only keeps exp in range. With m = max s_i every exponent is <= 0 and l >= 1. Moving to
 * another base point M multiplies both sums by one factor:
 *
 *     sum_S exp(s_i - M) = exp(m - M) sum_S exp(s_i - m)
 *
 * so for disjoint S and S', with M = max(m, m'), a = exp(m - M), b = exp(m' - M) (one of them
 * is 1):
 *
 *     (m, l, o) + (m', l', o') = (M, a l + b l', a o + b o')
 *
 * This is addition of the two sums, hence commutative and associative but for rounding. Its
 * identity is the empty set, (-inf, 0, 0): a sum of nothing, whose maximum is below every
 * score. (-inf) - (-inf) would be NaN, so an empty side is recognised and the other one copied,
 * bit for bit; and a side that holds the maximum gets the factor 1 without asking exp.
 *
 * Values near the largest fp32: o may be up to l times as large, and overflow where the mean o
 * / l does not. The base point need not be the maximum, so such a sum is taken again relative
 * to one that is so high that l is about 1/2.
 *
 * NaN is data: a row that read a NaN is NaN, and stays so whatever is added. l carries it: a
 * score that is NaN or +inf makes l NaN, and a factor is never applied to part of (l, o).
 * Emptiness is asked of m and l together, so that a NaN in l is not taken for "nothing seen". A
 * NaN that is in one value only stays in its component of o. */
#include "attention/attention.h"

#include <math.h>
#include <string.h>

static int is_identity(const float *p, int32_t value_dim)
{
    return p[value_dim] == -INFINITY && p[value_dim + 1] == 0;
}

void banyan_partial_clear(float *p, int32_t value_dim, int64_t rows)
{
    int64_t stride = (int64_t)banyan_partial_floats(value_dim);
    memset(p, 0, (size_t)(rows * stride) * sizeof(*p));
    for (int64_t row = 0; row < rows; row++) p[row * stride + value_dim] = -INFINITY;
}

/* x = x a + y b. Addition commutes exactly, so it does not matter which of the two sides x
 * is. */
static void fold_rows(float *restrict x, float a, const float *restrict y, float b,
                      int32_t count)
{
    for (int32_t d = 0; d < count; d++) x[d] = x[d] * a + y[d] * b;
}

static int is_finite_row(const float *x, int32_t count)
{
    uint32_t largest = 0;
    for (int32_t d = 0; d < count; d++) {
        uint32_t bits;
        memcpy(&bits, &x[d], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest < 0x7f800000;
}

float banyan_partial_above(float m, double l)
{
    const double above = (double)m + log(l) + M_LN2;
    float base = (float)above;
    return (double)base < above ? nextafterf(base, INFINITY) : base;
}

/* The same sum in double, relative to a higher base point. out may be lo or hi. */
static void combine_above(float *out, const float *lo, const float *hi, int32_t value_dim,
                          float m, double l)
{
    const float base = banyan_partial_above(m, l);
    const double a = exp((double)lo[value_dim] - (double)base);
    const double b = exp((double)hi[value_dim] - (double)base);
    for (int32_t d = 0; d < value_dim; d++)
        out[d] = (float)((double)lo[d] * a + (double)hi[d] * b);
    out[value_dim + 1] = (float)((double)lo[value_dim + 1] * a + (double)hi[value_dim + 1] * b);
    out[value_dim] = base;
}

/* Would x a + y b overflow where both are finite? */
static int sum_overflows(const float *x, float a, const float *y, float b, int32_t count)
{
    int over = 0;
    for (int32_t d = 0; d < count; d++) over |= !(fabsf(x[d] * a + y[d] * b) < INFINITY);
    return over && is_finite_row(x, count) && is_finite_row(y, count);
}

static void combine_row(float *out, const float *lo, const float *hi, int32_t value_dim)
{
    size_t bytes = banyan_partial_floats(value_dim) * sizeof(*out);
    float m_lo = lo[value_dim], l_lo = lo[value_dim + 1];
    float m_hi = hi[value_dim], l_hi = hi[value_dim + 1];

    if (is_identity(hi, value_dim)) {
        memmove(out, lo, bytes);
        return;
    }
    if (is_identity(lo, value_dim)) {
        memmove(out, hi, bytes);
        return;
    }
    float m = m_hi > m_lo || m_hi != m_hi ? m_hi : m_lo; /* NaN if either is */
    float a = m_lo == m ? 1 : expf(m_lo - m);
    float b = m_hi == m ? 1 : expf(m_hi - m);
    float l = l_lo * a + l_hi * b;
    if (l < INFINITY && sum_overflows(lo, a, hi, b, value_dim)) {
        combine_above(out, lo, hi, value_dim, m, l);
        return;
    }
    if (out == hi) {
        fold_rows(out, b, lo, a, value_dim);
    } else {
        if (out != lo) memcpy(out, lo, bytes);
        fold_rows(out, a, hi, b, value_dim);
    }
    out[value_dim] = m;
    out[value_dim + 1] = l;
}

void banyan_partial_combine(float *out, const float *lo, const float *hi, int32_t value_dim,
                            int64_t rows)
{
    int64_t stride = (int64_t)banyan_partial_floats(value_dim);
    for (int64_t row = 0; row < rows; row++)
        combine_row(out + row * stride, lo + row * stride, hi + row * stride, value_dim);
}

void banyan_partial_sink(float *p, float sink, int32_t value_dim, int64_t rows)
{
    const int64_t stride = (int64_t)banyan_partial_floats(value_dim);
    if (sink == -INFINITY) return;
    for (int64_t row = 0; row < rows; row++, p += stride) {
        const float m = p[value_dim];
        const float top = m > sink || m != m ? m : sink; /* NaN stays */
        const float a = m == top ? 1 : expf(m - top), b = sink == top ? 1 : expf(sink - top);
        if (a != 1)
            for (int32_t d = 0; d < value_dim; d++) p[d] *= a;
        p[value_dim] = top;
        p[value_dim + 1] = p[value_dim + 1] * a + b;
    }
}

void banyan_partial_finish(const float *p, int32_t value_dim, int64_t rows, void *out,
                           banyan_dtype out_dtype, int64_t out_stride, float *lse,
                           int64_t lse_stride)
{
    enum { CHUNK = 64 };
    float mean[CHUNK];
    size_t element = banyan_dtype_bytes(out_dtype);
    int64_t stride = (int64_t)banyan_partial_floats(value_dim);

    for (int64_t row = 0; row < rows; row++) {
        const float *o = p + row * stride;
        float m = o[value_dim], l = o[value_dim + 1];
        int empty = is_identity(o, value_dim);
        char *out_row = (char *)out + (size_t)(row * out_stride) * element;

        for (int32_t first = 0; first < value_dim; first += CHUNK) {
            int32_t count = value_dim - first < CHUNK ? value_dim - first : CHUNK;
            for (int32_t d = 0; d < count; d++) mean[d] = empty ? 0 : o[first + d] / l;
            banyan_from_float(out_row + (size_t)first * element, out_dtype, mean, count);
        }
        if (lse) lse[row * lse_stride] = empty ? -INFINITY : m + logf(l);
    }
}
