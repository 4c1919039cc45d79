/* SPDX-License-Identifier: Apache-2.0 */
/* What ranks send is put together: headers and items go to their places in one launch. What the
 * host has to say, headers and addresses, goes along as the kernel's parameter: it need not
 * outlive the call, and a graph keeps it. */
#include "attention/cuda/launch.h"
#include "attention/cuda/ptx.h"
#include "attention/cuda/queue.h"

#include <string.h>

enum {
    MOVE_THREADS = 256,
    MOVE_BYTES = 1 << 14, /* of a move, for a thread block */
    MOST_BLOCKS = 1 << 12 /* of a move: more bytes are theirs in turn */
};

struct cuda_move {
    unsigned char *to;
    const unsigned char *from; /* perhaps in what is carried */
    int64_t bytes;
};

template <typename T>
PTX_FN void move_numbers(unsigned char *to, const unsigned char *from, int64_t bytes)
{
    const int64_t count = bytes / (int64_t)sizeof(T), step = (int64_t)gridDim.x * MOVE_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * MOVE_THREADS + threadIdx.x; i < count; i += step)
        ((T *)to)[i] = ((const T *)from)[i];
}

/* Items are 8 bytes apart, whatever their dims are. */
static __global__ void __launch_bounds__(MOVE_THREADS)
    gather_kernel(const __grid_constant__ cuda_carried carried)
{
    const cuda_move move = ((const cuda_move *)carried.bytes)[blockIdx.y];
    const unsigned char *const from = carried_at(carried, move.from);
    launch_wait();
    if (((uintptr_t)move.to | (uintptr_t)from | (uintptr_t)move.bytes) % 8 == 0)
        move_numbers<uint64_t>(move.to, from, move.bytes);
    else
        move_numbers<unsigned char>(move.to, from, move.bytes);
}

const char *cuda_message_open(banyan_queue *)
{
    return cuda_failed(cuda_prepare(gather_kernel, 0), "loading what puts messages together");
}

/* The first of them that one launch carries, addresses from the front and bytes from the
 * end. */
static int32_t carry_moves(const banyan_gathered *move, int32_t count, cuda_carried *carried,
                           int64_t *longest)
{
    size_t end = sizeof carried->bytes;
    int32_t taken = 0;
    *longest = 1;
    for (; taken < count; taken++) {
        const banyan_gathered *const from = &move[taken];
        const size_t put = from->is_put ? (size_t)BANYAN_COMPARED_BYTES : 0;
        if ((size_t)(taken + 1) * sizeof(cuda_move) + put > end) break;
        cuda_move one = {(unsigned char *)from->to, (const unsigned char *)from->from,
                         (int64_t)from->bytes};
        if (from->is_put) {
            end -= put;
            memcpy(carried->bytes + end, from->from, from->bytes);
            one.from = (const unsigned char *)end;
        }
        memcpy(carried->bytes + (size_t)taken * sizeof one, &one, sizeof one);
        if (one.bytes > *longest) *longest = one.bytes;
    }
    return taken;
}

const char *banyan_cuda_gather(void *own, const banyan_gathered *move, int32_t count)
{
    const banyan_cuda_line *const line = (const banyan_cuda_line *)own;
    cuda_carried carried;
    const char *failed = NULL;
    for (int32_t i = 0; i < count; i++)
        if (move[i].is_put && move[i].bytes > BANYAN_COMPARED_BYTES)
            return cuda_words("putting %zu bytes; at most %d are", move[i].bytes,
                              (int)BANYAN_COMPARED_BYTES);
    for (int32_t first = 0, taken; first < count && !failed; first += taken) {
        int64_t longest;
        taken = carry_moves(move + first, count - first, &carried, &longest);
        int64_t blocks = (longest + MOVE_BYTES - 1) / MOVE_BYTES;
        if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS;
        const cuda_shape shape = {dim3((unsigned)blocks, (unsigned)taken), dim3(MOVE_THREADS),
                                  0, line->stream, line->waits != 0};
        failed = cuda_failed(cuda_launch(shape, gather_kernel, carried),
                             "putting messages together");
    }
    return failed;
}

const char *banyan_cuda_put(void *own, void *to, const void *from, size_t bytes)
{
    const banyan_gathered move = {to, from, bytes, 1};
    return banyan_cuda_gather(own, &move, 1);
}
