/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_shared.h - the product's launch/cuda_shared.h, in plain C++. */
#ifndef BANYAN_CUDA_SHARED_H
#define BANYAN_CUDA_SHARED_H

#include <cuda_runtime.h>

unsigned char *emu_dynamic_shared();

static inline float *shared_floats()
{
    return (float *)(void *)emu_dynamic_shared();
}

#endif
