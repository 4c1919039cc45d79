/* SPDX-License-Identifier: Apache-2.0 */
/* stream.h - streams, events and graphs: work in order. */
#ifndef BANYAN_TESTS_EMU_STREAM_H
#define BANYAN_TESTS_EMU_STREAM_H

#include "emulator.h"

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace emu
{

struct task {
    std::function<void()> run; /* perhaps more than once */
    bool is_kernel, overlaps;  /* a kernel that may begin before the kernel ahead of it ends */
    bool is_host;              /* may not touch the device's memory */
};
typedef std::shared_ptr<const task> work;

struct capture {
    std::vector<work> works;
    bool invalid = false;
    bool relaxed = false; /* the thread may go on with unsafe calls */
};

/* Work of one stream. One thread at a time runs it, often not the one that queued it. */
struct line {
    std::mutex mutex; /* of what follows */
    std::deque<work> waiting;
    std::atomic<uint64_t> queued{0}, done{0};
    std::thread::id runner;  /* while it is_running */
    bool is_blocking = true; /* in order with the legacy default stream */
    bool is_running = false;
    int device = -1; /* where kernels and events of it belong; the default stream: anywhere */
    std::shared_ptr<capture> captured;
};

line &line_of(cudaStream_t stream);
std::shared_ptr<line> share_line(cudaStream_t stream);
void run_until(line &l, uint64_t count); /* until so many of those queued are done */
void run_all_lines();                    /* of this thread */
/* Queued, or recorded; in the eager mode, run. */
enum class work_of { host, device, kernel, overlapping_kernel }; /* host: no device memory */
cudaError_t enqueue(cudaStream_t stream, std::function<void()> what,
                    work_of kind = work_of::device, const void *kernel = nullptr);
/* An error if this thread is capturing, which this call spoils. */
cudaError_t refuse_in_capture();
cudaError_t failed(cudaError_t error); /* remembers it for cudaGetLastError */

} // namespace emu

struct CUstream_st {
    std::shared_ptr<emu::line> line;
};
struct CUevent_st {
    int device = 0;
    std::mutex mutex;
    std::shared_ptr<emu::line> line; /* where it was recorded; NULL: never */
    uint64_t count = 0;              /* of that line's work that is before it */
    std::shared_ptr<emu::capture> captured;
    std::chrono::steady_clock::time_point time;
};
struct CUgraph_st {
    std::vector<emu::work> works;
};
struct CUgraphExec_st {
    std::vector<emu::work> works;
};

#endif
