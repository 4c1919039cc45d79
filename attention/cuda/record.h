/* SPDX-License-Identifier: Apache-2.0 */
/* record.h - where the numbers of a block lie in its record; for host and device.
 *
 * A block of 64 tokens has one record; of more, one for each 64 of them, one behind the other
 * (slots of attention/device.h). One of 32 has a record of 32 tokens, whose panels have 32
 * rows. (So `tokens` below is 64 or 32.) K and V are tiles of panels. A panel is 64 rows of 128
 * bytes, in the order in which the matrix instructions of an SM like shared memory: the eight
 * 16-byte chunks of row r are permuted by the low bits of r ("128-byte swizzle"), so that eight
 * rows read down one column touch all banks.
 *
 *     bf16, fp16      K panel 0   K panel 1   V panel 0   V panel 1    (dim 128; dim 64 has one
 *                     dims 0-63   dims 64-127 dims 0-63   dims 64-127  each, dim 256 four)
 *
 *     panel:   row 0  | c0 | c1 | c2 | c3 | c4 | c5 | c6 | c7 |   c: 8 numbers of 16 bits
 *              row 1  | c1 | c0 | c3 | c2 | c5 | c4 | c7 | c6 |
 *              row 2  | c2 | c3 | c0 | c1 | c6 | c7 | c4 | c5 |   place of chunk c: c ^ (r % 8)
 *              ..
 *              row 63
 *
 * Dim 96 has three panels, each 32 dims wide with rows of 64 bytes, chunk c of row r at c ^ (r
 * / 2 % 4): the "64-byte swizzle", of which the same is true.
 *
 * Where a value is the first numbers of its key there is no V tile: dim 576 has nine panels of
 * K, of which the first eight are V.
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

/* Tokens of a record, at most; bytes of a row of a panel, and of a panel with so many. */
enum { RECORD_TOKENS = 64, RECORD_ROW = 128, RECORD_PANEL_BYTES = RECORD_TOKENS * RECORD_ROW };

/* Blocks that have records, .. */
RECORD_FN int record_has_block(int32_t block_tokens)
{
    return block_tokens == 32 || block_tokens % RECORD_TOKENS == 0;
}
/* .. and the tokens of one of theirs. */
RECORD_FN uint32_t record_tokens(int32_t block_tokens)
{
    return (uint32_t)(block_tokens < RECORD_TOKENS ? block_tokens : RECORD_TOKENS);
}

/* Head dims that kernels are compiled for: those of which a warp has all, .. */
RECORD_FN int record_has_dim(int32_t dim)
{
    return dim == 64 || dim == 96 || dim == 128;
}
/* .. and those that are too wide for that (attend_wide.cu). */
RECORD_FN int record_is_wide(int32_t key_dim)
{
    return key_dim == 256 || key_dim == 576;
}

/* Place of byte `byte` (0..127) of row `row` in a panel. */
RECORD_FN uint32_t record_swizzle(uint32_t row, uint32_t byte)
{
    return row * 128 + (byte ^ ((row & 7) << 4));
}
/* Likewise of rows of 64 bytes, the four chunks permuted, .. */
RECORD_FN uint32_t record_swizzle64(uint32_t row, uint32_t byte)
{
    return row * 64 + (byte ^ ((row & 6) << 3));
}
/* .. and of rows of 32 bytes. */
RECORD_FN uint32_t record_swizzle32(uint32_t row, uint32_t byte)
{
    return row * 32 + (byte ^ ((row & 4) << 2));
}

/* ---- 16-bit numbers ---------------------------------------------------------------------- */

/* Of K, or of V; dim a multiple of 32. */
RECORD_FN uint32_t record16_tile_bytes(uint32_t tokens, uint32_t dim)
{
    return tokens * dim * 2;
}
RECORD_FN uint32_t record16_bytes(uint32_t tokens, uint32_t key_dim, uint32_t value_dim,
                                  int value_in_key)
{
    return record16_tile_bytes(tokens, key_dim) +
           (value_in_key ? 0 : record16_tile_bytes(tokens, value_dim));
}
#define RECORD16_ROW(dim) ((dim) % 64 ? 64 : 128) /* bytes, of a panel */
/* Of number `d` of token `token`, from the beginning of its tile. */
RECORD_FN uint32_t record16_at(uint32_t tokens, uint32_t dim, uint32_t token, uint32_t d)
{
    if (dim % 64) return d / 32 * (tokens * 64) + record_swizzle64(token, d % 32 * 2);
    return d / 64 * (tokens * RECORD_ROW) + record_swizzle(token, d % 64 * 2);
}

