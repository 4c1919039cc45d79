/* SPDX-License-Identifier: Apache-2.0 */
/* data.h - random q, k and v whose every value can be computed anywhere.
 *
 * A value is a hash of (seed, what, layer, token, head, dim): each rank makes only the heads
 * and blocks that it needs, the oracle makes any key again, and nothing is ever sent or
 * stored. */
#ifndef BANYAN_DATA_H
#define BANYAN_DATA_H

#include <stdint.h>

enum { DATA_Q, DATA_K, DATA_V };

/* The `dim` values of one head of one token: roughly normal, variance 1, none beyond 3.46.
 * Fewer are the first of more. */
void data_row(float *out, uint64_t seed, int what, int32_t layer, int64_t token, int32_t head,
              int32_t dim);

/* Round to what a bf16 or fp16 cache keeps: nearest, ties to even; |x| < 65504. Written apart
 * from the library's conversions, so that the oracle does not share their faults. */
void data_round_bf16(float *x, int32_t count);
void data_round_f16(float *x, int32_t count);
/* A whole row, with a factor that makes its largest number 448: as BANYAN_E4M3 keeps it. */
void data_round_e4m3(float *x, int32_t count);

/* A hash of one output row's bits that depends on its place: rows may be added up in any
 * order. */
uint64_t data_hash_row(int32_t layer, int32_t head, int64_t token, const float *out,
                       int32_t dim);

/* 64 bits in, 64 mixed bits out. */
uint64_t data_mix(uint64_t x);

#endif
