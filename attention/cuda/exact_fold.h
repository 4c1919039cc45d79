/* SPDX-License-Identifier: Apache-2.0 */
/* exact_fold.h - rows of fixed-point sums (attention/fixed.c) added up, bin by bin, which are
 * integers, so in any order; and rounded, once. By all threads of a block. For device code. */
#ifndef BANYAN_ATTENTION_CUDA_EXACT_FOLD_H
#define BANYAN_ATTENTION_CUDA_EXACT_FOLD_H

#include "attention/cuda/exact_sum.h"
#include "attention/cuda/partial.h"

enum { EXACT_COLUMNS = 256 / PARTIAL_THREADS }; /* of a thread, of PARTIAL_THREADS */

/* Sums of one row, `step` words apart; .. */
struct exact_list {
    const int64_t *first;
    int64_t step;
    int count;
    __device__ __forceinline__ const int64_t *at(int i) const
    {
        return first + i * step;
    }
};
/* .. or anywhere, each `offset` words behind a pointer. */
struct exact_pointers {
    const float *const *value;
    int64_t offset;
    int count;
    __device__ __forceinline__ const int64_t *at(int i) const
    {
        return (const int64_t *)value[i] + offset;
    }
};

PTX_FN exact_bin top_of(const int64_t *row, int of_length)
{
    return {*(const double *)(row + 2 * of_length), row[2 * of_length + 1]};
}

template <typename Parts> PTX_FN exact_bin highest(const Parts &parts, int of_length)
{
    exact_bin top = {-INFINITY, 0};
    for (int p = 0; p < parts.count; p++) raise_top(top, top_of(parts.at(p), of_length));
    return top;
}

/* sum: of a column, whose bins are `columns` words apart, the first `at` words into a part. */
template <typename Parts>
PTX_FN void sum_column(int64_t (&sum)[FIXED_BINS], const Parts &parts, const exact_bin &top,
                       int of_length, int at, int columns)
{
#pragma unroll
    for (int b = 0; b < FIXED_BINS; b++) sum[b] = 0;
    for (int p = 0; p < parts.count; p++) {
        const int64_t *const part = parts.at(p);
        const int below = bins_below(top, top_of(part, of_length));
#pragma unroll
        for (int b = 0; b < FIXED_BINS; b++)
            if (b >= below) sum[b] += part[at + (b - below) * columns];
    }
}

/* One word of all parts' flags. */
template <typename Parts> PTX_FN int64_t flags_of(const Parts &parts, int word)
{
    int64_t flags = 0;
    for (int p = 0; p < parts.count; p++) flags |= parts.at(p)[word];
    return flags;
}
template <typename Parts>
PTX_FN bool has_flag(const Parts &parts, bool is_minus, int dim, int d)
{
    const int word = FIXED_HEAD + (is_minus ? fixed_flags(dim) : 0) + d / 64;
    return (flags_of(parts, word) >> d % 64 & 1) != 0;
}

/* ---- a row in threads -------------------------------------------------------------------- */

/* What a thread has of the parts' sum: column threadIdx.x + i PARTIAL_THREADS is number i. */
struct exact_row {
    int64_t sum[EXACT_COLUMNS][FIXED_BINS], length[FIXED_BINS];
    exact_bin top, top_l;
};

template <typename Parts> PTX_FN exact_row sum_of(const Parts &parts, int dim)
{
    exact_row row;
    row.top = highest(parts, 0);
    row.top_l = highest(parts, 1);
#pragma unroll
    for (int i = 0; i < EXACT_COLUMNS; i++) {
        const int d = (int)threadIdx.x + i * PARTIAL_THREADS;
        if (d < dim)
            sum_column(row.sum[i], parts, row.top, 0, fixed_bins_at(dim) + d,
                       fixed_columns(dim));
    }
    sum_column(row.length, parts, row.top_l, 1, 4, 1);
    return row;
}

/* out may be one of the parts: all threads come here, and read nothing of them but flags after
 * it. */
template <typename Parts>
PTX_FN void store_sum_row(int64_t *out, const exact_row &row, const Parts &parts, int dim)
{
    int64_t *const bins = out + fixed_bins_at(dim);
    const int flag = FIXED_HEAD + (int)threadIdx.x;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EXACT_COLUMNS; i++) {
        const int d = (int)threadIdx.x + i * PARTIAL_THREADS;
#pragma unroll
        for (int b = 0; b < FIXED_BINS; b++)
            if (d < dim) bins[b * fixed_columns(dim) + d] = row.sum[i][b];
    }
    if (flag < FIXED_HEAD + 2 * fixed_flags(dim)) out[flag] = flags_of(parts, flag);
    if (threadIdx.x) return;
    *(double *)out = row.top.n;
    out[1] = row.top.j;
    *(double *)(out + 2) = row.top_l.n;
    out[3] = row.top_l.j;
    for (int b = 0; b < FIXED_BINS; b++) out[4 + b] = row.length[b];
}

/* ---- rounded ----------------------------------------------------------------------------- */

PTX_FN double total_of(const int64_t (&bin)[FIXED_BINS])
{
    double x = 0;
    for (int b = FIXED_BINS - 1; b >= 0; b--)
        x = x * (1.0 / (1 << FIXED_WIDTH)) + (double)bin[b];
    return x;
}

/* m, l and what o's totals are multiplied by: round_row of fixed.c, which says why. */
struct exact_ends {
    ends e;
    double unit;
    bool is_number; /* o is: something was seen, and l is no NaN */
};
template <typename Parts> PTX_FN exact_ends round_ends(const Parts &parts, int dim)
{
    const exact_bin top = highest(parts, 0), top_l = highest(parts, 1);
    int64_t length[FIXED_BINS];
    if (has_flag(parts, false, dim, dim)) return {{NAN, NAN}, 0, false};
    if (top_l.n == -INFINITY) return {{-INFINITY, 0}, 0, false};
    sum_column(length, parts, top_l, 1, 4, 1);
    const double l = total_of(length);
    const double bin = FIXED_WIDTH * (top_l.n + (double)top_l.j) - FIXED_BITS;
    const double lse = (bin + log2(l)) * 0.69314718055994530942;
    float m = (float)lse;
    const bool is_whole = fabsf(m) >= 16777216.0f;
    if (!is_whole && (double)m < lse) m = nextafterf(m, INFINITY);
    const double rest = is_whole ? 1 : exp(lse - (double)m);
    return {{m, (float)rest}, exp2(bins_above(top, top_l) * FIXED_WIDTH) * rest / l, true};
}

/* Column d of a partial. */
PTX_FN float round_column(const int64_t (&sum)[FIXED_BINS], const exact_ends &ends,
                          bool is_plus, bool is_minus)
{
    if (!ends.is_number) return ends.e.l; /* NaN, or 0 of nothing */
    if (is_plus || is_minus) return is_plus && is_minus ? NAN : is_plus ? INFINITY : -INFINITY;
    return (float)(total_of(sum) * ends.unit);
}

#endif
