/* SPDX-License-Identifier: Apache-2.0 */
/* exact_sum.h - a block's numbers into fixed-point sums, as attention/fixed.c has it. For
 * device code.
 *
 * The base of a block's weights is a whole power of two here: 2^(16 n + whole), whole from 0 to
 * 15 but for what weights and values were multiplied by. So a term is turned into units by a
 * shift of its exponent, and is rounded once. */
#ifndef BANYAN_ATTENTION_CUDA_EXACT_SUM_H
#define BANYAN_ATTENTION_CUDA_EXACT_SUM_H

#include "attention/cuda/ptx.h"
#include "attention/fixed_layout.h"

/* The highest bin of a sum, or the bin of a term: number n + j; n -inf: none. */
struct exact_bin {
    double n;
    int64_t j;
};
/* How many bins `a` lies above b. The difference of the n comes first: they are exact, and may
 * be large. */
PTX_FN double bins_above(const exact_bin &a, const exact_bin &b)
{
    return (a.n - b.n) + (double)(a.j - b.j);
}
/* `top` becomes the highest of both; of two names of one bin that with the highest n. Returns
 * by how many bins it rises, FIXED_BINS at most. */
PTX_FN int raise_top(exact_bin &top, const exact_bin &by)
{
    if (by.n == -INFINITY) return 0;
    const double above = bins_above(top, by);
    if (above < 0 || (above == 0 && by.n > top.n)) top = by;
    return above <= -FIXED_BINS ? FIXED_BINS : above < 0 ? (int)-above : 0;
}
/* Which of a sum's bins `at` is: 0 the highest; FIXED_BINS: too low to count. */
PTX_FN int bins_below(const exact_bin &top, const exact_bin &at)
{
    if (at.n == -INFINITY) return FIXED_BINS;
    const double below = bins_above(top, at);
    return below < FIXED_BINS ? (int)below : FIXED_BINS;
}

/* Where terms go of which the largest has these bits (of its size, an fp32 that is finite and
 * not 0), and what turns a term into units of that bin. */
struct exact_place {
    exact_bin at;
    double factor;
};
PTX_FN exact_place place_of(double n, int whole, uint32_t largest_bits)
{
    const int field = (int)(largest_bits >> 23), exponent = (field ? field : 1) - 126;
    const int j = ((exponent + whole) >> 4) + 1; /* down, of a negative one too */
    const int64_t power = whole - FIXED_WIDTH * j + FIXED_BITS;
    return {{n, j}, __longlong_as_double((long long)((power + 1023) << 52))};
}
/* x in units, to the nearest integer: 2^52 x 1.5 has its last bit at 1. The product is
 * exact. */
PTX_FN int64_t units_of(float x, double factor)
{
    const double zero = 6755399441055744.0, shifted = (double)x * factor + zero;
    return __double_as_longlong(shifted) - __double_as_longlong(zero);
}

/* The l of a row: one column. */
struct exact_length {
    exact_bin top;
    int64_t bin[FIXED_BINS];
    int32_t is_nan;
};
PTX_FN void clear_length(exact_length *l)
{
    l->top = {-INFINITY, 0};
    for (int i = 0; i < FIXED_BINS; i++) l->bin[i] = 0;
    l->is_nan = 0;
}
PTX_FN void add_length(exact_length *l, const exact_place &place, float x)
{
    const int rise = raise_top(l->top, place.at), below = bins_below(l->top, place.at);
    for (int i = FIXED_BINS - 1; rise && i >= 0; i--)
        l->bin[i] = i >= rise ? l->bin[i - rise] : 0;
    if (below < FIXED_BINS) l->bin[below] += units_of(x, place.factor);
}

#endif
