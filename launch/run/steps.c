/* SPDX-License-Identifier: Apache-2.0 */
/* What `run` runs. Each rank makes q of the heads that it holds, and k and v of the blocks that
 * it keeps, just before a call, outside of the timing; the rest of the arrays is NaN or left
 * over from another call, so that reading it would show in the results. */
#include "launch/run/run.h"

#include "launch/data.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static void make_kv_head(run_task *t, int32_t layer, int32_t head, int64_t at, int32_t rows)
{
    const banyan_spec *s = t->spec;
    float *k = t->k.host, *v = t->v.host;
    int64_t block = -1;
    bool mine = false;
    for (int32_t i = 0; i < rows; i++) {
        if ((at + i) / s->block_tokens != block) {
            block = (at + i) / s->block_tokens;
            mine = banyan_plan_owner(t->plan, 0, layer, head, block) == t->j->rank;
        }
        if (!mine) continue;
        int64_t vector = (int64_t)i * s->kv_heads + head;
        data_row(k + vector * s->key_dim, t->seed, DATA_K, layer, at + i, head, s->key_dim);
        if (v)
            data_row(v + vector * s->value_dim, t->seed, DATA_V, layer, at + i, head,
                     s->value_dim);
    }
}

static void make_q_head(run_task *t, int32_t layer, int32_t head, int64_t at, int32_t rows)
{
    const banyan_spec *s = t->spec;
    for (int32_t i = 0; i < rows; i++) {
        float *q = (float *)t->q.host + ((int64_t)i * s->heads + head) * s->key_dim;
        data_row(q, t->seed, DATA_Q, layer, at + i, head, s->key_dim);
        for (int32_t d = 0; d < s->key_dim; d++) q[d] *= ORACLE_Q_DEVIATION;
    }
}

static void make_layer_rows(run_task *t, int32_t layer, int64_t at, int32_t rows, bool attends)
{
    const banyan_spec *s = t->spec;
    int32_t group = s->heads / s->kv_heads;
#pragma omp parallel for num_threads(s->threads > 0 ? s->threads : 1) schedule(dynamic)
    for (int32_t head = 0; head < s->kv_heads; head++) {
        if (!banyan_plan_holds(t->plan, layer, head, t->j->rank)) continue;
        make_kv_head(t, layer, head, at, rows);
        for (int32_t h = head * group; attends && h < (head + 1) * group; h++)
            make_q_head(t, layer, h, at, rows);
    }
}

/* Is this query head's output written here? */
static bool is_output_here(const run_task *t, int32_t layer, int32_t head)
{
    return t->all || banyan_plan_home(t->plan, layer, head) == t->j->rank;
}

static void take_rows(run_task *t, int32_t layer, int64_t at, int32_t rows)
{
    const banyan_spec *s = t->spec;
    const float *out = t->out.host, *lse = t->lse.host;
    for (int32_t head = 0; head < s->heads; head++) {
        if (!is_output_here(t, layer, head)) continue;
        for (int32_t i = 0; i < rows; i++)
            t->mine.bits += data_hash_row(layer, head, at + i,
                                          out + ((int64_t)i * s->heads + head) * s->value_dim,
                                          s->value_dim);
    }
    for (int32_t n = 0; n < t->samples; n++) {
        run_sample *sample = &t->sample[n];
        if (sample->layer != layer || sample->token < at || sample->token >= at + rows)
            continue;
        if (!is_output_here(t, layer, sample->head) || sample->checker != t->j->rank) continue;
        int64_t vector = (sample->token - at) * s->heads + sample->head;
        memcpy(sample->out, out + vector * s->value_dim, (size_t)s->value_dim * sizeof(float));
        sample->lse = lse[vector];
        sample->taken = true;
    }
}

/* Of all threads of this process. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t bytes_of(int64_t rows, int64_t heads, int64_t dim)
{
    return (size_t)(rows * heads * dim) * sizeof(float);
}

/* What was made goes to the device; nothing of it is timed. */
static banyan_status send_rows(run_task *t, int32_t rows, bool attends)
{
    const banyan_spec *s = t->spec;
    device *d = t->j->device;
    banyan_status status = device_send(d, &t->k, bytes_of(rows, s->kv_heads, s->key_dim));
    if (!status && t->v.there)
        status = device_send(d, &t->v, bytes_of(rows, s->kv_heads, s->value_dim));
    if (!status && attends)
        status = device_send(d, &t->q, bytes_of(rows, s->heads, s->key_dim));
    return status ? status : device_wait(d);
}

