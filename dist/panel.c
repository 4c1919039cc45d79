/* SPDX-License-Identifier: Apache-2.0 */
/* The partials of a panel: up to panel_rows rows, all KV heads held here.
 *
 * A tile is (KV head, up to 64 of its query heads, a piece: rows of one part and one own block): one
 * q, one block list. A list is cut every so many blocks, whatever else there is to do, and the
 * partials of the cuts are combined in ascending order: a row's bits depend on its own sequence
 * alone, not on threads or neighbours. Threads share the work in one of two ways:
 *
 *   many tiles (prefill, batches)   each thread takes whole tiles, cut by cut
 *   few tiles (decode)              the tiles' cuts lie end to end, and threads take them in turn
 *
 *       tile:   |0              |1              |2      |3              |      blocks to read
 *       cut:    |0    |1    |2  |3    |4    |5  |6    |7|8    |9    |10 |
 *       slot:    0     1     2   3     ..                                      of this wave
 *
 * As many cuts as there are slots for are a wave. KV heads whose partials are sent at once come in a
 * panel of their own, before the others: their messages travel while those are computed. */
#include "dist/cache.h"

#include <string.h>

typedef struct panel {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_panel *panel;
    const banyan_kind *kind;
    const banyan_part *part;
    const int32_t *order; /* KV heads held here, those of this panel */
    int64_t tiles;
    size_t sum_bytes, mass_bytes;   /* of a row */
    size_t slot_bytes, mass_stride; /* of a wave's slot */
    int64_t wave, wave_end;         /* cuts first .. end-1, when lists are cut */
} panel;

/* Where tile `i` lies. */
typedef struct place {
    const banyan_kept *kept;
    const banyan_head_plan *head;
    const banyan_piece *piece;
    int32_t subgroup, heads;
    int32_t first_head; /* of the model */
} place;

static place tile_place(const panel *p, int64_t i)
{
    const banyan_shape *shape = &p->kind->shape;
    const banyan_piece *piece = &p->panel->piece[i % p->panel->pieces];
    const int64_t rest = i / p->panel->pieces;
    const int32_t subgroup = (int32_t)(rest % shape->subgroups);
    const int32_t j = p->order[rest / shape->subgroups], kv_head = p->part->mine[j].kv_head;
    const int32_t before = subgroup * BANYAN_TILE_HEADS;
    place t = {.kept = banyan_part_kept(&p->call->batch[piece->part], p->call->cache_layer, j),
               .head = &p->kind->head[kv_head],
               .piece = piece,
               .subgroup = subgroup,
               .heads = shape->group - before,
               .first_head = kv_head * shape->group + before};
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
        for (int32_t r = 0; r < t->piece->rows; r++, q += key_dim) {
            int64_t from = (int64_t)(t->piece->first + r) * spec->heads + t->first_head + h;
            banyan_to_float(q, in + (size_t)(from * key_dim) * bytes, spec->in_dtype, key_dim);
        }
    }
}

/* Blocks of a cut. Many rows take longer over a block: fewer cuts do. */
static int64_t cut_blocks(const panel *p, const place *t)
{
    return (int64_t)p->kind->cut_blocks * (t->piece->rows < 16 ? 1 : 8);
}

static int64_t cuts_of(const panel *p, const place *t, const banyan_lane *lane)
{
    const int64_t cut = cut_blocks(p, t);
    return lane->entries > cut ? (lane->entries + cut - 1) / cut : 1;
}

/* A tile's q and block list into a lane. */
static void prepare(const panel *p, const place *t, banyan_lane *lane)
{
    const int32_t *classes = t->head->subgroup_first + t->subgroup;
    const banyan_held_list held = {
        t->kept->chunk, banyan_is_lost(p->c->plan, p->call->layer) ? 0 : t->kept->count};
    lane->hints = 0;
    lane->entries =
        banyan_list_build(t->head->classes + classes[0], classes[1] - classes[0], t->piece->at,
                          t->piece->at + t->piece->rows - 1, &held, lane->entry, lane->edge);
    lane->is_refused |=
        lane->entries < 0; /* a pattern that the plan should not have let pass */
    if (lane->entries < 0) lane->entries = 0;
    gather_q(p, t, lane->q);
}

/* The same entries once more, for the probed tokens alone. */
static void attend_probed(const panel *p, const banyan_rows *part, banyan_tile tile,
                          banyan_worker *worker, void *mass)
{
    const banyan_range range = part->probes[0];
    while (tile.entries > 0 &&
           (tile.entry[0].block + 1) * tile.shape.block_tokens <= range.first) {
        tile.entry++;
        tile.entries--;
    }
    while (tile.entries > 0 &&
           tile.entry[tile.entries - 1].block * tile.shape.block_tokens >= range.end)
        tile.entries--;
    tile.behind = 0;
    tile.first_token = range.first;
    tile.end_token = range.end;
    banyan_sum_attend(p->c->plan, &tile, worker->probe);
    banyan_sum_strip(p->c->plan, mass, worker->probe, tile.shape.value_dim,
                     (int64_t)tile.heads * tile.rows);
}

