/* SPDX-License-Identifier: Apache-2.0 */
/* The token of the largest score that a row sees. Kernels do not say which token that was, but
 * they say the largest score of any list and of any range of tokens: m. So each block of the
 * list is asked for alone, which gives the block for all rows at once, and then half after half
 * of that block, row by row. A kernel computes a score with the same bits whatever else is in
 * the tile, so that the halves' larger m is the block's; on ties the lower token wins. For
 * looking, not for speed. */
#include "attention/attention.h"

#include <math.h>

void banyan_strongest_clear(banyan_strongest *best, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) best[i] = (banyan_strongest){-INFINITY, 0, -1};
}

static int is_stronger(const banyan_strongest *a, const banyan_strongest *b)
{
    if (a->token < 0 || b->token < 0) return a->token >= 0;
    return a->score > b->score || (a->score == b->score && a->token < b->token);
}

void banyan_strongest_combine(banyan_strongest *out, const banyan_strongest *lo,
                              const banyan_strongest *hi, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) out[i] = is_stronger(&hi[i], &lo[i]) ? hi[i] : lo[i];
}

/* m of the tile's one row and one entry, tokens first .. end-1; -inf: nothing is seen. */
static float largest_of_range(const banyan_kernel *kernel, banyan_tile *tile, int64_t first,
                              int64_t end)
{
    tile->first_token = first;
    tile->end_token = end;
    banyan_partial_clear(tile->partial, tile->shape.value_dim, 1);
    if (first < end) kernel->attend(tile);
    return tile->partial[tile->shape.value_dim];
}

/* Of an entry with a mask: bit by bit. */
static int64_t find_masked(const banyan_kernel *kernel, banyan_tile *tile,
                           const banyan_entry *entry)
{
    enum { MOST_WORDS = 4 };
    const int32_t tokens = tile->shape.block_tokens;
    uint64_t only[MOST_WORDS] = {0};
    banyan_entry one = *entry;
    int32_t best = -1;
    float score = -INFINITY;
    one.mask = only;
    tile->entry = &one;
    for (int32_t i = 0; i < tokens; i++) {
        if (!banyan_bit(entry->mask, i)) continue;
        only[i / 64] = UINT64_C(1) << i % 64;
        const float m = largest_of_range(kernel, tile, tile->first_token, tile->end_token);
        only[i / 64] = 0;
        if (best < 0 || m > score) best = i, score = m;
    }
    return entry->token ? entry->token[best] : entry->block * tokens + best;
}

/* The token of the largest score of one head's row in an entry's block. */
static int64_t find_token(const banyan_kernel *kernel, const banyan_tile *tile,
                          const banyan_entry *entry, int32_t head, int32_t row)
{
    const int64_t tokens = tile->shape.block_tokens, begin = entry->block * tokens;
    banyan_entry one = *entry;
    banyan_tile t = *tile;
    one.heads = 1;
    t.heads = t.rows = t.unit = 1;
    t.at = tile->at + row;
    t.q = tile->q + ((int64_t)head * tile->rows + row) * tile->shape.key_dim;
    t.entry = &one;
    t.entries = 1;
    if (entry->mask) return find_masked(kernel, &t, &one);
    int64_t first = begin > tile->first_token ? begin : tile->first_token;
    int64_t end = begin + tokens < tile->end_token ? begin + tokens : tile->end_token;
    while (end - first > 1) {
        const int64_t middle = first + (end - first) / 2;
        const float low = largest_of_range(kernel, &t, first, middle);
        if (low >= largest_of_range(kernel, &t, middle, end) && low > -INFINITY)
            end = middle;
        else
            first = middle;
    }
    return first;
}

/* A block's m of all rows, behind what is known. The entry is remembered in place of the
 * token. */
static void ask_block(const banyan_kernel *kernel, const banyan_tile *tile, int64_t index,
                      banyan_strongest *best)
{
    const int32_t value_dim = tile->shape.value_dim, unit = banyan_tile_unit(tile);
    const int64_t rows = (int64_t)tile->heads * tile->rows;
    const size_t floats = banyan_partial_floats(value_dim);
    banyan_tile t = *tile;
    t.entry = tile->entry + index;
    t.entries = 1;
    banyan_partial_clear(t.partial, value_dim, rows);
    kernel->attend(&t);
    for (int64_t i = 0; i < rows; i++) {
        const float m = t.partial[(size_t)i * floats + (size_t)value_dim];
        const int64_t bit = i / tile->rows / unit;
        if (!(t.entry->heads >> bit & 1) || !(m > -INFINITY)) continue;
        if (best[i].token < 0 || m > best[i].score) best[i] = (banyan_strongest){m, 0, index};
    }
}

void banyan_strongest_find(const banyan_kernel *kernel, const banyan_tile *tile,
                           banyan_strongest *best)
{
    banyan_strongest_clear(best, (int64_t)tile->heads * tile->rows);
    for (int64_t i = 0; i < tile->entries; i++) ask_block(kernel, tile, i, best);
    for (int32_t h = 0; h < tile->heads; h++)
        for (int32_t r = 0; r < tile->rows; r++) {
            banyan_strongest *b = &best[(int64_t)h * tile->rows + r];
            if (b->token >= 0)
                b->token = find_token(kernel, tile, &tile->entry[b->token], h, r);
        }
}
