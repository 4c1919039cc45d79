/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing blocks by data: for each piece of a panel and each picker, scores of the blocks that
 * are held here, the best of them, and, where a KV head has several holders, the best of all in
 * one round. Scores depend on the keys that are kept and on the piece's queries alone, and of
 * equal scores the lower block is better: so the choice is the same on any ranks. */
#include "dist/follow.h"
#include "dist/lines.h"

#include <string.h>

/* ---- scores ------------------------------------------------------------------------------ */

typedef struct picking {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_panel *panel;
    const banyan_kind *kind;
    const banyan_part *part;
} picking;

/* What a picker's query heads and the rows of a piece are to its summaries. */
static void pool_queries(const picking *g, const banyan_picker *p, const banyan_piece *piece,
                         float *out)
{
    const int32_t dim = g->kind->shape.key_dim;
    const banyan_summary *by = banyan_summary_row(p->choice.summary);
    double sum[BANYAN_MAX_DIM], pooled[BANYAN_SUMMARY_VECTORS * BANYAN_MAX_DIM] = {0};
    for (int32_t h = 0; h < p->heads; h++) {
        memset(sum, 0, sizeof sum);
        banyan_add_queries(g->c, g->call, dim, piece->first, piece->rows, p->head[h], sum);
        by->add(sum, dim, pooled);
    }
    for (int32_t n = 0; n < by->vectors * dim; n++) out[n] = (float)pooled[n];
}

static int32_t mine_of(const banyan_part *part, int32_t kv_head)
{
    int32_t j = 0;
    while (part->mine[j].kv_head != kv_head) j++;
    return j;
}

static banyan_pick *picks_of(const picking *g, int64_t picker, int64_t piece)
{
    return banyan_picks_at(g->kind, g->part->pick[picker], piece);
}

static banyan_tally *tally_of(const picking *g, banyan_pick *pick)
{
    return (banyan_tally *)(void *)(pick + g->kind->picks);
}

/* What makes of a sum over rows and heads the softmax's logit. */
static double logit_factor(const picking *g, const banyan_picker *p, const banyan_piece *piece)
{
    return (double)g->kind->shape.scale * p->choice.sharpness /
           ((double)piece->rows * (double)p->heads);
}

/* The best of what is held here, ranked. */
static void pick_here(void *arg, int64_t i, int32_t worker)
{
    const picking *g = arg;
    const int64_t picker = i / g->panel->pieces, at = i % g->panel->pieces;
    if (!g->part->pick[picker]) return;
    const banyan_kind *kind = g->kind;
    const banyan_picker *p = &kind->picker[picker];
    const banyan_piece *piece = &g->panel->piece[at];
    const int32_t j = mine_of(g->part, p->kv_head),
                  numbers =
                      banyan_summary_row(p->choice.summary)->vectors * kind->shape.key_dim;
    const banyan_kept *kept =
        banyan_part_kept(&g->call->batch[piece->part], g->call->cache_layer, j);
    const size_t summary_at = kind->summary_at[p->choice.summary];
    float *q = g->c->worker[worker].pooled;
    banyan_pick *pick = picks_of(g, picker, at);
    banyan_tally *tally = p->choice.mass > 0 ? tally_of(g, pick) : NULL;
    const double factor = logit_factor(g, p, piece);
    pool_queries(g, p, piece, q);
    banyan_picks_clear(pick, kind->picks);
    if (kind->tallies) banyan_tally_clear(tally_of(g, pick));
    const int64_t last = piece->at / kind->shape.block.block_tokens - p->choice.local;
    for (int64_t b = banyan_kept_find(kept, p->choice.first); b < kept->count; b++) {
        const banyan_held held = banyan_kept_at(kept, b);
        if (held.block > last) break;
        const double score =
            banyan_summary_score(banyan_summary_of(kept, b, summary_at), q, numbers,
                                 banyan_summary_of(kept, b + BANYAN_SUMMARY_AHEAD, summary_at));
        banyan_picks_offer(pick, p->choice.blocks, score, held.block);
        if (tally) banyan_tally_add(tally, score * factor);
    }
    banyan_picks_rank(pick, kind->picks);
}

/* ---- the best of all --------------------------------------------------------------------- */

