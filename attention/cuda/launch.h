/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - how a kernel is started: the one place with a grid. */
#ifndef BANYAN_ATTENTION_CUDA_LAUNCH_H
#define BANYAN_ATTENTION_CUDA_LAUNCH_H

#include <cuda_runtime.h>

struct cuda_shape {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
    /* May begin before the kernel ahead of it ends: it calls launch_wait first of all, and its
     * code is one in which that waits (cuda_prepare). */
    bool overlaps;
};

/* Before the first launch on a device, and not while a stream is captured: brings the kernel's
 * code there, and asks for its shared memory where that is over 48 KiB. *waits (or NULL): was
 * the code that runs here compiled for 9.0 or later, so that launch_wait waits? */
template <typename... Params>
static cudaError_t cuda_prepare(void (*kernel)(Params...), size_t shared_bytes,
                                int *waits = NULL)
{
    cudaFuncAttributes attributes = {};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, (const void *)kernel);
    if (error != cudaSuccess) return error;
    if (waits) *waits = attributes.ptxVersion >= 90;
    if (shared_bytes <= 48 << 10) return cudaSuccess;
    return cudaFuncSetAttribute((const void *)kernel,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
}

/* cudaSuccess, or what cudaLaunchKernelEx says. */
template <typename... Params, typename... Args>
static cudaError_t cuda_launch(const cuda_shape &shape, void (*kernel)(Params...), Args... args)
{
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
