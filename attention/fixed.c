/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of block partials that come out the same in any order, to the last bit.
 *
 * Combining partials rounds, and so depends on who is combined with whom first: on how many
 * ranks and threads share a head, and how they merge. Here the unit is the partial of one block
 * alone, whose bits depend on nothing but the block and the row, and what is added are
 * integers.
 *
 * Bins. Write a block's base point as exp(m) = 2^(W n) 2^r with n whole and 0 <= r < W, and let
 * 2^(e-1) <= max |o| < 2^e. All of the block's o go to bin n + j, j = floor((e + r) / W) + 1,
 * in units of 2^(W (n + j) - T): as integers
 *
 *     t = round(o 2^(r - W j + T)),     2^(T-W-1) <= max |t| <= 2^T
 *
 * (l is such a sum of one column.) Of a row only the BINS highest bins are kept:
 *
 *      bin:     .. | top-3 | top-2 | top-1 |  top  |   a block above top: bins move down whole,
 *      weight:     2^(-3W)                     1       and the lowest are forgotten
 *
 * A bin that is forgotten when top rises would be forgotten in the end in any order, since top
 * ends at the maximum over all blocks; one that is kept in the end was never forgotten. Hence a
 * kept bin holds the integer sum of exactly its blocks: nothing rounds, nothing is rescaled,
 * and no round of messages is needed to agree on a maximum. Two sums are added bin by bin in
 * the same way.
 *
 * Range: N blocks sum to at most N 2^T <= 2^63 for N <= 2^22 and T = 41.
 * Error, relative to the block's largest |o| (its l): of a term 1/2 unit, 2^(W-T) = 2^-25; of
 * 2^r 2^-38; of the product and of m log2(e) in double 2^-51, and |m| 2^-52 (m itself is a
 * float: it has an error of |m| 2^-24 already). What is forgotten is below 2^(W+1 - W BINS) =
 * 2^-47 of the largest block, times N: below 2^-25 in all. So fixed-point costs 2^-24 of l, and
 * of sum_b pi_b max |o_b / l_b| <= V in out, once, whatever the number of blocks: less than the
 * terms for sums in launch/bounds.h, which are at least 6 x 2^-24 of either, and in place of
 * the combines there.
 *
 * NaN and inf are no integers. They set flags, which stay set whatever is added, in or out of
 * range; a row with a NaN in l is NaN.
 *
 * The idea of bins that are kept or forgotten as a whole is that of Demmel and Nguyen, "Fast
 * Reproducible Floating-Point Summation", ARITH 2013; with one common exponent for all columns
 * of a row, since out is compared with the largest |v| anyway. */
#include "attention/fixed.h"

static uint32_t size_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

static const uint32_t infinite_bits = 0x7f800000; /* of inf; a NaN's are larger */

size_t banyan_fixed_bytes(int32_t value_dim)
{
    return (size_t)fixed_words(value_dim) * sizeof(int64_t);
}

void banyan_fixed_clear(void *sums, int32_t value_dim, int64_t rows)
{
    const size_t bytes = banyan_fixed_bytes(value_dim);
    memset(sums, 0, (size_t)rows * bytes);
    for (int64_t i = 0; i < rows; i++) {
        fixed_row row = fixed_row_at((char *)sums + (size_t)i * bytes, value_dim);
        *row.o.n = *row.l.n = -INFINITY;
    }
}

/* ---- one block more ---------------------------------------------------------------------- */

/* to[b] = a[b] + b[b - gap], from the lowest bin up, so that `to` may be either. b NULL:
 * nothing. */
static void add_bins(int64_t *to, const int64_t *a, const int64_t *b, double gap,
                     int32_t columns)
{
    const int32_t shift = gap < FIXED_BINS ? (int32_t)gap : FIXED_BINS;
    for (int32_t i = FIXED_BINS - 1; i >= 0; i--) {
        uint64_t *sum = (uint64_t *)(to + (int64_t)i * columns);
        const uint64_t *x = a ? (const uint64_t *)(a + (int64_t)i * columns) : NULL;
        const uint64_t *y =
            i >= shift ? (const uint64_t *)(b + (int64_t)(i - shift) * columns) : NULL;
        for (int32_t d = 0; d < columns; d++) sum[d] = (x ? x[d] : 0) + (y ? y[d] : 0);
    }
}

