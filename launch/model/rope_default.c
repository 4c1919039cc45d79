/* SPDX-License-Identifier: Apache-2.0 */
/* As in RoFormer: pair i turns by theta^(-2i/d) a token. */
#include "launch/model/rope.h"

static double default_make(const rope_params *p, double tokens, double *frequency)
{
    (void)tokens;
    for (int32_t i = 0; i < p->dims / 2; i++)
        frequency[i] = rope_frequency(p->theta, p->dims, i);
    return 1;
}

const rope_row rope_default = {.name = "default", .make = default_make};
