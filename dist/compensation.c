/* SPDX-License-Identifier: Apache-2.0 */
/* Compensation tokens: what stands for the tokens that rows of a KV head no longer read one by
 * one (selector `compensates`): the means of their keys and values, with ln n added to the
 * score.
 *
 *     token     0 .. first | first .. end(b)            | end(b) ..   own block b
 *     row       read       | one compensation token     | read
 *
 * `end` only rises with the own block. Sums of keys and values are kept, in float64, up to the
 * end that belongs to the layer's floor, below which no row comes again; blocks above that are
 * still held, since rows from the floor on read them: what a row needs more is added from their
 * records. So sums are always of the numbers that the cache keeps, added token by token, in one
 * order whatever the calls were. */
#include "dist/cache.h"

#include <math.h>
#include <string.h>

/* [key_dim] and [value_dim] behind each other, of tokens first .. end-1. */
typedef struct sums {
    double *sum;
    int64_t end;
} sums;

static int32_t sum_numbers(const banyan_shape *shape)
{
    return shape->key_dim + shape->value_dim;
}

static void add_to_sum(double *sum, const float *x, int32_t dim)
{
    for (int32_t d = 0; d < dim; d++) sum[d] += (double)x[d];
}

void banyan_compensation_add_rows(const banyan_shape *shape, const banyan_plain *plain,
                                  int32_t first, int32_t end, double *sum)
{
    const banyan_block_shape *block = &shape->block;
    const size_t bytes = banyan_dtype_bytes(block->dtype);
    float row[BANYAN_MAX_DIM];
    for (int32_t i = first; i < end; i++) {
        banyan_to_float(row,
                        (const char *)plain->k + (size_t)i * (size_t)shape->key_dim * bytes,
                        block->dtype, shape->key_dim);
        add_to_sum(sum, row, shape->key_dim);
        if (!block->value_in_key)
            banyan_to_float(
                row, (const char *)plain->v + (size_t)i * (size_t)shape->value_dim * bytes,
                block->dtype, shape->value_dim);
        add_to_sum(sum + shape->key_dim, row, shape->value_dim);
    }
}

/* Rows first .. end-1 of a block. */
static void sum_block_rows(const banyan_cache *c, const banyan_shape *shape,
                           const banyan_worker *worker, const void *record, int32_t first,
                           int32_t end, double *sum)
{
    const banyan_plain plain = {.k = worker->plain_k, .v = worker->plain_v};
    c->plan->kernel->unpack(&shape->block, record, end, &plain);
    banyan_compensation_add_rows(shape, &plain, first, end, sum);
}

/* Sums up to `end`, in ascending order of tokens. The head is whole: its blocks are here. */
static void sum_up_to(const banyan_cache *c, const banyan_shape *shape,
                      const banyan_worker *worker, const banyan_kept *kept, int64_t first,
                      int64_t end, sums *s)
{
    const int64_t tokens = shape->block.block_tokens;
    if (s->end < first) s->end = first;
    for (int64_t i = banyan_kept_find(kept, s->end / tokens); i < kept->count && s->end < end;
         i++) {
        const banyan_held held = banyan_kept_at(kept, i);
        const int64_t at = held.block * tokens;
        const int64_t to = at + tokens < end ? at + tokens : end;
        sum_block_rows(c, shape, worker, held.record, (int32_t)(s->end - at),
                       (int32_t)(to - at), s->sum);
        s->end = to;
    }
}

int banyan_compensation_range(const banyan_cache *c, int32_t layer, int32_t j, int64_t floor,
                              int64_t *first, int64_t *end)
{
    const int32_t kv_head = banyan_cache_part(c, layer)->mine[j].kv_head;
    const banyan_pattern *pattern = banyan_plan_kind(c->plan, layer)->head[kv_head].compensated;
    return pattern && floor >= 0 &&
           pattern->selector->compensates(pattern, floor / c->plan->spec.block_tokens, first,
                                          end);
}

void banyan_compensation_settle(banyan_cache *c, banyan_sequence *s, int32_t layer, int32_t j,
                                int64_t floor)
{
    int64_t first, end;
    if (!banyan_compensation_range(c, layer, j, floor, &first, &end)) return;
    banyan_compensation *kept = &s->layer[layer].compensation[j];
    sums sum = {kept->sum, kept->end};
    sum_up_to(c, &banyan_plan_kind(c->plan, layer)->shape, &c->worker[0],
              &s->layer[layer].kept[j], first, end, &sum);
    kept->end = sum.end;
}

