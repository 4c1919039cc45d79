/* SPDX-License-Identifier: Apache-2.0 */
/* The layers of a Llama model, for one chunk of tokens:
 *
 *     x = E[id]
 *     x += Wo attention(rope(Wq h), rope(Wk h), Wv h)        h = norm(x)
 *     x += Wd (silu(Wg h) * Wu h)                             h = norm(x)
 *
 * The last layer appends k and v of every row, and computes the rest only for the rows that are
 * asked for; a chunk that wants none is done there after two of its matrices. */
#include "launch/model/llama.h"

#include <string.h>

static void embed(model *m, const uint32_t *ids, int32_t rows)
{
    int64_t width = m->shape.hidden;
    for (int32_t row = 0; row < rows; row++)
        tensor_read(m->embedding, ids[row] * width, width, m->work.x + row * width);
}

/* Probe the rows that are asked for: the last `rows` of those just attended. */
static banyan_status gather_probe(model *m, int32_t layer, int32_t attended, int32_t rows,
                                  const model_probe *probe)
{
    workspace *w = &m->work;
    int64_t skip = (int64_t)(attended - rows) * m->shape.heads;
    banyan_status status = BANYAN_OK;
    if (probe->out)
        memcpy(probe->out, w->wide + skip * m->shape.head_dim,
               (size_t)rows * (size_t)m->shape.heads * (size_t)m->shape.head_dim *
                   sizeof *probe->out);
    if (probe->lse) status = exchange_values(m, layer, rows, w->lse + skip, probe->lse);
    if (!status && probe->mass)
        status = exchange_values(m, layer, rows, w->mass + skip, probe->mass);
    return status;
}

static size_t bytes_of(int64_t rows, int64_t width)
{
    return (size_t)(rows * width) * sizeof(float);
}

/* q, k and v, as the host has them now, to the device. */
static banyan_status send_heads(model *m, const chunk *c)
{
    device_array *on = m->work.on;
    int64_t kv_width = (int64_t)m->shape.kv_heads * m->shape.head_dim;
    int64_t width = (int64_t)m->shape.heads * m->shape.head_dim;
    banyan_status status = device_send(m->device, &on[ON_K], bytes_of(c->rows, kv_width));
    if (!status) status = device_send(m->device, &on[ON_V], bytes_of(c->rows, kv_width));
    if (!status && c->wanted > 0)
        status = device_send(m->device, &on[ON_Q], bytes_of(c->wanted, width));
    return device_result(m, status);
}

static banyan_status fetch_heads(model *m, int32_t rows, bool with_mass)
{
    device_array *on = m->work.on;
    int32_t heads = m->shape.heads;
    int64_t width = (int64_t)heads * m->shape.head_dim;
    banyan_status status = device_fetch(m->device, &on[ON_OUT], bytes_of(rows, width));
    if (!status) status = device_fetch(m->device, &on[ON_LSE], bytes_of(rows, heads));
    if (!status && with_mass)
        status = device_fetch(m->device, &on[ON_MASS], bytes_of(rows, heads));
    return device_result(m, status);
}

/* The calls of one layer: rows that only append, then those that attend. */
static banyan_status call(model *m, int32_t layer, const chunk *c, const model_probe *probe)
{
    device_array *on = m->work.on;
    int32_t skip = c->rows - c->wanted;
    int64_t kv = skip * (int64_t)m->shape.kv_heads * m->shape.head_dim;
    const float *k = on[ON_K].there, *v = on[ON_V].there;
    bool with_mass = probe && probe->mass;
    banyan_status status = send_heads(m, c);
    if (!status && skip > 0)
        status = banyan_attend(m->cache, layer, c->at, skip, NULL, k, v, NULL, NULL);
    /* the host writes k and v again when this returns */
    if (status || c->wanted == 0) return status ? status : banyan_cache_wait(m->cache);
    if (with_mass)
        status = banyan_cache_probe(m->cache, probe->first_token, probe->token_count,
                                    on[ON_MASS].there);
    if (!status)
        status = banyan_attend(m->cache, layer, c->at + skip, c->wanted, on[ON_Q].there, k + kv,
                               v + kv, on[ON_OUT].there, on[ON_LSE].there);
    if (!status) status = banyan_cache_wait(m->cache);
    return status ? status : fetch_heads(m, c->wanted, with_mass);
}

