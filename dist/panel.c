/* SPDX-License-Identifier: Apache-2.0 */
/* The partials of a panel: up to panel_rows rows, all KV heads held here.
 *
 * A tile is (KV head, up to 64 of its query heads, a piece: rows of one part and one own
 * block): one q, one block list. A list is cut every so many blocks, whatever else there is to
 * do, and the partials of the cuts are combined in ascending order: a row's bits depend on its
 * own sequence alone, not on threads or neighbours. Threads share the work in one of two ways:
 *
 *   many tiles (prefill, batches)   each thread takes whole tiles, cut by cut
 *   few tiles (decode)              the tiles' cuts lie end to end, and threads take them in
 *                                   turn
 *
 *       tile:   |0              |1              |2      |3              |      blocks to read
 *       cut:    |0    |1    |2  |3    |4    |5  |6    |7|8    |9    |10 |
 *       partial: 0     1     2   3     ..                                      of this wave
 *
 * A wave is as many cuts as there is room for the partials of. KV heads whose partials are sent
 * at once come in a panel of their own, before the others: their messages travel while those
 * are computed. */
#include "dist/follow.h"
#include "dist/lines.h"

#include <string.h>

typedef struct panel {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_panel *panel;
    const banyan_kind *kind;
    const banyan_part *part;
    const int32_t *order; /* KV heads held here, those of this panel */
    int64_t tiles;
    size_t sum_bytes;       /* of a row */
    size_t partial_bytes;   /* of a cut's partial, all rows of its tile */
    int32_t what;           /* BANYAN_WHAT_.. */
    int joins;              /* some rows have compensation tokens */
    int64_t wave, wave_end; /* cuts first .. end-1, when lists are cut */
} panel;

/* Where tile `i` lies. */
typedef struct panel_tile {
    const banyan_kept *kept;
    const banyan_head_plan *head;
    const banyan_piece *piece;
    int32_t j; /* the KV head, among those held here */
    int32_t subgroup, heads;
    int32_t first_head; /* of the model */
} panel_tile;

static panel_tile tile_place(const panel *p, int64_t i)
{
    const banyan_shape *shape = &p->kind->shape;
    const banyan_piece *piece = &p->panel->piece[i % p->panel->pieces];
    const int64_t rest = i / p->panel->pieces;
    const int32_t subgroup = (int32_t)(rest % shape->subgroups);
    const int32_t j = p->order[rest / shape->subgroups], kv_head = p->part->mine[j].kv_head;
    const int32_t most = banyan_tile_heads(shape), before = subgroup * most;
    panel_tile t = {.kept =
                        banyan_part_kept(&p->call->batch[piece->part], p->call->cache_layer, j),
                    .head = &p->kind->head[kv_head],
                    .piece = piece,
                    .j = j,
                    .subgroup = subgroup,
                    .heads = shape->group - before,
                    .first_head = kv_head * shape->group + before};
    if (t.heads > most) t.heads = most;
    return t;
}

static void gather_queries(const panel *p, const panel_tile *t, float *q)
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
static int64_t cut_blocks(const panel *p, const panel_tile *t)
{
    return (int64_t)p->kind->cut_blocks * (t->piece->rows < 16 ? 1 : 8);
}

static int64_t cuts_of(const panel *p, const panel_tile *t, const banyan_tile_input *input)
{
    const int64_t cut = cut_blocks(p, t);
    return input->entries > cut ? (input->entries + cut - 1) / cut : 1;
}

banyan_range banyan_part_range(const banyan_rows *part, int32_t what)
{
    banyan_range range = {part->first, part->end ? part->end : INT64_MAX};
    if (what < 0) return range;
    if (!part->mass || what >= part->probe_count) return (banyan_range){0, 0};
    const banyan_range *probe = &part->probes[what];
    if (probe->first > range.first) range.first = probe->first;
    if (probe->end < range.end) range.end = probe->end;
    if (range.end < range.first) range.end = range.first;
    return range;
}

