/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of one row in float64, from keys and values that are made again by hash and rounded
 * to the cache's format: nothing is shared with the library but the question which tokens are
 * read.
 *
 *     m = max s_i    l = sum exp(s_i - m)    o = sum exp(s_i - m) v_i    s_i = scale q.k_i
 *
 * in one pass: when a score exceeds m, l and o move to it. */
#include "launch/oracle/oracle.h"

#include "launch/isa.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { lanes = 8, most_dim = 576 };

/* The sum and the sum of magnitudes, in `lanes` partial sums that vector code can hold. */
EACH_ISA
static void dot(const double *restrict q, const float *restrict k, int32_t dim, double *sum,
                double *size)
{
    double part[lanes] = {0}, magnitude[lanes] = {0};
    int32_t whole = dim / lanes * lanes;
    for (int32_t d = 0; d < whole; d += lanes)
        for (int32_t i = 0; i < lanes; i++) {
            double x = q[d + i] * (double)k[d + i];
            part[i] += x;
            magnitude[i] += x < 0 ? -x : x;
        }
    for (int32_t d = whole; d < dim; d++) {
        part[0] += q[d] * (double)k[d];
        magnitude[0] += fabs(q[d] * (double)k[d]);
    }
    *sum = *size = 0;
    for (int32_t i = 0; i < lanes; i++) *sum += part[i], *size += magnitude[i];
}

EACH_ISA
static void add(double *restrict o, double weight, const float *restrict v, int32_t dim)
{
    for (int32_t d = 0; d < dim; d++) o[d] += weight * (double)v[d];
}

EACH_ISA
static float largest(const float *restrict v, int32_t dim)
{
    float most = 0;
    for (int32_t d = 0; d < dim; d++) {
        float size = v[d] < 0 ? -v[d] : v[d];
        most = size > most ? size : most;
    }
    return most;
}

static bool is_lost(const oracle_task *t, int32_t layer, int32_t kv_head, int64_t block)
{
    const banyan_spec *s = t->spec;
    if (s->lost_rank < 0 || (s->lost_layer >= 0 && s->lost_layer != layer)) return false;
    return banyan_plan_owner(t->plan, 0, layer, kv_head, block) == s->lost_rank;
}

/* A row's sums so far. */
typedef struct running {
    const oracle_task *t;
    double scaled[most_dim]; /* q times the scale */
    double m, l, squares;
    oracle_row *row;
} running;

/* `count` tokens of this key and value. */
static void take_token(running *r, const float *k, const float *v, int64_t count)
{
    const banyan_spec *s = r->t->spec;
    oracle_row *row = r->row;
    double score, size;
    dot(r->scaled, k, s->key_dim, &score, &size);
    score += log((double)count);
    size += log((double)count);
    if (score > r->m) {
        const double shrink = exp(r->m - score);
        r->l *= shrink;
        r->squares *= shrink * shrink;
        for (int32_t d = 0; d < s->value_dim; d++) row->out[d] *= shrink;
        r->m = score;
    }
    const double weight = exp(score - r->m);
    r->l += weight;
    r->squares += weight * weight;
    add(row->out, weight, v, s->value_dim);
    row->tokens++;
    row->size = fmax(row->size, size);
    row->largest_value = fmax(row->largest_value, (double)largest(v, s->value_dim));
}

/* The means of the tokens first .. end-1, as so many tokens. */
static void take_means(running *r, int32_t layer, int32_t kv_head, int64_t first, int64_t end)
{
    const banyan_spec *s = r->t->spec;
    double sum_k[most_dim] = {0}, sum_v[most_dim] = {0};
    float k[most_dim], v[most_dim];
    for (int64_t i = first; i < end; i++) {
        oracle_key(r->t, layer, i, kv_head, k);
        oracle_value(r->t, layer, i, kv_head, v);
        add(sum_k, 1, k, s->key_dim);
        add(sum_v, 1, v, s->value_dim);
    }
    for (int32_t d = 0; d < s->key_dim; d++) k[d] = (float)(sum_k[d] / (double)(end - first));
    for (int32_t d = 0; d < s->value_dim; d++) v[d] = (float)(sum_v[d] / (double)(end - first));
    take_token(r, k, v, end - first);
}

void oracle_compute(const oracle_task *t, int32_t layer, int32_t head, int64_t token,
                    oracle_row *row)
{
    const banyan_spec *s = t->spec;
    int32_t kv_head = head / (s->heads / s->kv_heads);
    float q[most_dim], k[most_dim], v[most_dim];
    running r = {.t = t, .m = -INFINITY, .row = row};
    oracle_query(t, layer, token, head, q);
    for (int32_t d = 0; d < s->key_dim; d++)
        r.scaled[d] = (double)s->scale * ORACLE_Q_DEVIATION * (double)q[d];
    memset(row->out, 0, (size_t)s->value_dim * sizeof *row->out);
    row->tokens = 0;
    row->size = row->largest_value = 0;
    bool lost = false;
    oracle_choose(t, layer, head, token, row);
    for (int64_t i = 0; i <= token; i++) {
        if (i % s->block_tokens == 0) lost = is_lost(t, layer, kv_head, i / s->block_tokens);
        if (lost || !(row->chosen[i / s->block_tokens] ||
                      banyan_plan_reads(t->plan, layer, head, token, i)))
            continue;
        oracle_key(t, layer, i, kv_head, k);
        oracle_value(t, layer, i, kv_head, v);
        take_token(&r, k, v, 1);
    }
    int64_t first, end;
    if (!lost && banyan_plan_compensates(t->plan, layer, head, token, &first, &end))
        take_means(&r, layer, kv_head, first, end); /* such a head is on one rank */
    for (int32_t d = 0; r.l > 0 && d < s->value_dim; d++) row->out[d] /= r.l;
    row->spread = r.l > 0 ? sqrt(r.squares) / r.l : 0;
    row->lse = r.m + log(r.l);
}
