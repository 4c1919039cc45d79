/* SPDX-License-Identifier: Apache-2.0 */
/* Who chooses columns and diagonals, or blocks instead: query heads, each for itself, of KV
 * heads that have one holder. So nothing is exchanged, and the choice is the same on any
 * ranks. */
#include "dist/plan.h"

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void add_liner(const banyan_plan *plan, banyan_kind *kind, int32_t head,
                      const banyan_pattern *pattern)
{
    const int64_t tokens = plan->spec.max_tokens;
    banyan_liner *l = &kind->liner[kind->liners];
    *l = (banyan_liner){.head = head, .kv_head = head / kind->shape.group};
    pattern->selector->lines(pattern, &l->law);
    l->law.columns = least(l->law.columns, tokens);
    l->law.diagonals = least(l->law.diagonals, tokens);
    l->chosen = l->law.columns > l->law.diagonals ? l->law.columns : l->law.diagonals;
    l->room = l->law.columns;
    if (l->law.mass > 0) { /* more columns than that lie in most blocks anyway */
        l->chosen = tokens;
        l->room = (tokens + 7) / 8;
    }
    if (l->law.divergence > 0) kind->pools = 1;
    if (!kind->liners || l->law.rows < kind->line_rows) kind->line_rows = l->law.rows;
    kind->liner_of[head] = kind->liners++;
}

/* Classes are of one query head each where heads choose for themselves. */
static void find_liners(const banyan_plan *plan, banyan_kind *kind)
{
    const banyan_shape *shape = &kind->shape;
    for (int32_t g = 0; g < shape->kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        for (int32_t s = 0; s < shape->subgroups; s++)
            for (int32_t c = head->subgroup_first[s]; c < head->subgroup_first[s + 1]; c++) {
                const banyan_class *class = &head->classes[c];
                const int32_t first = g * shape->group + s * banyan_tile_heads(shape);
                if (class->pattern.selector->lines)
                    add_liner(plan, kind, first + __builtin_ctzll(class->heads) * shape->unit,
                              &class->pattern);
            }
    }
}

static int has_lines(const banyan_kind *kind)
{
    for (int32_t g = 0; g < kind->shape.kv_heads; g++)
        for (int32_t c = 0; c < kind->head[g].class_count; c++)
            if (kind->head[g].classes[c].pattern.selector->lines) return 1;
    return 0;
}

banyan_status banyan_plan_liners(banyan_plan *plan)
{
    const size_t heads = (size_t)plan->spec.heads;
    for (int32_t k = 0; k < plan->kinds; k++) {
        banyan_kind *kind = &plan->kind[k];
        if (!has_lines(kind)) continue;
        kind->liner = banyan_plan_alloc(plan, heads, sizeof *kind->liner);
        kind->liner_of = banyan_plan_alloc(plan, heads, sizeof *kind->liner_of);
        if (!kind->liner || !kind->liner_of) return BANYAN_ERR_MEMORY;
        for (size_t h = 0; h < heads; h++) kind->liner_of[h] = -1;
        find_liners(plan, kind);
    }
    return BANYAN_OK;
}