static banyan_range tile_range(const panel *p, const panel_tile *t)
{
    return banyan_part_range(&p->call->batch[t->piece->part], p->what);
}

/* Of an input's list, the entries with a token of the range. */
static void trim(banyan_tile_input *input, banyan_range range, int64_t tokens)
{
    int64_t end = input->entries;
    input->first = 0;
    while (input->first < end && (input->entry[input->first].block + 1) * tokens <= range.first)
        input->first++;
    while (end > input->first && input->entry[end - 1].block * tokens >= range.end) end--;
    input->entries = range.end > range.first ? end - input->first : 0;
}

/* What the classes of a tile chose, before lists are built. */
static void take_choices(const panel *p, const panel_tile *t, const banyan_class *class,
                         int32_t count, banyan_tile_input *input)
{
    const int32_t kv_head = p->part->mine[t->j].kv_head;
    const int64_t piece = t->piece - p->panel->piece;
    for (int32_t i = 0; i < count; i++) {
        input->chosen[i] = (banyan_chosen){0};
        if (p->kind->pickers)
            input->chosen[i] =
                banyan_picked(p->c, p->kind, kv_head, t->subgroup, &class[i], piece);
        const banyan_line_set *set =
            banyan_lined(p->c, p->kind, kv_head, t->subgroup, &class[i]);
        if (banyan_followed_by(p->c, p->call, p->kind, kv_head, t->subgroup, &class[i],
                               t -> piece))
            input->chosen[i].only = p->c->no_blocks;
        else if (set && set->is_pooled)
            input->chosen[i].only = banyan_only(p->c->plan, set, piece);
        else if (set)
            input->chosen[i].band = set->band;
    }
}

/* .. and behind the list, the columns of theirs that it does not hold, or the tokens that they
 *   follow. */
static void add_columns(const panel *p, const panel_tile *t, const banyan_class *class,
                        int32_t count, banyan_tile_input *input)
{
    const int64_t own = t->piece->at / p->kind->shape.block.block_tokens;
    uint64_t *mask = input->mask;
    for (int32_t i = 0; i < count; i++) {
        const banyan_line_set *set =
            banyan_lined(p->c, p->kind, p->part->mine[t->j].kv_head, t->subgroup, &class[i]);
        const banyan_followed *f =
            banyan_followed_by(p->c, p->call, p->kind, p->part->mine[t->j].kv_head, t->subgroup,
                               &class[i], t -> piece);
        if (f)
            input->entries +=
                banyan_followed_entries(p->c, f, t->kept, class[i].heads, tile_range(p, t),
                                        input->entry + input->first + input->entries, &mask);
        if (set && !set->is_pooled)
            input->entries += banyan_line_entries(
                p->c, p->kind, set, t->kept, class[i].heads, own, tile_range(p, t),
                input->entry + input->first + input->entries, &mask);
    }
}

/* A tile's q and block list. */
static void prepare_input(const panel *p, const panel_tile *t, banyan_tile_input *input)
{
    const int32_t *classes = t->head->subgroup_first + t->subgroup;
    const banyan_held_list held = {
        t->kept->chunk, banyan_is_lost(p->c->plan, p->call->layer) ? 0 : t->kept->count};
    const banyan_class *class = t->head->classes + classes[0];
    const int32_t count = classes[1] - classes[0];
    const int adds = p->kind->liners || p->kind->followers;
    const int chooses = p->kind->pickers || adds;
    if (chooses) take_choices(p, t, class, count, input);
    input->hints = 0;
    input->entries =
        banyan_list_build(class, count, chooses ? input->chosen : NULL, t->piece->at,
                          t->piece->at + t->piece->rows - 1, &held, input->entry, input->edge);
    input->is_refused |=
        input->entries < 0; /* a pattern that the plan should not have let pass */
    if (input->entries < 0) input->entries = 0;
    trim(input, tile_range(p, t), p->kind->shape.block.block_tokens);
    if (adds && held.count) add_columns(p, t, class, count, input);
    gather_queries(p, t, input->q);
}

