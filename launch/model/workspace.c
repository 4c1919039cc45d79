/* SPDX-License-Identifier: Apache-2.0 */
/* All working memory of a forward pass, taken once for max_rows rows. */
#include "launch/launch.h"
#include "launch/model/runner.h"

#include <stdio.h>
#include <stdlib.h>

static banyan_status make_lists(model *m)
{
    workspace *w = &m->work;
    size_t blocks = (size_t)(m->max_rows / m->block_tokens + 2);
    w->owner = calloc((size_t)m->shape.kv_heads * blocks, sizeof *w->owner);
    w->sends = calloc((size_t)m->ranks, sizeof *w->sends);
    w->recvs = calloc((size_t)m->ranks, sizeof *w->recvs);
    w->columns_of = calloc((size_t)m->ranks, sizeof *w->columns_of);
    w->taken = calloc((size_t)m->is.experts + 1, sizeof *w->taken);
    w->share = calloc((size_t)m->max_rows * (size_t)m->is.experts + 1, sizeof *w->share);
    const size_t parts = (size_t)(m->max_rows / dual_reach(&m->is) + 2);
    w->dual_part = calloc(parts, sizeof *w->dual_part);
    const bool all = w->taken && w->share && w->owner && w->sends && w->recvs &&
                     w->columns_of && w->dual_part;
    return all ? BANYAN_OK : BANYAN_ERR_MEMORY;
}

static banyan_status make_sides(model *m, const int64_t floats[ON_ALL])
{
    workspace *w = &m->work;
    banyan_status status = BANYAN_OK;
    for (int i = 0; i < ON_ALL && !status; i++)
        status = device_array_make(m->device, (size_t)floats[i] * sizeof(float), 0, &w->on[i]);
    w->send = w->on[ON_SEND].host;
    w->recv = w->on[ON_RECV].host;
    w->lse = w->on[ON_LSE].host;
    w->mass = w->on[ON_MASS].host;
    return device_result(m, status);
}

/* Zeroed: rows that a rank does not compute are read by nobody, but must not be signalling
 * rubbish. */
static banyan_status make_floats(model *m, int64_t count, float **out)
{
    void *memory;
    banyan_status status =
        device_memory_make(m->device, (size_t)count * sizeof **out, 0, &memory);
    *out = memory;
    return device_result(m, status);
}

/* The chunk's place and ids, on both sides: a device copies from plain memory, which may then
 * be written again at once. */
static banyan_status make_input(model *m)
{
    workspace *w = &m->work;
    const size_t bytes = sizeof *w->input + (size_t)m->max_rows * sizeof(uint32_t);
    void *input;
    banyan_status status = device_memory_make(m->device, bytes, 0, &input);
    w->input = input;
    w->asked = on_device(m) ? malloc(bytes) : input;
    return device_result(m, status || w->asked ? status : BANYAN_ERR_MEMORY);
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
    int64_t host = rows * d->experts; /* of it in the host's memory: here share */
    int64_t cut = larger64(larger64(l->q.count, l->o.count), 2 * widest_cut(m));
    const int64_t sides[ON_ALL] = {exchange_floats(m, 1), exchange_floats(m, 0),
                                   rows * s->heads, rows * s->heads,
                                   HEAD_ROWS * (m->head.count + 2)};
    int64_t pairs[ROPES] = {m->rope[0].pairs, m->rope[1].pairs};
    const bool dual = banyan_plan_spec(m->plan)->max_tokens > dual_reach(d);
    const int64_t dual_q = dual ? rows * q : 0, dual_lse = dual ? rows * s->heads : 0;
    int64_t panel = on_device(m) ? 0 : PANEL * linear_widest(m);
    int64_t narrow = m->has_narrow ? (rows * linear_widest(m) + 1) / 2 : 0;
    int64_t h_narrow = m->has_narrow ? (rows * s->hidden + 1) / 2 : 0;
    float *narrow_room = NULL, *h_room = NULL;
    const struct {
        float **to;
        int64_t count;
    } arrays[] = {{&w->x, rows * s->hidden},
                  {&w->h, rows * s->hidden},
                  {&w->cut, rows * cut},
                  {&w->cut_kv, rows * l->kv.count},
                  {&w->q, rows * q},
                  {&w->k, rows * kv},
                  {&w->v, rows * kv},
                  {&w->out, rows * wide},
                  {&w->wide, rows * wide},
                  {&w->some, d->experts ? rows * s->hidden : 0},
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
                  {&narrow_room, narrow},
                  {&h_room, h_narrow},
                  {&w->panel, panel}};
    enum { count = sizeof arrays / sizeof arrays[0] };
    char what[64];
    snprintf(what, sizeof what, "a chunk of %d rows (max_rows)", (int)m->max_rows);
    for (int i = 0; i < ON_ALL; i++) host += sides[i];
    for (int i = 0; i < count; i++) sum += arrays[i].count;
    w->bytes = (sum + host) * (int64_t)sizeof(float);
    if (!on_device(m)) host += sum;
    banyan_status status =
        agree_room(m->comm, host * (int64_t)sizeof(float), what, m->why, WHY);
    if (status) return status;
    status = make_lists(m);
    for (int i = 0; !status && i < count; i++)
        status = make_floats(m, arrays[i].count, arrays[i].to);
    w->narrow = (uint16_t *)narrow_room;
    w->h_narrow = (uint16_t *)h_room;
    if (!status) status = make_input(m);
    if (!status) status = make_sides(m, sides);
    if (status == BANYAN_ERR_MEMORY) snprintf(m->why, WHY, "out of memory for %s", what);
    return agree_words(m->comm, status, m->why, WHY);
}

void workspace_free(model *m)
{
    workspace *w = &m->work;
    void *const there[] = {
        w->x,         w->h,           w->cut,        w->cut_kv,   w->q,      w->k,
        w->v,         w->out,         w->wide,       w->some,     w->narrow, w->h_narrow,
        w->turn[0],   w->turn[1],     w->turn_next,  w->turn_far, w->panel,  w->dual_q[0],
        w->dual_q[1], w->dual_out[0], w->dual_out[1]};
    void *const host[] = {w->share, w->owner, w->taken,     w->dual_part,
                          w->sends, w->recvs, w->columns_of};
    if (w->asked != w->input) free(w->asked);
    device_memory_free(m->device, w->input);
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        device_memory_free(m->device, there[i]);
    for (int v = 0; v < DUAL; v++) {
        device_memory_free(m->device, w->dual_lse[v]);
        device_memory_free(m->device, w->dual_mass[v]);
    }
    for (int i = 0; i < ON_ALL; i++) device_array_free(m->device, &w->on[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) free(host[i]);
    *w = (workspace){0};
}
