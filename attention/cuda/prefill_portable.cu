/* SPDX-License-Identifier: Apache-2.0 */
/* The portable prefill (compute capability 8.0 and later): FlashAttention-2's way (arXiv
 * 2307.08691) over lists of blocks. Eight warps of 16 query vectors each go through a tile's
 * blocks together; each warp has all of its vectors' scores, so that the maximum and the sum of
 * a row never leave a quad of lanes. Records come with cp.async, one block ahead; they are in
 * the order in which ldmatrix reads them without bank conflicts.
 *
 * Scores are kept times log2(e): s2 = scale log2(e) q.k, p = 2^(s2 - m2), and m = m2 ln 2 in
 * the end. A row's maximum and sum are in fp32; p is rounded to the number format of the values
 * for the second product.
 *
 * e4m3: a key's scale multiplies its scores. A value's scale multiplies p, which must then be
 * rounded to fp16 and neither overflow nor lose its bits: it is divided by the largest scale g
 * seen so far, to which `o` is relative as well, out = g o / l. p scale / g <= 1, and what
 * underflows (below 2^-25) is less than 2^-25 of the largest value read. */
#include "attention/cuda/launch.h"
#include "attention/cuda/portable_tile.h"
#include "attention/cuda/portable_work.h"

enum { WARPS = PORTABLE_VECTORS / 16, THREADS = 32 * WARPS, STAGES = 2 };

struct portable_params {
    const void *q;
    const banyan_table_of_blocks *table;
    const banyan_span *span;
    const portable_tile *tile;
    const cuda_item *item;
    const int32_t *first_item;
    float *scratch; /* [slots][PORTABLE_VECTORS][DIM + 2] */
    cuda_results results;
    int64_t at, first_token, end_token;
    banyan_dtype in_dtype;
    float factor; /* scale log2(e) */
};

/* A place in a tile's list: the same in all threads. */
struct list_place {
    int32_t span, index; /* of the list; within the span */
};

static __device__ __forceinline__ void place_skip(list_place &place, const banyan_span *span,
                                                  int32_t spans, int32_t count)
{
    place.index += count;
    while (place.span < spans && place.index >= span[place.span].count) {
        place.index -= span[place.span].count;
        place.span++;
    }
}

/* What one warp knows of its vectors. */
template <int DIM> struct warp_rows {
    uint32_t q[DIM / 16][4];
    float o[DIM / 8][4];
    float m[2], l[2], g;
    int64_t token[2]; /* of the rows of this lane's two vectors; -1: there is no such vector */
};

template <typename B, int DIM>
static __device__ __forceinline__ void load_rows(const portable_params &p,
                                                 const portable_tile &tile, int warp, int lane,
                                                 warp_rows<DIM> &rows)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int v = 16 * warp + lane / 4 + 8 * half;
        const bool is_there = v < tile.vectors;
        const int index = tile.first_vector + (is_there ? v : 0);
        const int row = tile.first_row + index % tile.rows;
        const int head = tile.first_head + nth_head(tile.heads, index / tile.rows);
        const int64_t from = ((int64_t)row * p.results.heads + head) * DIM;
        rows.token[half] = is_there ? p.at + row : -1;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++)
