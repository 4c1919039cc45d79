/* SPDX-License-Identifier: Apache-2.0 */
/* bf16 caches with the dot product of AVX512_BF16, which takes both products: a pair of steps
 * in one instruction, summed in fp32. q is rounded to bf16 once a tile, and the weights as they
 * are made; l sums the weights before rounding. Compiled with -mavx512bf16 on top of
 * kernel_avx512.c's. */
#include "attention/kernel_avx512_dot.h"
#include "attention/fixed.h"

#define VEC_DOT
#include "attention/vec_avx512.h"

#include <string.h>

#include "attention/kernel_layout.inc.h"
#include "attention/kernel_source.inc.h"
#include "attention/kernel_run.inc.h"
#include "attention/kernel_product.inc.h"
#include "attention/kernel_softmax.inc.h"
#include "attention/kernel_chunk.inc.h"
#include "attention/kernel_fixed.inc.h"
#include "attention/kernel_attend.inc.h"
#include "attention/kernel_score.inc.h"

size_t banyan_avx512_dot_workspace(const banyan_block_shape *shape, int32_t heads, int32_t rows)
{
    return vector_workspace_bytes(shape, heads, rows);
}

void banyan_avx512_dot_attend(const banyan_tile *tile)
{
    vector_attend(tile);
}

void banyan_avx512_dot_observe(const banyan_tile *tile, banyan_observed *o, float *column)
{
    vector_observe(tile, o, column);
}

void banyan_avx512_dot_score(const banyan_tile *tile, float *out)
{
    vector_score(tile, out);
}