static void combine_picks(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    const picking *g = ctx;
    const banyan_kind *kind = g->kind;
    for (size_t at = 0; at < bytes; at += banyan_picks_bytes(kind)) {
        banyan_pick *to = (banyan_pick *)(void *)((char *)out + at);
        const banyan_pick *a = (const banyan_pick *)(const void *)((const char *)lo + at);
        const banyan_pick *b = (const banyan_pick *)(const void *)((const char *)hi + at);
        banyan_tally sum;
        if (kind->tallies)
            banyan_tally_combine(&sum, (const banyan_tally *)(const void *)(a + kind->picks),
                                 (const banyan_tally *)(const void *)(b + kind->picks));
        banyan_picks_combine(to, a, b, kind->picks, g->c->pick_room);
        if (kind->tallies) *tally_of(g, to) = sum;
    }
}

static banyan_status exchange(picking *g)
{
    banyan_cache *c = g->c;
    void *const *data = (void *const *)g->part->pick;
    const banyan_exchange_args args = {.data = data,
                                       .item_bytes = (size_t)g->panel->pieces *
                                                     banyan_picks_bytes(g->kind),
                                       .dtype = BANYAN_F32,
                                       .combine = combine_picks,
                                       .ctx = g,
                                       .mark = {{"choice", c->stats.merges},
                                                {"layer", g->call->layer},
                                                {"token", g->panel->piece->at}}};
    return banyan_exchange_run(g->part->pick_exchange, c->plan->comm, &args, &c->stats.messages,
                               &c->stats.bytes_sent);
}

/* All holders have all: now as lists. Pickers that choose fewer blocks than others take the
 * first. */
static void list_picks(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const picking *g = arg;
    const int64_t picker = i / g->panel->pieces, at = i % g->panel->pieces;
    if (!g->part->pick[picker]) return;
    const banyan_picker *p = &g->kind->picker[picker];
    banyan_pick *pick = picks_of(g, picker, at);
    int64_t count = p->choice.blocks;
    if (p->choice.mass > 0)
        count = banyan_tally_reach(tally_of(g, pick), pick, count,
                                   logit_factor(g, p, &g->panel->piece[at]), p->choice.mass);
    g->part->pick_count[picker][at] = banyan_picks_list(pick, count);
}

banyan_status banyan_panel_pick(banyan_cache *c, const banyan_call *call,
                                const banyan_panel *panel)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    if (kind->liners) banyan_panel_observe(c, call, panel);
    if (kind->pools) banyan_panel_pool(c, call, panel);
    if (kind->followers) {
        const banyan_status status = banyan_panel_remember(c, call, panel);
        if (status) return status;
    }
    if (!kind->pickers) return BANYAN_OK;
    picking g = {.c = c,
                 .call = call,
                 .panel = panel,
                 .kind = kind,
                 .part = banyan_cache_part(c, call->layer)};
    const int64_t tiles = (int64_t)kind->pickers * panel->pieces;
    const double start = banyan_seconds();
    banyan_status status = BANYAN_OK;
    banyan_each(c->sizes.workers, tiles, pick_here, &g);
    const double picked = banyan_seconds();
    if (kind->pick_schedule.count) status = exchange(&g);
    const double exchanged = banyan_seconds();
    if (!status) banyan_each(1, tiles, list_picks, &g);
    c->stats.attend_seconds += picked - start + banyan_seconds() - exchanged;
    c->stats.merge_seconds += exchanged - picked;
    return status;
}

banyan_chosen banyan_picked(const banyan_cache *c, const banyan_kind *kind, int32_t kv_head,
                            int32_t subgroup, const banyan_class *of, int64_t piece)
{
    const banyan_shape *shape = &kind->shape;
    const int32_t head = kv_head * shape->group + subgroup * banyan_tile_heads(shape) +
                         __builtin_ctzll(of->heads) * shape->unit;
    const int32_t picker = kind->picker_of[head];
    const banyan_part *part = &c->part[kind - c->plan->kind];
    if (picker < 0) return (banyan_chosen){0};
    return (banyan_chosen){.pick = banyan_picks_at(kind, part->pick[picker], piece),
                           .count = part->pick_count[picker][piece]};
}
