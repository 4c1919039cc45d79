/* SPDX-License-Identifier: Apache-2.0 */
/* How partials are merged. A kind's items (the partials of one query head, on the head's
 * holders) go through one schedule. Without a merge in the spec the cost model decides: the
 * least time for one row over all layers, the first row of the table on ties. Merges that
 * reduce whole arrays are there to compare with, and must be asked for. */
#include "dist/plan.h"

#include <math.h>

banyan_status banyan_kind_schedule(const banyan_plan *plan, const banyan_kind *kind,
                                   const banyan_merge *merge, banyan_schedule *out)
{
    *out = (banyan_schedule){0};
    if (!merge->build) return BANYAN_OK;
    merge->build(banyan_comm_topology(plan->comm), kind->item, plan->spec.heads,
                 plan->spec.out == BANYAN_OUT_ALL, out);
    if (out->failed) {
        banyan_schedule_free(out);
        return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for the schedule of merge %s",
                           merge->name);
    }
    banyan_schedule_sort(out);
    return BANYAN_OK;
}

/* Of merging `rows` rows at once. */
static void find_traffic(const banyan_plan *plan, const banyan_kind *kind,
                         const banyan_merge *merge, const banyan_schedule *schedule,
                         int32_t rows, int rank, banyan_traffic *out)
{
    const size_t row = banyan_sum_bytes(plan, kind->shape.value_dim);
    const banyan_topology *topology = banyan_comm_topology(plan->comm);
    int64_t floats[BANYAN_PASSES];
    if (merge->build) {
        banyan_schedule_cost(schedule, topology, row * (size_t)rows, rank, out);
    } else {
        banyan_pass_floats(plan, kind->shape.value_dim, rows, floats);
        merge->reduce_cost(topology, floats, BANYAN_PASSES, rank, out);
    }
}

void banyan_kind_traffic(const banyan_plan *plan, const banyan_kind *kind, int32_t rows,
                         int rank, banyan_traffic *out)
{
    find_traffic(plan, kind, plan->merge, &kind->schedule, rows, rank, out);
}

banyan_status banyan_plan_merge_seconds(const banyan_plan *plan, const banyan_merge *merge,
                                        double *seconds)
{
    double sum = 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        banyan_schedule schedule;
        banyan_traffic traffic;
        const banyan_status status = banyan_kind_schedule(plan, kind, merge, &schedule);
        if (status) return status;
        find_traffic(plan, kind, merge, &schedule, 1, -1, &traffic);
        banyan_schedule_free(&schedule);
        if (isinf(traffic.seconds))
            return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for the cost of merge %s",
                               merge->name);
        sum += traffic.seconds * kind->layer_count;
    }
    *seconds = sum;
    return BANYAN_OK;
}

static banyan_status choose_merge(banyan_plan *plan)
{
    double least = 0;
    for (int i = 0; banyan_merge_row(i); i++) {
        double seconds;
        const banyan_merge *row = banyan_merge_row(i);
        if (!row->build) continue;
        const banyan_status status = banyan_plan_merge_seconds(plan, row, &seconds);
        if (status) return status;
        if (plan->merge && seconds >= least) continue;
        plan->merge = row;
        least = seconds;
    }
    return BANYAN_OK;
}

banyan_status banyan_plan_merge(banyan_plan *plan)
{
    banyan_status status = BANYAN_OK;
    if (plan->spec.merge)
        plan->merge = banyan_merge_find(plan->spec.merge);
    else
        status = choose_merge(plan);
    for (int32_t k = 0; !status && k < plan->kinds; k++)
        status =
            banyan_kind_schedule(plan, &plan->kind[k], plan->merge, &plan->kind[k].schedule);
    return status;
}

const char *banyan_plan_merge_name(const banyan_plan *plan)
{
    return plan ? plan->merge->name : "";
}

double banyan_plan_merge_time(const banyan_plan *plan, int32_t rows)
{
    if (!plan || rows < 1) return 0;
    const int32_t panels = rows / plan->panel_rows, rest = rows % plan->panel_rows;
    double sum = 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        banyan_traffic whole = {0}, last = {0};
        if (panels) banyan_kind_traffic(plan, kind, plan->panel_rows, -1, &whole);
        if (rest) banyan_kind_traffic(plan, kind, rest, -1, &last);
        sum += (panels * whole.seconds + last.seconds) * kind->layer_count;
    }
    return sum;
}
