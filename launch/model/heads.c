/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to q and k between the matrices and attention, by the ranks that hold them,
 * where heads are whole: their norm (Qwen3's and Gemma's), then rotation. */
#include "launch/model/runner.h"

/* Norm and rotation of `heads` heads from `x` on, in rows from the chunk's `row` on. */
static step_heads heads_from(const model *m, int32_t layer, const norm *n, float *x,
                             int32_t heads, int64_t row, int64_t rows, int64_t stride)
{
    const int32_t which = m->is.layer[layer].rope;
    const int32_t pairs = which < 0 ? 0 : m->rope[which].pairs;
    return (step_heads){
        .x = x,
        .rows = rows,
        .stride = stride,
        .heads = heads,
        .dim = m->shape.head_dim,
        .pairs = pairs,
        .norm = norm_step(m, n),
        .turn = which < 0 ? NULL : m->work.turn[which] + row * 2 * pairs,
    };
}

static void run_heads(const model *m, const step_heads *h)
{
    if (h->norm.weight || h->turn) m->step->heads(m->device->own, h);
}

/* The query heads of KV heads g .. end-1. Dual chunk attention takes what is not turned yet. */
static void prepare_queries(model *m, int32_t layer, const chunk *c, int32_t g, int32_t end)
{
    const int32_t group = m->shape.heads / m->shape.kv_heads, dim = m->shape.head_dim;
    const int64_t skip = c->rows - c->wanted, stride = (int64_t)m->shape.heads * dim;
    const int32_t first = g * group, heads = (end - g) * group;
    step_heads q = heads_from(m, layer, &m->layer[layer].q_norm,
                              m->work.q + (int64_t)first * dim, heads, skip, c->wanted, stride);
    if (c->wanted == 0) return;
    if (dual_is_on(m, c)) {
        step_heads normed = q;
        normed.turn = NULL;
        run_heads(m, &normed);
        q.norm.weight = NULL;
        for (int64_t row = skip; row < c->rows; row++)
            dual_turn_queries(m, row, row - skip, first, heads);
    }
    run_heads(m, &q);
}

/* The rows of KV head g's keys that this rank keeps, in runs of blocks. */
static void prepare_keys(model *m, int32_t layer, const chunk *c, int32_t g)
{
    const int64_t size = m->block_tokens, first = c->at / size;
    const int64_t stride = (int64_t)m->shape.kv_heads * m->shape.head_dim;
    const int32_t *owner = m->work.owner + g * (m->max_rows / size + 2);
    for (int64_t row = 0, end; row < c->rows; row = end) {
        const bool is_mine = owner[(c->at + row) / size - first] == m->rank;
        for (end = row;
             end < c->rows && (owner[(c->at + end) / size - first] == m->rank) == is_mine;)
            end = smaller64(((c->at + end) / size + 1) * size - c->at, c->rows);
        if (!is_mine) continue;
        float *k = m->work.k + row * stride + (int64_t)g * m->shape.head_dim;
        const step_heads run =
            heads_from(m, layer, &m->layer[layer].k_norm, k, 1, row, end - row, stride);
        run_heads(m, &run);
    }
}

/* All rows of some KV heads' keys in one step of a device. Rows that other ranks keep are
 * turned too, for nobody: that is less than a launch for each run of blocks. */
static void prepare_all_keys(model *m, int32_t layer, const chunk *c, int32_t g, int32_t end)
{
    const int64_t dim = m->shape.head_dim;
    const step_heads all = heads_from(m, layer, &m->layer[layer].k_norm, m->work.k + g * dim,
                                      end - g, 0, c->rows, m->shape.kv_heads * dim);
    run_heads(m, &all);
}

void heads_prepare(model *m, int32_t cache_layer, const chunk *c)
{
    const int32_t layer = layer_of(m, cache_layer);
    for (int32_t g = 0, end; g < m->shape.kv_heads; g = end) {
        end = g + 1;
        if (!banyan_plan_holds(m->plan, cache_layer, g, m->rank)) continue;
        while (end < m->shape.kv_heads && banyan_plan_holds(m->plan, cache_layer, end, m->rank))
            end++;
        prepare_queries(m, layer, c, g, end);
        if (on_device(m)) prepare_all_keys(m, layer, c, g, end);
        for (int32_t k = g; !on_device(m) && k < end; k++) prepare_keys(m, layer, c, k);
    }
}
