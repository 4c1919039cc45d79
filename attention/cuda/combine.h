/* SPDX-License-Identifier: Apache-2.0 */
/* combine.h - partials of the parts of a list become one result. */
#ifndef BANYAN_ATTENTION_CUDA_COMBINE_H
#define BANYAN_ATTENTION_CUDA_COMBINE_H

#include "attention/cuda/queue.h"
#include "attention/cuda/result.h"

/* Query vectors whose list was cut. Vector v, 0 <= v < vectors, is (head, row): the
 * (first_vector + v) / rows-th of the bits of `heads`, counted from bit 0 = first_head, and row
 * first_row + (first_vector + v) % rows. Its part p is partial number part + p * stride + v of
 * the scratch. */
struct cuda_combined {
    uint64_t heads;
    int64_t part;
    int32_t stride, parts;
    int32_t first_head, first_row, rows, first_vector, vectors;
};

/* Merges the parts of `tiles` tiles in ascending order: tile [tiles] on the device;
 * most_vectors and most_parts of any of them. scratch: partials [..][value_dim + 2], m and l in
 * natural units. carried: that of the cuda_stage that brought `tile` and results.partial, or
 * NULL. Where the queue's limits say exact, rows are fixed-point sums. */
const char *cuda_combine(banyan_queue *queue, const cuda_combined *tile, int32_t tiles,
                         int32_t most_vectors, int32_t most_parts, const float *scratch,
                         int32_t value_dim, const cuda_results &results,
                         const cuda_carried *carried = NULL);

#endif
