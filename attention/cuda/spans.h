/* SPDX-License-Identifier: Apache-2.0 */
/* spans.h - the list of a tile, made from the lists of its subtiles; for tiles.c. */
#ifndef BANYAN_ATTENTION_CUDA_SPANS_H
#define BANYAN_ATTENTION_CUDA_SPANS_H

#include "attention/cuda/tiles.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A union has at most the spans of both lists and this many (those that fill up to a step as
 * well). */
enum { CUDA_UNION_SPANS = 12 };

typedef struct cuda_list {
    cuda_span *span; /* spans of them */
    int32_t step;    /* entries of one: given */
    int32_t spans;
    int32_t steps[3]; /* of both subtiles, of the first only, of the second only */
} cuda_list;

/* One list for both subtiles (both: 1), or for the only one; at most count + 1 spans. */
void banyan_cuda_list(const banyan_span *span, int32_t count, int both, cuda_list *out);

/* The union of two lists. 0: they have less than half in common, or there is no short way to
 * write their union down (their steps do not match, a list does not ascend). */
int banyan_cuda_union(const banyan_span *a, int32_t a_count, const banyan_span *b,
                      int32_t b_count, cuda_list *out);

#ifdef __cplusplus
}
#endif
#endif