/* A cut of a lane's list into a slot. */
static void attend(const panel *p, const place *t, const banyan_lane *lane, int64_t cut,
                   int32_t worker, char *slot, char *mass)
{
    banyan_cache *c = p->c;
    const banyan_plan *plan = c->plan;
    const banyan_rows *part = &p->call->batch[t->piece->part];
    const int64_t blocks = cut_blocks(p, t), from = cut * blocks;
    const int64_t to = from + blocks < lane->entries ? from + blocks : lane->entries;
    banyan_tile tile = {.shape = p->kind->shape.block,
                        .scale = p->kind->shape.scale,
                        .heads = t->heads,
                        .rows = t->piece->rows,
                        .at = t->piece->at,
                        .q = lane->q,
                        .entry = lane->entry + from,
                        .entries = to - from,
                        .behind = lane->entries + lane->hints - to,
                        .edge = lane->edge,
                        .end_token = INT64_MAX,
                        .workspace = c->worker[worker].workspace};
    banyan_sum_attend(plan, &tile, slot);
    int64_t pairs = 0;
    for (int64_t i = from; i < to; i++) pairs += __builtin_popcountll(lane->entry[i].heads);
    c->worker[worker].pairs += pairs * t->piece->rows;
    if (!p->call->probed) return;
    if (part->mass)
        attend_probed(p, part, tile, &c->worker[worker], mass);
    else
        banyan_sum_clear(plan, mass, 0, (int64_t)t->heads * t->piece->rows);
}

static void combine(const panel *p, const place *t, char *slot, char *mass, const char *more,
                    const char *more_mass)
{
    const banyan_plan *plan = p->c->plan;
    const int64_t vectors = (int64_t)t->heads * t->piece->rows;
    banyan_sum_combine(plan, slot, slot, more, p->kind->shape.value_dim, vectors);
    if (p->call->probed) banyan_sum_combine(plan, mass, mass, more_mass, 0, vectors);
}

/* A finished slot, [heads][rows], to its rows of the items. */
static void scatter(const panel *p, const place *t, const char *slot, const char *mass)
{
    const size_t row = (size_t)(t->piece->first - p->panel->first);
    const size_t rows = (size_t)t->piece->rows;
    for (int32_t h = 0; h < t->heads; h++) {
        char *item = (char *)p->part->data[t->first_head + h] + row * p->sum_bytes;
        char *item_mass = (char *)p->part->mass[t->first_head + h] + row * p->mass_bytes;
        const size_t first = (size_t)h * rows;
        memcpy(item, slot + first * p->sum_bytes, rows * p->sum_bytes);
        if (p->call->probed)
            memcpy(item_mass, mass + first * p->mass_bytes, rows * p->mass_bytes);
    }
}

/* Where the worker's next tile will probably begin, behind the list of this one: so that it is asked for
 * while this one ends. */
static void hint(const panel *p, int64_t next, banyan_lane *lane)
{
    if (next >= p->tiles) return;
    const place t = tile_place(p, next);
    if (!t.kept->count) return;
    lane->entry[lane->entries] = (banyan_entry){.record = banyan_kept_at(t.kept, 0).record};
    lane->hints = 1;
}

static void whole_tile(void *arg, int64_t i, int32_t worker)
{
    const panel *p = arg;
    const banyan_cache *c = p->c;
    const place t = tile_place(p, i);
    banyan_lane *lane = &c->lane[worker];
    char *slot = c->slots + (size_t)(2 * worker) * c->sizes.slot_bytes;
    char *mass = c->mass_slots + (size_t)(2 * worker) * c->sizes.mass_slot_bytes;
    prepare(p, &t, lane);
    hint(p, i + c->sizes.workers, lane);
    const int64_t cuts = cuts_of(p, &t, lane);
    attend(p, &t, lane, 0, worker, slot, mass);
    for (int64_t cut = 1; cut < cuts; cut++) {
        char *more = slot + c->sizes.slot_bytes, *more_mass = mass + c->sizes.mass_slot_bytes;
        attend(p, &t, lane, cut, worker, more, more_mass);
        combine(p, &t, slot, mass, more, more_mass);
    }
    scatter(p, &t, slot, mass);
}

static void prepare_tile(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const panel *p = arg;
    const place t = tile_place(p, i);
    prepare(p, &t, &p->c->lane[i]);
}

/* Slots of a wave: the first of each tile is where its partials are combined. */
static char *wave_slot(const panel *p, int64_t i)
{
    return p->c->slots + (size_t)i * p->slot_bytes;
}

static char *wave_mass(const panel *p, int64_t i)
{
    return p->c->mass_slots + (size_t)i * p->mass_stride;
}

