/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of work, and how the arguments of its calls reach the device.
 *
 *     call:   host arrays -> [stage 0] [stage 1] .. [stage 7] -> one copy -> arguments ->
 *             kernels
 *                             page-locked, one after the other                (device)
 *
 * (Those of a small call go with its kernels instead: carried.h.)
 *
 * The host writes a stage and goes on; a stage may be written again when its copy is done,
 * which is long ago unless eight calls are on their way. On the device one place is enough,
 * since the stream puts a copy behind the kernels that read the one before it.
 *
 * In a graph both sides are read again with every replay. A captured call therefore takes bytes
 * of its own from memory that was set aside at open (no memory can be had while a graph is
 * being captured) and that the queue keeps until it is closed: it cannot know when the graph is
 * gone. */
#include "attention/cuda/queue.h"
#include "attention/cuda/record.h"
#include "attention/cuda/split.h"
#include "attention/cuda/tiles.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static thread_local char words[512];

const char *cuda_words(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return words;
}

const char *cuda_failed(cudaError_t error, const char *doing)
{
    if (error == cudaSuccess) return NULL;
    cudaGetLastError(); /* reported here; the next call starts clean */
    return cuda_words("%s: %s (%s)", doing, cudaGetErrorName(error), cudaGetErrorString(error));
}

/* ---- is there a device ------------------------------------------------------------------- */

static cudaError_t ask_capability(int *capability)
{
    int device = 0, major = 0, minor = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    *capability = 10 * major + minor;
    return error;
}

int banyan_cuda_capability(void)
{
    int capability = 0;
    if (ask_capability(&capability) == cudaSuccess) return capability;
    cudaGetLastError();
    return 0;
}

const char *banyan_cuda_missing(void)
{
    int count = 0, capability = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) cudaGetLastError();
    if (error == cudaErrorInsufficientDriver)
        return cuda_words("no CUDA device: there is no driver, or it is older than CUDA %d.%d",
                          CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return "no CUDA device: the driver has none to offer";
    if (error == cudaSuccess) error = ask_capability(&capability);
    if (error != cudaSuccess) return cuda_failed(error, "no CUDA device");
    if (capability < 80)
        return cuda_words("no CUDA device: compute capability %d.%d, and 8.0 is needed",
                          capability / 10, capability % 10);
    return NULL;
}

const char *banyan_cuda_memory_free(int64_t *bytes)
{
    size_t free_bytes = 0, total = 0;
    const cudaError_t error = cudaMemGetInfo(&free_bytes, &total);
    *bytes = (int64_t)free_bytes;
    return cuda_failed(error, "asking for free device memory");
}

/* Of the current device; where there is none (a plan may be made anywhere), those of an H100
 * SXM. */
static int multiprocessors(void)
{
    int count = 0, device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess && count > 0) return count;
    cudaGetLastError();
    return 132;
}

/* ---- sizes ------------------------------------------------------------------------------- */

