/* SPDX-License-Identifier: Apache-2.0 */
/* What all methods share: the spec of a case, its random data, the hash of its outputs, and the
 * comparison of some of them with the oracle. */
#include "launch/scale/scale.h"

#include "launch/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

banyan_spec scale_spec(const scale_task *t, const scale_line *line)
{
    banyan_spec s = t->asked.spec;
    const scale_method *m = line->method;
    s.max_tokens = s.planned_tokens = line->tokens;
    if (s.max_rows > line->tokens) s.max_rows = (int32_t)line->tokens;
    if (m->placement) s.placement = m->placement;
    if (m->merge) s.merge = m->merge;
    if (m->everywhere) s.out = BANYAN_OUT_ALL;
    if (m->deals) s.home = BANYAN_HOME_DEALT;
    if (m->reproducible) s.reproducible = 1;
    if (t->prefill) s.balance = BANYAN_BALANCE_PREFILL;
    return s;
}

typedef struct making {
    scale_case *c;
    int64_t rows;
} making;

static void make_head(const making *m, int32_t head)
{
    const banyan_spec *s = m->c->spec;
    const int32_t group = s->heads / s->kv_heads;
    const int64_t first = m->c->q_rows == 1 ? scale_row(m->c->tokens - 1) : 0;
    const uint64_t seed = m->c->t->seed;
    for (int64_t i = 0; i < m->rows; i++) {
        int64_t vector = i * s->kv_heads + head, token = scale_row(i);
        data_row(m->c->k + vector * s->key_dim, seed, DATA_K, 0, token, head, s->key_dim);
        data_row(m->c->v + vector * s->value_dim, seed, DATA_V, 0, token, head, s->value_dim);
    }
    for (int64_t i = 0; i < m->c->q_rows; i++)
        for (int32_t h = head * group; h < (head + 1) * group; h++) {
            float *q = m->c->q + (i * s->heads + h) * s->key_dim;
            data_row(q, seed, DATA_Q, 0, scale_row(first + i), h, s->key_dim);
            for (int32_t d = 0; d < s->key_dim; d++) q[d] *= ORACLE_Q_DEVIATION;
        }
}

/* Heads and layers in turn; of a prefill the last row, the first, and others at random. */
static bool choose_case_samples(scale_case *c)
{
    c->samples = c->t->samples;
    c->sample = calloc((size_t)c->samples + 1, sizeof *c->sample);
    for (int32_t n = 0; c->sample && n < c->samples; n++) {
        scale_sample *sample = &c->sample[n];
        uint64_t draw = data_mix(data_mix(c->t->seed + 7) + (uint64_t)n);
        sample->layer = n % c->spec->layers;
        sample->head =
            (int32_t)(((int64_t)n * c->spec->heads / c->samples + (int64_t)(draw >> 40)) %
                      c->spec->heads);
        sample->token = c->tokens - 1;
        if (c->t->prefill && n == 1) sample->token = 0;
        if (c->t->prefill && n > 1) sample->token = (int64_t)(draw % (uint64_t)c->tokens);
        sample->out = malloc((size_t)c->spec->value_dim * sizeof(float));
        if (!sample->out) return false;
    }
    return c->sample != NULL;
}

banyan_status scale_fill(scale_case *c, bool (*reads)(const scale_case *, int32_t kv_head))
{
    const banyan_spec *s = c->spec;
    const int64_t distinct = c->tokens < SCALE_PERIOD ? c->tokens : SCALE_PERIOD;
    making m = {.c = c, .rows = distinct + s->max_rows};
    c->q_rows = c->t->prefill ? (int32_t)m.rows : 1;
    const int64_t out_rows = c->t->prefill ? s->max_rows : 1;
    const int64_t floats[SCALE_ARRAYS] = {
        (int64_t)c->q_rows * s->heads * s->key_dim, m.rows * s->kv_heads * s->key_dim,
        m.rows * s->kv_heads * s->value_dim, out_rows * s->heads * s->value_dim,
        out_rows * s->heads};
    float **const host[SCALE_ARRAYS] = {&c->q, &c->k, &c->v, &c->out, &c->lse};
    device *d = c->t->j->device;
    banyan_status status = BANYAN_OK;
    for (int i = 0; i < SCALE_ARRAYS && !status; i++) {
        size_t bytes = (size_t)floats[i] * sizeof(float);
        status = device_array_make(d, bytes, DEVICE_NAN, &c->on[i]);
        *host[i] = c->on[i].host;
    }
    if (!status && !choose_case_samples(c)) status = BANYAN_ERR_MEMORY;
    if (status) {
        c->samples = c->sample ? c->samples : 0;
        return status;
    }
#pragma omp parallel for num_threads(s->threads) schedule(dynamic)
    for (int32_t head = 0; head < s->kv_heads; head++)
        if (reads(c, head)) make_head(&m, head);
    c->oracle =
        (oracle_task){.plan = c->plan, .spec = s, .seed = c->t->seed, .period = SCALE_PERIOD};
    for (int i = SCALE_Q; i <= SCALE_V && !status; i++)
        status = device_send(d, &c->on[i], c->on[i].bytes);
    return status ? status : device_wait(d);
}

void scale_watch(scale_case *c, int32_t layer, int64_t at, int32_t rows, const float *out,
                 const float *lse, bool (*is_here)(const scale_case *, int32_t, int32_t))
{
    const banyan_spec *s = c->spec;
    for (int32_t h = 0; h < s->heads; h++) {
        if (!is_here(c, layer, h)) continue;
        for (int32_t i = 0; i < rows; i++) {
            const float *row = out + ((int64_t)i * s->heads + h) * s->value_dim;
            c->bits += data_hash_row(layer, h, at + i, row, s->value_dim);
        }
        for (int32_t n = 0; n < c->samples; n++) {
            scale_sample *sample = &c->sample[n];
            int64_t i = sample->token - at;
            if (sample->layer != layer || sample->head != h || i < 0 || i >= rows) continue;
            memcpy(sample->out, out + (i * s->heads + h) * s->value_dim,
                   (size_t)s->value_dim * sizeof(float));
            sample->lse = lse[i * s->heads + h];
            sample->call_at = at;
            sample->call_end = at + rows;
            sample->taken = true;
        }
    }
}

banyan_status scale_check(scale_case *c, double *error, double *share, int32_t *checked)
{
    oracle_row row;
    const banyan_status status = oracle_row_take(&c->oracle, c->tokens, &row);
    for (int32_t n = 0; n < c->samples && !status; n++) {
        const scale_sample *sample = &c->sample[n];
        if (!sample->taken) continue;
        c->oracle.at = sample->call_at;
        c->oracle.tokens = sample->call_end;
        oracle_error e = oracle_check(&c->oracle, sample->layer, sample->head, sample->token,
                                      c->line->ranks, sample->out, sample->lse, &row);
        *error = fmax(*error, e.error);
        *share = fmax(*share, e.share);
        ++*checked;
    }
    oracle_row_free(&row);
    return status;
}
