/* SPDX-License-Identifier: Apache-2.0 */
/* record.h - where the numbers of a block lie in its record; for host and device.
 *
 * A block has 64 tokens. K and V are tiles of panels. A panel is 64 rows of 128 bytes, in the order in which
 * the matrix instructions of an SM like shared memory: the eight 16-byte chunks of row r are permuted by
 * the low bits of r ("128-byte swizzle"), so that eight rows read down one column touch all banks.
 *
 *     bf16, fp16      K panel 0   K panel 1   V panel 0   V panel 1        (dim 128; dim 64 has one each)
 *                     dims 0-63   dims 64-127 dims 0-63   dims 64-127
 *
 *     panel:   row 0  | c0 | c1 | c2 | c3 | c4 | c5 | c6 | c7 |       c: 8 numbers of 16 bits
 *              row 1  | c1 | c0 | c3 | c2 | c5 | c4 | c7 | c6 |
 *              row 2  | c2 | c3 | c0 | c1 | c6 | c7 | c4 | c5 |       place of chunk c: c ^ (r % 8)
 *              ..
 *              row 63
 *
 * A record is therefore one run of bytes that a bulk copy brings to shared memory as it is. */
#ifndef BANYAN_ATTENTION_CUDA_RECORD_H
#define BANYAN_ATTENTION_CUDA_RECORD_H

#include <stdint.h>

#ifdef __CUDACC__
#define RECORD_FN static __host__ __device__ __forceinline__
#else
#define RECORD_FN static inline
#endif

enum { RECORD_TOKENS = 64, RECORD_ROW_BYTES = 128, RECORD_PANEL_BYTES = 64 * 128 };

/* Place of byte `byte` (0..127) of row `row` in a panel. */
RECORD_FN uint32_t record_swizzle(uint32_t row, uint32_t byte)
{
    return row * RECORD_ROW_BYTES + (byte ^ ((row & 7) << 4));
}

/* ---- 16-bit numbers ------------------------------------------------------------------------ */

RECORD_FN uint32_t record16_tile_bytes(uint32_t dim) /* of K, or of V; dim a multiple of 64 */
{
    return dim / 64 * RECORD_PANEL_BYTES;
}
/* Of number `d` of token `token`, from the beginning of its tile. */
RECORD_FN uint32_t record16_at(uint32_t token, uint32_t d)
{
    return d / 64 * RECORD_PANEL_BYTES + record_swizzle(token, d % 64 * 2);
}

#endif
