/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_layout.inc.h - where things lie in a record of the vector kernels. Included after a
 * vector vocabulary.
 *
 * Both products of attention are sums of (broadcast scalar) x (vector of columns) over a depth:
 *
 *     scores  S[row][token]  = sum over dims    of q[row][dim]   * K[dim][token]
 *     values  o[row][dim]    = sum over tokens  of p[row][token] * V[token][dim]
 *
 * so keys lie transposed, values as they come, and both in panels: `width` columns side by
 * side, one depth step under the other, so that a register tile reads memory from front to
 * back. A step is one dim or token in fp32 and fp16, and two in bf16, as a pair in one 32-bit
 * word (the operand of the dot product instruction; other processors widen a pair with a shift
 * and a mask):
 *
 *     keys, bf16:   panel 0  step 0:  k0[0]k0[1]  k1[0]k1[1]  k2[0]k2[1] .. k63[0]k63[1]
 *                            step 1:  k0[2]k0[3]  k1[2]k1[3]  ..
 *                            ..
 *                   panel 1  step 0:  k64[0]k64[1] ..          (kt[d]: dim d of token t's key)
 *     values, bf16: panel 0  step 0:  v0[0]v1[0]  v0[1]v1[1]  v0[2]v1[2] .. v0[63]v1[63]
 *                            step 1:  v2[0]v3[0]  v2[1]v3[1]  ..
 *                   panel 1  step 0:  v0[64]v1[64] ..          (the last panel may be narrower)
 *     keys, fp32:   panel 0  step 0:  k0[0]  k1[0]  ..        values, step 0:  v0[0]  v0[1]  ..
 *                            step 1:  k0[1]  k1[1]  ..                step 1:  v1[0]  v1[1]  ..
 *
 *     record:  | key panels | value panels | trailer, 64 bytes |
 *
 * With value_in_key a record is the keys alone, row by row as they come, in the cache's format;
 * attend brings a block into the layout above when a tile needs it, once for all of the tile's
 * rows.
 *
 * Dims are padded with zeros to whole steps and vectors. The trailer says whether some value
 * ever written is not finite: then a weight of 0 does not silence an unseen token (0 x inf is
 * NaN), and attend takes a slower, exact way. Tokens never written are zero. */

typedef struct trailer {
    uint32_t not_finite;
} trailer;

typedef struct layout {
    banyan_dtype dtype;
    int32_t tokens, key_dim, value_dim;
    int in_key;          /* value_in_key: what follows is not used but for bytes and columns */
    int32_t fold;        /* elements in a step */
    int32_t unit;        /* bytes of a column in a step */
    int32_t width;       /* columns (tokens) of a key panel */
    int32_t columns;     /* value dims, padded to whole vectors */
    int32_t key_steps;   /* steps of a key panel: the depth is key_dim, padded */
    int32_t value_steps; /* steps of a value panel: the depth is the block's tokens */
    size_t value_at, trailer_at, bytes;
} layout;

VEC_INLINE int32_t round_up(int32_t x, int32_t unit)
{
    return (x + unit - 1) / unit * unit;
}

static layout layout_of(const banyan_block_shape *shape)
{
    layout y = {.dtype = shape->dtype,
                .tokens = shape->block_tokens,
                .key_dim = shape->key_dim,
                .value_dim = shape->value_dim};
    y.fold = shape->dtype == BANYAN_BF16 ? 2 : 1;
    y.unit = shape->dtype == BANYAN_F16 ? 2 : 4;
    y.width = y.tokens < VEC_PANEL ? y.tokens : VEC_PANEL;
    y.columns = round_up(y.value_dim, VEC_LANES);
    y.key_steps = round_up(y.key_dim, y.fold) / y.fold;
    y.value_steps = y.tokens / y.fold;
    y.value_at = (size_t)y.tokens * (size_t)y.key_steps * (size_t)y.unit;
    y.trailer_at = y.value_at + (size_t)y.columns * (size_t)y.value_steps * (size_t)y.unit;
    y.trailer_at = (y.trailer_at + 63) / 64 * 64;
    y.bytes = y.trailer_at + 64;
    if (shape->value_in_key) {
        y.in_key = 1;
        y.bytes = (size_t)y.tokens * (size_t)y.key_dim * banyan_dtype_bytes(y.dtype);
        y.bytes = (y.bytes + 63) / 64 * 64;
    }
    return y;
}

/* The same block in fp32: one step for each element. */
static layout layout_widened(const layout *y)
{
    banyan_block_shape shape = {.block_tokens = y->tokens,
                                .key_dim = y->key_steps * y->fold,
                                .value_dim = y->value_dim,
                                .dtype = BANYAN_F32};
    return layout_of(&shape);
}

/* What a block of rows as they come is brought into: fp32, or pairs for dot products. */
static layout layout_of_image(const layout *y, banyan_dtype dtype)
{
    banyan_block_shape shape = {.block_tokens = y->tokens,
                                .key_dim = y->key_dim,
                                .value_dim = y->value_dim,
                                .dtype = dtype};
    return layout_of(&shape);
}

/* Bytes from the record's start to column `token` of a key panel, step 0; and to the next
 * step. */
VEC_INLINE size_t key_at(const layout *y, int32_t token)
{
    int32_t panel = token / y->width, column = token % y->width;
    return ((size_t)panel * (size_t)y->key_steps * (size_t)y->width + (size_t)column) *
           (size_t)y->unit;
}
VEC_INLINE size_t key_stride(const layout *y)
{
    return (size_t)y->width * (size_t)y->unit;
}

/* Columns of the value panel that holds column `dim`. */
VEC_INLINE int32_t value_width(const layout *y, int32_t dim)
{
    int32_t left = y->columns - dim / VEC_PANEL * VEC_PANEL;
    return left < VEC_PANEL ? left : VEC_PANEL;
}
VEC_INLINE size_t value_at(const layout *y, int32_t dim)
{
    size_t panel = (size_t)(dim / VEC_PANEL) * VEC_PANEL * (size_t)y->value_steps;
    return y->value_at + (panel + (size_t)(dim % VEC_PANEL)) * (size_t)y->unit;
}
VEC_INLINE size_t value_stride(const layout *y, int32_t dim)
{
    return (size_t)value_width(y, dim) * (size_t)y->unit;
}

VEC_INLINE trailer *trailer_of(const layout *y, const void *record)
{
    return (trailer *)((char *)record + y->trailer_at);
}
