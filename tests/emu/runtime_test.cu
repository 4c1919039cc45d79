/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side: memory, streams, events, graphs, launches that must fail. */
#include "emulator.h"
#include "tests/emu/trial.h"

#include <thread>

static __global__ void add_kernel(int *to, const int *from, int count, int more)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count) to[i] += from[i] + more;
}

static cudaError_t add(cudaStream_t stream, int *to, const int *from, int more)
{
    const cuda_shape shape = {dim3(1), dim3(64), 0, stream, false};
    return cuda_launch(shape, add_kernel, to, from, 64, more);
}

static int *pinned(int value)
{
    int *p = nullptr;
    CHECK(cudaMallocHost(&p, 64 * sizeof(int)) == cudaSuccess);
    for (int i = 0; i < 64; i++) p[i] = value;
    return p;
}

/* ---- streams and events --------------------------------------------------------------- */

/* Two streams: b waits for a by an event; host memory is written again only after its event. */
static void test_events()
{
    cudaStream_t a, b;
    cudaEvent_t copied, added;
    CHECK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming) == cudaSuccess);
    CHECK(cudaEventCreateWithFlags(&added, cudaEventDisableTiming) == cudaSuccess);
    int *const host = pinned(5), *const result = pinned(-1);
    device_array<int> x(64), y(64);
    CHECK(cudaMemcpyAsync(x.at, host, 256, cudaMemcpyHostToDevice, a) == cudaSuccess);
    CHECK(cudaEventRecord(copied, a) == cudaSuccess);
    CHECK(cudaMemsetAsync(y.at, 0, 256, b) == cudaSuccess);
    CHECK(cudaEventSynchronize(copied) == cudaSuccess && cudaEventQuery(copied) == cudaSuccess);
    for (int i = 0; i < 64; i++) host[i] = 1000;
    CHECK(add(a, x.at, x.at, 1) == cudaSuccess); /* 5 + 5 + 1 */
    CHECK(cudaEventRecord(added, a) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(b, added) == cudaSuccess);
    CHECK(add(b, y.at, x.at, 2) == cudaSuccess);
    CHECK(cudaMemcpyAsync(result, y.at, 256, cudaMemcpyDefault, b) == cudaSuccess);
    for (int i = 0; cudaStreamQuery(b) == cudaErrorNotReady; i++) CHECK(i < 100);
    for (int i = 0; i < 64; i++) CHECK_MSG(result[i] == 13, "%d", result[i]);
    CHECK(cudaStreamDestroy(a) == cudaSuccess && cudaStreamDestroy(b) == cudaSuccess);
    cudaEventDestroy(copied), cudaEventDestroy(added);
    cudaFreeHost(host), cudaFreeHost(result);
}

/* What a copy reads is written again before anybody waited: the eager mode hides it, the lazy
 * one not. */
static void test_late_copy()
{
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    int *const host = pinned(1);
    device_array<int> x(64);
    CHECK(cudaMemcpyAsync(x.at, host, 256, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    host[0] = 2;
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    const int got = x.read()[0];
    if (emulator_get_mode() != EMULATOR_RANDOM)
        CHECK(got == (emulator_get_mode() == EMULATOR_LAZY ? 2 : 1));
    int pageable = 3; /* this is read before the call returns */
    CHECK(cudaMemcpyAsync(x.at, &pageable, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    pageable = 4;
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess && x.read()[0] == 3);
    cudaStreamDestroy(stream);
    cudaFreeHost(host);
}

/* ---- kernels that overlap ------------------------------------------------------------- */

static __global__ void first_kernel(int *x)
{
    if (threadIdx.x < 8) x[threadIdx.x] = 7;
    launch_next();
}
/* seen[0]: x before launch_wait, [1]: after it. */
static __global__ void second_kernel(const int *x, int *seen)
{
    volatile const int *const from = x;
    const int early = from[0];
    launch_wait();
    if (threadIdx.x == 0) seen[0] = early, seen[1] = from[0];
}

static void test_overlap()
{
    device_array<int> x(std::vector<int>(8, 1)), seen(2), third(2);
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    const cuda_shape plain = {dim3(2), dim3(32), 0, stream, false};
    const cuda_shape overlaps = {dim3(1), dim3(32), 0, stream, true};
    const int *const from = x.at, *const seen_from = seen.at;
    CHECK(cuda_launch(plain, first_kernel, x.at) == cudaSuccess);
    CHECK(cuda_launch(overlaps, second_kernel, from, seen.at) == cudaSuccess);
    CHECK(cuda_launch(overlaps, second_kernel, seen_from + 1, third.at) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    const std::vector<int> two = seen.read(), three = third.read();
    CHECK(two[1] == 7 && three[1] == 7);
    if (emulator_get_mode() == EMULATOR_EAGER) CHECK(two[0] == 7 && three[0] == 7);
    if (emulator_get_mode() == EMULATOR_LAZY) CHECK(two[0] == 1 && three[0] == -1);
    cudaStreamDestroy(stream);
}

/* ---- graphs --------------------------------------------------------------------------- */

static void test_graph()
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamCaptureStatus status;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    int *const host = pinned(1), more = 10;
    device_array<int> x(std::vector<int>(64, 0)), from(64);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
          status == cudaStreamCaptureStatusActive);
    CHECK(cudaMemcpyAsync(from.at, host, 256, cudaMemcpyDefault, stream) == cudaSuccess);
    CHECK(add(stream, x.at, from.at, more) == cudaSuccess);
    more = 1000; /* an argument's value is that of the call */
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(x.read()[63] == 0); /* nothing has run */
    for (int i = 1; i <= 3; i++) {
        host[63] = 100 * i; /* memory is read by each replay */
        CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
        CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    }
    CHECK(x.read()[63] == 600 + 3 * 10 && x.read()[0] == 3 * 11);
    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);

    void *p = nullptr;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaMalloc(&p, 16) == cudaErrorStreamCaptureUnsupported && !p);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaGetLastError() != cudaSuccess && cudaGetLastError() == cudaSuccess);
    cudaStreamDestroy(stream);
    cudaFreeHost(host);
}

