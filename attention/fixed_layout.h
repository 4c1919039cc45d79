/* SPDX-License-Identifier: Apache-2.0 */
/* fixed_layout.h - how a row's fixed-point sum lies in memory, the host's or a device's. The
 * theory is in fixed.c.
 *
 * A row in 8-byte words, columns being value_dim rounded up to 16:
 *
 *     o: n, j | l: n, j | l bins [BINS] | plus [flags] minus [flags], padded to 8 | o bins
 *     [BINS][columns]
 *
 * n + j numbers the highest bin of a sum; n = -inf: there is none. Flags: one bit for each
 * value, and the bit after them for l. plus: NaN or +inf was added; minus: NaN or -inf. */
#ifndef BANYAN_FIXED_LAYOUT_H
#define BANYAN_FIXED_LAYOUT_H

#include <stdint.h>

#ifdef __CUDACC__
#define FIXED_FN static __host__ __device__ __forceinline__
#else
#define FIXED_FN static inline
#endif

enum {
    FIXED_BINS = 4,
    FIXED_WIDTH = 16, /* W: bits between two bins */
    FIXED_BITS = 41,  /* T: a term is below 2^T units of its bin */
    FIXED_HEAD = 8    /* words before the flags */
};

FIXED_FN int32_t fixed_columns(int32_t value_dim)
{
    return (value_dim + 15) / 16 * 16;
}
FIXED_FN int32_t fixed_flags(int32_t value_dim) /* words of plus, and of minus */
{
    return value_dim / 64 + 1;
}
FIXED_FN int32_t fixed_bins_at(int32_t value_dim) /* where o's bins begin */
{
    return FIXED_HEAD + (2 * fixed_flags(value_dim) + 7) / 8 * 8;
}
FIXED_FN int32_t fixed_words(int32_t value_dim)
{
    return fixed_bins_at(value_dim) + FIXED_BINS * fixed_columns(value_dim);
}

#endif
