/* SPDX-License-Identifier: Apache-2.0 */
/* Records of the CUDA kernels (record.h) to rows and back, on the host: of snapshots, which are
 * written and read by it. */
#include "attention/cuda/plain.h"

#include "attention/cuda/record.h"

#include <string.h>

enum { CHUNK = 8 }; /* numbers of 16 bits that lie together */

/* Rows of one tile; to_rows: from the tile, else to it. */
static void move16(char *tile, char *rows, int32_t count, uint32_t tokens, int32_t dim,
                   int to_rows)
{
    for (int32_t token = 0; token < count; token++)
        for (int32_t d = 0; d < dim; d += CHUNK) {
            char *in_tile =
                tile + record16_at(tokens, (uint32_t)dim, (uint32_t)token, (uint32_t)d);
            char *in_row = rows + ((size_t)token * (size_t)dim + (size_t)d) * 2;
            memcpy(to_rows ? in_row : in_tile, to_rows ? in_tile : in_row, 2 * CHUNK);
        }
}

static void move8(char *record, int32_t count, uint32_t tokens, uint32_t key_dim,
                  uint32_t value_dim, const banyan_plain *plain, int to_rows)
{
    char *v_tile = record + record8_v_tile(tokens, key_dim);
    for (uint32_t token = 0; token < (uint32_t)count; token++) {
        char *k = (char *)plain->k + token * key_dim, *v = (char *)plain->v + token * value_dim;
        for (uint32_t d = 0; d < key_dim; d += 16) {
            char *in_tile = record + record8_k_at(tokens, key_dim, token, d);
            memcpy(to_rows ? k + d : in_tile, to_rows ? in_tile : k + d, 16);
        }
        for (uint32_t d = 0; d < value_dim; d++) {
            char *in_tile = v_tile + record8_v_at(tokens, token, d);
            if (to_rows)
                v[d] = *in_tile;
            else
                *in_tile = v[d];
        }
    }
    char *k_scales = record + record8_k_scales(tokens, key_dim, value_dim);
    char *v_scales = record + record8_v_scales(tokens, key_dim, value_dim);
    const size_t bytes = (size_t)count * sizeof(float);
    memcpy(to_rows ? (char *)plain->k_factor : k_scales,
           to_rows ? k_scales : (char *)plain->k_factor, bytes);
    memcpy(to_rows ? (char *)plain->v_factor : v_scales,
           to_rows ? v_scales : (char *)plain->v_factor, bytes);
}

size_t banyan_cuda_slot_bytes(const banyan_block_shape *shape)
{
    const uint32_t key_dim = (uint32_t)shape->key_dim, value_dim = (uint32_t)shape->value_dim;
    const uint32_t tokens = record_tokens(shape->block_tokens);
    return shape->dtype == BANYAN_E4M3
               ? record8_bytes(tokens, key_dim, value_dim)
               : record16_bytes(tokens, key_dim, value_dim, shape->value_in_key);
}

/* Rows of one slot. */
static void move_slot(const banyan_block_shape *shape, char *record, int32_t rows,
                      const banyan_plain *plain, int to_rows)
{
    const uint32_t key_dim = (uint32_t)shape->key_dim, value_dim = (uint32_t)shape->value_dim;
    const uint32_t tokens = record_tokens(shape->block_tokens);
    if (shape->dtype == BANYAN_E4M3) {
        move8(record, rows, tokens, key_dim, value_dim, plain, to_rows);
        return;
    }
    move16(record, plain->k, rows, tokens, shape->key_dim, to_rows);
    if (!shape->value_in_key)
        move16(record + record16_tile_bytes(tokens, key_dim), plain->v, rows, tokens,
               shape->value_dim, to_rows);
}

static void move(const banyan_block_shape *shape, char *record, int32_t rows,
                 const banyan_plain *plain, int to_rows)
{
    const size_t bytes = banyan_cuda_slot_bytes(shape),
                 number = banyan_dtype_bytes(shape->dtype);
    const int32_t tokens = (int32_t)record_tokens(shape->block_tokens);
    banyan_plain at = *plain;
    for (int32_t first = 0; first < rows; first += tokens, record += bytes) {
        const int32_t left = rows - first;
        move_slot(shape, record, left < tokens ? left : tokens, &at, to_rows);
        at.k = (char *)at.k + (size_t)tokens * (size_t)shape->key_dim * number;
        if (!shape->value_in_key)
            at.v = (char *)at.v + (size_t)tokens * (size_t)shape->value_dim * number;
        if (shape->dtype != BANYAN_E4M3) continue;
        at.k_factor += tokens;
        at.v_factor += tokens;
    }
}

void banyan_cuda_unpack(const banyan_block_shape *shape, const void *record, int32_t rows,
                        const banyan_plain *out)
{
    move(shape, (char *)(uintptr_t)record, rows, out, 1);
}

void banyan_cuda_restore(const banyan_block_shape *shape, void *record, int32_t rows,
                         const banyan_plain *in)
{
    memset(record, 0,
           banyan_cuda_slot_bytes(shape) *
               ((size_t)shape->block_tokens / record_tokens(shape->block_tokens)));
    move(shape, record, rows, in, 0);
}
