/* SPDX-License-Identifier: Apache-2.0 */
/* All working memory of a forward pass, taken once for max_rows rows. */
#include "launch/launch.h"
#include "launch/model/runner.h"

#include <stdio.h>
#include <stdlib.h>

/* Zeroed: rows that a rank does not compute are read by nobody, but must not be signalling
 * rubbish. */
static float *aligned_floats(int64_t count)
{
    float *p = NULL;
    if (posix_memalign((void **)&p, 64, (size_t)larger64(count, 16) * sizeof *p) != 0)
        return NULL;
    for (int64_t i = 0; i < count; i++) p[i] = 0;
    return p;
}

static banyan_status make_lists(model *m)
{
    workspace *w = &m->work;
    size_t blocks = (size_t)(m->max_rows / m->block_tokens + 2);
    w->owner = calloc((size_t)m->shape.kv_heads * blocks, sizeof *w->owner);
    w->sends = calloc((size_t)m->ranks, sizeof *w->sends);
    w->recvs = calloc((size_t)m->ranks, sizeof *w->recvs);
    w->columns_of = calloc((size_t)m->ranks, sizeof *w->columns_of);
    w->taken = calloc((size_t)m->is.experts + 1, sizeof *w->taken);
    const size_t parts = (size_t)(m->max_rows / dual_reach(&m->is) + 2);
    w->dual_part = calloc(parts, sizeof *w->dual_part);
    return w->taken && w->owner && w->sends && w->recvs && w->columns_of && w->dual_part
               ? BANYAN_OK
               : BANYAN_ERR_MEMORY;
}

static banyan_status make_moved(model *m, const int64_t floats[ON_ALL])
{
    workspace *w = &m->work;
    float **const host[ON_ALL] = {&w->q, &w->k, &w->v, &w->out, &w->lse, &w->mass};
    banyan_status status = BANYAN_OK;
    for (int i = 0; i < ON_ALL && !status; i++) {
        status = device_array_make(m->device, (size_t)floats[i] * sizeof(float), 0, &w->on[i]);
        *host[i] = w->on[i].host;
    }
    return device_result(m, status);
}

/* The most of gate's columns that a rank has of one matrix. */
static int64_t widest_cut(const model *m)
{
    int64_t inner =
        larger64(larger64(m->shape.intermediate, m->is.expert_intermediate), m->is.experts);
    return (inner + m->ranks - 1) / m->ranks;
}

banyan_status workspace_make(model *m)
{
    workspace *w = &m->work;
    const model_shape *s = &m->shape;
    const layer *l = &m->layer[0]; /* q, k, v and o of all layers are cut alike */
    const description *d = &m->is;
    int64_t rows = m->max_rows, q = (int64_t)s->heads * s->head_dim, sum = 0;
    int64_t kv = (int64_t)s->kv_heads * s->head_dim, wide = larger64(q, description_inner(d));
    int64_t cut = larger64(larger64(l->q.count, l->o.count), 2 * widest_cut(m));
    const int64_t moved[ON_ALL] = {rows * q,    rows * kv,       rows * kv,
                                   rows * wide, rows * s->heads, rows * s->heads};
    int64_t pairs[ROPES] = {m->rope[0].pairs, m->rope[1].pairs};
    const bool dual = banyan_plan_spec(m->plan)->max_tokens > dual_reach(d);
    const int64_t dual_q = dual ? rows * q : 0, dual_lse = dual ? rows * s->heads : 0;
    int64_t panel = m->device->row->is_apart ? 0 : PANEL * linear_widest(m);
    const struct {
        float **to;
        int64_t count;
    } arrays[] = {{&w->x, rows * s->hidden},
                  {&w->h, rows * s->hidden},
                  {&w->cut, rows * cut},
                  {&w->cut_kv, rows * l->kv.count},
                  {&w->wide, rows * wide},
                  {&w->some, d->experts ? rows * s->hidden : 0},
                  {&w->share, rows * d->experts},
                  {&w->turn[0], rows * 2 * pairs[0]},
                  {&w->turn[1], rows * 2 * pairs[1]},
                  {&w->turn_next, dual ? rows * 2 * pairs[0] : 0},
                  {&w->turn_far, dual ? 2 * pairs[0] : 0},
                  {&w->dual_q[0], dual_q},
                  {&w->dual_q[1], dual_q},
                  {&w->dual_out[0], dual_q},
                  {&w->dual_out[1], dual_q},
                  {&w->dual_lse[0], dual_lse},
                  {&w->dual_lse[1], dual_lse},
                  {&w->dual_lse[2], dual_lse},
                  {&w->dual_mass[0], dual_lse},
                  {&w->dual_mass[1], dual_lse},
                  {&w->dual_mass[2], dual_lse},
                  {&w->panel, panel},
                  {&w->send, exchange_floats(m, 1)},
                  {&w->recv, exchange_floats(m, 0)},
                  {&w->logits, HEAD_ROWS * m->head.count}};
    enum { count = sizeof arrays / sizeof arrays[0] };
    char what[64];
    snprintf(what, sizeof what, "a chunk of %d rows (max_rows)", (int)m->max_rows);
    for (int i = 0; i < count; i++) sum += arrays[i].count;
    for (int i = 0; i < ON_ALL; i++) sum += moved[i];
    w->bytes = sum * (int64_t)sizeof(float);
    banyan_status status = agree_room(m->comm, w->bytes, what, m->why, WHY);
    if (status) return status;
    status = make_lists(m);
    for (int i = 0; !status && i < count; i++)
        if (!(*arrays[i].to = aligned_floats(arrays[i].count))) status = BANYAN_ERR_MEMORY;
    if (!status) status = make_moved(m, moved);
    if (status == BANYAN_ERR_MEMORY) snprintf(m->why, WHY, "out of memory for %s", what);
    return agree_words(m->comm, status, m->why, WHY);
}

void workspace_free(model *m)
{
    workspace *w = &m->work;
    float *all[] = {w->x,         w->h,         w->cut,         w->cut_kv,     w->wide,
                    w->some,      w->share,     w->turn[0],     w->turn[1],    w->panel,
                    w->send,      w->recv,      w->logits,      w->turn_next,  w->turn_far,
                    w->dual_q[0], w->dual_q[1], w->dual_out[0], w->dual_out[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    for (int v = 0; v < DUAL; v++) {
        free(w->dual_lse[v]);
        free(w->dual_mass[v]);
    }
    for (int i = 0; i < ON_ALL; i++) device_array_free(m->device, &w->on[i]);
    free(w->owner);
    free(w->taken);
    free(w->dual_part);
    free(w->sends);
    free(w->recvs);
    free(w->columns_of);
    *w = (workspace){0};
}
