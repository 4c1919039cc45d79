/* SPDX-License-Identifier: Apache-2.0 */
/* The runner's calls of banyan_attend, the only ones in launch/model. */
#include "launch/model/runner.h"

/* The calls of one layer: rows that only append, then those that attend. On a device they are
 * queued behind what made q, k and v. */
banyan_status attend_run(model *m, int32_t layer, const chunk *c, const model_probe *probe)
{
    const workspace *w = &m->work;
    int32_t skip = c->rows - c->wanted;
    int64_t kv = skip * (int64_t)m->shape.kv_heads * m->shape.head_dim;
    bool with_mass = probe && probe->mass;
    banyan_status status = BANYAN_OK;
    if (dual_is_on(m, c)) return dual_attend(m, layer, c, probe);
    if (skip > 0)
        status = single_attend(m->cache, m->sequence, layer, c->at, skip, NULL, w->k, w->v,
                               NULL, NULL);
    if (status || c->wanted == 0) return status;
    const banyan_range range = {with_mass ? probe->first_token : 0,
                                with_mass ? probe->first_token + probe->token_count : 0};
    const banyan_rows part = {.sequence = m->sequence,
                              .at = c->at + skip,
                              .rows = c->wanted,
                              .probes = &range,
                              .probe_count = with_mass ? 1 : 0,
                              .mass = with_mass ? w->on[ON_MASS].there : NULL};
    return banyan_attend(m->cache, layer, &part, 1, w->q, w->k + kv, w->v + kv, w->out,
                         w->on[ON_LSE].there);
}
