/* SPDX-License-Identifier: Apache-2.0 */
/* Who chooses blocks by data. Query heads of a group that read by one such rule choose
 * together; the holders of their KV head score their own blocks, and tell each other in one
 * round what they found best: each then knows the best of all.
 *
 *     holder     A          B          C
 *     best       7 3 9      12 1 5     20 2 8          (score, block) pairs, `blocks` of them
 *                 \_________/|\_________/
 *     all have   the best of nine
 *
 * What is remembered of a block lies behind its record, since it comes, goes and is copied with
 * it. */
#include "dist/plan.h"

static banyan_picker *picker_of(banyan_kind *kind, int32_t first, const banyan_pattern *pattern)
{
    for (int32_t i = first; i < kind->pickers; i++)
        if (banyan_pattern_equal(kind->picker[i].pattern, pattern)) return &kind->picker[i];
    return NULL;
}

static banyan_picker *add_picker(const banyan_plan *plan, banyan_kind *kind, int32_t kv_head,
                                 const banyan_pattern *pattern)
{
    const int64_t most = banyan_blocks(plan->spec.max_tokens, plan->spec.block_tokens);
    banyan_picker *p = &kind->picker[kind->pickers++];
    *p = (banyan_picker){.pattern = pattern, .kv_head = kv_head};
    pattern->selector->chooses(pattern, &p->choice);
    if (p->choice.blocks > most) p->choice.blocks = most;
    if (p->choice.mass > 0) kind->tallies = 1;
    if (p->choice.blocks > kind->picks) kind->picks = p->choice.blocks;
    return p;
}

/* The query heads of a class become the picker's. */
static void add_heads(const banyan_kind *kind, int32_t subgroup, const banyan_class *class,
                      banyan_picker *p)
{
    const banyan_shape *shape = &kind->shape;
    const int32_t first = p->kv_head * shape->group + subgroup * banyan_tile_heads(shape);
    for (int32_t h = 0; h < banyan_tile_heads(shape); h++) {
        if (!(class->heads >> h / shape->unit & 1)) continue;
        kind->picker_of[first + h] = (int32_t)(p - kind->picker);
        p->head[p->heads++] = first + h;
    }
}

static banyan_status find_pickers(banyan_plan *plan, banyan_kind *kind, int32_t kv_head)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    const int32_t first = kind->pickers;
    for (int32_t s = 0; s < kind->shape.subgroups; s++)
        for (int32_t c = head->subgroup_first[s]; c < head->subgroup_first[s + 1]; c++) {
            const banyan_class *class = &head->classes[c];
            if (!class->pattern.selector->chooses) continue;
            banyan_picker *p = picker_of(kind, first, &class->pattern);
            if (!p) {
                p = add_picker(plan, kind, kv_head, &class->pattern);
                p->head = banyan_plan_alloc(plan, (size_t)kind->shape.group, sizeof *p->head);
                if (!p->head) return BANYAN_ERR_MEMORY;
            }
            add_heads(kind, s, class, p);
        }
    return BANYAN_OK;
}

static int chooses_by_data(const banyan_kind *kind)
{
    for (int32_t g = 0; g < kind->shape.kv_heads; g++)
        for (int32_t c = 0; c < kind->head[g].class_count; c++)
            if (kind->head[g].classes[c].pattern.selector->chooses) return 1;
    return 0;
}

void banyan_schedule_holders(banyan_schedule *out, const banyan_placed *placed, int32_t item)
{
    for (int32_t a = 0; a < placed->count; a++)
        for (int32_t b = 0; b < placed->count; b++)
            if (a != b)
                banyan_schedule_add(out, 0, placed->holder[a].rank, placed->holder[b].rank,
                                    item, 1);
}

banyan_status banyan_schedule_close(banyan_schedule *out)
{
    if (out->failed)
        return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for the schedule of choices");
    banyan_schedule_sort(out);
    return BANYAN_OK;
}

static banyan_status fill(banyan_plan *plan, banyan_kind *kind)
{
    const size_t heads = (size_t)plan->spec.heads;
    kind->picker = banyan_plan_alloc(plan, heads, sizeof *kind->picker);
    kind->picker_of = banyan_plan_alloc(plan, heads, sizeof *kind->picker_of);
    if (!kind->picker || !kind->picker_of) return BANYAN_ERR_MEMORY;
    for (size_t h = 0; h < heads; h++) kind->picker_of[h] = -1;
    banyan_status status = BANYAN_OK;
    for (int32_t g = 0; g < kind->shape.kv_heads && !status; g++)
        status = find_pickers(plan, kind, g);
    for (int32_t i = 0; i < kind->pickers && !status; i++)
        banyan_schedule_holders(&kind->pick_schedule,
                                &kind->head[kind->picker[i].kv_head].placed, i);
    return status ? status : banyan_schedule_close(&kind->pick_schedule);
}

banyan_status banyan_plan_pick(banyan_plan *plan)
{
    banyan_status status = BANYAN_OK;
    for (int32_t k = 0; k < plan->kinds && !status; k++)
        if (chooses_by_data(&plan->kind[k])) status = fill(plan, &plan->kind[k]);
    return status;
}

void banyan_pick_traffic(const banyan_plan *plan, const banyan_kind *kind, int32_t pieces,
                         int rank, banyan_traffic *out)
{
    banyan_schedule_cost(&kind->pick_schedule, banyan_comm_topology(plan->comm),
                         (size_t)pieces * banyan_picks_bytes(kind), rank, out);
}

void banyan_plan_record(const banyan_plan *plan, banyan_kind *kind)
{
    banyan_shape *shape = &kind->shape;
    int used[BANYAN_SUMMARIES] = {0};
    shape->record_bytes = plan->kernel->record_bytes(&shape->block);
    for (int32_t i = 0; i < kind->reader_count; i++) {
        const banyan_kind *reader = &plan->kind[kind->reader[i]];
        for (int32_t p = 0; p < reader->pickers; p++)
            used[reader->picker[p].choice.summary] = 1;
        if (reader->pools) used[BANYAN_SUMMARY_MEAN] = 1;
    }
    for (int32_t i = 0; i < BANYAN_SUMMARIES; i++) {
        if (!used[i]) continue;
        kind->summary_at[i] = shape->record_bytes;
        shape->record_bytes +=
            (size_t)((banyan_summary_bytes(i, shape->key_dim) + 63) / 64 * 64);
    }
}
