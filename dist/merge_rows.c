/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a panel: partials become results where they are wanted.
 *
 * What is merged is one item per query head: the partials of all the panel's rows, or
 * fixed-point sums (sums.c). Each holder has its own, the empty one included, so the schedule
 * needs no exceptions. A probe merges (m, l) of the probed tokens along the same schedule, a
 * partial of value_dim 0, and the strongest token is the better of two wherever two meet. A
 * probe's share of the mass is
 *
 *     sum over probed exp(s_i) / sum over all exp(s_i)  =  l_p exp(m_p - m) / l */
#include "dist/cache.h"

#include <math.h>

/* One merge of a panel: of its sums, or, with value_dim 0, of a probe's, or of strongest
 * tokens. */
typedef struct panel_merging {
    const banyan_plan *plan;
    int32_t value_dim, what;
    size_t row_bytes;
    banyan_exchange_args args;
} panel_merging;

static void combine_panel_rows(void *ctx, void *out, const void *lo, const void *hi,
                               size_t bytes)
{
    const panel_merging *m = ctx;
    const int64_t rows = (int64_t)(bytes / m->row_bytes);
    if (m->what == BANYAN_WHAT_STRONGEST)
        banyan_strongest_combine(out, lo, hi, rows);
    else
        banyan_sum_combine(m->plan, out, lo, hi, m->value_dim, rows);
}

static void describe_merge(const banyan_cache *c, const banyan_call *call,
                           const banyan_panel *panel, int32_t what, panel_merging *out)
{
    const banyan_part *part = banyan_cache_part(c, call->layer);
    const int is_result = what == BANYAN_WHAT_RESULTS;
    out->plan = c->plan;
    out->what = what;
    out->value_dim = is_result ? banyan_plan_kind(c->plan, call->layer)->shape.value_dim : 0;
    out->row_bytes = what == BANYAN_WHAT_STRONGEST ? sizeof(banyan_strongest)
                                                   : banyan_sum_bytes(c->plan, out->value_dim);
    out->args = (banyan_exchange_args){.data = is_result ? part->data : part->mass,
                                       .item_bytes = (size_t)panel->rows * out->row_bytes,
                                       .dtype = BANYAN_F32,
                                       .combine = combine_panel_rows,
                                       .ctx = out,
                                       .mark = {{"merge", c->stats.merges},
                                                {"layer", call->layer},
                                                {"token", panel->piece->at}}};
}

static banyan_status reduce(banyan_cache *c, const banyan_call *call, int32_t rows,
                            const panel_merging *m)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    const banyan_status status =
        m->what == BANYAN_WHAT_STRONGEST
            ? banyan_reduce_strongest(c, kind, m->args.data, rows)
            : banyan_reduce_partials(c, kind, m->args.data, m->value_dim, rows);
    return status ? banyan_fail_at(status, m->args.mark, BANYAN_MARKS) : status;
}

banyan_status banyan_panel_send(banyan_cache *c, const banyan_call *call,
                                const banyan_panel *panel)
{
    panel_merging m;
    if (c->plan->merge->reduce) return BANYAN_OK;
    describe_merge(c, call, panel, BANYAN_WHAT_RESULTS, &m);
    return banyan_exchange_start(banyan_cache_part(c, call->layer)->exchange, c->plan->comm,
                                 &m.args);
}

/* Results have been started. */
static banyan_status merge_panel(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel, int32_t what)
{
    panel_merging m;
    banyan_exchange *x = banyan_cache_part(c, call->layer)->exchange;
    banyan_status status = BANYAN_OK;
    describe_merge(c, call, panel, what, &m);
    if (c->plan->merge->reduce) return reduce(c, call, panel->rows, &m);
    if (what != BANYAN_WHAT_RESULTS) status = banyan_exchange_start(x, c->plan->comm, &m.args);
    if (status) return status;
    return banyan_exchange_finish(x, c->plan->comm, &m.args, &c->stats.messages,
                                  &c->stats.bytes_sent);
}

typedef struct finishing {
    const banyan_cache *c;
    const banyan_call *call;
    const banyan_kind *kind;
    const banyan_part *part;
    const banyan_panel *panel;
    int32_t what;
} finishing;

static float mass_share(const float *probed, const float *all)
{
    if (probed[1] == 0) return 0; /* no probed token was seen */
    return (float)(probed[1] * exp((double)probed[0] - all[0]) / all[1]);
}

static int is_wanted_here(const finishing *f, int64_t h)
{
    const banyan_plan *plan = f->c->plan;
    return plan->spec.out == BANYAN_OUT_ALL || f->kind->home[h] == plan->rank;
}

