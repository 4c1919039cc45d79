/* SPDX-License-Identifier: Apache-2.0 */
/* decode_entry.h - the way from a batch to a kernel's instance. */
#ifndef BANYAN_ATTENTION_CUDA_DECODE_ENTRY_H
#define BANYAN_ATTENTION_CUDA_DECODE_ENTRY_H

#include "attention/cuda/decode.h"
#include "attention/cuda/decode_tile.h"
#include "attention/cuda/ptx.h"

template <int VALUE> struct decode_number {
    enum { value = VALUE };
};

/* start(block, tiles, queue, plan) launches the instance for these. */
template <typename B, typename Start>
static cudaError_t decode_start(banyan_queue *queue, const decode_plan *plan, Start start)
{
    if (plan->most_vectors <= 16) return start(B(), decode_number<1>(), queue, plan);
    return start(B(), decode_number<2>(), queue, plan);
}
template <int DIM, typename Start>
static cudaError_t decode_start_dim(banyan_queue *queue, const decode_plan *plan,
                                    banyan_dtype dtype, Start start)
{
    if (dtype == BANYAN_BF16)
        return decode_start<decode16<__nv_bfloat16, DIM>>(queue, plan, start);
    if (dtype == BANYAN_F16) return decode_start<decode16<__half, DIM>>(queue, plan, start);
    return decode_start<decode8<DIM>>(queue, plan, start);
}

template <typename Start>
static const char *decode_run(banyan_queue *queue, const banyan_batch *batch, Start start)
{
    if (batch->strips == 0) return NULL;
    decode_plan plan;
    const char *failed = decode_prepare(queue, batch, queue->multiprocessors, &plan);
    if (failed) return failed;
    const banyan_block_shape *const shape = &batch->shape;
    const cudaError_t error = shape->key_dim == 64
                                  ? decode_start_dim<64>(queue, &plan, shape->dtype, start)
                                  : decode_start_dim<128>(queue, &plan, shape->dtype, start);
    failed = cuda_failed(error, "starting a decode");
    return failed ? failed : decode_combine(queue, batch, &plan);
}

#endif
