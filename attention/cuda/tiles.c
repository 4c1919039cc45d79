/* SPDX-License-Identifier: Apache-2.0 */
/* Planning a call of the Hopper prefill: strips -> subtiles -> tiles -> portions, in an order.
 *
 * To cut or not to cut: thread blocks that take tiles one after the other are done when the
 * last one is, which is found by letting them do so (a heap of the times at which they are
 * free). If cutting all lists into equal runs is done a tenth earlier, though its partials have
 * to be combined, lists are cut. For less they are not: equal runs are of all KV heads at once,
 * whose records do not find room in the L2 together, where tiles in order are of a few heads at
 * a time. */
#include "attention/cuda/tiles.h"
#include "attention/cuda/record.h"
#include "attention/cuda/spans.h"

#include <string.h>

/* Half of an H100's L2: what a few KV heads may fill, so that all tiles that read them find
 * them there. */
enum { SECTION_BYTES = 25 << 20 };
/* In steps: the start of a portion, and a combine with its launch. */
static const cuda_split_costs costs = {1, 3, 2};

struct planner {
    const banyan_batch *batch;
    int32_t *strip_order, *tile_order; /* [strips], [tiles] */
    int32_t *merged;                   /* [the larger of both]: for sorting */
    cuda_work *tile;                   /* uncut, in the order of strips */
    int32_t *steps;                    /* [tiles] */
    int32_t *section;                  /* [tables] */
    int64_t *until;                    /* [workers] a heap: the least is first */
    cuda_split split;
    int32_t tiles;
};

/* ---- room -------------------------------------------------------------------------------- */

static void *take_planned(char *room, size_t *used, size_t bytes)
{
    void *const at = room ? room + *used : NULL;
    *used += (bytes + 15) / 16 * 16;
    return at;
}

/* Results first: they go to the device. */
static size_t lay_out(const cuda_tiles_limits *limits, char *room, size_t *device_bytes,
                      struct planner *p, cuda_tiles *out)
{
    const size_t tiles = (size_t)limits->subtiles, strips = (size_t)limits->strips;
    const size_t workers = (size_t)limits->workers;
    const size_t portions = tiles + workers, tables = (size_t)limits->tables;
    /* each strip has a list of its own, and is in two unions at most */
    const size_t spans = 3 * (size_t)limits->spans + (1 + CUDA_UNION_SPANS) * strips;
    size_t used = 0;
    out->work = take_planned(room, &used, portions * sizeof *out->work);
    out->first_portion = take_planned(room, &used, (portions + 1) * sizeof *out->first_portion);
    out->span = take_planned(room, &used, spans * sizeof *out->span);
    out->cut = take_planned(room, &used, workers * sizeof *out->cut);
    *device_bytes = used;
    p->tile = take_planned(room, &used, tiles * sizeof *p->tile);
    p->steps = take_planned(room, &used, tiles * sizeof *p->steps);
    p->strip_order = take_planned(room, &used, strips * sizeof *p->strip_order);
    p->tile_order = take_planned(room, &used, tiles * sizeof *p->tile_order);
    p->merged =
        take_planned(room, &used, (tiles > strips ? tiles : strips) * sizeof *p->merged);
    p->section = take_planned(room, &used, tables * sizeof *p->section);
    p->until = take_planned(room, &used, workers * sizeof *p->until);
    p->split.portion = take_planned(room, &used, portions * sizeof *p->split.portion);
    p->split.first_portion =
        take_planned(room, &used, (workers + 1) * sizeof *p->split.first_portion);
    p->split.cut = take_planned(room, &used, workers * sizeof *p->split.cut);
    return used;
}

size_t banyan_cuda_tiles_bytes(const cuda_tiles_limits *limits, size_t *device_bytes)
{
    struct planner planner;
    cuda_tiles tiles;
    return lay_out(limits, NULL, device_bytes, &planner, &tiles);
}

/* ---- sorting ----------------------------------------------------------------------------- */

typedef int (*before_fn)(const struct planner *p, int32_t a, int32_t b);

