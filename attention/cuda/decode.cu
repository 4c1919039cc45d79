/* SPDX-License-Identifier: Apache-2.0 */
#include "attention/cuda/decode.h"

#include "attention/cuda/record.h"

#include <stdint.h>

/* In blocks of 32 KiB, of which a multiprocessor reads one in about 1 us when all of them read: q is
 * loaded and the warps' sums are merged in about 2 us; a combine is a launch of 3 us and more; and of a
 * short list a part of 4 is worth its share of the combine. */
static const cuda_split_costs costs_of_64 = {2, 4, 4};

/* Of blocks of fewer tokens there are as many more. */
static cuda_split_costs costs_of(const banyan_block_shape *shape)
{
    const int32_t times = RECORD_TOKENS / (int32_t)record_tokens(shape->block_tokens);
    return {times * costs_of_64.start, times * costs_of_64.cut, times * costs_of_64.least};
}

/* Next room of the queue's host memory, 16-byte aligned. */
static void *take_room(char **room, size_t bytes)
{
    void *const next = *room;
    *room += (bytes + 15) / 16 * 16;
    return next;
}

static int strip_vectors(const banyan_strip *strip)
{
    return __builtin_popcountll(strip->heads) * strip->rows;
}

/* Strips of a batch that go in one launch, and how many of them are of each part. */
struct decode_launch {
    const banyan_strip *strip;
    int32_t strips, parts;
    int32_t *tiles; /* [parts] */
};

/* Strips whose vectors are too many for a kernel, `most` of them at a time, become several: some of the
 * heads, or some of the rows, with the same list. */
struct strip_cut {
    int32_t rows, heads, pieces; /* of one of them; and how many there are */
};
static strip_cut cut_of(const banyan_strip *strip, int most)
{
    const int32_t all = __builtin_popcountll(strip->heads);
    if (all == 0 || strip->rows == 0) return {strip->rows, all, 1};
    const int32_t rows = strip->rows < most ? strip->rows : most, heads = most / rows;
    return {rows, heads, (strip->rows + rows - 1) / rows * ((all + heads - 1) / heads)};
}

/* The lowest `count` of the bits. */
static uint64_t low_bits(uint64_t bits, int32_t count)
{
    uint64_t left = bits;
    for (; count > 0; count--) left &= left - 1;
    return bits & ~left;
}

static banyan_strip *cut_strip(const banyan_strip *strip, int most, banyan_strip *out)
{
    const strip_cut cut = cut_of(strip, most);
    if (cut.pieces == 1) {
        *out = *strip;
        return out + 1;
    }
    for (uint64_t heads = strip->heads; heads; heads &= ~low_bits(heads, cut.heads))
        for (int32_t row = 0; row < strip->rows; row += cut.rows) {
            *out = *strip;
            out->heads = low_bits(heads, cut.heads);
            out->first_row = strip->first_row + row;
            out->rows = strip->rows - row < cut.rows ? strip->rows - row : cut.rows;
            out++;
        }
    return out;
}

/* Pieces of any strip of a tape, at most: all but the last have more than half of `most` vectors. */
static int32_t pieces_of_tape(const banyan_batch *batch, int most)
{
    return batch->vectors <= most ? 1 : batch->vectors / (most / 2 + 1) + 1;
}

static const char *cut_strips(const banyan_queue *queue, const banyan_batch *batch, int most,
                              char **room, banyan_batch *out)
{
    int32_t strips = 0;
    *out = *batch;
    for (int32_t i = 0; i < batch->strips; i++) strips += cut_of(&batch->strip[i], most).pieces;
    if (batch->vectors) strips = batch->strips * pieces_of_tape(batch, most);
    if (strips == batch->strips) return NULL;
    banyan_strip *const cut = (banyan_strip *)take_room(room, (size_t)strips * sizeof *cut);
    if ((size_t)(*room - queue->room) > queue->room_bytes)
        return cuda_words("%d strips in pieces of at most %d query vectors; the queue was "
                          "opened for %lld strips",
                          (int)batch->strips, most, (long long)queue->limits.strips);
    banyan_strip *next = cut;
    for (int32_t i = 0; i < batch->strips; i++) next = cut_strip(&batch->strip[i], most, next);
    banyan_strip none = {};
    none.part = none.edge = -1;
    while (next < cut + strips) *next++ = none;
    out->strip = cut;
    out->strips = strips;
    if (out->vectors > most) out->vectors = most;
    return NULL;
}

