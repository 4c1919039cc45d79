/* SPDX-License-Identifier: Apache-2.0 */
/* split.h - the blocks of all tiles of a batch, cut into equal runs.
 *
 * A tile is something with a list of blocks. Lists lie end to end, and each worker (a thread
 * block that stays on its multiprocessor) reads one run of them, which may begin and end inside
 * a tile:
 *
 *     tile     |-------- 0 --------|-- 1 --|------------- 2 -------------|3|---- 4 --|
 *     worker   |     0     |     1     |     2     |     3     |     4     |     5     |
 *     portion        0         1     2   3     4         5           6       7 8    9
 *     partial        0         1     2   3     4         5           6       7 -1  -1
 *
 * A portion is what one worker reads of one tile. One that is a whole tile writes the tile's
 * result itself (partial -1); of a tile that was cut, each portion writes a partial to scratch
 * memory, and since partials ascend with the list, a combine of partials first .. first + count
 * - 1 in this order gives the same bits every time. A tile without blocks is a portion without
 * blocks: somebody must write that it is empty.
 *
 * Costs are counted in blocks read: starting a portion (loading q, storing the result) costs
 * `start` of them, and the combine that any cut entails costs `cut`. The runs are such that the
 * longest is as short as it can be; tiles are left whole where that makes it at most `cut`
 * longer. No run is shorter than start + least for want of more to do, so that short lists are
 * not cut into dust.
 *
 * Plain C: the arithmetic is done by the host, for every batch. */
#ifndef BANYAN_ATTENTION_CUDA_SPLIT_H
#define BANYAN_ATTENTION_CUDA_SPLIT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Blocks first .. first + count - 1 of a tile's list. */
typedef struct cuda_portion {
    int32_t tile, first, count, partial; /* partial: -1: none, the result itself */
} cuda_portion;

/* A tile that was cut: its partials, ascending from `partial` in the order of the list. */
typedef struct cuda_cut {
    int32_t tile, partial, partials;
} cuda_cut;

/* The caller gives the arrays, with room for what the functions below say. */
typedef struct cuda_split {
    cuda_portion *portion;
    int32_t *first_portion; /* worker w: portions first_portion[w] .. [w + 1] - 1 */
    cuda_cut *cut;
    int32_t workers; /* that have something to do */
    int32_t portions, partials, cuts;
    int64_t longest; /* run, in blocks, with what starting its portions costs */
} cuda_split;

typedef struct cuda_split_costs {
    int32_t start, cut, least; /* least: 1 or more */
} cuda_split_costs;

/* The most that a split of `tiles` tiles over `workers` workers has. Every worker but the first
 * adds at most one portion, by the cut before it; and that cut makes at most two partials. */
static inline int64_t cuda_split_portions(int64_t tiles, int32_t workers)
{
    return tiles ? tiles + workers - 1 : 0;
}
static inline int32_t cuda_split_partials(int64_t tiles, int32_t workers)
{
    return tiles ? 2 * (workers - 1) : 0;
}
static inline int32_t cuda_split_cuts(int64_t tiles, int32_t workers)
{
    return tiles < workers - 1 ? (int32_t)tiles : workers - 1;
}

/* blocks [tiles]: of each list, 0 or more. workers: 1 or more. */
void banyan_cuda_split(const int32_t *blocks, int32_t tiles, int32_t workers,
                       cuda_split_costs costs, cuda_split *out);
/* Lists of several parts, tiles[p] of part p: each part's are cut as if it were alone, so that
 * its bits do not depend on the others, and all portions are dealt to the workers, in order.
 * Arrays of as many portions, partials and cuts as all parts have alone. A run is at most a
 * portion longer than an equal share. costs.start: 1 or more. */
void banyan_cuda_split_parts(const int32_t *blocks, const int32_t *tiles, int32_t parts,
                             int32_t workers, cuda_split_costs costs, cuda_split *out);

#ifdef __cplusplus
}
#endif
#endif