int64_t *banyan_fixed_bin(fixed_sum *sum, double n, int64_t j)
{
    double above = fixed_above(sum, n, j);
    if (above < 0) {
        add_bins(sum->bin, NULL, sum->bin, -above, sum->columns);
        *sum->n = n, *sum->j = j;
        above = 0;
    } else if (above < 1 && n > *sum->n) {
        *sum->n = n, *sum->j = j; /* the same bin by another name: the highest n stays */
    }
    return above < FIXED_BINS ? sum->bin + (int64_t)above * sum->columns : NULL;
}

static void set_flags(const fixed_row *row, int32_t at, float x)
{
    const uint64_t bit = (uint64_t)1 << at % 64;
    if (x != x || x > 0) row->plus[at / 64] |= bit;
    if (x != x || x < 0) row->minus[at / 64] |= bit;
}

static uint32_t largest_bits(const float *o, int32_t count)
{
    uint32_t largest = 0;
    for (int32_t d = 0; d < count; d++)
        largest = size_bits(o[d]) > largest ? size_bits(o[d]) : largest;
    return largest;
}

static void add_values(const fixed_row *row, const fixed_base *base, const float *o,
                       int32_t value_dim)
{
    float finite[BANYAN_MAX_DIM];
    uint32_t largest = largest_bits(o, value_dim);
    if (largest >= infinite_bits) {
        for (int32_t d = 0; d < value_dim; d++) {
            finite[d] = size_bits(o[d]) < infinite_bits ? o[d] : 0;
            if (size_bits(o[d]) >= infinite_bits) set_flags(row, d, o[d]);
        }
        o = finite;
        largest = largest_bits(o, value_dim);
    }
    double factor;
    int64_t *bin = largest ? fixed_place(row->o, base, largest, &factor) : NULL;
    for (int32_t d = 0; bin && d < value_dim; d++) bin[d] += fixed_units(o[d], factor);
}

void banyan_fixed_add(void *sum, double base, float l, const float *o, int32_t value_dim)
{
    const fixed_row row = fixed_row_at(sum, value_dim);
    if (l == 0) return;
    if (!isfinite(base) || !(l > 0 && l < INFINITY)) {
        set_flags(&row, value_dim, NAN);
        return;
    }
    double factor;
    const fixed_base at = fixed_base_of(base);
    int64_t *bin = fixed_place(row.l, &at, size_bits(l), &factor);
    if (bin) *bin += fixed_units(l, factor);
    add_values(&row, &at, o, value_dim);
}

/* ---- two sums ---------------------------------------------------------------------------- */

static void combine_sums(fixed_sum *out, const fixed_sum *x, const fixed_sum *y)
{
    double above = fixed_above(x, *y->n, *y->j);
    if (*y->n == -INFINITY) above = INFINITY; /* of no bins */
    const fixed_sum *high = above >= 0 ? x : y, *low = above >= 0 ? y : x;
    double n = *high->n;
    int64_t j = *high->j;
    if (above == 0 && *low->n > n) n = *low->n, j = *low->j;
    add_bins(out->bin, high->bin, low->bin, fabs(above), out->columns);
    *out->n = n, *out->j = j;
}

void banyan_fixed_combine(void *out, const void *lo, const void *hi, int32_t value_dim,
                          int64_t rows)
{
    const size_t bytes = banyan_fixed_bytes(value_dim);
    for (size_t i = 0; i < (size_t)rows; i++) {
        fixed_row to = fixed_row_at((char *)out + i * bytes, value_dim);
        const fixed_row x = fixed_row_at((char *)lo + i * bytes, value_dim);
        const fixed_row y = fixed_row_at((char *)hi + i * bytes, value_dim);
        combine_sums(&to.o, &x.o, &y.o);
        combine_sums(&to.l, &x.l, &y.l);
        for (int32_t f = 0; f < to.flags; f++) {
            to.plus[f] = x.plus[f] | y.plus[f];
            to.minus[f] = x.minus[f] | y.minus[f];
        }
    }
}

