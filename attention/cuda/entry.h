/* SPDX-License-Identifier: Apache-2.0 */
/* entry.h - the CUDA kernels as C sees them: the functions of a banyan_device
 * (attention/device.h says what each does), of which rows of kernels.def are put together. */
#ifndef BANYAN_ATTENTION_CUDA_ENTRY_H
#define BANYAN_ATTENTION_CUDA_ENTRY_H

#include "attention/attention.h"

/* (head, row) vectors of a strip that kernels take: the decodes; the portable prefill; that of
 * wide heads, at a time, and those of a part that may share a batch with others; that of
 * fixed-point sums. */
enum {
    CUDA_DECODE_VECTORS = 32,
    CUDA_PREFILL_VECTORS = 128,
    CUDA_WIDE_VECTORS = 64,
    CUDA_WIDE_SHARED = 256,
    CUDA_EXACT_VECTORS = 16
};

#ifdef __cplusplus
extern "C" {
#endif

const char *banyan_cuda_missing(void);
int banyan_cuda_capability(void); /* of the current device: 80, 90, ..; 0 where there is none */
const char *banyan_cuda_memory_free(int64_t *bytes);
const char *banyan_cuda_open(const banyan_device_limits *limits, void *stream,
                             banyan_queue **out);
void banyan_cuda_close(banyan_queue *queue);
void banyan_cuda_queue_bytes(const banyan_device_limits *limits, size_t *device, size_t *host);
int banyan_cuda_enter(const banyan_queue *queue);
void banyan_cuda_leave(int device);
int banyan_cuda_is_exact(const banyan_queue *queue); /* partials are fixed-point sums */

/* memory.cu, message.cu: of a device's memory (banyan_memory.h), own being a queue. */
const char *banyan_cuda_allocate(void *queue, int on_host, size_t bytes, void **out);
void banyan_cuda_release(void *queue, int on_host, void *memory);
const char *banyan_cuda_copy(void *queue, void *to, const void *from, size_t bytes);
const char *banyan_cuda_fill(void *queue, void *memory, int byte, size_t bytes);
const char *banyan_cuda_put(void *queue, void *to, const void *from, size_t bytes);
const char *banyan_cuda_gather(void *queue, const banyan_gathered *move, int32_t count);
const char *banyan_cuda_wait(void *queue);
int banyan_cuda_is_captured(void *queue);
void *banyan_cuda_stream(void *queue);
const char *banyan_cuda_tape(banyan_queue *queue, banyan_tape what);
/* passes.cu */
const char *banyan_cuda_give(banyan_queue *queue, int pass, float *const *partial,
                             int32_t heads, int32_t value_dim, int64_t rows,
                             const float *maxima, float *values);
const char *banyan_cuda_take(banyan_queue *queue, int pass, float *const *partial,
                             int32_t heads, int32_t value_dim, int64_t rows,
                             const float *maxima, const float *values);

/* pack.cu */
const char *banyan_cuda_pack(banyan_queue *queue, const banyan_block_shape *shape,
                             int32_t kv_heads, const void *k, const void *v,
                             banyan_dtype in_dtype, const banyan_packing *packing,
                             int64_t count);
/* fold.cu */
const char *banyan_cuda_fold(banyan_queue *queue, const banyan_fold_batch *batch);

/* partials.cu */
const char *banyan_cuda_join(banyan_queue *queue, const void *const *outs,
                             const float *const *lses, int32_t count, const float *sinks,
                             const uint8_t *is_mine, int32_t heads, int32_t value_dim,
                             int64_t rows, void *out, banyan_dtype out_dtype, float *lse);
const char *banyan_cuda_share(banyan_queue *queue, float *const *partial, float *const *probed,
                              int32_t heads, int32_t value_dim, int64_t rows, float *mass);
/* attend of any strips, by instructions that every GPU from compute capability 8.0 on has. */
const char *banyan_cuda_prefill(banyan_queue *queue, const banyan_batch *batch);
/* By warpgroup instructions, on sm_90: 16-bit caches, key_dim = value_dim = 64 or 128. */
const char *banyan_cuda_prefill_hopper(banyan_queue *queue, const banyan_batch *batch);
/* For batches of which no strip has more than 32 (head, row) vectors. */
const char *banyan_cuda_decode(banyan_queue *queue, const banyan_batch *batch);
const char *banyan_cuda_decode_hopper(banyan_queue *queue, const banyan_batch *batch);
/* attend of any strips, of heads that record_is_wide (record.h). */
const char *banyan_cuda_attend_wide(banyan_queue *queue, const banyan_batch *batch);
/* attend of any strips but of values in keys, with fixed-point sums. */
const char *banyan_cuda_attend_exact(banyan_queue *queue, const banyan_batch *batch);

#ifdef __cplusplus
}
#endif
#endif
