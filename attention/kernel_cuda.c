/* SPDX-License-Identifier: Apache-2.0 */
/* The row `cuda`: every GPU from compute capability 8.0 on, with instructions that all of them
 * have. */
#include "attention/cuda/row.h"

static int cuda_usable(void)
{
    return banyan_cuda_missing() == NULL;
}

static const char *cuda_attend(banyan_queue *queue, const banyan_batch *batch)
{
    if (banyan_cuda_is_exact(queue)) return banyan_cuda_attend_exact(queue, batch);
    if (record_is_wide(batch->shape.key_dim)) return banyan_cuda_attend_wide(queue, batch);
    return cuda_is_decode(batch) ? banyan_cuda_decode(queue, batch)
                                 : banyan_cuda_prefill(queue, batch);
}

static const banyan_device device = BANYAN_CUDA_DEVICE(cuda_attend);

const banyan_kernel banyan_kernel_cuda = {
    .name = "cuda",
    .usable = cuda_usable,
    .supports = cuda_supports,
    .record_bytes = cuda_record_bytes,
    .device = &device,
    .unpack = banyan_cuda_unpack,
    .restore = banyan_cuda_restore,
};
