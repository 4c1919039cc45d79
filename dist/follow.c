/* SPDX-License-Identifier: Apache-2.0 */
/* Single tokens that a decoded row chooses in one layer, and reads in those after it (selector
 * tidal):
 *
 *     layer     0    1    2         3    4    ..   13        14   ..
 *     reads     all  all  all       few  few       all       few     (few: of the last choice)
 *     chooses             1 round                  1 round
 *
 * Each holder scores the tokens that it holds, as attending does, block by block: so a score
 * has the same bits wherever its block is. The best of all holders are known to all after one
 * round, and stay with the sequence until its next step. In the layers that follow, the tokens
 * are read in their blocks, by masks. */
#include "dist/follow.h"
#include "dist/lines.h"

#include <stdalign.h>
#include <string.h>

typedef struct remembering {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_panel *panel;
    const banyan_kind *kind;
    const banyan_part *part;
} remembering;

/* What a sequence remembers of a follower of a kind. */
static banyan_followed *sequence_followed(const banyan_cache *c, const banyan_sequence *s,
                                          const banyan_kind *kind, int32_t follower)
{
    return &s->followed[kind - c->plan->kind][follower];
}

void banyan_forget_followed(banyan_cache *c, const banyan_call *call)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    for (int32_t f = 0; f < kind->followers; f++)
        for (int32_t i = 0; i < call->count; i++)
            if (call->batch[i].rows && banyan_remembers(&kind->follower[f].law, call->layer))
                sequence_followed(c, call->batch[i].sequence, kind, f)->at = -1;
}

/* ---- choosing ---------------------------------------------------------------------------- */

static banyan_pick *follower_picks(const remembering *g, int64_t follower, int64_t piece)
{
    return g->part->follow[follower] + piece * g->kind->follow_tokens;
}

static int chooses(const remembering *g, int64_t follower, int64_t piece)
{
    return banyan_remembers(&g->kind->follower[follower].law, g->call->layer) &&
           banyan_is_decoded(&g->call->batch[g->panel->piece[piece].part]);
}

static void offer_tokens(const remembering *g, const banyan_follower *f,
                         const banyan_piece *piece, const banyan_kept *kept,
                         const banyan_worker *w, banyan_pick *pick)
{
    const banyan_shape *shape = &g->kind->shape;
    const banyan_spec *spec = &g->c->plan->spec;
    const int64_t row = ((int64_t)piece->first * spec->heads + f->head) * shape->key_dim;
    const int64_t tokens = shape->block.block_tokens;
    alignas(64) float q[BANYAN_MAX_DIM];
    banyan_entry entry[BANYAN_SCORED];
    banyan_tile tile = {.shape = shape->block,
                        .scale = shape->scale,
                        .heads = 1,
                        .rows = 1,
                        .at = piece->at,
                        .q = q,
                        .entry = entry,
                        .workspace = w->workspace};
    banyan_to_float(q,
                    (const char *)g->call->q + (size_t)row * banyan_dtype_bytes(spec->in_dtype),
                    spec->in_dtype, shape->key_dim);
    const int64_t end = banyan_kept_find(kept, piece->at / tokens + 1);
    for (int64_t b = 0; b < end; b += tile.entries) {
        tile.entries = end - b < BANYAN_SCORED ? end - b : BANYAN_SCORED;
        for (int64_t i = 0; i < tile.entries; i++) {
            const banyan_held held = banyan_kept_at(kept, b + i);
            entry[i] = (banyan_entry){.record = held.record, .block = held.block, .edge = -1};
        }
        g->c->plan->kernel->score(&tile, w->scored);
        for (int64_t i = 0; i < tile.entries * tokens; i++) {
            const int64_t token = entry[i / tokens].block * tokens + i % tokens;
            if (token <= piece->at)
                banyan_picks_offer(pick, f->law.tokens, (double)w->scored[i], token);
        }
    }
}

/* The best of what is held here, ranked. */
static void choose_here(void *arg, int64_t i, int32_t worker)
{
    const remembering *g = arg;
    const int64_t follower = i / g->panel->pieces, at = i % g->panel->pieces;
    if (!g->part->follow[follower]) return;
    const banyan_follower *f = &g->kind->follower[follower];
    const banyan_piece *piece = &g->panel->piece[at];
    banyan_pick *pick = follower_picks(g, follower, at);
    int32_t j = 0;
    banyan_picks_clear(pick, g->kind->follow_tokens);
    if (!chooses(g, follower, at) || banyan_is_lost(g->c->plan, g->call->layer)) return;
    while (g->part->mine[j].kv_head != f->kv_head) j++;
    offer_tokens(g, f, piece,
                 banyan_part_kept(&g->call->batch[piece->part], g->call->cache_layer, j),
                 &g->c->worker[worker], pick);
    banyan_picks_rank(pick, g->kind->follow_tokens);
}

