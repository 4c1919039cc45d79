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

template <int HEIGHT, int DIM, typename Use>
static cudaError_t decode_with_dim(banyan_dtype dtype, int vectors, Use use)
{
    const auto with = [&](auto block) {
        return vectors <= 16 ? use(block, decode_number<1>()) : use(block, decode_number<2>());
    };
    if (dtype == BANYAN_BF16) return with(decode16<__nv_bfloat16, DIM, HEIGHT>());
    return dtype == BANYAN_F16 ? with(decode16<__half, DIM, HEIGHT>())
                               : with(decode8<DIM, HEIGHT>());
}
/* use(block, tiles): what the instance for these shapes is made of. */
template <int HEIGHT, typename Use>
static cudaError_t decode_with_height(const banyan_block_shape &shape, int vectors, Use use)
{
    if (shape.key_dim == 64) return decode_with_dim<HEIGHT, 64>(shape.dtype, vectors, use);
    return shape.key_dim == 96 ? decode_with_dim<HEIGHT, 96>(shape.dtype, vectors, use)
                               : decode_with_dim<HEIGHT, 128>(shape.dtype, vectors, use);
}
template <typename Use>
static cudaError_t decode_with(const banyan_block_shape &shape, int vectors, Use use)
{
    return record_tokens(shape.block_tokens) == 32
               ? decode_with_height<32>(shape, vectors, use)
               : decode_with_height<64>(shape, vectors, use);
}

/* prepare(block, tiles) makes an instance ready: both that may be asked for. */
template <typename Prepare>
static const char *decode_open(const banyan_queue *queue, Prepare prepare)
{
    cudaError_t error = cudaSuccess;
    for (int dim = 64; dim <= queue->limits.shape.key_dim && error == cudaSuccess; dim += 32) {
        if (!record_has_dim(dim)) continue;
        banyan_block_shape shape = queue->limits.shape;
        shape.key_dim = shape.value_dim = dim;
        error = decode_with(shape, 1, prepare);
        if (error == cudaSuccess) error = decode_with(shape, CUDA_DECODE_VECTORS, prepare);
    }
    return cuda_failed(error, "loading the decode");
}

/* start(block, tiles, plan) launches an instance. */
template <typename Start>
static const char *decode_run(banyan_queue *queue, const banyan_batch *batch, Start start)
{
    struct context {
        const banyan_batch *batch;
        const Start *start;
    } context = {batch, &start};
    const auto one = [](void *ctx, const decode_plan *plan) {
        const struct context *const c = (const struct context *)ctx;
        const auto with = [=](auto block, auto tiles) {
            return (*c->start)(block, tiles, plan);
        };
        return cuda_failed(decode_with(c->batch->shape, plan->call.stride, with),
                           "starting a decode");
    };
    return decode_launches(queue, batch, CUDA_DECODE_VECTORS, one, &context);
}

#endif
