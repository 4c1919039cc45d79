/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_source.inc.h - rows of the caller, in any format, as vectors of fp32. */

typedef struct source {
    const char *at; /* row 0 */
    int64_t stride; /* bytes */
    int32_t dim;
    banyan_dtype dtype;
} source;

/* VEC_LANES elements of a row from `dim` on, 0 beyond its end. */
VEC_INLINE vec source_load(const source *s, int32_t row, int32_t dim)
{
    size_t element = s->dtype == BANYAN_F32 ? 4 : 2;
    const char *p = s->at + row * s->stride + (size_t)dim * element;
    if (dim + VEC_LANES > s->dim) {
        float tail[VEC_LANES] = {0};
        if (dim < s->dim) banyan_to_float(tail, p, s->dtype, s->dim - dim);
        return vec_load(tail);
    }
    if (s->dtype == BANYAN_F32) return vec_load((const float *)(const void *)p);
    if (s->dtype == BANYAN_BF16) return vec_from_bf16((const uint16_t *)(const void *)p);
    return vec_from_f16((const uint16_t *)(const void *)p);
}
