/* SPDX-License-Identifier: Apache-2.0 */
/* exact_sums.h - fixed-point sums of rows (attention/fixed_layout.h), where the queue's limits
 * say exact. */
#ifndef BANYAN_ATTENTION_CUDA_EXACT_SUMS_H
#define BANYAN_ATTENTION_CUDA_EXACT_SUMS_H

#include "attention/cuda/combine.h"

/* What cuda_combine says, of sums: to the partials of the heads, all of which there are. tile,
 * partial and carried are those of the cuda_stage that brought them. */
const char *cuda_exact_partials(banyan_queue *queue, const cuda_combined *tile, int32_t tiles,
                                int32_t most_vectors, const float *scratch, int32_t value_dim,
                                float *const *partial, const cuda_carried *carried);

#endif
