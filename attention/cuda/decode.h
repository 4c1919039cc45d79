/* SPDX-License-Identifier: Apache-2.0 */
/* decode.h - what all kernels of attention but the Hopper prefill share on both sides of a
 * launch: decode_portable.cu, decode_hopper.cu, prefill_portable.cu, attend_wide.cu and
 * attend_exact.cu.
 *
 * Decode reads every visible block once for the few query vectors of its KV head, and does
 * little with it: it is bound by memory. So all blocks of the batch are cut into equal runs
 * (split.h), one for each multiprocessor, and a run is streamed through shared memory, 64 KiB
 * or more on their way at any time. A prefill is the same with more vectors: what is too much
 * for a thread block is several strips with one list.
 *
 * The Hopper prefill cuts lists by split.h as well, but its thread block is two warpgroups,
 * which read two lists at a time, so that a tile has a list of its own: tiles.h. */
#ifndef BANYAN_ATTENTION_CUDA_DECODE_H
#define BANYAN_ATTENTION_CUDA_DECODE_H

#include "attention/cuda/combine.h"
#include "attention/cuda/split.h"

/* The kernels' argument; pointers are the device's. The arrays of cuda_stage are found by
 * carried_at. */
struct decode_call {
    const cuda_portion *portion;
    const int32_t *first_portion; /* worker w: portions first_portion[w] .. [w + 1] - 1 */
    const banyan_strip *strip;    /* a tile of the split is a strip */
    const banyan_span *span;
    const banyan_edge *edge;
    const banyan_table_of_blocks *table;
    const banyan_batch_part *part;
    const void *q;
    float *scratch; /* [partials][stride][dim + 2], or of fixed-point sums */
    cuda_results results;
    float scale;           /* times log2(e) */
    int32_t heads, stride; /* stride: the most vectors of a strip */
    banyan_dtype in_dtype;
    cuda_carried carried;
};
/* Element i of an array of a call. */
template <typename T>
static __device__ __forceinline__ const T &staged(const decode_call &call, const T *array,
                                                  int64_t i)
{
    return carried_at(call.carried, array)[i];
}

/* A launch that is ready. */
struct decode_plan {
    decode_call call;
    int32_t workers;
};

/* Cuts strips of more than most_vectors vectors, which is all that the kernel takes, into some
 * of their heads or of the rows of one head, with the same list (5 heads x 48 rows, of 128 at
 * most, are 2, 2 and 1 heads: a kernel is full where rows are a power of two); splits the
 * parts of a batch over the device's multiprocessors, as many of them in a launch as there is
 * scratch for; brings all launches' arguments to the device, starts each by start(ctx, plan),
 * and combines the tiles that were cut. */
typedef const char *(*decode_start)(void *ctx, const decode_plan *plan);
const char *decode_launches(banyan_queue *queue, const banyan_batch *batch, int most_vectors,
                            decode_start start, void *ctx);

#endif