/* The end of the run that begins at `from`: what ascends, or what descends, turned round. */
static int32_t run_end(const struct planner *p, int32_t *order, int32_t from, int32_t count,
                       before_fn before)
{
    int32_t end = from + 1;
    if (end == count) return end;
    const int descends = before(p, order[end], order[from]);
    while (end < count && !!before(p, order[end], order[end - 1]) == descends) end++;
    for (int32_t lo = from, hi = end - 1; descends && lo < hi; lo++, hi--) {
        const int32_t swap = order[lo];
        order[lo] = order[hi];
        order[hi] = swap;
    }
    return end;
}

static void merge_runs(struct planner *p, int32_t *order, int32_t from, int32_t middle,
                       int32_t end, before_fn before)
{
    int32_t a = from, b = middle, *to = p->merged;
    while (a < middle && b < end)
        *to++ = before(p, order[b], order[a]) ? order[b++] : order[a++];
    memcpy(to, order + a, (size_t)(middle - a) * sizeof *order);
    memcpy(order + from, p->merged, (size_t)(b - from) * sizeof *order);
}

/* A natural merge sort: strips come in order, and tiles in a few runs, a call's KV heads. */
static void sort_tiles(struct planner *p, int32_t *order, int32_t count, before_fn before)
{
    for (int32_t i = 0; i < count; i++) order[i] = i;
    for (int32_t runs = 2; count > 0 && runs > 1;) {
        runs = 0;
        for (int32_t from = 0; from < count;) {
            const int32_t middle = run_end(p, order, from, count, before);
            const int32_t end =
                middle < count ? run_end(p, order, middle, count, before) : middle;
            if (end > middle) merge_runs(p, order, from, middle, end, before);
            from = end;
            runs++;
        }
    }
}

/* Strips whose lists are alike become neighbours: of one table and pattern, in the order of
 * rows. */
static int strip_before(const struct planner *p, int32_t a, int32_t b)
{
    const banyan_strip *const x = &p->batch->strip[a], *const y = &p->batch->strip[b];
    if (x->table != y->table) return x->table < y->table;
    if (x->first_head != y->first_head) return x->first_head < y->first_head;
    if (x->heads != y->heads) return x->heads < y->heads;
    if (x->first_row != y->first_row) return x->first_row < y->first_row;
    return a < b;
}

static int tile_before(const struct planner *p, int32_t a, int32_t b)
{
    const int32_t x = p->section[p->tile[a].table], y = p->section[p->tile[b].table];
    if (x != y) return x < y;
    if (p->steps[a] != p->steps[b]) return p->steps[a] > p->steps[b];
    return a < b;
}

/* ---- tiles ------------------------------------------------------------------------------- */

static int32_t heads_of(const banyan_strip *strip)
{
    return (int32_t)__builtin_popcountll(strip->heads);
}

static int32_t subtiles_of(const banyan_strip *strip)
{
    return (heads_of(strip) * strip->rows + CUDA_SUBTILE - 1) / CUDA_SUBTILE;
}

int64_t banyan_cuda_subtiles(const banyan_strip *strip, int32_t strips)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < strips; i++) sum += subtiles_of(&strip[i]);
    return sum;
}

static cuda_subtile subtile_of(const banyan_batch *batch, const banyan_strip *strip,
                               int32_t index)
{
    const int32_t first = index * CUDA_SUBTILE, left = heads_of(strip) * strip->rows - first;
    const banyan_edge *const edge = strip->edge >= 0 ? &batch->edge[strip->edge] : NULL;
    return (cuda_subtile){.heads = strip->heads,
                          .sink_end = edge ? edge->sink_end : 0,
                          .window = edge ? edge->window : 0,
                          .first_head = strip->first_head,
                          .first_row = strip->first_row,
                          .first_vector = first,
                          .rows = (int16_t)strip->rows,
                          .vectors = (int16_t)(left < CUDA_SUBTILE ? left : CUDA_SUBTILE)};
}

static cuda_work *add_tile(struct planner *p, const banyan_strip *strip, int32_t index)
{
    cuda_work *const tile = &p->tile[p->tiles++];
    memset(tile, 0, sizeof *tile);
    tile->subtile[0] = subtile_of(p->batch, strip, index);
    tile->table = strip->table;
    tile->partial = -1;
    return tile;
}