/* Where [rows][heads] of a part has a row of a head, of the row `r` of a piece. */
static int64_t part_row(const finishing *f, const banyan_piece *piece, int32_t r, int64_t h)
{
    const banyan_rows *part = &f->call->batch[piece->part];
    return (piece->at + r - part->at) * f->c->plan->spec.heads + h;
}

/* A head's rows of the parts that ask for this probe. Its results are there already. */
static void show_mass(const finishing *f, int64_t h)
{
    const int32_t value_dim = f->kind->shape.value_dim;
    const size_t floats = banyan_partial_floats(value_dim);
    const float *all = f->part->data[h];
    const float *probed = banyan_sum_round(f->c->plan, f->part->mass[h], 0, f->panel->rows);
    for (int32_t i = 0; i < f->panel->pieces; i++) {
        const banyan_piece *piece = &f->panel->piece[i];
        const banyan_rows *part = &f->call->batch[piece->part];
        if (!part->mass || f->what >= part->probe_count) continue;
        float *mass = part->mass + (int64_t)f->what * part->rows * f->c->plan->spec.heads;
        for (int32_t r = 0; r < piece->rows; r++) {
            const size_t row = (size_t)(piece->first - f->panel->first + r);
            mass[part_row(f, piece, r, h)] =
                mass_share(probed + 2 * row, all + row * floats + value_dim);
        }
    }
}

static void show_strongest(const finishing *f, int64_t h)
{
    const banyan_strongest *best = f->part->mass[h];
    for (int32_t i = 0; i < f->panel->pieces; i++) {
        const banyan_piece *piece = &f->panel->piece[i];
        int64_t *strongest = f->call->batch[piece->part].strongest;
        for (int32_t r = 0; strongest && r < piece->rows; r++)
            strongest[part_row(f, piece, r, h)] =
                best[piece->first - f->panel->first + r].token;
    }
}

static void show_head(void *arg, int64_t h, int32_t worker)
{
    (void)worker;
    const finishing *f = arg;
    if (!is_wanted_here(f, h)) return;
    if (f->what == BANYAN_WHAT_STRONGEST)
        show_strongest(f, h);
    else
        show_mass(f, h);
}

/* A sink joins the rows of parts without a range: it counts once, and who cuts their tokens
 * into ranges adds it when they are joined. */
static void add_sinks(const finishing *f, int64_t h, float *partial)
{
    const banyan_spec *spec = &f->c->plan->spec;
    const int32_t value_dim = f->kind->shape.value_dim;
    const float sink = spec->sinks[f->call->layer * (int64_t)spec->heads + h];
    for (int32_t i = 0; i < f->panel->pieces; i++) {
        const banyan_piece *piece = &f->panel->piece[i];
        const size_t row = (size_t)(piece->first - f->panel->first);
        if (!f->call->batch[piece->part].end)
            banyan_partial_sink(partial + row * banyan_partial_floats(value_dim), sink,
                                value_dim, piece->rows);
    }
}

static void finish_head(void *arg, int64_t h, int32_t worker)
{
    (void)worker;
    const finishing *f = arg;
    const banyan_plan *plan = f->c->plan;
    const banyan_spec *spec = &plan->spec;
    if (!is_wanted_here(f, h)) return;

    const int32_t rows = f->panel->rows, value_dim = f->kind->shape.value_dim;
    float *partial = banyan_sum_round(plan, f->part->data[h], value_dim, rows);
    if (spec->sinks) add_sinks(f, h, partial);
    int64_t at = (int64_t)f->panel->first * spec->heads + h;
    size_t bytes = banyan_dtype_bytes(spec->out_dtype);
    banyan_partial_finish(partial, value_dim, rows,
                          (char *)f->call->out + (size_t)(at * value_dim) * bytes,
                          spec->out_dtype, (int64_t)spec->heads * value_dim,
                          f->call->lse ? f->call->lse + at : NULL, spec->heads);
}

banyan_status banyan_panel_merge(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel)
{
    const banyan_kind *kind = banyan_plan_kind(c->plan, call->layer);
    const banyan_status status = merge_panel(c, call, panel, BANYAN_WHAT_RESULTS);
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

banyan_status banyan_panel_show(banyan_cache *c, const banyan_call *call,
                                const banyan_panel *panel, int32_t what)
{
    const banyan_status status = merge_panel(c, call, panel, what);
    if (status != BANYAN_OK) return status;
    finishing f = {.c = c,
                   .call = call,
                   .kind = banyan_plan_kind(c->plan, call->layer),
                   .part = banyan_cache_part(c, call->layer),
                   .panel = panel,
                   .what = what};
    banyan_each(1, c->plan->spec.heads, show_head, &f);
    return BANYAN_OK;
}