#pragma unroll
            for (int upper = 0; upper < 2; upper++) {
                const int64_t d = from + B::column(k, lane, upper);
                const float x = is_there ? load_number(p.q, d, p.in_dtype) : 0;
                const float y = is_there ? load_number(p.q, d + 1, p.in_dtype) : 0;
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

template <int KEYS>
static __device__ __forceinline__ int32_t within_block(int64_t token, int64_t first)
{
    const int64_t x = token - first;
    return x < -1 ? -1 : x > KEYS ? KEYS : (int32_t)x;
}

/* Scores of tokens that a row does not see become -inf, whatever they were. */
template <int KEYS, int DIM>
static __device__ __forceinline__ void
mask(float (&s)[KEYS / 8][4], const portable_params &p, const portable_tile &tile,
     const warp_rows<DIM> &rows, int32_t block, int32_t masked, int lane)
{
    const int64_t first = (int64_t)block * KEYS;
    const int32_t from = within_block<KEYS>(p.first_token, first);
    const int32_t end = within_block<KEYS>(p.end_token, first);
    const int32_t sinks = masked > 1 ? within_block<KEYS>(tile.sink_end, first) : KEYS;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int32_t last = within_block<KEYS>(rows.token[half], first);
        /* The window's first token; an endless window must not overflow. */
        const int64_t back = rows.token[half] - tile.window;
        const int32_t window = masked > 1 && tile.window <= rows.token[half]
                                   ? within_block<KEYS>(back, first)
                                   : -1;
#pragma unroll
        for (int t = 0; t < KEYS / 8; t++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int32_t key = 8 * t + 2 * (lane & 3) + e;
                const bool seen =
                    key <= last && key >= from && key < end && (key < sinks || key > window);
                if (!seen) s[t][2 * half + e] = -INFINITY;
            }
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
attend_stage(const portable_params &p, const portable_tile &tile, warp_rows<DIM> &rows,
             uint32_t stage, int32_t block, int32_t masked, int lane)
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
        for (int e = 0; e < 4; e++) s[t][e] *= p.factor;
    if (masked) mask<B::KEYS>(s, p, tile, rows, block, masked, lane);

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
static __device__ __forceinline__ void store_tile(const portable_params &p,
                                                  const portable_tile &tile, int32_t slot,
                                                  warp_rows<DIM> &rows, int warp, int lane)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float l = rows.l[half];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        const int v = 16 * warp + lane / 4 + 8 * half;
        if (v >= tile.vectors) continue;
        const float m = rows.m[half] * 0.69314718f, scale = l == 0 ? 0 : 1 / l;
        const int index = tile.first_vector + v, row = tile.first_row + index % tile.rows;
        const int head = tile.first_head + nth_head(tile.heads, index / tile.rows);
        float *const part =
            slot < 0 ? NULL : p.scratch + ((int64_t)slot * PORTABLE_VECTORS + v) * (DIM + 2);
#pragma unroll
        for (int d = 0; d < DIM / 8; d++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int at = 8 * d + 2 * (lane & 3) + e;
                const float o = rows.o[d][2 * half + e] * rows.g;
                if (part)
                    part[at] = o;
                else
                    result_number<DIM>(p.results, head, row, at, o, scale);
            }
        if (lane % 4) continue;
        if (part) {
            part[DIM] = m;
            part[DIM + 1] = l;
        } else {
            result_sums<DIM>(p.results, head, row, m, l);
        }
    }
}

/* All threads bring a record to its place in a stage, 16 bytes at a time. */
template <typename B>
static __device__ __forceinline__ void load_record(const banyan_table_of_blocks &table,
                                                   const banyan_slot &slot, uint32_t to)
{
    const char *const from = (const char *)table.records + (int64_t)slot.record * B::BYTES;
    for (int at = 16 * (int)threadIdx.x; at < B::BYTES; at += 16 * THREADS)
        async_copy16(to + (uint32_t)at, from + at);
}

/* What is in a stage: one record of 64 keys, or two of 32, of which the second may be
 * missing. */
template <typename B> struct stage_blocks {
    enum { EACH = RECORD_TOKENS / B::KEYS, BYTES = EACH * B::BYTES };
    int32_t block[EACH], masked[EACH], count;
};

/* The list's next records, `left` of which it still has. */
template <typename B>
static __device__ __forceinline__ stage_blocks<B>
load_stage(const banyan_table_of_blocks &table, const banyan_span *span, int32_t spans,
           list_place &place, int32_t left, uint32_t stage)
{
    stage_blocks<B> blocks = {};
    blocks.count = left < blocks.EACH ? left : blocks.EACH;
#pragma unroll
    for (int j = 0; j < blocks.EACH; j++) {
        if (j >= left) break;
        const banyan_span s = span[place.span];
        const banyan_slot slot = table.slot[s.first + (int64_t)place.index * s.step];
        blocks.block[j] = slot.block;
        blocks.masked[j] = s.masked;
        load_record<B>(table, slot, stage + (uint32_t)j * B::BYTES);
        place_skip(place, span, spans, 1);
    }
    return blocks;
}

