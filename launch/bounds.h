/* SPDX-License-Identifier: Apache-2.0 */
/* bounds.h - how far attention in fp32 may be from attention in fp64, derived, in one place.
 * Every comparison with an oracle uses these functions; nothing is tuned until it passes.
 *
 * The oracle computes in double from the same q, and from k and v already rounded to the
 * cache's format, so the format costs nothing here. Let u = 2^-24, D = key_dim, pi_i the exact
 * weights (they sum to 1), and, over the tokens that the row sees,
 *
 *     A = max scale sum_d |q_d k_d|     V = max |v|     S = sqrt(sum pi_i^2)  (1/sqrt(n) .. 1)
 *
 * Rounding errors are taken as independent and of mean 0 (Higham and Mary, SIAM J. Sci. Comput.
 * 41(5), 2019): n of them sum to at most gamma(n) = min(n, L sqrt(n)) u, but for a probability
 * of 2 exp(-L^2/2); L = 6 makes that 3e-8, and since an error is spread over [-u, u], really
 * far less.
 *
 * 1. Scores. A dot product, the scale, a change of base: e_s = A gamma(D + 4). A kernel that
 *   rounds
 *    q to the cache's format adds e_q = A r, with r = 2^-8 for bf16 and 2^-11 for fp16.
 * 2. Weights. The argument s - m lies in [-2A, 0]; its rounding and the reduction inside exp
 *   cost
 *    4A u, exp itself 8u. So a weight is off by the factor exp(e), e = e_s + e_q + 4A u + 8u.
 *    The maximum m is common to o and l and cancels. A kernel that rounds weights to that
 *    format for the product with v adds e_p = r. fp16 has no exponents below 2^-14: a weight
 *    there, taken relative to the largest so far, is off by up to 2^-25, n of them by gamma(n)
 *    / u 2^-25. Since l >= 1 / S (the largest of the pi_i is 1 / l, and S no less), that is e_p
 *    += S gamma(n) / 2 of V.
 * 3. Sums. n tokens, and per block and per combine two products and a sum: gamma(c), with
 *    c = n + 3 (blocks + combines), relative to the partial sums. Those of l are below l. Those
 *    of o / l are below V for any data, and below R = min(V, L V S + |out|) when values are
 *    drawn independently of keys, since sum pi_i v_i is then a random walk.
 * 4. Together: a relative error e of the weights moves out by sum pi_i e_i (v_i - out), hence
 *
 *        |error of out| <= R (2 expm1(e) + e_p + gamma(c))
 *                          + |out| (e_p + gamma(c) + 2u + u_out)
 *        |error of lse| <= expm1(e) + e_p + gamma(c) + 4u (A + ln n + 1) + 16u (rescales) ln n
 *
 * For data that are not random (constructed models, all values alike), pass spread = 1: R = V.
 * Weights below 2^-100 of the largest may be taken as 0. */
#ifndef BANYAN_BOUNDS_H
#define BANYAN_BOUNDS_H

#include "banyan.h"

#include <math.h>
#include <string.h>

/* One row of one head, as the oracle saw it. */
typedef struct bound {
    int32_t key_dim, block_tokens;
    int64_t tokens;   /* n: how many the row sees */
    int64_t combines; /* of partials, on the way to the result: ranks is enough */
    double score;     /* A */
    double value;     /* V */
    double spread;    /* S, or 1 for data that are not random */
    double rounds; /* r: unit roundoff of the format that the kernel rounds q and weights to */
} bound;

#define BOUND_BF16 0x1p-8 /* unit roundoff of bf16 */
#define BOUND_F16 0x1p-11 /* and of fp16 */

/* Kernels compute from what is in the cache in fp32, but for the bf16 dot products of avx512,
 * and the kernels of GPUs, whose matrix instructions take both sides in the cache's format. A
 * NULL kernel is one that is not known. */
static inline double bound_rounds(const char *kernel, banyan_dtype cache_dtype)
{
    if (cache_dtype == BANYAN_F32) return 0;
    if (kernel &&
        (!strcmp(kernel, "scalar") || !strcmp(kernel, "avx2") || !strcmp(kernel, "neon")))
        return 0;
    if (cache_dtype == BANYAN_BF16) return BOUND_BF16;
    return kernel && !strcmp(kernel, "avx512") ? 0 : BOUND_F16;
}

#define BOUND_U 0x1p-24  /* unit roundoff of fp32 */
#define BOUND_LAMBDA 6.0 /* L */

static inline double bound_gamma(double operations)
{
    double likely = BOUND_LAMBDA * sqrt(operations);
    return (operations < likely ? operations : likely) * BOUND_U;
}

static inline double bound_weights(const bound *b)
{
    double e = b->score * (bound_gamma(b->key_dim + 4) + 4 * BOUND_U) + 8 * BOUND_U;
    return expm1(e + b->score * b->rounds) + (double)b->tokens * 0x1p-100;
}

static inline double bound_sums(const bound *b)
{
    double blocks = (double)(b->tokens / b->block_tokens + 2);
    return bound_gamma((double)b->tokens + 3 * (blocks + (double)b->combines));
}

/* e_p: what rounding the weights themselves costs. */
static inline double bound_rounded(const bound *b)
{
    double under = b->rounds == BOUND_F16 ? b->spread * bound_gamma((double)b->tokens) / 2 : 0;
    return b->rounds + under;
}

/* out: the exact result, one component. */
static inline double bound_out(const bound *b, double out, banyan_dtype out_dtype)
{
    double weights = bound_weights(b), sums = bound_sums(b);
    double rounded = b->rounds, under = bound_rounded(b) - b->rounds;
    double walk = BOUND_LAMBDA * b->value * b->spread + fabs(out);
    double reach = walk < b->value ? walk : b->value;
    double store = out_dtype == BANYAN_F32    ? 0
                   : out_dtype == BANYAN_BF16 ? BOUND_BF16 * fabs(out)
                                              : 0x1p-11 * fabs(out) + 0x1p-25;
    double first_order = reach * (2 * weights + rounded + sums) + b->value * under +
                         fabs(out) * (rounded + sums + 2 * BOUND_U);
    return first_order * (1 + weights + rounded + under + sums) + store * 1.01 + 0x1p-120;
}

static inline double bound_lse(const bound *b)
{
    double range = b->score + log((double)b->tokens + 1) + 1;
    double rescales = 16 * BOUND_U * (log((double)b->tokens + 1) + (double)b->combines);
    return bound_weights(b) + bound_rounded(b) + bound_sums(b) + 4 * BOUND_U * range + rescales;
}

#endif
