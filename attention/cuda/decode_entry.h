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

template <int DIM, typename Use>
static cudaError_t decode_with_dim(banyan_dtype dtype, int vectors, Use use)
{
    const auto with = [&](auto block) {
        return vectors <= 16 ? use(block, decode_number<1>()) : use(block, decode_number<2>());
    };
    if (dtype == BANYAN_BF16) return with(decode16<__nv_bfloat16, DIM>());
    return dtype == BANYAN_F16 ? with(decode16<__half, DIM>()) : with(decode8<DIM>());
}
/* use(block, tiles): what the instance for these shapes is made of. */
template <typename Use>
static cudaError_t decode_with(const banyan_block_shape &shape, int vectors, Use use)
{
    return shape.key_dim == 64 ? decode_with_dim<64>(shape.dtype, vectors, use)
                               : decode_with_dim<128>(shape.dtype, vectors, use);
}

/* prepare(block, tiles) makes an instance ready: both that may be asked for. */
template <typename Prepare>
static const char *decode_open(const banyan_queue *queue, Prepare prepare)
{
    cudaError_t error = decode_with(queue->limits.shape, 1, prepare);
    if (error == cudaSuccess)
        error = decode_with(queue->limits.shape, CUDA_DECODE_VECTORS, prepare);
    return cuda_failed(error, "loading the decode");
}

/* start(block, tiles, plan) launches an instance. */
template <typename Start>
static const char *decode_run(banyan_queue *queue, const banyan_batch *batch, Start start)
{
    if (batch->strips == 0) return NULL;
    decode_plan plan;
    const char *failed = decode_prepare(queue, batch, queue->multiprocessors, &plan);
    if (failed) return failed;
    const auto with = [&](auto block, auto tiles) { return start(block, tiles, &plan); };
    failed =
        cuda_failed(decode_with(batch->shape, plan.most_vectors, with), "starting a decode");
    return failed ? failed : decode_combine(queue, batch, &plan);
}

#endif