/* The partial of a cut of an input's list. */
static void attend_cut(const panel *p, const panel_tile *t, const banyan_tile_input *input,
                       int64_t cut, int32_t worker, char *partial)
{
    banyan_cache *c = p->c;
    const banyan_plan *plan = c->plan;
    const banyan_range range = tile_range(p, t);
    const int64_t blocks = cut_blocks(p, t), from = cut * blocks;
    const int64_t to = from + blocks < input->entries ? from + blocks : input->entries;
    banyan_tile tile = {.shape = p->kind->shape.block,
                        .scale = p->kind->shape.scale,
                        .heads = t->heads,
                        .rows = t->piece->rows,
                        .unit = p->kind->shape.unit,
                        .at = t->piece->at,
                        .q = input->q,
                        .entry = input->entry + input->first + from,
                        .entries = to - from,
                        .behind = input->entries + input->hints - to,
                        .edge = input->edge,
                        .first_token = range.first,
                        .end_token = range.end,
                        .workspace = c->worker[worker].workspace};
    banyan_sum_attend(plan, &tile, partial);
    int64_t pairs = 0;
    for (int64_t i = 0; i < tile.entries; i++)
        pairs += __builtin_popcountll(tile.entry[i].heads);
    if (p->what == BANYAN_WHAT_RESULTS)
        c->worker[worker].pairs += pairs * p->kind->shape.unit * t->piece->rows;
}

static void add_cut(const panel *p, const panel_tile *t, char *partial, const char *more)
{
    banyan_sum_combine(p->c->plan, partial, partial, more, p->kind->shape.value_dim,
                       (int64_t)t->heads * t->piece->rows);
}

/* Query heads of the tile whose rows have a compensation token. */
static uint64_t compensated_heads(const panel_tile *t)
{
    uint64_t heads = 0;
    for (int32_t i = t->head->subgroup_first[t->subgroup];
         i < t->head->subgroup_first[t->subgroup + 1]; i++)
        if (t->head->classes[i].pattern.selector->compensates)
            heads |= t->head->classes[i].heads;
    return heads;
}

/* A finished partial, [heads][rows], to its rows of the items; of a probe without the
 * values. */
static void scatter_sums(const panel *p, const panel_tile *t, const banyan_tile_input *input,
                         char *partial)
{
    const banyan_plan *plan = p->c->plan;
    if (p->joins && p->what == BANYAN_WHAT_RESULTS)
        banyan_compensation_add(p->c, p->kind, t->j, t->piece - p->panel->piece,
                                compensated_heads(t), t->piece->rows, input->q, partial);
    const int32_t rows = t->piece->rows;
    const size_t row = (size_t)(t->piece->first - p->panel->first);
    for (int32_t h = 0; h < t->heads; h++) {
        const char *from = partial + (size_t)h * (size_t)rows * p->sum_bytes;
        const int32_t head = t->first_head + h;
        if (p->what == BANYAN_WHAT_RESULTS)
            memcpy((char *)p->part->data[head] + row * p->sum_bytes, from,
                   (size_t)rows * p->sum_bytes);
        else
            banyan_sum_masses(plan,
                              (char *)p->part->mass[head] + row * banyan_sum_bytes(plan, 0),
                              from, p->kind->shape.value_dim, rows);
    }
}

static char *worker_partial(const banyan_cache *c, int32_t worker)
{
    return c->partials + (size_t)(2 * worker) * c->sizes.partial_bytes;
}

/* Where the worker's next tile will probably begin, behind the list of this one: so that it is
 * asked for while this one ends. */
