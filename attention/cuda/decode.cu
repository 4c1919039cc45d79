/* SPDX-License-Identifier: Apache-2.0 */
#include "attention/cuda/decode.h"

#include "attention/cuda/record.h"

#include <stdint.h>
#include <string.h>

/* In blocks of 32 KiB, of which a multiprocessor reads one in about 1 us when all of them read:
 * q is loaded and the warps' sums are merged in about 2 us; a combine is a launch of 3 us and
 * more; and of a short list a part of 4 is worth its share of the combine.
 *
 * Of a prefill both are longer: a block is 4 MFLOP and about 3 us, and 128 vectors are brought
 * and results stored, 64 KiB and more, while nothing else is done. */
static const cuda_split_costs costs_of_64 = {2, 4, 4};

/* Of blocks of fewer tokens there are as many more. */
static cuda_split_costs decode_costs(const banyan_block_shape *shape)
{
    const int32_t times = RECORD_TOKENS / (int32_t)record_tokens(shape->block_tokens);
    return {times * costs_of_64.start, times * costs_of_64.cut, times * costs_of_64.least};
}

static size_t aligned_room(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

/* Next room of the queue's host memory, 16-byte aligned. */
static void *take_room(char **room, size_t bytes)
{
    void *const next = *room;
    *room += aligned_room(bytes);
    return next;
}

static int strip_vectors(const banyan_strip *strip)
{
    return __builtin_popcountll(strip->heads) * strip->rows;
}

/* Strips of a batch that go in one launch, and how many of them are of each part. */
struct decode_launch {
    int32_t first, strips, parts;
    int32_t *tiles; /* [parts] */
};

/* A launch's lists, in host memory; a tile is a strip of the batch. */
struct decode_lists {
    const int32_t *first_portion; /* [workers + 1] */
    const cuda_portion *portion;
    const cuda_combined *combined; /* [cuts] */
    int32_t workers, cuts, most_partials;
};

/* Launches whose arguments reach the device together. Their lists lie one behind the other. */
struct decode_work {
    decode_lists launch[CUDA_DECODE_PARTS];
    int32_t launches;
    const char *lists;
    size_t bytes;
};

/* Strips whose vectors are too many for a kernel, `most` of them at a time, become several:
 * some of the heads, or some of the rows, with the same list. */
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

/* Pieces of any strip of a tape, at most: all but the last have more than half of `most`
 * vectors. */
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
    if (out->vectors) out->part_strips *= pieces_of_tape(batch, most);
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

/* Parts of a launch: the partials that each may add must find room in scratch. */
static int32_t most_parts(const banyan_queue *queue, const banyan_batch *batch, int vectors)
{
    const size_t partial = (size_t)vectors * cuda_row_bytes(queue, batch->shape.value_dim);
    const size_t part = 2 * (size_t)queue->multiprocessors * partial;
    const size_t parts = queue->scratch_bytes / part, most = CUDA_DECODE_PARTS;
    return parts < 1 ? 1 : (int32_t)(parts < most ? parts : most);
}

/* Strips from `first` on, of the parts first_part .. first_part + parts - 1. */
static void take_launch(const banyan_batch *batch, int32_t first, int32_t first_part,
                        int32_t parts, decode_launch *out)
{
    out->first = first;
    out->strips = 0;
    out->parts = parts;
    for (int32_t p = 0; p < parts; p++) {
        const int32_t before = out->strips;
        while (first + out->strips < batch->strips &&
               batch->strip[first + out->strips].part == first_part + p)
            out->strips++;
        out->tiles[p] = out->strips - before;
    }
}

/* The split's cuts, as the combine wants them. */
static int32_t describe_cuts(const banyan_strip *strips, const cuda_split *split, int stride,
                             cuda_combined *out)
{
    int32_t most_partials = 1;
    for (int32_t i = 0; i < split->cuts; i++) {
        const cuda_cut *const cut = &split->cut[i];
        const banyan_strip *const strip = &strips[cut->tile];
        out[i] = cuda_combined{strip->heads,
                               (int64_t)cut->partial * stride,
                               stride,
                               cut->partials,
                               strip->first_head,
                               strip->first_row,
                               strip->rows,
                               0,
                               strip_vectors(strip)};
        if (cut->partials > most_partials) most_partials = cut->partials;
    }
    return most_partials;
}

static void fill_call(const banyan_queue *queue, const banyan_batch *batch, decode_call *call)
{
    call->q = batch->q;
    call->scratch = (float *)queue->scratch;
    call->results.out = batch->out;
    call->results.lse = batch->lse;
    call->results.heads = batch->heads;
    call->results.out_dtype = batch->out_dtype;
    call->scale = batch->scale * 1.44269504088896340736f;
    call->heads = batch->heads;
    call->in_dtype = batch->in_dtype;
}

/* Strips of a launch, portions and cuts, at most; for a tape wherever its parts are. */
static int32_t most_strips(const banyan_batch *batch, const decode_launch *launch)
{
    if (!batch->vectors) return launch->strips;
    const int64_t strips = (int64_t)launch->parts * batch->part_strips;
    return strips < batch->strips ? (int32_t)strips : batch->strips;
}
static int32_t most_portions(const banyan_batch *batch, const decode_launch *launch,
                             int workers)
{
    return most_strips(batch, launch) + launch->parts * workers;
}
static int32_t most_cuts(const banyan_batch *batch, const decode_launch *launch, int workers)
{
    const int32_t cuts = launch->parts * workers;
    return batch->vectors && most_strips(batch, launch) < cuts ? most_strips(batch, launch)
                                                               : cuts;
}

/* A split for a tape, whose sizes depend on those of the batch alone: all workers, those that
 * have nothing to do with no portions; and as many cuts as there may be, those that are none
 * without vectors. */
static void pad_split(const banyan_batch *batch, const decode_launch *launch, int32_t workers,
                      cuda_split *split)
{
    for (int32_t w = split->workers + 1; w <= workers; w++)
        split->first_portion[w] = split->portions;
    split->portions = most_portions(batch, launch, workers);
    split->workers = workers;
}

/* A launch's lists are added to those of the others, at *end. */
static const char *list_launch(const banyan_queue *queue, const banyan_batch *batch,
                               const decode_launch *launch, int stride, char *room, char **end,
                               decode_lists *out)
{
    const int32_t workers = queue->multiprocessors;
    const int32_t portions = most_portions(batch, launch, workers);
    const int32_t cuts = most_cuts(batch, launch, workers);
    const banyan_strip *const strip = batch->strip + launch->first;
    const size_t rest = aligned_room((size_t)launch->strips * sizeof(int32_t)) +
                        aligned_room((size_t)cuts * sizeof(cuda_cut)) +
                        aligned_room((size_t)cuts * sizeof(cuda_combined));
    cuda_split split;
    split.first_portion = (int32_t *)take_room(end, ((size_t)workers + 1) * sizeof(int32_t));
    split.portion = (cuda_portion *)*end;
    char *after = *end + aligned_room((size_t)portions * sizeof(cuda_portion));
    if ((size_t)(after - room) + rest > queue->room_bytes - (size_t)(room - queue->room))
        return cuda_words("attention of %d strips; its queue was opened for %lld",
                          (int)batch->strips, (long long)queue->limits.strips);
    /* what is forgotten when the lists are there lies behind the most that they may be */
    cuda_combined *const combined =
        (cuda_combined *)take_room(&after, (size_t)cuts * sizeof *combined);
    int32_t *const blocks =
        (int32_t *)take_room(&after, (size_t)launch->strips * sizeof(int32_t));
    split.cut = (cuda_cut *)after;
    for (int32_t i = 0; i < launch->strips; i++) blocks[i] = (int32_t)strip[i].blocks;
    banyan_cuda_split_parts(blocks, launch->tiles, launch->parts, workers,
                            decode_costs(&batch->shape), &split);
    const size_t partial_bytes =
        (size_t)split.partials * (size_t)stride * cuda_row_bytes(queue, batch->shape.value_dim);
    if (partial_bytes > queue->scratch_bytes)
        return cuda_words("attention needs %zu bytes of scratch memory; the queue has %zu",
                          partial_bytes, queue->scratch_bytes);
    for (int32_t i = 0; i < split.portions; i++) split.portion[i].tile += launch->first;
    const int32_t most_partials = describe_cuts(strip, &split, stride, combined);
    if (batch->vectors) pad_split(batch, launch, workers, &split);
    out->cuts = batch->vectors ? cuts : split.cuts;
    for (int32_t i = split.cuts; i < out->cuts; i++) combined[i] = cuda_combined{};
    out->first_portion = split.first_portion;
    out->portion = split.portion;
    out->workers = split.workers;
    out->most_partials = batch->vectors ? workers + 1 : most_partials;
    take_room(end, (size_t)split.portions * sizeof(cuda_portion));
    out->combined = (const cuda_combined *)*end;
    memmove(take_room(end, (size_t)out->cuts * sizeof *combined), combined,
            (size_t)out->cuts * sizeof *combined);
    return NULL;
}

/* The arguments of all launches; *lists: where their lists are then. */
static const char *stage(banyan_queue *queue, const banyan_batch *batch,
                         const decode_work *work, decode_call *call, const char **lists)
{
    cuda_array array[] = {
        {work->lists, work->bytes, NULL},
        {batch->strip, (size_t)batch->strips * sizeof(banyan_strip), NULL},
        {batch->span, (size_t)batch->spans * sizeof(banyan_span), NULL},
        {batch->edge, (size_t)batch->edges * sizeof(banyan_edge), NULL},
        {batch->table, (size_t)batch->tables * sizeof(banyan_table_of_blocks), NULL},
        {batch->part, (size_t)batch->parts * sizeof(banyan_batch_part), NULL},
        {batch->partial, (size_t)batch->heads * sizeof(float *), NULL}};
    const char *const failed =
        cuda_stage(queue, array, sizeof(array) / sizeof(array[0]), &call->carried);
    if (failed) return failed;
    *lists = (const char *)array[0].device;
    call->strip = (const banyan_strip *)array[1].device;
    call->span = (const banyan_span *)array[2].device;
    call->edge = (const banyan_edge *)array[3].device;
    call->table = (const banyan_table_of_blocks *)array[4].device;
    call->part = (const banyan_batch_part *)array[5].device;
    call->results.partial = (float *const *)array[6].device;
    return NULL;
}

/* The lists of parts first_part .. end_part - 1, in launches of `most` parts; *first: of their
 * strips, and then of the next parts'. */
static const char *list_launches(const banyan_queue *queue, const banyan_batch *batch,
                                 int32_t first_part, int32_t end_part, int32_t most, int stride,
                                 char *room, int32_t *first, decode_work *out)
{
    const char *failed = NULL;
    decode_launch launch = {};
    launch.tiles = (int32_t *)take_room(&room, (size_t)most * sizeof(int32_t));
    char *end = room;
    out->launches = 0;
    for (int32_t part = first_part; part < end_part && !failed; part += launch.parts) {
        const int32_t left = end_part - part;
        take_launch(batch, *first, part, left < most ? left : most, &launch);
        *first += launch.strips;
        if (launch.strips || batch->vectors)
            failed = list_launch(queue, batch, &launch, stride, room, &end,
                                 &out->launch[out->launches++]);
    }
    out->lists = room;
    out->bytes = (size_t)(end - room);
    return failed;
}

const char *decode_launches(banyan_queue *queue, const banyan_batch *given, int most_vectors,
                            decode_start start, void *ctx)
{
    char *room = queue->room;
    decode_plan plan = {};
    decode_work work;
    banyan_batch batch;
    const char *failed = cut_strips(queue, given, most_vectors, &room, &batch), *lists = NULL;
    if (!failed) failed = find_most(&batch, &plan.call.stride);
    if (failed) return failed;
    if (batch.vectors) plan.call.stride = batch.vectors;
    fill_call(queue, &batch, &plan.call);
    const int32_t most = most_parts(queue, &batch, plan.call.stride);
    int32_t first = 0;
    for (int32_t part = 0, end; part < batch.parts && !failed; part = end) {
        end = batch.parts - part > CUDA_DECODE_PARTS ? part + CUDA_DECODE_PARTS : batch.parts;
        failed = list_launches(queue, &batch, part, end, most, plan.call.stride, room, &first,
                               &work);
        if (!failed && work.launches) failed = stage(queue, &batch, &work, &plan.call, &lists);
        for (int32_t i = 0; i < work.launches && !failed; i++) {
            const decode_lists *const of = &work.launch[i];
            plan.call.portion =
                (const cuda_portion *)(lists + ((const char *)of->portion - work.lists));
            plan.call.first_portion =
                (const int32_t *)(lists + ((const char *)of->first_portion - work.lists));
            plan.workers = of->workers;
            if (!cuda_rewrites(queue)) failed = start(ctx, &plan);
            if (!failed)
                failed = cuda_combine(
                    queue,
                    (const cuda_combined *)(lists + ((const char *)of->combined - work.lists)),
                    of->cuts, plan.call.stride, of->most_partials, plan.call.scratch,
                    batch.shape.value_dim, plan.call.results, &plan.call.carried);
        }
    }
    return failed;
}