static const char *find_most(const banyan_batch *batch, int *out)
{
    *out = 1;
    for (int32_t i = 0; i < batch->strips; i++) {
        const int vectors = strip_vectors(&batch->strip[i]);
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

/* Strips from `first` on, of the parts first_part .. first_part + parts - 1. */
static void take_launch(const banyan_batch *batch, int32_t first, int32_t first_part,
                        int32_t parts, decode_launch *out)
{
    out->strip = batch->strip + first;
    out->strips = 0;
    out->parts = parts;
    for (int32_t p = 0; p < parts; p++) {
        const int32_t before = out->strips;
        while (first + out->strips < batch->strips &&
               out->strip[out->strips].part == first_part + p)
            out->strips++;
        out->tiles[p] = out->strips - before;
    }
}

/* The split's cuts, as the combine wants them. */
static void describe_cuts(const decode_launch *launch, const cuda_split *split,
                          decode_plan *plan, cuda_combined *out)
{
    const int stride = plan->call.stride;
    plan->most_slots = 1;
    for (int32_t i = 0; i < split->cuts; i++) {
        const cuda_cut *const cut = &split->cut[i];
        const banyan_strip *const strip = &launch->strip[cut->tile];
        out[i] = cuda_combined{strip->heads,
                               (int64_t)cut->slot * stride,
                               stride,
                               cut->slots,
                               strip->first_head,
                               strip->first_row,
                               strip->rows,
                               0,
                               strip_vectors(strip)};
        if (cut->slots > plan->most_slots) plan->most_slots = cut->slots;
    }
}

static const char *stage(banyan_queue *queue, const banyan_batch *batch,
                         const decode_launch *launch, const cuda_split *split,
                         const cuda_combined *combined, decode_plan *out)
{
    cuda_array array[] = {
        {split->item, (size_t)split->items * sizeof(cuda_item), NULL},
        {split->first_item, (size_t)(split->workers + 1) * sizeof(int32_t), NULL},
        {batch->strip, (size_t)batch->strips * sizeof(banyan_strip), NULL},
        {batch->span, (size_t)batch->spans * sizeof(banyan_span), NULL},
        {batch->edge, (size_t)batch->edges * sizeof(banyan_edge), NULL},
        {batch->table, (size_t)batch->tables * sizeof(banyan_table_of_blocks), NULL},
        {batch->part, (size_t)batch->parts * sizeof(banyan_batch_part), NULL},
        {batch->partial, (size_t)batch->heads * sizeof(float *), NULL},
        {combined, (size_t)split->cuts * sizeof(cuda_combined), NULL}};
    const char *const failed =
        cuda_stage(queue, array, sizeof(array) / sizeof(array[0]), &out->call.carried);
    if (failed) return failed;
    decode_call *const call = &out->call;
    call->item = (const cuda_item *)array[0].device;
    call->first_item = (const int32_t *)array[1].device;
    call->strip = (const banyan_strip *)array[2].device + (launch->strip - batch->strip);
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

/* Items and cuts of a launch, at most. */
static int32_t most_items(const banyan_batch *batch, const decode_launch *launch, int workers)
{
    return (batch->vectors ? batch->strips : launch->strips) + launch->parts * workers;
}
static int32_t most_cuts(const banyan_batch *batch, const decode_launch *launch, int workers)
{
    const int32_t cuts = launch->parts * workers;
    return batch->vectors && batch->strips < cuts ? batch->strips : cuts;
}

/* A split for a tape, whose sizes depend on those of the batch alone: all workers, those that have nothing
 * to do with no items; and as many cuts as there may be, those that are none without vectors. */
static void pad_split(const banyan_batch *batch, const decode_launch *launch, int32_t workers,
                      cuda_split *split, decode_plan *plan, cuda_combined *combined)
{
    const int32_t cuts = most_cuts(batch, launch, workers);
    for (int32_t w = split->workers + 1; w <= workers; w++) split->first_item[w] = split->items;
    for (int32_t i = split->cuts; i < cuts; i++) combined[i] = cuda_combined{};
    split->items = most_items(batch, launch, workers);
    split->workers = workers;
    split->cuts = cuts;
    plan->most_slots = workers + 1;
}

/* Splits a launch and brings its arguments to the device. */
static const char *prepare_launch(banyan_queue *queue, const banyan_batch *batch,
                                  const decode_launch *launch, char *room, decode_plan *out)
{
    const int32_t workers = queue->multiprocessors;
    const size_t tiles = (size_t)launch->strips;
    const size_t items = (size_t)most_items(batch, launch, workers);
    const size_t cuts = (size_t)most_cuts(batch, launch, workers);
    int32_t *const blocks = (int32_t *)take_room(&room, tiles * sizeof(int32_t));
    cuda_split split;
    split.item = (cuda_item *)take_room(&room, items * sizeof(cuda_item));
    split.first_item = (int32_t *)take_room(&room, ((size_t)workers + 1) * sizeof(int32_t));
    split.cut = (cuda_cut *)take_room(&room, cuts * sizeof(cuda_cut));
    cuda_combined *const combined =
        (cuda_combined *)take_room(&room, cuts * sizeof(cuda_combined));
    if ((size_t)(room - queue->room) > queue->room_bytes)
        return cuda_words("a decode of %d strips; its queue was opened for %lld",
                          (int)batch->strips, (long long)queue->limits.strips);

    for (int32_t i = 0; i < launch->strips; i++) blocks[i] = (int32_t)launch->strip[i].blocks;
    banyan_cuda_split_parts(blocks, launch->tiles, launch->parts, workers,
                            costs_of(&batch->shape), &split);
    const size_t slot_bytes = (size_t)split.slots * (size_t)out->call.stride *
                              banyan_partial_floats(batch->shape.value_dim) * sizeof(float);
    if (slot_bytes > queue->scratch_bytes)
        return cuda_words("a decode needs %zu bytes of scratch memory; the queue has %zu",
                          slot_bytes, queue->scratch_bytes);
    describe_cuts(launch, &split, out, combined);
    if (batch->vectors) pad_split(batch, launch, workers, &split, out, combined);
    out->workers = split.workers;
    out->cuts = split.cuts;
    return stage(queue, batch, launch, &split, combined, out);
}

const char *decode_launches(banyan_queue *queue, const banyan_batch *given, int most_vectors,
                            decode_start start, void *ctx)
{
    char *room = queue->room;
    decode_plan plan = {};
    decode_launch launch = {};
    banyan_batch batch;
    const char *failed = cut_strips(queue, given, most_vectors, &room, &batch);
    if (!failed) failed = find_most(&batch, &plan.call.stride);
    if (failed) return failed;
    if (batch.vectors) plan.call.stride = batch.vectors;
    fill_call(queue, &batch, &plan.call);
    const int32_t most = most_parts(queue, &batch, plan.call.stride);
    launch.tiles = (int32_t *)take_room(&room, (size_t)most * sizeof(int32_t));
    int32_t first = 0;
    for (int32_t part = 0; part < batch.parts && !failed; part += launch.parts) {
        const int32_t left = batch.parts - part;
        take_launch(&batch, first, part, left < most ? left : most, &launch);
        first += launch.strips;
        if (!launch.strips && !batch.vectors) continue;
        failed = prepare_launch(queue, &batch, &launch, room, &plan);
        if (!failed && !cuda_rewrites(queue)) failed = start(ctx, &plan);
        if (!failed)
            failed = cuda_combine(queue, plan.combined, plan.cuts, plan.call.stride,
                                  plan.most_slots, plan.call.slots, batch.shape.value_dim,
                                  plan.call.results, &plan.call.carried);
    }
    return failed;
}
