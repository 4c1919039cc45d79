/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX-512 kernel: the shared bodies over 16 lanes. Compiled with -mavx512f -mavx512bw
 * -mavx512vl -mavx512dq. bf16 caches go to kernel_avx512_dot.c where the processor has
 * AVX512_BF16. */
#include "attention/attention.h"
#include "attention/fixed.h"
#include "attention/kernel_avx512_dot.h"
#include "attention/vec_avx512.h"

#include <string.h>

#include "attention/kernel_layout.inc.h"
#include "attention/kernel_source.inc.h"
#include "attention/kernel_run.inc.h"
#include "attention/kernel_pack.inc.h"
#include "attention/kernel_unpack.inc.h"
#include "attention/kernel_product.inc.h"
#include "attention/kernel_softmax.inc.h"
#include "attention/kernel_chunk.inc.h"
#include "attention/kernel_fixed.inc.h"
#include "attention/kernel_attend.inc.h"
#include "attention/kernel_score.inc.h"

static int avx512_usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static int has_dot(const banyan_block_shape *shape)
{
    return shape->dtype == BANYAN_BF16 && __builtin_cpu_supports("avx512bf16");
}

static size_t workspace_choose(const banyan_block_shape *shape, int32_t heads, int32_t rows)
{
    return has_dot(shape) ? banyan_avx512_dot_workspace(shape, heads, rows)
                          : vector_workspace_bytes(shape, heads, rows);
}

static void attend_choose(const banyan_tile *tile)
{
    if (has_dot(&tile->shape))
        banyan_avx512_dot_attend(tile);
    else
        vector_attend(tile);
}

static void observe_choose(const banyan_tile *tile, banyan_observed *o, float *column)
{
    if (has_dot(&tile->shape))
        banyan_avx512_dot_observe(tile, o, column);
    else
        vector_observe(tile, o, column);
}

static void score_choose(const banyan_tile *tile, float *out)
{
    if (has_dot(&tile->shape))
        banyan_avx512_dot_score(tile, out);
    else
        vector_score(tile, out);
}

const banyan_kernel banyan_kernel_avx512 = {
    .name = "avx512",
    .usable = avx512_usable,
    .supports = vector_supports,
    .record_bytes = vector_record_bytes,
    .pack = vector_pack,
    .workspace_bytes = workspace_choose,
    .attend = attend_choose,
    .observe = observe_choose,
    .score = score_choose,
    .unpack = vector_unpack,
};
