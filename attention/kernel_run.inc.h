/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_run.inc.h - VEC_LANES tokens on their way into the layout of kernel_layout.inc.h: as
 * they are written to a record, or as a block of rows as they come is brought into an image.
 *
 * Keys are transposed in squares of VEC_LANES x VEC_LANES floats, whose rows then hold one dim
 * of VEC_LANES tokens and are rounded to the format as they are stored; values need no
 * transposition. */

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

/* ---- rows as they come, into an image ---------------------------------------------------- */

/* The usual dims and formats go this way; others by pack_run. */
VEC_INLINE int is_arranged(const layout *stored)
{
#ifdef VEC_DOT
    const int32_t key_unit = 2 * VEC_LANES;
#else
    const int32_t key_unit = VEC_LANES;
#endif
    return stored->dtype == BANYAN_BF16 && stored->key_dim % key_unit == 0 &&
           stored->value_dim % VEC_LANES == 0;
}

#ifdef VEC_DOT
/* Keys are pairs of dims already, and are transposed as words; values of two tokens are woven.
 * Returns the bits of the largest size among the values. */
static pairs arrange_run(const layout *y, char *image, int32_t token, const char *from,
                         int64_t row_bytes, pairs largest)
{
    char *to = image + key_at(y, token);
    const size_t stride = key_stride(y);
    for (int32_t word = 0; word < y->key_steps; word += VEC_LANES) {
        vec square[VEC_LANES];
#pragma GCC unroll 16
        for (int32_t row = 0; row < VEC_LANES; row++)
            square[row] =
                vec_load((const float *)(const void *)(from + row * row_bytes) + word);
        vec_transpose(square);
#pragma GCC unroll 16
        for (int32_t i = 0; i < VEC_LANES; i++, to += stride)
            vec_store((float *)(void *)to, square[i]);
    }
    for (int32_t dim = 0; dim < y->columns; dim += VEC_LANES) {
        const size_t step = value_stride(y, dim);
        const char *at = from + dim * 2;
        to = image + value_at(y, dim) + (size_t)(token / 2) * step;
#pragma GCC unroll 8
        for (int32_t row = 0; row < VEC_LANES; row += 2, to += step, at += 2 * row_bytes) {
            const pairs x = pairs_weave(at, at + row_bytes);
            largest = pairs_largest(largest, vec_and(pairs_even(x), 0x7fffffff));
            largest = pairs_largest(largest, vec_and(pairs_odd(x), 0x7fffffff));
            pairs_store(to, x);
        }
    }
    return largest;
}
#else
/* A row's vector is stored as values, and then transposed with its neighbours as keys. Returns
 * the bits of the largest size among the values. */
static pairs arrange_run(const layout *y, char *image, int32_t token, const char *from,
                         int64_t row_bytes, pairs largest)
{
    char *key = image + key_at(y, token);
    const size_t stride = key_stride(y);
    for (int32_t dim = 0; dim < y->key_dim; dim += VEC_LANES) {
        vec square[VEC_LANES];
#pragma GCC unroll 16
        for (int32_t row = 0; row < VEC_LANES; row++)
            square[row] =
                vec_from_bf16((const uint16_t *)(const void *)(from + row * row_bytes) + dim);
        if (dim < y->value_dim) {
            const size_t step = value_stride(y, dim);
            char *to = image + value_at(y, dim) + (size_t)token * step;
#pragma GCC unroll 16
            for (int32_t row = 0; row < VEC_LANES; row++, to += step) {
                largest = pairs_largest(largest, vec_and(square[row], 0x7fffffff));
                vec_store((float *)(void *)to, square[row]);
            }
        }
        vec_transpose(square);
#pragma GCC unroll 16
        for (int32_t i = 0; i < VEC_LANES; i++, key += stride)
            vec_store((float *)(void *)key, square[i]);
    }
    return largest;
}
#endif
