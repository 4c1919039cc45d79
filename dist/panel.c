/* SPDX-License-Identifier: Apache-2.0 */
/* The partials of a panel: up to panel_rows rows, all KV heads held here.
 *
 * A tile is (KV head, up to 64 of its query heads, the panel's rows of one own block): one q, one
 * block list. Threads share the work in one of two ways:
 *
 *   many tiles (prefill)   each thread takes whole tiles
 *   few tiles (decode)     the line once more: the tiles' lists lie end to end and are cut into as
 *                          many equal runs as there are threads
 *
 *       tile:   |0              |1              |2                      |      blocks to read
 *       run:    |0         |1         |2         |3         |4          |      one per thread
 *       slot:    0          1    2     3  4       5          6                 run + tile
 *
 * KV heads whose partials are sent at once come in a panel of their own, before the others: their
 * messages travel while those are computed.
 *
 * The partials of a tile's runs are then combined in ascending order. Which thread did what never
 * shows in the bits; how many threads there are may, unless the spec asks for reproducible results
 * (sums.c). */
#include "dist/cache.h"

#include <string.h>

typedef struct panel {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_kind *kind;
    const banyan_part *part;
    int32_t first, rows;          /* of the call */
    int64_t first_block;          /* own block of its first row */
    int32_t pieces;               /* own blocks */
    const int32_t *order;         /* KV heads held here, those of this panel */
    int64_t tiles, entries;       /* entries: of all lists, when they are cut */
    size_t sum_bytes, mass_bytes; /* of a row */
    int32_t runs;
} panel;

/* Where tile `i` lies. */
typedef struct place {
    const banyan_kept *kept;
    const banyan_head_plan *head;
    int32_t subgroup, heads, rows;
    int32_t first_head; /* of the model */
    int32_t first;      /* row of the call */
    int64_t at;         /* token of that row */
} place;

static place tile_place(const panel *p, int64_t i)
{
    const banyan_plan *plan = p->c->plan;
    const banyan_shape *shape = &p->kind->shape;
    int64_t piece = i % p->pieces, rest = i / p->pieces;
    int32_t subgroup = (int32_t)(rest % shape->subgroups),
            j = p->order[rest / shape->subgroups];
    int32_t kv_head = p->part->mine[j].kv_head, before = subgroup * BANYAN_TILE_HEADS;
    int64_t begin = (p->first_block + piece) * plan->spec.block_tokens;
    int64_t end = begin + plan->spec.block_tokens, from = p->call->at + p->first;
    int64_t to = from + p->rows;
    if (begin > from) from = begin;
    if (end < to) to = end;
    place t = {.kept = &p->c->layer[p->call->cache_layer].kept[j],
               .head = &p->kind->head[kv_head],
               .subgroup = subgroup,
               .heads = shape->group - before,
               .rows = (int32_t)(to - from),
               .first_head = kv_head * shape->group + before,
               .first = (int32_t)(from - p->call->at),
               .at = from};
    if (t.heads > BANYAN_TILE_HEADS) t.heads = BANYAN_TILE_HEADS;
    return t;
}

static void gather_q(const panel *p, const place *t, float *q)
{
    const banyan_spec *spec = &p->c->plan->spec;
    const int32_t key_dim = p->kind->shape.key_dim;
    size_t bytes = banyan_dtype_bytes(spec->in_dtype);
    const char *in = p->call->q;
    for (int32_t h = 0; h < t->heads; h++) {
        for (int32_t r = 0; r < t->rows; r++, q += key_dim) {
            int64_t from = (int64_t)(t->first + r) * spec->heads + t->first_head + h;
            banyan_to_float(q, in + (size_t)(from * key_dim) * bytes, spec->in_dtype, key_dim);
        }
    }
}

/* A tile's q and block list into a lane. */
static void prepare(const panel *p, const place *t, banyan_lane *lane)
{
    const banyan_plan *plan = p->c->plan;
    const int32_t *classes = t->head->subgroup_first + t->subgroup;
    int64_t held = banyan_is_lost(plan, p->call->layer) ? 0 : t->kept->count;
    lane->entries =
        banyan_list_build(t->head->classes + classes[0], classes[1] - classes[0], t->at,
                          t->at + t->rows - 1, t->kept->held, held, lane->entry, lane->edge);
    lane->is_refused |=
        lane->entries < 0; /* a pattern that the plan should not have let pass */
    if (lane->entries < 0) lane->entries = 0;
    gather_q(p, t, lane->q);
}

