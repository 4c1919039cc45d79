/* SPDX-License-Identifier: Apache-2.0 */
/* Planning of the portable prefill: host code only. */
#include "attention/cuda/portable_work.h"

#include "attention/cuda/record.h"

/* In blocks: loading q and storing a result takes about as long as one block, and a combine as
 * four. */
static const cuda_split_costs costs_of_64 = {1, 4, 4};

/* Of blocks of fewer tokens there are as many more. */
static cuda_split_costs portable_costs(const banyan_block_shape *shape)
{
    const int32_t times = RECORD_TOKENS / (int32_t)record_tokens(shape->block_tokens);
    return {times * costs_of_64.start, times * costs_of_64.cut, times * costs_of_64.least};
}

static int32_t heads_in(uint64_t bits)
{
    return (int32_t)__builtin_popcountll(bits);
}

static int32_t tiles_of(const banyan_strip *strip)
{
    return (heads_in(strip->heads) * strip->rows + PORTABLE_VECTORS - 1) / PORTABLE_VECTORS;
}

static void fill_tiles(const banyan_batch *batch, portable_work *work, int32_t *blocks)
{
    static const banyan_edge none = {0, INT64_MAX};
    int32_t n = 0;
    for (int32_t i = 0; i < batch->strips; i++) {
        const banyan_strip *strip = &batch->strip[i];
        const banyan_edge *edge = strip->edge < 0 ? &none : &batch->edge[strip->edge];
        const int32_t vectors = heads_in(strip->heads) * strip->rows;
        for (int32_t first = 0; first < vectors; first += PORTABLE_VECTORS, n++) {
            const int32_t left = vectors - first;
            blocks[n] = (int32_t)strip->blocks;
            work->tile[n] = {strip->heads,
                             edge->sink_end,
                             edge->window,
                             strip->table,
                             strip->first_head,
                             strip->first_row,
                             first,
                             strip->first_span,
                             strip->spans,
                             (int16_t)strip->rows,
                             (int16_t)(left < PORTABLE_VECTORS ? left : PORTABLE_VECTORS)};
        }
    }
}

static void fill_combined(portable_work *work)
{
    work->most_parts = 0;
    for (int32_t i = 0; i < work->split.cuts; i++) {
        const cuda_cut *cut = &work->split.cut[i];
        const portable_tile *tile = &work->tile[cut->tile];
        work->combined[i] = {tile->heads,      (int64_t)cut->slot * PORTABLE_VECTORS,
                             PORTABLE_VECTORS, cut->slots,
                             tile->first_head, tile->first_row,
                             tile->rows,       tile->first_vector,
                             tile->vectors};
        if (cut->slots > work->most_parts) work->most_parts = cut->slots;
    }
}

/* `count` things of `bytes` bytes from the queue's room; NULL when it has no more. */
static void *take_work_room(banyan_queue *queue, size_t *used, int64_t count, size_t bytes)
{
    const size_t at = *used, size = ((size_t)count * bytes + 15) / 16 * 16;
    if (size > queue->room_bytes - at) return NULL;
    *used = at + size;
    return queue->room + at;
}

const char *portable_plan(banyan_queue *queue, const banyan_batch *batch, portable_work *out)
{
    size_t used = 0;
    int32_t workers = queue->multiprocessors;
    portable_work work = {};
    for (int32_t i = 0; i < batch->strips; i++) work.tiles += tiles_of(&batch->strip[i]);
    const int64_t items = cuda_split_items(work.tiles, workers);
    int32_t *const blocks = (int32_t *)take_work_room(queue, &used, work.tiles, sizeof *blocks);
    work.tile = (portable_tile *)take_work_room(queue, &used, work.tiles, sizeof *work.tile);
    work.split.item = (cuda_item *)take_work_room(queue, &used, items, sizeof *work.split.item);
    work.split.first_item =
        (int32_t *)take_work_room(queue, &used, workers + 1, sizeof(int32_t));
    work.split.cut = (cuda_cut *)take_work_room(
        queue, &used, cuda_split_cuts(work.tiles, workers), sizeof(cuda_cut));
    work.combined = (cuda_combined *)take_work_room(
        queue, &used, cuda_split_cuts(work.tiles, workers), sizeof *work.combined);
    if (!blocks || !work.tile || !work.split.item || !work.split.first_item ||
        !work.split.cut || !work.combined)
        return cuda_words("%d strips of %d rows are more than the queue was opened for",
                          (int)batch->strips, (int)batch->rows);
    fill_tiles(batch, &work, blocks);
    banyan_cuda_split(blocks, work.tiles, workers, portable_costs(&batch->shape), &work.split);
    fill_combined(&work);
    *out = work;
    return NULL;
}
