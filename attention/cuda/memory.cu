/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the device and of the host, and what is done to it in stream order. */
#include "attention/cuda/queue.h"

#include <stdlib.h>
#include <string.h>

static const char *allocate_there(size_t bytes, void **out)
{
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

/* In front of host memory: how it was had. Some machines let a process lock no more pages, and
 * slow copies are better than none. */
enum { PREFIX_BYTES = 64 };
typedef struct host_prefix {
    bool is_locked;
} host_prefix;

static const char *allocate_locked(banyan_cuda_line *line, size_t bytes, void **out)
{
    void *memory = NULL;
    bool is_locked = true;
    const size_t all = (bytes + 2 * PREFIX_BYTES - 1) / PREFIX_BYTES * PREFIX_BYTES;
    if (cudaMallocHost(&memory, all) != cudaSuccess) {
        cudaGetLastError();
        is_locked = false;
        line->is_mapped = false;
        memory = aligned_alloc(PREFIX_BYTES, all);
    }
    if (!memory) return cuda_words("out of host memory: %zu bytes are needed", bytes);
    ((host_prefix *)memory)->is_locked = is_locked;
    *out = (char *)memory + PREFIX_BYTES;
    return NULL;
}

const char *banyan_cuda_allocate(void *line, int on_host, size_t bytes, void **out)
{
    return on_host ? allocate_locked((banyan_cuda_line *)line, bytes, out)
                   : allocate_there(bytes, out);
}

void banyan_cuda_release(void *, int on_host, void *memory)
{
    if (!memory) return;
    if (!on_host) {
        cudaFree(memory);
        return;
    }
    memory = (char *)memory - PREFIX_BYTES;
    if (((host_prefix *)memory)->is_locked)
        cudaFreeHost(memory);
    else
        free(memory);
}

/* A call's result in words, or what a kernel's start before it said. */
static const char *line_words(void *line, cudaError_t error, const char *doing)
{
    const char *const failed = ((banyan_cuda_line *)line)->failed;
    ((banyan_cuda_line *)line)->failed = NULL;
    return failed ? failed : cuda_failed(error, doing);
}

static cudaStream_t stream_of(void *line)
{
    return ((banyan_cuda_line *)line)->stream;
}

const char *banyan_cuda_copy(void *line, void *to, const void *from, size_t bytes)
{
    if (!bytes) return NULL;
    return line_words(line,
                      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(line)),
                      "copying memory");
}

const char *banyan_cuda_fill(void *line, void *memory, int byte, size_t bytes)
{
    if (!bytes) return NULL;
    return cuda_failed(cudaMemsetAsync(memory, byte, bytes, stream_of(line)), "filling memory");
}

const char *banyan_cuda_wait(void *line)
{
    return line_words(line, cudaStreamSynchronize(stream_of(line)), "waiting for the device");
}

void *banyan_cuda_stream(void *line)
{
    return stream_of(line);
}

int banyan_cuda_is_captured(void *line)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream_of(line), &status) != cudaSuccess) cudaGetLastError();
    return status != cudaStreamCaptureStatusNone;
}

extern const banyan_memory_row banyan_cuda_memory = {"cuda",
                                                     1,
                                                     banyan_cuda_allocate,
                                                     banyan_cuda_release,
                                                     banyan_cuda_copy,
                                                     banyan_cuda_fill,
                                                     banyan_cuda_put,
                                                     banyan_cuda_gather,
                                                     banyan_cuda_wait,
                                                     banyan_cuda_is_captured,
                                                     banyan_cuda_stream};
