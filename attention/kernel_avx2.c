/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX2 kernel: the shared bodies over 8 lanes. Compiled with -mavx2 -mfma -mf16c. */
#include "attention/attention.h"
#include "attention/fixed.h"
#include "attention/vec_avx2.h"

#include <cpuid.h>
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

static int avx2_usable(void)
{
    unsigned a, b, c = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (c & bit_F16C);
}

const banyan_kernel banyan_kernel_avx2 = {
    .name = "avx2",
    .usable = avx2_usable,
    .supports = vector_supports,
    .record_bytes = vector_record_bytes,
    .pack = vector_pack,
    .workspace_bytes = vector_workspace_bytes,
    .attend = vector_attend,
    .observe = vector_observe,
    .score = vector_score,
    .unpack = vector_unpack,
};
