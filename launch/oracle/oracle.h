/* SPDX-License-Identifier: Apache-2.0 */
/* oracle.h - the float64 oracle of `banyan run` and `banyan scale`: rows of attention computed
 * anew from data that is made by hash, and how far an output row is from them. Knows the
 * library by its public questions alone (which tokens a row reads, who keeps a block), and no
 * verb. */
#ifndef BANYAN_LAUNCH_ORACLE_H
#define BANYAN_LAUNCH_ORACLE_H

#include "banyan.h"

#include <stdbool.h>

/* q has this deviation, k and v 1, so that scores have it, too: some tokens matter, none alone
 * does. A power of two: it rounds nothing. */
enum { ORACLE_Q_DEVIATION = 2 };

/* What was computed: by which plan, from which data, in which calls. Rows from `at` on, up to
 * `tokens`, were calls of the spec's max_rows rows; those that follow were decoded, `rows` at a
 * time. */
typedef struct oracle_task {
    const banyan_plan *plan;
    const banyan_spec *spec; /* the plan's: defaults filled in */
    uint64_t seed;
    int64_t period; /* 0, or: tokens repeat after as many, in all layers alike */
    int64_t at, tokens;
    int32_t rows;
} oracle_task;

/* A block and how well it fits a row. */
typedef struct oracle_scored {
    double score;
    int64_t block;
} oracle_scored;

/* The value of one output row in float64, and what its error bound depends on. */
typedef struct oracle_row {
    double *out; /* [value_dim] */
    double lse;
    int64_t tokens;       /* that the row sees */
    double size;          /* largest scale * sum |q_d k_d| of any of them */
    double largest_value; /* largest |v| of any of them */
    double spread;        /* sqrt(sum weight^2), weights summing to 1 */
    /* choice.c: blocks that it chose by data [blocks]; it may as well have been others: a tie,
     * but for rounding; and room for that. */
    unsigned char *chosen;
    bool is_near_tie;
    bool is_lined;         /* it reads columns and diagonals: which, another call's rows say */
    oracle_scored *scored; /* [blocks] */
    double *pooled;        /* [heads][key_dim] */
} oracle_row;
/* For rows of at most so many tokens: more than the plan's where each rank has one of its own
 * (rings). MEMORY; free it all the same. */
banyan_status oracle_row_take(const oracle_task *t, int64_t tokens, oracle_row *row);
void oracle_row_free(oracle_row *row);
/* Fills chosen and is_near_tie. */
void oracle_choose(const oracle_task *t, int32_t layer, int32_t head, int64_t token,
                   oracle_row *row);
/* rows.c: a query as it was made, before it is multiplied by ORACLE_Q_DEVIATION, and a key as
 * the cache holds it. */
void oracle_query(const oracle_task *t, int32_t layer, int64_t token, int32_t head, float *q);
void oracle_key(const oracle_task *t, int32_t layer, int64_t token, int32_t kv_head, float *k);
/* .. and a value, which may be the first numbers of its key. */
void oracle_value(const oracle_task *t, int32_t layer, int64_t token, int32_t kv_head,
                  float *v);
void oracle_compute(const oracle_task *t, int32_t layer, int32_t head, int64_t token,
                    oracle_row *out);

/* How far a row is from the oracle: the largest error of out, and the largest share that an
 * error of out or lse is of its bound (1 is the limit; INFINITY for NaN). combines: of
 * partials, at most. row: room to work in; it holds the oracle's values afterwards. */
typedef struct oracle_error {
    double error, share;
    bool is_near_tie; /* not compared: what it reads is a matter of rounding */
    bool is_lined;    /* .. or of its call's last rows */
} oracle_error;
oracle_error oracle_check(const oracle_task *t, int32_t layer, int32_t head, int64_t token,
                          int64_t combines, const float *out, float lse, oracle_row *row);

#endif
