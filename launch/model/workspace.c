/* SPDX-License-Identifier: Apache-2.0 */
/* All working memory of a forward pass, taken once for max_rows rows. */
#include "launch/launch.h"
#include "launch/model/llama.h"

#include <stdio.h>
#include <stdlib.h>

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Zeroed: rows that a rank does not compute are read by nobody, but must not be signalling rubbish. */
static float *floats(int64_t count)
{
    float *p = NULL;
    if (posix_memalign((void **)&p, 64, (size_t)larger(count, 16) * sizeof *p) != 0)
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
    w->pieces = calloc((size_t)m->ranks, sizeof *w->pieces);
    return w->owner && w->sends && w->recvs && w->pieces ? BANYAN_OK : BANYAN_ERR_MEMORY;
}

banyan_status workspace_make(model *m)
{
    workspace *w = &m->work;
    const model_shape *s = &m->shape;
    const llama_layer *l = &m->layer[0]; /* all layers are cut alike */
    int64_t rows = m->max_rows, q = (int64_t)s->heads * s->head_dim, sum = 0;
    int64_t kv = (int64_t)s->kv_heads * s->head_dim, wide = larger(q, s->intermediate);
    int64_t cut = larger(larger(l->q.count, l->o.count), 2 * l->gate_up.count);
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
                  {&w->turn, rows * s->head_dim},
                  {&w->lse, rows * s->heads},
                  {&w->mass, rows * s->heads},
                  {&w->send, exchange_floats(m, 1)},
                  {&w->recv, exchange_floats(m, 0)},
                  {&w->logits, HEAD_ROWS * m->head.count}};
    enum { count = sizeof arrays / sizeof arrays[0] };
    char what[64];
    snprintf(what, sizeof what, "a chunk of %d rows (max_rows)", (int)m->max_rows);
    for (int i = 0; i < count; i++) sum += arrays[i].count;
    banyan_status status = agree_room(m->comm, sum * (int64_t)sizeof(float), what, m->why, WHY);
    if (status) return status;
    status = make_lists(m);
    for (int i = 0; !status && i < count; i++)
        if (!(*arrays[i].to = floats(arrays[i].count))) status = BANYAN_ERR_MEMORY;
    if (status) snprintf(m->why, WHY, "out of memory for %s", what);
    return agree_words(m->comm, status, m->why, WHY);
}

void workspace_free(workspace *w)
{
    float *all[] = {w->x,    w->h,    w->cut, w->cut_kv, w->q,    w->k,    w->v,     w->out,
                    w->wide, w->turn, w->lse, w->mass,   w->send, w->recv, w->logits};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(w->owner);
    free(w->sends);
    free(w->recvs);
    free(w->pieces);
    *w = (workspace){0};
}
