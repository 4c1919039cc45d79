/* SPDX-License-Identifier: Apache-2.0 */
/* What the rows of a panel add up to, on this rank and across ranks: partials, or, with
 * spec.reproducible, fixed-point sums. Partials round whenever two of them are combined, so
 * their bits depend on how blocks are dealt to ranks and threads; fixed-point sums are exact
 * (see attention/fixed.c), and are rounded once, on the rank that writes the result. They take
 * the same way through tiles, runs and merges, and no round of messages more, but are about
 * eight times as large. value_dim 0: of the probed tokens, whose values nobody asks for. */
#include "dist/cache.h"

#include <string.h>

size_t banyan_sum_bytes(const banyan_plan *plan, int32_t value_dim)
{
    return plan->spec.reproducible ? banyan_fixed_bytes(value_dim)
                                   : banyan_partial_floats(value_dim) * sizeof(float);
}

int32_t banyan_plan_value_dim(const banyan_plan *plan)
{
    int32_t most = 0;
    for (int32_t k = 0; k < plan->kinds; k++)
        if (plan->kind[k].shape.value_dim > most) most = plan->kind[k].shape.value_dim;
    return most;
}

size_t banyan_plan_row_bytes(const banyan_plan *plan)
{
    return banyan_sum_bytes(plan, banyan_plan_value_dim(plan));
}

void banyan_sum_clear(const banyan_plan *plan, void *sums, int32_t value_dim, int64_t rows)
{
    if (plan->spec.reproducible)
        banyan_fixed_clear(sums, value_dim, rows);
    else
        banyan_partial_clear(sums, value_dim, rows);
}

void banyan_sum_combine(const banyan_plan *plan, void *out, const void *lo, const void *hi,
                        int32_t value_dim, int64_t rows)
{
    if (plan->spec.reproducible)
        banyan_fixed_combine(out, lo, hi, value_dim, rows);
    else
        banyan_partial_combine(out, lo, hi, value_dim, rows);
}

void banyan_sum_attend(const banyan_plan *plan, banyan_tile *tile, void *sums)
{
    banyan_sum_clear(plan, sums, tile->shape.value_dim, (int64_t)tile->heads * tile->rows);
    tile->partial = plan->spec.reproducible ? NULL : sums;
    tile->sums = plan->spec.reproducible ? sums : NULL;
    if (tile->entries > 0) plan->kernel->attend(tile);
}

void banyan_sum_masses(const banyan_plan *plan, void *out, const void *sums, int32_t value_dim,
                       int64_t rows)
{
    if (plan->spec.reproducible) {
        banyan_fixed_strip(sums, out, value_dim, rows);
        return;
    }
    const float *ml = (const float *)sums + value_dim;
    for (int64_t i = 0; i < rows; i++, ml += banyan_partial_floats(value_dim))
        memcpy((float *)out + 2 * i, ml, 2 * sizeof *ml);
}

float *banyan_sum_round(const banyan_plan *plan, void *sums, int32_t value_dim, int64_t rows)
{
    if (plan->spec.reproducible) banyan_fixed_round(sums, sums, value_dim, rows);
    return sums;
}
