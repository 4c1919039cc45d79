/* SPDX-License-Identifier: Apache-2.0 */
/* split.h - the blocks of all tiles of a batch, cut into equal runs.
 *
 * A tile is something with a list of blocks. Lists lie end to end, and each worker (a thread
 * block that stays on its multiprocessor) reads one run of them, which may begin and end inside
 * a tile:
 *
 *     tile     |-------- 0 --------|-- 1 --|------------- 2 -------------|3|---- 4 --|
 *     worker   |     0     |     1     |     2     |     3     |     4     |     5     |
 *     item           0         1     2   3     4         5           6       7 8    9
 *     slot           0         1     2   3     4         5           6       7 -1  -1
 *
 * An item is what one worker reads of one tile. One that is a whole tile writes the tile's
 * result itself (slot -1); of a tile that was cut, each item writes a partial to a slot, and
 * since slots ascend with the list, a combine of slots first .. first + count - 1 in this order
 * gives the same bits every time. A tile without blocks is an item without blocks: somebody
 * must write that it is empty.
 *
 * Costs are counted in blocks read: starting an item (loading q, storing the result) costs
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
typedef struct cuda_item {
    int32_t tile, first, count, slot; /* slot: -1, or where its partial goes */
} cuda_item;

/* A tile that was cut: the slots of its partials, in the order of the list. */
typedef struct cuda_cut {
    int32_t tile, slot, slots;
} cuda_cut;

/* The caller gives the arrays, with room for what the functions below say. */
typedef struct cuda_split {
    cuda_item *item;
    int32_t *first_item; /* worker w has items first_item[w] .. first_item[w + 1] - 1 */
    cuda_cut *cut;
    int32_t workers; /* that have something to do */
    int32_t items, slots, cuts;
    int64_t longest; /* run, in blocks, with what starting its items costs */
} cuda_split;

typedef struct cuda_split_costs {
    int32_t start, cut, least; /* least: 1 or more */
} cuda_split_costs;

/* The most that a split of `tiles` tiles over `workers` workers has. Every worker but the first
 * adds at most one item, by the cut before it; and that cut makes at most two slots. */
static inline int64_t cuda_split_items(int64_t tiles, int32_t workers)
{
    return tiles ? tiles + workers - 1 : 0;
}
static inline int32_t cuda_split_slots(int64_t tiles, int32_t workers)
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
 * its bits do not depend on the others, and all items are dealt to the workers, in order.
 * Arrays of as many items, slots and cuts as all parts have alone. A run is at most an item
 * longer than an equal share. costs.start: 1 or more. */
void banyan_cuda_split_parts(const int32_t *blocks, const int32_t *tiles, int32_t parts,
                             int32_t workers, cuda_split_costs costs, cuda_split *out);

#ifdef __cplusplus
}
#endif
#endif
