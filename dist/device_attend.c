/* SPDX-License-Identifier: Apache-2.0 */
/* A panel's partials on a device: one batch of everything, or a few when there are very many
 * strips.
 *
 * A strip is (KV head held here, class of its query heads with one pattern, rows of one own
 * block). A head whose blocks are all here and whose result is wanted here is done with its
 * strip: its rows of out and lse are written at once. The others' partials go to items, which
 * are merged. With a probe all partials go to items, and a second pass over the probed tokens
 * to others; with sinks as well, which join when all partials of a row are together.
 *
 * Decoded rows of many sequences are one batch; parts with many vectors, as of a prefill, are
 * one each. */
#include "dist/device_cache.h"

/* One pass over a panel. */
typedef struct pass {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_kind *kind;
    const banyan_panel *panel;
    const int32_t *order; /* of the KV heads: these, `heads` of them */
    int32_t heads;
    int32_t what;          /* results, or probe 0 */
    banyan_batch batch;    /* under construction */
    int64_t strips, spans; /* of a recorded batch: as many as its parts may have anywhere */
    /* The part under construction: its pieces. */
    const banyan_piece *piece;
    int32_t pieces;
} pass;

static const banyan_rows *part_of(const pass *p)
{
    return &p->call->batch[p->piece->part];
}

/* A recorded batch has as many strips, spans and edges as it may ever have. */
static void fill_batch(pass *p)
{
    const banyan_device_cache *d = p->c->device;
    while (p->batch.strips < p->strips)
        d->strip[p->batch.strips++] = (banyan_strip){.part = -1, .edge = -1};
    while (p->batch.spans < p->spans) d->span[p->batch.spans++] = (banyan_span){0};
    while (p->batch.edges < p->strips) d->edge[p->batch.edges++] = (banyan_edge){0};
}

static banyan_status attend_batch(pass *p)
{
    const banyan_device_cache *d = p->c->device;
    fill_batch(p);
    /* parts that have nothing to do take places all the same */
    const char *failed = p->batch.strips ? d->device->attend(d->queue, &p->batch) : NULL;
    p->batch.strips = p->batch.spans = p->batch.edges = 0;
    p->batch.parts = p->batch.tables = 0;
    p->strips = p->spans = 0;
    return banyan_device_said(failed);
}

/* The batch's next part, with the tables of its sequence. */
static void open_part(pass *p)
{
    const banyan_cache *c = p->c;
    const int32_t layer = p->call->cache_layer;
    const banyan_range range = banyan_part_range(part_of(p), p->what);
    c->device->part[p->batch.parts++] =
        (banyan_batch_part){.at = p->piece->at,
                            .first_token = range.first,
                            .end_token = range.end,
                            .first_row = p->piece->first - p->panel->first};
    for (int32_t j = 0; j < banyan_cache_part(c, layer)->mine_count; j++)
        c->device->table[p->batch.tables++] = (banyan_table_of_blocks){
            .records = banyan_cache_pool(c, layer)->records,
            .slot = banyan_device_mirror(c, part_of(p)->sequence, layer, j)->slot};
}

static banyan_status flush_midway(pass *p)
{
    const banyan_status status = attend_batch(p);
    if (!p->batch.parts) open_part(p);
    return status;
}

static int32_t add_edge(pass *p, const banyan_span_list *list)
{
    banyan_edge *edge = p->c->device->edge;
    const int32_t last = p->batch.edges - 1;
    if (!list->has_edge) return -1;
    if (last >= 0 && edge[last].sink_end == list->edge.sink_end &&
        edge[last].window == list->edge.window)
        return last;
    edge[p->batch.edges] = list->edge;
    return p->batch.edges++;
}

