/* SPDX-License-Identifier: Apache-2.0 */
/* oracle.h - attention by its definition, in float64, one row at a time: what every result is
 * compared with. It knows tokens and heads only: no blocks, no partials, no ranks. */
#ifndef BANYAN_ORACLE_H
#define BANYAN_ORACLE_H

#include "banyan.h"
#include "launch/bounds.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Does the row at token `row` of query head `head` read token `token` <= row? */
typedef int (*oracle_reads_fn)(void *ctx, int head, int64_t row, int64_t token);

/* A whole sequence in fp32. k and v must hold what the cache holds: see oracle_round. */
typedef struct oracle {
    int32_t heads, kv_heads, key_dim, value_dim;
    int64_t tokens;
    double scale;
    const float *k;        /* [tokens][kv_heads][key_dim] */
    const float *v;        /* [tokens][kv_heads][value_dim] */
    oracle_reads_fn reads; /* NULL: every token up to the row */
    void *ctx;
    const float *sinks; /* [heads]: logits that join the denominators; NULL: none */
} oracle;

/* Attention of one row (at token `row`) of one query head. q [key_dim]; out [value_dim]. A row
 * that sees nothing gets zeros and -inf, or its sink. b, when not NULL, gets what the error
 * bounds need of the row (key_dim, tokens, score, value, spread); the caller sets the rest
 * before or after. */
void oracle_row(const oracle *o, const float *q, int head, int64_t row, double *out,
                double *lse, bound *b);

/* Round numbers to a format and back. */
void oracle_round(float *x, int64_t count, banyan_dtype dtype);

/* The largest |error| / bound of a row's result, or inf when a NaN is on one side only, or -inf
 * on one side of lse only. At most 1 when the result is right. out: value_dim numbers of
 * out_dtype; lse may be NULL. */
double oracle_compare(const double *expect_out, double expect_lse, const bound *b,
                      int32_t value_dim, const void *out, banyan_dtype out_dtype,
                      const float *lse);

#ifdef __cplusplus
}
#endif
#endif
