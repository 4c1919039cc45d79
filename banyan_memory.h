/* SPDX-License-Identifier: Apache-2.0 */
/* banyan_memory.h - the memory of a processor, described once: where records, items, messages
 * and activations lie.
 *
 * Knows: bytes, and the order of work in which they are made and moved. Refuses to know: what
 * they mean, and how they get to another rank. Included by attention/, comm/, dist/ and
 * launch/.
 *
 * A kind of memory is a row of functions; the host's own is banyan_memory_host, in which all is
 * done when a call returns. A device's queue their work on one stream and return; what they
 * read from the host is read before they return, but for `copy`. They return NULL, or what went
 * wrong in words (valid until this thread's next call). */
#ifndef BANYAN_MEMORY_H
#define BANYAN_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BANYAN_COMPARED_BYTES = 64 }; /* of put, at most, and of a check */

/* BANYAN_COMPARED_BYTES of a memory against as many of any host memory. */
typedef struct banyan_check {
    const void *got, *expected;
} banyan_check;

/* What was found in memory in place of what was expected: of the first check that failed. Both
 * are written down while is_set is 0, and then it becomes 1. */
typedef struct banyan_fault {
    int32_t is_set, unused[15];
    unsigned char got[BANYAN_COMPARED_BYTES], expected[BANYAN_COMPARED_BYTES];
} banyan_fault;

/* Bytes that are copied within a memory, or (is_put) at most BANYAN_COMPARED_BYTES of any host
 * memory that are put there. */
typedef struct banyan_gathered {
    void *to;
    const void *from;
    size_t bytes;
    int is_put;
} banyan_gathered;

/* One kind of memory. own: the stream of work, as who made it knows it; unused by the
 * host's. */
typedef struct banyan_memory_row {
    const char *name;
    int is_apart; /* the host cannot read it */
    /* on_host: of the host, page-locked where that can be had, so that the device copies it
     * fast. */
    const char *(*allocate)(void *own, int on_host, size_t bytes, void **out);
    void (*release)(void *own, int on_host, void *memory); /* NULL: nothing */
    /* From any memory to any. Host memory comes from allocate(on_host), and stays as it is
     * until the stream got there. */
    const char *(*copy)(void *own, void *to, const void *from, size_t bytes);
    const char *(*fill)(void *own, void *memory, int byte, size_t bytes);
    /* `bytes` (at most BANYAN_COMPARED_BYTES) of any host memory, read before it returns, to
     * this one. */
    const char *(*put)(void *own, void *to, const void *from, size_t bytes);
    /* All of them at once, none to where another is from; those that are put are read before it
     * returns. */
    const char *(*gather)(void *own, const banyan_gathered *move, int32_t count);
    const char *(*wait)(void *own); /* until all that was queued is done */
    int (*is_captured)(void *own);  /* does what is queued go to a graph just now? */
    void *(*stream)(void *own);     /* a cudaStream_t; NULL: none */
} banyan_memory_row;

extern const banyan_memory_row banyan_memory_host;

/* A CUDA device's, in a build with CUDA; all calls work on the current device. What own points
 * to begins with this. */
typedef struct banyan_cuda_line {
    struct CUstream_st *stream; /* what a cudaStream_t is */
    /* What a kernel's start said that had nobody to tell: copy and wait say it, once. NULL:
     * nothing */
    const char *failed;
    int is_mapped; /* the device uses host memory of allocate(on_host) in place; 1 first */
    int waits; /* kernels may begin before those ahead of them end; 0 where that is not known */
} banyan_cuda_line;
extern const banyan_memory_row banyan_cuda_memory;

/* Memory of one kind, by one stream of work. */
typedef struct banyan_memory {
    const banyan_memory_row *row;
    void *own;
    int is_staged; /* messages in it pass through the host's, as the transport wants */
} banyan_memory;

static inline const char *banyan_memory_allocate(const banyan_memory *m, int on_host,
                                                 size_t bytes, void **out)
{
    return m->row->allocate(m->own, on_host, bytes, out);
}

static inline void banyan_memory_release(const banyan_memory *m, int on_host, void *memory)
{
    if (memory) m->row->release(m->own, on_host, memory);
}

static inline const char *banyan_memory_copy(const banyan_memory *m, void *to, const void *from,
                                             size_t bytes)
{
    return m->row->copy(m->own, to, from, bytes);
}

static inline const char *banyan_memory_fill(const banyan_memory *m, void *memory, int byte,
                                             size_t bytes)
{
    return m->row->fill(m->own, memory, byte, bytes);
}

static inline const char *banyan_memory_put(const banyan_memory *m, void *to, const void *from,
                                            size_t bytes)
{
    return m->row->put(m->own, to, from, bytes);
}

static inline const char *banyan_memory_gather(const banyan_memory *m,
                                               const banyan_gathered *move, int32_t count)
{
    return m->row->gather(m->own, move, count);
}

static inline const char *banyan_memory_wait(const banyan_memory *m)
{
    return m->row->wait(m->own);
}

static inline int banyan_memory_is_captured(const banyan_memory *m)
{
    return m->row->is_captured(m->own);
}

static inline void *banyan_memory_stream(const banyan_memory *m)
{
    return m->row->stream(m->own);
}

#ifdef __cplusplus
}
#endif
#endif
