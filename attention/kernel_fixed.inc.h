/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_fixed.inc.h - a block's partial into a row's fixed-point sum, as banyan_fixed_add does
 * it and with the same bits: what a decoded row pays once a block. The theory is in fixed.c. */

/* The bits of the largest size among a row's values: those of NaN and inf are above all
 * others. */
static uint32_t fixed_largest(const float *o, int32_t columns)
{
    pairs largest = pairs_zero();
    for (int32_t d = 0; d < columns; d += VEC_LANES)
        largest = pairs_largest(largest, vec_and(vec_load(o + d), 0x7fffffff));
    return pairs_highest(largest);
}

/* o has `columns` values, whole vectors, of which those from value_dim on are 0, and the bits
 * of the largest size among them are given. */
static void fixed_add(void *sum, double base, float l, const float *o, int32_t value_dim,
                      int32_t columns, uint32_t largest)
{
    const int is_plain = fabs(base) < INFINITY && l > 0 && l < INFINITY;
    if (!is_plain || largest >= 0x7f800000) {
        banyan_fixed_add(sum, base, l, o, value_dim);
        return;
    }
    const fixed_row row = fixed_row_at(sum, value_dim);
    const fixed_base at = fixed_base_of(base);
    uint32_t l_bits;
    double factor;
    memcpy(&l_bits, &l, sizeof(l_bits));
    int64_t *bin = fixed_place(row.l, &at, l_bits, &factor);
    if (bin) *bin += fixed_units(l, factor);
    bin = largest ? fixed_place(row.o, &at, largest, &factor) : NULL;
    for (int32_t d = 0; bin && d < columns; d += VEC_LANES)
        vec_add_units(bin + d, o + d, factor);
}
