/* SPDX-License-Identifier: Apache-2.0 */
/* Coverage. A head with a stride sees, far back, only the blocks of its own residue. If the
 * heads of a layer together miss a residue, that part of the far context is invisible to the
 * layer, and nothing fails: answers are just wrong at some depths. So it is computed here. A
 * layer whose heads have only windows says nothing about the far context and is left alone; one
 * head that keeps everything covers all. */
#include "dist/plan.h"

#include <stdio.h>
#include <string.h>

static banyan_status add_warning(banyan_plan *plan, const char *line)
{
    const size_t before = strlen(plan->warnings);
    char *text = banyan_plan_alloc(plan, before + strlen(line) + 2, 1);
    if (!text) return BANYAN_ERR_MEMORY;
    snprintf(text, before + strlen(line) + 2, "%s%s%s", plan->warnings, before ? "\n" : "",
             line);
    plan->warnings = text;
    if (plan->rank == 0) banyan_log(BANYAN_LOG_WARN, "%s", line);
    return BANYAN_OK;
}

/* What a kind's heads see together; 0 when no more can be said than "everything". */
static int seen_together(const banyan_kind *kind, banyan_retention *seen)
{
    *seen = kind->head[0].retention;
    for (int32_t g = 1; g < kind->shape.kv_heads; g++)
        if (!banyan_retention_union(seen, &kind->head[g].retention)) return 0;
    return banyan_residues(seen) < seen->period;
}

/* A union is brought to its smallest period; people think of the strides that they wrote. */
static int32_t stride_of(const banyan_kind *kind, int32_t period)
{
    int32_t stride = period;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const int32_t own = kind->head[g].retention.period;
        if (own > stride && own % period == 0) stride = own;
    }
    return stride;
}

int banyan_kind_cover(const banyan_kind *kind, int32_t *stride)
{
    banyan_retention seen;
    *stride = 1;
    if (!seen_together(kind, &seen)) return 1;
    *stride = stride_of(kind, seen.period);
    return banyan_residues(&seen) * (*stride / seen.period);
}

banyan_status banyan_plan_cover(banyan_plan *plan)
{
    plan->warnings = banyan_plan_copy(plan, "");
    if (!plan->warnings) return BANYAN_ERR_MEMORY;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        char layers[64], line[256];
        int32_t stride;
        const int32_t count = banyan_kind_cover(kind, &stride);
        if (count == 0 || count == stride) continue;

        banyan_kind_layers(plan, kind, layers, sizeof layers);
        snprintf(line, sizeof line,
                 "layer%s %s: heads cover %d of %d residues, %.1f %% of the far context is "
                 "invisible",
                 kind->layer_count == 1 ? "" : "s", layers, (int)count, (int)stride,
                 100.0 * (stride - count) / stride);
        if (plan->spec.strict)
            return banyan_fail(BANYAN_ERR_CONFIG, "%s: expected all, as strict is set", line);
        const banyan_status status = add_warning(plan, line);
        if (status) return status;
    }
    return BANYAN_OK;
}
