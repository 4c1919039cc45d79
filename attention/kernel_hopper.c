/* SPDX-License-Identifier: Apache-2.0 */
/* The row `hopper`: records and calls of the row `cuda`, by instructions of compute capability
 * 9.0 alone. Many rows over a cache of e4m3, or with dim 96, are the portable kernel's, and so
 * are all rows of wide heads and all fixed-point sums. */
#include "attention/cuda/row.h"

static int hopper_usable(void)
{
    return banyan_cuda_missing() == NULL && banyan_cuda_capability() == 90;
}

static const char *hopper_attend(banyan_queue *queue, const banyan_batch *batch)
{
    if (banyan_cuda_is_exact(queue)) return banyan_cuda_attend_exact(queue, batch);
    if (record_is_wide(batch->shape.key_dim)) return banyan_cuda_attend_wide(queue, batch);
    if (cuda_is_decode(batch)) return banyan_cuda_decode_hopper(queue, batch);
    return batch->shape.dtype == BANYAN_E4M3 || batch->shape.key_dim == 96
               ? banyan_cuda_prefill(queue, batch)
               : banyan_cuda_prefill_hopper(queue, batch);
}

static const banyan_device device = BANYAN_CUDA_DEVICE(hopper_attend);

const banyan_kernel banyan_kernel_hopper = {
    .name = "hopper",
    .usable = hopper_usable,
    .supports = cuda_supports,
    .record_bytes = cuda_record_bytes,
    .device = &device,
    .unpack = banyan_cuda_unpack,
    .restore = banyan_cuda_restore,
};
