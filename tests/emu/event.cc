/* SPDX-License-Identifier: Apache-2.0 */
/* Events: a place in a stream's work. */
#include "settings.h"
#include "stream.h"

using namespace emu;

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st;
    cudaGetDevice(&(*event)->device);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (!event) return failed(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    const std::shared_ptr<line> l = share_line(stream);
    if (l->device >= 0 && l->device != event->device)
        return failed(cudaErrorInvalidResourceHandle);
    get_settings().events++;
    std::lock_guard<std::mutex> lock(event->mutex);
    event->captured = l->captured;
    event->line = l->captured ? nullptr : l;
    event->count = l->queued;
    event->time = std::chrono::steady_clock::now();
    return cudaSuccess;
}

/* The event's line and count; NULL: never recorded, which counts as done. */
static std::shared_ptr<line> place_of(cudaEvent_t event, uint64_t *count)
{
    std::lock_guard<std::mutex> lock(event->mutex);
    *count = event->count;
    return event->line;
}

static cudaError_t refuse_captured(cudaEvent_t event)
{
    if (!event->captured) return cudaSuccess;
    event->captured->invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    const cudaError_t error = refuse_captured(event);
    if (error != cudaSuccess) return error;
    uint64_t count;
    const std::shared_ptr<line> l = place_of(event, &count);
    if (l) run_until(*l, count);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    const cudaError_t error = refuse_captured(event);
    if (error != cudaSuccess) return error;
    uint64_t count;
    const std::shared_ptr<line> l = place_of(event, &count);
    if (!l || l->done >= count) return cudaSuccess;
    run_until(*l, l->done + 1);
    return l->done >= count ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}

/* A stream that waits for an event of a captured one is captured with it. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    const std::shared_ptr<line> l = share_line(stream);
    uint64_t count;
    const std::shared_ptr<line> other = place_of(event, &count);
    if (event->captured) {
        if (l->captured && l->captured != event->captured)
            return failed(cudaErrorStreamCaptureUnmatched);
        l->captured = event->captured;
        return cudaSuccess;
    }
    if (!other || other == l) return cudaSuccess;
    return enqueue(
        stream, [other, count] { run_until(*other, count); }, work_of::host);
}
