/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_pack.inc.h - writing rows into a record; see kernel_layout.inc.h for the layout.
 *
 * Whole runs of VEC_LANES tokens go through registers (kernel_run.inc.h). What is left, such as
 * the single row of a decode step, is written element by element. Every format goes by way of
 * fp32, which holds the others exactly. */

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

/* value_in_key: rows as they come. */
static void pack_as_they_come(const layout *y, char *record, int32_t first_row, int32_t rows,
                              const source *k)
{
    float wide[BANYAN_MAX_DIM];
    const size_t bytes = (size_t)y->key_dim * banyan_dtype_bytes(y->dtype);
    for (int32_t row = 0; row < rows; row++) {
        char *to = record + (size_t)(first_row + row) * bytes;
        const char *from = k->at + row * k->stride;
        if (k->dtype == y->dtype) {
            memcpy(to, from, bytes);
            continue;
        }
        banyan_to_float(wide, from, k->dtype, y->key_dim);
        banyan_from_float(to, y->dtype, wide, y->key_dim);
    }
}

static int vector_supports(const banyan_block_shape *shape)
{
    return shape->block_tokens % 16 == 0 && shape->dtype != BANYAN_E4M3;
}

static size_t vector_record_bytes(const banyan_block_shape *shape)
{
    return layout_of(shape).bytes;
}

static void vector_pack(const banyan_block_shape *shape, void *record, int fresh,
                        int32_t first_row, int32_t rows, const void *k, int64_t k_stride,
                        const void *v, int64_t v_stride, banyan_dtype in_dtype)
{
    const layout y = layout_of(shape);
    const int64_t element = in_dtype == BANYAN_F32 ? 4 : 2;
    source key = {k, k_stride * element, y.key_dim, in_dtype};
    source value = {v, v_stride * element, y.value_dim, in_dtype};
    int32_t token = first_row, end = first_row + rows;

    if (y.in_key) {
        if (fresh) memset(record, 0, y.bytes);
        pack_as_they_come(&y, record, first_row, rows, &key);
        return;
    }

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
