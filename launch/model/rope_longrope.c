/* SPDX-License-Identifier: Apache-2.0 */
/* LongRoPE (Ding et al., arXiv 2402.13753), as Phi-3 has it: each pair is divided by a
 * factor of its own, from the list for long texts when the whole one is longer than the
 * original length, and scores are sharpened by 1 + ln(f) / ln(original), whichever the list,
 * f = trained / original. transformers drops the cache when a text outgrows the short list;
 * here the list is chosen for the whole length. */
#include "launch/model/rope.h"

#include <math.h>

static double longrope_make(const rope_params *p, double tokens, double *frequency)
{
    const double *each = tokens > p->original ? p->long_factor : p->short_factor;
    double factor = p->factor > 0 ? p->factor : p->trained / p->original;
    for (int32_t i = 0; i < p->dims / 2; i++)
        frequency[i] = rope_frequency(p->theta, p->dims, i) / each[i];
    if (p->attention_factor > 0) return p->attention_factor;
    return factor <= 1 ? 1 : sqrt(1 + log(factor) / log(p->original));
}

const rope_row rope_longrope = {
    .name = "longrope",
    .also = "su",
    .needs = {"short_factor", "long_factor", "original_max_position_embeddings"},
    .make = longrope_make};