static void combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    const remembering *g = ctx;
    const size_t each = (size_t)g->kind->follow_tokens * sizeof(banyan_pick);
    for (size_t at = 0; at < bytes; at += each)
        banyan_picks_combine((banyan_pick *)(void *)((char *)out + at),
                             (const banyan_pick *)(const void *)((const char *)lo + at),
                             (const banyan_pick *)(const void *)((const char *)hi + at),
                             g->kind->follow_tokens, g->c->follow_room);
}

static banyan_status exchange_followed(remembering *g)
{
    banyan_cache *c = g->c;
    const banyan_exchange_args args = {
        .data = (void *const *)g->part->follow,
        .item_bytes = (size_t)(g->panel->pieces * g->kind->follow_tokens) * sizeof(banyan_pick),
        .dtype = BANYAN_F32,
        .combine = combine,
        .ctx = g,
        .mark = {{"tokens chosen", c->stats.merges},
                 {"layer", g->call->layer},
                 {"token", g->panel->piece->at}}};
    return banyan_exchange_run(g->part->follow_exchange, c->plan->comm, &args,
                               &c->stats.messages, &c->stats.bytes_sent);
}

/* With the sequence; where the head is not held, only that it was chosen. */
static void keep(const remembering *g, int32_t follower, int64_t at)
{
    const banyan_piece *piece = &g->panel->piece[at];
    banyan_followed *f =
        sequence_followed(g->c, g->call->batch[piece->part].sequence, g->kind, follower);
    f->at = piece->at;
    f->layer = g->call->layer;
    if (!g->part->follow[follower]) return;
    banyan_pick *pick = follower_picks(g, follower, at);
    f->count = banyan_picks_list(pick, g->kind->follower[follower].law.tokens);
    for (int64_t n = 0; n < f->count; n++) f->token[n] = pick[n].block;
}

banyan_status banyan_panel_remember(banyan_cache *c, const banyan_call *call,
                                    const banyan_panel *panel)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    remembering g = {.c = c,
                     .call = call,
                     .panel = panel,
                     .kind = kind,
                     .part = banyan_cache_part(c, call->layer)};
    int any = 0;
    for (int32_t f = 0; f < kind->followers; f++)
        for (int64_t at = 0; at < panel->pieces && !any; at++) any = chooses(&g, f, at);
    if (!any) return BANYAN_OK;
    const double start = banyan_seconds();
    banyan_status status = BANYAN_OK;
    banyan_each(c->sizes.workers, (int64_t)kind->followers * panel->pieces, choose_here, &g);
    const double chosen = banyan_seconds();
    if (kind->follow_schedule.count) status = exchange_followed(&g);
    c->stats.choice_seconds += chosen - start;
    c->stats.merge_seconds += banyan_seconds() - chosen;
    for (int32_t f = 0; f < kind->followers && !status; f++)
        for (int64_t at = 0; at < panel->pieces; at++)
            if (chooses(&g, f, at)) keep(&g, f, at);
    return status;
}

/* ---- reading ----------------------------------------------------------------------------- */

const banyan_followed *banyan_followed_by(const banyan_cache *c, const banyan_call *call,
                                          const banyan_kind *kind, int32_t kv_head,
                                          int32_t subgroup, const banyan_class *of,
                                          const banyan_piece *piece)
{
    const banyan_shape *shape = &kind->shape;
    const banyan_rows *part = &call->batch[piece->part];
    const int32_t head = kv_head * shape->group + subgroup * banyan_tile_heads(shape) +
                         __builtin_ctzll(of->heads) * shape->unit;
    if (!kind->followers || kind->follower_of[head] < 0 || !banyan_is_decoded(part))
        return NULL;
    const int32_t follower = kind->follower_of[head];
    const int32_t source = banyan_follows(&kind->follower[follower].law, call->layer);
    const banyan_followed *f = sequence_followed(c, part->sequence, kind, follower);
    return source >= 0 && f->at == part->at && f->layer == source ? f : NULL;
}

int64_t banyan_followed_entries(const banyan_cache *c, const banyan_followed *f,
                                const banyan_kept *kept, uint64_t heads, banyan_range range,
                                banyan_entry *entry, uint64_t **mask)
{
    const int64_t tokens = c->plan->spec.block_tokens, words = banyan_mask_words(c->plan);
    int64_t count = 0;
    for (int64_t i = 0; i < f->count;) {
        const int64_t block = f->token[i] / tokens, at = banyan_kept_find(kept, block);
        int any = 0;
        memset(*mask, 0, (size_t)words * sizeof **mask);
        for (; i < f->count && f->token[i] / tokens == block; i++)
            if (f->token[i] >= range.first && f->token[i] < range.end)
                banyan_bit_set(*mask, f->token[i] % tokens), any = 1;
        if (!any || at == kept->count || banyan_kept_at(kept, at).block != block) continue;
        entry[count++] = (banyan_entry){.record = banyan_kept_at(kept, at).record,
                                        .block = block,
                                        .heads = heads,
                                        .edge = -1,
                                        .mask = *mask};
        *mask += words;
    }
    return count;
}
