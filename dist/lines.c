/* SPDX-License-Identifier: Apache-2.0 */
/* Columns and diagonals (attention/lines.h), chosen once for each long part of a call, before
 * the first panel of its rows. The observed rows of a query head meet all tokens twice, for the
 * softmax's sums and for the lines'. The keys and values of the columns are copied into records
 * of their own, which all tiles of the part read: a thousand columns lie in as many blocks.
 *
 *     block     0      1      2      3     ..              own
 *     columns   . x    x x    . .    x .   ..              0 1 3 ..     gathered: one record
 *     bands                          |--|          |-------|            blocks, as everywhere
 *
 * A column in a block that a tile reads anyway is masked there: a token counts once. All others
 * lie below the rows' own block, and so all rows of the tile see them. */
#include "dist/lines.h"

#include <math.h>
#include <string.h>

typedef struct observing {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_kind *kind;
    const banyan_part *part;
    const banyan_piece *piece; /* the part's first */
    int32_t rows;              /* of the part */
} observing;

/* One query head at work. */
typedef struct liner {
    const observing *g;
    const banyan_liner *l;
    banyan_line_set *set;
    const banyan_kept *kept;
    const banyan_worker *w;
    int64_t tokens; /* up to the last observed row */
} liner;

static int64_t blocks_of(const liner *x)
{
    const int64_t tokens = x->g->kind->shape.block.block_tokens;
    return (x->tokens + tokens - 1) / tokens;
}

static void observed_queries(const liner *x, int32_t rows)
{
    const banyan_spec *spec = &x->g->c->plan->spec;
    const int32_t dim = x->g->kind->shape.key_dim;
    const int64_t first = x->g->piece->first + x->g->rows - rows;
    for (int32_t r = 0; r < rows; r++)
        banyan_to_float(x->w->observing->q + (int64_t)r * dim,
                        (const char *)x->g->call->q +
                            (size_t)(((first + r) * spec->heads + x->l->head) * dim) *
                                banyan_dtype_bytes(spec->in_dtype),
                        spec->in_dtype, dim);
}

/* They are offered in ascending order: what is not better than the worst is not worth a
 * call. */
static void offer(banyan_pick *pick, int64_t most, double sum, int64_t i)
{
    if (sum > pick->score || isnan(sum)) banyan_picks_offer(pick, most, sum, i);
}

/* The columns of a block are offered; or all are noted, and what they add up to. */
static void offer_columns(const liner *x, int64_t block, const float *column)
{
    const banyan_observing *o = x->w->observing;
    const int64_t tokens = o->sums.block_tokens, first = block * tokens;
    double sum = 0;
    for (int64_t t = first; t < first + tokens && t < x->tokens; t++)
        if (x->l->law.mass > 0)
            o->pick[t] = (banyan_pick){(double)column[t - first], t}, sum += o->pick[t].score;
        else
            offer(o->pick, x->l->law.columns,
                  t < x->l->law.sink ? INFINITY : (double)column[t - first], t);
    if (x->l->law.divergence > 0) o->mass[block] = sum;
}

/* All blocks that the observed rows see, some at a time: for the sums of rows, or for those of
 * lines. */
static void each_block(const liner *x, int lines)
{
    const banyan_shape *shape = &x->g->kind->shape;
    banyan_observing *o = x->w->observing;
    const int64_t tokens = shape->block.block_tokens;
    const int64_t end = banyan_kept_find(x->kept, blocks_of(x));
    banyan_entry entry[BANYAN_SCORED];
    banyan_tile tile = {.shape = shape->block,
                        .scale = shape->scale,
                        .heads = 1,
                        .rows = o->sums.rows,
                        .at = o->sums.at,
                        .q = o->q,
                        .entry = entry,
                        .workspace = x->w->workspace};
    for (int64_t b = 0; b < end; b += tile.entries) {
        tile.entries = end - b < BANYAN_SCORED ? end - b : BANYAN_SCORED;
        for (int64_t i = 0; i < tile.entries; i++) {
            const banyan_held held = banyan_kept_at(x->kept, b + i);
            entry[i] = (banyan_entry){.record = held.record, .block = held.block, .edge = -1};
        }
        x->g->c->plan->kernel->observe(&tile, &o->sums, lines ? o->column : NULL);
        for (int64_t i = 0; i < tile.entries && lines; i++)
            offer_columns(x, entry[i].block, o->column + i * tokens);
    }
}