static void one_cut(void *arg, int64_t i, int32_t worker)
{
    const panel *p = arg;
    const int64_t *start = p->c->start, cut = p->wave + i, slot = p->tiles + i;
    int64_t tile = 0;
    while (start[tile + 1] <= cut) tile++;
    const place t = tile_place(p, tile);
    attend(p, &t, &p->c->lane[tile], cut - start[tile], worker, wave_slot(p, slot),
           wave_mass(p, slot));
}

/* The wave's cuts of a tile, behind those of the waves before. */
static void combine_tile(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const panel *p = arg;
    const int64_t *start = p->c->start;
    const place t = tile_place(p, i);
    const size_t vectors = (size_t)t.heads * (size_t)t.piece->rows;
    char *slot = wave_slot(p, i), *mass = wave_mass(p, i);
    int64_t from = start[i] > p->wave ? start[i] : p->wave;
    const int64_t to = start[i + 1] < p->wave_end ? start[i + 1] : p->wave_end;
    if (from < to && from == start[i]) { /* its first */
        const int64_t first = p->tiles + from++ - p->wave;
        memcpy(slot, wave_slot(p, first), vectors * p->sum_bytes);
        if (p->call->probed) memcpy(mass, wave_mass(p, first), vectors * p->mass_bytes);
    }
    for (; from < to; from++) {
        const int64_t more = p->tiles + from - p->wave;
        combine(p, &t, slot, mass, wave_slot(p, more), wave_mass(p, more));
    }
    if (start[i + 1] > p->wave && to == start[i + 1]) scatter(p, &t, slot, mass);
}

/* Room for one slot of the largest tile of this panel, and how many fit. */
static int64_t fit_slots(panel *p)
{
    const banyan_cache *c = p->c;
    int32_t rows = 1;
    for (int32_t i = 0; i < p->panel->pieces; i++)
        if (p->panel->piece[i].rows > rows) rows = p->panel->piece[i].rows;
    const size_t vectors = (size_t)c->sizes.tile_heads * (size_t)rows;
    p->slot_bytes = (vectors * p->sum_bytes + 63) / 64 * 64;
    p->mass_stride = (vectors * p->mass_bytes + 63) / 64 * 64;
    const size_t slots = (size_t)c->sizes.slots * c->sizes.slot_bytes / p->slot_bytes;
    const size_t masses = (size_t)c->sizes.slots * c->sizes.mass_slot_bytes / p->mass_stride;
    return (int64_t)(slots < masses ? slots : masses);
}

static void few_tiles(panel *p)
{
    banyan_cache *c = p->c;
    const int64_t slots = fit_slots(p) - p->tiles;
    banyan_each(c->sizes.workers, p->tiles, prepare_tile, p);
    c->start[0] = 0;
    for (int64_t i = 0; i < p->tiles; i++) {
        const place t = tile_place(p, i);
        c->start[i + 1] = c->start[i] + cuts_of(p, &t, &c->lane[i]);
    }
    const int64_t cuts = c->start[p->tiles];
    for (p->wave = 0; p->wave < cuts; p->wave = p->wave_end) {
        p->wave_end = p->wave + slots < cuts ? p->wave + slots : cuts;
        banyan_each(c->sizes.workers, p->wave_end - p->wave, one_cut, p);
        banyan_each(c->sizes.workers, p->tiles, combine_tile, p);
    }
}

banyan_status banyan_panel_compute(banyan_cache *c, const banyan_call *call,
                                   const banyan_panel *rows, int32_t from, int32_t to)
{
    if (from == to) return BANYAN_OK;
    const banyan_plan *plan = c->plan;
    const banyan_kind *kind = banyan_plan_kind(plan, call->layer);
    panel p = {.c = c,
               .call = call,
               .panel = rows,
               .kind = kind,
               .part = banyan_cache_part(c, call->layer),
               .sum_bytes = banyan_sum_bytes(plan, kind->shape.value_dim),
               .mass_bytes = banyan_sum_bytes(plan, 0)};
    p.order = p.part->order + from;
    p.tiles = (int64_t)(to - from) * kind->shape.subgroups * rows->pieces;
    if (c->sizes.workers == 1 || p.tiles > c->sizes.lanes)
        banyan_each(c->sizes.workers, p.tiles, whole_tile, &p);
    else
        few_tiles(&p);
    for (int32_t i = 0; i < c->sizes.lanes; i++)
        if (c->lane[i].is_refused)
            return banyan_fail(BANYAN_ERR_CONFIG,
                               "layer %d: some rows read more than %d runs of blocks",
                               (int)call->layer, BANYAN_MAX_RUNS);
    for (int32_t i = 0; i < c->sizes.workers; i++) {
        c->stats.pairs += c->worker[i].pairs;
        c->worker[i].pairs = 0;
    }
    return BANYAN_OK;
}
