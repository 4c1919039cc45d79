/* SPDX-License-Identifier: Apache-2.0 */
/* bench.h - the parts of `banyan bench`: what a row of the table must do at least, and the
 * measuring, beside what this machine can do at most. */
#ifndef BANYAN_BENCH_H
#define BANYAN_BENCH_H

#include "launch/device.h"
#include "launch/launch.h"
#include "launch/machine/machine.h"
#include "launch/single.h"

/* Somebody else's attention, beside ours: peer.c. */
typedef struct bench_peer bench_peer;

typedef struct bench {
    const job *j;
    bench_peer *peer; /* or NULL */
    pace pace;        /* quick: a 64th of the tokens, one repetition */
    bool is_wide;     /* lines as long as they come */
    FILE *json;       /* or NULL */
} bench;

/* Where a row's name ends, and where what was measured of it begins: of what is wrapped. */
enum { BENCH_BELOW = 25, BENCH_WORDS = 47 };

/* ---- rows -------------------------------------------------------------------------------- */

typedef struct bench_row {
    const char *name;
    int32_t heads, kv_heads, key_dim, value_dim;
    bool value_in_key;
    banyan_dtype dtype;
    const char *kernel, *use; /* NULL: the fastest; dense */
    int64_t tokens;
    int32_t rows;     /* decode rows at the end; 0: prefill of all tokens */
    int32_t every;    /* prefill: time one call of so many, the others only append */
    bool each_thread; /* also with one thread */
    bool reproducible;
    double bar;                /* the fraction of the bound that it should reach */
    int32_t sequences, layers; /* 0: 1. Of so many sequences each has `tokens` tokens */
    const char *placement;     /* NULL: the default */
    const char *like;          /* NULL, or: the row whose rate it should keep up with .. */
    double like_bar;           /* .. and how much longer it may take than at that rate */
    const char *const
        *layer_use; /* NULL, or of each layer; all read the keys and values of the first */
} bench_row;
extern const bench_row bench_rows[]; /* ends with a NULL name */

/* What a row did in one repetition, and the least that it can have taken: medians. */
typedef struct bench_result {
    const char *kernel;
    int threads, repetitions;
    const peak *math;
    rates at_most;
    double bytes, flops;             /* that must be read, and done */
    double memory_bound, math_bound; /* seconds */
    double seconds, spread;          /* spread: half of the middle half, relative */
    double fraction;                 /* of each repetition's bound / its time, the median */
} bench_result;
int bench_measure(const bench *b, ceilings *c, const bench_row *row, int threads,
                  bench_result *out);

/* ---- peers ------------------------------------------------------------------------------- */

typedef struct bench_peer_rate {
    const char *version;
    int64_t tokens; /* of its calls */
    int turns;
    double seconds, spread; /* of a call: median, half of the middle half, relative */
    double flops;           /* operations a second */
} bench_peer_rate;

/* "torch". NULL: said why. */
bench_peer *bench_peer_open(const job *j, const char *name);
void bench_peer_close(bench_peer *p);
/* Its next turns are of this row, if it has something like it; and a turn, up to nine. */
void bench_peer_row(bench_peer *p, const bench_row *row, int64_t tokens, int threads);
void bench_peer_turn(bench_peer *p);
/* false: it had none. */
bool bench_peer_result(bench_peer *p, bench_peer_rate *out);

/* ---- what rows are made of --------------------------------------------------------------- */

enum {
    SEQUENCE_CHUNK = 512, /* rows in one call of a prefill */
    BENCH_SEQUENCES = 64, /* sequences at most */
    BENCH_LAYERS = 8      /* layers at most */
};

/* A row's plan, cache and arrays. */
typedef struct sequence {
    const bench_row *row;
    int64_t tokens;
    banyan_comm *comm, *own_comm; /* own_comm: made here */
    banyan_plan *plan;
    banyan_cache *cache;
    int32_t layers, sequences;
    banyan_rows batch[BENCH_SEQUENCES];
    float *q, *k, *v, *out; /* SEQUENCE_CHUNK rows */
} sequence;
/* comm NULL: this process alone. On failure sequence_close frees what there is. */
banyan_status sequence_open(sequence *s, const bench_row *row, int64_t tokens,
                            banyan_comm *comm, int threads);
void sequence_close(sequence *s);
banyan_status sequence_new_cache(sequence *s);
/* The call in one layer, and in each, for tokens at .. at+rows-1 of every sequence; a row may
 * attend, append or both. */
banyan_status sequence_layer(sequence *s, int32_t layer, int64_t at, int32_t rows, bool appends,
                             bool attends);
banyan_status sequence_call(sequence *s, int64_t at, int32_t rows, bool appends, bool attends);
/* The same, but one call for each sequence. */
banyan_status sequence_calls(sequence *s, int64_t at, int32_t rows, bool appends, bool attends);
/* A new cache with the row's tokens in it. */
banyan_status sequence_fill(sequence *s);

/* ---- rows of another kind ---------------------------------------------------------------- */

/* 1000 decode steps: memory. */
extern const char steady_name[];
int steady_run(const bench *b, int threads);
/* Decode with fixed-point sums against decode without: time. */
extern const char reproducible_name[];
int reproducible_run(const bench *b, int threads);
/* A prefill's call that chooses columns and diagonals against one that reads all: time. */
extern const char *const lines_names[]; /* ends with NULL */
int lines_run(const bench *b, int index, int threads);
/* Under mpirun: N ranks with one thread against one rank with N threads. */
extern const char *const ranks_names[]; /* ends with NULL */
int ranks_run(const bench *b, int index);
/* Blocks chosen by data against all of them, under mpirun or alone. */
extern const char *const choosing_names[]; /* ends with NULL */
int choosing_run(const bench *b, int index);

#endif
