/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of a block once it is full, and what queries are to it, in float64: for
 * those who choose by it (pick.c, pooled.c). */
#include "dist/cache.h"

void banyan_plain_keys(const banyan_cache *c, const banyan_shape *shape, const void *record,
                       int32_t rows, const banyan_worker *worker)
{
    const banyan_block_shape *block = &shape->block;
    const banyan_plain plain = {.k = worker->plain_k, .v = worker->plain_v};
    c->plan->kernel->unpack(block, record, rows, &plain);
    banyan_to_float(worker->keys, plain.k, block->dtype, (int64_t)rows * shape->key_dim);
}

void banyan_summarise(const banyan_cache *c, const banyan_kind *kind, void *record,
                      const banyan_worker *worker)
{
    if (!banyan_is_summarised(kind)) return;
    banyan_plain_keys(c, &kind->shape, record, kind->shape.block.block_tokens, worker);
    for (int32_t i = 0; i < BANYAN_SUMMARIES; i++)
        if (kind->summary_at[i])
            banyan_summary_row(i)->make(
                worker->keys, kind->shape.block.block_tokens, kind->shape.key_dim,
                (float *)(void *)((char *)record + kind->summary_at[i]));
}

void banyan_add_queries(const banyan_cache *c, const banyan_call *call, int32_t dim,
                        int64_t first, int32_t rows, int32_t head, double *sum)
{
    const banyan_spec *spec = &c->plan->spec;
    const size_t bytes = banyan_dtype_bytes(spec->in_dtype);
    float row[BANYAN_MAX_DIM];
    for (int32_t r = 0; r < rows; r++) {
        const int64_t at = ((first + r) * spec->heads + head) * dim;
        banyan_to_float(row, (const char *)call->q + (size_t)at * bytes, spec->in_dtype, dim);
        for (int32_t d = 0; d < dim; d++) sum[d] += (double)row[d];
    }
}
