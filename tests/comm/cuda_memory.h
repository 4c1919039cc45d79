/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_memory.h - a banyan_memory of a CUDA queue, as dist/ makes one, for tests of comm/. */
#ifndef BANYAN_TESTS_CUDA_MEMORY_H
#define BANYAN_TESTS_CUDA_MEMORY_H

#include "attention/cuda/entry.h"
#include "comm/comm.h"

static const char *cuda_memory_allocate(void *ctx, int on_host, size_t bytes, void **out)
{
    banyan_queue *const queue = (banyan_queue *)ctx;
    return on_host ? banyan_cuda_allocate_host(queue, bytes, out)
                   : banyan_cuda_allocate(queue, bytes, out);
}

static void cuda_memory_release(void *ctx, int on_host, void *memory)
{
    banyan_queue *const queue = (banyan_queue *)ctx;
    if (on_host)
        banyan_cuda_release_host(queue, memory);
    else
        banyan_cuda_release(queue, memory);
}

static const char *cuda_memory_copy(void *ctx, void *to, const void *from, size_t bytes)
{
    return banyan_cuda_copy((banyan_queue *)ctx, to, from, bytes);
}

static const char *cuda_memory_put(void *ctx, void *to, const void *from, size_t bytes)
{
    return banyan_cuda_put((banyan_queue *)ctx, to, from, bytes);
}

static const char *cuda_memory_compare(void *ctx, const void *got, const void *expected,
                                       banyan_fault *fault)
{
    return banyan_cuda_compare((banyan_queue *)ctx, got, expected,
                               (banyan_device_fault *)fault);
}

static const char *cuda_memory_wait(void *ctx)
{
    return banyan_cuda_wait((banyan_queue *)ctx);
}

static int cuda_memory_is_captured(void *ctx)
{
    return banyan_cuda_is_captured((const banyan_queue *)ctx);
}

static void *cuda_memory_stream(void *ctx)
{
    return banyan_cuda_stream((const banyan_queue *)ctx);
}

static inline banyan_memory cuda_memory(banyan_queue *queue, int is_staged)
{
    const banyan_memory memory = {queue,
                                  is_staged,
                                  cuda_memory_allocate,
                                  cuda_memory_release,
                                  cuda_memory_copy,
                                  cuda_memory_put,
                                  cuda_memory_compare,
                                  cuda_memory_wait,
                                  cuda_memory_is_captured,
                                  cuda_memory_stream};
    return memory;
}

#endif
