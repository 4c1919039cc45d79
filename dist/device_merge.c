/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a panel on a device: what lies in items becomes results where they are wanted.
 * Exchanges move items of device memory, staged on the host where the transport knows no other
 * (comm/), and what a round brings is folded there at once; the last round's fold writes the
 * results too. A probe's partials go along the same schedule, as large as the others: probing
 * is for looking, and a partial without values would need kernels of its own. */
#include "dist/device_cache.h"

#include <math.h>

static const uint8_t *roles(const banyan_cache *c, int32_t layer)
{
    return c->device->role[c->plan->kind_of_layer[layer]];
}

static int32_t value_dim_of(const banyan_cache *c, const banyan_call *call)
{
    return banyan_plan_kind(c->plan, call->layer)->shape.value_dim;
}

static size_t item_bytes(const banyan_cache *c, const banyan_call *call, int32_t rows)
{
    return (size_t)rows * banyan_sum_bytes(c->plan, value_dim_of(c, call));
}

static int has_sink(const banyan_cache *c, const banyan_call *call, int32_t head)
{
    const banyan_spec *spec = &c->plan->spec;
    return spec->sinks && spec->sinks[call->layer * (int64_t)spec->heads + head] > -INFINITY;
}

/* One behind the other, by query heads, so that exchanges move and fold many at once. */
void banyan_device_place(banyan_cache *c, const banyan_call *call, int32_t rows)
{
    const banyan_device_cache *d = c->device;
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const uint8_t *role = roles(c, call->layer);
    const size_t bytes = item_bytes(c, call, rows);
    size_t at = 0;
    for (int32_t h = 0; h < c->plan->spec.heads; h++) {
        const int wanted = call->probes || c->plan->spec.reproducible || has_sink(c, call, h)
                               ? BANYAN_ITEM_HERE
                               : BANYAN_ITEM_MOVES;
        const int is_item = (role[h] & wanted) != 0;
        part->data[h] = is_item ? d->items + at : NULL;
        part->mass[h] = is_item && call->probes ? d->probed + at : NULL;
        if (is_item) at += bytes;
    }
}

/* ---- results ----------------------------------------------------------------------------- */

/* Of the items those that end here, from a row of theirs on; returns how many. */
static int32_t take_results(banyan_cache *c, const banyan_call *call, int32_t row)
{
    const banyan_device_cache *d = c->device;
    const banyan_plan *plan = c->plan;
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const banyan_kind *kind = banyan_plan_kind(plan, call->layer);
    const int everywhere = plan->spec.out == BANYAN_OUT_ALL;
    const size_t first = item_bytes(c, call, row) / sizeof(float);
    int32_t count = 0;
    for (int32_t h = 0; h < plan->spec.heads; h++) {
        const int wanted = part->data[h] && (everywhere || kind->home[h] == plan->rank);
        d->partial[h] = wanted ? (float *)part->data[h] + first : NULL;
        d->probe[h] = wanted && part->mass[h] ? (float *)part->mass[h] + first : NULL;
        count += wanted;
    }
    return count;
}

/* A sink joins the rows of parts without a range. */
static int takes_sinks(const banyan_cache *c, const banyan_call *call,
                       const banyan_piece *piece)
{
    return c->plan->spec.sinks && !call->batch[piece->part].end;
}

static banyan_fold_batch fold_batch(const banyan_cache *c, const banyan_call *call,
                                    int32_t rows)
{
    return (banyan_fold_batch){.fold = c->device->folding,
                               .value_dim = value_dim_of(c, call),
                               .rows = rows,
                               .heads = c->plan->spec.heads};
}

/* Results go to rows of the call from `first` on. */
static void aim(const banyan_cache *c, const banyan_call *call, int32_t first, int has_sinks,
                banyan_fold_batch *batch)
{
    const banyan_spec *spec = &c->plan->spec;
    const size_t at = (size_t)first * (size_t)spec->heads;
    const size_t out = at * (size_t)batch->value_dim * banyan_dtype_bytes(spec->out_dtype);
    if (has_sinks) batch->sinks = spec->sinks + call->layer * (int64_t)spec->heads;
    batch->out = (char *)call->out + out;
    batch->out_dtype = spec->out_dtype;
    batch->lse = call->lse ? call->lse + at : NULL;
}

