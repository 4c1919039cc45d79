/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of k and v become records. One thread block writes the K tile, or the V tile, of one
 * packing: of a prefill there are thousands, of a decoded token two for each KV head.
 *
 * A token of the block is one of three:
 *
 *     first .. first + rows - 1     comes from the call
 *     behind them                   is forgotten: zeros
 *     before them                   stays as it is; in a fresh record, zeros
 *
 * so that no byte of a record is ever garbage: a value that nobody sees is multiplied by a
 * weight of 0, and must not be NaN.
 *
 * 16-bit numbers go 8 at a time, from 16 (or 32) bytes to 16 bytes. e4m3 goes through shared
 * memory, since V lies transposed: first a warp for each token finds its largest number and
 * divides by the scale, then chunks of 16 bytes are written, byte by byte only where a chunk of
 * V has tokens that stay. */
#include "attention/cuda/launch.h"
#include "attention/cuda/queue.h"
#include "attention/cuda/record.h"
#include "attention/cuda/result.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

/* Where the rows of one packing, of K or of V, come from and go to. */
struct rows_of {
    const void *from; /* of token `first` of the block */
    int64_t stride;   /* numbers from one row to the next */
    banyan_dtype dtype;
    int dim, first, end;
    int tokens; /* of the record */
    bool is_fresh;
};

PTX_FN bool is_written(const rows_of &rows, int token)
{
    return token >= rows.first && token < rows.end;
}
PTX_FN bool stays(const rows_of &rows, int token)
{
    return token < rows.first && !rows.is_fresh;
}
PTX_FN int64_t number_at(const rows_of &rows, int token, int d)
{
    return (token - rows.first) * rows.stride + d;
}

/* ---- 16-bit numbers ---------------------------------------------------------------------- */

/* Eight numbers as they come, in the format T. */
template <typename T> PTX_FN uint4 eight_numbers(const rows_of &rows, int64_t at, bool is_same)
{
    if (is_same) return *(const uint4 *)((const uint16_t *)rows.from + at);
    float x[8];
    if (rows.dtype == BANYAN_F32) {
        const float4 *from = (const float4 *)((const float *)rows.from + at);
        const float4 lo = from[0], hi = from[1];
        x[0] = lo.x, x[1] = lo.y, x[2] = lo.z, x[3] = lo.w;
        x[4] = hi.x, x[5] = hi.y, x[6] = hi.z, x[7] = hi.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = load_number(rows.from, at + i, rows.dtype);
    }
    return make_uint4(pack2(x[0], x[1], T()), pack2(x[2], x[3], T()), pack2(x[4], x[5], T()),
                      pack2(x[6], x[7], T()));
}

template <typename T>
static __device__ void pack_tile16(const rows_of &rows, unsigned char *tile, bool is_same)
{
    const int chunks = rows.dim / 8;
    for (int i = (int)threadIdx.x; i < rows.tokens * chunks; i += THREADS) {
        const int token = i / chunks, d = i % chunks * 8;
        if (stays(rows, token)) continue;
        uint4 *const to =
            (uint4 *)(tile + record16_at((uint32_t)rows.tokens, (uint32_t)rows.dim,
                                         (uint32_t)token, (uint32_t)d));
        *to = is_written(rows, token)
                  ? eight_numbers<T>(rows, number_at(rows, token, d), is_same)
                  : make_uint4(0, 0, 0, 0);
    }
}

/* ---- e4m3 -------------------------------------------------------------------------------- */

/* All bytes of a tile [token][dim] to shared memory, and the scales to the record. */
static __device__ void quantise(const rows_of &rows, unsigned char *bytes, float *scales)
{
    enum { PAIRS = 4 }; /* of numbers, a lane: d, d + 1 for d = 2 lane, 2 lane + 64, .. */
    const int lane = (int)threadIdx.x % 32;
    for (int token = (int)threadIdx.x / 32; token < rows.tokens; token += WARPS) {
        if (stays(rows, token)) continue;
        float x[2 * PAIRS] = {}, largest = 0, poison = 0;
        if (is_written(rows, token))
#pragma unroll
            for (int i = 0; i < 2 * PAIRS; i++) {
                const int d = 2 * lane + i / 2 * 64 + i % 2;
                if (d >= rows.dim) break;
                const int64_t at = number_at(rows, token, d);
                x[i] = load_number(rows.from, at, rows.dtype);
                largest = fmaxf(largest, fabsf(x[i]));
                poison += x[i] - x[i]; /* 0, but NaN for a NaN and for infinities */
            }
        largest += poison;
        for (int step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, largest, step);
            largest = largest > other || largest != largest ? largest : other;
        }
        const float scale = __fdiv_rn(largest, 448);
        const bool is_number = scale > 0; /* else all bytes are 0: of zeros, or times NaN */
#pragma unroll
        for (int i = 0; i < 2 * PAIRS; i += 2) {
            const int d = 2 * lane + i / 2 * 64;
            if (d >= rows.dim) break;
            const float lo = is_number ? __fdiv_rn(x[i], scale) : 0;
            const float hi = is_number ? __fdiv_rn(x[i + 1], scale) : 0;
            *(uint16_t *)(bytes + token * rows.dim + d) = e4m3_from_floats(lo, hi);
        }
        if (lane == 0) scales[token] = scale;
    }
    __syncthreads();
}

