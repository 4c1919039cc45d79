/* SPDX-License-Identifier: Apache-2.0 */
/* The portable prefill (compute capability 8.0 and later): FlashAttention-2's way (arXiv
 * 2307.08691) over lists of blocks. Eight warps of 16 query vectors each go through a strip's
 * blocks together (decode.cu cuts strips of more than 128 vectors); each warp has all of its
 * vectors' scores, so that the maximum and the sum of a row never leave a quad of lanes.
 * Records come with cp.async, one block ahead; they are in the order in which ldmatrix reads
 * them without bank conflicts.
 *
 * Scores are kept times log2(e): s2 = scale log2(e) q.k, p = 2^(s2 - m2), and m = m2 ln 2 in
 * the end. A row's maximum and sum are in fp32; p is rounded to the number format of the values
 * for the second product.
 *
 * e4m3: a key's scale multiplies its scores. A value's scale multiplies p, which must then be
 * rounded to fp16 and neither overflow nor lose its bits: it is divided by the largest scale g
 * seen so far, to which `o` is relative as well, out = g o / l. p scale / g <= 1, and what
 * underflows (below 2^-25) is less than 2^-25 of the largest value read. */
#include "attention/cuda/decode_rows.h"
#include "attention/cuda/launch.h"
#include "attention/cuda/portable_tile.h"

enum { WARPS = CUDA_PREFILL_VECTORS / 16, THREADS = 32 * WARPS, STAGES = 2 };

/* What one warp knows of its vectors. */
template <int DIM> struct warp_rows {
    uint32_t q[DIM / 16][4];
    float o[DIM / 8][4];
    float m[2], l[2], g;
    int32_t row[2]; /* of the batch, of this lane's two vectors; 0: there is no such vector */
};

template <typename B, int DIM>
static __device__ __forceinline__ void load_rows(const decode_call &call,
                                                 const banyan_strip *strip, int warp, int lane,
                                                 warp_rows<DIM> &rows)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int v = 16 * warp + lane / 4 + 8 * half;
        const bool is_there = v < vectors_of(strip);
        const int row = is_there ? row_of(strip, v) : 0;
        const int head = is_there ? head_of(strip, v) : 0;
        const int64_t from = ((int64_t)row * call.heads + head) * DIM;
        rows.row[half] = row;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++)
#pragma unroll
            for (int upper = 0; upper < 2; upper++) {
                const int64_t d = from + B::column(k, lane, upper);
                const float x = is_there ? load_number(call.q, d, call.in_dtype) : 0;
                const float y = is_there ? load_number(call.q, d + 1, call.in_dtype) : 0;
                rows.q[k][2 * upper + half] = pack2(x, y, typename B::number());
            }
        rows.m[half] = -INFINITY;
        rows.l[half] = 0;
    }
    rows.g = 0;
#pragma unroll
    for (int d = 0; d < DIM / 8; d++)
#pragma unroll
        for (int e = 0; e < 4; e++) rows.o[d][e] = 0;
}

/* Scores of tokens that a row does not see become -inf, whatever they were. */
template <int KEYS, int DIM>
static __device__ __forceinline__ void
mask(float (&s)[KEYS / 8][4], const decode_call &call, const banyan_strip *strip,
     const warp_rows<DIM> &rows, const decode_entry &entry, int lane)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const decode_sight sight = sight_of<KEYS>(call, strip, entry, rows.row[half]);
#pragma unroll
        for (int t = 0; t < KEYS / 8; t++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (!sees(sight, 8 * t + 2 * (lane & 3) + e)) s[t][2 * half + e] = -INFINITY;
    }
}

/* Scores become p; l and o follow the maximum. */
template <int PARTS, int DIM>
static __device__ __forceinline__ void soften_tile(float (&s)[PARTS][4], warp_rows<DIM> &rows,
                                                   float growth)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = rows.m[half];
