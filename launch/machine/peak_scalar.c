/* SPDX-License-Identifier: Apache-2.0 */
/* The rate of plain C: what a compiler makes of independent multiply-adds without ISA flags. */
#include "launch/machine/machine.h"

enum { sums = 32 };

static bool scalar_peak_usable(void)
{
    return true;
}

static float scalar_peak_loop(int64_t rounds)
{
    float sum[sums], total = 0;
    for (int i = 0; i < sums; i++) sum[i] = (float)i;
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < sums; i++) sum[i] = sum[i] * 0.999f + 0.5f;
    for (int i = 0; i < sums; i++) total += sum[i];
    return total;
}

const peak peak_scalar = {.name = "fp32 multiply-add, plain C",
                          .kernel = "scalar",
                          .flop_of_round = 2.0 * sums,
                          .usable = scalar_peak_usable,
                          .loop = scalar_peak_loop};
