/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of steps.h as CUDA kernels. All of them read and write each number once or twice,
 * so that memory's rate is what there is; of one decoded row that is nothing, and what counts
 * is how long the longest chain of loads is: a row is spread over as many threads as it has
 * numbers, or 1024.
 *
 * Most kernels go by cells: a thread block has CELL columns of one row, so that nothing is
 * divided but the block's own number.
 *
 * Sums are fp32, in an order that depends on the width alone; products and sums may be fused. A
 * launch that fails is said by the next copy or wait of launch/cuda.c. */
#include "launch/cuda.h"
#include "launch/cuda_shared.h"
#include "launch/model/steps.h"

#include <cuda_bf16.h>
#include <math.h>

enum { THREADS = 128, EACH = 4, CELL = THREADS * EACH };

template <typename... Params, typename... Args>
static void start_step(void *own, int64_t blocks, unsigned also, int threads, size_t shared,
                       void (*kernel)(Params...), Args... args)
{
    banyan_cuda_line *line = (banyan_cuda_line *)own;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks, also);
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared;
    config.stream = line->stream;
    if (blocks == 0 || also == 0) return;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
    if (error != cudaSuccess && !line->failed) line->failed = cudaGetErrorString(error);
}

static int64_t cells_of(int64_t rows, int64_t width)
{
    return rows * ((width + CELL - 1) / CELL);
}

/* The columns of a thread: column(0), .. while they are below width. */
struct step_cell {
    int64_t row;
    int64_t first;
    __device__ explicit step_cell(int64_t width)
    {
        const int64_t chunks = (width + CELL - 1) / CELL;
        row = blockIdx.x / chunks;
        first = blockIdx.x % chunks * CELL + threadIdx.x;
    }
    __device__ int64_t column(int i) const
    {
        return first + i * THREADS;
    }
};

/* ---- embedding, moves, numbers one by one ------------------------------------------------ */

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    embed_rows(const T *__restrict__ table, const uint32_t *__restrict__ ids, int64_t width,
               float scale, float *__restrict__ x)
{
    const step_cell c(width);
    const T *const from = table + ids[c.row] * width;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (c.column(i) < width)
            x[c.row * width + c.column(i)] = (float)from[c.column(i)] * scale;
}

static void cuda_embed(void *own, const step_table *table, const uint32_t *ids, int32_t rows,
                       int64_t width, float scale, float *x)
{
    const int64_t cells = cells_of(rows, width);
    if (table->dtype == BANYAN_BF16)
        start_step(own, cells, 1, THREADS, 0, embed_rows<__nv_bfloat16>,
                   (const __nv_bfloat16 *)table->there, ids, width, scale, x);
    else
        start_step(own, cells, 1, THREADS, 0, embed_rows<float>, (const float *)table->there,
                   ids, width, scale, x);
}

/* Of one launch, a parameter of it. */
struct move_list {
    step_move move[STEP_MOVES];
};

template <bool ADDS>
static __global__ void __launch_bounds__(THREADS)
    move_rectangles(const __grid_constant__ move_list list)
{
    const step_move &m = list.move[blockIdx.y];
    const step_cell c(m.width);
    if (c.row >= m.rows) return;
    const float *const from = m.from + c.row * m.from_stride;
    float *const to = m.to + c.row * m.to_stride;
    float x[EACH]; /* all on their way before any is stored: from and to might be one */
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t column = c.column(i);
        if (column < m.width) x[i] = from[column];
        if (ADDS && column < m.width) x[i] = to[column] + m.scale * x[i];
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (c.column(i) < m.width) to[c.column(i)] = x[i];
}

template <bool ADDS> static void start_moves(void *own, const step_move *move, int count)
{
    move_list list = {};
    int64_t most = 0;
    for (int i = 0; i < count; i++) {
        const int64_t cells = cells_of(move[i].rows, move[i].width);
        list.move[i] = move[i];
        if (cells > most) most = cells;
    }
    start_step(own, most, (unsigned)count, THREADS, 0, move_rectangles<ADDS>, list);
}

static void cuda_move(void *own, const step_move *list, int count)
{
    start_moves<false>(own, list, count);
}

static void cuda_add(void *own, const step_move *list, int count)
{
    start_moves<true>(own, list, count);
}

static void cuda_zero(void *own, float *x, int64_t count)
{
    banyan_cuda_line *line = (banyan_cuda_line *)own;
    const cudaError_t error = cudaMemsetAsync(x, 0, (size_t)count * sizeof *x, line->stream);
    if (error != cudaSuccess && !line->failed) line->failed = cudaGetErrorString(error);
}

static __global__ void __launch_bounds__(THREADS)
    scale_numbers(float *x, int64_t count, float scale)
{
    const step_cell c(count);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (c.column(i) < count) x[c.column(i)] *= scale;
}

static void cuda_scale(void *own, float *x, int64_t count, float scale)
{
    start_step(own, cells_of(1, count), 1, THREADS, 0, scale_numbers, x, count, scale);
}