static banyan_status fetch_rows(run_task *t, int32_t rows)
{
    const banyan_spec *s = t->spec;
    device *d = t->j->device;
    banyan_status status = device_fetch(d, &t->out, bytes_of(rows, s->heads, s->value_dim));
    return status ? status : device_fetch(d, &t->lse, bytes_of(rows, s->heads, 1));
}

/* One layer over rows whose data are made; returns when it is done. */
static banyan_status attend_timed(run_task *t, int32_t layer, int64_t at, int32_t rows,
                                  bool attends, double *seconds)
{
    double start = now_seconds(), start_cpu = cpu_seconds();
    banyan_status status = single_attend(
        t->cache, t->sequence, layer, at, rows, attends ? t->q.there : NULL, t->k.there,
        t->v.there, attends ? t->out.there : NULL, attends ? t->lse.there : NULL);
    if (!status) status = banyan_cache_wait(t->cache);
    *seconds += now_seconds() - start;
    if (!attends) t->mine.append_cpu += cpu_seconds() - start_cpu;
    return status;
}

/* Every layer over the same rows. Returns the time in *seconds, without the making of data. */
static banyan_status call_all_layers(run_task *t, int64_t at, int32_t rows, bool attends,
                                     double *seconds)
{
    for (int32_t layer = 0; layer < t->spec->layers; layer++) {
        make_layer_rows(t, layer, at, rows, attends);
        banyan_status status = send_rows(t, rows, attends);
        if (!status && attends &&
            t->j->ranks > 1) { /* ranks begin together: making data is not waited for */
            double nothing = 0;
            status = banyan_comm_allreduce(t->j->comm, &nothing, 1, BANYAN_MAX);
        }
        if (!status) status = attend_timed(t, layer, at, rows, attends, seconds);
        if (!status && attends) status = fetch_rows(t, rows);
        if (status) return status;
        if (attends) take_rows(t, layer, at, rows);
    }
    return BANYAN_OK;
}

static banyan_status run_chunks(run_task *t, int64_t from, int64_t to, bool attends,
                                double *seconds)
{
    for (int64_t at = from; at < to; at += t->spec->max_rows) {
        int64_t rows = to - at < t->spec->max_rows ? to - at : t->spec->max_rows;
        progress(t->j, "%s %lld of %lld tokens", attends ? "prefill" : "append", (long long)at,
                 (long long)to);
        snprintf(t->step, sizeof t->step, "%s at token %" PRId64,
                 attends ? "prefill" : "append", at);
        banyan_status status = call_all_layers(t, at, (int32_t)rows, attends, seconds);
        if (status) return status;
    }
    return BANYAN_OK;
}

banyan_status run_steps(run_task *t)
{
    banyan_stats stats, before;
    banyan_cache_stats(t->cache, &before);
    banyan_status status = run_chunks(t, t->loaded, t->at, false, &t->mine.append_seconds);
    if (status) return status;
    banyan_cache_stats(t->cache, &stats);
    double block_bytes = t->spec->block_tokens * spec_token_bytes(t->spec);
    t->mine.append_bytes =
        (double)(stats.blocks + stats.evicted_blocks - before.blocks) * block_bytes;
    status = run_chunks(t, t->at, t->tokens, true, &t->mine.prefill_seconds);
    for (int32_t step = 0; !status && step < t->decode; step++) {
        progress(t->j, "decode step %d of %d", step + 1, t->decode);
        snprintf(t->step, sizeof t->step, "decode step %d of %d", step + 1, t->decode);
        status = call_all_layers(t, t->tokens + (int64_t)step * t->rows, t->rows, true,
                                 &t->step_seconds[step]);
    }
    progress_end(t->j);
    if (!status) t->step[0] = 0;
    return status;
}
