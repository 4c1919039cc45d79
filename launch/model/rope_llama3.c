/* SPDX-License-Identifier: Apache-2.0 */
/* Llama 3.1: by wavelength 2 pi / w, in units of the original length L. Shorter than L /
 * high: as it was; longer than L / low: divided by the factor; between, both are blended
 * linearly in L / wavelength. */
#include "launch/model/rope.h"

#include <math.h>

static double llama3_make(const rope_params *p, double tokens, double *frequency)
{
    (void)tokens;
    for (int32_t i = 0; i < p->dims / 2; i++) {
        double w = rope_frequency(p->theta, p->dims, i), wave = 2 * M_PI / w;
        double blend = (p->original / wave - p->low_freq_factor) /
                       (p->high_freq_factor - p->low_freq_factor);
        if (wave < p->original / p->high_freq_factor) blend = 1;
        if (wave > p->original / p->low_freq_factor) blend = 0;
        frequency[i] = (1 - blend) * w / p->factor + blend * w;
    }
    return 1;
}

const rope_row rope_llama3 = {.name = "llama3",
                              .needs = {"factor", "low_freq_factor", "high_freq_factor",
                                        "original_max_position_embeddings"},
                              .make = llama3_make};
