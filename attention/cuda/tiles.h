/* SPDX-License-Identifier: Apache-2.0 */
/* tiles.h - what thread blocks of the Hopper prefill work on, planned on the host for every
 * call.
 *
 * The vectors of a strip, (head, row) with the head slowest, are cut into subtiles of 64, one
 * for each consumer warpgroup. A tile is two subtiles of one table of blocks; it goes through
 * the blocks that either of them reads in steps of 128 keys, which are two blocks (of 32
 * tokens: four):
 *
 *     subtile 0 reads   0 1 2 3 4 5 6 .          (the block of its rows is 6, the other's is 7)
 *     subtile 1 reads   0 1 2 3 4 5 6 7
 *
 *     entries   0 1 | 2 3 | 4 5 | 6 - | 7 -    a step is two entries; "-" fills it up
 *     mode      both ..           both  only 1
 *
 * Steps that both read come first, then those that only subtile 0 reads, then those of subtile
 * 1: so a step is of one mode, and nobody multiplies with values of blocks that he does not
 * read. Two subtiles of one strip have one list; those of neighbouring own blocks differ at the
 * ends of theirs, and lists that have little in common stay with tiles of one subtile.
 *
 * A portion is a tile, or some of one's steps, whose results go to scratch as partials. A run
 * is the portions that one thread block takes at a time; runs are taken in order.
 * Lists that are too long for a balance are cut (split.h), and a run is then one block's whole
 * work. Otherwise a run is one tile: a few KV heads after the other, as many as the L2 has room
 * for, and among them long tiles first.
 *
 * All other kernels are planned by decode.h, where a tile is a strip or some of its vectors,
 * and its list the strip's, as the batch has it; both cut lists by split.h. Here a list is the
 * union of two strips', which must be made up, mode by mode, for the kernel to go through; it
 * is cut in steps, of which one of both subtiles counts like one of a single; and whether it is
 * cut at all depends on the L2, from which many tiles read a list at the same time.
 *
 * Plain C, read by the kernel as well. */
#ifndef BANYAN_ATTENTION_CUDA_TILES_H
#define BANYAN_ATTENTION_CUDA_TILES_H

#include "attention/attention.h"
#include "attention/cuda/split.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_SUBTILE = 64, CUDA_SUBTILES = 2, CUDA_STEP_KEYS = 128, CUDA_MOST_STEP = 4 };

/* Blocks of a step, whose records have so many tokens. */
#define CUDA_STEP(record_tokens) (CUDA_STEP_KEYS / (int32_t)(record_tokens))

/* Entries first_entry .. of a tile's list, up to those of its next span: places first, first +
 * step, .. */
typedef struct cuda_span {
    int32_t first_entry, first, step;
    int32_t how; /* banyan_span.masked << CUDA_MASK_BITS * subtile; CUDA_NOTHING */
} cuda_span;
enum { CUDA_MASK_BITS = 2, CUDA_MASK = 3, CUDA_NOTHING = 16, CUDA_HOW_BITS = 5 };

/* Vectors first_vector .. of rows x the bits of `heads`, counted from bit 0 = first_head. */
typedef struct cuda_subtile {
    uint64_t heads;
    int64_t sink_end, window; /* the strip's edge */
    int32_t first_head, first_row, first_vector;
    int16_t rows, vectors; /* vectors 0: there is no such subtile */
} cuda_subtile;

/* A portion. */
typedef struct cuda_work {
    cuda_subtile subtile[CUDA_SUBTILES];
    int32_t table, first_span, spans;
    int32_t first_step; /* of the tile's list */
    int32_t steps[3];   /* from there: of both, of subtile 0 only, of subtile 1 only */
    int32_t partial;    /* in scratch; -1: this is all of the tile */
} cuda_work;

typedef struct cuda_tiles {
    cuda_work *work;        /* [portions] */
    int32_t *first_portion; /* [runs + 1] */
    cuda_span *span;
    cuda_cut *cut; /* [cuts] tiles that were cut: .tile is the first of their portions */
    int32_t portions, runs, spans, cuts, partials;
} cuda_tiles;

/* A call's size, as far as it matters here. */
typedef struct cuda_tiles_limits {
    int64_t subtiles; /* sum over strips of their vectors / 64, rounded up */
    int64_t strips, spans, tables;
    int32_t workers; /* thread blocks at a time: multiprocessors */
} cuda_tiles_limits;

/* Bytes of host memory that planning takes, results and all, and how many of them the device
 * gets. */
size_t banyan_cuda_tiles_bytes(const cuda_tiles_limits *limits, size_t *device_bytes);

/* room: that many bytes, 16-byte aligned, for a call within `limits`; the results lie in it. */
void banyan_cuda_tiles(const banyan_batch *batch, const cuda_tiles_limits *limits, void *room,
                       cuda_tiles *out);

/* Subtiles of a call's strips. */
int64_t banyan_cuda_subtiles(const banyan_strip *strip, int32_t strips);

#ifdef __cplusplus
}
#endif
#endif
