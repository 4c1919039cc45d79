/* SPDX-License-Identifier: Apache-2.0 */
/* portable_work.h - what thread blocks of the portable prefill work on, planned on the host.
 *
 * The vectors of a strip, (head, row) with the head slowest, are cut into tiles of 128. All
 * tiles' lists are cut into equal runs, one for each thread block (split.h), which therefore
 * all end at the same time; a tile whose list was cut is put together again by the combine. */
#ifndef BANYAN_ATTENTION_CUDA_PORTABLE_WORK_H
#define BANYAN_ATTENTION_CUDA_PORTABLE_WORK_H

#include "attention/cuda/combine.h"
#include "attention/cuda/split.h"

enum { PORTABLE_VECTORS = 128 };

/* Vectors first_vector .. of rows x the bits of `heads`, counted from bit 0 = first_head. */
struct portable_tile {
    uint64_t heads;
    int64_t sink_end, window; /* the strip's edge */
    int32_t table, first_head, first_row, first_vector, first_span, spans;
    int16_t rows, vectors;
};

struct portable_work {
    portable_tile *tile;
    cuda_combined *combined; /* [split.cuts] */
    cuda_split split;
    int32_t tiles, most_parts;
};

/* Plans a call on the queue; the arrays lie in the queue's room. */
const char *portable_plan(banyan_queue *queue, const banyan_batch *batch, portable_work *out);

#endif