static void set_tile_list(cuda_work *tile, const cuda_list *list, int32_t first_span)
{
    tile->first_span = first_span;
    tile->spans = list->spans;
    memcpy(tile->steps, list->steps, sizeof tile->steps);
}

static cuda_list new_list(const banyan_batch *batch, const cuda_tiles *out)
{
    const uint32_t tokens = record_tokens(batch->shape.block_tokens);
    return (cuda_list){out->span + out->spans, CUDA_STEP(tokens), 0, {0, 0, 0}};
}

/* The last subtile of strip `a` and the first of `b`, if a list for both is worth it. */
static int pair(struct planner *p, const banyan_strip *a, const banyan_strip *b,
                cuda_tiles *out)
{
    const banyan_span *const span = p->batch->span;
    cuda_list list = new_list(p->batch, out);
    if (a->table != b->table || !banyan_cuda_union(span + a->first_span, a->spans,
                                                   span + b->first_span, b->spans, &list))
        return 0;
    cuda_work *const tile = add_tile(p, a, subtiles_of(a) - 1);
    tile->subtile[1] = subtile_of(p->batch, b, 0);
    set_tile_list(tile, &list, out->spans);
    out->spans += list.spans;
    return 1;
}

static void add_single(struct planner *p, const banyan_strip *strip, cuda_tiles *out)
{
    cuda_list list = new_list(p->batch, out);
    banyan_cuda_list(p->batch->span + strip->first_span, strip->spans, 0, &list);
    set_tile_list(add_tile(p, strip, subtiles_of(strip) - 1), &list, out->spans);
    out->spans += list.spans;
}

/* Subtiles first .. of a strip, two by two; 1 when the last one is left over. */
static int add_pairs(struct planner *p, const banyan_strip *strip, int32_t first,
                     cuda_tiles *out)
{
    const int32_t subtiles = subtiles_of(strip);
    if (first + 1 >= subtiles) return first < subtiles;
    cuda_list list = new_list(p->batch, out);
    banyan_cuda_list(p->batch->span + strip->first_span, strip->spans, 1, &list);
    for (; first + 1 < subtiles; first += 2) {
        cuda_work *const tile = add_tile(p, strip, first);
        tile->subtile[1] = subtile_of(p->batch, strip, first + 1);
        set_tile_list(tile, &list, out->spans);
    }
    out->spans += list.spans;
    return first < subtiles;
}

static void make_tiles(struct planner *p, cuda_tiles *out)
{
    const banyan_strip *open = NULL; /* its last subtile has no companion yet */
    sort_tiles(p, p->strip_order, p->batch->strips, strip_before);
    for (int32_t i = 0; i < p->batch->strips; i++) {
        const banyan_strip *const strip = &p->batch->strip[p->strip_order[i]];
        const int paired = open && pair(p, open, strip, out);
        if (open && !paired) add_single(p, open, out);
        open = add_pairs(p, strip, paired, out) ? strip : NULL;
    }
    if (open) add_single(p, open, out);
    for (int32_t i = 0; i < p->tiles; i++) {
        const int32_t *const steps = p->tile[i].steps;
        p->steps[i] = steps[0] + steps[1] + steps[2];
    }
}

/* ---- order ------------------------------------------------------------------------------- */

/* Tables in ascending order, as many to a section as the L2 has room for. The longest list
 * stands for all that is read of a table. */
static void make_sections(struct planner *p)
{
    const banyan_block_shape *const shape = &p->batch->shape;
    const int64_t step_bytes =
        CUDA_STEP(RECORD_TOKENS) *
        (int64_t)(record16_tile_bytes(RECORD_TOKENS, (uint32_t)shape->key_dim) +
                  record16_tile_bytes(RECORD_TOKENS, (uint32_t)shape->value_dim));
    int64_t filled = 0;
    int32_t section = 0;
    for (int32_t i = 0; i < p->batch->tables; i++) p->section[i] = 0;
    for (int32_t i = 0; i < p->tiles; i++) {
        int32_t *const longest = &p->section[p->tile[i].table];
        if (p->steps[i] > *longest) *longest = p->steps[i];
    }
    for (int32_t i = 0; i < p->batch->tables; i++) {
        const int64_t bytes = p->section[i] * step_bytes;
        if (filled && filled + bytes > SECTION_BYTES) {
            section++;
            filled = 0;
        }
        filled += bytes;
        p->section[i] = section;
    }
}