/* q, k, v of a chunk to the ranks that hold the heads; attend; outputs of all heads in work.wide. */
static banyan_status attend(model *m, int32_t layer, const chunk *c, const float *h,
                            int32_t rows, const model_probe *probe)
{
    workspace *w = &m->work;
    int32_t skip = c->rows - c->wanted;
    bool probed = probe && probe->layer == layer;
    banyan_status status = linear_run(m, &m->layer[layer].q,
                                      h + (int64_t)skip * m->shape.hidden, c->wanted, w->cut);
    if (!status) status = linear_run(m, &m->layer[layer].kv, h, c->rows, w->cut_kv);
    if (!status) status = exchange_heads(m, layer, c);
    if (!status) status = call(m, layer, c, probed ? probe : NULL);
    if (status || c->wanted == 0) return status;
    status = exchange_out(m, layer, c->wanted, w->wide);
    if (!status && probed) status = gather_probe(m, layer, c->wanted, rows, probe);
    return status;
}

/* x += Wd (silu(Wg h) * Wu h), and h = the norm that follows. */
static banyan_status feed_forward(model *m, const llama_layer *l, int32_t rows, float *x,
                                  const float *next_norm)
{
    workspace *w = &m->work;
    int64_t width = m->shape.intermediate;
    banyan_status status = linear_run_many(m, l->gate_up.weight, 2 * l->gate_up.count,
                                           l->gate_up.in, w->h, rows, w->cut);
    if (status) return status;
    float *mine = w->out; /* free by now */
    rows_silu(w->cut, rows, l->gate_up.count, mine);
    status = exchange_cut(m, width, rows, mine, w->pieces);
    if (status) return status;
    for (int r = 0; r < m->ranks; r++)
        rows_copy(w->wide + w->pieces[r].first, width, w->pieces[r].data, w->pieces[r].stride,
                  rows, w->pieces[r].count);
    status = linear_run(m, &l->down, w->wide, rows, w->cut);
    if (!status) status = exchange_cut(m, m->shape.hidden, rows, w->cut, w->pieces);
    if (status) return status;
    rows_add_norm(x, w->pieces, m->ranks, rows, m->shape.hidden, next_norm, m->shape.rms_eps,
                  w->h);
    return BANYAN_OK;
}

/* After it, work.h has the final norm of the last `rows` rows, first in the array. */
banyan_status layers_run(model *m, const chunk *whole, const uint32_t *ids, int32_t rows,
                         const model_probe *probe)
{
    workspace *w = &m->work;
    int64_t width = m->shape.hidden;
    float *x = w->x;
    chunk c = *whole;
    embed(m, ids, c.rows);
    rope_table(&m->rope, c.at, c.rows, w->turn);
    rows_norm(x, c.rows, width, m->layer[0].input_norm, m->shape.rms_eps, w->h);
    for (int32_t layer = 0; layer < m->shape.layers; layer++) {
        const llama_layer *l = &m->layer[layer];
        bool last = layer == m->shape.layers - 1;
        c.wanted = last ? rows : c.rows;
        banyan_status status = attend(m, layer, &c, w->h, rows, probe);
        if (status || c.wanted == 0) return status;
        x = w->x + (c.rows - c.wanted) * width;
        status = linear_run(m, &l->o, w->wide, c.wanted, w->cut);
        if (!status) status = exchange_cut(m, width, c.wanted, w->cut, w->pieces);
        if (status) return status;
        rows_add_norm(x, w->pieces, m->ranks, c.wanted, width, l->post_norm, m->shape.rms_eps,
                      w->h);
        status = feed_forward(m, l, c.wanted, x,
                              last ? m->final_norm : m->layer[layer + 1].input_norm);
        if (status) return status;
    }
    return BANYAN_OK;
}
