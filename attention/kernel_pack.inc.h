/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_pack.inc.h - writing rows into a record; see kernel_layout.inc.h for the layout.
 *
 * Whole runs of VEC_LANES tokens go through registers: keys are transposed in squares of
 * VEC_LANES x VEC_LANES floats, whose rows then hold one dim of VEC_LANES tokens and are rounded to
 * the cache's format as they are stored; values need no transposition. What is left, such as the
 * single row of a decode step, is written element by element. Every format goes by way of fp32,
 * which holds the others exactly. */

/* One step of VEC_LANES columns; odd is the second element of a pair. */
VEC_INLINE void unit_store(void *to, banyan_dtype dtype, vec even, vec odd)
{
    if (dtype == BANYAN_F32) vec_store(to, even);
    if (dtype == BANYAN_F16) vec_to_f16(to, even);
    if (dtype == BANYAN_BF16) pairs_store(to, pairs_join(even, odd));
}

/* Keys of tokens token .. token + VEC_LANES - 1, from row 0 of s. */
VEC_INLINE void pack_keys(const layout *y, char *record, int32_t token, const source *s,
                          banyan_dtype dtype)
{
    char *to = record + key_at(y, token);
    const size_t stride = key_stride(y);
    for (int32_t dim = 0; dim < y->key_dim; dim += VEC_LANES) {
        vec square[VEC_LANES];
#pragma GCC unroll 16
        for (int32_t row = 0; row < VEC_LANES; row++) square[row] = source_load(s, row, dim);
        vec_transpose(square);
        const int32_t fold = dtype == BANYAN_BF16 ? 2 : 1;
#pragma GCC unroll 16
        for (int32_t i = 0; i < VEC_LANES; i += fold) {
            if (dim + i >= y->key_dim) break;
            unit_store(to, dtype, square[i], square[i + fold - 1]);
            to += stride;
        }
    }
}

/* Values of the same tokens. Is one of them not finite, or will it not be when rounded? */
VEC_INLINE int pack_values(const layout *y, char *record, int32_t token, const source *s,
                           banyan_dtype dtype)
{
    const float limit = dtype == BANYAN_F16    ? 65520.0f
                        : dtype == BANYAN_BF16 ? 0x1.ffp127f
                                               : 0x1.fffffep127f;
    const int32_t fold = dtype == BANYAN_BF16 ? 2 : 1;
    int beyond = 0;
    for (int32_t dim = 0; dim < y->columns; dim += VEC_LANES) {
        const size_t stride = value_stride(y, dim);
        char *to = record + value_at(y, dim) + (size_t)(token / fold) * stride;
        for (int32_t row = 0; row < VEC_LANES; row += fold) {
            vec even = source_load(s, row, dim), odd = source_load(s, row + fold - 1, dim);
            beyond |= vec_any_beyond(even, limit) | vec_any_beyond(odd, limit);
            unit_store(to, dtype, even, odd);
            to += stride;
        }
    }
    return beyond;
}

static void pack_run(const layout *y, char *record, int32_t token, const source *k,
                     const source *v)
{
    int beyond = 0;
    switch (y->dtype) {
    case BANYAN_F32:
        pack_keys(y, record, token, k, BANYAN_F32);
        beyond = pack_values(y, record, token, v, BANYAN_F32);
        break;
    case BANYAN_F16:
        pack_keys(y, record, token, k, BANYAN_F16);
        beyond = pack_values(y, record, token, v, BANYAN_F16);
        break;
    case BANYAN_BF16:
        pack_keys(y, record, token, k, BANYAN_BF16);
        beyond = pack_values(y, record, token, v, BANYAN_BF16);
        break;
    case BANYAN_E4M3: break; /* not supported */
    }
    if (beyond) trailer_of(y, record)->not_finite = 1;
}

/* A number already in the cache's format: element `odd` of a step's column. */
static void unit_put(void *to, int32_t odd, banyan_dtype dtype, const void *from, int32_t index)
{
    if (dtype == BANYAN_F32)
        memcpy(to, (const float *)from + index, sizeof(float));
    else
        memcpy((uint16_t *)to + odd, (const uint16_t *)from + index, sizeof(uint16_t));
}

/* One token, element by element; its neighbour in a pair stays as it is. */
static void pack_row(const layout *y, char *record, int32_t token, const source *k,
                     const source *v)
{
    float wide[BANYAN_MAX_DIM], row[BANYAN_MAX_DIM];

    banyan_to_float(wide, k->at, k->dtype, k->dim);
    banyan_from_float(row, y->dtype, wide, k->dim);
    char *to = record + key_at(y, token);
    for (int32_t dim = 0; dim < k->dim; dim++)
        unit_put(to + (size_t)(dim / y->fold) * key_stride(y), dim % y->fold, y->dtype, row,
                 dim);

    banyan_to_float(wide, v->at, v->dtype, v->dim);
    banyan_from_float(row, y->dtype, wide, v->dim);
    for (int32_t dim = 0; dim < v->dim; dim++) {
        to = record + value_at(y, dim) + (size_t)(token / y->fold) * value_stride(y, dim);
        unit_put(to, token % y->fold, y->dtype, row, dim);
    }

    banyan_to_float(wide, row, y->dtype, v->dim);
    for (int32_t dim = 0; dim < v->dim; dim++)
        if (!isfinite(wide[dim])) trailer_of(y, record)->not_finite = 1;
}

static void pack(const banyan_block_shape *shape, void *record, int fresh, int32_t first_row,
                 int32_t rows, const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                 banyan_dtype in_dtype)
{
    const layout y = layout_of(shape);
    const int64_t element = in_dtype == BANYAN_F32 ? 4 : 2;
    source key = {k, k_stride * element, y.key_dim, in_dtype};
    source value = {v, v_stride * element, y.value_dim, in_dtype};
    int32_t token = first_row, end = first_row + rows;

    if (fresh) {
        int whole = first_row == 0 && rows == y.tokens && y.key_dim % y.fold == 0;
        size_t keep = whole ? y.trailer_at : 0; /* every byte before it will be written */
        memset((char *)record + keep, 0, y.bytes - keep);
    }
    while (token < end) {
        int32_t run = token % VEC_LANES == 0 && token + VEC_LANES <= end ? VEC_LANES : 1;
        if (run > 1)
            pack_run(&y, record, token, &key, &value);
        else
            pack_row(&y, record, token, &key, &value);
        token += run;
        key.at += run * key.stride;
        value.at += run * value.stride;
    }
}