#pragma unroll
        for (int t = 0; t < PARTS; t++)
            most = fmaxf(most, fmaxf(s[t][2 * half], s[t][2 * half + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        const float base = most == -INFINITY ? 0 : most; /* nothing seen: 2^-inf is 0 */
        const float before = exp2_fast(rows.m[half] - base);
        float sum = 0;
#pragma unroll
        for (int t = 0; t < PARTS; t++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &x = s[t][2 * half + e];
                x = exp2_fast(x - base);
                sum += x;
            }
        rows.m[half] = most;
        rows.l[half] = rows.l[half] * before + sum;
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
#pragma unroll
            for (int e = 0; e < 2; e++) rows.o[d][2 * half + e] *= before * growth;
    }
}

/* One record, in shared memory at `stage`. */
template <typename B, int DIM>
static __device__ __forceinline__ void
attend_stage(const decode_call &call, const banyan_strip *strip, warp_rows<DIM> &rows,
             uint32_t stage, const decode_entry &entry, int lane)
{
    const int PARTS = B::PARTS;
    float s[PARTS][4];
#pragma unroll
    for (int t = 0; t < PARTS; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[t][e] = 0;
    B::scores(s, rows.q, stage, lane);
    B::scale_keys(s, stage, lane);
#pragma unroll
    for (int t = 0; t < PARTS; t++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[t][e] *= call.scale;
    if (entry.masked) mask<B::KEYS>(s, call, strip, rows, entry, lane);

    const float scale = fmaxf(rows.g, B::largest_scale(stage, lane));
    soften_tile(s, rows, scale > 0 ? rows.g / scale : 1);
    rows.g = scale;
    B::scale_values(s, scale > 0 ? 1 / scale : 0, stage, lane);
    uint32_t a[PARTS / 2][4];
#pragma unroll
    for (int k = 0; k < PARTS / 2; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *const two = &s[2 * k + i / 2][i % 2 * 2];
            a[k][i] = pack2(two[0], two[1], typename B::number());
        }
    B::values(rows.o, a, stage, lane);
}

template <int DIM>
static __device__ __forceinline__ void store_tile(const decode_call &call,
                                                  const banyan_strip *strip, int32_t partial,
                                                  warp_rows<DIM> &rows, int warp, int lane)
{
    cuda_results results = call.results;
    results.partial = carried_at(call.carried, results.partial);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float l = quad_sum(rows.l[half]);
        const int v = 16 * warp + lane / 4 + 8 * half;
        if (v >= vectors_of(strip)) continue;
        const float m = rows.m[half] * 0.69314718f, scale = l == 0 ? 0 : 1 / l;
        const int head = head_of(strip, v), row = row_of(strip, v);
        float *const part =
            partial < 0 ? NULL
                        : call.scratch + ((int64_t)partial * call.stride + v) * (DIM + 2);
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int at = 8 * d + 2 * (lane & 3) + e;
                const float o = rows.o[d][2 * half + e] * rows.g;
                if (part)
                    part[at] = o;
                else
                    result_number<DIM>(results, head, row, at, o, scale);
            }
        if (lane % 4) continue;
        if (part) {
            part[DIM] = m;
            part[DIM + 1] = l;
        } else {
            result_sums<DIM>(results, head, row, m, l);
        }
    }
}

/* All threads bring a record to its place in a stage, 16 bytes at a time. */
template <typename B>
static __device__ __forceinline__ void load_record(const void *records, uint32_t record,
                                                   uint32_t to)
{
    const char *const from = (const char *)records + (int64_t)record * B::BYTES;
    for (int at = 16 * (int)threadIdx.x; at < B::BYTES; at += 16 * THREADS)
        async_copy16(to + (uint32_t)at, from + at);
}

/* What is in a stage: one record of 64 keys, or two of 32, of which the second may be
 * missing. */
template <typename B> struct stage_blocks {
    enum { EACH = RECORD_TOKENS / B::KEYS, BYTES = EACH * B::BYTES };
    decode_entry entry[EACH];
    int32_t count;
};

/* The list's records from `place` on, up to `end`. */
template <typename B>
static __device__ __forceinline__ stage_blocks<B>
load_stage(const void *records, decode_cursor &cursor, int32_t place, int32_t end,
           uint32_t stage)
{
    stage_blocks<B> blocks = {};
    blocks.count = end - place < blocks.EACH ? end - place : blocks.EACH;
#pragma unroll
    for (int j = 0; j < blocks.EACH; j++) {
        if (j >= blocks.count) break;
        blocks.entry[j] = entry_at(cursor, place + j);
        load_record<B>(records, blocks.entry[j].record, stage + (uint32_t)j * B::BYTES);
    }
    return blocks;
}

template <typename B, int DIM>
static __device__ __forceinline__ void
attend_portion(const decode_call &call, const cuda_portion &portion, uint32_t stages)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const banyan_strip *const strip = &staged(call, call.strip, portion.tile);
    const banyan_table_of_blocks table = staged(call, call.table, strip->table);
    warp_rows<DIM> rows;
    load_rows<B, DIM>(call, strip, warp, lane, rows);

    typedef stage_blocks<B> stage;
    decode_cursor cursor = {&staged(call, call.span, strip->first_span), table.slot, 0};
    stage now = {}, next = {};
    const int32_t end = portion.first + portion.count;
    for (int32_t i = 0, place = portion.first; place < end || i == 0; i++) {
        const int32_t asked = place + now.count;
        if (asked < end)
            next = load_stage<B>(table.records, cursor, asked, end,
                                 stages + (uint32_t)(i % STAGES) * stage::BYTES);
        async_commit();
        if (i > 0) {
            const uint32_t at = stages + (uint32_t)((i - 1) % STAGES) * stage::BYTES;
            async_wait<1>();
            __syncthreads();
#pragma unroll
            for (int j = 0; j < stage::EACH; j++)
                if (j < now.count)
                    attend_stage<B, DIM>(call, strip, rows, at + (uint32_t)j * B::BYTES,
                                         now.entry[j], lane);
            __syncthreads(); /* before the stage is written again */
            place = asked;
        }
        now = next;
    }
    store_tile<DIM>(call, strip, portion.partial, rows, warp, lane);
}

