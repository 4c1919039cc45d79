/* SPDX-License-Identifier: Apache-2.0 */
/* The host's memory, in whole cache lines. */
#include "banyan_memory.h"

#include <stdlib.h>
#include <string.h>

enum { line_bytes = 64 };

static const char *host_allocate(void *own, int on_host, size_t bytes, void **out)
{
    (void)own, (void)on_host;
    const size_t whole = (bytes + line_bytes - 1) / line_bytes * line_bytes;
    *out = aligned_alloc(line_bytes, whole ? whole : line_bytes);
    return *out ? NULL : "out of memory";
}

static void host_release(void *own, int on_host, void *memory)
{
    (void)own, (void)on_host;
    free(memory);
}

static const char *host_copy(void *own, void *to, const void *from, size_t bytes)
{
    (void)own;
    if (bytes) memcpy(to, from, bytes);
    return NULL;
}

static const char *host_fill(void *own, void *memory, int byte, size_t bytes)
{
    (void)own;
    if (bytes) memset(memory, byte, bytes);
    return NULL;
}

static const char *host_gather(void *own, const banyan_gathered *move, int32_t count)
{
    for (int32_t i = 0; i < count; i++) host_copy(own, move[i].to, move[i].from, move[i].bytes);
    return NULL;
}

static const char *host_wait(void *own)
{
    (void)own;
    return NULL;
}

static int host_is_captured(void *own)
{
    (void)own;
    return 0;
}

static void *host_stream(void *own)
{
    (void)own;
    return NULL;
}

const banyan_memory_row banyan_memory_host = {.name = "host",
                                              .allocate = host_allocate,
                                              .release = host_release,
                                              .copy = host_copy,
                                              .fill = host_fill,
                                              .put = host_copy,
                                              .gather = host_gather,
                                              .wait = host_wait,
                                              .is_captured = host_is_captured,
                                              .stream = host_stream};