/* ---- what must be refused ------------------------------------------------------------- */

static void test_refused()
{
    int host[64] = {0}, count;
    void *p;
    size_t free_bytes, total, left;
    device_array<int> x(64);
    CHECK(cudaMemcpy(host, x.at, 256, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(x.at, host, 256, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(host, x.at, 257, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaFree(x.at + 1) == cudaErrorInvalidValue);
    CHECK(cudaMemGetInfo(&free_bytes, &total) == cudaSuccess);
    CHECK(cudaMalloc(&p, free_bytes + 1) == cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&p, 1 << 20) == cudaSuccess);
    CHECK(cudaMemGetInfo(&left, &total) == cudaSuccess && free_bytes - left == 1 << 20);
    CHECK(cudaFree(p) == cudaSuccess);

    cuda_shape shape = {dim3(1), dim3(1025), 0, nullptr, false};
    const int *const from = x.at;
    CHECK(cuda_launch(shape, add_kernel, x.at, from, 64, 0) == cudaErrorInvalidConfiguration);
    shape.block = dim3(64), shape.grid = dim3(0);
    CHECK(cuda_launch(shape, add_kernel, x.at, from, 64, 0) == cudaErrorInvalidConfiguration);
    shape.grid = dim3(1), shape.shared_bytes = (227 << 10) + 1;
    CHECK(cuda_launch(shape, add_kernel, x.at, from, 64, 0) == cudaErrorInvalidValue);
    emulator_set_capability(80);
    shape.shared_bytes = 164 << 10;
    CHECK(cuda_launch(shape, add_kernel, x.at, from, 64, 0) == cudaErrorInvalidValue);
    emulator_set_capability(90);
    emulator_set_devices(0);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
    emulator_set_devices(1);
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 1);
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    emulator_set_multiprocessors(3);
    CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess &&
          count == 3);
}

/* ---- several threads of the host, each with its stream -------------------------------- */

static void one_rank(int *failures)
{
    cudaStream_t stream;
    *failures += cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess;
    device_array<int> x(std::vector<int>(64, 0)), one(std::vector<int>(64, 1));
    for (int i = 0; i < 50; i++) *failures += add(stream, x.at, one.at, i) != cudaSuccess;
    *failures += cudaStreamSynchronize(stream) != cudaSuccess;
    *failures += x.read()[63] != 50 + 49 * 50 / 2;
    cudaStreamDestroy(stream);
}

static void test_ranks()
{
    int failures[4] = {0};
    std::vector<std::thread> ranks;
    for (int &its : failures) ranks.emplace_back(one_rank, &its);
    for (std::thread &rank : ranks) rank.join();
    for (const int its : failures) CHECK(its == 0);
}

int main()
{
    test_events();
    test_late_copy();
    test_overlap();
    test_graph();
    test_refused();
    test_ranks();
    return test_end();
}
