/* SPDX-License-Identifier: Apache-2.0 */
/* Attention with fixed-point sums (spec.reproducible), of any number of query vectors, by
 * instructions that every GPU from 8.0 on has. The theory is in attention/fixed.c.
 *
 * The unit is a block: its weights are relative to its own largest score, and its o and l
 * become integers before anything of another block meets them. So what a list adds up to does
 * not depend on where it is cut, by multiprocessors or by ranks, and a row's sum is the same in
 * any company.
 *
 * A thread block has 16 vectors (decode.cu cuts strips of more) and a warp for each 32 dims of
 * their values:
 *
 *     scores    each warp all of them, 16 x 64, in registers
 *     weights   likewise; l is the same in all warps
 *     o         16 x 32 of one block, in fp32; the largest number of a row is found by all
 *               warps
 *     bins      o in units of 2^(16 (n + j) - 41), added to the row's bin n + j
 *
 * Scores are computed by every warp again, which costs a decode little (it waits for memory)
 * and a prefill twice the products that it needs: what is asked for here are the bits. A list
 * is read 1 to 4 records ahead, as many as the GPU has room for. */
#include "attention/cuda/exact_rows.h"
#include "attention/cuda/launch.h"

/* Until all but the last `ahead` groups of copies are there. */
PTX_FN void wait_ahead(int ahead)
{
    if (ahead == 0)
        async_wait<0>();
    else if (ahead == 1)
        async_wait<1>();
    else if (ahead == 2)
        async_wait<2>();
    else
        async_wait<3>();
}

template <typename B>
PTX_FN void read_exact_list(const decode_call &call, int stages, const cuda_portion &portion,
                            const banyan_strip *strip, exact_rows &rows)
{
    typedef exact_plan<B> P;
    const int lane = (int)threadIdx.x % 32;
    const uint32_t ring = shared_address(dynamic_shared()) + P::STAGES_AT;
    const banyan_table_of_blocks table = staged(call, call.table, strip->table);
    const unsigned char *const records = (const unsigned char *)table.records;
    const auto bring = [=](int i, const decode_entry &entry) {
        const unsigned char *const from = records + (int64_t)entry.record * B::RECORD;
        const uint32_t to = ring + (uint32_t)(i % stages) * B::RECORD;
        for (int at = 16 * (int)threadIdx.x; i < portion.count && at < B::RECORD;
             at += 16 * P::THREADS)
            async_copy16(to + (uint32_t)at, from + at);
        async_commit();
    };
    decode_ahead ahead;
    ahead.cursor = decode_cursor{&staged(call, call.span, strip->first_span), table.slot, 0};
    ahead.now = ahead_entry(portion, ahead.cursor, lane);
    ahead.next = ahead_entry(portion, ahead.cursor, 32 + lane);
    for (int i = 0; i < stages - 1; i++) bring(i, pick(ahead, 0, i));
    put_wide_q<B, B::DIM, exact_plan<B>::ROWS, exact_plan<B>::WARPS>(
        call, strip, exact_notes_of_block<B>().factor);
    for (int i = 0; i < portion.count; i++) {
        const int more = i + stages - 1;
        if (i && i % 32 == 0) {
            ahead.now = ahead.next;
            ahead.next = ahead_entry(portion, ahead.cursor, i + 32 + lane);
        }
        bring(more,
              pick(ahead, i, more)); /* to the stage that was read before the last barrier */
        wait_ahead(stages - 1);
        __syncthreads(); /* of all of them, and q is there */
        read_exact<B>(call, strip, pick(ahead, i, i), rows,
                      ring + (uint32_t)(i % stages) * B::RECORD);
    }
    async_wait<0>();
}

template <typename B>
__global__ void __launch_bounds__(exact_plan<B>::THREADS, 1)
    attend_exact(const __grid_constant__ decode_call call, int stages)
{
    const int first = staged(call, call.first_portion, blockIdx.x);
    const int end = staged(call, call.first_portion, blockIdx.x + 1);
    for (int i = first; i < end; i++) {
        const cuda_portion portion = staged(call, call.portion, i);
        const banyan_strip *const strip = &staged(call, call.strip, portion.tile);
        exact_rows rows;
        begin_exact<B>(strip, rows);
        read_exact_list<B>(call, stages, portion, strip, rows);
        store_exact<B>(call, strip, portion.partial, rows);
        __syncthreads(); /* before q, notes and stages are written again */
    }
}

/* ---- host -------------------------------------------------------------------------------- */

template <typename B> struct exact_instance {
    typedef exact_plan<B> plan;
    static size_t shared_bytes(const banyan_queue *queue)
    {
        return plan::STAGES_AT + (size_t)plan::stages_in(queue->block_room) * B::RECORD;
    }
    static cudaError_t prepare(const banyan_queue *queue)
    {
        return cuda_prepare(attend_exact<B>, shared_bytes(queue));
    }
    static cudaError_t start(const banyan_queue *queue, const decode_plan *p)
    {
        const cuda_shape shape = {dim3((unsigned)p->workers), dim3(plan::THREADS),
                                  shared_bytes(queue), queue->stream, false};
        return cuda_launch(shape, attend_exact<B>, p->call, plan::stages_in(queue->block_room));
    }
};

/* use(instance) of the one for a shape. */
template <int DIM, typename Use> static cudaError_t with_dim(banyan_dtype dtype, Use use)
{
    if (dtype == BANYAN_BF16) return use(exact_instance<exact16<__nv_bfloat16, DIM>>());
    return dtype == BANYAN_F16 ? use(exact_instance<exact16<__half, DIM>>())
                               : use(exact_instance<exact8<DIM>>());
}
template <typename Use> static cudaError_t with_exact(int dim, banyan_dtype dtype, Use use)
{
    if (dim == 64) return with_dim<64>(dtype, use);
    if (dim == 96) return with_dim<96>(dtype, use);
    return dim == 128 ? with_dim<128>(dtype, use) : with_dim<256>(dtype, use);
}

const char *banyan_cuda_attend_exact(banyan_queue *queue, const banyan_batch *batch)
{
    struct exact_context {
        const banyan_queue *queue;
        const banyan_batch *batch;
    } context = {queue, batch};
    const auto start = [](void *ctx, const decode_plan *plan) {
        const struct exact_context *const c = (const struct exact_context *)ctx;
        const banyan_block_shape *const shape = &c->batch->shape;
        return cuda_failed(with_exact(shape->key_dim, shape->dtype,
                                      [=](auto one) { return one.start(c->queue, plan); }),
                           "starting attention with fixed-point sums");
    };
    return decode_launches(queue, batch, CUDA_EXACT_VECTORS, start, &context);
}

const char *cuda_exact_open(banyan_queue *queue)
{
    static const int dims[] = {64, 96, 128, 256};
    const banyan_block_shape *const shape = &queue->limits.shape;
    if (!queue->limits.exact) return NULL;
    cudaError_t error = cudaDeviceGetAttribute(
        &queue->block_room, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue->device);
    for (int i = 0; i < 4 && dims[i] <= shape->key_dim && error == cudaSuccess; i++)
        error = with_exact(dims[i], shape->dtype, [=](auto one) { return one.prepare(queue); });
    return cuda_failed(error, "loading the attention with fixed-point sums");
}
