/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to q and k between the matrices and attention, by the ranks that hold them,
 * where heads are whole: their norm (Qwen3's and Gemma's), then rotation. */
#include "launch/model/runner.h"

static void prepare(const model *m, int32_t layer, const norm *n, float *x, int32_t heads,
                    int64_t row)
{
    int32_t dim = m->shape.head_dim, which = m->is.layer[layer].rope;
    if (n->weight) rows_norm(x, heads, dim, n, m->is.norm, m->shape.norm_eps, x);
    if (which < 0) return;
    int32_t pairs = m->rope[which].pairs;
    rope_turn(x, heads, dim, pairs, m->work.turn[which] + row * 2 * pairs);
}

void heads_prepare(model *m, int32_t cache_layer, const chunk *c)
{
    const int32_t layer = layer_of(m, cache_layer);
    const struct layer *l = &m->layer[layer];
    int32_t dim = m->shape.head_dim, group = m->shape.heads / m->shape.kv_heads;
    int64_t size = m->block_tokens, first = c->at / size, room = m->max_rows / size + 2;
    for (int32_t g = 0; g < m->shape.kv_heads; g++) {
        if (!banyan_plan_holds(m->plan, cache_layer, g, m->rank)) continue;
        for (int64_t row = 0; row < c->rows; row++) {
            int64_t wanted = row - (c->rows - c->wanted);
            if (m->work.owner[g * room + (c->at + row) / size - first] == m->rank)
                prepare(m, layer, &l->k_norm, m->work.k + (row * m->shape.kv_heads + g) * dim,
                        1, row);
            if (wanted >= 0)
                prepare(m, layer, &l->q_norm,
                        m->work.q + (wanted * m->shape.heads + g * group) * dim, group, row);
        }
    }
}