/* The blocks that distances are read in, and the own one. */
static void set_bands(const liner *x, const banyan_pick *pick, int64_t count)
{
    const int64_t tokens = x->w->observing->sums.block_tokens;
    memset(x->set->band, 0, (size_t)banyan_block_words(x->g->c->plan) * sizeof *x->set->band);
    banyan_bit_set(x->set->band, 0);
    for (int64_t i = 0; i < count; i++) {
        const int64_t d = pick[i].block;
        if (d == BANYAN_NO_BLOCK) continue;
        banyan_bit_set(x->set->band, d / tokens);
        banyan_bit_set(x->set->band, (d + tokens - 1) / tokens);
    }
}

/* So many. The columns were offered. */
static void choose_best(const liner *x)
{
    const banyan_observing *o = x->w->observing;
    const int64_t most = x->l->law.diagonals;
    x->set->columns = banyan_picks_list(o->pick, x->l->law.columns);
    for (int64_t n = 0; n < x->set->columns; n++) x->set->column[n] = o->pick[n].block;
    banyan_picks_clear(o->pick, most);
    for (int64_t d = 0; d < x->tokens; d++)
        banyan_picks_offer(o->pick, most, d < x->l->law.local ? INFINITY : o->sums.diagonal[d],
                           d);
    set_bands(x, o->pick, most);
}

/* ---- by mass ----------------------------------------------------------------------------- */

/* The words of a block, of columns that were chosen by mass. */
static uint64_t *seen_of(const banyan_plan *plan, const banyan_line_set *set, int64_t block)
{
    return set->seen + block * banyan_mask_words(plan);
}

/* The last `count` of the noted columns, and the first tokens. */
static void set_columns(const liner *x, int64_t count)
{
    const banyan_plan *plan = x->g->c->plan;
    const int64_t tokens = plan->spec.block_tokens;
    banyan_line_set *set = x->set;
    int64_t n = 0;
    memset(set->seen, 0, (size_t)(blocks_of(x) * banyan_mask_words(plan)) * sizeof *set->seen);
    for (int64_t i = x->tokens - count; i < x->tokens; i++) {
        const int64_t t = x->w->observing->pick[i].block;
        banyan_bit_set(seen_of(plan, set, t / tokens), t % tokens);
    }
    for (int64_t t = 0; t < x->l->law.sink && t < x->tokens; t++)
        banyan_bit_set(seen_of(plan, set, t / tokens), t % tokens);
    for (int64_t t = 0; t < x->tokens && n <= x->l->room; t++)
        if (banyan_bit(seen_of(plan, set, t / tokens), t % tokens)) {
            if (n < x->l->room) set->column[n] = t;
            n++;
        }
    set->is_in_place = n > x->l->room;
    set->columns = set->is_in_place ? 0 : n;
}

/* The fewest of each that have the mass; or blocks, where pooled keys tell of them. */
static void choose_fewest(const liner *x)
{
    const banyan_observing *o = x->w->observing;
    const banyan_lines *law = &x->l->law;
    const int64_t tokens = o->sums.block_tokens, blocks = blocks_of(x);
    if (law->divergence > 0) {
        const banyan_pooled rows = {x->g->piece->first + x->g->rows - law->rows, law->rows,
                                    x->tokens, o->pooled};
        banyan_pooled_mass(x->g->c, x->g->call, x->g->kind, x->kept, x->l->head, &rows, 1,
                           x->w);
        for (int64_t b = 0; b < blocks; b++) o->mass[b] /= law->rows;
        x->set->is_pooled = banyan_divergence(o->mass, o->pooled, blocks) < law->divergence;
        if (x->set->is_pooled) return;
    }
    set_columns(x, banyan_picks_reach(o->pick, x->tokens, law->mass, law->columns));
    for (int64_t d = 0; d < x->tokens; d++) o->pick[d] = (banyan_pick){o->sums.diagonal[d], d};
    const int64_t n = banyan_picks_reach(o->pick, x->tokens, law->mass, law->diagonals);
    set_bands(x, o->pick + x->tokens - n, n);
    for (int64_t d = 0; d < law->local; d += tokens) banyan_bit_set(x->set->band, d / tokens);
}

/* ---- gathering --------------------------------------------------------------------------- */

typedef struct plain_row {
    char *k, *v;
    size_t k_bytes, v_bytes; /* of a row */
} plain_row;

static plain_row rows_of(const banyan_shape *shape, void *k, void *v)
{
    const size_t element = banyan_dtype_bytes(shape->block.dtype);
    return (plain_row){k, v, (size_t)shape->key_dim * element,
                       (size_t)shape->value_dim * element};
}

