/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a panel: partials become results where they are wanted.
 *
 * What is merged is one item per query head: the partials of all the panel's rows, or fixed-point sums
 * (sums.c). Each holder has its own, the empty one included, so the schedule needs no exceptions. A
 * probe merges (m, l) of the probed tokens along the same schedule: a partial of value_dim 0. Its
 * share of the mass is
 *
 *     sum over probed exp(s_i) / sum over all exp(s_i)  =  l_p exp(m_p - m) / l */
#include "dist/cache.h"

#include <math.h>

/* One merge of a panel: of its sums, or, with value_dim 0, of the probed tokens'. */
typedef struct merging {
    const banyan_plan *plan;
    int32_t value_dim;
    banyan_passage passage;
} merging;

static void combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    const merging *m = ctx;
    const size_t row = banyan_sum_bytes(m->plan, m->value_dim);
    banyan_sum_combine(m->plan, out, lo, hi, m->value_dim, (int64_t)(bytes / row));
}

static void describe(const banyan_cache *c, const banyan_call *call, const banyan_panel *panel,
                     int32_t value_dim, merging *out)
{
    const banyan_part *part = banyan_cache_part(c, call->layer);
    out->plan = c->plan;
    out->value_dim = value_dim;
    out->passage = (banyan_passage){
        .data = value_dim ? part->data : part->mass,
        .item_bytes = (size_t)panel->rows * banyan_sum_bytes(c->plan, value_dim),
        .dtype = BANYAN_F32,
        .combine = combine,
        .ctx = out,
        .mark = {
            {"merge", c->stats.merges}, {"layer", call->layer}, {"token", panel->piece->at}}};
}

static banyan_status reduce(banyan_cache *c, const banyan_call *call, int32_t rows,
                            const merging *m)
{
    const banyan_status status = banyan_reduce_partials(
        c, banyan_plan_kind(c->plan, call->layer), m->passage.data, m->value_dim, rows);
    return status ? banyan_fail_at(status, m->passage.mark, BANYAN_MARKS) : status;
}

banyan_status banyan_panel_send(banyan_cache *c, const banyan_call *call,
                                const banyan_panel *panel)
{
    merging m;
    if (c->plan->merge->reduce) return BANYAN_OK;
    describe(c, call, panel, banyan_plan_kind(c->plan, call->layer)->shape.value_dim, &m);
    return banyan_exchange_start(banyan_cache_part(c, call->layer)->exchange, c->plan->comm,
                                 &m.passage);
}

/* Partials have been started. */
static banyan_status merge(banyan_cache *c, const banyan_call *call, const banyan_panel *panel,
                           int32_t value_dim)
{
    merging m;
    banyan_exchange *x = banyan_cache_part(c, call->layer)->exchange;
    banyan_status status = BANYAN_OK;
    describe(c, call, panel, value_dim, &m);
    if (c->plan->merge->reduce) return reduce(c, call, panel->rows, &m);
    if (!value_dim) status = banyan_exchange_start(x, c->plan->comm, &m.passage);
    if (status) return status;
    return banyan_exchange_finish(x, c->plan->comm, &m.passage, &c->stats.messages,
                                  &c->stats.bytes_sent);
}

typedef struct finishing {
    const banyan_cache *c;
    const banyan_call *call;
    const banyan_kind *kind;
    const banyan_part *part;
    const banyan_panel *panel;
} finishing;

static float mass_share(const float *probed, const float *all)
{
    if (probed[1] == 0) return 0; /* no probed token was seen */
    return (float)(probed[1] * exp((double)probed[0] - all[0]) / all[1]);
}

/* A head's rows of the parts that ask for it. */
static void finish_mass(const finishing *f, int64_t h, const float *partial)
{
    const int32_t heads = f->c->plan->spec.heads, value_dim = f->kind->shape.value_dim;
    const size_t floats = banyan_partial_floats(value_dim);
    const float *probed = banyan_sum_round(f->c->plan, f->part->mass[h], 0, f->panel->rows);
    for (int32_t i = 0; i < f->panel->pieces; i++) {
        const banyan_piece *piece = &f->panel->piece[i];
        const banyan_rows *part = &f->call->batch[piece->part];
        for (int32_t r = 0; part->mass && r < piece->rows; r++) {
            const size_t row = (size_t)(piece->first - f->panel->first + r);
            part->mass[(piece->at + r - part->at) * heads + h] =
                mass_share(probed + 2 * row, partial + row * floats + value_dim);
        }
    }
}

static void finish_head(void *arg, int64_t h, int32_t worker)
{
    (void)worker;
    const finishing *f = arg;
    const banyan_plan *plan = f->c->plan;
    const banyan_spec *spec = &plan->spec;
    if (spec->out != BANYAN_OUT_ALL && f->kind->home[h] != plan->rank) return;

    const int32_t rows = f->panel->rows, value_dim = f->kind->shape.value_dim;
    float *partial = banyan_sum_round(plan, f->part->data[h], value_dim, rows);
    if (spec->sinks)
        banyan_partial_sink(partial, spec->sinks[f->call->layer * (int64_t)spec->heads + h],
                            value_dim, rows);
    int64_t at = (int64_t)f->panel->first * spec->heads + h;
    size_t bytes = banyan_dtype_bytes(spec->out_dtype);
    banyan_partial_finish(partial, value_dim, rows,
                          (char *)f->call->out + (size_t)(at * value_dim) * bytes,
                          spec->out_dtype, (int64_t)spec->heads * value_dim,
                          f->call->lse ? f->call->lse + at : NULL, spec->heads);
    if (f->call->probed) finish_mass(f, h, partial);
}

banyan_status banyan_panel_merge(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    banyan_status status = merge(c, call, panel, kind->shape.value_dim);
    if (status == BANYAN_OK && call->probed) status = merge(c, call, panel, 0);
    if (status != BANYAN_OK) return status;

    finishing f = {.c = c,
                   .call = call,
                   .kind = kind,
                   .part = banyan_cache_part(c, call->layer),
                   .panel = panel};
    /* A decoded row is done before other threads have woken. */
    int64_t numbers = (int64_t)panel->rows * c->plan->spec.heads * kind->shape.value_dim;
    banyan_each(numbers < 1 << 16 ? 1 : c->sizes.workers, c->plan->spec.heads, finish_head, &f);
    return BANYAN_OK;
}

const banyan_way banyan_host_way = {.write = banyan_host_write,
                                    .compute = banyan_panel_compute,
                                    .send = banyan_panel_send,
                                    .merge = banyan_panel_merge,
                                    .copy = banyan_host_copy};