/* Of partials that are whole (d->partial). */
static void add_whole(const banyan_cache *c, banyan_fold_batch *batch)
{
    const banyan_device_cache *d = c->device;
    for (int32_t h = 0; h < batch->heads; h++) {
        if (!d->partial[h]) continue;
        d->whole[h] = d->partial[h];
        d->folding[batch->folds++] =
            (banyan_folding){.value = &d->whole[h], .values = 1, .head = h};
    }
}

/* Rows of items from `row` on, to rows of the call from `first` on. */
static banyan_status device_finish_rows(banyan_cache *c, const banyan_call *call, int32_t row,
                                        int32_t first, int32_t rows, int has_sinks)
{
    const banyan_device_cache *d = c->device;
    banyan_fold_batch batch = fold_batch(c, call, rows);
    if (!take_results(c, call, row)) return BANYAN_OK;
    add_whole(c, &batch);
    aim(c, call, first, has_sinks, &batch);
    return banyan_device_said(d->device->fold(d->queue, &batch));
}

static banyan_status device_finish(banyan_cache *c, const banyan_call *call,
                                   const banyan_panel *panel)
{
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0, next; i < panel->pieces && !status; i = next) {
        const int has_sinks = takes_sinks(c, call, &panel->piece[i]);
        int32_t rows = 0;
        for (next = i; next < panel->pieces; next++) {
            if (takes_sinks(c, call, &panel->piece[next]) != has_sinks) break;
            rows += panel->piece[next].rows;
        }
        status = device_finish_rows(c, call, panel->piece[i].first - panel->first,
                                    panel->piece[i].first, rows, has_sinks);
    }
    return status;
}

/* The masses of the parts that ask for them. */
static banyan_status share_masses(banyan_cache *c, const banyan_call *call,
                                  const banyan_panel *panel)
{
    const banyan_device_cache *d = c->device;
    const int32_t heads = c->plan->spec.heads, value_dim = value_dim_of(c, call);
    for (int32_t i = 0, next, rows; i < panel->pieces; i = next) {
        const banyan_piece *piece = &panel->piece[i];
        const banyan_rows *part = &call->batch[piece->part];
        next = banyan_device_rows(panel, i, &rows);
        if (!part->mass) continue;
        take_results(c, call, piece->first - panel->first);
        const banyan_status status = banyan_device_said(
            d->device->share(d->queue, d->partial, d->probe, heads, value_dim, rows,
                             part->mass + (piece->at - part->at) * heads));
        if (status) return status;
    }
    return BANYAN_OK;
}

/* ---- merging ----------------------------------------------------------------------------- */

/* One merge of a panel. */
typedef struct device_merging {
    banyan_cache *c;
    const banyan_call *call;
    const banyan_panel *panel;
    int finishes;    /* the last round's fold is to write the results .. */
    int is_finished; /* .. and did */
    banyan_exchange_args args;
} device_merging;

/* All rows take sinks, or none does: then one fold writes all of the results. */
static int is_alike(const banyan_cache *c, const banyan_call *call, const banyan_panel *panel)
{
    for (int32_t i = 1; i < panel->pieces; i++)
        if (takes_sinks(c, call, &panel->piece[i]) != takes_sinks(c, call, &panel->piece[0]))
            return 0;
    return panel->pieces > 0;
}

