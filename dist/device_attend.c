/* SPDX-License-Identifier: Apache-2.0 */
/* A panel's partials on a device: one batch of everything, or a few when there are very many strips.
 *
 * A strip is (KV head held here, class of its query heads with one pattern, rows of one own block). A
 * head whose blocks are all here and whose result is wanted here is done with its strip: its rows of
 * out and lse are written at once. The others' partials go to items, which are merged. With a
 * probe all partials go to items, and a second pass over the probed tokens to others. */
#include "dist/device_cache.h"

/* One pass over rows of one part in a panel. */
typedef struct pass {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_kind *kind;
    const banyan_rows *part;
    const banyan_piece *piece;
    int32_t pieces;
    banyan_batch batch; /* under construction */
    int counts;         /* its pairs go to the stats */
} pass;

static banyan_status flush(pass *p)
{
    const banyan_device_cache *d = p->c->device;
    if (!p->batch.strips) return BANYAN_OK;
    const char *failed = d->device->attend(d->queue, &p->batch);
    p->batch.strips = p->batch.spans = p->batch.edges = 0;
    return banyan_device_said(failed);
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

static int build(const pass *p, const banyan_class *class, int32_t mine,
                 const banyan_piece *rows, banyan_span_list *list)
{
    const banyan_device_cache *d = p->c->device;
    const banyan_kept *kept = banyan_part_kept(p->part, p->call->cache_layer, mine);
    const int32_t kv_head = banyan_cache_part(p->c, p->call->layer)->mine[mine].kv_head;
    const banyan_head_plan *head = &p->kind->head[kv_head];
    const banyan_held_set held = {
        .held = {kept->chunk, banyan_is_lost(p->c->plan, p->call->layer) ? 0 : kept->count},
        .retention = &head->retention,
        .settled = banyan_settled(p->c->plan, head,
                                  p->part->sequence->layer[p->call->cache_layer].floor)};
    *list = (banyan_span_list){.span = d->span + p->batch.spans,
                               .capacity = d->max_spans - p->batch.spans};
    return banyan_spans_build(&class->pattern, rows->at, rows->at + rows->rows - 1, &held,
                              p->batch.first_token, p->batch.end_token, list);
}

static banyan_status add_strip(pass *p, int32_t mine, int32_t first_head,
                               const banyan_class *class, const banyan_piece *rows)
{
    banyan_device_cache *d = p->c->device;
    banyan_span_list list;
    banyan_status status = p->batch.strips == d->max_strips ? flush(p) : BANYAN_OK;
    if (!status && !build(p, class, mine, rows, &list)) {
        status = flush(p);
        if (!status && !build(p, class, mine, rows, &list))
            status = banyan_fail(BANYAN_ERR_DEVICE,
                                 "query heads from %d read more than the %lld spans of blocks "
                                 "that were planned",
                                 (int)first_head, (long long)d->max_spans);
    }
    if (status) return status;
    const int32_t edge = add_edge(p, &list);
    d->strip[p->batch.strips++] = (banyan_strip){.table = mine,
                                                 .first_head = first_head,
                                                 .heads = class->heads,
                                                 .first_row = rows->first - p->piece->first,
                                                 .rows = rows->rows,
                                                 .first_span = p->batch.spans,
                                                 .spans = (int32_t)list.count,
                                                 .blocks = list.blocks,
                                                 .edge = edge};
    p->batch.spans += (int32_t)list.count;
    if (p->counts)
        p->c->stats.pairs += list.blocks * rows->rows * __builtin_popcountll(class->heads);
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

static void fill_tables(const pass *p)
{
    const banyan_cache *c = p->c;
    const int32_t layer = p->call->cache_layer;
    for (int32_t j = 0; j < p->batch.tables; j++)
        c->device->table[j] = (banyan_table_of_blocks){
            .records = banyan_cache_pool(c, layer)->records,
            .slot = banyan_device_mirror(c, p->part->sequence, layer, j)->slot};
}

static pass open_pass(banyan_cache *c, const banyan_call *call, const banyan_piece *piece,
                      int32_t pieces, int32_t rows)
{
    const banyan_spec *spec = &c->plan->spec;
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    const banyan_shape *shape = &kind->shape;
    const banyan_device_cache *d = c->device;
    const banyan_range range =
        banyan_part_range(&call->batch[piece->part], BANYAN_WHAT_RESULTS);
    const size_t row = (size_t)piece->first * (size_t)spec->heads;
    const size_t q = row * (size_t)shape->key_dim * banyan_dtype_bytes(spec->in_dtype);
    const size_t out = row * (size_t)shape->value_dim * banyan_dtype_bytes(spec->out_dtype);
    pass p = {.c = c,
              .call = call,
              .kind = kind,
              .part = &call->batch[piece->part],
              .piece = piece,
              .pieces = pieces,
              .counts = 1};
    p.batch = (banyan_batch){.shape = shape->block,
                             .scale = shape->scale,
                             .heads = spec->heads,
                             .at = piece->at,
                             .rows = rows,
                             .first_token = range.first,
                             .end_token = range.end,
                             .q = (const char *)call->q + q,
                             .in_dtype = spec->in_dtype,
                             .out_dtype = spec->out_dtype,
                             .table = d->table,
                             .strip = d->strip,
                             .span = d->span,
                             .edge = d->edge,
                             .tables = banyan_cache_part(c, call->layer)->mine_count,
                             .partial = d->partial,
                             .out = (char *)call->out + out,
                             .lse = call->lse ? call->lse + row : NULL};
    fill_tables(&p);
    return p;
}

static banyan_status run(pass *p, const int32_t *order, int32_t from, int32_t to)
{
    banyan_status status = BANYAN_OK;
    for (int32_t i = from; i < to && !status; i++) status = add_head(p, order[i]);
    return status ? status : flush(p);
}

int32_t banyan_device_rows(const banyan_panel *panel, int32_t i, int32_t *rows)
{
    const int32_t part = panel->piece[i].part;
    for (*rows = 0; i < panel->pieces && panel->piece[i].part == part; i++)
        *rows += panel->piece[i].rows;
    return i;
}

/* Partials of a part's rows, in the items from row `row` on. */
static banyan_status compute_part(banyan_cache *c, const banyan_call *call,
                                  const banyan_piece *piece, int32_t pieces, int32_t rows,
                                  int32_t row, const int32_t range[2])
{
    banyan_device_cache *d = c->device;
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const int32_t value_dim = banyan_plan_kind(c->plan, call->layer)->shape.value_dim;
    const size_t first = (size_t)row * banyan_partial_floats(value_dim);
    for (int32_t h = 0; h < c->plan->spec.heads; h++) {
        d->partial[h] = part->data[h] ? (float *)part->data[h] + first : NULL;
        d->probe[h] = part->mass[h] ? (float *)part->mass[h] + first : NULL;
    }
    pass p = open_pass(c, call, piece, pieces, rows);
    banyan_status status = banyan_device_follow(c, p.part->sequence, call->cache_layer);
    if (!status) status = run(&p, part->order, range[0], range[1]);
    if (status || !call->probes) return status;
    p.counts = 0;
    p.batch.partial = d->probe;
    const banyan_range probed = banyan_part_range(p.part, 0);
    p.batch.first_token = probed.first;
    p.batch.end_token = probed.end;
    return run(&p, part->order, range[0], range[1]);
}

banyan_status banyan_device_compute(banyan_cache *c, const banyan_call *call,
                                    const banyan_panel *panel, int32_t from, int32_t to)
{
    const int32_t range[2] = {from, to};
    banyan_status status = BANYAN_OK;
    if (from == to) return BANYAN_OK;
    banyan_device_place(c, call, panel->rows);
    for (int32_t i = 0, next, rows; i < panel->pieces && !status; i = next) {
        const banyan_piece *piece = &panel->piece[i];
        next = banyan_device_rows(panel, i, &rows);
        status =
            compute_part(c, call, piece, next - i, rows, piece->first - panel->first, range);
    }
    return status;
}

const banyan_way banyan_device_way = {.write = banyan_device_write,
                                      .compute = banyan_device_compute,
                                      .send = banyan_device_send,
                                      .merge = banyan_device_merge,
                                      .copy = banyan_device_copy};
