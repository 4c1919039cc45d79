/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the device and of the host, and what is done to it in stream order. */
#include "attention/cuda/launch.h"
#include "attention/cuda/ptx.h"
#include "attention/cuda/queue.h"

#include <stdlib.h>
#include <string.h>

const char *banyan_cuda_allocate(banyan_queue *queue, size_t bytes, void **out)
{
    (void)queue;
    void *memory = NULL;
    const cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaSuccess) {
        *out = memory;
        return NULL;
    }
    cudaGetLastError();
    return cuda_words("allocating %zu bytes of device memory: %s (%s)", bytes,
                      cudaGetErrorName(error), cudaGetErrorString(error));
}

void banyan_cuda_release(banyan_queue *queue, void *memory)
{
    (void)queue;
    if (memory) cudaFree(memory);
}

/* In front of host memory: how it was had. Some machines let a process lock no more pages, and slow
 * copies are better than none. */
enum { PREFIX_BYTES = 64 };
typedef struct host_prefix {
    bool is_locked;
} host_prefix;

const char *banyan_cuda_allocate_host(banyan_queue *queue, size_t bytes, void **out)
{
    void *memory = NULL;
    bool is_locked = true;
    const size_t all = (bytes + 2 * PREFIX_BYTES - 1) / PREFIX_BYTES * PREFIX_BYTES;
    if (cudaMallocHost(&memory, all) != cudaSuccess) {
        cudaGetLastError();
        is_locked = false;
        queue->is_mapped = false;
        memory = aligned_alloc(PREFIX_BYTES, all);
    }
    if (!memory) return cuda_words("out of host memory: %zu bytes are needed", bytes);
    ((host_prefix *)memory)->is_locked = is_locked;
    *out = (char *)memory + PREFIX_BYTES;
    return NULL;
}

void banyan_cuda_release_host(banyan_queue *queue, void *memory)
{
    (void)queue;
    if (!memory) return;
    memory = (char *)memory - PREFIX_BYTES;
    if (((host_prefix *)memory)->is_locked)
        cudaFreeHost(memory);
    else
        free(memory);
}

const char *banyan_cuda_copy(banyan_queue *queue, void *to, const void *from, size_t bytes)
{
    if (!bytes) return NULL;
    return cuda_failed(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue->stream),
                       "copying memory");
}

const char *banyan_cuda_clear(banyan_queue *queue, void *memory, size_t bytes)
{
    if (!bytes) return NULL;
    return cuda_failed(cudaMemsetAsync(memory, 0, bytes, queue->stream), "clearing memory");
}

const char *banyan_cuda_wait(banyan_queue *queue)
{
    return cuda_failed(cudaStreamSynchronize(queue->stream), "waiting for the device");
}
