/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of heads too wide for a warp's registers, of any number of query vectors, by
 * instructions that every GPU from 8.0 on has.
 *
 * The vectors of a strip go in 1 tile of 16, or in 4 (decode.cu cuts strips of more than 64). q
 * is in shared memory, and so are weights; the sums o are in registers, each warp having all
 * vectors and some of the dims. A list is read in steps, of 32 tokens or (e4m3) a whole record,
 * for each of which
 *
 *     scores    a warp has one tile of vectors and some of the tokens, all dims; the largest of
 *               each row goes to shared memory, where all warps find their row's
 *     weights   take the place of keys in the step's own memory
 *     values    a warp has all vectors and its dims, all tokens
 *
 *     q [16 TILES][key]     step: keys [tokens][key]     values [tokens][value]
 *                                 -> weights [16 TILES][tokens]
 *
 * so that each number of a record is brought once, and each value read from shared memory once.
 * With 1 tile or with 4 a vector's bits are the same: its weights are summed up by quarters of
 * a step. Scores are in base 2 and narrow formats are kept in their range as in decode_rows.h
 * and decode_tile.h. */
#include "attention/cuda/decode.h"
#include "attention/cuda/launch.h"
#include "attention/cuda/wide_rows.h"

/* ---- a list ------------------------------------------------------------------------------ */

/* Until all but the last stages - 2 groups of copies are there. */
PTX_FN void wait_step(int stages)
{
    if (stages == 2)
        async_wait<0>();
    else if (stages == 3)
        async_wait<1>();
    else
        async_wait<2>();
}

template <typename B, int TILES>
PTX_FN void read_wide_list(const decode_call &call, int stages, const cuda_portion &portion,
                           const banyan_strip *strip, wide_rows<B, TILES> &rows)
{
    typedef wide_plan<B, TILES> P;
    const int EACH = B::TOKENS / B::STEP, steps = portion.count * EACH; /* steps of a record */
    const int lane = (int)threadIdx.x % 32;
    const uint32_t ring = shared_address(dynamic_shared()) + P::STAGES_AT;
    const banyan_table_of_blocks table = staged(call, call.table, strip->table);
    const unsigned char *const records = (const unsigned char *)table.records;
    const auto bring = [=](int i, int stage, const decode_entry &entry) {
        if (i < steps)
            bring_step<B, TILES>(ring + stage * B::BYTES,
                                 records + (int64_t)entry.record * B::RECORD, i % EACH);
        async_commit();
    };
    decode_ahead ahead;
    ahead.cursor = decode_cursor{&staged(call, call.span, strip->first_span), table.slot, 0};
    ahead.now = ahead_entry(portion, ahead.cursor, lane);
    ahead.next = ahead_entry(portion, ahead.cursor, 32 + lane);
    for (int i = 0; i < stages - 1; i++) bring(i, i, pick(ahead, 0, i / EACH));
    put_wide_q<B, B::KEY, wide_plan<B, TILES>::ROWS, wide_plan<B, TILES>::WARPS>(
        call, strip, notes_of_block<B, TILES>().factor);
    int stage = 0, filled = stages - 1;
    for (int i = 0; i < steps; i++) {
        const int block = i / EACH, more = i + stages - 1;
        if (i && i % (32 * EACH) == 0) {
            ahead.now = ahead.next;
            ahead.next = ahead_entry(portion, ahead.cursor, block + 32 + lane);
        }
        wait_step(stages);
        __syncthreads(); /* of all of them; and all are done with the stage to be filled */
        bring(more, filled, pick(ahead, block, more / EACH));
        read_step<B, TILES>(call, strip, pick(ahead, block, block), rows,
                            ring + stage * B::BYTES, i % EACH * B::STEP);
        filled = stage; /* what was read last is filled next */
        stage = stage + 1 < stages ? stage + 1 : 0;
    }
}

/* To scratch, or as the result: each warp its dims of all vectors. */
template <typename B, int TILES>
PTX_FN void store_wide(const decode_call &call, const banyan_strip *strip, int partial,
                       const wide_rows<B, TILES> &rows)
{
    typedef wide_plan<B, TILES> P;
    const int lane = (int)threadIdx.x % 32, VALUE = B::VALUE;
    const wide_notes<B, TILES> notes = notes_of_block<B, TILES>();
    cuda_results results = call.results;
    results.partial = carried_at(call.carried, results.partial);
#pragma unroll
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < P::SUMS; i++) {
            const float l = quad_sum(rows.l[i][r]);
            const int quarter = wide_warp() / TILES * P::SUMS + i;
            if (lane % 4 == 0) notes.most[quarter * P::ROWS + own_row<TILES>(r, lane)] = l;
        }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int vector = t * 16 + r * 8 + lane / 4;
            if (vector >= vectors_of(strip)) continue;
            const float shift = exp2_fast(-B::shift()), unit = shift * rows.unit[t][r];
            const float m = rows.m[t][r] * 0.69314718055994530942f;
            float l = 0;
            for (int i = 0; i < 4; i++) l += notes.most[i * P::ROWS + vector];
            l *= shift;
            const float scale = l == 0 ? 0 : 1 / l;
            const int head = head_of(strip, vector), row = row_of(strip, vector);
            float *const to =
                call.scratch + ((int64_t)partial * call.stride + vector) * (VALUE + 2);
