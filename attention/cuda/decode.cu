/* SPDX-License-Identifier: Apache-2.0 */
#include "attention/cuda/decode.h"

#include <stdint.h>

/* In blocks of 32 KiB, of which a multiprocessor reads one in about 1 us when all of them read: q is
 * loaded and the warps' sums are merged in about 2 us; a combine is a launch of 3 us and more; and of a
 * short list a piece of 4 is worth its share of the combine. */
static const cuda_split_costs costs = {2, 4, 4};

/* Next piece of the queue's host memory, 16-byte aligned. */
static void *take(char **room, size_t bytes)
{
    void *const piece = *room;
    *room += (bytes + 15) / 16 * 16;
    return piece;
}

static int vectors_of(const banyan_strip *strip)
{
    return __builtin_popcountll(strip->heads) * strip->rows;
}

/* Strips of a batch that go in one launch, and how many of them are of each part. */
struct decode_piece {
    const banyan_strip *strip;
    int32_t strips, parts;
    int32_t *tiles; /* [parts] */
};

static const char *find_most(const banyan_batch *batch, int *out)
{
    *out = 1;
    for (int32_t i = 0; i < batch->strips; i++) {
        const int vectors = vectors_of(&batch->strip[i]);
        if (vectors > CUDA_DECODE_VECTORS)
            return cuda_words("a strip of %d query vectors in a decode of at most %d", vectors,
                              (int)CUDA_DECODE_VECTORS);
        if (batch->strip[i].blocks > INT32_MAX)
            return cuda_words("a list of %lld blocks", (long long)batch->strip[i].blocks);
        if (vectors > *out) *out = vectors;
    }
    return NULL;
}

/* Parts of a launch: what each may add to the slots must find room in scratch. */
static int32_t most_parts(const banyan_queue *queue, const banyan_batch *batch, int vectors)
{
    const size_t slot =
        (size_t)vectors * banyan_partial_floats(batch->shape.value_dim) * sizeof(float);
    const size_t part = 2 * (size_t)queue->multiprocessors * slot;
    const size_t parts = queue->scratch_bytes / part, most = CUDA_DECODE_PARTS;
    return parts < 1 ? 1 : (int32_t)(parts < most ? parts : most);
}

/* Strips from `first` on, of at most so many parts. */
static void take_piece(const banyan_batch *batch, int32_t first, int32_t most,
                       decode_piece *out)
{
    out->strip = batch->strip + first;
    out->strips = out->parts = 0;
    for (int32_t i = first; i < batch->strips; i++, out->strips++) {
        if (i == first || batch->strip[i].part != batch->strip[i - 1].part) {
            if (out->parts == most) return;
            out->tiles[out->parts++] = 0;
        }
        out->tiles[out->parts - 1]++;
    }
}

/* The split's cuts, as the combine wants them. */
static void describe(const decode_piece *piece, const cuda_split *split, decode_plan *plan,
                     cuda_combined *out)
{
    const int stride = plan->call.stride;
    plan->most_slots = 1;
    for (int32_t i = 0; i < split->cuts; i++) {
        const cuda_cut *const cut = &split->cut[i];
        const banyan_strip *const strip = &piece->strip[cut->tile];
        out[i] = cuda_combined{strip->heads,
                               (int64_t)cut->slot * stride,
                               stride,
                               cut->slots,
                               strip->first_head,
                               strip->first_row,
                               strip->rows,
                               0,
                               vectors_of(strip)};
        if (cut->slots > plan->most_slots) plan->most_slots = cut->slots;
    }
}

