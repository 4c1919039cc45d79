/* SPDX-License-Identifier: Apache-2.0 */
/* The NEON kernel: the shared bodies over 4 lanes, with nothing that an AArch64 processor may lack. */
#include "attention/attention.h"
#include "attention/fixed.h"
#include "attention/vec_neon.h"

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

static int usable(void)
{
    return 1;
}

static int supports(const banyan_block_shape *shape)
{
    return shape->block_tokens % 16 == 0 && shape->dtype != BANYAN_E4M3;
}

static size_t record_bytes(const banyan_block_shape *shape)
{
    return layout_of(shape).bytes;
}

const banyan_kernel banyan_kernel_neon = {
    .name = "neon",
    .usable = usable,
    .supports = supports,
    .record_bytes = record_bytes,
    .pack = pack,
    .workspace_bytes = workspace_bytes,
    .attend = attend,
    .observe = observe,
    .unpack = unpack,
};