/* When the last of the workers is done, each of which takes the next tile as soon as it is
 * free. */
static int64_t uncut_length(struct planner *p, int32_t workers)
{
    int64_t last = 0, *const until = p->until;
    memset(until, 0, (size_t)workers * sizeof *until);
    for (int32_t i = 0; i < p->tiles; i++) {
        const int64_t done = until[0] + costs.start + p->steps[p->tile_order[i]];
        int32_t at = 0;
        for (int32_t child; (child = 2 * at + 1) < workers; at = child) {
            if (child + 1 < workers && until[child + 1] < until[child]) child++;
            if (done <= until[child]) break;
            until[at] = until[child];
        }
        until[at] = done;
        if (done > last) last = done;
    }
    return last;
}

/* Nothing is done before total / workers, and tiles in order before that and the longest of
 * them: where these are no tenth apart, nobody needs to look closer. */
static int is_worth_cutting(struct planner *p, int32_t workers)
{
    int64_t total = 0, longest = 0;
    for (int32_t i = 0; i < p->tiles; i++) {
        const int64_t length = costs.start + p->steps[i];
        total += length;
        if (length > longest) longest = length;
    }
    const int64_t least = (total + workers - 1) / workers;
    if (10 * (least + costs.cut) > 9 * (least + longest)) return 0;
    banyan_cuda_split(p->steps, p->tiles, workers, costs, &p->split);
    return p->split.cuts && 10 * (p->split.longest + costs.cut) <= 9 * uncut_length(p, workers);
}

/* Steps first .. first + count - 1 of a tile. */
static cuda_work portion_of(const cuda_work *tile, int32_t first, int32_t count,
                            int32_t partial)
{
    cuda_work work = *tile;
    int32_t begin = 0;
    work.first_step = first;
    work.partial = partial;
    for (int32_t mode = 0; mode < 3; mode++) {
        const int32_t end = begin + tile->steps[mode];
        const int32_t from = begin > first ? begin : first;
        const int32_t to = end < first + count ? end : first + count;
        work.steps[mode] = to > from ? to - from : 0;
        begin = end;
    }
    return work;
}

static void write_cut(struct planner *p, cuda_tiles *out)
{
    const cuda_split *const split = &p->split;
    for (int32_t i = 0; i < split->portions; i++) {
        const cuda_portion *const portion = &split->portion[i];
        out->work[i] = portion_of(&p->tile[portion->tile], portion->first, portion->count,
                                  portion->partial);
    }
    memcpy(out->first_portion, split->first_portion,
           (size_t)(split->workers + 1) * sizeof *out->first_portion);
    int32_t portion = 0;
    for (int32_t i = 0; i < split->cuts; i++) {
        out->cut[i] = split->cut[i];
        while (split->portion[portion].tile < split->cut[i].tile) portion++;
        out->cut[i].tile = portion;
    }
    out->portions = split->portions;
    out->runs = split->workers;
    out->cuts = split->cuts;
    out->partials = split->partials;
}

static void write_whole(struct planner *p, cuda_tiles *out)
{
    for (int32_t i = 0; i < p->tiles; i++) {
        out->work[i] = p->tile[p->tile_order[i]];
        out->first_portion[i] = i;
    }
    out->first_portion[p->tiles] = p->tiles;
    out->portions = out->runs = p->tiles;
}

void banyan_cuda_tiles(const banyan_batch *batch, const cuda_tiles_limits *limits, void *room,
                       cuda_tiles *out)
{
    struct planner p = {.batch = batch};
    size_t device_bytes;
    memset(out, 0, sizeof *out);
    lay_out(limits, room, &device_bytes, &p, out);
    make_tiles(&p, out);
    make_sections(&p);
    sort_tiles(&p, p.tile_order, p.tiles, tile_before);
    if (is_worth_cutting(&p, limits->workers))
        write_cut(&p, out);
    else
        write_whole(&p, out);
}
