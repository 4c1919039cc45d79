/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a panel on a device: what lies in items becomes results where they are wanted. Exchanges
 * move items of device memory, staged on the host where the transport knows no other (comm/), and fold
 * them there. A probe's partials go along the same schedule, as large as the others: probing is for
 * looking, and a partial without values would need kernels of its own. */
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
        const int wanted =
            call->probes || has_sink(c, call, h) ? BANYAN_ITEM_HERE : BANYAN_ITEM_MOVES;
        const int is_item = (role[h] & wanted) != 0;
        part->data[h] = is_item ? d->items + at : NULL;
        part->mass[h] = is_item && call->probes ? d->probed + at : NULL;
        if (is_item) at += bytes;
    }
}

/* ---- merging ------------------------------------------------------------------------------- */

/* One merge of a panel. */
typedef struct device_merging {
    banyan_device_cache *device;
    int32_t value_dim;
    size_t row_bytes;
    banyan_exchange_args args;
} device_merging;

static void device_combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    const device_merging *m = ctx;
    banyan_device_cache *d = m->device;
    const char *failed = d->device->combine(d->queue, out, lo, hi, m->value_dim,
                                            (int64_t)(bytes / m->row_bytes));
    if (failed && !d->failed) d->failed = failed;
}

static void device_describe(const banyan_cache *c, const banyan_call *call,
                            const banyan_panel *panel, void *const *data, device_merging *out)
{
    out->device = c->device;
    out->value_dim = value_dim_of(c, call);
    out->row_bytes = item_bytes(c, call, 1);
    out->args = (banyan_exchange_args){.data = data,
                                       .item_bytes = item_bytes(c, call, panel->rows),
                                       .dtype = BANYAN_F32,
                                       .combine = device_combine,
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

/* Partials have been started. */
static banyan_status device_merge(banyan_cache *c, const banyan_call *call,
                                  const banyan_panel *panel, void *const *data)
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
    if (data == part->mass)
        status = banyan_exchange_start(part->exchange, c->plan->comm, &m.args);
    if (!status)
        status = banyan_exchange_finish(part->exchange, c->plan->comm, &m.args,
                                        &c->stats.messages, &c->stats.bytes_sent);
    if (!status) status = banyan_device_said(c->device->failed);
    return status;
}

/* ---- results ------------------------------------------------------------------------------- */

/* Of the items those that end here, from a row of theirs on; returns how many. */
static int32_t take_results(banyan_cache *c, const banyan_call *call, int32_t row)
{
    const banyan_device_cache *d = c->device;
    const banyan_plan *plan = c->plan;
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const banyan_kind *kind = banyan_plan_kind(plan, call->layer);
    const int everywhere = plan->spec.out == BANYAN_OUT_ALL;
    const size_t first = (size_t)row * banyan_partial_floats(kind->shape.value_dim);
    int32_t count = 0;
    for (int32_t h = 0; h < plan->spec.heads; h++) {
        const int wanted = part->data[h] && (everywhere || kind->home[h] == plan->rank);
        d->partial[h] = wanted ? (float *)part->data[h] + first : NULL;
        d->probe[h] = wanted && part->mass[h] ? (float *)part->mass[h] + first : NULL;
        count += wanted;
    }
    return count;
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

/* A sink joins the rows of parts without a range. */
static int takes_sinks(const banyan_cache *c, const banyan_call *call,
                       const banyan_piece *piece)
{
    return c->plan->spec.sinks && !call->batch[piece->part].end;
}

/* Rows of items from `row` on, to rows of the call from `first` on. */
static banyan_status device_finish_rows(banyan_cache *c, const banyan_call *call, int32_t row,
                                        int32_t first, int32_t rows, int has_sinks)
{
    const banyan_device_cache *d = c->device;
    const banyan_spec *spec = &c->plan->spec;
    const int32_t value_dim = value_dim_of(c, call);
    const size_t at = (size_t)first * (size_t)spec->heads;
    const size_t out = at * (size_t)value_dim * banyan_dtype_bytes(spec->out_dtype);
    const float *sinks = has_sinks ? spec->sinks + call->layer * (int64_t)spec->heads : NULL;
    if (!take_results(c, call, row)) return BANYAN_OK;
    return banyan_device_said(d->device->finish(
        d->queue, d->partial, sinks, spec->heads, value_dim, rows, (char *)call->out + out,
        spec->out_dtype, call->lse ? call->lse + at : NULL));
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
    return status || !call->probes ? status : share_masses(c, call, panel);
}

banyan_status banyan_device_merge(banyan_cache *c, const banyan_call *call,
                                  const banyan_panel *panel)
{
    const banyan_part *part = banyan_cache_part(c, call->layer);
    banyan_status status = device_merge(c, call, panel, part->data);
    if (!status && call->probes) status = device_merge(c, call, panel, part->mass);
    return status ? status : device_finish(c, call, panel);
}

int32_t banyan_device_rows(const banyan_panel *panel, int32_t i, int32_t *rows)
{
    const int32_t part = panel->piece[i].part;
    for (*rows = 0; i < panel->pieces && panel->piece[i].part == part; i++)
        *rows += panel->piece[i].rows;
    return i;
}
