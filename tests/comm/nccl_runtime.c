/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA runtime of runtime/cuda_runtime_api.h, and what the NCCL of tests/emu/nccl asks of
 * an emulator. */
#include "tests/comm/stream.h"
#include "tests/test.h"

#include <cuda_runtime_api.h>

cudaError_t emulator_enqueue(cudaStream_t s, void (*run)(void *argument), void *argument,
                             void (*free)(void *argument));

cudaError_t runtime_devices;
int runtime_bus;

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = runtime_devices == cudaSuccess;
    return runtime_devices;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device)
{
    snprintf(text, (size_t)length, "0000:%02x:%02x.0", (unsigned)runtime_bus, (unsigned)device);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    return stream_is_idle((stream *)s) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error)
{
    return error == cudaSuccess ? "cudaSuccess" : "cudaErrorOther";
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess ? "no error" : "another error";
}

typedef struct queued {
    void (*run)(void *argument);
    void *argument;
    void (*free)(void *argument);
} queued;

static void run_queued(void *arg)
{
    const queued *q = arg;
    q->run(q->argument);
    if (q->free) q->free(q->argument);
}

/* Work of a graph stays until the process ends: nobody can tell when the graph is gone. */
cudaError_t emulator_enqueue(cudaStream_t s, void (*run)(void *argument), void *argument,
                             void (*free)(void *argument))
{
    const banyan_memory there = stream_memory((stream *)s, 0);
    const queued q = {run, argument, banyan_memory_is_captured(&there) ? NULL : free};
    stream_push((stream *)s, run_queued, &q, sizeof q);
    return cudaSuccess;
}
