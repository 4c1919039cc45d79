/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_avx512_dot.h - the part of the AVX-512 kernel that needs AVX512_BF16: bf16 caches.
 * Records are those of kernel_avx512.c. */
#ifndef BANYAN_KERNEL_AVX512_DOT_H
#define BANYAN_KERNEL_AVX512_DOT_H

#include "attention/attention.h"

size_t banyan_avx512_dot_workspace(const banyan_block_shape *shape, int32_t heads,
                                   int32_t rows);
void banyan_avx512_dot_attend(const banyan_tile *tile);
void banyan_avx512_dot_observe(const banyan_tile *tile, banyan_observed *o, float *column);
void banyan_avx512_dot_score(const banyan_tile *tile, float *out);

#endif
