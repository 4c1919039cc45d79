/* SPDX-License-Identifier: Apache-2.0 */
/* The NEON kernel: the shared bodies over 4 lanes, with nothing that an AArch64 processor may
 * lack. */
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

static int neon_usable(void)
{
    return 1;
}

const banyan_kernel banyan_kernel_neon = {
    .name = "neon",
    .usable = neon_usable,
    .supports = vector_supports,
    .record_bytes = vector_record_bytes,
    .pack = vector_pack,
    .workspace_bytes = vector_workspace_bytes,
    .attend = vector_attend,
    .observe = vector_observe,
    .score = vector_score,
    .unpack = vector_unpack,
};