/* The same entries once more, for the probed tokens alone. */
static void attend_probed(const panel *p, banyan_tile tile, banyan_worker *worker, void *mass)
{
    const banyan_cache *c = p->c;
    while (tile.entries > 0 &&
           (tile.entry[0].block + 1) * tile.shape.block_tokens <= c->probe_first) {
        tile.entry++;
        tile.entries--;
    }
    while (tile.entries > 0 &&
           tile.entry[tile.entries - 1].block * tile.shape.block_tokens >= c->probe_end)
        tile.entries--;
    tile.first_token = c->probe_first;
    tile.end_token = c->probe_end;
    banyan_sum_attend(c->plan, &tile, worker->probe);
    banyan_sum_strip(c->plan, mass, worker->probe, tile.shape.value_dim,
                     (int64_t)tile.heads * tile.rows);
}

/* Entries from .. to-1 of a lane's list into a slot. */
static void attend(const panel *p, const place *t, const banyan_lane *lane, int64_t from,
                   int64_t to, int32_t worker, int64_t slot)
{
    banyan_cache *c = p->c;
    const banyan_plan *plan = c->plan;
    banyan_tile tile = {.shape = p->kind->shape.block,
                        .scale = p->kind->shape.scale,
                        .heads = t->heads,
                        .rows = t->rows,
                        .at = t->at,
                        .q = lane->q,
                        .entry = lane->entry + from,
                        .entries = to - from,
                        .edge = lane->edge,
                        .end_token = INT64_MAX,
                        .workspace = c->worker[worker].workspace};
    banyan_sum_attend(plan, &tile, c->slots + (size_t)slot * c->sizes.slot_bytes);
    int64_t pairs = 0;
    for (int64_t i = from; i < to; i++) pairs += __builtin_popcountll(lane->entry[i].heads);
    c->worker[worker].pairs += pairs * t->rows;
    if (p->call->mass)
        attend_probed(p, tile, &c->worker[worker],
                      c->mass_slots + (size_t)slot * c->sizes.mass_slot_bytes);
}

/* A finished slot, [heads][rows], to its rows of the items; slot < 0: nothing was seen. */
static void scatter(const panel *p, const place *t, int64_t slot)
{
    const banyan_cache *c = p->c;
    const size_t row = (size_t)(t->first - p->first), rows = (size_t)t->rows;
    const char *from = c->slots + (size_t)slot * c->sizes.slot_bytes;
    const char *mass = c->mass_slots + (size_t)slot * c->sizes.mass_slot_bytes;
    for (int32_t h = 0; h < t->heads; h++) {
        char *item = (char *)p->part->data[t->first_head + h] + row * p->sum_bytes;
        char *item_mass = (char *)p->part->mass[t->first_head + h] + row * p->mass_bytes;
        if (slot < 0) {
            banyan_sum_clear(c->plan, item, p->kind->shape.value_dim, t->rows);
            banyan_sum_clear(c->plan, item_mass, 0, t->rows);
        } else {
            const size_t first = (size_t)h * rows;
            memcpy(item, from + first * p->sum_bytes, rows * p->sum_bytes);
            if (p->call->mass)
                memcpy(item_mass, mass + first * p->mass_bytes, rows * p->mass_bytes);
        }
    }
}

static void whole_tile(void *arg, int64_t i, int32_t worker)
{
    const panel *p = arg;
    place t = tile_place(p, i);
    banyan_lane *lane = &p->c->lane[worker];
    prepare(p, &t, lane);
    attend(p, &t, lane, 0, lane->entries, worker, worker);
    scatter(p, &t, worker);
}

static void prepare_tile(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const panel *p = arg;
    place t = tile_place(p, i);
    prepare(p, &t, &p->c->lane[i]);
}