/* ---- e4m3 -----------------------------------------------------------------------------------
 *
 *     K tile, 64 x key_dim | V tile, value_dim x 64 | K scales, 64 fp32 | V scales, 64 fp32
 *
 * A number is its byte times the scale of its token: scale = max |row| / 448, 0 for a row of
 * zeros; NaN for one that holds a NaN or an inf. Both tiles are such that ldmatrix, which knows
 * 16-bit numbers only, hands out bytes in an order that suits m16n8k16 once they are converted
 * to fp16: of a 16-byte chunk of row n, lane 4 n + c gets bytes 4 c .. 4 c + 3. Called b0 = (0,
 * 1), b1 = (2, 3), they stand for rows 2 c, 2 c + 1, 2 c + 8 and 2 c + 9 of the instruction's
 * b.
 *
 * K: a row is a token. The 16 dims of a chunk are then in the order "column of a 2 c + e + 8 h
 * is dim 4 c + 2 h + e", and q is loaded in that order. As the 16-bit panels, dim 128 has rows
 * of 128 bytes with chunk c at c ^ (r % 8), dim 256 two panels of them; dim 64 has rows of 64
 * bytes with chunk c at c ^ (r / 2 % 4); dim 96 three panels with rows of 32 bytes, chunk c at
 * c ^ (r / 4 % 2). (So the hardware's 128-, 64- and 32-byte swizzles have it, and eight rows of
 * one chunk touch all banks.)
 *
 * V: a row is a dim, 64 bytes, swizzled as K of dim 64 (of 32 tokens 32 bytes, as K of dim 96):
 * transposed, as fp8 matrix instructions must have it. The order of tokens in a chunk is that
 * in which a score fragment leaves a thread with them:
 *
 *     byte of the chunk   0  1  2  3 | 4  5  6  7 | 8  9 10 11 | 12 13 14 15
 *     token of the 16     0  1  8  9 | 2  3 10 11 | 4  5 12 13 |  6  7 14 15
 *
 * Thread c has the scores of tokens 2 c, 2 c + 1 (of one 16 x 8 fragment) and 2 c + 8, 2 c + 9
 * (of the next): as columns of a they meet the bytes of the same tokens. The a fragments of fp8
 * instructions (m16n8k32, wgmma), four bytes per thread, want the same. */

RECORD_FN uint32_t record8_tile_bytes(uint32_t tokens, uint32_t dim)
{
    return tokens * dim;
}
#define RECORD8_ROW(dim)                                                                       \
    ((dim) == 96 ? 32 : (dim) == 256 ? 128 : (dim)) /* bytes, of a panel of K */
/* Of number `d` of token `token` in K, from the beginning of its tile. */
RECORD_FN uint32_t record8_k_at(uint32_t tokens, uint32_t dim, uint32_t token, uint32_t d)
{
    if (dim == 96) return d / 32 * (tokens * 32) + record_swizzle32(token, d % 32);
    if (dim == 64) return record_swizzle64(token, d);
    return d / 128 * (tokens * RECORD_ROW) + record_swizzle(token, d % 128);
}
/* Likewise in V, for any dim. */
RECORD_FN uint32_t record8_v_at(uint32_t tokens, uint32_t token, uint32_t d)
{
    const uint32_t place = (token & 6) << 1 | (token & 8) >> 2 | (token & 1);
    return tokens == 32 ? record_swizzle32(d, (token & 16) | place)
                        : record_swizzle64(d, (token & 48) | place);
}
/* The other parts, from the beginning of the record. */
RECORD_FN uint32_t record8_v_tile(uint32_t tokens, uint32_t key_dim)
{
    return record8_tile_bytes(tokens, key_dim);
}
RECORD_FN uint32_t record8_k_scales(uint32_t tokens, uint32_t key_dim, uint32_t value_dim)
{
    return record8_tile_bytes(tokens, key_dim) + record8_tile_bytes(tokens, value_dim);
}
RECORD_FN uint32_t record8_v_scales(uint32_t tokens, uint32_t key_dim, uint32_t value_dim)
{
    return record8_k_scales(tokens, key_dim, value_dim) + tokens * 4;
}
RECORD_FN uint32_t record8_bytes(uint32_t tokens, uint32_t key_dim, uint32_t value_dim)
{
    return record8_v_scales(tokens, key_dim, value_dim) + tokens * 4;
}

#endif
