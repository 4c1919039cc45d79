/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - how a kernel is started: the one place with a grid. */
#ifndef BANYAN_ATTENTION_CUDA_LAUNCH_H
#define BANYAN_ATTENTION_CUDA_LAUNCH_H

#include <cuda_runtime.h>

struct cuda_shape {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
    bool
        overlaps; /* may begin before the kernel ahead of it ends: it calls launch_wait (sm_90) */
};

/* cudaSuccess, or what cudaLaunchKernelEx says. More than 48 KiB of shared memory are asked for first. */
template <typename... Params, typename... Args>
static cudaError_t cuda_launch(const cuda_shape &shape, void (*kernel)(Params...), Args... args)
{
    if (shape.shared_bytes > 48 << 10) {
        const cudaError_t error = cudaFuncSetAttribute(
            (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
            (int)shape.shared_bytes);
        if (error != cudaSuccess) return error;
    }
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = shape.stream;
    config.attrs = &attribute;
    config.numAttrs = shape.overlaps ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

#endif
