/* SPDX-License-Identifier: Apache-2.0 */
/* Does what a plan needs fit into the memory that there is? */
#include "dist/plan.h"

#include <stdio.h>
#include <string.h>

int64_t banyan_memory_free(void)
{
    long long kib = -1;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
    if (file) fclose(file);
    const int64_t all = kib < 0 ? -1 : (int64_t)kib * 1024, groups = banyan_groups_free("");
    return groups >= 0 && (all < 0 || groups < all) ? groups : all;
}

/* Of the host's memory. */
static int64_t need_of(const banyan_plan *plan, int rank)
{
    return banyan_plan_capacity_bytes(plan, rank) + banyan_plan_workspace(plan, rank) -
           banyan_plan_device_bytes(plan, rank);
}

banyan_status banyan_memory_refuse(int64_t need, int64_t have, const char *note)
{
    const double mib = 1024.0 * 1024, gib = 1024 * mib;
    const int large = (double)need >= gib / 10;
    const double unit = large ? gib : mib;
    return banyan_fail(BANYAN_ERR_MEMORY, "needs %.1f %s per rank, %.1f free%s",
                       (double)need / unit, large ? "GiB" : "MiB", (double)have / unit, note);
}

/* memory_limit counts for every rank, also of an imaginary cluster, and for a device's memory
 * where there is one; what is free, for the ranks of this node together. What a device has free
 * is looked at when a cache is made there (device_open.c). */
banyan_status banyan_plan_memory(const banyan_plan *plan)
{
    const banyan_topology *t = banyan_comm_topology(plan->comm);
    const int32_t node = t->node[plan->rank];
    const int imaginary = strcmp(plan->comm->transport->name, "imaginary") == 0;
    const int64_t limit = plan->spec.memory_limit;
    if (imaginary && !limit) return BANYAN_OK;

    int64_t most = 0, sum = 0, on_device = 0;
    int32_t ranks = 0;
    for (int32_t r = 0; r < plan->ranks; r++) {
        if (!imaginary && t->node[r] != node) continue;
        const int64_t need = need_of(plan, r);
        const int64_t device = banyan_plan_device_bytes(plan, r);
        if (need > most) most = need;
        if (device > on_device) on_device = device;
        sum += need;
        ranks++;
    }
    if (limit && plan->kernel->device)
        return on_device > limit
                   ? banyan_memory_refuse(on_device, limit, " on the device (memory_limit)")
                   : BANYAN_OK;
    if (limit)
        return most > limit ? banyan_memory_refuse(most, limit, " (memory_limit)") : BANYAN_OK;
    const int64_t have = banyan_memory_free();
    return have >= 0 && sum > have ? banyan_memory_refuse(most, have / ranks, "") : BANYAN_OK;
}
