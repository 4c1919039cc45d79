/* SPDX-License-Identifier: Apache-2.0 */
/* Pooled attention (attention/lines.h): how well the mean of some queries fits the mean of a
 * block's keys. It serves twice: to tell whether means say anything of a head's attention, and
 * then, of the rows of each own block, to choose the blocks that they read. Full blocks have a
 * summary; of the own one's keys the mean is made here, up to the rows' last token, where they
 * end within it. One rank has all blocks of such a head: nothing is exchanged, and nobody else
 * adds in another order. */
#include "dist/lines.h"

#include <math.h>
#include <string.h>

/* The mean of the keys of a block's first `written` tokens: what is remembered of it, if these
 * are all. */
static const float *own_mean(const banyan_cache *c, const banyan_kind *kind,
                             const banyan_kept *kept, int64_t own, int32_t written, float *room,
                             const banyan_worker *worker)
{
    if (written == kind->shape.block.block_tokens)
        return banyan_summary_of(kept, own, kind->summary_at[BANYAN_SUMMARY_MEAN]);
    banyan_plain_keys(c, &kind->shape, banyan_kept_at(kept, own).record, written, worker);
    banyan_summary_row(BANYAN_SUMMARY_MEAN)
        ->make(worker->keys, written, kind->shape.key_dim, room);
    return room;
}

/* One after the other, what is remembered of a block is far away: all rows meet it at once. */
static void score_all(const banyan_kind *kind, const banyan_kept *kept,
                      const banyan_pooled *rows, int32_t count, const float *q)
{
    const int32_t dim = kind->shape.key_dim;
    const int64_t tokens = kind->shape.block.block_tokens;
    const size_t summary_at = kind->summary_at[BANYAN_SUMMARY_MEAN];
    int64_t end = 0;
    for (int32_t i = 0; i < count; i++) {
        const int64_t own = (rows[i].end - 1) / tokens;
        if (own > end) end = own;
    }
    for (int64_t b = 0; b < end; b++) {
        const float *mean = banyan_summary_of(kept, b, summary_at);
        const float *next = banyan_summary_of(kept, b + BANYAN_SUMMARY_AHEAD, summary_at);
        for (int32_t i = 0; i < count; i++)
            if (b < (rows[i].end - 1) / tokens)
                rows[i].mass[b] = banyan_summary_score(mean, q + (int64_t)i * dim, dim, next);
    }
}

/* exp(factor score), that they add up to 1. */
static void normalise(double *score, int64_t blocks, double factor)
{
    double most = -INFINITY, all = 0;
    for (int64_t b = 0; b < blocks; b++) most = fmax(most, factor * score[b]);
    for (int64_t b = 0; b < blocks; b++) {
        score[b] = exp(factor * score[b] - most);
        if (isnan(score[b])) score[b] = INFINITY; /* it was NaN or infinite: it has all */
        all += score[b];
    }
    for (int64_t b = 0; b < blocks; b++) score[b] /= all;
}

void banyan_pooled_mass(const banyan_cache *c, const banyan_call *call, const banyan_kind *kind,
                        const banyan_kept *kept, int32_t head, const banyan_pooled *rows,
                        int32_t count, const banyan_worker *worker)
{
    const int32_t dim = kind->shape.key_dim;
    const int64_t tokens = kind->shape.block.block_tokens;
    float room[BANYAN_MAX_DIM], *q = worker->observing->q;
    for (int32_t i = 0; i < count; i++) {
        double sum[BANYAN_MAX_DIM] = {0};
        banyan_add_queries(c, call, dim, rows[i].first, rows[i].rows, head, sum);
        for (int32_t d = 0; d < dim; d++) q[(int64_t)i * dim + d] = (float)sum[d];
    }
    score_all(kind, kept, rows, count, q);
    for (int32_t i = 0; i < count; i++, q += dim) {
        const int64_t own = (rows[i].end - 1) / tokens;
        const int32_t written = (int32_t)(rows[i].end - own * tokens);
        const float *mean = own_mean(c, kind, kept, own, written, room, worker);
        rows[i].mass[own] = banyan_summary_score(mean, q, dim, mean);
        normalise(rows[i].mass, own + 1, (double)kind->shape.scale / rows[i].rows);
    }
}

double banyan_divergence(const double *p, const double *q, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        const double middle = (p[i] + q[i]) / 2;
        if (p[i] > 0) sum += p[i] * log(p[i] / middle);
        if (q[i] > 0) sum += q[i] * log(q[i] / middle);
    }
    return sqrt(sum > 0 ? sum / 2 : 0);
}

typedef struct pooling {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_panel *panel;
    const banyan_kind *kind;
    const banyan_part *part;
} pooling;

/* The best blocks of a piece, from their shares. */
static void choose_blocks(const pooling *g, const banyan_liner *l, const banyan_pooled *rows,
                          banyan_pick *pick, uint64_t *only)
{
    const int64_t own = (rows->end - 1) / g->kind->shape.block.block_tokens;
    for (int64_t b = 0; b <= own; b++) pick[b] = (banyan_pick){rows->mass[b], b};
    const int64_t n = banyan_picks_reach(pick, own + 1, l->law.mass, l->law.blocks);
    memset(only, 0, (size_t)banyan_block_words(g->c->plan) * sizeof *only);
    banyan_bit_set(only, 0);
    banyan_bit_set(only, own);
    for (int64_t b = own + 1 - n; b <= own; b++) banyan_bit_set(only, pick[b].block);
}

static int64_t groups_of(const banyan_panel *panel)
{
    return (panel->pieces + BANYAN_POOLED - 1) / BANYAN_POOLED;
}

/* Some pieces of a query head. */
static void pool_pieces(void *arg, int64_t i, int32_t worker)
{
    const pooling *g = arg;
    const int64_t index = i / groups_of(g->panel), blocks = banyan_most_blocks(g->c->plan);
    const int32_t from = (int32_t)(i % groups_of(g->panel)) * BANYAN_POOLED;
    const banyan_line_set *set = &g->part->line[index];
    const banyan_liner *l = &g->kind->liner[index];
    if (!set->column || set->is_all || !set->is_pooled) return;
    const banyan_observing *o = g->c->worker[worker].observing;
    banyan_pooled rows[BANYAN_POOLED];
    int32_t count = 0, j = 0;
    for (; count < BANYAN_POOLED && from + count < g->panel->pieces; count++) {
        const banyan_piece *piece = &g->panel->piece[from + count];
        rows[count] = (banyan_pooled){piece->first, piece->rows, piece->at + piece->rows,
                                      o->pooled + count * blocks};
    }
    while (g->part->mine[j].kv_head != l->kv_head) j++;
    banyan_pooled_mass(
        g->c, g->call, g->kind,
        banyan_part_kept(&g->call->batch[g->panel->piece->part], g->call->cache_layer, j),
        l->head, rows, count, &g->c->worker[worker]);
    for (int32_t r = 0; r < count; r++)
        choose_blocks(g, l, &rows[r], o->pick, banyan_only(g->c->plan, set, from + r));
}

void banyan_panel_pool(banyan_cache *c, const banyan_call *call, const banyan_panel *panel)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    const banyan_part *part = banyan_cache_part(c, call->layer);
    if (!kind->pools || !part->has_lines || !part->line) return;
    pooling g = {.c = c, .call = call, .panel = panel, .kind = kind, .part = part};
    const double start = banyan_seconds();
    banyan_each(c->sizes.workers, kind->liners * groups_of(panel), pool_pieces, &g);
    c->stats.choice_seconds += banyan_seconds() - start;
}
