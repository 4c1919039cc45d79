/* SPDX-License-Identifier: Apache-2.0 */
/* What a row measures with: a plan of one layer, a cache, and random rows. Every call appends
 * the same random chunk of keys: they cost what any keys cost. */
#include "launch/bench/bench.h"

#include "launch/data.h"

#include <stdlib.h>

static float *make_rows_array(int32_t heads, int32_t dim, int what)
{
    size_t bytes = (size_t)SEQUENCE_CHUNK * (size_t)heads * (size_t)dim * sizeof(float);
    float *array = aligned_alloc(64, (bytes + 63) / 64 * 64);
    for (int64_t i = 0; array && i < SEQUENCE_CHUNK; i++)
        for (int32_t h = 0; h < heads; h++)
            data_row(array + (i * heads + h) * dim, 1, what, 0, i, h, dim);
    return array;
}

banyan_status sequence_open(sequence *s, const bench_row *row, int64_t tokens,
                            banyan_comm *comm, int threads)
{
    banyan_status status = BANYAN_OK;
    *s = (sequence){.row = row,
                    .tokens = tokens,
                    .comm = comm,
                    .layers = row->layers ? row->layers : 1,
                    .sequences = row->sequences ? row->sequences : 1};
    if (!comm) status = banyan_comm_create("self", NULL, &s->own_comm);
    if (status) return status;
    if (!comm) s->comm = s->own_comm;

    banyan_spec spec;
    banyan_spec_init(&spec);
    banyan_rule rule[BENCH_LAYERS] = {{.last_layer = -1, .last_head = -1, .use = row->use}};
    const int32_t first[BENCH_LAYERS] = {0};
    for (int32_t i = 0; row->layer_use && i < s->layers; i++)
        rule[i] = (banyan_rule){i, i, 0, -1, row->layer_use[i]};
    spec.layers = s->layers;
    spec.heads = row->heads;
    spec.kv_heads = row->kv_heads;
    spec.key_dim = row->key_dim;
    spec.value_dim = row->value_dim;
    spec.cache_dtype = row->dtype;
    spec.kernel = row->kernel;
    spec.max_tokens = tokens;
    spec.sequences = s->sequences;
    spec.pool_tokens = s->sequences * ((tokens + spec.block_tokens - 1) / spec.block_tokens) *
                       spec.block_tokens;
    if (row->placement) spec.placement = row->placement;
    spec.max_rows = SEQUENCE_CHUNK;
    spec.rollback_tokens = row->rows;
    spec.threads = threads;
    spec.reproducible = row->reproducible;
    const banyan_layer_shape latent = {.last_layer = -1, .value_in_key = 1};
    spec.shapes = row->value_in_key ? &latent : NULL;
    spec.shape_count = row->value_in_key ? 1 : 0;
    spec.rules = rule;
    spec.rule_count = row->layer_use ? s->layers : row->use ? 1 : 0;
    spec.cache_layer = row->layer_use ? first : NULL;
    status = banyan_plan_create(&spec, s->comm, &s->plan);
    if (status) return status;
    s->q = make_rows_array(row->heads, row->key_dim, DATA_Q);
    s->k = make_rows_array(row->kv_heads, row->key_dim, DATA_K);
    s->v = make_rows_array(row->kv_heads, row->value_dim, DATA_V);
    s->out = make_rows_array(row->heads, row->value_dim, DATA_Q);
    return banyan_comm_agree(s->comm,
                             s->q && s->k && s->v && s->out ? BANYAN_OK : BANYAN_ERR_MEMORY);
}

void sequence_close(sequence *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->out);
    banyan_cache_destroy(s->cache);
    banyan_plan_destroy(s->plan);
    banyan_comm_destroy(s->own_comm);
    *s = (sequence){0};
}

banyan_status sequence_new_cache(sequence *s)
{
    banyan_cache_destroy(s->cache);
    s->cache = NULL;
    banyan_status status = banyan_cache_create(s->plan, NULL, &s->cache);
    for (int32_t i = 0; i < s->sequences && !status; i++)
        status = banyan_sequence_create(s->cache, (uint64_t)i, &s->batch[i].sequence);
    /* One rank alone may lack a sequence, and the others would wait for its calls. */
    return s->cache ? banyan_comm_agree(s->comm, status) : status;
}

static banyan_status call_layer(sequence *s, int32_t layer, int32_t first, int32_t count,
                                int64_t at, int32_t rows, bool appends, bool attends)
{
    const bool own = !s->row->layer_use || layer == 0;
    if (!own && !attends) return BANYAN_OK;
    for (int32_t i = first; i < first + count; i++) {
        s->batch[i].at = at;
        s->batch[i].rows = rows;
    }
    return banyan_attend(s->cache, layer, &s->batch[first], count, attends ? s->q : NULL,
                         appends && own ? s->k : NULL,
                         appends && own && !s->row->value_in_key ? s->v : NULL,
                         attends ? s->out : NULL, NULL);
}

banyan_status sequence_layer(sequence *s, int32_t layer, int64_t at, int32_t rows, bool appends,
                             bool attends)
{
    return call_layer(s, layer, 0, s->sequences, at, rows, appends, attends);
}

banyan_status sequence_call(sequence *s, int64_t at, int32_t rows, bool appends, bool attends)
{
    banyan_status status = BANYAN_OK;
    for (int32_t layer = 0; layer < s->layers && !status; layer++)
        status = sequence_layer(s, layer, at, rows, appends, attends);
    return status;
}

banyan_status sequence_calls(sequence *s, int64_t at, int32_t rows, bool appends, bool attends)
{
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; i < s->sequences && !status; i++)
        for (int32_t layer = 0; layer < s->layers && !status; layer++)
            status = call_layer(s, layer, i, 1, at, rows, appends, attends);
    return status;
}

banyan_status sequence_fill(sequence *s)
{
    banyan_status status = sequence_new_cache(s);
    for (int64_t at = 0; !status && at < s->tokens; at += SEQUENCE_CHUNK) {
        int64_t left = s->tokens - at;
        status = sequence_calls(s, at, (int32_t)(left < SEQUENCE_CHUNK ? left : SEQUENCE_CHUNK),
                                true, false);
    }
    return status;
}
