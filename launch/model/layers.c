/* SPDX-License-Identifier: Apache-2.0 */
/* The one layer program, for one chunk of tokens: what family.h says, with whatever the
 * description has.
 *
 * The last layer appends k and v of every row, and computes the rest only for the rows that
 * are asked for; a chunk that wants none is done there after two of its matrices. */
#include "launch/model/runner.h"

#include <string.h>

banyan_status layers_input(model *m, const chunk *c, const uint32_t *ids)
{
    workspace *w = &m->work;
    device *d = m->device;
    const size_t bytes = sizeof *w->asked + (size_t)c->rows * sizeof *ids;
    w->asked[0] = c->at;
    memcpy(w->asked + 1, ids, (size_t)c->rows * sizeof *ids);
    if (!on_device(m)) return BANYAN_OK; /* input is asked */
    return device_result(
        m, device_said(d, d->row->memory->copy(d->own, w->input, w->asked, bytes)));
}

static void fill_turns(model *m, const chunk *c)
{
    workspace *w = &m->work;
    if (dual_is_on(m, c)) {
        dual_turns(m, c);
        return;
    }
    for (int32_t i = 0; i < m->is.ropes; i++) {
        const rope *r = &m->rope[i];
        const step_rope step = {r, m->turns[i], r->factor, r->pairs};
        m->step->turns(m->device->own, &step, w->input, c->rows, w->turn[i]);
    }
}

/* Of x, to work.h. */
static void norm_rows(const model *m, const norm *n, const float *x, int32_t rows)
{
    const step_norm step = norm_step(m, n);
    m->step->norm(m->device->own, &step, x, rows, m->shape.hidden, m->work.h,
                  m->has_narrow ? m->work.h_narrow : NULL);
}

/* Probe the rows that are asked for: the last `rows` of those just attended. */
static banyan_status gather_probe(model *m, int32_t layer, const chunk *c, int32_t rows,
                                  const float *out, const model_probe *probe)
{
    workspace *w = &m->work;
    int64_t skip = (int64_t)(c->wanted - rows) * m->shape.heads;
    const size_t values = (size_t)(c->wanted * m->shape.heads) * sizeof(float);
    banyan_status status = BANYAN_OK;
    if (probe->out)
        status = device_read(m->device, probe->out, out + skip * m->shape.head_dim,
                             (size_t)rows * (size_t)m->shape.heads * (size_t)m->shape.head_dim *
                                 sizeof *probe->out);
    if (!status && probe->lse) status = device_fetch(m->device, &w->on[ON_LSE], values);
    if (!status && probe->mass) status = device_fetch(m->device, &w->on[ON_MASS], values);
    if (status) return device_result(m, status);
    if (probe->lse) status = exchange_values(m, layer, rows, w->lse + skip, probe->lse);
    if (!status && probe->mass)
        status = exchange_values(m, layer, rows, w->mass + skip, probe->mass);
    /* every rank has the same numbers, and so the same verdict */
    int64_t token = c->at + c->rows - rows;
    if (!status && probe->lse)
        status = finite_rows(m, "lse", token, probe->lse, rows, m->shape.heads);
    if (!status && probe->mass)
        status = finite_rows(m, "masses", token, probe->mass, rows, m->shape.heads);
    return status;
}

/* The k and v of a chunk to a cache layer that nobody reads now. */
static banyan_status append_heads(model *m, int32_t cache_layer, const chunk *c)
{
    const chunk none = {c->at, c->rows, 0};
    banyan_status status = exchange_heads(m, cache_layer, &none);
    if (status) return status;
    heads_prepare(m, cache_layer, &none);
    return attend_run(m, cache_layer, &none, NULL);
}