static void hint(const panel *p, int64_t next, banyan_tile_input *input)
{
    if (next >= p->tiles) return;
    const panel_tile t = tile_place(p, next);
    if (!t.kept->count) return;
    input->entry[input->first + input->entries] =
        (banyan_entry){.record = banyan_kept_at(t.kept, 0).record};
    input->hints = 1;
}

static void whole_tile(void *arg, int64_t i, int32_t worker)
{
    const panel *p = arg;
    const banyan_cache *c = p->c;
    const panel_tile t = tile_place(p, i);
    banyan_tile_input *input = &c->input[worker];
    char *partial = worker_partial(c, worker), *more = partial + c->sizes.partial_bytes;
    prepare_input(p, &t, input);
    hint(p, i + c->sizes.workers, input);
    const int64_t cuts = cuts_of(p, &t, input);
    attend_cut(p, &t, input, 0, worker, partial);
    for (int64_t cut = 1; cut < cuts; cut++) {
        attend_cut(p, &t, input, cut, worker, more);
        add_cut(p, &t, partial, more);
    }
    scatter_sums(p, &t, input, partial);
}

/* The strongest tokens of a tile, to their rows of the items. */
static void strongest_tile(void *arg, int64_t i, int32_t worker)
{
    const panel *p = arg;
    const banyan_cache *c = p->c;
    const panel_tile t = tile_place(p, i);
    const banyan_range range = tile_range(p, &t);
    banyan_tile_input *input = &c->input[worker];
    banyan_strongest *best = c->worker[worker].best;
    const int32_t rows = t.piece->rows;
    const size_t row = (size_t)(t.piece->first - p->panel->first);
    void *scratch = worker_partial(c, worker);
    prepare_input(p, &t, input);
    const banyan_tile tile = {.shape = p->kind->shape.block,
                              .scale = p->kind->shape.scale,
                              .heads = t.heads,
                              .rows = rows,
                              .unit = p->kind->shape.unit,
                              .at = t.piece->at,
                              .q = input->q,
                              .entry = input->entry + input->first,
                              .entries = input->entries,
                              .edge = input->edge,
                              .first_token = range.first,
                              .end_token = range.end,
                              .partial = scratch,
                              .workspace = c->worker[worker].workspace};
    banyan_strongest_find(c->plan->kernel, &tile, best);
    for (int32_t h = 0; h < t.heads; h++)
        memcpy((banyan_strongest *)p->part->mass[t.first_head + h] + row,
               best + (size_t)h * (size_t)rows, (size_t)rows * sizeof *best);
}

static void prepare_tile(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const panel *p = arg;
    const panel_tile t = tile_place(p, i);
    prepare_input(p, &t, &p->c->input[i]);
}

/* Of a wave: one of each tile, where those of its cuts are combined, then one of each cut. */
static char *wave_partial(const panel *p, int64_t i)
{
    return p->c->partials + (size_t)i * p->partial_bytes;
}

static void one_cut(void *arg, int64_t i, int32_t worker)
{
    const panel *p = arg;
    const int64_t *start = p->c->start, cut = p->wave + i, partial = p->tiles + i;
    int64_t tile = 0;
    while (start[tile + 1] <= cut) tile++;
    const panel_tile t = tile_place(p, tile);
    attend_cut(p, &t, &p->c->input[tile], cut - start[tile], worker, wave_partial(p, partial));
}

/* The wave's cuts of a tile, behind those of the waves before. */
static void combine_tile(void *arg, int64_t i, int32_t worker)
{
    (void)worker;
    const panel *p = arg;
    const int64_t *start = p->c->start;
    const panel_tile t = tile_place(p, i);
    const size_t vectors = (size_t)t.heads * (size_t)t.piece->rows;
    char *partial = wave_partial(p, i);
    int64_t from = start[i] > p->wave ? start[i] : p->wave;
    const int64_t to = start[i + 1] < p->wave_end ? start[i + 1] : p->wave_end;
    if (from < to && from == start[i]) { /* its first */
        const int64_t first = p->tiles + from++ - p->wave;
        memcpy(partial, wave_partial(p, first), vectors * p->sum_bytes);
    }
    for (; from < to; from++)
        add_cut(p, &t, partial, wave_partial(p, p->tiles + from - p->wave));
    if (start[i + 1] > p->wave && to == start[i + 1])
        scatter_sums(p, &t, &p->c->input[i], partial);
}

