/* SPDX-License-Identifier: Apache-2.0 */
/* The runner's calls of banyan_attend, the only ones in launch/model. */
#include "launch/model/runner.h"

static size_t float_bytes(int64_t rows, int64_t width)
{
    return (size_t)(rows * width) * sizeof(float);
}

/* q, k and v, as the host has them now, to the device. */
static banyan_status send_heads(model *m, const chunk *c)
{
    device_array *on = m->work.on;
    int64_t kv_width = (int64_t)m->shape.kv_heads * m->shape.head_dim;
    int64_t width = (int64_t)m->shape.heads * m->shape.head_dim;
    banyan_status status = device_send(m->device, &on[ON_K], float_bytes(c->rows, kv_width));
    if (!status) status = device_send(m->device, &on[ON_V], float_bytes(c->rows, kv_width));
    if (!status && c->wanted > 0)
        status = device_send(m->device, &on[ON_Q], float_bytes(c->wanted, width));
    return device_result(m, status);
}

static banyan_status fetch_heads(model *m, int32_t rows, bool with_mass)
{
    device_array *on = m->work.on;
    int32_t heads = m->shape.heads;
    int64_t width = (int64_t)heads * m->shape.head_dim;
    banyan_status status = device_fetch(m->device, &on[ON_OUT], float_bytes(rows, width));
    if (!status) status = device_fetch(m->device, &on[ON_LSE], float_bytes(rows, heads));
    if (!status && with_mass)
        status = device_fetch(m->device, &on[ON_MASS], float_bytes(rows, heads));
    return device_result(m, status);
}

/* The calls of one layer: rows that only append, then those that attend. */
banyan_status attend_run(model *m, int32_t layer, const chunk *c, const model_probe *probe)
{
    device_array *on = m->work.on;
    int32_t skip = c->rows - c->wanted;
    int64_t kv = skip * (int64_t)m->shape.kv_heads * m->shape.head_dim;
    const float *k = on[ON_K].there, *v = on[ON_V].there;
    bool with_mass = probe && probe->mass;
    if (dual_is_on(m, c)) return dual_attend(m, layer, c, probe);
    banyan_status status = send_heads(m, c);
    if (!status && skip > 0)
        status =
            single_attend(m->cache, m->sequence, layer, c->at, skip, NULL, k, v, NULL, NULL);
    /* the host writes k and v again when this returns */
    if (status || c->wanted == 0) return status ? status : banyan_cache_wait(m->cache);
    const banyan_range range = {with_mass ? probe->first_token : 0,
                                with_mass ? probe->first_token + probe->token_count : 0};
    const banyan_rows part = {.sequence = m->sequence,
                              .at = c->at + skip,
                              .rows = c->wanted,
                              .probes = &range,
                              .probe_count = with_mass ? 1 : 0,
                              .mass = with_mass ? on[ON_MASS].there : NULL};
    if (!status)
        status = banyan_attend(m->cache, layer, &part, 1, on[ON_Q].there, k + kv, v + kv,
                               on[ON_OUT].there, on[ON_LSE].there);
    if (!status) status = banyan_cache_wait(m->cache);
    return status ? status : fetch_heads(m, c->wanted, with_mass);
}
