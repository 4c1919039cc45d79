/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - the processor whose memory banyan_attend works on, as the programs see it.
 *
 * Two rows: the CPU, whose memory is the host's, so that nothing is ever copied, and CUDA, in a
 * build without CUDA a row that says so. Programs fill and read arrays on the host, and hand
 * `there` to the library:
 *
 *     fill a->host,  device_send,  banyan_attend(.., a->there, ..), device_fetch,  read a->host
 *
 * On the CPU `there` is `host`, and sending, fetching and waiting return at once.
 * cuda_runtime_api.h and cublas_v2.h appear in launch/cuda* only. */
#ifndef BANYAN_DEVICE_H
#define BANYAN_DEVICE_H

#include "banyan.h"
#include "banyan_memory.h"

#include <stdbool.h>

/* One kind of device. Functions return NULL, or what went wrong in words (valid until the next
 * call). own: what `open` made. Work is done in the order in which it was asked for; only wait
 * and elapsed wait for it. A copy from memory of the host that is not allocate_host's has read
 * it when it returns. */
typedef struct device_row {
    const char *name;             /* as in execution.device */
    const char *(*missing)(void); /* NULL, or why there is none here, in words */
    int (*count)(void);           /* devices of this machine */
    const char *(*open)(int index, void **own);
    void (*close)(void *own);
    void (*describe)(void *own, char *text, size_t size); /* its name, for people */
    const char *(*memory_free)(void *own, int64_t *bytes);

    /* What it works on, by the same own; put and gather are for messages, which have it
     * elsewhere. */
    const banyan_memory_row *memory;
    /* Of activations in its memory, launch/model/steps.h; NULL: the CPU's. */
    const struct step_row *steps;

    /* out [rows][count] = in [rows][width] weight^T, weight [count][width]; all on the device.
     * weight and in are of `dtype`, fp32 or (not on the CPU) bf16; products are exact, sums and
     * out fp32. */
    const char *(*product)(void *own, banyan_dtype dtype, const void *weight, int64_t count,
                           int64_t width, const void *in, int32_t rows, float *out);
    /* c [n][n] = a b, bf16 with sums in fp32; all on the device. For measuring. */
    const char *(*product_bf16)(void *own, int32_t n, const void *a, const void *b, void *c);

    /* Clocks on the device: `mark` 0 or 1 is passed when all work before it is done. */
    const char *(*mark)(void *own, int which);
    const char *(*elapsed)(void *own,
                           double *seconds); /* from mark 0 to mark 1; waits for it */
    /* What is asked for between the two goes to *graph instead of being done; replay does
     * it. */
    const char *(*capture)(void *own);
    const char *(*captured)(void *own, void **graph);
    const char *(*replay)(void *own, void *graph);
    void (*drop)(void *own, void *graph);
} device_row;

extern const device_row device_row_cpu, device_row_cuda;

/* A device that was opened. */
typedef struct device {
    const device_row *row;
    void *own;
    char why[512]; /* what a call that returned ERR_DEVICE said; "" when none did */
} device;

/* The CPU: always there. */
extern device device_cpu;

/* The row of a name; NULL, and why in words, when the name is none or this machine has no such
 * device. name NULL: the CPU. */
const device_row *device_find(const char *name, char *why, size_t why_bytes);
/* Opens device `index` of the machine. ERR_DEVICE with words, or MEMORY. */
banyan_status device_open(const device_row *row, int index, device **out, char *why,
                          size_t why_bytes);
/* NULL and the CPU are accepted. */
void device_close(device *d);

/* For banyan_cache_create. */
static inline void *device_stream(device *d)
{
    return d->row->memory->stream(d->own);
}

/* Turns words into ERR_DEVICE and keeps them in d->why; NULL is OK. */
banyan_status device_said(device *d, const char *words);
/* Until all that was asked of the device is done. */
banyan_status device_wait(device *d);

/* An array of the host, and the same on the device. */
typedef struct device_array {
    void *host;
    void *there; /* host itself, where the device's memory is the host's */
    size_t bytes;
} device_array;

/* Every byte is `byte` on both sides: DEVICE_NAN shows what is read without having been made.
 * MEMORY or ERR_DEVICE; what was made is for device_array_free in any case. */
enum { DEVICE_NAN = 0xff };
banyan_status device_array_make(device *d, size_t bytes, int byte, device_array *out);
void device_array_free(device *d, device_array *a);
/* Host to device; the host may write again after the next wait or fetch. */
banyan_status device_send(device *d, const device_array *a, size_t bytes);
/* Device to host, when all work before is done; returns when it is there. */
banyan_status device_fetch(device *d, const device_array *a, size_t bytes);

/* Memory where the device works alone, every byte of it `byte`: the host's, where that is the
 * device's. MEMORY or ERR_DEVICE, and *out is NULL. */
banyan_status device_memory_make(device *d, size_t bytes, int byte, void **out);
void device_memory_free(device *d, void *memory); /* NULL is accepted */
/* Moves what malloc gave to the device's own memory, where that is apart: *memory is its
 * address there, and is for device_memory_free in any case. NULL stays NULL. */
banyan_status device_keep(device *d, void **memory, size_t bytes);
/* From the device's memory to the host's; returns when it is there. */
banyan_status device_read(device *d, void *host, const void *there, size_t bytes);

#endif