template <typename B, int DIM>
__global__ void __launch_bounds__(THREADS, 1)
    prefill_portable(const __grid_constant__ decode_call call)
{
    const uint32_t stages = shared_address(dynamic_shared());
    const int32_t end = staged(call, call.first_portion, blockIdx.x + 1);
    for (int32_t i = staged(call, call.first_portion, blockIdx.x); i < end; i++)
        attend_portion<B, DIM>(call, staged(call, call.portion, i), stages);
}

template <typename B, int DIM>
static cudaError_t start_portable(const banyan_queue *queue, const decode_plan *plan)
{
    const cuda_shape shape = {dim3((unsigned)plan->workers), dim3(THREADS),
                              (size_t)STAGES * stage_blocks<B>::BYTES, queue->stream, false};
    return cuda_launch(shape, prefill_portable<B, DIM>, plan->call);
}

template <typename B, int DIM> static cudaError_t prepare_portable()
{
    return cuda_prepare(prefill_portable<B, DIM>, (size_t)STAGES * stage_blocks<B>::BYTES);
}

/* An instance: how it is made ready, and started. */
struct instance {
    cudaError_t (*prepare)();
    cudaError_t (*start)(const banyan_queue *, const decode_plan *);
};
template <typename B, int DIM> static instance instance_of()
{
    return {prepare_portable<B, DIM>, start_portable<B, DIM>};
}

template <int HEIGHT, int DIM> static instance instance_with(banyan_dtype dtype)
{
    if (dtype == BANYAN_BF16) return instance_of<block16<__nv_bfloat16, DIM, HEIGHT>, DIM>();
    return dtype == BANYAN_F16 ? instance_of<block16<__half, DIM, HEIGHT>, DIM>()
                               : instance_of<block8<DIM, HEIGHT>, DIM>();
}

template <int HEIGHT> static instance instance_with(const banyan_block_shape *shape)
{
    if (shape->key_dim == 64) return instance_with<HEIGHT, 64>(shape->dtype);
    return shape->key_dim == 96 ? instance_with<HEIGHT, 96>(shape->dtype)
                                : instance_with<HEIGHT, 128>(shape->dtype);
}

static instance instance_of(const banyan_block_shape *shape)
{
    return record_tokens(shape->block_tokens) == 32 ? instance_with<32>(shape)
                                                    : instance_with<64>(shape);
}

const char *cuda_prefill_open(banyan_queue *queue)
{
    cudaError_t error = cudaSuccess;
    for (int dim = 64; dim <= queue->limits.shape.key_dim && error == cudaSuccess; dim += 32) {
        if (!record_has_dim(dim)) continue;
        banyan_block_shape shape = queue->limits.shape;
        shape.key_dim = shape.value_dim = dim;
        error = instance_of(&shape).prepare();
    }
    return cuda_failed(error, "loading the prefill");
}

const char *banyan_cuda_prefill(banyan_queue *queue, const banyan_batch *batch)
{
    struct prefill_context {
        const banyan_queue *queue;
        const banyan_batch *batch;
    } context = {queue, batch};
    const auto start = [](void *ctx, const decode_plan *plan) {
        const struct prefill_context *const c = (const struct prefill_context *)ctx;
        return cuda_failed(instance_of(&c->batch->shape).start(c->queue, plan),
                           "starting a prefill");
    };
    return decode_launches(queue, batch, CUDA_PREFILL_VECTORS, start, &context);
}