static const char *stage(banyan_queue *queue, const banyan_batch *batch,
                         const decode_piece *piece, const cuda_split *split,
                         const cuda_combined *combined, decode_plan *out)
{
    cuda_array array[] = {
        {split->item, (size_t)split->items * sizeof(cuda_item), NULL},
        {split->first_item, (size_t)(split->workers + 1) * sizeof(int32_t), NULL},
        {piece->strip, (size_t)piece->strips * sizeof(banyan_strip), NULL},
        {batch->span, (size_t)batch->spans * sizeof(banyan_span), NULL},
        {batch->edge, (size_t)batch->edges * sizeof(banyan_edge), NULL},
        {batch->table, (size_t)batch->tables * sizeof(banyan_table_of_blocks), NULL},
        {batch->part, (size_t)batch->parts * sizeof(banyan_batch_part), NULL},
        {batch->partial, (size_t)batch->heads * sizeof(float *), NULL},
        {combined, (size_t)split->cuts * sizeof(cuda_combined), NULL}};
    const char *const failed = cuda_stage(queue, array, sizeof(array) / sizeof(array[0]));
    if (failed) return failed;
    decode_call *const call = &out->call;
    call->item = (const cuda_item *)array[0].device;
    call->first_item = (const int32_t *)array[1].device;
    call->strip = (const banyan_strip *)array[2].device;
    call->span = (const banyan_span *)array[3].device;
    call->edge = (const banyan_edge *)array[4].device;
    call->table = (const banyan_table_of_blocks *)array[5].device;
    call->part = (const banyan_batch_part *)array[6].device;
    call->results.partial = (float *const *)array[7].device;
    out->combined = (const cuda_combined *)array[8].device;
    return NULL;
}

static void fill_call(const banyan_queue *queue, const banyan_batch *batch, decode_call *call)
{
    call->q = batch->q;
    call->slots = (float *)queue->scratch;
    call->results.out = batch->out;
    call->results.lse = batch->lse;
    call->results.heads = batch->heads;
    call->results.out_dtype = batch->out_dtype;
    call->scale = batch->scale * 1.44269504088896340736f;
    call->heads = batch->heads;
    call->in_dtype = batch->in_dtype;
}

/* Splits a piece and brings its arguments to the device. */
static const char *prepare(banyan_queue *queue, const banyan_batch *batch,
                           const decode_piece *piece, char *room, decode_plan *out)
{
    const int32_t workers = queue->multiprocessors;
    const size_t tiles = (size_t)piece->strips;
    const size_t most_cuts = (size_t)piece->parts * (size_t)workers;
    const size_t most_items = tiles + most_cuts;
    int32_t *const blocks = (int32_t *)take(&room, tiles * sizeof(int32_t));
    cuda_split split;
    split.item = (cuda_item *)take(&room, most_items * sizeof(cuda_item));
    split.first_item = (int32_t *)take(&room, ((size_t)workers + 1) * sizeof(int32_t));
    split.cut = (cuda_cut *)take(&room, most_cuts * sizeof(cuda_cut));
    cuda_combined *const combined =
        (cuda_combined *)take(&room, most_cuts * sizeof(cuda_combined));
    if ((size_t)(room - queue->room) > queue->room_bytes)
        return cuda_words("a decode of %d strips; its queue was opened for %lld",
                          (int)batch->strips, (long long)queue->limits.strips);

    for (int32_t i = 0; i < piece->strips; i++) blocks[i] = (int32_t)piece->strip[i].blocks;
    banyan_cuda_split_parts(blocks, piece->tiles, piece->parts, workers, costs, &split);
    const size_t slot_bytes = (size_t)split.slots * (size_t)out->call.stride *
                              banyan_partial_floats(batch->shape.value_dim) * sizeof(float);
    if (slot_bytes > queue->scratch_bytes)
        return cuda_words("a decode needs %zu bytes of scratch memory; the queue has %zu",
                          slot_bytes, queue->scratch_bytes);
    out->workers = split.workers;
    out->cuts = split.cuts;
    describe(piece, &split, out, combined);
    return stage(queue, batch, piece, &split, combined, out);
}

const char *decode_pieces(banyan_queue *queue, const banyan_batch *batch, decode_start start,
                          void *ctx)
{
    char *room = queue->room;
    decode_plan plan = {};
    decode_piece piece = {};
    const char *failed = find_most(batch, &plan.call.stride);
    if (failed) return failed;
    fill_call(queue, batch, &plan.call);
    const int32_t most = most_parts(queue, batch, plan.call.stride);
    piece.tiles = (int32_t *)take(&room, (size_t)most * sizeof(int32_t));
    for (int32_t first = 0; first < batch->strips && !failed; first += piece.strips) {
        take_piece(batch, first, most, &piece);
        failed = prepare(queue, batch, &piece, room, &plan);
        if (!failed) failed = start(ctx, &plan);
        if (!failed)
            failed =
                cuda_combine(queue, plan.combined, plan.cuts, plan.call.stride, plan.most_slots,
                             plan.call.slots, batch->shape.value_dim, plan.call.results);
    }
    return failed;
}
