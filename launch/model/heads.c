/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to q and k between the matrices and attention, by the ranks that hold them,
 * where heads are whole: their norm (Qwen3's and Gemma's), then rotation. */
#include "launch/model/runner.h"

static void turn_heads(const model *m, int32_t layer, float *x, int32_t heads, int64_t row)
{
    const int32_t which = m->is.layer[layer].rope;
    if (which < 0) return;
    const int32_t pairs = m->rope[which].pairs;
    rope_turn(x, heads, m->shape.head_dim, pairs, m->work.turn[which] + row * 2 * pairs);
}

static void norm_heads(const model *m, const norm *n, float *x, int32_t heads)
{
    if (n->weight) rows_norm(x, heads, m->shape.head_dim, n, m->is.norm, m->shape.norm_eps, x);
}

/* The query heads of a KV head. */
static void prepare_queries(model *m, int32_t layer, const chunk *c, int32_t kv_head,
                            int64_t row)
{
    const int32_t group = m->shape.heads / m->shape.kv_heads;
    const int64_t wanted = row - (c->rows - c->wanted), head = (int64_t)kv_head * group;
    float *q = m->work.q + (wanted * m->shape.heads + head) * m->shape.head_dim;
    norm_heads(m, &m->layer[layer].q_norm, q, group);
    if (dual_is_on(m, c)) dual_turn_queries(m, row, wanted, (int32_t)head, group);
    turn_heads(m, layer, q, group, row);
}

void heads_prepare(model *m, int32_t cache_layer, const chunk *c)
{
    const int32_t layer = layer_of(m, cache_layer), dim = m->shape.head_dim;
    int64_t size = m->block_tokens, first = c->at / size, room = m->max_rows / size + 2;
    for (int32_t g = 0; g < m->shape.kv_heads; g++) {
        if (!banyan_plan_holds(m->plan, cache_layer, g, m->rank)) continue;
        for (int64_t row = 0; row < c->rows; row++) {
            if (m->work.owner[g * room + (c->at + row) / size - first] == m->rank) {
                float *k = m->work.k + (row * m->shape.kv_heads + g) * dim;
                norm_heads(m, &m->layer[layer].k_norm, k, 1);
                turn_heads(m, layer, k, 1, row);
            }
            if (row >= c->rows - c->wanted) prepare_queries(m, layer, c, g, row);
        }
    }
}
