/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed-point sums of the parts of a list, which was cut for the multiprocessors, become
 * one. */
#include "attention/cuda/exact_fold.h"
#include "attention/cuda/exact_sums.h"
#include "attention/cuda/launch.h"

/* To the partials of their heads. */
static __global__ void __launch_bounds__(PARTIAL_THREADS)
    sum_partials(const cuda_combined *tiles, const int64_t *scratch, int dim,
                 float *const *partial, const __grid_constant__ cuda_carried carried)
{
    const cuda_combined tile = carried_at(carried, tiles)[blockIdx.y];
    const int64_t words = fixed_words(dim);
    const int vector = (int)blockIdx.x, number = tile.first_vector + vector;
    if (vector >= tile.vectors) return;
    const int head = tile.first_head + nth_head(tile.heads, number / tile.rows);
    const int64_t row = tile.first_row + number % tile.rows;
    const exact_list parts = {scratch + (tile.part + vector) * words, tile.stride * words,
                              tile.parts};
    store_sum_row((int64_t *)carried_at(carried, partial)[head] + row * words,
                  sum_of(parts, dim), parts, dim);
}

const char *cuda_exact_partials(banyan_queue *queue, const cuda_combined *tile, int32_t tiles,
                                int32_t most_vectors, const float *scratch, int32_t value_dim,
                                float *const *partial, const cuda_carried *carried)
{
    const cuda_shape shape = {dim3((unsigned)most_vectors, (unsigned)tiles),
                              dim3(PARTIAL_THREADS), 0, queue->stream, false};
    return cuda_failed(cuda_launch(shape, sum_partials, tile, (const int64_t *)scratch,
                                   value_dim, partial, *carried),
                       "adding up the parts of lists");
}

const char *cuda_exact_sums_open(banyan_queue *queue)
{
    return queue->limits.exact
               ? cuda_failed(cuda_prepare(sum_partials, 0), "loading sums of parts")
               : NULL;
}