/* blocks: in all spans, of which list->blocks are the slots. */
static int build_spans(const pass *p, const banyan_class *class, int32_t mine,
                       const banyan_piece *rows, banyan_span_list *list, int64_t *blocks)
{
    const banyan_device_cache *d = p->c->device;
    const banyan_batch_part *part = &d->part[p->batch.parts - 1];
    const banyan_kept *kept = banyan_part_kept(part_of(p), p->call->cache_layer, mine);
    const int32_t kv_head = banyan_cache_part(p->c, p->call->layer)->mine[mine].kv_head;
    const banyan_head_plan *head = &p->kind->head[kv_head];
    const banyan_held_set held = {
        .held = {kept->chunk, banyan_is_lost(p->c->plan, p->call->layer) ? 0 : kept->count},
        .retention = &head->retention,
        .settled = banyan_settled(p->c->plan, head,
                                  part_of(p)->sequence->layer[p->call->cache_layer].floor)};
    *list = (banyan_span_list){.span = d->span + p->batch.spans,
                               .capacity = d->max_spans - p->batch.spans};
    const int64_t last_row = rows->at + rows->rows - 1;
    if (!banyan_spans_build(&class->pattern, rows->at, last_row, &held, part->first_token,
                            part->end_token, list))
        return 0;
    *blocks = list->blocks;
    return banyan_device_spread(p->c->plan, kept, last_row, list);
}

static banyan_status add_strip(pass *p, int32_t mine, int32_t first_head,
                               const banyan_class *class, const banyan_piece *rows)
{
    banyan_device_cache *d = p->c->device;
    banyan_span_list list;
    int64_t blocks = 0;
    banyan_status status = p->batch.strips == d->max_strips ? flush_midway(p) : BANYAN_OK;
    if (!status && !build_spans(p, class, mine, rows, &list, &blocks)) {
        status = flush_midway(p);
        if (!status && !build_spans(p, class, mine, rows, &list, &blocks))
            status = banyan_fail(BANYAN_ERR_DEVICE,
                                 "query heads from %d read more than the %lld spans of blocks "
                                 "that were planned",
                                 (int)first_head, (long long)d->max_spans);
    }
    if (status) return status;
    const int32_t edge = add_edge(p, &list);
    const int32_t tables = banyan_cache_part(p->c, p->call->layer)->mine_count;
    const int32_t part = p->batch.parts - 1;
    d->strip[p->batch.strips++] = (banyan_strip){.table = part * tables + mine,
                                                 .first_head = first_head,
                                                 .heads = class->heads,
                                                 .part = part,
                                                 .first_row = rows->first - p->panel->first,
                                                 .rows = rows->rows,
                                                 .first_span = p->batch.spans,
                                                 .spans = (int32_t)list.count,
                                                 .blocks = list.blocks,
                                                 .edge = edge};
    p->batch.spans += (int32_t)list.count;
    if (p->what == BANYAN_WHAT_RESULTS)
        p->c->stats.pairs += blocks * rows->rows * __builtin_popcountll(class->heads);
    return BANYAN_OK;
}

static banyan_status add_head(pass *p, int32_t mine)
{
    const banyan_shape *shape = &p->kind->shape;
    const int32_t kv_head = banyan_cache_part(p->c, p->call->layer)->mine[mine].kv_head;
    const banyan_head_plan *head = &p->kind->head[kv_head];
    banyan_status status = BANYAN_OK;
    for (int32_t s = 0; s < shape->subgroups; s++)
        for (int32_t i = head->subgroup_first[s]; i < head->subgroup_first[s + 1]; i++)
            for (int32_t r = 0; r < p->pieces && !status; r++)
                status = add_strip(p, mine, kv_head * shape->group + s * BANYAN_TILE_HEADS,
                                   &head->classes[i], &p->piece[r]);
    return status;
}

int32_t banyan_device_heads(const banyan_cache *c, int32_t layer)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, layer);
    const banyan_part *part = banyan_cache_part(c, layer);
    int32_t most = 0;
    for (int32_t j = 0; j < part->mine_count; j++) {
        const banyan_head_plan *head = &kind->head[part->mine[j].kv_head];
        for (int32_t n = 0; n < head->class_count; n++) {
            const int32_t count = __builtin_popcountll(head->classes[n].heads);
            if (count > most) most = count;
        }
    }
    return most;
}

