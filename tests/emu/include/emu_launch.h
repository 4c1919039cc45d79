/* SPDX-License-Identifier: Apache-2.0 */
/* Launches: the arguments are copied at the call, and the kernel runs when its stream gets
 * there. */
#ifndef BANYAN_EMU_LAUNCH_H
#define BANYAN_EMU_LAUNCH_H

#include "cuda_runtime_api.h"
#include "emu_vectors.h"

#include <functional>
#include <tuple>
#include <type_traits>

enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore = 0,
    cudaLaunchAttributeClusterDimension = 4,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
union cudaLaunchAttributeValue {
    char pad[64];
    int programmaticStreamSerializationAllowed;
    struct {
        unsigned x, y, z;
    } clusterDim;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

cudaError_t emu_launch(const cudaLaunchConfig_t &config, const void *kernel,
                       size_t argument_bytes, std::function<void()> thread);

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Params...),
                               Args &&...args)
{
    const std::tuple<std::decay_t<Params>...> copies(std::forward<Args>(args)...);
    return emu_launch(*config, (const void *)kernel, (sizeof(Params) + ... + 0),
                      [kernel, copies] { std::apply(kernel, copies); });
}

/* The runtime's own overloads, for typed pointers. */
template <typename T> cudaError_t cudaMalloc(T **memory, size_t bytes)
{
    return cudaMalloc((void **)(void *)memory, bytes);
}
template <typename T> cudaError_t cudaMallocHost(T **memory, size_t bytes, unsigned flags = 0)
{
    return cudaHostAlloc((void **)(void *)memory, bytes, flags);
}
template <typename T> cudaError_t cudaHostAlloc(T **memory, size_t bytes, unsigned flags)
{
    return cudaHostAlloc((void **)(void *)memory, bytes, flags);
}
template <typename... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute,
                                 int value)
{
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}
static inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event)
{
    return cudaStreamWaitEvent(stream, event, 0);
}
static inline cudaError_t cudaEventRecord(cudaEvent_t event)
{
    return cudaEventRecord(event, nullptr);
}
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph)
{
    return cudaGraphInstantiate(exec, graph, 0);
}

#endif