static __global__ void __launch_bounds__(THREADS)
    add_bias(float *x, int64_t width, const float *bias)
{
    const step_cell c(width);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (c.column(i) < width) x[c.row * width + c.column(i)] += bias[c.column(i)];
}

static void cuda_bias(void *own, float *x, int64_t rows, int64_t width, const float *bias)
{
    start_step(own, cells_of(rows, width), 1, THREADS, 0, add_bias, x, width, bias);
}

static __global__ void __launch_bounds__(THREADS)
    narrow_numbers(const float *__restrict__ x, int64_t count, __nv_bfloat16 *__restrict__ to)
{
    const step_cell c(count);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (c.column(i) < count) to[c.column(i)] = __float2bfloat16_rn(x[c.column(i)]);
}

static void cuda_narrow(void *own, const float *x, int64_t count, uint16_t *to)
{
    start_step(own, cells_of(1, count), 1, THREADS, 0, narrow_numbers, x, count,
               (__nv_bfloat16 *)to);
}

/* ---- activation -------------------------------------------------------------------------- */

/* As rows.c has them; an exponential that is infinite divides to 0. */
template <activation ACT> static __device__ float activated(float gate, float up, float cap)
{
    if (ACT == ACT_SILU) return gate / (1 + expf(-gate)) * up;
    if (ACT == ACT_GELU) return 0.5f * gate * (1 + erff(gate * 0.7071067811865476f)) * up;
    if (ACT == ACT_GELU_TANH) {
        const float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
        return 0.5f * gate * (1 + tanhf(inner)) * up;
    }
    gate = fminf(gate, cap);
    return gate / (1 + expf(-1.702f * gate)) * (fmaxf(-cap, fminf(up, cap)) + 1);
}

template <activation ACT>
static __global__ void __launch_bounds__(THREADS)
    activate_rows(const float *__restrict__ gate_up, int64_t width, float cap,
                  float *__restrict__ out)
{
    const step_cell c(width);
    const float *const gate = gate_up + c.row * 2 * width, *const up = gate + width;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t column = c.column(i);
        if (column < width)
            out[c.row * width + column] = activated<ACT>(gate[column], up[column], cap);
    }
}

static void cuda_activate(void *own, activation act, float cap, const float *gate_up,
                          int64_t rows, int64_t width, float *out)
{
    const auto kernel = act == ACT_SILU        ? activate_rows<ACT_SILU>
                        : act == ACT_GELU      ? activate_rows<ACT_GELU>
                        : act == ACT_GELU_TANH ? activate_rows<ACT_GELU_TANH>
                                               : activate_rows<ACT_GEGELU>;
    start_step(own, cells_of(rows, width), 1, THREADS, 0, kernel, gate_up, width, cap, out);
}

/* ---- norms ------------------------------------------------------------------------------- */

static __device__ float sum_of_warp(float x)
{
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

/* To all threads, in the same order for each. room: a float for each warp, free again on
 * return. */
static __device__ float sum_of_block(float x, float *room)
{
    const int warps = (int)blockDim.x / 32;
    x = sum_of_warp(x);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = room[0];
    for (int warp = 1; warp < warps; warp++) sum += room[warp];
    __syncthreads();
    return sum;
}

static __device__ float inverse_of(float squares, int64_t width, double eps)
{
    return (float)(1.0 / sqrt((double)squares / (double)width + eps));
}

enum { MOST_THREADS = 1024 };

/* A thread reads and writes the same numbers, so that h may be x. */
template <bool IS_CENTRED>
static __global__ void __launch_bounds__(MOST_THREADS)
    norm_rows_of(const float *x, int64_t width, const float *weight, const float *bias,
                 double eps, float *h, __nv_bfloat16 *narrow)
{
    const float *const from = x + blockIdx.x * width;
    float *const to = h + blockIdx.x * width, *const room = shared_floats();
    float mean = 0, squares = 0;
    if (IS_CENTRED) {
        for (int64_t i = threadIdx.x; i < width; i += blockDim.x) mean += from[i];
        mean = sum_of_block(mean, room) / (float)width;
    }
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
        const float d = from[i] - mean;
        squares += d * d;
    }
    const float inverse = inverse_of(sum_of_block(squares, room), width, eps);
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
        const float y = (from[i] - mean) * inverse * weight[i];
        const float z = IS_CENTRED && bias ? y + bias[i] : y;
        to[i] = z;
        if (narrow) narrow[blockIdx.x * width + i] = __float2bfloat16_rn(z);
    }
}

static void cuda_norm(void *own, const step_norm *n, const float *x, int64_t rows,
                      int64_t width, float *h, uint16_t *narrow)
{
    const int threads = width >= MOST_THREADS ? MOST_THREADS : (int)((width + 31) / 32 * 32);
    const auto kernel = n->kind == NORM_LAYER ? norm_rows_of<true> : norm_rows_of<false>;
    start_step(own, rows, 1, threads, threads / 32 * sizeof(float), kernel, x, width, n->weight,
               n->bias, n->eps, h, (__nv_bfloat16 *)narrow);
}

/* ---- rotary embedding -------------------------------------------------------------------- */

