/* SPDX-License-Identifier: Apache-2.0 */
/* row.h - what the CUDA rows of kernels.def have in common: everything but attend. Their
 * records are the same bytes, so that a cache may be packed by one and read by the other. */
#ifndef BANYAN_ATTENTION_CUDA_ROW_H
#define BANYAN_ATTENTION_CUDA_ROW_H

#include "attention/cuda/entry.h"
#include "attention/cuda/plain.h"
#include "attention/cuda/record.h"

static int cuda_supports(const banyan_block_shape *shape)
{
    const int32_t key_dim = shape->key_dim;
    if (!record_has_block(shape->block_tokens) || shape->dtype == BANYAN_F32) return 0;
    if (shape->value_in_key) /* DeepSeek's latent attention */
        return key_dim == 576 && shape->value_dim == 512 && shape->dtype != BANYAN_E4M3;
    return key_dim == shape->value_dim && (record_has_dim(key_dim) || key_dim == 256);
}

static int cuda_is_exact(const banyan_block_shape *shape)
{
    return !shape->value_in_key && shape->block_tokens % RECORD_TOKENS == 0;
}

static int32_t cuda_shared_vectors(const banyan_block_shape *shape)
{
    return record_is_wide(shape->key_dim) ? CUDA_WIDE_SHARED : CUDA_DECODE_VECTORS;
}

static size_t cuda_record_bytes(const banyan_block_shape *shape)
{
    return banyan_cuda_slot_bytes(shape) *
           ((size_t)shape->block_tokens / record_tokens(shape->block_tokens));
}

/* A call with few (head, row) vectors in each of its lists, as of a decoded token, is bound by
 * reading the cache; one with many, by arithmetic. Each has its kernel. */
static int cuda_is_decode(const banyan_batch *batch)
{
    int32_t first = INT32_MAX, end = 0;
    for (int32_t i = 0; i < batch->strips; i++) {
        const banyan_strip *strip = &batch->strip[i];
        if ((int64_t)__builtin_popcountll(strip->heads) * strip->rows > CUDA_DECODE_VECTORS)
            return 0;
        if (strip->first_row < first) first = strip->first_row;
        if (strip->first_row + strip->rows > end) end = strip->first_row + strip->rows;
    }
    /* strips of blocks of 32 tokens have few vectors where a KV head has one query head; a
     * tape's strips are not known when it is captured */
    return batch->vectors || batch->parts > 1 || end - first <= batch->shape.block_tokens;
}

#define BANYAN_CUDA_DEVICE(attend_function)                                                    \
    {                                                                                          \
        .name = "cuda", .slot_tokens = RECORD_TOKENS, .shared_vectors = cuda_shared_vectors,   \
        .is_exact = cuda_is_exact, .missing = banyan_cuda_missing,                             \
        .memory_free = banyan_cuda_memory_free, .open = banyan_cuda_open,                      \
        .close = banyan_cuda_close, .queue_bytes = banyan_cuda_queue_bytes,                    \
        .enter = banyan_cuda_enter, .leave = banyan_cuda_leave, .memory = &banyan_cuda_memory, \
        .tape = banyan_cuda_tape, .pack = banyan_cuda_pack, .attend = (attend_function),       \
        .fold = banyan_cuda_fold, .join = banyan_cuda_join, .share = banyan_cuda_share,        \
        .give = banyan_cuda_give, .take = banyan_cuda_take,                                    \
    }

#endif
