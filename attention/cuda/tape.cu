/* SPDX-License-Identifier: Apache-2.0 */
/* The tape (attention/device.h): host code only.
 *
 * While calls are recorded, each takes its next place on the device's side, and nothing is
 * copied: a graph has addresses only. When the calls are made again, in the same order and with
 * arguments of the same sizes, they fill the same places on the host's side, and one copy
 * brings them all. */
#include "attention/cuda/queue.h"

const char *cuda_tape_open(banyan_queue *queue)
{
    cuda_tape *const tape = &queue->tape;
    const char *failed = NULL;
    tape->mode = BANYAN_TAPE_OFF;
    tape->host[0] = queue->captured_host;
    if (queue->captured_bytes)
        failed = banyan_cuda_allocate(queue, 1, queue->captured_bytes, (void **)&tape->host[1]);
    for (int i = 0; i < 2 && !failed; i++)
        failed = cuda_failed(cudaEventCreateWithFlags(&tape->copied[i], cudaEventDisableTiming),
                             "making an event");
    return failed;
}

void cuda_tape_close(banyan_queue *queue)
{
    banyan_cuda_release(queue, 1, queue->tape.host[1]);
    for (int i = 0; i < 2; i++)
        if (queue->tape.copied[i]) cudaEventDestroy(queue->tape.copied[i]);
}

const char *cuda_tape_take(banyan_queue *queue, size_t bytes, char **host, char **device)
{
    cuda_tape *const tape = &queue->tape;
    const bool rewrites = cuda_rewrites(queue);
    const size_t room = rewrites ? tape->used : queue->captured_bytes - queue->captured_used;
    if (bytes > room - tape->at)
        return rewrites
                   ? "a step asks for other work than the graph that was captured"
                   : cuda_words("a step's call needs %zu bytes for its arguments, and %zu are "
                                "left of those set aside for %d captured calls",
                                bytes, room - tape->at, (int)queue->limits.captured);
    tape->at += bytes;
    const size_t place = queue->captured_bytes - tape->at;
    *device = queue->captured_arguments + place;
    *host = rewrites ? tape->host[tape->next] + place : NULL;
    return NULL;
}

/* The place that is written next has been copied. */
static const char *begin_arguments(cuda_tape *tape)
{
    tape->at = 0;
    tape->mode = BANYAN_TAPE_REWRITE;
    if (!tape->in_flight[tape->next]) return NULL;
    tape->in_flight[tape->next] = false;
    return cuda_failed(cudaEventSynchronize(tape->copied[tape->next]),
                       "waiting for an earlier step's arguments");
}

static const char *copy_arguments(banyan_queue *queue)
{
    cuda_tape *const tape = &queue->tape;
    const size_t place = queue->captured_bytes - tape->used;
    const int which = tape->next;
    tape->mode = BANYAN_TAPE_OFF;
    if (tape->at != tape->used)
        return "a step asks for less work than the graph that was captured";
    const char *failed = cuda_failed(cudaMemcpyAsync(queue->captured_arguments + place,
                                                     tape->host[which] + place, tape->used,
                                                     cudaMemcpyHostToDevice, queue->stream),
                                     "copying a step's arguments to the device");
    if (failed) return failed;
    tape->in_flight[which] = true;
    tape->next = 1 - which;
    return cuda_failed(cudaEventRecord(tape->copied[which], queue->stream),
                       "recording an event");
}

const char *banyan_cuda_tape(banyan_queue *queue, banyan_tape what)
{
    cuda_tape *const tape = &queue->tape;
    switch (what) {
    case BANYAN_TAPE_NEW:
        tape->used = tape->at = 0;
        tape->mode = BANYAN_TAPE_OFF;
        break;
    case BANYAN_TAPE_RECORD:
        tape->at = tape->used;
        tape->mode = what;
        break;
    case BANYAN_TAPE_OFF:
        tape->used = tape->at;
        tape->mode = what;
        break;
    case BANYAN_TAPE_REWRITE: return begin_arguments(tape);
    case BANYAN_TAPE_COPY: return copy_arguments(queue);
    }
    return NULL;
}