/* q, k, v of a chunk to the ranks that hold the heads; attend; *out: outputs of all heads. */
static banyan_status attend_layer(model *m, int32_t layer, const chunk *c, int32_t rows,
                                  const model_probe *probe, const float **out)
{
    const bool last = layer == m->shape.layers - 1;
    const int32_t cache_layer = layer + (last ? m->reading : 0);
    workspace *w = &m->work;
    const float *h = w->h;
    int32_t skip = c->rows - c->wanted;
    bool probed = probe && probe->layer == layer;
    banyan_status status = linear_run(m, &m->layer[layer].q,
                                      h + (int64_t)skip * m->shape.hidden, c->wanted, w->cut);
    if (!status) status = linear_run(m, &m->layer[layer].kv, h, c->rows, w->cut_kv);
    for (int32_t i = 0; last && !status && i <= m->readings; i++)
        if (i != m->reading) status = append_heads(m, layer + i, c);
    if (!status) status = exchange_heads(m, cache_layer, c);
    if (status) return status;
    heads_prepare(m, cache_layer, c);
    status = attend_run(m, cache_layer, c, probed ? probe : NULL);
    if (status || c->wanted == 0) return status;
    status = exchange_out(m, cache_layer, c->wanted, out);
    if (!status && probed) status = gather_probe(m, cache_layer, c, rows, *out, probe);
    if (!status && probe && probe->watch)
        status = watch_run(m, layer, cache_layer, c, probe->watch);
    return status;
}

/* Wd (act(Wg h) * Wu h), cut, in work.cut. */
static banyan_status feed_forward(model *m, const layer *l, int32_t rows)
{
    workspace *w = &m->work;
    int64_t width = l->gate_up.columns;
    banyan_status status = linear_run(m, &l->gate_up, w->h, rows, w->cut);
    if (status) return status;
    float *mine = w->out; /* free by now */
    m->step->activate(m->device->own, m->is.act, (float)m->is.act_cap, w->cut, rows,
                      l->gate_up.count, mine);
    const float *all = NULL;
    status = exchange_whole(m, width, rows, mine, w->wide, &all);
    return status ? status : linear_run(m, &l->down, all, rows, w->cut);
}

/* x += residual_scale (norm(cut)): what a half of a layer gave, in work.cut, to the residual
 * stream; work.h = what comes next of it. */
static banyan_status rejoin(model *m, const norm *after, float *x, int32_t rows,
                            const norm *next)
{
    workspace *w = &m->work;
    int64_t width = m->shape.hidden;
    float scale = (float)m->is.residual_scale;
    banyan_status status = exchange_cut(m, width, rows, w->cut);
    if (status) return status;
    moves sum = moves_of(m, true);
    if (after->weight) {
        moves all = moves_of(m, false);
        moves_columns(&all, m, w->h, width, rows, 1);
        moves_end(&all);
        norm_rows(m, after, w->h, rows);
        moves_put(&sum, (step_move){w->h, x, width, width, rows, (int32_t)width, scale});
    } else {
        moves_columns(&sum, m, x, width, rows, scale);
    }
    moves_end(&sum);
    norm_rows(m, next, x, rows);
    return BANYAN_OK;
}

banyan_status layers_compute(model *m, const chunk *whole, int32_t rows,
                             const model_probe *probe)
{
    workspace *w = &m->work;
    chunk c = *whole;
    banyan_status status = BANYAN_OK;
    m->step->embed(m->device->own, &m->table, (const uint32_t *)(w->input + 1), c.rows,
                   m->shape.hidden, (float)m->is.embedding_scale, w->x);
    fill_turns(m, &c);
    norm_rows(m, &m->layer[0].input, w->x, c.rows);
    for (int32_t i = 0; i < m->shape.layers; i++) {
        const layer *l = &m->layer[i];
        bool last = i == m->shape.layers - 1;
        c.wanted = last ? rows : c.rows;
        const float *out = NULL;
        status = attend_layer(m, i, &c, rows, probe, &out);
        if (status || c.wanted == 0) return status;
        float *x = w->x + (c.rows - c.wanted) * (int64_t)m->shape.hidden;
        const norm *next = last ? &m->final_norm : &m->layer[i + 1].input;
        status = linear_run(m, &l->o, out, c.wanted, w->cut);
        if (!status) status = rejoin(m, &l->attention, x, c.wanted, &l->post);
        if (!status)
            status = m->is.layer[i].experts ? experts_run(m, l, c.wanted)
                                            : feed_forward(m, l, c.wanted);
        if (!status) status = rejoin(m, &l->mlp, x, c.wanted, next);
        if (status) return status;
    }
    return BANYAN_OK;
}
