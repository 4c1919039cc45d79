/* SPDX-License-Identifier: Apache-2.0 */
/* fixed.h - where a block's numbers go in a fixed-point sum: what fixed.c and the kernels
 * share. The theory is in fixed.c, the layout in fixed_layout.h. */
#ifndef BANYAN_FIXED_H
#define BANYAN_FIXED_H

#include "attention/attention.h"
#include "attention/fixed_layout.h"

#include <math.h>
#include <string.h>

typedef struct fixed_sum { /* the o, or the l, of a row */
    double *n;
    int64_t *j;
    int64_t *bin; /* [FIXED_BINS][columns] */
    int32_t columns;
} fixed_sum;

typedef struct fixed_row {
    fixed_sum o, l;
    uint64_t *plus, *minus; /* [flags] */
    int32_t flags;
} fixed_row;

static inline fixed_row fixed_row_at(void *words, int32_t value_dim)
{
    int64_t *at = words;
    const int32_t flags = fixed_flags(value_dim);
    uint64_t *mark = (uint64_t *)words + FIXED_HEAD;
    return (fixed_row){
        .o = {(double *)words, at + 1, at + fixed_bins_at(value_dim), fixed_columns(value_dim)},
        .l = {(double *)words + 2, at + 3, at + 4, 1},
        .plus = mark,
        .minus = mark + flags,
        .flags = flags,
    };
}

/* A block's base point: exp(base) = 2^(W n) power. */
typedef struct fixed_base {
    double n, power; /* power = 2^rest, 0 <= rest < W */
    int whole;       /* of rest */
} fixed_base;

/* 2^x, 0 <= x <= W, within 2^-38 of itself, and the same bits wherever it is compiled; a call
 * of exp2 would cost a decoded row more than its sums do. 2^x = 2^k 2^f with k the nearest
 * integer; 2^f = 1 + f g(f), and g, of degree 7, meets (2^f - 1) / f at the Chebyshev nodes of
 * [-1/2, 1/2]. */
static inline double fixed_power(double x)
{
    const double shifted = x + 0x1.8p52; /* has its last bit at 1 */
    const double f = x - (shifted - 0x1.8p52), f2 = f * f;
    const double low = (0x1.62e42fef9cc69p-1 + 0x1.ebfbdff82a734p-3 * f) +
                       (0x1.c6b08da70cce3p-5 + 0x1.3b2ab70ad2565p-7 * f) * f2;
    const double high = (0x1.5d877598350dep-10 + 0x1.4308c7183d6a2p-13 * f) +
                        (0x1.00c0e4e15189cp-16 + 0x1.63b2d7971923fp-20 * f) * f2;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52; /* k is in the low bits */
    double whole;
    memcpy(&whole, &bits, sizeof whole);
    return whole * (1 + f * (low + high * (f2 * f2)));
}

static inline fixed_base fixed_base_of(double base)
{
    const double y = base * 1.4426950408889634;
    const double n = floor(y / FIXED_WIDTH), rest = y - n * FIXED_WIDTH;
    return (fixed_base){n, fixed_power(rest), (int)rest};
}

/* How many bins `sum`'s top lies above n + j. The difference of the n comes first: they are
 * exact, and may be large. */
static inline double fixed_above(const fixed_sum *sum, double n, int64_t j)
{
    return (*sum->n - n) + (double)(*sum->j - j);
}

/* The bin n + j of a sum, which gets it if it can; NULL: it is too low to count. */
int64_t *banyan_fixed_bin(fixed_sum *sum, double n, int64_t j);

/* The bin for terms of which the largest has these bits (of its size, an fp32 that is finite
 * and not 0), and in *factor what turns a term into units of that bin. Most often the sum has
 * that bin. */
static inline int64_t *fixed_place(fixed_sum sum, const fixed_base *base, uint32_t largest_bits,
                                   double *factor)
{
    enum {
        FAR = 256
    }; /* a multiple of W beyond all exponents: what is divided is not negative */
    const int field = (int)(largest_bits >> 23), exponent = (field ? field : 1) - 126;
    const int j = (exponent + base->whole + FAR) / FIXED_WIDTH - FAR / FIXED_WIDTH + 1;
    const uint64_t power_bits = (uint64_t)(FIXED_BITS - FIXED_WIDTH * j + 1023) << 52;
    const double above = fixed_above(&sum, base->n, j);
    double power;
    memcpy(&power, &power_bits, sizeof power);
    *factor = base->power * power;
    if (above == 0 && base->n <= *sum.n) return sum.bin;
    if (above == 1 && base->n <= *sum.n) return sum.bin + sum.columns;
    return banyan_fixed_bin(&sum, base->n, j);
}

/* x in units, to the nearest integer: 2^52 x 1.5 has its last bit at 1. */
static inline int64_t fixed_units(float x, double factor)
{
    const double shifted = (double)x * factor + 0x1.8p52, zero = 0x1.8p52;
    int64_t bits, zero_bits;
    memcpy(&bits, &shifted, sizeof bits);
    memcpy(&zero_bits, &zero, sizeof zero_bits);
    return bits - zero_bits;
}

#endif
