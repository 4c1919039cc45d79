/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - the parts of `banyan run`: steps (append, prefill, decode on seeded data), the
 * comparison of samples with the oracle, and the report. */
#ifndef BANYAN_RUN_H
#define BANYAN_RUN_H

#include "launch/device.h"
#include "launch/launch.h"
#include "launch/oracle/oracle.h"
#include "launch/single.h"

/* One output row of one query head that is compared with the oracle. Which ones is a function
 * of the config alone, so every rank has the same list; `checker` is the rank that checks
 * it. */
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
    device_array q, k, v, out, lse; /* fp32; v: none where values are a part of the keys */
    run_sample *sample;
    int32_t samples;
    double *step_seconds; /* [decode] */
    char step[64];        /* what is running, for messages */
    run_figures mine;
} run_task;

/* Append, prefill and decode, timing each; fills samples, step_seconds and mine. */
banyan_status run_steps(run_task *t);

/* snapshot.c: of `run --load`: which data it has, and how many tokens; and its cache. --save:
 * both. An exit code; collective. */
int run_load_figures(run_task *t);
int run_load(run_task *t);
int run_save(run_task *t);

/* Compare this rank's samples with the oracle; fills mine. Not collective. */
banyan_status run_check(run_task *t);

/* Exchange figures, print the table (rank 0) and JSON lines, judge. Collective. */
int run_report(run_task *t);

#endif
