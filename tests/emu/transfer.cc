/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the runtime: taking it, giving it back, copies and fills in stream order. */
#include "cuda_runtime_api.h"
#include "memory.h"
#include "settings.h"
#include "stream.h"

#include <string.h>

using namespace emu;

/* ---- taking and giving back -------------------------------------------------------------- */

static cudaError_t take(memory kind, void **out, size_t bytes)
{
    const cudaError_t error = refuse_in_capture();
    *out = nullptr;
    if (error != cudaSuccess) return error;
    if (get_settings().devices <= 0) return failed(cudaErrorNoDevice);
    if (!bytes) return cudaSuccess;
    *out = memory_take(kind, bytes);
    return *out ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

/* Waits for the device, as cudaFree does. */
static cudaError_t give(memory kind, void *p)
{
    const cudaError_t error = refuse_in_capture();
    if (error != cudaSuccess || !p) return error;
    run_all_lines();
    return memory_give(kind, p) ? cudaSuccess : failed(cudaErrorInvalidValue);
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return take(memory::device, out, bytes);
}

cudaError_t cudaFree(void *p)
{
    return give(memory::device, p);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return take(memory::locked, out, bytes);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    return take(memory::locked, out, bytes);
}

cudaError_t cudaFreeHost(void *p)
{
    return give(memory::locked, p);
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    return memory_lock(p, bytes) ? cudaSuccess : failed(cudaErrorHostMemoryAlreadyRegistered);
}

cudaError_t cudaHostUnregister(void *p)
{
    return give(memory::locked, p);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    if (memory_kind(host) != memory::locked) return failed(cudaErrorInvalidValue);
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void **out, size_t bytes, cudaStream_t)
{
    return take(memory::device, out, bytes);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t)
{
    return give(memory::device, p);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = get_settings().memory;
    *free_bytes = *total - memory_taken();
    return get_settings().devices > 0 ? cudaSuccess : failed(cudaErrorNoDevice);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p)
{
    const memory kind = memory_kind(p);
    out->type = kind == memory::device   ? cudaMemoryTypeDevice
                : kind == memory::locked ? cudaMemoryTypeHost
                                         : cudaMemoryTypeUnregistered;
    out->device = kind == memory::pageable ? -2 : 0;
    out->devicePointer = kind == memory::pageable ? nullptr : const_cast<void *>(p);
    out->hostPointer = kind == memory::device ? nullptr : const_cast<void *>(p);
    return cudaSuccess;
}

/* ---- copies ------------------------------------------------------------------------------ */

/* Is p what this side of a copy should be, and are all its bytes in one piece? */
static bool fits(const void *p, size_t bytes, bool may_be_host, bool may_be_device)
{
    const memory kind = memory_kind(p);
    if (kind == memory::device) return may_be_device && memory_holds(kind, p, bytes);
    if (kind == memory::locked) return may_be_host && memory_holds(kind, p, bytes);
    return may_be_host;
}

static bool is_possible(const void *to, const void *from, size_t bytes,
                        enum cudaMemcpyKind kind)
{
    const bool any = kind == cudaMemcpyDefault;
    const bool to_host = kind == cudaMemcpyHostToHost || kind == cudaMemcpyDeviceToHost;
    const bool from_host = kind == cudaMemcpyHostToHost || kind == cudaMemcpyHostToDevice;
    return fits(to, bytes, any || to_host, any || !to_host) &&
           fits(from, bytes, any || from_host, any || !from_host);
}

static void count_sides(const void *to, const void *from)
{
    const bool is_to = memory_kind(to) == memory::device;
    const bool is_from = memory_kind(from) == memory::device;
    get_settings().to_device += is_to && !is_from;
    get_settings().to_host += is_from && !is_to;
}

/* Pageable memory is read before the call returns, and has been written when it does. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    if (!bytes) return cudaSuccess;
    if (!to || !from || !is_possible(to, from, bytes, kind))
        return failed(cudaErrorInvalidValue);
    count_sides(to, from);
    if (!line_of(stream).captured && memory_kind(from) == memory::pageable) {
        const std::vector<char> bytes_now((const char *)from, (const char *)from + bytes);
        return enqueue(stream, [=] { memcpy(to, bytes_now.data(), bytes); });
    }
    const cudaError_t error = enqueue(stream, [=] { memmove(to, from, bytes); });
    if (error != cudaSuccess || line_of(stream).captured) return error;
    return memory_kind(to) == memory::pageable ? cudaStreamSynchronize(stream) : cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    /* From pageable memory it returns when that has been read (API synchronisation
     * behaviour). */
    if (error != cudaSuccess ||
        (memory_kind(from) == memory::pageable && memory_kind(to) == memory::device))
        return error;
    return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    if (width > to_pitch || width > from_pitch) return failed(cudaErrorInvalidValue);
    for (size_t i = 0; i < height; i++) {
        const cudaError_t error =
            cudaMemcpyAsync((char *)to + i * to_pitch, (const char *)from + i * from_pitch,
                            width, kind, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    if (!bytes) return cudaSuccess;
    if (!memory_reaches(p, bytes)) return failed(cudaErrorInvalidValue);
    return enqueue(stream, [=] { memset(p, value, bytes); });
}

cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    return cudaMemsetAsync(p, value, bytes, nullptr);
}