template <typename B, int DIM>
static __device__ __forceinline__ void attend_item(const portable_params &p,
                                                   const cuda_item &item, uint32_t stages)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const portable_tile tile = p.tile[item.tile];
    const banyan_table_of_blocks table = p.table[tile.table];
    const banyan_span *const span = p.span + tile.first_span;
    warp_rows<DIM> rows;
    load_rows<B, DIM>(p, tile, warp, lane, rows);

    typedef stage_blocks<B> stage;
    list_place place = {0, 0};
    stage now = {}, next = {};
    place_skip(place, span, tile.spans, item.first);
    for (int32_t i = 0, done = 0; done < item.count || i == 0; i++) {
        const int32_t asked = done + now.count;
        if (asked < item.count)
            next = load_stage<B>(table, span, tile.spans, place, item.count - asked,
                                 stages + (uint32_t)(i % STAGES) * stage::BYTES);
        async_commit();
        if (i > 0) {
            const uint32_t at = stages + (uint32_t)((i - 1) % STAGES) * stage::BYTES;
            async_wait<1>();
            __syncthreads();
#pragma unroll
            for (int j = 0; j < stage::EACH; j++)
                if (j < now.count)
                    attend_stage<B, DIM>(p, tile, rows, at + (uint32_t)j * B::BYTES,
                                         now.block[j], now.masked[j], lane);
            __syncthreads(); /* before the stage is written again */
            done += now.count;
        }
        now = next;
    }
    store_tile<DIM>(p, tile, item.slot, rows, warp, lane);
}

template <typename B, int DIM>
__global__ void __launch_bounds__(THREADS, 1)
    prefill_portable(const __grid_constant__ portable_params p)
{
    const uint32_t stages = shared_address(dynamic_shared());
    const int32_t end = p.first_item[blockIdx.x + 1];
    for (int32_t i = p.first_item[blockIdx.x]; i < end; i++)
        attend_item<B, DIM>(p, p.item[i], stages);
}

template <typename B, int DIM>
static cudaError_t start_portable(banyan_queue *queue, const portable_params &p,
                                  int32_t workers)
{
    const cuda_shape shape = {dim3((unsigned)workers), dim3(THREADS),
                              (size_t)STAGES * stage_blocks<B>::BYTES, queue->stream, false};
    return cuda_launch(shape, prefill_portable<B, DIM>, p);
}

template <typename B, int DIM> static cudaError_t prepare_portable()
{
    return cuda_prepare(prefill_portable<B, DIM>, (size_t)STAGES * stage_blocks<B>::BYTES);
}

/* An instance: how it is made ready, and started. */
struct instance {
    cudaError_t (*prepare)();
    cudaError_t (*start)(banyan_queue *, const portable_params &, int32_t);
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
    portable_work work;
    const char *failed = portable_plan(queue, batch, &work);
    if (failed) return failed;
    const cuda_split *split = &work.split;
    enum { TABLE, SPAN, TILE, ITEM, FIRST, PARTIAL, COMBINED, ARRAYS };
    cuda_array array[ARRAYS] = {};
    array[TABLE] = {batch->table, (size_t)batch->tables * sizeof *batch->table, NULL};
    array[SPAN] = {batch->span, (size_t)batch->spans * sizeof *batch->span, NULL};
    array[TILE] = {work.tile, (size_t)work.tiles * sizeof *work.tile, NULL};
    array[ITEM] = {split->item, (size_t)split->items * sizeof *split->item, NULL};
    array[FIRST] = {split->first_item, (size_t)(split->workers + 1) * sizeof(int32_t), NULL};
    array[PARTIAL] = {batch->partial, (size_t)batch->heads * sizeof *batch->partial, NULL};
    array[COMBINED] = {work.combined, (size_t)split->cuts * sizeof *work.combined, NULL};
    failed = cuda_stage(queue, array, ARRAYS);
    if (failed || split->workers == 0) return failed;

    const portable_params p = {batch->q,
                               (const banyan_table_of_blocks *)array[TABLE].device,
                               (const banyan_span *)array[SPAN].device,
                               (const portable_tile *)array[TILE].device,
                               (const cuda_item *)array[ITEM].device,
                               (const int32_t *)array[FIRST].device,
                               (float *)queue->scratch,
                               {(float *const *)array[PARTIAL].device, batch->out, batch->lse,
                                batch->heads, batch->out_dtype},
                               batch->part->at - batch->part->first_row, /* of row 0 */
                               batch->part->first_token,
                               batch->part->end_token,
                               batch->in_dtype,
                               batch->scale * 1.44269504f};
    failed = cuda_failed(instance_of(&batch->shape).start(queue, p, split->workers), "prefill");
    if (failed) return failed;
    return cuda_combine(queue, (const cuda_combined *)array[COMBINED].device, split->cuts,
                        PORTABLE_VECTORS, work.most_parts, p.scratch, batch->shape.value_dim,
                        p.results);
}
