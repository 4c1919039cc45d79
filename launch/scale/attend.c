/* SPDX-License-Identifier: Apache-2.0 */
/* The methods that are plans of this library. Decoding: the cache is filled once, without
 * attending, and a step is the last token's row through all layers. Prefill: a step is all
 * chunks of a fresh cache, one after another as they come, without a barrier. */
#include "launch/scale/scale.h"

#include <stdlib.h>
#include <string.h>

static bool attend_reads(const scale_case *c, int32_t kv_head)
{
    for (int32_t layer = 0; layer < c->spec->layers; layer++)
        if (banyan_plan_holds(c->plan, layer, kv_head, c->rank)) return true;
    return false;
}

/* Whose output counts: with results on all ranks, rank 0's. */
static bool is_counted_here(const scale_case *c, int32_t layer, int32_t head)
{
    if (c->spec->out == BANYAN_OUT_ALL) return c->rank == 0;
    return banyan_plan_home(c->plan, layer, head) == c->rank;
}

static banyan_status scale_call(scale_case *c, int32_t layer, int64_t at, int32_t rows,
                                bool appends, bool attends)
{
    const banyan_spec *s = c->spec;
    const int64_t row = scale_row(at);
    const float *q = c->on[SCALE_Q].there, *k = c->on[SCALE_K].there, *v = c->on[SCALE_V].there;
    if (c->q_rows > 1) q += row * s->heads * s->key_dim;
    k += row * s->kv_heads * s->key_dim;
    v += row * s->kv_heads * s->value_dim;
    return single_attend(c->cache, c->sequence, layer, at, rows, attends ? q : NULL,
                         appends ? k : NULL, appends ? v : NULL,
                         attends ? c->on[SCALE_OUT].there : NULL,
                         attends ? c->on[SCALE_LSE].there : NULL);
}

/* What the last call gave, once it is done; only watched steps look. */
static banyan_status attend_watch(scale_case *c, int32_t layer, int64_t at, int32_t rows)
{
    const banyan_spec *s = c->spec;
    device *d = c->t->j->device;
    const size_t outs = (size_t)rows * (size_t)s->heads;
    if (!c->watched) return BANYAN_OK;
    banyan_status status =
        device_fetch(d, &c->on[SCALE_OUT], outs * (size_t)s->value_dim * sizeof(float));
    if (!status) status = device_fetch(d, &c->on[SCALE_LSE], outs * sizeof(float));
    if (!status) scale_watch(c, layer, at, rows, c->out, c->lse, is_counted_here);
    return status;
}

/* All tokens, chunk by chunk; `watched` steps look at what comes out. */
static banyan_status scale_chunks(scale_case *c, bool attends)
{
    banyan_status status = BANYAN_OK;
    for (int64_t at = 0; !status && at < c->tokens; at += c->spec->max_rows) {
        int64_t left = c->tokens - at;
        int32_t rows = left < c->spec->max_rows ? (int32_t)left : c->spec->max_rows;
        for (int32_t layer = 0; !status && layer < c->spec->layers; layer++) {
            status = scale_call(c, layer, at, rows, true, attends);
            if (!status && attends) status = attend_watch(c, layer, at, rows);
        }
    }
    return status;
}

static banyan_status filled(scale_case *c)
{
    banyan_status status = scale_chunks(c, false);
    return status ? status : banyan_cache_wait(c->cache);
}

static banyan_status attend_cache(scale_case *c)
{
    return single_create_on(c->comm, c->plan, device_stream(c->t->j->device), &c->cache,
                            &c->sequence);
}

static void attend_close(scale_case *c)
{
    banyan_cache_destroy(c->cache);
    banyan_plan_destroy(c->plan);
}

static banyan_status attend_open(scale_case *c)
{
    banyan_spec s = scale_spec(c->t, c->line);
    banyan_status status = banyan_plan_create(&s, c->comm, &c->plan);
    if (status) return status;
    c->spec = banyan_plan_spec(c->plan);
    status = job_agree_on(c->t->j, c->comm, scale_fill(c, attend_reads));
    if (status || c->t->prefill) return status;
    banyan_share share;
    status = banyan_plan_share(c->plan, c->rank, 1, c->tokens - 1, &share);
    if (status) return status;
    c->kv_bytes = (double)share.read_blocks * c->spec->block_tokens *
                  (double)((c->spec->key_dim + c->spec->value_dim) *
                           (int64_t)banyan_dtype_bytes(c->spec->cache_dtype));
    status = attend_cache(c);
    return status ? status : job_agree_on(c->t->j, c->comm, filled(c));
}

static void attend_count(const scale_case *c, scale_count *sum)
{
    banyan_stats stats;
    *sum = c->ended;
    if (!c->cache) return;
    banyan_cache_stats(c->cache, &stats);
    sum->messages += (double)stats.messages;
    sum->bytes += (double)stats.bytes_sent;
    sum->pairs += (double)stats.pairs;
}

static banyan_status attend_prepare(scale_case *c)
{
    if (!c->t->prefill) return BANYAN_OK;
    scale_count sum;
    attend_count(c, &sum);
    c->ended = sum;
    banyan_cache_destroy(c->cache);
    c->cache = NULL;
    return attend_cache(c);
}

/* On a device a call returns before it is done, so that computing and merging are not told
 * apart there: what is called computing is then all of this rank's step. */
static banyan_status attend_step(scale_case *c, double *compute)
{
    const double start = now_seconds();
    banyan_stats before, after;
    banyan_cache_stats(c->cache, &before);
    banyan_status status = BANYAN_OK;
    if (c->t->prefill)
        status = scale_chunks(c, true);
    else
        for (int32_t layer = 0; !status && layer < c->spec->layers; layer++) {
            status = scale_call(c, layer, c->tokens - 1, 1, false, true);
            if (!status) status = attend_watch(c, layer, c->tokens - 1, 1);
        }
    if (!status) status = banyan_cache_wait(c->cache);
    banyan_cache_stats(c->cache, &after);
    if (c->t->j->device->row->memory->is_apart)
        *compute += now_seconds() - start;
    else
        *compute += after.attend_seconds - before.attend_seconds + after.append_seconds -
                    before.append_seconds;
    return status;
}

static banyan_status attend_predict(scale_case *c, double *seconds)
{
    *seconds = predict_step(c->plan, c->t->machine, c->line->ranks,
                            scale_together(c->t, c->line), c->tokens, c->t->prefill);
    return BANYAN_OK;
}

const scale_runner scale_attend = {.open = attend_open,
                                   .prepare = attend_prepare,
                                   .step = attend_step,
                                   .count = attend_count,
                                   .predict = attend_predict,
                                   .close = attend_close};
