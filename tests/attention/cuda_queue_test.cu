/* SPDX-License-Identifier: Apache-2.0 */
/* A queue: arguments of many calls on their way at once, graphs that read theirs again, and
 * errors. The device copies each call's arguments away, as a kernel would read them. */
#include "emulator.h"
#include "tests/attention/cuda_calls.h"

enum { NUMBERS = 40, CALLS = 5 * CUDA_STAGES + 3 };

static banyan_device_limits limits_of(int captured)
{
    banyan_device_limits limits = {};
    limits.shape = {64, 128, 128, BANYAN_BF16};
    limits.heads = 8;
    limits.kv_heads = 2;
    limits.rows = 16;
    limits.tables = limits.strips = limits.spans = limits.packings = 20;
    limits.captured = captured;
    return limits;
}

/* Two arrays of one call, from memory that is garbage right afterwards, to `to` [NUMBERS]. */
static const char *call(banyan_queue *queue, int number, int *to)
{
    int first[NUMBERS - 3], second[3];
    for (int i = 0; i < NUMBERS - 3; i++) first[i] = 1000 * number + i;
    for (int i = 0; i < 3; i++) second[i] = 1000 * number + NUMBERS - 3 + i;
    cuda_array array[3] = {{first, sizeof first, NULL}, {NULL, 0, NULL}, {second, 12, NULL}};
    const char *failed = cuda_stage(queue, array, 3);
    memset(first, 0xee, sizeof first), memset(second, 0xee, sizeof second);
    for (int i = 0; !failed && i < 3; i++)
        CHECK((uintptr_t)array[i].device % 16 == 0 && array[i].device);
    if (!failed) failed = banyan_cuda_copy(queue, to, array[0].device, sizeof first);
    if (!failed)
        failed = banyan_cuda_copy(queue, to + NUMBERS - 3, array[2].device, sizeof second);
    return failed;
}

static void check_call(const int *got, int number)
{
    int wrong = 0;
    for (int i = 0; i < NUMBERS; i++) wrong += got[i] != 1000 * number + i;
    CHECK_MSG(wrong == 0, "call %d: %d numbers are wrong", number, wrong);
}

static void test_ring(void)
{
    const banyan_device_limits limits = limits_of(0);
    banyan_queue *queue = calls_open(&limits);
    static int got[CALLS][NUMBERS];
    int *to = (int *)calls_device(queue, sizeof got);
    for (int c = 0; c < CALLS; c++) RUNS(call(queue, c, to + c * NUMBERS));
    RUNS(banyan_cuda_wait(queue));
    calls_down(queue, got, to, sizeof got);
    for (int c = 0; c < CALLS; c++) check_call(got[c], c);

    char *large = (char *)calloc(1, queue->stage_bytes + 16);
    cuda_array array = {large, queue->stage_bytes + 16, NULL};
    const char *failed = cuda_stage(queue, &array, 1);
    CHECK(failed && strstr(failed, "its queue was opened for"));
    RUNS(call(queue, 7, to)); /* an error breaks nothing */
    calls_down(queue, got[0], to, sizeof got[0]);
    check_call(got[0], 7);
    free(large);
    banyan_cuda_release(queue, 0, to);
    banyan_cuda_close(queue);
}

/* A graph's calls keep their arguments, whatever the queue does between replays; and when the
 * memory for them is used up, that is an error in words. */
static void test_capture(void)
{
    const banyan_device_limits limits = limits_of(2);
    banyan_queue *queue = calls_open(&limits);
    cudaStream_t stream = (cudaStream_t)banyan_cuda_stream(queue);
    int got[3][NUMBERS], *to = (int *)calls_device(queue, sizeof got);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(!banyan_cuda_is_captured(queue));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(banyan_cuda_is_captured(queue));
    RUNS(call(queue, 1, to));
    RUNS(call(queue, 2, to + NUMBERS));
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(!banyan_cuda_is_captured(queue));
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    for (int replay = 0; replay < 3; replay++) {
        for (int c = 0; c < CALLS; c++) RUNS(call(queue, 50 + c, to + 2 * NUMBERS));
        RUNS(banyan_cuda_fill(queue, to, 0, 2 * NUMBERS * sizeof(int)));
        CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
        calls_down(queue, got, to, sizeof got);
        check_call(got[0], 1), check_call(got[1], 2), check_call(got[2], 50 + CALLS - 1);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);

    const char *failed = NULL;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    for (int c = 0; !failed && c < 10000; c++) failed = call(queue, c, to);
    CHECK_MSG(failed && strstr(failed, "set aside for 2 captured calls"), "%s",
              failed ? failed : "no error");
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    cudaGraphDestroy(graph);
    RUNS(call(queue, 9, to)); /* outside of graphs all is as before */
    calls_down(queue, got[0], to, sizeof got[0]);
    check_call(got[0], 9);
    banyan_cuda_release(queue, 0, to);
    banyan_cuda_close(queue);
}

