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

static const char *find_most(const banyan_batch *batch, decode_plan *out)
{
    out->most_vectors = 1;
    for (int32_t i = 0; i < batch->strips; i++) {
        const int vectors = vectors_of(&batch->strip[i]);
        if (vectors > CUDA_DECODE_VECTORS)
            return cuda_words("a strip of %d query vectors in a decode of at most %d", vectors,
                              (int)CUDA_DECODE_VECTORS);
        if (batch->strip[i].blocks > INT32_MAX)
            return cuda_words("a list of %lld blocks", (long long)batch->strip[i].blocks);
        if (vectors > out->most_vectors) out->most_vectors = vectors;
    }
    return NULL;
}

/* The split's cuts, as the combine wants them. */
static void describe(const banyan_batch *batch, const cuda_split *split, decode_plan *plan,
                     cuda_combined *out)
{
    plan->most_slots = 1;
    for (int32_t i = 0; i < split->cuts; i++) {
        const cuda_cut *const cut = &split->cut[i];
        const banyan_strip *const strip = &batch->strip[cut->tile];
        out[i] = cuda_combined{strip->heads,       (int64_t)cut->slot * plan->most_vectors,
                               plan->most_vectors, cut->slots,
                               strip->first_head,  strip->first_row,
                               strip->rows,        0,
                               vectors_of(strip)};
        if (cut->slots > plan->most_slots) plan->most_slots = cut->slots;
    }
}

static const char *stage(banyan_queue *queue, const banyan_batch *batch,
                         const cuda_split *split, const cuda_combined *combined,
                         decode_plan *out)
{
    cuda_array array[] = {
        {split->item, (size_t)split->items * sizeof(cuda_item), NULL},
        {split->first_item, (size_t)(split->workers + 1) * sizeof(int32_t), NULL},
        {batch->strip, (size_t)batch->strips * sizeof(banyan_strip), NULL},
        {batch->span, (size_t)batch->spans * sizeof(banyan_span), NULL},
        {batch->edge, (size_t)batch->edges * sizeof(banyan_edge), NULL},
        {batch->table, (size_t)batch->tables * sizeof(banyan_table_of_blocks), NULL},
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
    call->results.partial = (float *const *)array[6].device;
    out->combined = (const cuda_combined *)array[7].device;
    return NULL;
}

const char *decode_prepare(banyan_queue *queue, const banyan_batch *batch, int workers,
                           decode_plan *out)
{
    const char *failed = find_most(batch, out);
    if (failed) return failed;
    char *room = queue->room;
    const size_t tiles = (size_t)batch->strips, most_cuts = (size_t)workers;
    const size_t most_items = (size_t)cuda_split_items(batch->strips, workers);
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

    for (int32_t i = 0; i < batch->strips; i++) blocks[i] = (int32_t)batch->strip[i].blocks;
    banyan_cuda_split(blocks, batch->strips, workers, costs, &split);
    const size_t slot_bytes = (size_t)split.slots * (size_t)out->most_vectors *
                              banyan_partial_floats(batch->shape.value_dim) * sizeof(float);
    if (slot_bytes > queue->scratch_bytes)
        return cuda_words("a decode needs %zu bytes of scratch memory; the queue has %zu",
                          slot_bytes, queue->scratch_bytes);
    out->workers = split.workers;
    out->cuts = split.cuts;
    describe(batch, &split, out, combined);

    decode_call *const call = &out->call;
    call->q = batch->q;
    call->slots = (float *)queue->scratch;
    call->results.out = batch->out;
    call->results.lse = batch->lse;
    call->results.heads = batch->heads;
    call->results.out_dtype = batch->out_dtype;
    call->at = batch->at;
    call->first_token = batch->first_token;
    call->end_token = batch->end_token;
    call->scale = batch->scale * 1.44269504088896340736f;
    call->heads = batch->heads;
    call->stride = out->most_vectors;
    call->in_dtype = batch->in_dtype;
    return stage(queue, batch, &split, combined, out);
}

const char *decode_combine(banyan_queue *queue, const banyan_batch *batch,
                           const decode_plan *plan)
{
    return cuda_combine(queue, plan->combined, plan->cuts, plan->most_vectors, plan->most_slots,
                        plan->call.slots, batch->shape.value_dim, plan->call.results);
}
