/* SPDX-License-Identifier: Apache-2.0 */
/* The scalar kernel: what every other kernel must compute, written to be read.
 *
 * A record is the block's keys, then its values, row by row in the cache's format:
 *
 *     key[block_tokens][key_dim]  value[block_tokens][value_dim]
 *
 * (with value_in_key keys only: a value is the beginning of its key).
 *
 * A row takes a block in three steps. Its scores, -inf where it does not see the token:
 *
 *     s_j = scale q.k_j
 *
 * The new maximum M = max(m, s_j); and both sums moved to M (see partial.c), the block's share
 * being summed on its own first, so that rounding errors grow with the tokens of a block plus
 * the number of blocks, not with the number of tokens:
 *
 *     l = exp(m - M) l + sum_j exp(s_j - M)       o = exp(m - M) o + sum_j exp(s_j - M) v_j
 *
 * Tokens whose score is -inf are left out, not multiplied by 0: the value of a token that is
 * not seen may be NaN. */
#include "attention/attention.h"

#include <math.h>
#include <string.h>

static int scalar_usable(void)
{
    return 1;
}

static int scalar_supports(const banyan_block_shape *shape)
{
    return shape->dtype !=
           BANYAN_E4M3; /* whose rows have factors, which records here have not */
}

static size_t whole_lines(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static size_t key_bytes(const banyan_block_shape *shape)
{
    return (size_t)shape->block_tokens * (size_t)shape->key_dim *
           banyan_dtype_bytes(shape->dtype);
}

static size_t values_bytes(const banyan_block_shape *shape)
{
    if (shape->value_in_key) return 0;
    return (size_t)shape->block_tokens * (size_t)shape->value_dim *
           banyan_dtype_bytes(shape->dtype);
}

static size_t scalar_record_bytes(const banyan_block_shape *shape)
{
    return whole_lines(key_bytes(shape) + values_bytes(shape));
}

/* rows of `dim` numbers, `stride` apart, to consecutive rows in another format */
static void pack_rows(void *to, banyan_dtype to_dtype, const void *from,
                      banyan_dtype from_dtype, int64_t stride, int32_t rows, int32_t dim)
{
    size_t to_bytes = banyan_dtype_bytes(to_dtype), from_bytes = banyan_dtype_bytes(from_dtype);
    float row[BANYAN_MAX_DIM];

    for (int32_t i = 0; i < rows; i++) {
        char *out = (char *)to + (size_t)i * (size_t)dim * to_bytes;
        const char *in = (const char *)from + (size_t)(i * stride) * from_bytes;
        if (to_dtype == from_dtype) {
            memcpy(out, in, (size_t)dim * to_bytes);
        } else {
            banyan_to_float(row, in, from_dtype, dim);
            banyan_from_float(out, to_dtype, row, dim);
        }
    }
}

static void scalar_pack(const banyan_block_shape *shape, void *record, int fresh,
                        int32_t first_row, int32_t rows, const void *k, int64_t k_stride,
                        const void *v, int64_t v_stride, banyan_dtype in_dtype)
{
    size_t element = banyan_dtype_bytes(shape->dtype);
    size_t key_at = (size_t)first_row * (size_t)shape->key_dim * element;
    size_t value_at = (size_t)first_row * (size_t)shape->value_dim * element;
    char *bytes = record;

    (void)fresh; /* masking leaves out what was never written */
    pack_rows(bytes + key_at, shape->dtype, k, in_dtype, k_stride, rows, shape->key_dim);
    if (shape->value_in_key) return;
    pack_rows(bytes + key_bytes(shape) + value_at, shape->dtype, v, in_dtype, v_stride, rows,
              shape->value_dim);
}

static void scalar_unpack(const banyan_block_shape *shape, const void *record, int32_t rows,
                          const banyan_plain *out)
{
    const size_t element = banyan_dtype_bytes(shape->dtype);
    const char *bytes = record;
    memcpy(out->k, bytes, (size_t)rows * (size_t)shape->key_dim * element);
    if (shape->value_in_key) return;
    memcpy(out->v, bytes + key_bytes(shape), (size_t)rows * (size_t)shape->value_dim * element);
}

/* What lies in the workspace: a block in fp32, and one row's scores and sum. */
typedef struct scratch {
    float *key;   /* [block_tokens][key_dim] */
    float *value; /* [block_tokens] values, value_stride apart */
    int64_t value_stride;
    float *score; /* [block_tokens] */
    float *sum;   /* [value_dim] */
} scratch;

static size_t scalar_workspace_bytes(const banyan_block_shape *shape, int32_t heads,
                                     int32_t rows)
{
    size_t per_token = (size_t)shape->key_dim + (size_t)shape->value_dim + 1;
    size_t floats = (size_t)shape->block_tokens * per_token + (size_t)shape->value_dim;
    (void)heads, (void)rows;
    return whole_lines(floats * sizeof(float));
}

/* Does the row at token `row` see token j of a block that its head reads? */
static int sees_token(const banyan_tile *tile, const banyan_entry *entry, int64_t row,
                      int32_t j)
{
    const banyan_edge *edge = entry->edge >= 0 ? &tile->edge[entry->edge] : NULL;
    const int64_t token = entry->block * tile->shape.block_tokens + j;
    if (entry->mask) return banyan_bit(entry->mask, j);
    if (token > row || token < tile->first_token || token >= tile->end_token) return 0;
    return !edge || token < edge->sink_end || token > row - edge->window;
}

static float dot_f32(const float *a, const float *b, int32_t count)
{
    float sum = 0;
    for (int32_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* o and l of the scores relative to exp(base); returns l. */
static float sum_block(const scratch *x, int32_t tokens, int32_t value_dim, float base)
{
    float l = 0;
    memset(x->sum, 0, (size_t)value_dim * sizeof(*x->sum));
    for (int32_t j = 0; j < tokens; j++) {
        if (x->score[j] == -INFINITY) continue;
        const float *v = x->value + (int64_t)j * x->value_stride;
        float weight = expf(x->score[j] - base);
        l += weight;
        for (int32_t d = 0; d < value_dim; d++) x->sum[d] += weight * v[d];
    }
    return l;
}

/* Is l a number, and o not? Sums of values near the largest fp32 are, though their mean is
 * not. */
static int output_overflows(const float *o, float rescale, const float *sum, int32_t value_dim,
                            float l)
{
    int over = 0;
    for (int32_t d = 0; d < value_dim; d++)
        over |= !(fabsf(o[d] * rescale + sum[d]) < INFINITY);
    return over && l > 0 && l < INFINITY;
}

/* Combines the block into `partial`. */
static void attend_row(const banyan_tile *tile, const banyan_entry *entry, int32_t head,
                       int32_t row, float *partial, const scratch *x)
{
    int32_t tokens = tile->shape.block_tokens;
    int32_t key_dim = tile->shape.key_dim, value_dim = tile->shape.value_dim;
    int64_t index = (int64_t)head * tile->rows + row;
    const float *q = tile->q + index * key_dim;
    float *o = partial, *m = o + value_dim, *l = m + 1, max = *m, l_block = 0;

    for (int32_t j = 0; j < tokens; j++) {
        x->score[j] = -INFINITY;
        if (!sees_token(tile, entry, tile->at + row, j)) continue;
        x->score[j] = tile->scale * dot_f32(q, x->key + (int64_t)j * key_dim, key_dim);
        if (x->score[j] > max || x->score[j] != x->score[j]) max = x->score[j]; /* NaN stays */
    }
    if (max == -INFINITY) return; /* nothing seen, here or before */

    l_block = sum_block(x, tokens, value_dim, max);
    float rescale = *m == max ? 1 : expf(*m - max), sum = *l * rescale + l_block;
    if (output_overflows(o, rescale, x->sum, value_dim, sum)) {
        max = banyan_partial_above(max, sum);
        l_block = sum_block(x, tokens, value_dim, max);
        rescale = expf(*m - max);
        sum = *l * rescale + l_block;
    }
    for (int32_t d = 0; d < value_dim; d++) o[d] = o[d] * rescale + x->sum[d];
    *l = sum;
    *m = max;
}

static void attend_head(const banyan_tile *tile, const banyan_entry *entry, int32_t head,
                        const scratch *x)
{
    const int32_t value_dim = tile->shape.value_dim;
    const size_t floats = banyan_partial_floats(value_dim),
                 bytes = banyan_fixed_bytes(value_dim);
    for (int32_t row = 0; row < tile->rows; row++) {
        const size_t index = (size_t)head * (size_t)tile->rows + (size_t)row;
        float alone[BANYAN_MAX_DIM + 2];
        if (!tile->sums) {
            attend_row(tile, entry, head, row, tile->partial + index * floats, x);
            continue;
        }
        banyan_partial_clear(alone, value_dim, 1);
        attend_row(tile, entry, head, row, alone, x);
        banyan_fixed_add((char *)tile->sums + index * bytes, (double)alone[value_dim],
                         alone[value_dim + 1], alone, value_dim);
    }
}

static void scalar_attend(const banyan_tile *tile)
{
    const banyan_block_shape *shape = &tile->shape;
    int64_t tokens = shape->block_tokens;
    const int32_t unit = banyan_tile_unit(tile);
    scratch x;
    x.key = tile->workspace;
    x.value = shape->value_in_key ? x.key : x.key + tokens * shape->key_dim;
    x.value_stride = shape->value_in_key ? shape->key_dim : shape->value_dim;
    x.score = x.key + tokens * (shape->key_dim + shape->value_dim);
    x.sum = x.score + tokens;

    for (int64_t i = 0; i < tile->entries; i++) {
        const banyan_entry *entry = &tile->entry[i];
        const char *record = entry->record;
        banyan_to_float(x.key, record, shape->dtype, tokens * shape->key_dim);
        if (!shape->value_in_key)
            banyan_to_float(x.value, record + key_bytes(shape), shape->dtype,
                            tokens * shape->value_dim);
        for (int32_t head = 0; head < tile->heads; head++)
            if (entry->heads >> head / unit & 1) attend_head(tile, entry, head, &x);
    }
}

static void scalar_observe_sums(const banyan_tile *tile, banyan_observed *o, int32_t row,
                                int32_t seen, const float *score)
{
    const float before = o->most[row];
    for (int32_t j = 0; j < seen; j++)
        if (score[j] > o->most[row]) o->most[row] = score[j];
    if (o->most[row] > before) o->sum[row][0] *= expf(tile->scale * (before - o->most[row]));
    for (int32_t j = 0; j < seen; j++)
        o->sum[row][0] += expf(tile->scale * (score[j] - o->most[row]));
}

static void scalar_observe_lines(const banyan_tile *tile, const banyan_observed *o, int32_t row,
                                 int32_t seen, const float *score, float *column,
                                 float *distance)
{
    if (!(o->share[row] > 0)) return;
    for (int32_t j = 0; j < seen; j++) {
        const float p = o->share[row] * expf(tile->scale * (score[j] - o->most[row]));
        column[j] += p;
        distance[o->rows - 1 - row + j] += p;
    }
}

static void scalar_observe(const banyan_tile *tile, banyan_observed *o, float *column)
{
    const int32_t tokens = tile->shape.block_tokens, dim = tile->shape.key_dim;
    float *key = tile->workspace;
    for (int64_t i = 0; i < tile->entries; i++) {
        const banyan_entry *entry = &tile->entry[i];
        float distance[BANYAN_LINE_TOKENS + BANYAN_LINE_ROWS] = {0};
        banyan_to_float(key, entry->record, tile->shape.dtype, (int64_t)tokens * dim);
        if (column) memset(column, 0, (size_t)tokens * sizeof *column);
        for (int32_t row = 0; row < o->rows; row++) {
            const int32_t seen = banyan_observed_tokens(o, row, entry->block);
            for (int32_t j = 0; j < seen; j++)
                o->score[j] =
                    dot_f32(tile->q + (int64_t)row * dim, key + (int64_t)j * dim, dim);
            if (column)
                scalar_observe_lines(tile, o, row, seen, o->score, column, distance);
            else
                scalar_observe_sums(tile, o, row, seen, o->score);
        }
        if (!column) continue;
        banyan_observe_distances(o, entry->block, distance);
        column += tokens;
    }
}

static void scalar_score(const banyan_tile *tile, float *out)
{
    const int32_t tokens = tile->shape.block_tokens, dim = tile->shape.key_dim;
    float *key = tile->workspace;
    for (int64_t i = 0; i < tile->entries; i++) {
        banyan_to_float(key, tile->entry[i].record, tile->shape.dtype, (int64_t)tokens * dim);
        for (int32_t row = 0; row < tile->rows; row++)
            for (int32_t j = 0; j < tokens; j++) {
                const float x =
                    dot_f32(tile->q + (int64_t)row * dim, key + (int64_t)j * dim, dim);
                *out++ = tile->scale < 0 ? -x : x;
            }
    }
}

const banyan_kernel banyan_kernel_scalar = {
    .name = "scalar",
    .usable = scalar_usable,
    .supports = scalar_supports,
    .record_bytes = scalar_record_bytes,
    .pack = scalar_pack,
    .workspace_bytes = scalar_workspace_bytes,
    .attend = scalar_attend,
    .observe = scalar_observe,
    .score = scalar_score,
    .unpack = scalar_unpack,
};