/* Do the strips of the part have so few vectors that others may stand beside it? Not where its
 * rows are a prefill's. */
static int is_shared(const pass *p)
{
    int32_t rows = 0, all = 0;
    for (int32_t r = 0; r < p->pieces; r++) {
        if (p->piece[r].rows > rows) rows = p->piece[r].rows;
        all += p->piece[r].rows;
    }
    if (all > p->c->plan->spec.block_tokens) return 0;
    return (int64_t)rows * banyan_device_heads(p->c, p->call->layer) <=
           p->c->device->device->shared_vectors(&p->kind->shape.block);
}

static pass open_pass(banyan_cache *c, const banyan_call *call, const banyan_panel *panel,
                      int32_t from, int32_t to, int32_t what)
{
    const banyan_spec *spec = &c->plan->spec;
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    const banyan_shape *shape = &kind->shape;
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const banyan_device_cache *d = c->device;
    const size_t row = (size_t)panel->first * (size_t)spec->heads;
    const size_t q = row * (size_t)shape->key_dim * banyan_dtype_bytes(spec->in_dtype);
    const size_t out = row * (size_t)shape->value_dim * banyan_dtype_bytes(spec->out_dtype);
    void **data = what == BANYAN_WHAT_RESULTS ? part->data : part->mass;
    pass p = {.c = c,
              .call = call,
              .kind = kind,
              .panel = panel,
              .order = part->order + from,
              .heads = to - from,
              .what = what};
    for (int32_t h = 0; h < spec->heads; h++) d->partial[h] = data[h];
    p.batch = (banyan_batch){.shape = shape->block,
                             .scale = shape->scale,
                             .heads = spec->heads,
                             .rows = panel->rows,
                             .q = (const char *)call->q + q,
                             .in_dtype = spec->in_dtype,
                             .out_dtype = spec->out_dtype,
                             .part = d->part,
                             .table = d->table,
                             .strip = d->strip,
                             .span = d->span,
                             .edge = d->edge,
                             .partial = d->partial,
                             .out = (char *)call->out + out,
                             .lse = call->lse ? call->lse + row : NULL};
    return p;
}

/* The part whose first piece is i; *next: the first of the part after it. */
static banyan_status add_batch_part(pass *p, int32_t i, int32_t *next)
{
    int32_t rows;
    banyan_status status = BANYAN_OK;
    *next = banyan_device_rows(p->panel, i, &rows);
    p->piece = &p->panel->piece[i];
    p->pieces = *next - i;
    const int shared = is_shared(p);
    if (!shared || p->batch.parts == p->c->device->max_parts) status = attend_batch(p);
    if (!status)
        status = banyan_device_follow(p->c, part_of(p)->sequence, p->call->cache_layer);
    if (status) return status;
    open_part(p);
    for (int32_t n = 0; n < p->heads && !status; n++) status = add_head(p, p->order[n]);
    return shared || status ? status : attend_batch(p);
}

static banyan_status attend_parts(pass p)
{
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0, next; i < p.panel->pieces && !status; i = next)
        status = add_batch_part(&p, i, &next);
    return status ? status : attend_batch(&p);
}

/* ---- of a step's graph ------------------------------------------------------------------- */

/* Strips and spans of a part of so many rows, at most. */
static void room_of(const pass *p, int32_t rows, int64_t *strips, int64_t *spans)
{
    const banyan_plan *plan = p->c->plan;
    const banyan_part *part = banyan_cache_part(p->c, p->call->layer);
    const int64_t blocks = banyan_most_pieces(plan, plan->spec.max_tokens) + 1;
    int64_t pieces = banyan_most_pieces(plan, rows);
    if (rows > 1) pieces += p->kind->ends;
    *strips = *spans = 0;
    for (int32_t n = 0; n < p->heads; n++) {
        const int32_t kv_head = part->mine[p->order[n]].kv_head;
        const banyan_head_plan *head = &p->kind->head[kv_head];
        const int64_t capacity = banyan_plan_capacity(p->kind, kv_head, plan->rank);
        for (int32_t i = 0; i < head->class_count; i++) {
            *strips += pieces;
            *spans += pieces * banyan_device_slots(plan) *
                      banyan_spans_bound(&head->classes[i].pattern, blocks, capacity);
        }
    }
}

