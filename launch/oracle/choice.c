/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks that a row chooses by data, in float64 from the keys and queries that were made by
 * hash: the definition of selector "top", with the sums that say how near to a tie a choice
 * is. */
#include "launch/oracle/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { most_dim = 576 };

/* The rows of `token`'s call. */
static banyan_range call_of(const oracle_task *t, int64_t token)
{
    const bool decoded = token >= t->tokens;
    const int64_t from = decoded ? t->tokens : t->at;
    const int64_t rows = decoded ? t->rows : t->spec->max_rows;
    banyan_range call = {from + (token - from) / rows * rows, 0};
    call.end = call.first + rows;
    if (!decoded && call.end > t->tokens) call.end = t->tokens;
    return call;
}

/* .. that lie in its own block. */
static banyan_range piece_of(const oracle_task *t, int64_t token)
{
    const int64_t block = t->spec->block_tokens;
    banyan_range call = call_of(t, token);
    const int64_t own = token / block * block;
    if (call.first < own) call.first = own;
    if (call.end > own + block) call.end = own + block;
    return call;
}

/* Queries that choose together, each the sum of its rows: [heads][key_dim]. */
static void pool(const oracle_task *t, int32_t layer, const banyan_choosing *c, int64_t token,
                 double *q)
{
    const int32_t dim = t->spec->key_dim;
    const banyan_range piece = piece_of(t, token);
    float row[most_dim];
    memset(q, 0, (size_t)(c->heads * dim) * sizeof *q);
    for (int32_t h = 0; h < c->heads; h++)
        for (int64_t r = piece.first; r < piece.end; r++) {
            oracle_query(t, layer, r, c->head[h], row);
            for (int32_t d = 0; d < dim; d++)
                q[(int64_t)h * dim + d] += ORACLE_Q_DEVIATION * (double)row[d];
        }
}

/* A block's score, and the same with magnitudes. */
static double score_of(const oracle_task *t, int32_t layer, const banyan_choosing *c,
                       const double *q, int64_t block, double *size)
{
    const banyan_spec *s = t->spec;
    const int32_t kv_head = c->head[0] / (s->heads / s->kv_heads), dim = s->key_dim;
    const bool is_mean = strcmp(c->by, "mean") == 0;
    double sum[most_dim] = {0}, least[most_dim], most[most_dim], score = 0;
    float k[most_dim];
    for (int32_t i = 0; i < s->block_tokens; i++) {
        oracle_key(t, layer, block * s->block_tokens + i, kv_head, k);
        for (int32_t d = 0; d < dim; d++) {
            const double x = (double)k[d];
            sum[d] += x;
            least[d] = i && least[d] < x ? least[d] : x;
            most[d] = i && most[d] > x ? most[d] : x;
        }
    }
    *size = 0;
    for (int32_t h = 0; h < c->heads; h++)
        for (int32_t d = 0; d < dim; d++) {
            const double x = q[(int64_t)h * dim + d];
            score += is_mean ? x * sum[d] / s->block_tokens : fmax(x * least[d], x * most[d]);
            *size += fabs(x) * fmax(fabs(least[d]), fabs(most[d]));
        }
    return score;
}

static int by_score(const void *a, const void *b)
{
    const oracle_scored *x = a, *y = b;
    if (x->score > y->score || x->score < y->score) return x->score > y->score ? -1 : 1;
    return x->block < y->block ? -1 : x->block > y->block;
}

/* Could rounding put another block among the first `blocks`? Of equal scores of equal blocks it
 * cannot. */
static bool is_near_tie(const oracle_scored *s, int64_t count, int64_t blocks, double error)
{
    if (count <= blocks) return false;
    const double in = s[blocks - 1].score, out = s[blocks].score;
    if (in > out) return in - out <= error;
    int64_t above = blocks - 1, below = blocks;
    while (above >= 0 && !(s[above].score > in)) above--;
    while (below < count && !(s[below].score < in)) below++;
    return (above >= 0 && s[above].score - in <= error) ||
           (below < count && in - s[below].score <= error);
}

/* How many of the sorted blocks have c->mass of the softmax over all; *is_near_tie where
 * rounding of a score could make them more or fewer. */
static int64_t count_of(const oracle_task *t, const banyan_choosing *c, int64_t token,
                        const oracle_scored *s, int64_t count, double error, bool *is_near)
{
    if (!(c->mass > 0)) return c->blocks;
    const banyan_range piece = piece_of(t, token);
    const double factor =
        (double)t->spec->scale * c->sharpness / ((double)(piece.end - piece.first) * c->heads);
    double all = 0, reached = 0;
    for (int64_t i = 0; i < count; i++) all += exp(factor * (s[i].score - s[0].score));
    int64_t chosen = 0;
    const double near = 2 * factor * error + (double)count * 0x1p-38;
    while (chosen < count && chosen < c->blocks && (!chosen || reached < c->mass * all)) {
        reached += exp(factor * (s[chosen++].score - s[0].score));
        if (fabs(reached / all - c->mass) <= near) *is_near = true;
    }
    return chosen;
}

void oracle_choose(const oracle_task *t, int32_t layer, int32_t head, int64_t token,
                   oracle_row *row)
{
    const banyan_spec *s = t->spec;
    banyan_choosing c;
    const banyan_range call = call_of(t, token);
    const int32_t lined = banyan_plan_lines(t->plan, layer, head);
    row->is_lined =
        (lined && call.end - call.first >= lined) ||
        (call.end - call.first == 1 && banyan_plan_follows(t->plan, layer, head, NULL) >= 0);
    row->is_near_tie = false;
    memset(row->chosen, 0, (size_t)(token / s->block_tokens + 1));
    if (!banyan_plan_chooses(t->plan, layer, head, &c)) return;
    int64_t count = 0;
    double most = 0;
    pool(t, layer, &c, token, row->pooled);
    for (int64_t b = c.first; b <= token / s->block_tokens - c.local; b++) {
        double size;
        row->scored[count] = (oracle_scored){score_of(t, layer, &c, row->pooled, b, &size), b};
        most = fmax(most, size);
        count++;
    }
    qsort(row->scored, (size_t)count, sizeof *row->scored, by_score);
    /* fp32: of q, the summary, a product, and of a sum of a 16th of its numbers and one more */
    const double terms = (double)c.summary_bytes / sizeof(float) / 16 + 1;
    const double error = most * (terms + 3) * 0x1p-24 * 1.01;
    const int64_t chosen = count_of(t, &c, token, row->scored, count, error, &row->is_near_tie);
    for (int64_t i = 0; i < count && i < chosen; i++) row->chosen[row->scored[i].block] = 1;
    row->is_near_tie |= is_near_tie(row->scored, count, chosen, 2 * error);
}

banyan_status oracle_row_take(const oracle_task *t, int64_t tokens, oracle_row *row)
{
    const banyan_spec *s = t->spec;
    const size_t blocks = (size_t)(tokens / s->block_tokens + 1);
    *row = (oracle_row){.out = calloc((size_t)s->value_dim, sizeof *row->out),
                        .chosen = calloc(blocks, 1),
                        .scored = calloc(blocks, sizeof *row->scored),
                        .pooled = calloc((size_t)(s->heads * s->key_dim), sizeof *row->pooled)};
    return row->out && row->chosen && row->scored && row->pooled ? BANYAN_OK
                                                                 : BANYAN_ERR_MEMORY;
}

void oracle_row_free(oracle_row *row)
{
    free(row->out);
    free(row->chosen);
    free(row->scored);
    free(row->pooled);
}