/* turns: of a whole circle per token, in fp64 like the product with the token, of which
 * sincospi takes the whole turns away: at 2^24 tokens it is right to 2^-28 of a turn. */
static __global__ void __launch_bounds__(THREADS)
    turn_tables(const double *turns, int32_t pairs, double factor, const int64_t *at,
                float *turn)
{
    const step_cell c(pairs);
    float *const row = turn + c.row * 2 * pairs;
#pragma unroll 1
    for (int i = 0; i < EACH; i++) {
        const int64_t pair = c.column(i);
        if (pair >= pairs) return;
        const double part = (double)(*at + c.row) * turns[pair];
        double cosine, sine;
        sincospi(2 * part, &sine, &cosine);
        row[pair] = (float)(factor * cosine);
        row[pairs + pair] = (float)(factor * sine);
    }
}

static void cuda_turns(void *own, const step_rope *r, const int64_t *at, int32_t rows,
                       float *turn)
{
    start_step(own, cells_of(rows, r->pairs), 1, THREADS, 0, turn_tables, r->turns, r->pairs,
               r->factor, at, turn);
}

/* A warp for each head of a row. */
static __global__ void __launch_bounds__(THREADS)
    turn_heads(const __grid_constant__ step_heads h)
{
    const int64_t index = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int64_t row = index / h.heads;
    const int lane = (int)threadIdx.x % 32, pairs = h.turn ? h.pairs : 0;
    if (row >= h.rows) return;
    float *const x = h.x + row * h.stride + index % h.heads * h.dim;
    const float *const weight = h.norm.weight;
    const float *const bias = h.norm.kind == NORM_LAYER ? h.norm.bias : NULL;
    float mean = 0, inverse = 1;
    if (weight) {
        float squares = 0;
        if (h.norm.kind == NORM_LAYER) {
            for (int i = lane; i < h.dim; i += 32) mean += x[i];
            mean = sum_of_warp(mean) / (float)h.dim;
        }
        for (int i = lane; i < h.dim; i += 32) squares += (x[i] - mean) * (x[i] - mean);
        inverse = inverse_of(sum_of_warp(squares), h.dim, h.norm.eps);
    }
    const auto normed = [&](int i) {
        if (!weight) return x[i];
        const float y = (x[i] - mean) * inverse * weight[i];
        return bias ? y + bias[i] : y;
    };
    const float *const turn = h.turn + row * 2 * pairs;
    for (int i = lane; i < pairs; i += 32) {
        const float a = normed(i), b = normed(pairs + i), c = turn[i], s = turn[pairs + i];
        x[i] = a * c - b * s;
        x[pairs + i] = b * c + a * s;
    }
    for (int i = 2 * pairs + lane; i < h.dim; i += 32) x[i] = normed(i);
}

static void cuda_heads(void *own, const step_heads *h)
{
    const int64_t warps = h->rows * h->heads, each = THREADS / 32;
    start_step(own, (warps + each - 1) / each, 1, THREADS, 0, turn_heads, *h);
}

/* ---- the head ---------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(THREADS)
    silence_columns(float *logits, int64_t count, int64_t first, const int32_t *ids,
                    int32_t dummies)
{
    const int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (i >= dummies) return;
    const int64_t column = ids[i] - first;
    if (column >= 0 && column < count) logits[blockIdx.y * count + column] = -INFINITY;
}

static void cuda_silence(void *own, float *logits, int32_t rows, int64_t count, int64_t first,
                         const int32_t *ids, int32_t dummies)
{
    start_step(own, (dummies + THREADS - 1) / THREADS, (unsigned)rows, THREADS, 0,
               silence_columns, logits, count, first, ids, dummies);
}

/* Rows' choices are CHOICE_NONE before. */
static __global__ void __launch_bounds__(THREADS)
    choose_columns(const float *logits, int64_t count, int64_t first, uint64_t *choice)
{
    const step_cell c(count);
    unsigned long long best = CHOICE_NONE;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t column = c.column(i);
        if (column >= count) continue;
        const unsigned long long one =
            choice_make(logits[c.row * count + column], (uint32_t)(first + column));
        if (one > best) best = one;
    }
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        const unsigned long long other = __shfl_xor_sync(0xffffffffu, best, lane);
        if (other > best) best = other;
    }
    if (threadIdx.x % 32 == 0) atomicMax((unsigned long long *)&choice[c.row], best);
}

static void cuda_choose(void *own, const float *logits, int32_t rows, int64_t count,
                        int64_t first, uint64_t *choice)
{
    cuda_zero(own, (float *)choice, rows * (int64_t)(sizeof *choice / sizeof(float)));
    start_step(own, cells_of(rows, count), 1, THREADS, 0, choose_columns, logits, count, first,
               choice);
}

const step_row step_row_cuda = {
    "cuda",    cuda_embed,    cuda_norm,  cuda_move,  cuda_add,     cuda_zero,   cuda_scale,
    cuda_bias, cuda_activate, cuda_turns, cuda_heads, cuda_silence, cuda_choose, cuda_narrow};
