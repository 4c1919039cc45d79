/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA in a build that has none: a row that says so. */
#include "launch/device.h"

static const char *cuda_none_missing(void)
{
    return "this build has none; configure with -DBANYAN_CUDA=ON";
}

const device_row device_row_cuda = {.name = "cuda", .missing = cuda_none_missing};
