/* SPDX-License-Identifier: Apache-2.0 */
/* Position interpolation (Chen et al., arXiv 2306.15595): positions divided by the factor. */
#include "launch/model/rope.h"

static double linear_make(const rope_params *p, double tokens, double *frequency)
{
    (void)tokens;
    for (int32_t i = 0; i < p->dims / 2; i++)
        frequency[i] = rope_frequency(p->theta, p->dims, i) / p->factor;
    return 1;
}

const rope_row rope_linear = {.name = "linear", .needs = {"factor"}, .make = linear_make};
