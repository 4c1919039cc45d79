/* SPDX-License-Identifier: Apache-2.0 */
/* Dynamic NTK scaling: for n tokens, more than the M that the model was trained for, theta
 * becomes
 *
 *     theta ((f n / M) - (f - 1))^(d / (d - 2))
 *
 * transformers makes it anew while a text grows, though keys that are cached keep the
 * rotation that they were given; here it is made once, for the whole length. */
#include "launch/model/rope.h"

#include <math.h>

static double dynamic_make(const rope_params *p, double tokens, double *frequency)
{
    double n = fmax(tokens, p->trained), d = p->dims;
    double scale = pow(p->factor * n / p->trained - (p->factor - 1), d / (d - 2));
    for (int32_t i = 0; i < p->dims / 2; i++)
        frequency[i] = rope_frequency(p->theta * scale, p->dims, i);
    return 1;
}

const rope_row rope_dynamic = {.name = "dynamic",
                               .needs = {"factor", "max_position_embeddings"},
                               .extends = true,
                               .make = dynamic_make};