static void device_fold(void *ctx, const banyan_arrivals *a)
{
    device_merging *m = ctx;
    banyan_device_cache *d = m->c->device;
    const int finishes = m->finishes && a->is_last;
    const int keeps = !finishes || !a->is_over || m->call->probes;
    banyan_fold_batch batch = fold_batch(m->c, m->call, m->panel->rows);
    batch.check = a->check;
    batch.fault = a->fault;
    batch.checks = a->checks;
    if (finishes) {
        take_results(m->c, m->call, 0);
        aim(m->c, m->call, m->panel->first, takes_sinks(m->c, m->call, &m->panel->piece[0]),
            &batch);
    }
    for (int32_t i = 0; i < a->folds; i++) {
        const int32_t item = a->fold[i].item; /* a query head */
        const int ends = finishes && d->partial[item];
        d->folding[batch.folds++] =
            (banyan_folding){.value = a->fold[i].value,
                             .values = a->fold[i].values,
                             .partial = keeps || !ends ? m->args.data[item] : NULL,
                             .head = ends ? item : -1};
        if (ends) d->partial[item] = NULL;
    }
    if (finishes) add_whole(m->c, &batch);
    const char *failed = d->device->fold(d->queue, &batch);
    if (failed && !d->failed) d->failed = failed;
    m->is_finished = finishes;
}

static void device_describe(banyan_cache *c, const banyan_call *call, const banyan_panel *panel,
                            void *const *data, device_merging *out)
{
    *out = (device_merging){.c = c, .call = call, .panel = panel};
    out->args = (banyan_exchange_args){.data = data,
                                       .item_bytes = item_bytes(c, call, panel->rows),
                                       .dtype = BANYAN_F32,
                                       .fold = device_fold,
                                       .ctx = out,
                                       .mark = {{"merge", c->stats.merges},
                                                {"layer", call->layer},
                                                {"token", panel->piece->at}}};
}

banyan_status banyan_device_send(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel)
{
    const banyan_part *part = banyan_cache_part(c, call->layer);
    banyan_device_place(c, call, panel->rows);
    if (c->plan->merge->reduce) return BANYAN_OK;
    device_merging m;
    device_describe(c, call, panel, part->data, &m);
    return banyan_exchange_start(part->exchange, c->plan->comm, &m.args);
}

/* Partials have been started. *is_finished: results are written. */
static banyan_status device_merge(banyan_cache *c, const banyan_call *call,
                                  const banyan_panel *panel, void *const *data,
                                  int *is_finished)
{
    const banyan_part *part = banyan_cache_part(c, call->layer);
    device_merging m;
    device_describe(c, call, panel, data, &m);
    banyan_status status = BANYAN_OK;
    if (c->plan->merge->reduce) {
        if (c->plan->ranks == 1) return BANYAN_OK;
        status =
            banyan_device_reduce(c, banyan_plan_kind(c->plan, call->layer), data, panel->rows);
        return status ? banyan_fail_at(status, m.args.mark, BANYAN_MARKS) : status;
    }
    m.finishes = data == part->data && is_alike(c, call, panel);
    if (data == part->mass)
        status = banyan_exchange_start(part->exchange, c->plan->comm, &m.args);
    if (!status)
        status = banyan_exchange_finish(part->exchange, c->plan->comm, &m.args,
                                        &c->stats.messages, &c->stats.bytes_sent);
    *is_finished |= m.is_finished;
    return status ? status : banyan_device_said(c->device->failed);
}

banyan_status banyan_device_merge(banyan_cache *c, const banyan_call *call,
                                  const banyan_panel *panel)
{
    const banyan_part *part = banyan_cache_part(c, call->layer);
    int is_finished = 0;
    banyan_status status = device_merge(c, call, panel, part->data, &is_finished);
    if (!status && call->probes)
        status = device_merge(c, call, panel, part->mass, &is_finished);
    if (!status && !is_finished) status = device_finish(c, call, panel);
    return status || !call->probes ? status : share_masses(c, call, panel);
}

int32_t banyan_device_rows(const banyan_panel *panel, int32_t i, int32_t *rows)
{
    const int32_t part = panel->piece[i].part;
    for (*rows = 0; i < panel->pieces && panel->piece[i].part == part; i++)
        *rows += panel->piece[i].rows;
    return i;
}
