/* SPDX-License-Identifier: Apache-2.0 */
/* queue.h - what the CUDA kernels share on the host: a stream with the memory that calls on it
 * need, the arguments of a call brought to the device, and errors as words. */
#ifndef BANYAN_ATTENTION_CUDA_QUEUE_H
#define BANYAN_ATTENTION_CUDA_QUEUE_H

#include "attention/attention.h"
#include "attention/cuda/carried.h"
#include "attention/cuda/entry.h"

#include <cuda_runtime.h>

enum {
    CUDA_STAGES = 8, /* calls whose arguments may be on their way at once */
    CUDA_PARTS = 8, /* of a split list: parts per multiprocessor that scratch has room for .. */
    CUDA_PART_ROWS = 64, /* .. each of so many partials */
    CUDA_WORK_BYTES =
        64, /* of a strip, a cut or a run in a kernel's list of its work, at most */
    CUDA_COUNTERS = 64,
    CUDA_ROOM_BYTES = 1 << 16, /* of a queue's room, at least: a fold of 8000 values */
    CUDA_DECODE_PARTS = 64     /* of a batch, in one launch */
};

/* Arguments of one call. Page-locked, so that the copy to the device does not wait for the
 * device. */
struct cuda_stage_host {
    char *bytes;
    cudaEvent_t copied; /* then the bytes may be written again */
    bool in_flight;
};

/* A tape is written to one of two places on the host while the other is copied. It has the end
 * of what is set aside for captured calls. */
struct cuda_tape {
    banyan_tape mode; /* OFF, RECORD or REWRITE */
    size_t used, at;  /* bytes of all calls; of those that went by */
    char *host[2];
    cudaEvent_t copied[2];
    bool in_flight[2];
    int next;
};

struct banyan_queue : banyan_cuda_line {
    banyan_device_limits limits;
    bool owns_stream;
    int device; /* where it was opened: current whenever something is queued */
    int multiprocessors;
    int block_room; /* bytes of shared memory that a thread block may ask for */

    void *scratch; /* what a call keeps between its kernels; of calls on this stream only */
    size_t scratch_bytes;
    int *counter; /* device: CUDA_COUNTERS numbers that are 0 between kernels */

    char *room; /* host: where a call's arguments are made up */
    size_t room_bytes;
    size_t stage_bytes; /* of one call's arguments, at most */
    cuda_stage_host stage[CUDA_STAGES];
    int next_stage;
    char *arguments; /* device: one call's; the next call's copy comes behind its kernels */

    /* Calls in graphs: a replay reads host and device bytes again, so that they are never
     * reused. */
    char *captured_host, *captured_arguments;
    size_t captured_bytes, captured_used;
    cuda_tape tape;
};

extern "C" {

/* NULL for cudaSuccess; else this thread's text: what was being done, and CUDA's error. */
const char *cuda_failed(cudaError_t error, const char *doing);
/* This thread's text; printf's arguments. */
const char *cuda_words(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A host array of a call. cuda_stage sets `device` to where the kernels queued next will find
 * it, until the queue's next cuda_stage; 16-byte aligned. An array of 0 bytes gets an address
 * that nobody reads. carried (or NULL): where all of them are small they are written there, to
 * be a parameter of the kernels, which find them by carried_at. */
struct cuda_array {
    const void *host;
    size_t bytes;
    void *device;
};
const char *cuda_stage(banyan_queue *queue, cuda_array *array, int count,
                       cuda_carried *carried = NULL);
/* tape.cu: a call's place on the tape; *host NULL: its bytes are not wanted yet. */
const char *cuda_tape_open(banyan_queue *queue);
void cuda_tape_close(banyan_queue *queue);
const char *cuda_tape_take(banyan_queue *queue, size_t bytes, char **host, char **device);
/* Calls start nothing: their arguments are written to the tape. */
static inline bool cuda_rewrites(const banyan_queue *queue)
{
    return queue->tape.mode == BANYAN_TAPE_REWRITE;
}

/* Of a row of partials, or of fixed-point sums. */
static inline size_t cuda_row_bytes(const banyan_queue *queue, int32_t value_dim)
{
    return queue->limits.exact ? banyan_fixed_bytes(value_dim)
                               : banyan_partial_floats(value_dim) * sizeof(float);
}

/* Each file's kernels for the queue's shape, made ready (launch.h, cuda_prepare) when it is
 * opened. */
const char *cuda_combine_open(banyan_queue *queue);
const char *cuda_decode_open(banyan_queue *queue);
const char *cuda_decode_hopper_open(banyan_queue *queue);
const char *cuda_fold_open(banyan_queue *queue);
const char *cuda_exact_open(banyan_queue *queue);
const char *cuda_exact_sums_open(banyan_queue *queue);
const char *cuda_message_open(banyan_queue *queue);
const char *cuda_pack_open(banyan_queue *queue);
const char *cuda_partials_open(banyan_queue *queue);
const char *cuda_passes_open(banyan_queue *queue);
const char *cuda_prefill_open(banyan_queue *queue);
const char *cuda_prefill_hopper_open(banyan_queue *queue);
const char *cuda_wide_open(banyan_queue *queue);

} /* extern "C" */

#endif
