/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_shared.h - a block's shared memory in kernels of the programs; tests/emu has the same
 * function in plain C++. */
#ifndef BANYAN_CUDA_SHARED_H
#define BANYAN_CUDA_SHARED_H

/* As many floats as the launch asked bytes for. */
static __device__ __forceinline__ float *shared_floats()
{
    extern __shared__ float banyan_shared_floats[];
    return banyan_shared_floats;
}

#endif