/* ---- back to a partial ------------------------------------------------------------------- */

static double total(const fixed_sum *sum, int32_t column)
{
    double x = 0;
    for (int32_t i = FIXED_BINS - 1; i >= 0; i--)
        x = x * (1.0 / (1 << FIXED_WIDTH)) +
            (double)sum->bin[(int64_t)i * sum->columns + column];
    return x;
}

static int is_flagged(const uint64_t *flags, int32_t at)
{
    return (int)(flags[at / 64] >> at % 64 & 1);
}

/* l = exp(lse - m) with m the float above lse: 1, but for the rounding of m. An m of 2^24 and
 * more has no fraction bits, and may lie so far from lse that nothing would be left of l and o:
 * there lse is the nearest m, and l is 1. */
static void round_row(const fixed_row *row, float *partial, int32_t value_dim)
{
    const double l = total(&row->l, 0);
    const double lse =
        (FIXED_WIDTH * (*row->l.n + (double)*row->l.j) - FIXED_BITS + log2(l)) * M_LN2;
    float m = (float)lse;
    const int is_whole = fabsf(m) >= 0x1p24f;
    if (!is_whole && (double)m < lse) m = nextafterf(m, INFINITY);
    const double rest = is_whole ? 1 : exp(lse - (double)m);
    const double apart = (*row->o.n - *row->l.n) + (double)(*row->o.j - *row->l.j);
    const double unit = exp2(apart * FIXED_WIDTH) * rest / l;
    for (int32_t d = 0; d < value_dim; d++) {
        const int plus = is_flagged(row->plus, d), minus = is_flagged(row->minus, d);
        partial[d] = (float)(total(&row->o, d) * unit);
        if (plus || minus) partial[d] = plus && minus ? NAN : plus ? INFINITY : -INFINITY;
    }
    partial[value_dim] = m;
    partial[value_dim + 1] = (float)rest;
}

void banyan_fixed_round(const void *sums, float *partials, int32_t value_dim, int64_t rows)
{
    const size_t bytes = banyan_fixed_bytes(value_dim);
    const int64_t stride = (int64_t)banyan_partial_floats(value_dim);
    for (int64_t i = 0; i < rows; i++) {
        const fixed_row row = fixed_row_at((char *)sums + (size_t)i * bytes, value_dim);
        float rounded[BANYAN_MAX_DIM + 2];
        if (is_flagged(row.plus, value_dim))
            for (int32_t d = 0; d < stride; d++) rounded[d] = NAN;
        else if (*row.l.n == -INFINITY)
            banyan_partial_clear(rounded, value_dim, 1);
        else
            round_row(&row, rounded, value_dim);
        memcpy(partials + i * stride, rounded, (size_t)stride * sizeof *rounded);
    }
}

void banyan_fixed_strip(const void *sums, void *out, int32_t value_dim, int64_t rows)
{
    const size_t bytes = banyan_fixed_bytes(value_dim), stripped = banyan_fixed_bytes(0);
    banyan_fixed_clear(out, 0, rows);
    for (size_t i = 0; i < (size_t)rows; i++) {
        const fixed_row row = fixed_row_at((char *)sums + i * bytes, value_dim);
        fixed_row to = fixed_row_at((char *)out + i * stripped, 0);
        *to.l.n = *row.l.n, *to.l.j = *row.l.j;
        memcpy(to.l.bin, row.l.bin, FIXED_BINS * sizeof *row.l.bin);
        *to.plus = *to.minus = (uint64_t)is_flagged(row.plus, value_dim);
    }
}
