/* SPDX-License-Identifier: Apache-2.0 */
/* hopper.h - the parts of the Hopper prefill that its files share: what lies where in shared
 * memory, and which barrier says what.
 *
 *     thread block      warpgroup 0: a thread of warp 0 loads K and V, warp 3 reads the lists
 *                       for it; warp 1 takes portions, and warps 1 and 2 load their q, of
 *                       the next portion while this one is computed
 *                       warpgroups 1, 2: the two subtiles of a portion
 *
 *     K [stage]         a step's two blocks as one K-major tile of 128 keys: panel by panel (64
 *                       dims), of each block 64 rows of 128 bytes, as they lie in the records
 *                       (or four of 32 rows)
 *     V [stage]         the V tiles of all records, one after the other: MN-major
 *     q [2]             of this portion and the next: for each subtile 64 rows, panel by panel
 *     work [2]          the portions themselves
 *     step [stage]      which blocks are in a stage of K
 *     list [2]          32 entries of a list: records, blocks and masks of 16 steps
 *
 *     k_full, v_full    the loading thread and its bytes: a stage may be read
 *     k_empty, v_empty  every warp of both subtiles: a stage may be written
 *     work_full         warp 1: a portion is known
 *     list_full, _empty warp 3, the loading thread: entries are there, and may be written
 *     q_full            warps 1 and 2: its q is there
 *     q_empty           every warp of both subtiles, and those that load and list: done with
 *                       portion and q */
#ifndef BANYAN_ATTENTION_CUDA_HOPPER_H
#define BANYAN_ATTENTION_CUDA_HOPPER_H

#include "attention/cuda/ptx.h"
#include "attention/cuda/record.h"
#include "attention/cuda/result.h"
#include "attention/cuda/tiles.h"

enum {
    HOPPER_THREADS = 384,
    HOPPER_Q_THREADS = 64,
    HOPPER_WARPS = 8,    /* of both subtiles */
    HOPPER_Q = 2,        /* portions whose q is there at a time */
    HOPPER_LISTS = 2,    /* parts of lists that are there at a time .. */
    HOPPER_ENTRIES = 32, /* .. of so many entries: one a lane */
    HOPPER_TURN = 1 /* named barriers: the subtile whose turn it is to start its products */
};

struct hopper_entry {
    uint32_t record;
    int32_t block, how, unused;
};

struct hopper_step {
    uint32_t record[CUDA_MOST_STEP];
    int32_t block[CUDA_MOST_STEP], how; /* how: of block i, << i * CUDA_HOW_BITS */
};

struct hopper_params {
    const void *q;
    cuda_results results;
    float *scratch; /* [partials][CUDA_SUBTILES][CUDA_SUBTILE][DIM + 2] */
    const banyan_table_of_blocks *table;
    const cuda_work *work;
    const int32_t *first_portion;
    const cuda_span *span;
    int *taken; /* runs so far; 0 before and after the kernel */
    int64_t at, first_token, end_token;
    int32_t runs;
    banyan_dtype in_dtype;
    float sign, factor; /* scale log2(e) = sign factor */
};

/* key_dim = value_dim = DIM. Bytes from the beginning of shared memory. */
template <int DIM> struct hopper_layout {
    static const int STAGES = DIM == 64 ? 4 : 2;
    static const int TILE =
        DIM / 64 * RECORD_PANEL_BYTES; /* K or V of 64 keys; q of a subtile */
    static const int STAGE = CUDA_STEP_KEYS / 64 * TILE, PANEL = CUDA_STEP_KEYS * RECORD_ROW;
    static const int K = 0, V = STAGES * STAGE, Q = 2 * STAGES * STAGE;
    static const int Q_BYTES = CUDA_SUBTILES * TILE;
    static const int WORK = Q + HOPPER_Q * Q_BYTES, WORK_BYTES = 128;
    static const int STEP = WORK + HOPPER_Q * WORK_BYTES, STEP_BYTES = 48;
    static const int LIST = STEP + STAGES * STEP_BYTES;
    static const int LIST_BYTES = HOPPER_ENTRIES * (int)sizeof(hopper_entry);
    static const int K_FULL = LIST + HOPPER_LISTS * LIST_BYTES, K_EMPTY = K_FULL + 8 * STAGES;
    static const int V_FULL = K_EMPTY + 8 * STAGES, V_EMPTY = V_FULL + 8 * STAGES;
    static const int WORK_FULL = V_EMPTY + 8 * STAGES, Q_FULL = WORK_FULL + 8 * HOPPER_Q;
    static const int Q_EMPTY = Q_FULL + 8 * HOPPER_Q, LIST_FULL = Q_EMPTY + 8 * HOPPER_Q;
    static const int LIST_EMPTY = LIST_FULL + 8 * HOPPER_LISTS;
    static const int BYTES = LIST_EMPTY + 8 * HOPPER_LISTS;
    static_assert(sizeof(cuda_work) <= WORK_BYTES && sizeof(hopper_step) <= STEP_BYTES, "room");
    static_assert(BYTES <= 227 << 10, "shared memory of an SM");
};

/* A place in a ring, and how often it has gone round (its last bit). */
template <int PLACES> struct hopper_ring {
    int place, parity;
};
template <int PLACES> PTX_FN void ring_next(hopper_ring<PLACES> &ring)
{
    if (++ring.place == PLACES) {
        ring.place = 0;
        ring.parity ^= 1;
    }
}

/* Vector `index` of a subtile is row *row of query head *head. */
PTX_FN void hopper_vector(const cuda_subtile &subtile, int index, int32_t *row, int32_t *head)
{
    const int vector = subtile.first_vector + index, rows = subtile.rows;
    *row = subtile.first_row + vector % rows;
    *head = subtile.first_head + nth_head(subtile.heads, vector / rows);
}

#endif
