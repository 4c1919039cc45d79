/* SPDX-License-Identifier: Apache-2.0 */
/* All working memory of a forward pass, taken once for max_rows rows. */
#include "launch/model/llama.h"

#include <stdlib.h>

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Zeroed: rows that a rank does not compute are read by nobody, but must not be signalling rubbish. */
static float *floats(int64_t count, int *failed)
{
    float *p = NULL;
    if (posix_memalign((void **)&p, 64, (size_t)larger(count, 16) * sizeof *p) != 0) {
        *failed = 1;
        return NULL;
    }
    for (int64_t i = 0; i < count; i++) p[i] = 0;
    return p;
}

banyan_status workspace_make(model *m)
{
    workspace *w = &m->work;
    const model_shape *s = &m->shape;
    const llama_layer *l = &m->layer[0]; /* all layers are cut alike */
    int64_t rows = m->max_rows, q = (int64_t)s->heads * s->head_dim;
    int64_t kv = (int64_t)s->kv_heads * s->head_dim, wide = larger(q, s->intermediate);
    int64_t cut = larger(larger(l->q.count, l->o.count), 2 * l->gate_up.count);
    int failed = 0;
    w->x = floats(rows * s->hidden, &failed);
    w->h = floats(rows * s->hidden, &failed);
    w->cut = floats(rows * cut, &failed);
    w->cut_kv = floats(rows * l->kv.count, &failed);
    w->q = floats(rows * q, &failed);
    w->k = floats(rows * kv, &failed);
    w->v = floats(rows * kv, &failed);
    w->out = floats(rows * wide, &failed);
    w->wide = floats(rows * wide, &failed);
    w->turn = floats(rows * s->head_dim, &failed);
    w->lse = floats(rows * s->heads, &failed);
    w->mass = floats(rows * s->heads, &failed);
    w->send = floats(exchange_floats(m, 1), &failed);
    w->recv = floats(exchange_floats(m, 0), &failed);
    w->logits = floats(HEAD_ROWS * m->head.count, &failed);
    w->owner = calloc((size_t)(s->kv_heads * (rows / m->block_tokens + 2)), sizeof *w->owner);
    w->sends = calloc((size_t)m->ranks, sizeof *w->sends);
    w->recvs = calloc((size_t)m->ranks, sizeof *w->recvs);
    w->pieces = calloc((size_t)m->ranks, sizeof *w->pieces);
    failed |= !w->owner || !w->sends || !w->recvs || !w->pieces;
    return failed ? BANYAN_ERR_MEMORY : BANYAN_OK;
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
