/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU as a device, and arrays that lie on two sides. */
#include "launch/device.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the CPU ----------------------------------------------------------------------------- */

static const char *none_missing(void)
{
    return NULL;
}

static int one(void)
{
    return 1;
}

static const char *cpu_product(void *own, banyan_dtype dtype, const void *weight, int64_t count,
                               int64_t width, const void *in, int32_t rows, float *out)
{
    (void)own;
    if (dtype != BANYAN_F32) return "products on the CPU are of fp32 alone";
    if (rows == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (blasint)count, (blasint)width, 1, weight,
                    (blasint)width, in, 1, 0, out, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, (blasint)count,
                    (blasint)width, 1, in, (blasint)width, weight, (blasint)width, 0, out,
                    (blasint)count);
    return NULL;
}

/* The rest is asked only of devices that are apart. */
const device_row device_row_cpu = {.name = "cpu",
                                   .missing = none_missing,
                                   .count = one,
                                   .memory = &banyan_memory_host,
                                   .product = cpu_product};

device device_cpu = {.row = &device_row_cpu};

/* ---- rows -------------------------------------------------------------------------------- */

static const device_row *const rows[] = {&device_row_cpu, &device_row_cuda};
enum { row_count = sizeof rows / sizeof rows[0] };

const device_row *device_find(const char *name, char *why, size_t why_bytes)
{
    const char *names[row_count + 1] = {NULL};
    if (!name) return &device_row_cpu;
    for (int i = 0; i < row_count; i++) {
        names[i] = rows[i]->name;
        if (strcmp(name, rows[i]->name)) continue;
        const char *missing = rows[i]->missing();
        if (!missing) return rows[i];
        snprintf(why, why_bytes, "device %s: %s", name, missing);
        return NULL;
    }
    const char *near = banyan_nearest(name, names);
    snprintf(why, why_bytes, "execution.device \"%s\": expected cpu or cuda%s%s%s", name,
             near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
    return NULL;
}

banyan_status device_open(const device_row *row, int index, device **out, char *why,
                          size_t why_bytes)
{
    if (!row->memory->is_apart) {
        *out = &device_cpu;
        return BANYAN_OK;
    }
    device *d = calloc(1, sizeof *d);
    if (!d) {
        snprintf(why, why_bytes, "out of memory");
        return BANYAN_ERR_MEMORY;
    }
    d->row = row;
    const char *words = row->open(index, &d->own);
    if (!words) {
        *out = d;
        return BANYAN_OK;
    }
    snprintf(why, why_bytes, "device %s %d: %s", row->name, index, words);
    free(d);
    return BANYAN_ERR_DEVICE;
}

void device_close(device *d)
{
    if (!d || d == &device_cpu) return;
    d->row->close(d->own);
    free(d);
}

banyan_status device_said(device *d, const char *words)
{
    if (!words) return BANYAN_OK;
    snprintf(d->why, sizeof d->why, "device %s: %s", d->row->name, words);
    return BANYAN_ERR_DEVICE;
}

banyan_status device_wait(device *d)
{
    return device_said(d, d->row->memory->wait(d->own));
}

/* ---- arrays ------------------------------------------------------------------------------ */

banyan_status device_array_make(device *d, size_t bytes, int byte, device_array *out)
{
    const banyan_memory_row *memory = d->row->memory;
    const size_t whole = bytes ? (bytes + 63) / 64 * 64 : 64;
    *out = (device_array){.bytes = bytes};
    if (memory->allocate(d->own, 1, whole, &out->host)) return BANYAN_ERR_MEMORY;
    memset(out->host, byte, whole);
    if (d->row->memory->is_apart) return device_memory_make(d, bytes, byte, &out->there);
    out->there = out->host;
    return BANYAN_OK;
}

void device_array_free(device *d, device_array *a)
{
    if (d->row->memory->is_apart) device_memory_free(d, a->there);
    d->row->memory->release(d->own, 1, a->host);
    *a = (device_array){0};
}

banyan_status device_send(device *d, const device_array *a, size_t bytes)
{
    if (!d->row->memory->is_apart) return BANYAN_OK;
    return device_said(d, d->row->memory->copy(d->own, a->there, a->host, bytes));
}

banyan_status device_fetch(device *d, const device_array *a, size_t bytes)
{
    if (!d->row->memory->is_apart) return BANYAN_OK;
    banyan_status status =
        device_said(d, d->row->memory->copy(d->own, a->host, a->there, bytes));
    return status ? status : device_wait(d);
}

/* ---- memory of the device alone ---------------------------------------------------------- */

banyan_status device_memory_make(device *d, size_t bytes, int byte, void **out)
{
    const size_t whole = bytes ? (bytes + 63) / 64 * 64 : 64;
    *out = NULL;
    const char *failed = d->row->memory->allocate(d->own, 0, whole, out);
    if (failed) return d->row->memory->is_apart ? device_said(d, failed) : BANYAN_ERR_MEMORY;
    return device_said(d, d->row->memory->fill(d->own, *out, byte, whole));
}

void device_memory_free(device *d, void *memory)
{
    d->row->memory->release(d->own, 0, memory);
}

banyan_status device_keep(device *d, void **memory, size_t bytes)
{
    void *host = *memory;
    if (!d->row->memory->is_apart || !host) return BANYAN_OK;
    banyan_status status = device_memory_make(d, bytes, 0, memory);
    if (!status) status = device_said(d, d->row->memory->copy(d->own, *memory, host, bytes));
    free(host);
    return status;
}

banyan_status device_read(device *d, void *host, const void *there, size_t bytes)
{
    banyan_status status = device_said(d, d->row->memory->copy(d->own, host, there, bytes));
    return status ? status : device_wait(d);
}
