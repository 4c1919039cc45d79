/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - the parts of `banyan run`: steps (append, prefill, decode on seeded data), the float64
 * oracle that samples are compared with, and the report. */
#ifndef BANYAN_RUN_H
#define BANYAN_RUN_H

#include "launch/device.h"
#include "launch/launch.h"
#include "launch/single.h"

/* q has this deviation, k and v 1, so that scores have it, too: some tokens matter, none alone does.
 * A power of two: it rounds nothing. */
enum { RUN_Q_DEVIATION = 2 };

/* One output row of one query head that is compared with the oracle. Which ones is a function of
 * the config alone, so every rank has the same list; `checker` is the rank that checks it. */
typedef struct run_sample {
    int32_t layer, head, checker;
    int64_t token;
    bool taken; /* out and lse were copied when the row was computed */
    float lse;
    float *out; /* [value_dim] */
} run_sample;

/* What one rank measured; exchanged as bytes. */
typedef struct run_figures {
    double append_seconds, append_bytes; /* keys and values in the cache's format */
    double append_cpu;      /* seconds that this rank's threads worked, when cores are shared */
    double prefill_seconds; /* calls that attend, before the decode steps */
    double rss_growth;      /* bytes since before the cache was made, on the host */
    double worst_error;     /* |out - oracle| */
    double worst_share;     /* error / bound, of out and lse */
    int64_t lined; /* .. and those that read columns and diagonals, which are not compared */
    int64_t near_ties; /* of the rows that were checked, those that could not be compared */
    int64_t checked, kept_bytes, planned_bytes, workspace_bytes, messages, bytes_sent;
    uint64_t bits; /* a hash of every output row that this rank holds */
} run_figures;

typedef struct run_task {
    const job *j;
    config_spec asked;
    banyan_plan *plan;
    banyan_cache *cache;
    banyan_sequence *sequence;
    const banyan_spec *spec; /* the plan's: defaults filled in */
    int64_t at, tokens;      /* append only below `at`, attend up to `tokens` */
    int64_t loaded;          /* tokens that a snapshot has */
    int32_t decode, rows;
    uint64_t seed;
    int64_t period; /* 0, or: tokens repeat after as many, in all layers alike */
    bool all;       /* outputs are on every rank */
    device_array q, k, v, out, lse; /* fp32 */
    run_sample *sample;
    int32_t samples;
    double *step_seconds; /* [decode] */
    char step[64];        /* what is running, for messages */
    run_figures mine;
} run_task;

/* Append, prefill and decode, timing each; fills samples, step_seconds and mine. */
banyan_status run_steps(run_task *t);

/* A block and how well it fits a row. */
typedef struct run_scored {
    double score;
    int64_t block;
} run_scored;

/* The value of one output row in float64, and what its error bound depends on. */
typedef struct oracle_row {
    double *out; /* [value_dim] */
    double lse;
    int64_t tokens;       /* that the row sees */
    double size;          /* largest scale * sum |q_d k_d| of any of them */
    double largest_value; /* largest |v| of any of them */
    double spread;        /* sqrt(sum weight^2), weights summing to 1 */
    /* choice.c: blocks that it chose by data [blocks]; it may as well have been others: a tie, but for
     * rounding; and room for that. */
    unsigned char *chosen;
    bool is_near_tie;
    bool is_lined;      /* it reads columns and diagonals: which, another call's rows say */
    run_scored *scored; /* [blocks] */
    double *pooled;     /* [heads][key_dim] */
} oracle_row;
/* For rows of at most so many tokens: more than the plan's where each rank has one of its own (rings).
 * MEMORY; free it all the same. */
banyan_status run_row_take(const run_task *t, int64_t tokens, oracle_row *row);
void run_row_free(oracle_row *row);
/* Fills chosen and is_near_tie. */
void run_choose(const run_task *t, int32_t layer, int32_t head, int64_t token, oracle_row *row);
/* rows.c: a query as it was made, before it is multiplied by RUN_Q_DEVIATION, and a key as the cache
 * holds it. */
void run_query(const run_task *t, int32_t layer, int64_t token, int32_t head, float *q);
void run_key(const run_task *t, int32_t layer, int64_t token, int32_t kv_head, float *k);
/* The same for DATA_K and DATA_V. */
void run_cached(const run_task *t, int what, int32_t layer, int64_t token, int32_t head,
                int32_t dim, float *out);
void oracle_compute(const run_task *t, int32_t layer, int32_t head, int64_t token,
                    oracle_row *out);

/* How far a row is from the oracle: the largest error of out, and the largest share that an error of
 * out or lse is of its bound (1 is the limit; INFINITY for NaN). combines: of partials, at most.
 * row: room to work in; it holds the oracle's values afterwards. */
typedef struct row_error {
    double error, share;
    bool is_near_tie; /* not compared: what it reads is a matter of rounding */
    bool is_lined;    /* .. or of its call's last rows */
} row_error;
row_error run_check_row(const run_task *t, int32_t layer, int32_t head, int64_t token,
                        int64_t combines, const float *out, float lse, oracle_row *row);

/* snapshot.c: of `run --load`: which data it has, and how many tokens; and its cache. --save: both. An exit
 * code; collective. */
int run_load_figures(run_task *t);
int run_load(run_task *t);
int run_save(run_task *t);

/* Compare this rank's samples with the oracle; fills mine. Not collective. */
banyan_status run_check(run_task *t);

/* Exchange figures, print the table (rank 0) and JSON lines, judge. Collective. */
int run_report(run_task *t);

/* Resident memory of this process in bytes; 0 where it cannot be read. */

#endif