#pragma unroll
            for (int i = 0; i < P::DIMS / 4; i++) {
                const int d = wide_warp() * P::DIMS + i / 2 * 8 + lane % 4 * 2 + i % 2;
                const float o = rows.o[t][i / 2][2 * r + i % 2] * (B::IS_SCALED ? unit : shift);
                if (partial >= 0)
                    to[d] = o;
                else
                    result_number<VALUE>(results, head, row, d, o, scale);
            }
            if (threadIdx.x >= 32 || lane % 4) continue;
            if (partial >= 0) {
                to[VALUE] = m;
                to[VALUE + 1] = l;
            } else {
                result_sums<VALUE>(results, head, row, m, l);
            }
        }
}

template <typename B, int TILES>
__global__ void __launch_bounds__(wide_plan<B, TILES>::THREADS, 1)
    attend_wide(const __grid_constant__ decode_call call, int stages)
{
    launch_next();
    launch_wait();
    const int first = staged(call, call.first_portion, blockIdx.x);
    const int end = staged(call, call.first_portion, blockIdx.x + 1);
    for (int i = first; i < end; i++) {
        const cuda_portion portion = staged(call, call.portion, i);
        const banyan_strip *const strip = &staged(call, call.strip, portion.tile);
        wide_rows<B, TILES> rows;
        begin_wide(strip, rows);
        read_wide_list<B, TILES>(call, stages, portion, strip, rows);
        store_wide(call, strip, portion.partial, rows);
        __syncthreads(); /* before q, notes and stages are written again */
    }
}

/* ---- host -------------------------------------------------------------------------------- */

template <typename B, int TILES> struct wide_instance {
    typedef wide_plan<B, TILES> plan;
    static size_t shared_bytes(const banyan_queue *queue)
    {
        return plan::STAGES_AT + (size_t)plan::stages_in(queue->block_room) * B::BYTES;
    }
    static cudaError_t prepare(const banyan_queue *queue)
    {
        if (queue->block_room < plan::LEAST) return cudaErrorInvalidConfiguration;
        return cuda_prepare(attend_wide<B, TILES>, shared_bytes(queue));
    }
    static cudaError_t start(const banyan_queue *queue, const decode_plan *p)
    {
        const cuda_shape shape = {dim3((unsigned)p->workers), dim3(plan::THREADS),
                                  shared_bytes(queue), queue->stream, queue->waits != 0};
        return cuda_launch(shape, attend_wide<B, TILES>, p->call,
                           plan::stages_in(queue->block_room));
    }
};

/* use(instance) of the one for a shape whose strips have `vectors` vectors at most. */
template <int HEIGHT, int TILES, typename Use>
static cudaError_t with_tiles(const banyan_block_shape &shape, Use use)
{
    if (shape.value_in_key)
        return shape.dtype == BANYAN_BF16
                   ? use(wide_instance<wide16<__nv_bfloat16, 576, 512, true, HEIGHT>, TILES>())
                   : use(wide_instance<wide16<__half, 576, 512, true, HEIGHT>, TILES>());
    if (shape.dtype == BANYAN_E4M3) return use(wide_instance<wide8<256, HEIGHT>, TILES>());
    return shape.dtype == BANYAN_BF16
               ? use(wide_instance<wide16<__nv_bfloat16, 256, 256, false, HEIGHT>, TILES>())
               : use(wide_instance<wide16<__half, 256, 256, false, HEIGHT>, TILES>());
}
template <int HEIGHT, typename Use>
static cudaError_t with_height(const banyan_block_shape &shape, int vectors, Use use)
{
    return vectors <= 16 ? with_tiles<HEIGHT, 1>(shape, use)
                         : with_tiles<HEIGHT, 4>(shape, use);
}
template <typename Use>
static cudaError_t with_wide(const banyan_block_shape &shape, int vectors, Use use)
{
    return record_tokens(shape.block_tokens) == 32 ? with_height<32>(shape, vectors, use)
                                                   : with_height<64>(shape, vectors, use);
}

const char *banyan_cuda_attend_wide(banyan_queue *queue, const banyan_batch *batch)
{
    struct wide_context {
        const banyan_queue *queue;
        const banyan_batch *batch;
    } context = {queue, batch};
    const auto start = [](void *ctx, const decode_plan *plan) {
        const struct wide_context *const c = (const struct wide_context *)ctx;
        return cuda_failed(
            with_wide(c->batch->shape, plan->call.stride,
                      [=](auto instance) { return instance.start(c->queue, plan); }),
            "starting attention of wide heads");
    };
    return decode_launches(queue, batch, CUDA_WIDE_VECTORS, start, &context);
}

const char *cuda_wide_open(banyan_queue *queue)
{
    banyan_block_shape shape = queue->limits.shape;
    const auto prepare = [=](auto instance) { return instance.prepare(queue); };
    if (!record_is_wide(shape.key_dim)) return NULL;
    cudaError_t error = cudaDeviceGetAttribute(
        &queue->block_room, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue->device);
    for (int in_key = 0; in_key <= (shape.key_dim > 256); in_key++) {
        shape.value_in_key = in_key;
        if (error == cudaSuccess) error = with_wide(shape, 1, prepare);
        if (error == cudaSuccess) error = with_wide(shape, CUDA_WIDE_VECTORS, prepare);
    }
    if (error == cudaErrorInvalidConfiguration)
        return cuda_words("key_dim %d: a thread block of this GPU has %d bytes of shared "
                          "memory, which is too little: expected key_dim of at most 256",
                          (int)shape.key_dim, queue->block_room);
    return cuda_failed(error, "loading the attention of wide heads");
}