/* The part of run r that lies in tile i: entries from .. to-1 of its list; 0 when there is none. */
static int run_in_tile(const panel *p, int64_t r, int64_t i, int64_t *from, int64_t *to)
{
    const int64_t *start = p->c->start;
    int64_t begin = p->entries * r / p->runs, end = p->entries * (r + 1) / p->runs;
    if (begin < start[i]) begin = start[i];
    if (end > start[i + 1]) end = start[i + 1];
    *from = begin - start[i];
    *to = end - start[i];
    return begin < end;
}

static void one_run(void *arg, int64_t r, int32_t worker)
{
    const panel *p = arg;
    for (int64_t i = 0; i < p->tiles; i++) {
        int64_t from, to;
        if (!run_in_tile(p, r, i, &from, &to)) continue;
        place t = tile_place(p, i);
        attend(p, &t, &p->c->lane[i], from, to, worker, r + i);
    }
}

static void combine_tile(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const panel *p = arg;
    banyan_cache *c = p->c;
    place t = tile_place(p, i);
    int64_t vectors = (int64_t)t.heads * t.rows, total = -1, from, to;
    for (int64_t r = 0; r < p->runs; r++) {
        if (!run_in_tile(p, r, i, &from, &to)) continue;
        if (total < 0) {
            total = r + i;
            continue;
        }
        char *sum = c->slots + (size_t)total * c->sizes.slot_bytes;
        banyan_sum_combine(c->plan, sum, sum, c->slots + (size_t)(r + i) * c->sizes.slot_bytes,
                           p->kind->shape.value_dim, vectors);
        char *mass = c->mass_slots + (size_t)total * c->sizes.mass_slot_bytes;
        if (p->call->mass)
            banyan_sum_combine(c->plan, mass, mass,
                               c->mass_slots + (size_t)(r + i) * c->sizes.mass_slot_bytes, 0,
                               vectors);
    }
    scatter(p, &t, total);
}

banyan_status banyan_panel_compute(banyan_cache *c, const banyan_call *call, int32_t first,
                                   int32_t rows, int32_t from, int32_t to)
{
    if (from == to) return BANYAN_OK;
    const banyan_plan *plan = c->plan;
    const banyan_kind *kind = banyan_plan_kind(plan, call->layer);
    panel p = {.c = c,
               .call = call,
               .kind = kind,
               .part = banyan_cache_part(c, call->layer),
               .first = first,
               .rows = rows,
               .first_block = (call->at + first) / plan->spec.block_tokens,
               .sum_bytes = banyan_sum_bytes(plan, kind->shape.value_dim),
               .mass_bytes = banyan_sum_bytes(plan, 0),
               .runs = c->sizes.workers};
    p.order = p.part->order + from;
    int64_t last_block = (call->at + first + rows - 1) / plan->spec.block_tokens;
    p.pieces = (int32_t)(last_block - p.first_block + 1);
    p.tiles = (int64_t)(to - from) * kind->shape.subgroups * p.pieces;

    if (p.runs == 1 || p.tiles > c->sizes.lanes) {
        banyan_each(c->sizes.workers, p.tiles, whole_tile, &p);
    } else {
        banyan_each(c->sizes.workers, p.tiles, prepare_tile, &p);
        for (int64_t i = 0; i < p.tiles; i++) {
            c->start[i] = p.entries;
            p.entries += c->lane[i].entries;
        }
        c->start[p.tiles] = p.entries;
        banyan_each(c->sizes.workers, p.runs, one_run, &p);
        banyan_each(c->sizes.workers, p.tiles, combine_tile, &p);
    }
    for (int32_t i = 0; i < c->sizes.lanes; i++)
        if (c->lane[i].is_refused)
            return banyan_fail(BANYAN_ERR_CONFIG,
                               "layer %d: rows %lld..%lld read more than %d runs of blocks",
                               (int)call->layer, (long long)(call->at + first),
                               (long long)(call->at + first + rows - 1), BANYAN_MAX_RUNS);
    for (int32_t i = 0; i < c->sizes.workers; i++) {
        c->stats.pairs += c->worker[i].pairs;
        c->worker[i].pairs = 0;
    }
    return BANYAN_OK;
}