/* Room for a partial of the largest tile of this panel, and how many fit. */
static int64_t fit_partials(panel *p)
{
    const banyan_cache *c = p->c;
    int32_t rows = 1;
    for (int32_t i = 0; i < p->panel->pieces; i++)
        if (p->panel->piece[i].rows > rows) rows = p->panel->piece[i].rows;
    const size_t vectors = (size_t)c->sizes.tile_heads * (size_t)rows;
    p->partial_bytes = (vectors * p->sum_bytes + 63) / 64 * 64;
    return (int64_t)((size_t)c->sizes.partials * c->sizes.partial_bytes / p->partial_bytes);
}

static void few_tiles(panel *p)
{
    banyan_cache *c = p->c;
    const int64_t partials = fit_partials(p) - p->tiles;
    banyan_each(c->sizes.workers, p->tiles, prepare_tile, p);
    c->start[0] = 0;
    for (int64_t i = 0; i < p->tiles; i++) {
        const panel_tile t = tile_place(p, i);
        c->start[i + 1] = c->start[i] + cuts_of(p, &t, &c->input[i]);
    }
    const int64_t cuts = c->start[p->tiles];
    for (p->wave = 0; p->wave < cuts; p->wave = p->wave_end) {
        p->wave_end = p->wave + partials < cuts ? p->wave + partials : cuts;
        banyan_each(c->sizes.workers, p->wave_end - p->wave, one_cut, p);
        banyan_each(c->sizes.workers, p->tiles, combine_tile, p);
    }
}

static banyan_status compute_tiles(banyan_cache *c, const banyan_call *call,
                                   const banyan_panel *rows, int32_t from, int32_t to,
                                   int32_t what)
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
               .what = what};
    p.order = p.part->order + from;
    p.tiles = (int64_t)(to - from) * kind->shape.subgroups * rows->pieces;
    p.joins = kind->compensates && !banyan_is_lost(plan, call->layer);
    if (p.joins && what == BANYAN_WHAT_RESULTS)
        banyan_compensation_join(c, call, rows, p.order, to - from);
    if (what == BANYAN_WHAT_STRONGEST)
        banyan_each(c->sizes.workers, p.tiles, strongest_tile, &p);
    else if (c->sizes.workers == 1 || p.tiles > c->sizes.inputs)
        banyan_each(c->sizes.workers, p.tiles, whole_tile, &p);
    else
        few_tiles(&p);
    for (int32_t i = 0; i < c->sizes.inputs; i++)
        if (c->input[i].is_refused)
            return banyan_fail(BANYAN_ERR_CONFIG,
                               "layer %d: some rows read more than %d runs of blocks",
                               (int)call->layer, BANYAN_MAX_RUNS);
    for (int32_t i = 0; i < c->sizes.workers; i++) {
        c->stats.pairs += c->worker[i].pairs;
        c->worker[i].pairs = 0;
    }
    return BANYAN_OK;
}

banyan_status banyan_panel_compute(banyan_cache *c, const banyan_call *call,
                                   const banyan_panel *panel, int32_t from, int32_t to)
{
    return compute_tiles(c, call, panel, from, to, BANYAN_WHAT_RESULTS);
}

banyan_status banyan_panel_probe(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel, int32_t what)
{
    const int32_t mine = banyan_cache_part(c, call->layer)->mine_count;
    const banyan_status status = compute_tiles(c, call, panel, 0, mine, what);
    return status ? status : banyan_panel_show(c, call, panel, what);
}
