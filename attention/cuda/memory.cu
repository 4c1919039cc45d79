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

/* ---- check: are these the bytes that should have come? ---------------------------------------- */

enum { CHECK_THREADS = 256 };

/* One block: thread t looks at bytes t, t + 256, ..; what is checked are headers of messages. */
static __global__ void check_kernel(const unsigned char *got, const unsigned char *expected,
                                    int64_t bytes, int64_t first, int32_t *flag)
{
    int64_t *const place = (int64_t *)dynamic_shared();
    const int thread = (int)threadIdx.x;
    place[thread] = bytes;
    for (int64_t i = thread; i < bytes; i += CHECK_THREADS)
        if (got[i] != expected[i]) {
            place[thread] = i;
            break;
        }
    __syncthreads();
    if (thread) return;
    int64_t least = bytes;
    for (int i = 0; i < CHECK_THREADS; i++)
        if (place[i] < least) least = place[i];
    if (least == bytes) return;
    const int64_t largest = INT32_MAX, found = 1 + first + least;
    *flag = (int32_t)(found < largest ? found : largest);
}

static const char *check_piece(banyan_queue *queue, const void *got, const void *expected,
                               size_t bytes, size_t first, int32_t *flag)
{
    cuda_array array = {expected, bytes, NULL};
    const char *failed = cuda_stage(queue, &array, 1);
    if (failed) return failed;
    const cuda_shape shape = {dim3(1), dim3(CHECK_THREADS), CHECK_THREADS * sizeof(int64_t),
                              queue->stream, false};
    return cuda_failed(cuda_launch(shape, check_kernel, (const unsigned char *)got,
                                   (const unsigned char *)array.device, (int64_t)bytes,
                                   (int64_t)first, flag),
                       "checking bytes");
}

/* Longer ones go piece by piece from the end, so that the first difference is written last. Where the
 * device cannot write to the host's memory, the flag goes to the device and comes back. */
const char *banyan_cuda_check(banyan_queue *queue, const void *got, const void *expected,
                              size_t bytes, int32_t *flag)
{
    int32_t *const word = queue->is_mapped ? flag : (int32_t *)queue->scratch;
    const char *failed = NULL;
    if (!bytes) return NULL;
    if (word != flag) failed = banyan_cuda_copy(queue, word, flag, sizeof *flag);
    for (size_t end = bytes; !failed && end > 0;) {
        const size_t piece = end < queue->stage_bytes ? end : queue->stage_bytes;
        end -= piece;
        failed = check_piece(queue, (const char *)got + end, (const char *)expected + end,
                             piece, end, word);
    }
    if (!failed && word != flag) failed = banyan_cuda_copy(queue, flag, word, sizeof *flag);
    return failed;
}