static __device__ void store_k8(const rows_of &rows, const unsigned char *bytes,
                                unsigned char *tile)
{
    const int chunks = rows.dim / 16;
    for (int i = (int)threadIdx.x; i < rows.tokens * chunks; i += THREADS) {
        const int token = i / chunks, d = i % chunks * 16;
        if (stays(rows, token)) continue;
        *(uint4 *)(tile + record8_k_at((uint32_t)rows.tokens, (uint32_t)rows.dim,
                                       (uint32_t)token, (uint32_t)d)) =
            *(const uint4 *)(bytes + token * rows.dim + d);
    }
}

static __device__ void store_v8(const rows_of &rows, const unsigned char *bytes,
                                unsigned char *tile)
{
    const uint32_t tokens = (uint32_t)rows.tokens;
    for (int i = (int)threadIdx.x; i < rows.tokens / 16 * rows.dim; i += THREADS) {
        const int d = i % rows.dim, token = i / rows.dim * 16;
        if (!stays(rows, token)) { /* then no later one does */
            uint32_t words[4] = {0, 0, 0, 0};
            for (int t = 0; t < 16; t++) {
                const uint32_t place = record8_v_at(tokens, (uint32_t)t, 0);
                words[place / 4] |= (uint32_t)bytes[(token + t) * rows.dim + d]
                                    << place % 4 * 8;
            }
            *(uint4 *)(tile + record8_v_at(tokens, (uint32_t)token, (uint32_t)d)) =
                make_uint4(words[0], words[1], words[2], words[3]);
        } else {
            for (int t = token; t < token + 16; t++)
                if (!stays(rows, t))
                    tile[record8_v_at(tokens, (uint32_t)t, (uint32_t)d)] =
                        bytes[t * rows.dim + d];
        }
    }
}

/* ---- all packings of a call -------------------------------------------------------------- */

struct pack_arguments {
    const banyan_packing *packing;
    const void *k, *v;
    banyan_dtype in_dtype, dtype;
    int kv_heads, key_dim, value_dim, tokens;
    cuda_carried carried;
};

static __global__ void __launch_bounds__(THREADS)
    pack_kernel(const __grid_constant__ pack_arguments a)
{
    const banyan_packing packing = carried_at(a.carried, a.packing)[blockIdx.x];
    if (packing.rows == 0) return;
    const bool is_v = blockIdx.y != 0;
    rows_of rows;
    rows.dim = is_v ? a.value_dim : a.key_dim;
    rows.stride = (int64_t)a.kv_heads * rows.dim;
    rows.dtype = a.in_dtype;
    rows.first = packing.first;
    rows.end = packing.first + packing.rows;
    rows.is_fresh = packing.fresh != 0;
    rows.tokens = a.tokens;
    const uint32_t tokens = (uint32_t)a.tokens;
    const int64_t at = packing.row * rows.stride + (int64_t)packing.kv_head * rows.dim;
    rows.from = (const char *)(is_v ? a.v : a.k) + at * (a.in_dtype == BANYAN_F32 ? 4 : 2);
    unsigned char *const record = (unsigned char *)packing.record;

    if (a.dtype == BANYAN_E4M3) {
        const uint32_t key_dim = (uint32_t)a.key_dim, value_dim = (uint32_t)a.value_dim;
        unsigned char *const bytes = dynamic_shared();
        quantise(rows, bytes,
                 (float *)(record + (is_v ? record8_v_scales(tokens, key_dim, value_dim)
                                          : record8_k_scales(tokens, key_dim, value_dim))));
        if (is_v)
            store_v8(rows, bytes, record + record8_v_tile(tokens, key_dim));
        else
            store_k8(rows, bytes, record);
        return;
    }
    unsigned char *const tile =
        record + (is_v ? record16_tile_bytes(tokens, (uint32_t)a.key_dim) : 0);
    if (a.dtype == BANYAN_BF16)
        pack_tile16<__nv_bfloat16>(rows, tile, a.in_dtype == a.dtype);
    else
        pack_tile16<__half>(rows, tile, a.in_dtype == a.dtype);
}

const char *cuda_pack_open(banyan_queue *)
{
    return cuda_failed(cuda_prepare(pack_kernel, 0), "loading the packing of keys and values");
}

const char *banyan_cuda_pack(banyan_queue *queue, const banyan_block_shape *shape,
                             int32_t kv_heads, const void *k, const void *v,
                             banyan_dtype in_dtype, const banyan_packing *packing,
                             int64_t count)
{
    if (count == 0) return NULL;
    if (((uintptr_t)k | (uintptr_t)v) % 16)
        return "k and v are read 16 bytes at a time: expected addresses that are multiples of "
               "16";
    cuda_array array = {packing, (size_t)count * sizeof *packing, NULL};
    pack_arguments arguments;
    const char *failed = cuda_stage(queue, &array, 1, &arguments.carried);
    if (failed || cuda_rewrites(queue)) return failed;
    const int larger = shape->key_dim > shape->value_dim ? shape->key_dim : shape->value_dim;
    arguments.packing = (const banyan_packing *)array.device;
    arguments.k = k;
    arguments.v = v;
    arguments.in_dtype = in_dtype;
    arguments.dtype = shape->dtype;
    arguments.kv_heads = kv_heads;
    arguments.key_dim = shape->key_dim;
    arguments.value_dim = shape->value_dim;
    arguments.tokens = (int)record_tokens(shape->block_tokens);
    const cuda_shape start = {dim3((unsigned)count, shape->value_in_key ? 1 : 2), dim3(THREADS),
                              shape->dtype == BANYAN_E4M3 ? (size_t)(arguments.tokens * larger)
                                                          : 0,
                              queue->stream, false};
    return cuda_failed(cuda_launch(start, pack_kernel, arguments), "packing keys and values");
}
