/* SPDX-License-Identifier: Apache-2.0 */
/* Streams. In the eager mode work is done at the call; in the lazy mode when somebody waits for
 * it, so that host memory that is written again too early, or read too early, gives wrong
 * numbers; in the random mode some of it is done at some calls.
 *
 * The legacy default stream (NULL) waits for the blocking streams, and they for it; streams
 * made with cudaStreamNonBlocking do neither. Each thread of the host has streams of its own as
 * far as these rules go: threads stand for ranks, and ranks share no device's default
 * stream. */
#include "stream.h"
#include "block.h"
#include "memory.h"
#include "settings.h"

#include <algorithm>

namespace emu
{

namespace
{
struct own_lines {
    std::shared_ptr<line> legacy = std::make_shared<line>();
    std::vector<std::shared_ptr<line>> made;
};
} // namespace

static thread_local own_lines own;
static thread_local std::vector<std::shared_ptr<capture>> capturing;
static thread_local cudaError_t last_error = cudaSuccess;

cudaError_t failed(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
}

static bool is_legacy(cudaStream_t stream)
{
    return !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

std::shared_ptr<line> share_line(cudaStream_t stream)
{
    return is_legacy(stream) ? own.legacy : stream->line;
}

line &line_of(cudaStream_t stream)
{
    return *share_line(stream);
}

/* Works first .. last of which each but the first overlaps the one ahead of it: that one runs
 * when it is waited for (launch_wait), and no earlier. */
static void run_overlapping(const std::vector<work> &works, size_t first, size_t last)
{
    if (first < last)
        before_kernel = [&works, first, last] { run_overlapping(works, first, last - 1); };
    works[last]->run();
}

static void run_in_order(const std::vector<work> &works)
{
    const int mode = get_settings().mode;
    for (size_t first = 0, last; first < works.size(); first = last + 1) {
        last = first;
        while (last + 1 < works.size() && works[last]->is_kernel && works[last + 1]->overlaps &&
               (mode == EMULATOR_LAZY || (mode == EMULATOR_RANDOM && next_seed() & 1)))
            last++;
        run_overlapping(works, first, last);
    }
}

/* The next piece of the line's work, and kernels behind it that overlap, for this thread to
 * run; none when another one is at it. *is_over: there is nothing to do, or this thread is at
 * it: what is before its own work is done. */
static std::vector<work> take_work(line &l, uint64_t count, bool *is_over)
{
    std::lock_guard<std::mutex> lock(l.mutex);
    std::vector<work> works;
    *is_over = l.done >= count;
    if (l.is_running) {
        *is_over = *is_over || l.runner == std::this_thread::get_id();
        return works;
    }
    if (l.waiting.empty()) *is_over = true;
    if (*is_over) return works;
    do {
        works.push_back(l.waiting.front());
        l.waiting.pop_front();
    } while (works.back()->is_kernel && !l.waiting.empty() && l.waiting.front()->overlaps);
    l.is_running = true;
    l.runner = std::this_thread::get_id();
    return works;
}

/* Nothing is locked while work runs: it may wait for other streams, and theirs for this one's.
 * The device's memory stays open from one piece of its work to the next: opening takes long
 * where much of it is in use. */
void run_until(line &l, uint64_t count)
{
    bool was_open = false;
    const auto open = [&was_open](bool now) {
        if (now && !was_open) memory_open();
        if (!now && was_open) memory_close();
        was_open = now;
    };
    for (bool is_over = false; !is_over;) {
        const std::vector<work> works = take_work(l, count, &is_over);
        if (!works.empty()) {
            open(!works[0]->is_host);
            run_in_order(works);
            std::lock_guard<std::mutex> lock(l.mutex);
            l.is_running = false;
            l.done += works.size();
        } else if (!is_over) {
            std::this_thread::yield();
        }
    }
    open(false);
}

static void run_blocking_lines()
{
    for (const auto &l : std::vector<std::shared_ptr<line>>(own.made))
        if (l->is_blocking) run_until(*l, l->queued);
}

void run_all_lines()
{
    run_until(*own.legacy, own.legacy->queued);
    for (const auto &l : std::vector<std::shared_ptr<line>>(own.made)) run_until(*l, l->queued);
}

cudaError_t refuse_in_capture()
{
    cudaError_t error = cudaSuccess;
    for (const auto &c : capturing)
        if (!c->relaxed) {
            c->invalid = true;
            error = cudaErrorStreamCaptureUnsupported;
        }
    return failed(error);
}

/* How much of a line is done at once. */
static void begin_some(line &l)
{
    const settings &s = get_settings();
    if (s.mode == EMULATOR_EAGER) run_until(l, l.queued);
    if (s.mode == EMULATOR_RANDOM) {
        const uint64_t random = next_seed();
        if (random & 1) run_until(l, l.queued - (random >> 1) % 4);
    }
}

static void (*watcher)(const void *kernel, void *ctx);
static void *watcher_ctx;

cudaError_t enqueue(cudaStream_t stream, std::function<void()> what, work_of kind,
                    const void *kernel)
{
    line &l = line_of(stream);
    const bool overlaps = kind == work_of::overlapping_kernel;
    settings &s = get_settings();
    if (overlaps || kind == work_of::kernel)
        s.kernels++;
    else if (kind == work_of::device)
        s.copies++;
    if (watcher && kind != work_of::host) watcher(kernel, watcher_ctx);
    if (s.idle) return cudaSuccess;
    if (kind != work_of::host)
        what = [what] {
            memory_open();
            what();
            memory_close();
        };
    const work w = std::make_shared<const task>(task{
        std::move(what), overlaps || kind == work_of::kernel, overlaps, kind == work_of::host});
    if (l.captured) {
        if (l.captured->invalid) return failed(cudaErrorStreamCaptureInvalidated);
        l.captured->works.push_back(w);
        return cudaSuccess;
    }
    if (is_legacy(stream)) {
        const cudaError_t error = refuse_in_capture();
        if (error != cudaSuccess) return error;
        run_blocking_lines();
    } else if (l.is_blocking) {
        run_until(*own.legacy, own.legacy->queued);
    }
    {
        std::lock_guard<std::mutex> lock(l.mutex);
        l.waiting.push_back(w);
        l.queued++;
    }
    begin_some(l);
    return cudaSuccess;
}

} // namespace emu

using namespace emu;

void emulator_watch(void (*see)(const void *kernel, void *ctx), void *ctx)
{
    watcher = see;
    watcher_ctx = ctx;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

/* ---- streams ----------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    if (flags & ~(unsigned)cudaStreamNonBlocking) return failed(cudaErrorInvalidValue);
    const auto l = std::make_shared<line>();
    l->is_blocking = !(flags & cudaStreamNonBlocking);
    cudaGetDevice(&l->device);
    own.made.push_back(l);
    *stream = new CUstream_st{l};
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (is_legacy(stream)) return failed(cudaErrorInvalidResourceHandle);
    run_until(*stream->line, stream->line->queued);
    own.made.erase(std::remove(own.made.begin(), own.made.end(), stream->line), own.made.end());
    delete stream;
    return cudaSuccess;
}

/* Waiting for a stream that is being captured spoils the capture. */
static cudaError_t refuse_captured(line &l)
{
    if (!l.captured) return cudaSuccess;
    l.captured->invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    line &l = line_of(stream);
    const cudaError_t error = refuse_captured(l);
    if (error != cudaSuccess) return error;
    if (is_legacy(stream)) run_blocking_lines();
    run_until(l, l.queued);
    return cudaSuccess;
}

/* A stream that is only asked goes on, or who polls would wait for ever. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    line &l = line_of(stream);
    const cudaError_t error = refuse_captured(l);
    if (error != cudaSuccess) return error;
    if (l.done == l.queued) return cudaSuccess;
    run_until(l, l.done + 1);
    return l.done == l.queued ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    const cudaError_t error = refuse_in_capture();
    if (error == cudaSuccess) run_all_lines();
    return error;
}

cudaError_t cudaStreamGetDevice(cudaStream_t, int *device)
{
    return cudaGetDevice(device);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument)
{
    return enqueue(
        stream, [=] { function(argument); }, work_of::host);
}

cudaError_t emulator_enqueue(cudaStream_t stream, void (*run)(void *argument), void *argument,
                             void (*release)(void *argument))
{
    const std::shared_ptr<void> owner(argument, [release](void *p) {
        if (release) release(p);
    });
    return enqueue(stream, [run, owner] { run(owner.get()); });
}

/* ---- capture and graphs ------------------------------------------------------------------ */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    if (is_legacy(stream)) return failed(cudaErrorStreamCaptureUnsupported);
    line &l = *stream->line;
    if (l.captured) return failed(cudaErrorIllegalState);
    l.captured = std::make_shared<capture>();
    l.captured->relaxed = mode == cudaStreamCaptureModeRelaxed;
    capturing.push_back(l.captured);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    line &l = line_of(stream);
    const std::shared_ptr<capture> c = l.captured;
    *graph = nullptr;
    if (!c) return failed(cudaErrorIllegalState);
    for (const auto &other : own.made) /* also those that joined it by an event */
        if (other->captured == c) other->captured = nullptr;
    l.captured = nullptr;
    capturing.erase(std::remove(capturing.begin(), capturing.end(), c), capturing.end());
    if (c->invalid) return failed(cudaErrorStreamCaptureInvalidated);
    *graph = new CUgraph_st{c->works};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    const line &l = line_of(stream);
    *status = !l.captured           ? cudaStreamCaptureStatusNone
              : l.captured->invalid ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    if (!graph) return failed(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{graph->works};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t)
{
    return exec ? cudaSuccess : failed(cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    if (!exec) return failed(cudaErrorInvalidValue);
    const std::vector<work> works = exec->works;
    return enqueue(
        stream, [works] { run_in_order(works); }, work_of::host);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
