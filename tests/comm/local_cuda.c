/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/comm/local_cuda.h"

#include <cuda_runtime_api.h>

static const char *said(cudaError_t error)
{
    return error == cudaSuccess ? NULL : cudaGetErrorString(error);
}

static const char *copy(void *stream, void *to, const void *from, size_t bytes)
{
    return said(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream));
}

static const char *mark(void *stream, void **event)
{
    cudaEvent_t made;
    cudaError_t error = cudaEventCreateWithFlags(&made, cudaEventDisableTiming);
    if (!error) error = cudaEventRecord(made, (cudaStream_t)stream);
    if (!error) *event = made;
    return said(error);
}

static const char *follow(void *stream, void *event)
{
    return said(cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)event, 0));
}

static void forget(void *event)
{
    cudaEventDestroy((cudaEvent_t)event);
}

static const char *wait(void *stream)
{
    return said(cudaStreamSynchronize((cudaStream_t)stream));
}

const local_device local_cuda = {copy, mark, follow, forget, wait};