/* Memory, and a stream of the caller's, which outlives the queue. */
static void test_memory(void)
{
    const banyan_device_limits limits = limits_of(1);
    banyan_queue *queue = NULL;
    cudaStream_t stream;
    size_t device = 0, host = 0, none = 0, less = 0;
    void *memory = NULL;
    int64_t available = 0;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    RUNS(banyan_cuda_open(&limits, stream, &queue));
    CHECK(queue && banyan_cuda_stream(queue) == stream);
    RUNS(banyan_cuda_memory_free(&available));
    CHECK(available > 0);
    const char *failed = banyan_cuda_allocate(queue, 0, (size_t)1 << 50, &memory);
    CHECK_MSG(failed && strstr(failed, "1125899906842624 bytes") && !memory, "%s",
              failed ? failed : "no error");
    banyan_cuda_queue_bytes(&limits, &device, &host);
    const banyan_device_limits fewer = limits_of(0);
    banyan_cuda_queue_bytes(&fewer, &none, &less);
    CHECK(device - none == queue->captured_bytes &&
          host - less == 2 * queue->captured_bytes); /* a tape has two places */
    CHECK(none == queue->scratch_bytes + queue->stage_bytes + CUDA_COUNTERS * sizeof(int));
    int counters[CUDA_COUNTERS], zeros[CUDA_COUNTERS] = {0};
    calls_down(queue, counters, queue->counter, sizeof counters);
    CHECK(!memcmp(counters, zeros, sizeof zeros));
    banyan_cuda_close(queue);
    banyan_cuda_close(NULL);
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    cudaStreamDestroy(stream);
}

/* The memory of a program's device, which is a stream and no queue; and a kernel's start that
 * failed. */
static void test_line(void)
{
    static const char words[] = "a start that failed";
    const banyan_memory_row *const row = &banyan_cuda_memory;
    banyan_cuda_line line = {};
    void *host = NULL, *device = NULL;
    line.is_mapped = 1;
    CHECK(cudaStreamCreateWithFlags(&line.stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(row->stream(&line) == line.stream && !row->is_captured(&line));
    RUNS(row->allocate(&line, 1, 64, &host));
    RUNS(row->allocate(&line, 0, 64, &device));
    memset(host, 1, 64);
    RUNS(row->fill(&line, device, 7, 64));
    line.failed = words;
    CHECK(row->copy(&line, host, device, 64) == words);
    RUNS(row->copy(&line, host, device, 64)); /* once */
    line.failed = words;
    CHECK(row->wait(&line) == words);
    RUNS(row->wait(&line));
    for (int i = 0; i < 64; i++) CHECK(((char *)host)[i] == 7);
    row->release(&line, 1, host);
    row->release(&line, 0, device);
    cudaStreamDestroy(line.stream);
}

/* What the emulated machine can be made to lack; a real one has what it has. */
static void test_missing(void)
{
    const banyan_device_limits limits = limits_of(0);
    banyan_queue *queue = NULL;
    size_t device = 0, host = 0;
    int count = 0;
    RUNS(banyan_cuda_missing());
    CHECK(banyan_cuda_capability() >= 80);
    emulator_set_devices(0);
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        cudaGetLastError();
        const char *why = banyan_cuda_missing();
        CHECK(why && !strcmp(why, "no CUDA device: the driver has none to offer"));
        why = banyan_cuda_open(&limits, NULL, &queue);
        CHECK(why && strstr(why, "no CUDA device") && !queue);
        CHECK(banyan_cuda_capability() == 0);
        banyan_cuda_queue_bytes(&limits, &device, &host); /* a plan may be made anywhere */
        CHECK(device > 0 && host > 0);
        emulator_set_devices(1);
        emulator_set_capability(75);
        why = banyan_cuda_missing();
        CHECK_MSG(why &&
                      !strcmp(why, "no CUDA device: compute capability 7.5, and 8.0 is needed"),
                  "%s", why ? why : "no error");
        emulator_set_capability(89);
        banyan_device_limits latent = limits;
        latent.shape = {64, 576, 512, BANYAN_BF16, 1};
        why = banyan_cuda_open(&latent, NULL, &queue);
        CHECK_MSG(why &&
                      strstr(why, "key_dim 576: a thread block of this GPU has 101376 bytes of "
                                  "shared memory, which is too little: expected key_dim of at "
                                  "most 256"),
                  "%s", why ? why : "no error");
        emulator_set_capability(90);
        CHECK(!banyan_cuda_missing() && banyan_cuda_capability() == 90);
        CHECK(cudaGetLastError() == cudaSuccess);
    }
    CHECK(!cuda_failed(cudaSuccess, "nothing"));
    const char *words = cuda_failed(cudaErrorInvalidValue, "doing it");
    CHECK_MSG(!strcmp(words, "doing it: cudaErrorInvalidValue (invalid argument)"), "%s",
              words);
}

int main(void)
{
    test_ring();
    test_capture();
    test_memory();
    test_line();
    test_missing();
    return test_end();
}
