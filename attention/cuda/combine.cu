/* SPDX-License-Identifier: Apache-2.0 */
/* Combine: one thread block for each vector, since a decoded row has only a few dozen of them,
 * and what counts is how long the longest chain of loads is. With parts p = 0, 1, .. as in
 * partial.c,
 *
 *     M = max m_p     w_p = exp(m_p - M)     l = sum w_p l_p     o = sum w_p o_p
 *
 * The threads are CHAINS groups of one thread per dim; group g adds up the parts g n .. g n + n
 * - 1, and then the groups' sums are added in ascending order: an order that depends on the
 *   number of parts alone.
 * A part that saw nothing has m = -inf and weighs 0; if all are so, M is -inf, and so is the
 * result. */
#include "attention/cuda/combine.h"
#include "attention/cuda/exact_sums.h"

#include "attention/cuda/launch.h"

enum { AHEAD = 8 };
/* A thread block has 1024 threads at most. */
PTX_FN constexpr int chains_of(int dim)
{
    return dim > 256 ? 2 : 4;
}

/* The largest m of the parts, to all threads. room: a float for each warp. */
static __device__ float largest_m(const float *first, int64_t step, int parts, float *room)
{
    float most = -INFINITY;
    for (int p = (int)threadIdx.x; p < parts; p += (int)blockDim.x)
        most = fmaxf(most, first[p * step]);
    for (int lane = 16; lane > 0; lane /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lane));
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = most;
    __syncthreads();
    most = room[0];
    for (int warp = 1; warp < (int)blockDim.x / 32; warp++) most = fmaxf(most, room[warp]);
    return most;
}

template <int DIM>
__global__ void __launch_bounds__(chains_of(DIM) * DIM)
    combine_parts(const cuda_combined *tiles, const float *scratch, cuda_results results,
                  const __grid_constant__ cuda_carried carried)
{
    const int CHAINS = chains_of(DIM);
    /* arguments are older than the kernel ahead of this one, whose partials are waited for */
    const cuda_combined tile = carried_at(carried, tiles)[blockIdx.y];
    results.partial = carried_at(carried, results.partial);
    launch_next();
    launch_wait();
    const int vector = (int)blockIdx.x, d = (int)threadIdx.x % DIM,
              chain = (int)threadIdx.x / DIM;
    if (vector >= tile.vectors) return;
    float *const sums = (float *)dynamic_shared();  /* [CHAINS][DIM] */
    float *const room = sums + CHAINS * DIM;        /* [warps] */
    float *const weight = room + CHAINS * DIM / 32; /* [parts], and after it l of each part */
    float *const length = weight + tile.parts;

    const int64_t step = (int64_t)tile.stride * (DIM + 2);
    const float *const part = scratch + (tile.part + vector) * (DIM + 2);
    const int each = (tile.parts + CHAINS - 1) / CHAINS, begin = chain * each;
    const int end = begin + each < tile.parts ? begin + each : tile.parts;
    float ahead[AHEAD]; /* under way while their weights are found */
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        ahead[i] = begin + i < end ? part[(begin + i) * step + d] : 0;
    const float largest = largest_m(part + DIM, step, tile.parts, room);
    for (int p = (int)threadIdx.x; p < tile.parts; p += (int)blockDim.x) {
        const float m = part[p * step + DIM];
        weight[p] = m == -INFINITY ? 0 : expf(m - largest);
        length[p] = part[p * step + DIM + 1];
    }
    __syncthreads();

    float o = 0;
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (begin + i < end) o += weight[begin + i] * ahead[i];
#pragma unroll 8
    for (int p = begin + AHEAD; p < end; p++) o += weight[p] * part[p * step + d];
    sums[threadIdx.x] = o;
    __syncthreads();
    if (chain > 0) return;

    float l = 0;
    for (int p = 0; p < tile.parts; p++) l += weight[p] * length[p];
    for (int c = 1; c < CHAINS; c++) o += sums[c * DIM + d];
    const int first = tile.first_vector + vector;
    const int head = tile.first_head + nth_head(tile.heads, first / tile.rows);
    const int row = tile.first_row + first % tile.rows;
    result_number<DIM>(results, head, row, d, o, l == 0 ? 0 : 1 / l);
    if (d == 0) result_sums<DIM>(results, head, row, largest, l);
}

template <int DIM>
static cudaError_t start_combine(banyan_queue *queue, const cuda_combined *tile, int32_t tiles,
                                 int32_t most_vectors, int32_t most_parts, const float *scratch,
                                 const cuda_results &results, const cuda_carried &carried)
{
    const int CHAINS = chains_of(DIM);
    const cuda_shape shape = {dim3((unsigned)most_vectors, (unsigned)tiles), dim3(CHAINS * DIM),
                              (size_t)(CHAINS * DIM + CHAINS * DIM / 32 + 2 * most_parts) *
                                  sizeof(float),
                              queue->stream, queue->waits != 0};
    return cuda_launch(shape, combine_parts<DIM>, tile, scratch, results, carried);
}

const char *cuda_combine_open(banyan_queue *queue)
{
    cudaError_t error = cuda_prepare(combine_parts<64>, 0, &queue->waits);
    if (error == cudaSuccess && queue->limits.shape.value_dim > 64)
        error = cuda_prepare(combine_parts<96>, 0, &queue->waits);
    if (error == cudaSuccess && queue->limits.shape.value_dim > 96)
        error = cuda_prepare(combine_parts<128>, 0, &queue->waits);
    if (error == cudaSuccess && queue->limits.shape.value_dim > 128)
        error = cuda_prepare(combine_parts<256>, 0, &queue->waits);
    if (error == cudaSuccess && queue->limits.shape.value_dim > 256)
        error = cuda_prepare(combine_parts<512>, 0, &queue->waits);
    return cuda_failed(error, "loading the combine of partials");
}

const char *cuda_combine(banyan_queue *queue, const cuda_combined *tile, int32_t tiles,
                         int32_t most_vectors, int32_t most_parts, const float *scratch,
                         int32_t value_dim, const cuda_results &results,
                         const cuda_carried *carried)
{
    static const cuda_carried none = {};
    if (tiles == 0 || cuda_rewrites(queue)) return NULL;
    if (queue->limits.exact)
        return cuda_exact_partials(queue, tile, tiles, most_vectors, scratch, value_dim,
                                   results.partial, carried ? carried : &none);
    const auto way = value_dim == 64    ? start_combine<64>
                     : value_dim == 96  ? start_combine<96>
                     : value_dim == 128 ? start_combine<128>
                     : value_dim == 256 ? start_combine<256>
                                        : start_combine<512>;
    return cuda_failed(way(queue, tile, tiles, most_vectors, most_parts, scratch, results,
                           carried ? *carried : none),
                       "combining partials");
}
