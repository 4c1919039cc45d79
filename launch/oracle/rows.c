/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of `run`, as the oracle sees them: made anew from the seed, and rounded as the cache
 * rounds. */
#include "launch/oracle/oracle.h"

#include "launch/data.h"
#include "launch/launch.h"

static void make(const oracle_task *t, int what, int32_t layer, int64_t token, int32_t head,
                 int32_t dim, float *out)
{
    if (t->period)
        data_row(out, t->seed, what, 0, token % t->period, head, dim);
    else
        data_row(out, t->seed, what, layer, token, head, dim);
}

static void make_cached(const oracle_task *t, int what, int32_t layer, int64_t token,
                        int32_t head, int32_t dim, float *out)
{
    make(t, what, layer, token, head, dim, out);
    if (t->spec->cache_dtype == BANYAN_BF16) data_round_bf16(out, dim);
    if (t->spec->cache_dtype == BANYAN_F16) data_round_f16(out, dim);
    if (t->spec->cache_dtype == BANYAN_E4M3) data_round_e4m3(out, dim);
}

void oracle_query(const oracle_task *t, int32_t layer, int64_t token, int32_t head, float *q)
{
    make(t, DATA_Q, layer, token, head, t->spec->key_dim, q);
}

void oracle_key(const oracle_task *t, int32_t layer, int64_t token, int32_t kv_head, float *k)
{
    make_cached(t, DATA_K, layer, token, kv_head, t->spec->key_dim, k);
}

void oracle_value(const oracle_task *t, int32_t layer, int64_t token, int32_t kv_head, float *v)
{
    make_cached(t, spec_value_in_key(t->spec) ? DATA_K : DATA_V, layer, token, kv_head,
                t->spec->value_dim, v);
}
