/* SPDX-License-Identifier: Apache-2.0 */
/* Whose decoded rows read what an earlier layer chose. Layers that choose, and those that
 * follow them, are of one kind: so the holders of a head are the same in all of them, and what
 * each holder knows after one round of the layer that chose serves the others without a
 * message. */
#include "dist/plan.h"

static banyan_status check_followed_layers(const banyan_plan *plan,
                                           const banyan_pattern *pattern,
                                           const banyan_following *law, const banyan_kind *kind)
{
    const int32_t layers = plan->spec.layers;
    const int32_t last = law->again > law->first ? law->again : law->first;
    if (last >= layers)
        return banyan_fail(BANYAN_ERR_CONFIG,
                           "query head %d, \"%s\": layer %d chooses, and the plan has layers "
                           "0..%d: expected one of them%s",
                           (int)pattern->head, kind->use[pattern->head], (int)last,
                           (int)layers - 1, last == law->first ? "" : ", or again=0");
    for (int32_t i = 0; i < layers; i++) {
        const int32_t source = banyan_follows(law, i);
        if (banyan_plan_kind(plan, i) != kind || source < 0 ||
            banyan_plan_kind(plan, source) == kind)
            continue;
        return banyan_fail(
            BANYAN_ERR_CONFIG,
            "layer %d, query head %d, \"%s\": it reads what layer %d chose, which "
            "has other rules or another shape: expected the same of all heads",
            (int)i, (int)pattern->head, kind->use[pattern->head], (int)source);
    }
    return BANYAN_OK;
}

static banyan_status add_follower(const banyan_plan *plan, banyan_kind *kind, int32_t head,
                                  const banyan_pattern *pattern)
{
    banyan_follower *f = &kind->follower[kind->followers];
    *f = (banyan_follower){.head = head, .kv_head = head / kind->shape.group};
    pattern->selector->follows(pattern, &f->law);
    const banyan_status status = check_followed_layers(plan, pattern, &f->law, kind);
    if (f->law.tokens > plan->spec.max_tokens) f->law.tokens = plan->spec.max_tokens;
    if (f->law.tokens > kind->follow_tokens) kind->follow_tokens = f->law.tokens;
    kind->follower_of[head] = kind->followers++;
    return status;
}

/* Classes are of one query head each where heads choose for themselves. */
static banyan_status find_followers(const banyan_plan *plan, banyan_kind *kind)
{
    const banyan_shape *shape = &kind->shape;
    banyan_status status = BANYAN_OK;
    for (int32_t g = 0; g < shape->kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        for (int32_t s = 0; s < shape->subgroups; s++)
            for (int32_t c = head->subgroup_first[s]; c < head->subgroup_first[s + 1]; c++) {
                const banyan_class *class = &head->classes[c];
                const int32_t first = g * shape->group + s * banyan_tile_heads(shape);
                if (!status && class->pattern.selector->follows)
                    status = add_follower(plan, kind,
                                          first + __builtin_ctzll(class->heads) * shape->unit,
                                          &class->pattern);
            }
    }
    return status;
}

static int is_following(const banyan_kind *kind)
{
    for (int32_t g = 0; g < kind->shape.kv_heads; g++)
        for (int32_t c = 0; c < kind->head[g].class_count; c++)
            if (kind->head[g].classes[c].pattern.selector->follows) return 1;
    return 0;
}

static banyan_status fill_followers(banyan_plan *plan, banyan_kind *kind)
{
    const size_t heads = (size_t)plan->spec.heads;
    kind->follower = banyan_plan_alloc(plan, heads, sizeof *kind->follower);
    kind->follower_of = banyan_plan_alloc(plan, heads, sizeof *kind->follower_of);
    if (!kind->follower || !kind->follower_of) return BANYAN_ERR_MEMORY;
    for (size_t h = 0; h < heads; h++) kind->follower_of[h] = -1;
    const banyan_status status = find_followers(plan, kind);
    if (status) return status;
    for (int32_t i = 0; i < kind->followers; i++)
        banyan_schedule_holders(&kind->follow_schedule,
                                &kind->head[kind->follower[i].kv_head].placed, i);
    return banyan_schedule_close(&kind->follow_schedule);
}

banyan_status banyan_plan_follow(banyan_plan *plan)
{
    banyan_status status = BANYAN_OK;
    for (int32_t k = 0; k < plan->kinds && !status; k++)
        if (is_following(&plan->kind[k])) status = fill_followers(plan, &plan->kind[k]);
    return status;
}

int32_t banyan_kind_remembers(const banyan_plan *plan, const banyan_kind *kind, int32_t layer)
{
    int32_t count = 0;
    for (int32_t i = 0; i < kind->followers && banyan_plan_kind(plan, layer) == kind; i++)
        count += banyan_remembers(&kind->follower[i].law, layer);
    return count;
}

void banyan_follow_traffic(const banyan_plan *plan, const banyan_kind *kind, int32_t pieces,
                           int rank, banyan_traffic *out)
{
    banyan_schedule_cost(&kind->follow_schedule, banyan_comm_topology(plan->comm),
                         (size_t)(pieces * kind->follow_tokens) * sizeof(banyan_pick), rank,
                         out);
}
