/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_unpack.inc.h - rows of a record as they came; see kernel_layout.inc.h for the layout.
 * A record fits in the first cache, so it is read in any order, and rows are written from front
 * to back. */

/* Words of a key, one from each step. */
static void unpack_key(const layout *y, const char *from, char *to)
{
    const size_t stride = key_stride(y), element = banyan_dtype_bytes(y->dtype);
    const int32_t whole = y->key_dim / y->fold;
    if (y->unit == 4)
        for (int32_t step = 0; step < whole; step++)
            memcpy(to + 4 * step, from + (size_t)step * stride, 4);
    else
        for (int32_t step = 0; step < whole; step++)
            memcpy(to + 2 * step, from + (size_t)step * stride, 2);
    if (y->key_dim % y->fold) /* the first of a pair */
        memcpy(to + (size_t)whole * (size_t)y->unit, from + (size_t)whole * stride, element);
}

/* A token's numbers in one value panel. */
static void unpack_values(const layout *y, const char *from, int32_t count, char *to)
{
    if (y->fold == 1)
        memcpy(to, from, (size_t)count * (size_t)y->unit);
    else
        for (int32_t d = 0; d < count; d++) memcpy(to + 2 * d, from + 4 * d, 2);
}

static void vector_unpack(const banyan_block_shape *shape, const void *record, int32_t rows,
                          const banyan_plain *out)
{
    const layout y = layout_of(shape);
    const size_t element = banyan_dtype_bytes(y.dtype);
    const char *bytes = record;
    if (y.in_key) {
        memcpy(out->k, bytes, (size_t)rows * (size_t)y.key_dim * element);
        return;
    }
    for (int32_t token = 0; token < rows; token++)
        unpack_key(&y, bytes + key_at(&y, token),
                   (char *)out->k + (size_t)token * (size_t)y.key_dim * element);
    for (int32_t token = 0; token < rows; token++) {
        char *to = (char *)out->v + (size_t)token * (size_t)y.value_dim * element;
        for (int32_t dim = 0; dim < y.value_dim; dim += VEC_PANEL) {
            const int32_t left = y.value_dim - dim;
            const char *from = bytes + value_at(&y, dim) +
                               (size_t)(token / y.fold) * value_stride(&y, dim) +
                               (size_t)(token % y.fold) * element;
            unpack_values(&y, from, left < VEC_PANEL ? left : VEC_PANEL,
                          to + (size_t)dim * element);
        }
    }
}