/* `rows` gathered rows to a record. */
static void write_record(const liner *x, int64_t index, int32_t rows)
{
    const banyan_shape *shape = &x->g->kind->shape;
    const banyan_kernel *kernel = x->g->c->plan->kernel;
    const banyan_observing *o = x->w->observing;
    char *record = x->set->records + (size_t)index * kernel->record_bytes(&shape->block);
    kernel->pack(&shape->block, record, 1, 0, rows, o->plain_k, shape->key_dim, o->plain_v,
                 shape->value_dim, shape->block.dtype);
}

/* Tokens of one block, the first of which is columns `from`, from its unpacked rows; returns
 * the next. */
static int64_t copy_rows(const liner *x, int64_t from, int64_t block)
{
    const banyan_shape *shape = &x->g->kind->shape;
    const int64_t tokens = shape->block.block_tokens;
    const plain_row in = rows_of(shape, x->w->plain_k, x->w->plain_v);
    const plain_row out = rows_of(shape, x->w->observing->plain_k, x->w->observing->plain_v);
    int64_t i = from;
    for (; i < x->set->columns && x->set->column[i] / tokens == block; i++) {
        const size_t row = (size_t)(x->set->column[i] % tokens), to = (size_t)(i % tokens);
        memcpy(out.k + to * out.k_bytes, in.k + row * in.k_bytes, in.k_bytes);
        if (!shape->block.value_in_key)
            memcpy(out.v + to * out.v_bytes, in.v + row * in.v_bytes, in.v_bytes);
        if (to + 1 == (size_t)tokens || i + 1 == x->set->columns)
            write_record(x, i / tokens, (int32_t)to + 1);
    }
    return i;
}

static void gather(const liner *x)
{
    const banyan_block_shape *shape = &x->g->kind->shape.block;
    const banyan_plain plain = {.k = x->w->plain_k, .v = x->w->plain_v};
    const int64_t tokens = shape->block_tokens;
    for (int64_t i = 0; i < x->set->columns;) {
        const int64_t block = x->set->column[i] / tokens;
        const banyan_held held = banyan_kept_at(x->kept, banyan_kept_find(x->kept, block));
        int64_t last = i;
        while (last + 1 < x->set->columns && x->set->column[last + 1] / tokens == block) last++;
        x->g->c->plan->kernel->unpack(shape, held.record,
                                      (int32_t)(x->set->column[last] % tokens) + 1, &plain);
        i = copy_rows(x, i, block);
    }
}

/* ---- choosing ---------------------------------------------------------------------------- */

/* 0: it is another rank's, or the part is too short for it. */
static int liner_of(const observing *g, int64_t i, int32_t worker, liner *x)
{
    const banyan_liner *l = &g->kind->liner[i];
    banyan_line_set *set = &g->part->line[i];
    int32_t j = 0;
    if (!set->column) return 0;
    while (g->part->mine[j].kv_head != l->kv_head) j++;
    *x = (liner){.g = g,
                 .l = l,
                 .set = set,
                 .kept =
                     banyan_part_kept(&g->call->batch[g->piece->part], g->call->cache_layer, j),
                 .w = &g->c->worker[worker],
                 .tokens = g->piece->at + g->rows};
    set->is_all = g->rows < l->law.rows;
    return !set->is_all;
}

static void observe_head(void *arg, int64_t i, int32_t worker)
{
    liner x;
    if (!liner_of(arg, i, worker, &x)) return;
    const banyan_liner *l = x.l;
    banyan_observing *o = x.w->observing;
    o->sums.rows = l->law.rows;
    o->sums.block_tokens = x.g->kind->shape.block.block_tokens;
    o->sums.at = x.tokens - l->law.rows;
    observed_queries(&x, l->law.rows);
    banyan_observe_begin(&o->sums);
    banyan_picks_clear(o->pick, l->law.columns);
    x.set->columns = x.set->is_in_place = x.set->is_pooled = 0;
    each_block(&x, 0);
    banyan_observe_turn(&o->sums);
    each_block(&x, 1);
    if (l->law.mass > 0)
        choose_fewest(&x);
    else
        choose_best(&x);
}

static void copy_columns(void *arg, int64_t i, int32_t worker)
{
    liner x;
    if (liner_of(arg, i, worker, &x)) gather(&x);
}

void banyan_panel_observe(banyan_cache *c, const banyan_call *call, const banyan_panel *panel)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    banyan_part *part = &c->part[c->plan->kind_of_layer[call->layer]];
    const banyan_rows *rows = &call->batch[panel->piece->part];
    if (rows->at != panel->piece->at) return; /* chosen with its first panel */
    part->has_lines = rows->rows >= kind->line_rows;
    if (!part->has_lines || !part->line) return; /* or no such head is held here */
    observing g = {.c = c,
                   .call = call,
                   .kind = kind,
                   .part = part,
                   .piece = panel->piece,
                   .rows = rows->rows};
    const double start = banyan_seconds();
    banyan_each(c->sizes.workers, kind->liners, observe_head, &g);
    c->stats.choice_seconds += banyan_seconds() - start;
    banyan_each(c->sizes.workers, kind->liners, copy_columns, &g);
}

