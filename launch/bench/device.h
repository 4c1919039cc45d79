/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - the rows of `banyan bench --device cuda`. */
#ifndef BANYAN_BENCH_DEVICE_H
#define BANYAN_BENCH_DEVICE_H

#include "launch/bench/bench.h"

typedef struct device_bench_row {
    const char *name;
    int32_t layers, heads, kv_heads, dim;
    banyan_dtype dtype;
    const char *use;      /* NULL: dense */
    int32_t dense_layers; /* the first so many are dense all the same */
    int64_t tokens;
    int64_t from; /* attend to rows from here on; the others only append */
    double bar;   /* the fraction of the bound that it should reach; 0: only the time counts */
    const char *like; /* NULL, or: the row whose work it is compared with */
    double like_bar;  /* of a decode: how much of that row's time it may take; of a prefill: how
                         much of that row's rate it should keep */
} device_bench_row;
extern const device_bench_row device_bench_rows[]; /* ends with a NULL name */

/* A decode is one row at the end, from == tokens - 1. */
static inline bool is_decode(const device_bench_row *row)
{
    return row->from == row->tokens - 1;
}

typedef struct device_result {
    const char *kernel;
    double copy, matrix; /* ceilings: bytes and operations a second */
    double bytes, flops; /* that must be read, and done */
    double seconds, spread;
    int repetitions;
    bool is_replayed; /* as a graph: without what a call costs the host */
} device_result;

/* Measures one row, and its ceilings just before. MEMORY when the device has too little: the
 * words are the library's. */
banyan_status device_measure(const bench *b, const device_bench_row *row, device_result *out);

/* The whole table; only says which rows are wanted. */
int device_run(const bench *b, bool (*wanted)(void *arg, const char *name), void *arg);

#endif
