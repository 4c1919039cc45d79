/* SPDX-License-Identifier: Apache-2.0 */
/* YaRN (Peng et al., arXiv 2309.00071, section 3): pairs that turn more than beta_fast times
 * within the original length stay, those that turn less than beta_slow times are divided by
 * the factor, and between them goes a ramp over the number of the pair. Scores are sharpened
 * by the square of 0.1 ln(factor) + 1 (section 3.4; with m instead of 0.1 where DeepSeek's
 * mscale is given). */
#include "launch/model/rope.h"

#include <math.h>

/* The (fractional) pair that turns `times` within the original length. */
static double pair_of(const rope_params *p, double times)
{
    return p->dims * log(p->original / (times * 2 * M_PI)) / (2 * log(p->theta));
}

static double sharpness(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_make(const rope_params *p, double tokens, double *frequency)
{
    (void)tokens;
    double factor = p->factor > 0 ? p->factor : p->trained / p->original;
    double low = pair_of(p, p->beta_fast > 0 ? p->beta_fast : 32);
    double high = pair_of(p, p->beta_slow > 0 ? p->beta_slow : 1);
    if (p->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0), high = fmin(high, p->dims - 1);
    if (low == high) high += 0.001;
    for (int32_t i = 0; i < p->dims / 2; i++) {
        double w = rope_frequency(p->theta, p->dims, i);
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        frequency[i] = w / factor * ramp + w * (1 - ramp);
    }
    if (p->attention_factor > 0) return p->attention_factor;
    if (p->mscale > 0 && p->mscale_all_dim > 0)
        return sharpness(factor, p->mscale) / sharpness(factor, p->mscale_all_dim);
    return sharpness(factor, 1);
}

const rope_row rope_yarn = {.name = "yarn",
                            .needs = {"original_max_position_embeddings"},
                            .extends = true,
                            .make = yarn_make};