const banyan_line_set *banyan_lined(const banyan_cache *c, const banyan_kind *kind,
                                    int32_t kv_head, int32_t subgroup, const banyan_class *of)
{
    const banyan_shape *shape = &kind->shape;
    const banyan_part *part = &c->part[kind - c->plan->kind];
    if (!kind->liners || !part->has_lines) return NULL;
    const int32_t head = kv_head * shape->group + subgroup * banyan_tile_heads(shape) +
                         __builtin_ctzll(of->heads) * shape->unit;
    const int32_t liner = kind->liner_of[head];
    return liner < 0 || part->line[liner].is_all ? NULL : &part->line[liner];
}

/* Is column n one that rows of the own block see, and not in a block that they read anyway? */
static int is_seen(const banyan_line_set *set, int64_t n, int64_t own, int64_t tokens,
                   banyan_range range)
{
    const int64_t token = set->column[n], block = token / tokens;
    return block <= own && !banyan_bit(set->band, own - block) && token >= range.first &&
           token < range.end;
}

/* The columns of a block below `own`, of the tokens of a range, as a mask; NULL: there are
 * none. */
static const uint64_t *mask_of(const banyan_plan *plan, const banyan_line_set *set,
                               int64_t block, banyan_range range, uint64_t **mask)
{
    const int64_t tokens = plan->spec.block_tokens, words = banyan_mask_words(plan);
    const uint64_t *seen = seen_of(plan, set, block);
    const int64_t first = block * tokens, end = first + tokens;
    uint64_t any = 0;
    if (end <= range.first || first >= range.end) return NULL;
    if (first < range.first || end > range.end) { /* the range cuts it */
        memset(*mask, 0, (size_t)words * sizeof **mask);
        for (int64_t t = first; t < end; t++)
            if (t >= range.first && t < range.end && banyan_bit(seen, t - first))
                banyan_bit_set(*mask, t - first);
        seen = *mask;
        *mask += words;
    }
    for (int64_t i = 0; i < words; i++) any |= seen[i];
    return any ? seen : NULL;
}

/* .. too many to gather: each block that has some, and is not read anyway. */
static int64_t entries_in_place(const banyan_plan *plan, const banyan_line_set *set,
                                const banyan_kept *kept, uint64_t heads, int64_t own,
                                banyan_range range, banyan_entry *entry, uint64_t **mask)
{
    int64_t count = 0;
    for (int64_t i = 0; i < kept->count; i++) {
        const banyan_held held = banyan_kept_at(kept, i);
        if (held.block >= own) break;
        if (banyan_bit(set->band, own - held.block)) continue;
        const uint64_t *seen = mask_of(plan, set, held.block, range, mask);
        if (seen)
            entry[count++] = (banyan_entry){.record = held.record,
                                            .block = held.block,
                                            .heads = heads,
                                            .edge = -1,
                                            .mask = seen};
    }
    return count;
}

int64_t banyan_line_entries(const banyan_cache *c, const banyan_kind *kind,
                            const banyan_line_set *set, const banyan_kept *kept, uint64_t heads,
                            int64_t own, banyan_range range, banyan_entry *entry,
                            uint64_t **mask)
{
    if (set->is_in_place)
        return entries_in_place(c->plan, set, kept, heads, own, range, entry, mask);
    const int64_t tokens = kind->shape.block.block_tokens, words = banyan_mask_words(c->plan);
    const size_t record = c->plan->kernel->record_bytes(&kind->shape.block);
    int64_t count = 0;
    for (int64_t from = 0; from < set->columns; from += tokens) {
        const int64_t left = set->columns - from, some = left < tokens ? left : tokens;
        int any = 0;
        memset(*mask, 0, (size_t)words * sizeof **mask);
        for (int64_t i = 0; i < some; i++)
            if (is_seen(set, from + i, own, tokens, range)) banyan_bit_set(*mask, i), any = 1;
        if (!any) continue;
        entry[count++] =
            (banyan_entry){.record = set->records + (size_t)(from / tokens) * record,
                           .heads = heads,
                           .edge = -1,
                           .mask = *mask,
                           .token = set->column + from};
        *mask += words;
    }
    return count;
}
