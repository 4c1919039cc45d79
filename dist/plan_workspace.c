/* SPDX-License-Identifier: Apache-2.0 */
/* What a cache takes besides its records: partials of a panel for every query head that a rank
 * holds, block tables, and what the exchange holds. */
#include "dist/dist.h"

int64_t banyan_plan_workspace(const banyan_plan *plan, int rank)
{
    const int64_t partial =
        (int64_t)(banyan_partial_floats(plan->spec.value_dim) * sizeof(float));
    int64_t bytes = 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        int64_t held = 0, heads = 0;
        for (int32_t g = 0; g < plan->spec.kv_heads; g++) {
            heads += banyan_holder_index(&kind->head[g].placed, rank) >= 0;
            held += banyan_plan_capacity(plan, kind, g, rank);
        }
        bytes += held * kind->layer_count * (int64_t)sizeof(banyan_held);
        bytes += heads * plan->group * plan->panel_rows * partial;
    }
    return bytes;
}
