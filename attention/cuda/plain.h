/* SPDX-License-Identifier: Apache-2.0 */
/* plain.h - records of the CUDA kernels to rows and back: unpack and restore of
 * banyan_kernel. */
#ifndef BANYAN_ATTENTION_CUDA_PLAIN_H
#define BANYAN_ATTENTION_CUDA_PLAIN_H

#include "attention/attention.h"

/* Of RECORD_TOKENS tokens; a block is one slot or several, one behind the other. */
size_t banyan_cuda_slot_bytes(const banyan_block_shape *shape);
void banyan_cuda_unpack(const banyan_block_shape *shape, const void *record, int32_t rows,
                        const banyan_plain *out);
void banyan_cuda_restore(const banyan_block_shape *shape, void *record, int32_t rows,
                         const banyan_plain *in);

#endif
