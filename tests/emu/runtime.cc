/* SPDX-License-Identifier: Apache-2.0 */
/* The rest of the CUDA runtime: devices, memory, copies, launches. */
#include "block.h"
#include "cuda_runtime.h"
#include "memory.h"
#include "settings.h"
#include "stream.h"

#include <dlfcn.h>
#include <map>
#include <mutex>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

using namespace emu;

/* ---- errors ------------------------------------------------------------------------------ */

static const struct {
    cudaError_t error;
    const char *name, *words;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
     "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture sequence would merge independent captures"},
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.error == error) return e.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.error == error) return e.words;
    return "unrecognized error code";
}

/* ---- devices ----------------------------------------------------------------------------- */

static thread_local int current_device;

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = get_settings().devices;
    return *count > 0 ? cudaSuccess : failed(cudaErrorNoDevice);
}

static cudaError_t check_device(int device)
{
    const int count = get_settings().devices;
    if (count <= 0) return failed(cudaErrorNoDevice);
    return device >= 0 && device < count ? cudaSuccess : failed(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return check_device(current_device);
}

cudaError_t cudaSetDevice(int device)
{
    const cudaError_t error = check_device(device);
    if (error == cudaSuccess) current_device = device;
    return error;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    const settings &s = get_settings();
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = MOST_THREADS; break;
    case cudaDevAttrMultiProcessorCount: *value = s.multiprocessors; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    case cudaDevAttrComputeCapabilityMajor: *value = s.capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = s.capability % 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = shared_limit() + 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = shared_limit(); break;
    default: return failed(cudaErrorInvalidValue);
    }
    return check_device(device);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    const settings &s = get_settings();
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated device");
    prop->totalGlobalMem = s.memory;
    prop->sharedMemPerBlock = 48 << 10;
    prop->sharedMemPerBlockOptin = (size_t)shared_limit();
    prop->major = s.capability / 10;
    prop->minor = s.capability % 10;
    prop->multiProcessorCount = s.multiprocessors;
    prop->l2CacheSize = 50 << 20;
    prop->maxThreadsPerBlock = MOST_THREADS;
    prop->regsPerBlock = MOST_REGISTERS;
    prop->warpSize = WARP;
    return check_device(device);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device)
{
    snprintf(text, (size_t)length, "0000:%02X:00.0", device);
    return check_device(device);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* ---- launches ---------------------------------------------------------------------------- */

static std::mutex asked_mutex;
static std::map<const void *, int> asked; /* shared memory, by kernel */

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute,
                                 int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > shared_limit()) return failed(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> lock(asked_mutex);
    asked[kernel] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *)
{
    const cudaError_t error = refuse_in_capture(); /* it may have to load the kernel */
    if (get_settings().devices <= 0) return failed(cudaErrorNoDevice);
    memset(out, 0, sizeof *out);
    out->maxThreadsPerBlock = MOST_THREADS;
    out->ptxVersion = get_settings().code;
    out->binaryVersion = get_settings().capability;
    return error;
}

static size_t shared_asked(const void *kernel)
{
    std::lock_guard<std::mutex> lock(asked_mutex);
    const auto found = asked.find(kernel);
    const size_t unasked = 48 << 10;
    return found == asked.end() || (size_t)found->second < unasked ? unasked
                                                                   : (size_t)found->second;
}

cudaError_t emu_launch(const cudaLaunchConfig_t &config, const void *kernel,
                       size_t argument_bytes, std::function<void()> thread)
{
    const dim3 grid = config.gridDim, threads = config.blockDim;
    const uint64_t count = (uint64_t)threads.x * threads.y * threads.z;
    bool overlaps = false;
    if (get_settings().devices <= 0) return failed(cudaErrorNoDevice);
    const int device = line_of(config.stream).device;
    if (device >= 0 && device != current_device) return failed(cudaErrorInvalidResourceHandle);
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 ||
        grid.z > 65535 || !count || count > MOST_THREADS || threads.z > 64)
        return failed(cudaErrorInvalidConfiguration);
    if (argument_bytes > 32764 || config.dynamicSmemBytes > shared_asked(kernel))
        return failed(cudaErrorInvalidValue);
    for (unsigned i = 0; i < config.numAttrs; i++) {
        const cudaLaunchAttribute &attribute = config.attrs[i];
        if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization)
            overlaps = attribute.val.programmaticStreamSerializationAllowed;
        else if (attribute.id != cudaLaunchAttributeIgnore)
            return failed(cudaErrorInvalidValue);
    }
    const size_t shared_bytes = config.dynamicSmemBytes;
    const auto run = [=] {
        run_grid(grid, threads, shared_bytes, overlaps,
                 (enum emulator_mode)get_settings().mode.load(), next_seed(), thread);
    };
    return enqueue(config.stream, run, overlaps ? work_of::overlapping_kernel : work_of::kernel,
                   kernel);
}

void emulator_kernel_name(const void *kernel, char *name, size_t bytes)
{
    Dl_info info = {};
    char command[256];
    snprintf(name, bytes, "?");
    if (!kernel || !dladdr(kernel, &info)) return;
    snprintf(command, sizeof command, "addr2line -f -C -e /proc/%ld/exe %#tx", (long)getpid(),
             (const char *)kernel - (const char *)info.dli_fbase);
    FILE *const pipe = popen(command, "r");
    if (!pipe) return;
    if (fgets(name, (int)bytes, pipe)) name[strcspn(name, "\n")] = 0;
    pclose(pipe);
}
