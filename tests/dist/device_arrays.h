/* SPDX-License-Identifier: Apache-2.0 */
/* device_arrays.h - arrays of calls where a cache is: on its device, or on the host, so that a
 * test may make the same calls on both, and look how far apart the results are. */
#ifndef BANYAN_TESTS_DEVICE_ARRAYS_H
#define BANYAN_TESTS_DEVICE_ARRAYS_H

#include "dist/device_cache.h"
#include "tests/dist/sequence.h"

#include <cuda_runtime_api.h>

/* Done when it returns: through memory that the device copies, after all that was queued. */
static inline void arrays_copy(banyan_cache *cache, void *device, void *host, size_t bytes,
                               int up)
{
    const banyan_device_cache *d = cache->device;
    void *stage = NULL;
    CHECK_MSG(banyan_cache_wait(cache) == BANYAN_OK, "%s", banyan_error_message());
    if (!d) {
        memcpy(up ? device : host, up ? host : device, bytes);
        return;
    }
    if (banyan_memory_allocate(&d->memory, 1, bytes, &stage)) abort();
    if (up) memcpy(stage, host, bytes);
    CHECK(!banyan_memory_copy(&d->memory, up ? device : stage, up ? stage : device, bytes));
    CHECK_MSG(banyan_cache_wait(cache) == BANYAN_OK, "%s", banyan_error_message());
    if (!up) memcpy(host, stage, bytes);
    banyan_memory_release(&d->memory, 1, stage);
}

static inline void arrays_down(banyan_cache *cache, void *host, const void *device,
                               size_t bytes)
{
    arrays_copy(cache, (void *)(uintptr_t)device, host, bytes, 0);
}

static inline void *arrays_up(banyan_cache *cache, const void *host, size_t bytes)
{
    void *device = NULL;
    if (!cache->device)
        device = malloc(bytes);
    else if (banyan_memory_allocate(&cache->device->memory, 0, bytes, &device))
        abort();
    if (!device) abort();
    arrays_copy(cache, device, (void *)(uintptr_t)host, bytes, 1);
    return device;
}

static inline void arrays_release(banyan_cache *cache, void *array)
{
    if (cache->device)
        banyan_memory_release(&cache->device->memory, 0, array);
    else
        free(array);
}

/* fp16 numbers of a normal distribution. */
static inline void arrays_draw(uint16_t *to, int count, uint64_t *seed)
{
    for (int i = 0; i < count; i++) {
        const float x = test_normal(seed);
        banyan_from_float(to + i, BANYAN_F16, &x, 1);
    }
}

/* The largest difference of two numbers of the same place; inf when one of them is a NaN. */
static inline double arrays_differ(const float *got, const float *expected, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        const double apart = got[i] == expected[i] ? 0 : fabs((double)got[i] - expected[i]);
        most = fmax(most, isnan(apart) ? INFINITY : apart);
    }
    return most;
}

/* A cache without sequences; *stream: its own, NULL on the CPU. */
static inline banyan_cache *arrays_cache(const banyan_plan *plan, cudaStream_t *stream)
{
    banyan_cache *cache = NULL;
    *stream = NULL;
    if (strcmp(banyan_plan_spec(plan)->device, "cpu") != 0)
        CHECK(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK_MSG(banyan_cache_create(plan, *stream, &cache) == BANYAN_OK, "%s",
              banyan_error_message());
    if (!cache) exit(1);
    return cache;
}

static inline void arrays_capture(cudaStream_t stream)
{
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
}

static inline cudaGraphExec_t arrays_captured(cudaStream_t stream)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    return exec;
}

#endif
