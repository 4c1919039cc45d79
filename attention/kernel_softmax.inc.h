/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_softmax.inc.h - from scores to weights, a row of a chunk at a time.
 *
 * Scores are q.k before scaling, and so is the running maximum: with c = |scale| log2(e) (a
 * negative scale has changed the sign of q) a weight is
 *
 *     exp(scale s - scale max) = 2^((s - max) c)
 *
 * The difference is taken first: it is exact near the maximum, the maximum itself gets weight 1
 * whatever its size, and the base point is the exact number scale x max, with no rounding that
 * the sums l and o would have to know about.
 *
 * 2^x = 2^n 2^r with n the nearest integer and |r| <= 1/2. 2^r is 1 + r g(r), where g has
 * degree 5 and interpolates (2^r - 1) / r at the Chebyshev nodes of [-1/2, 1/2]: the
 * coefficients, rounded to fp32, are off by 1e-8 of the result at most, so that rounding in the
 * last steps dominates: below 2 ulp, and 2^0 is 1. */

/* For x <= 0, -inf and NaN. */
VEC_INLINE vec vec_exp2(vec x)
{
    vec r, n = vec_split(x, &r);
    vec g = vec_fma(vec_set(0x1.44138ap-13f), r, vec_set(0x1.5f0890p-10f));
    g = vec_fma(g, r, vec_set(0x1.3b2a54p-7f));
    g = vec_fma(g, r, vec_set(0x1.c6af6cp-5f));
    g = vec_fma(g, r, vec_set(0x1.ebfbe0p-3f));
    g = vec_fma(g, r, vec_set(0x1.62e430p-1f));
    return vec_power(vec_fma(g, r, vec_set(1)), n);
}

/* count (a multiple of 16) scores become weights in place: floats, or with VEC_DOT pairs of
 * bf16 in the front half. Adds to the row's sums, moves its maximum when it must, and returns
 * what the row's older sums are worth now. A score of NaN leaves the maximum alone and comes
 * out as a weight of NaN; +inf becomes the maximum, and inf - inf a weight of NaN. */
VEC_INLINE float softmax_row(float *score, int32_t count, float c, float *max, float *sums)
{
    const float before = *max;
    vec top = vec_set(before), total = vec_set(0);
    float alpha = 1;

    for (int32_t i = 0; i < count; i += VEC_LANES) top = vec_max(vec_load(score + i), top);
    if (vec_any_above(top, vec_set(before))) {
        float scaled[VEC_LANES];
        *max = vec_highest(top);
        vec_store(scaled, vec_exp2(vec_set((before - *max) * c)));
        alpha = scaled[0];
    }

    /* nothing seen yet: every score is -inf, and so stays x */
    const vec base = vec_set(*max == -INFINITY ? 0 : *max), factor = vec_set(c);
#ifdef VEC_DOT
    for (int32_t i = 0; i < count; i += 2 * VEC_LANES) {
        vec first = vec_exp2(vec_mul(vec_sub(vec_load(score + i), base), factor));
        vec second = vec_set(0);
        if (i + VEC_LANES < count)
            second = vec_exp2(vec_mul(vec_sub(vec_load(score + i + VEC_LANES), base), factor));
        total = vec_add(total, vec_add(first, second));
        pairs_store(score + i / 2, pairs_pack(first, second));
    }
#else
    for (int32_t i = 0; i < count; i += VEC_LANES) {
        vec weight = vec_exp2(vec_mul(vec_sub(vec_load(score + i), base), factor));
        total = vec_add(total, weight);
        vec_store(score + i, weight);
    }
#endif
    vec_store(sums, vec_fma(vec_set(alpha), vec_load(sums), total));
    return alpha;
}

/* How many weights a word of the row holds, and the weight of a column. */
#ifdef VEC_DOT
enum { WEIGHTS_IN_WORD = 2 };
VEC_INLINE float weight_at(const float *score, int32_t column)
{
    uint16_t half;
    memcpy(&half, (const char *)score + (size_t)column * sizeof(half), sizeof(half));
    return banyan_bf16_to_float(half);
}
#else
enum { WEIGHTS_IN_WORD = 1 };
VEC_INLINE float weight_at(const float *score, int32_t column)
{
    return score[column];
}
#endif
