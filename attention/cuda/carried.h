/* SPDX-License-Identifier: Apache-2.0 */
/* carried.h - the arrays of a small call, carried by its kernels as a parameter.
 *
 * A copy to the device between two kernels costs 12 us (H200): the copy waits for the kernels
 * before it, and those behind it for the copy. Where a call's arrays are small, a decode's,
 * they are written into its kernels' parameters instead, and their "device addresses" are
 * offsets into those: below CUDA_CARRIED, where no address is. */
#ifndef BANYAN_ATTENTION_CUDA_CARRIED_H
#define BANYAN_ATTENTION_CUDA_CARRIED_H

#include <cuda_runtime.h>
#include <stdint.h>

enum { CUDA_CARRIED = 8000 }; /* 32 KV heads; a kernel's parameters may be 32764 bytes */

struct cuda_carried {
    alignas(16) unsigned char bytes[CUDA_CARRIED];
};

/* Where `p` of cuda_stage is. carried: of a parameter that is __grid_constant__, and so has an
 * address. */
template <typename T>
static __device__ __forceinline__ const T *carried_at(const cuda_carried &carried, const T *p)
{
    const uintptr_t at = (uintptr_t)p;
    return at < CUDA_CARRIED ? (const T *)(carried.bytes + at) : p;
}

#endif