static size_t aligned16(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

static size_t larger_bytes(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Lists of work that an attend makes up: at most so many. */
static size_t works_of(const banyan_device_limits *limits, int processors)
{
    return (size_t)limits->strips + (size_t)processors * CUDA_PARTS;
}

/* The lists of a decode of several parts, each cut as if it were alone. */
static size_t parts_bytes(const banyan_device_limits *limits, int processors)
{
    const size_t most = CUDA_DECODE_PARTS, parts = (size_t)limits->parts;
    return (parts < most ? parts : most) * (size_t)processors * 2 * CUDA_WORK_BYTES;
}

/* Strips cut into what a kernel takes at a time (decode.cu: a piece but a strip's last has on
 * average more than half of the vectors that it may have), with a portion and its blocks for
 * each. */
static size_t pieces_bytes(const banyan_device_limits *limits)
{
    const size_t vectors = (size_t)limits->heads * (size_t)limits->rows;
    const size_t most = limits->exact                           ? CUDA_EXACT_VECTORS
                        : record_is_wide(limits->shape.key_dim) ? CUDA_WIDE_VECTORS
                                                                : CUDA_PREFILL_VECTORS;
    return (2 * vectors / most + (size_t)limits->strips) *
           (sizeof(banyan_strip) + sizeof(cuda_portion) + sizeof(int32_t));
}

/* The plan of a Hopper prefill with the list for its combine; *device: what of it goes
 * there. */
static size_t tiles_bytes(const banyan_device_limits *limits, int processors, size_t *device)
{
    const int64_t vectors = (int64_t)limits->heads * limits->rows;
    const cuda_tiles_limits most = {vectors / CUDA_SUBTILE + limits->strips, limits->strips,
                                    limits->spans, limits->tables, processors};
    const size_t combined = (size_t)processors * CUDA_SUBTILES * CUDA_WORK_BYTES;
    const size_t bytes = banyan_cuda_tiles_bytes(&most, device);
    *device += combined;
    return bytes + combined;
}

/* What is made up on the way there does not all go to the device. */
static size_t room_bytes(const banyan_device_limits *limits, int processors)
{
    size_t device;
    const size_t attend =
        larger_bytes(3 * works_of(limits, processors) * CUDA_WORK_BYTES +
                         parts_bytes(limits, processors) + pieces_bytes(limits),
                     tiles_bytes(limits, processors, &device));
    return larger_bytes(attend, CUDA_ROOM_BYTES);
}

/* Arguments of the largest call: attend with all its arrays and the kernel's list of its work,
 * pack, or share with its pointers. */
static size_t stage_bytes(const banyan_device_limits *limits, int processors)
{
    const size_t heads = (size_t)limits->heads, strips = (size_t)limits->strips;
    const size_t works = works_of(limits, processors);
    const size_t lists = strips * (sizeof(banyan_strip) + sizeof(banyan_edge)) +
                         (size_t)limits->spans * sizeof(banyan_span) + works * CUDA_WORK_BYTES +
                         parts_bytes(limits, processors) + pieces_bytes(limits);
    size_t tiles;
    tiles_bytes(limits, processors, &tiles);
    const size_t attend = (size_t)limits->tables * sizeof(banyan_table_of_blocks) +
                          (size_t)limits->parts * sizeof(banyan_batch_part) +
                          heads * sizeof(float *) + larger_bytes(lists, tiles);
    const size_t pack = (size_t)limits->packings * sizeof(banyan_packing);
    const size_t pointers = 2 * heads * sizeof(float *);
    const size_t rounding = 16 * 16; /* arrays of a call begin at multiples of 16 */
    return aligned16(larger_bytes(larger_bytes(attend, pack), pointers)) + rounding;
}

/* Fixed-point sums are eight times as large as partials, but those of one part alone find room
 * here: two partials a multiprocessor, of CUDA_EXACT_VECTORS rows each. */
static size_t scratch_bytes(const banyan_device_limits *limits, int processors)
{
    return (size_t)processors * CUDA_PARTS * CUDA_PART_ROWS *
           banyan_partial_floats(limits->shape.value_dim) * sizeof(float);
}

void banyan_cuda_queue_bytes(const banyan_device_limits *limits, size_t *device, size_t *host)
{
    const int processors = multiprocessors();
    const size_t stage = stage_bytes(limits, processors);
    const size_t captured = (size_t)limits->captured * stage;
    *device =
        scratch_bytes(limits, processors) + CUDA_COUNTERS * sizeof(int) + stage + captured;
    *host = CUDA_STAGES * stage + 2 * captured + room_bytes(limits, processors);
}

/* ---- open and close ---------------------------------------------------------------------- */

void banyan_cuda_close(banyan_queue *queue)
{
    if (!queue) return;
    if (queue->stream) cudaStreamSynchronize(queue->stream);
    for (int i = 0; i < CUDA_STAGES; i++) {
        banyan_cuda_release(queue, 1, queue->stage[i].bytes);
        if (queue->stage[i].copied) cudaEventDestroy(queue->stage[i].copied);
    }
    cuda_tape_close(queue);
    banyan_cuda_release(queue, 1, queue->captured_host);
    banyan_cuda_release(queue, 0, queue->captured_arguments);
    banyan_cuda_release(queue, 0, queue->arguments);
    banyan_cuda_release(queue, 0, queue->counter);
    banyan_cuda_release(queue, 0, queue->scratch);
    free(queue->room);
    if (queue->owns_stream) cudaStreamDestroy(queue->stream);
    free(queue);
}

static const char *take_stages(banyan_queue *queue)
{
    const size_t bytes = queue->stage_bytes;
    const char *failed = banyan_cuda_allocate(queue, 0, bytes, (void **)&queue->arguments);
    for (int i = 0; !failed && i < CUDA_STAGES; i++) {
        failed = banyan_cuda_allocate(queue, 1, bytes, (void **)&queue->stage[i].bytes);
        if (!failed)
            failed = cuda_failed(
                cudaEventCreateWithFlags(&queue->stage[i].copied, cudaEventDisableTiming),
                "making an event");
    }
    queue->captured_bytes = (size_t)queue->limits.captured * bytes;
    if (!failed && queue->captured_bytes)
        failed = banyan_cuda_allocate(queue, 0, queue->captured_bytes,
                                      (void **)&queue->captured_arguments);
    if (!failed && queue->captured_bytes)
        failed = banyan_cuda_allocate(queue, 1, queue->captured_bytes,
                                      (void **)&queue->captured_host);
    return failed ? failed : cuda_tape_open(queue);
}

static const char *take_memory(banyan_queue *queue)
{
    queue->scratch_bytes = scratch_bytes(&queue->limits, queue->multiprocessors);
    queue->stage_bytes = stage_bytes(&queue->limits, queue->multiprocessors);
    queue->room_bytes = room_bytes(&queue->limits, queue->multiprocessors);
    queue->room = (char *)malloc(queue->room_bytes);
    if (!queue->room) return "out of memory";
    const char *failed = banyan_cuda_allocate(queue, 0, queue->scratch_bytes, &queue->scratch);
    if (!failed)
        failed = banyan_cuda_allocate(queue, 0, CUDA_COUNTERS * sizeof(int),
                                      (void **)&queue->counter);
    if (!failed) failed = take_stages(queue);
    if (!failed)
        failed = banyan_cuda_fill(queue, queue->counter, 0, CUDA_COUNTERS * sizeof(int));
    return failed;
}

/* Code is brought to the device when it is first asked for, which takes milliseconds and which
 * a stream that is being captured does not allow. */
static const char *load_kernels(banyan_queue *queue)
{
    static const char *(*const portable[])(banyan_queue *) = {
        cuda_combine_open, cuda_decode_open,   cuda_fold_open,      cuda_message_open,
        cuda_pack_open,    cuda_partials_open, cuda_passes_open,    cuda_prefill_open,
        cuda_wide_open,    cuda_exact_open,    cuda_exact_sums_open};
    static const char *(*const hopper[])(banyan_queue *) = {cuda_decode_hopper_open,
                                                            cuda_prefill_hopper_open};
    const char *failed = NULL;
    for (size_t i = 0; !failed && i < sizeof portable / sizeof *portable; i++)
        failed = portable[i](queue);
    for (size_t i = 0; !failed && i < sizeof hopper / sizeof *hopper; i++)
        if (banyan_cuda_capability() == 90) failed = hopper[i](queue);
    return failed;
}

const char *banyan_cuda_open(const banyan_device_limits *limits, void *stream,
                             banyan_queue **out)
{
    const char *failed = banyan_cuda_missing();
    if (failed) return failed;
    banyan_queue *queue = (banyan_queue *)calloc(1, sizeof(banyan_queue));
    if (!queue) return "out of memory";
    queue->limits = *limits;
    queue->stream = (cudaStream_t)stream;
    queue->multiprocessors = multiprocessors();
    queue->is_mapped = true; /* until memory cannot be page-locked */
    if (!stream) {
        failed = cuda_failed(cudaStreamCreateWithFlags(&queue->stream, cudaStreamNonBlocking),
                             "making a stream");
        queue->owns_stream = !failed;
    }
    if (!failed) failed = cuda_failed(cudaGetDevice(&queue->device), "asking for the device");
    if (!failed) failed = load_kernels(queue);
    if (!failed) failed = take_memory(queue);
    if (failed)
        banyan_cuda_close(queue);
    else
        *out = queue;
    return failed;
}

int banyan_cuda_is_exact(const banyan_queue *queue)
{
    return queue->limits.exact;
}

int banyan_cuda_enter(const banyan_queue *queue)
{
    int device = queue->device;
    if (cudaGetDevice(&device) != cudaSuccess) cudaGetLastError();
    if (device != queue->device) cudaSetDevice(queue->device);
    return device;
}

void banyan_cuda_leave(int device)
{
    int current = device;
    if (cudaGetDevice(&current) == cudaSuccess && current != device) cudaSetDevice(device);
}

/* ---- arguments --------------------------------------------------------------------------- */

/* Where the bytes of a call go: *host to be filled, and copied to *device. */
static const char *take_stage(banyan_queue *queue, size_t bytes, char **host, char **device,
                              cuda_stage_host **stage)
{
    *stage = NULL;
    if (queue->tape.mode != BANYAN_TAPE_OFF) return cuda_tape_take(queue, bytes, host, device);
    if (banyan_cuda_is_captured(queue)) {
        const size_t left = queue->captured_bytes - queue->captured_used - queue->tape.used;
        if (bytes > left)
            return cuda_words(
                "a graph's call needs %zu bytes for its arguments, and %zu are left of those "
                "set aside for %d captured calls",
                bytes, left, (int)queue->limits.captured);
        *host = queue->captured_host + queue->captured_used;
        *device = queue->captured_arguments + queue->captured_used;
        queue->captured_used += bytes;
        return NULL;
    }
    cuda_stage_host *const next = &queue->stage[queue->next_stage];
    if (bytes > queue->stage_bytes)
        return cuda_words("a call's arguments are %zu bytes; its queue was opened for %zu",
                          bytes, queue->stage_bytes);
    if (next->in_flight) {
        const char *failed = cuda_failed(cudaEventSynchronize(next->copied),
                                         "waiting for an earlier call's arguments");
        if (failed) return failed;
        next->in_flight = false;
    }
    queue->next_stage = (queue->next_stage + 1) % CUDA_STAGES;
    *stage = next;
    *host = next->bytes;
    *device = queue->arguments;
    return NULL;
}

const char *cuda_stage(banyan_queue *queue, cuda_array *array, int count, cuda_carried *carried)
{
    size_t bytes = 0, at = 0;
    char *host = NULL, *device = NULL; /* the least address is that of what is carried */
    cuda_stage_host *stage = NULL;
    const char *failed = NULL;
    for (int i = 0; i < count; i++) bytes += aligned16(array[i].bytes);
    const bool is_carried =
        carried && bytes <= sizeof carried->bytes && queue->tape.mode == BANYAN_TAPE_OFF;
    if (is_carried)
        host = (char *)carried->bytes;
    else
        failed = take_stage(queue, bytes, &host, &device, &stage);
    if (failed) return failed;
    for (int i = 0; i < count; i++) {
        if (array[i].bytes && host) memcpy(host + at, array[i].host, array[i].bytes);
        array[i].device = device + at;
        at += aligned16(array[i].bytes);
    }
    if (!bytes || is_carried || queue->tape.mode != BANYAN_TAPE_OFF) return NULL;
    failed =
        cuda_failed(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, queue->stream),
                    "copying a call's arguments to the device");
    if (failed || !stage) return failed;
    stage->in_flight = true;
    return cuda_failed(cudaEventRecord(stage->copied, queue->stream), "recording an event");
}
