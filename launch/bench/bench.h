/* SPDX-License-Identifier: Apache-2.0 */
/* bench.h - the parts of `banyan bench`: what this machine can do at most, what a row of the table
 * must do at least, and the measuring. */
#ifndef BANYAN_BENCH_H
#define BANYAN_BENCH_H

#include "launch/launch.h"

/* ---- ceilings -------------------------------------------------------------------------------- */

/* One kind of arithmetic: a loop that stays in registers. `rounds` runs of it return something that
 * depends on all of it. */
typedef struct peak {
    const char *name;
    const char *kernel;   /* the kernel whose ceiling it is */
    bool bf16;            /* bf16 dot products; else fp32 multiply-adds */
    double flop_of_round; /* a multiply-add is 2 */
    bool (*usable)(void);
    float (*loop)(int64_t rounds);
} peak;
extern const peak peak_scalar, peak_avx2, peak_avx512, peak_avx512_bf16;

typedef struct ceilings {
    double read;      /* bytes a second, from memory far beyond the caches */
    double flops;     /* operations a second, all threads together */
    const peak *math; /* of this kind */
} ceilings;
/* What `threads` threads can do at most, in the arithmetic of a kernel with a cache format. false:
 * out of memory. */
bool ceilings_measure(int threads, bool quick, const char *kernel, banyan_dtype dtype,
                      ceilings *out);

/* ---- rows -------------------------------------------------------------------------------------- */

typedef struct bench_row {
    const char *name;
    int32_t heads, kv_heads, key_dim, value_dim;
    banyan_dtype dtype;
    const char *kernel, *use; /* NULL: the fastest; dense */
    int64_t tokens;
    int32_t rows;     /* decode rows at the end; 0: prefill of all tokens */
    bool each_thread; /* also with one thread */
    double bar;       /* the fraction of the bound that it should reach */
    const char *like; /* NULL, or: the row whose rate it should keep up with */
} bench_row;
extern const bench_row bench_rows[]; /* ends with a NULL name */

/* What a row did, and the least that it can have taken. */
typedef struct bench_result {
    const char *kernel;
    int threads, repetitions;
    ceilings at_most;
    double bytes, flops;             /* that must be read, and done */
    double memory_bound, math_bound; /* seconds */
    double median, spread;           /* seconds; half of the middle half, relative */
    double over_like; /* median / time at the rate of row->like; 0: not measured */
} bench_result;
static inline double bench_bound(const bench_result *r)
{
    return r->memory_bound > r->math_bound ? r->memory_bound : r->math_bound;
}
int bench_measure(const job *j, const bench_row *row, int threads, bool quick,
                  bench_result *out);

#endif
