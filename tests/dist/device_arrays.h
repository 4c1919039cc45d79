/* SPDX-License-Identifier: Apache-2.0 */
/* device_arrays.h - arrays of calls where a cache is: on its device, or on the host, so that a test may
 * make the same calls on both. */
#ifndef BANYAN_TESTS_DEVICE_ARRAYS_H
#define BANYAN_TESTS_DEVICE_ARRAYS_H

#include "dist/device_cache.h"
#include "tests/test.h"

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

#endif