/* A place that nobody has. */
static void open_nothing(pass *p)
{
    const banyan_device_cache *d = p->c->device;
    d->part[p->batch.parts++] = (banyan_batch_part){0};
    for (int32_t j = 0; j < banyan_cache_part(p->c, p->call->layer)->mine_count; j++)
        d->table[p->batch.tables++] = (banyan_table_of_blocks){0};
}

/* Part `index`, and the room that it may need; *piece: the panel's next. */
static banyan_status add_recorded(pass *p, int32_t index, int32_t *piece)
{
    banyan_device_cache *d = p->c->device;
    int64_t strips, spans;
    banyan_status status = BANYAN_OK;
    room_of(p, d->graph.rows[index], &strips, &spans);
    if (strips > d->max_strips || spans > d->max_spans)
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "part %d of a captured step may need %lld strips and %lld spans: "
                           "expected at most %lld and %lld, as of a call",
                           (int)index, (long long)strips, (long long)spans,
                           (long long)d->max_strips, (long long)d->max_spans);
    if (p->batch.parts == d->max_parts || p->strips + strips > d->max_strips ||
        p->spans + spans > d->max_spans)
        status = attend_batch(p);
    if (status) return status;
    p->strips += strips;
    p->spans += spans;
    p->piece = &p->panel->piece[*piece];
    for (p->pieces = 0; *piece < p->panel->pieces; (*piece)++, p->pieces++)
        if (p->panel->piece[*piece].part != index) break;
    if (p->pieces)
        open_part(p);
    else
        open_nothing(p);
    for (int32_t n = 0; p->pieces && n < p->heads && !status; n++)
        status = add_head(p, p->order[n]);
    return status;
}

/* While it is captured no part is there, and each when the tape is written. */
static banyan_status run_recorded(pass p)
{
    const banyan_device_graph *g = &p.c->device->graph;
    const banyan_panel nothing = {.rows = p.panel->rows};
    int32_t most = 0, piece = 0;
    int64_t strips, spans;
    if (!g->is_rewritten) p.panel = &nothing;
    for (int32_t i = 0; i < g->parts; i++)
        if (g->rows[i] > most) most = g->rows[i];
    room_of(&p, most, &strips, &spans);
    p.batch.part_strips = (int32_t)strips;
    if (most > p.c->plan->spec.block_tokens) most = p.c->plan->spec.block_tokens;
    p.batch.vectors = most * banyan_device_heads(p.c, p.call->layer);
    banyan_status status = p.batch.vectors ? banyan_device_tape_begin(p.c, p.call) : BANYAN_OK;
    for (int32_t i = 0; p.batch.vectors && i < g->parts && !status; i++)
        status = add_recorded(&p, i, &piece);
    if (!status) status = attend_batch(&p);
    return status || !p.batch.vectors ? status : banyan_device_tape_end(p.c, p.call);
}

banyan_status banyan_device_compute(banyan_cache *c, const banyan_call *call,
                                    const banyan_panel *panel, int32_t from, int32_t to)
{
    if (from == to) return BANYAN_OK;
    banyan_device_place(c, call, panel->rows);
    if (call->is_recorded)
        return run_recorded(open_pass(c, call, panel, from, to, BANYAN_WHAT_RESULTS));
    const banyan_status status =
        attend_parts(open_pass(c, call, panel, from, to, BANYAN_WHAT_RESULTS));
    if (status || !call->probes) return status;
    return attend_parts(open_pass(c, call, panel, from, to, 0));
}

const banyan_backend banyan_device_backend = {.write = banyan_device_write,
                                              .compute = banyan_device_compute,
                                              .send = banyan_device_send,
                                              .merge = banyan_device_merge,
                                              .copy = banyan_device_copy};
