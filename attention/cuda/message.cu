/* SPDX-License-Identifier: Apache-2.0 */
/* Headers of messages, written and compared where they lie. What the host has to say goes along with the
 * launch as an argument: it need not outlive the call, and a graph keeps it. */
#include "attention/cuda/launch.h"
#include "attention/cuda/queue.h"

#include <string.h>

enum { HEAD_WORDS = 16 };

struct head {
    uint32_t word[HEAD_WORDS];
};

static_assert(sizeof(head) == sizeof(banyan_fault::got), "a header is 64 bytes");

static __global__ void put_kernel(unsigned char *to, head from, int bytes)
{
    const int i = (int)threadIdx.x;
    if (i < bytes) to[i] = (unsigned char)(from.word[i / 4] >> 8 * (i % 4));
}

/* One thread reads it all: the others would only wait for each other, and it is 64 bytes. The host
 * reads is_set first, so it is written last. */
static __global__ void compare_kernel(const uint32_t *got, head expected, banyan_fault *fault)
{
    head mine;
    bool is_same = true;
    for (int i = 0; i < HEAD_WORDS; i++) {
        mine.word[i] = got[i];
        is_same = is_same && mine.word[i] == expected.word[i];
    }
    if (is_same || *(volatile int32_t *)&fault->is_set) return;
    for (int i = 0; i < HEAD_WORDS; i++) {
        ((volatile uint32_t *)fault->got)[i] = mine.word[i];
        ((volatile uint32_t *)fault->expected)[i] = expected.word[i];
    }
    __threadfence_system();
    *(volatile int32_t *)&fault->is_set = 1;
}

const char *cuda_message_open(banyan_queue *)
{
    cudaError_t error = cuda_prepare(put_kernel, 0);
    if (error == cudaSuccess) error = cuda_prepare(compare_kernel, 0);
    return cuda_failed(error, "loading the work on headers");
}

const char *banyan_cuda_put(void *own, void *to, const void *from, size_t bytes)
{
    head h = {};
    if (bytes > sizeof h) return cuda_words("putting %zu bytes; at most 64 are", bytes);
    memcpy(&h, from, bytes);
    const cuda_shape shape = {dim3(1), dim3(64), 0, ((banyan_queue *)own)->stream, false};
    return cuda_failed(cuda_launch(shape, put_kernel, (unsigned char *)to, h, (int)bytes),
                       "putting a header");
}

/* Where the device cannot write to the host's memory, the fault goes there and comes back. */
const char *banyan_cuda_compare(void *own, const void *got, const void *expected,
                                banyan_fault *fault)
{
    banyan_queue *const queue = (banyan_queue *)own;
    head h;
    memcpy(&h, expected, sizeof h);
    banyan_fault *const place = queue->is_mapped ? fault : (banyan_fault *)queue->scratch;
    const cuda_shape shape = {dim3(1), dim3(1), 0, queue->stream, false};
    const char *failed = NULL;
    if (place != fault) failed = banyan_cuda_copy(queue, place, fault, sizeof *fault);
    if (!failed)
        failed =
            cuda_failed(cuda_launch(shape, compare_kernel, (const uint32_t *)got, h, place),
                        "comparing a header");
    if (!failed && place != fault)
        failed = banyan_cuda_copy(queue, fault, place, sizeof *fault);
    return failed;
}