/* ---- a panel's tokens -------------------------------------------------------------------- */

typedef struct compensated_panel {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_panel *panel;
    const int32_t *order;
} compensated_panel;

static int64_t *joined_of(const banyan_cache *c, int32_t j, int64_t piece)
{
    return &c->joined[(int64_t)j * c->plan->panel_rows + piece];
}

static float *means_of(const banyan_cache *c, int32_t j, int64_t piece)
{
    return c->joined_means +
           ((int64_t)j * c->plan->panel_rows + piece) * c->sizes.joined_numbers;
}

/* Of one KV head, the token of each piece. */
static void average_head(void *arg, int64_t i, int32_t worker)
{
    const compensated_panel *g = arg;
    const banyan_cache *c = g->c;
    const banyan_kind *kind = banyan_plan_kind(c->plan, g->call->layer);
    const banyan_shape *shape = &kind->shape;
    const int32_t j = g->order[i], numbers = sum_numbers(shape);
    const int32_t kv_head = banyan_cache_part(c, g->call->layer)->mine[j].kv_head;
    const banyan_pattern *pattern = kind->head[kv_head].compensated;
    int32_t part = -1;
    sums sum = {.sum = c->worker[worker].sum};
    if (!pattern) return;
    for (int32_t p = 0; p < g->panel->pieces; p++) {
        const banyan_piece *piece = &g->panel->piece[p];
        const banyan_rows *rows = &g->call->batch[piece->part];
        const banyan_layer *layer = &rows->sequence->layer[g->call->cache_layer];
        int64_t *joined = joined_of(c, j, p);
        int64_t first, end;
        *joined = 0;
        if (rows->end || !pattern->selector->compensates(
                             pattern, piece->at / shape->block.block_tokens, &first, &end))
            continue;
        if (piece->part != part) {
            const banyan_compensation *kept = &layer->compensation[j];
            memcpy(sum.sum, kept->sum, (size_t)numbers * sizeof *sum.sum);
            sum.end = kept->end;
            part = piece->part;
        }
        sum_up_to(c, shape, &c->worker[worker], &layer->kept[j], first, end, &sum);
        *joined = end - first;
        float *mean = means_of(c, j, p);
        for (int32_t d = 0; d < numbers; d++) mean[d] = (float)(sum.sum[d] / (double)*joined);
    }
}

void banyan_compensation_join(banyan_cache *c, const banyan_call *call,
                              const banyan_panel *panel, const int32_t *order, int32_t count)
{
    compensated_panel g = {.c = c, .call = call, .panel = panel, .order = order};
    banyan_each(panel->pieces > 1 ? c->sizes.workers : 1, count, average_head, &g);
}

/* ---- to a tile's sums -------------------------------------------------------------------- */

/* One more token of one row: q [key_dim]. */
static void add_token(const banyan_plan *plan, const banyan_shape *shape, const float *mean,
                      int64_t tokens, const float *q, void *sum)
{
    float partial[BANYAN_MAX_DIM + 2];
    const int32_t value_dim = shape->value_dim;
    const float *value = mean + shape->key_dim;
    double score = 0;
    for (int32_t d = 0; d < shape->key_dim; d++) score += (double)q[d] * (double)mean[d];
    score = score * (double)shape->scale + log((double)tokens);
    if (plan->spec.reproducible) {
        banyan_fixed_add(sum, score, 1, value, value_dim);
        return;
    }
    memcpy(partial, value, (size_t)value_dim * sizeof *partial);
    partial[value_dim] = (float)score;
    partial[value_dim + 1] = 1;
    banyan_partial_combine(sum, sum, partial, value_dim, 1);
}

void banyan_compensation_add(const banyan_cache *c, const banyan_kind *kind, int32_t j,
                             int64_t piece, uint64_t heads, int32_t rows, const float *q,
                             char *sums)
{
    const int64_t tokens = *joined_of(c, j, piece);
    const banyan_shape *shape = &kind->shape;
    const size_t bytes = banyan_sum_bytes(c->plan, shape->value_dim);
    if (!tokens) return;
    for (int32_t bit = 0; bit < BANYAN_TILE_HEADS; bit++) {
        if (!(heads >> bit & 1)) continue;
        for (int32_t r = bit * shape->unit * rows; r < (bit + 1) * shape->unit * rows; r++)
            add_token(c->plan, shape, means_of(c, j, piece), tokens,
                      q + (size_t)r * (size_t)shape->key_dim, sums + (size_t)r * bytes);
    }
}
