/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_calls.h - for tests of CUDA functions on the emulator: a queue, device memory from host
 * memory and back, every failure a failed check. */
#ifndef BANYAN_TESTS_CUDA_CALLS_H
#define BANYAN_TESTS_CUDA_CALLS_H

#include "attention/cuda/queue.h"
#include "tests/test.h"

#define RUNS(call)                                                                             \
    do {                                                                                       \
        const char *const failed_ = (call);                                                    \
        CHECK_MSG(!failed_, "%s", failed_ ? failed_ : "");                                     \
    } while (0)

static inline banyan_queue *calls_open(const banyan_device_limits *limits)
{
    banyan_queue *queue = NULL;
    RUNS(banyan_cuda_open(limits, NULL, &queue));
    if (!queue) exit(1);
    return queue;
}
static inline void *calls_device(banyan_queue *queue, size_t bytes)
{
    void *memory = NULL;
    RUNS(banyan_cuda_allocate(queue, 0, bytes, &memory));
    if (!memory) exit(1);
    return memory;
}
/* Through page-locked memory, and done when they return. */
static inline void calls_copy(banyan_queue *queue, void *to, const void *from, size_t bytes,
                              int is_up)
{
    void *host = NULL;
    RUNS(banyan_cuda_allocate(queue, 1, bytes, &host));
    if (!host) exit(1);
    if (is_up) memcpy(host, from, bytes);
    RUNS(banyan_cuda_copy(queue, is_up ? to : host, is_up ? host : from, bytes));
    RUNS(banyan_cuda_wait(queue));
    if (!is_up) memcpy(to, host, bytes);
    banyan_cuda_release(queue, 1, host);
}
static inline void *calls_up(banyan_queue *queue, const void *from, size_t bytes)
{
    void *memory = calls_device(queue, bytes);
    calls_copy(queue, memory, from, bytes, 1);
    return memory;
}
static inline void calls_down(banyan_queue *queue, void *to, const void *from, size_t bytes)
{
    calls_copy(queue, to, from, bytes, 0);
}

#endif
