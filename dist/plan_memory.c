/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank must have room for, in block records.
 *
 * A call appends rows at .. at + rows - 1, after evicting what no row from r = at - rollback_tokens
 * on will read. What a KV head then holds is
 *
 *     permanent blocks below max_tokens, and
 *     others from the first that row r or a later one reads to the last appended: the window.
 *
 * Block b is read by rows up to (b + 1) block - 1 + reach, so the window's first block is
 * ceil((r - reach + 1) / block) - 1; its last is ceil((at + rows) / block) - 1; it has at most
 *
 *     w = ceil((max_rows + rollback_tokens + reach - 1) / block) + 1      blocks.
 *
 * A holder's part of the permanent blocks is counted exactly (deal.c); of the window it is the most
 * that it is dealt of any w consecutive block numbers. A sole holder's is w less the permanent
 * blocks that every w consecutive blocks contain. With evict: false there is room for all that a
 * holder is ever dealt. */
#include "dist/plan.h"

#include <stdio.h>
#include <string.h>

banyan_kept_set banyan_plan_kept_at(const banyan_plan *plan, const banyan_head_plan *head,
                                    int64_t tokens, int evict)
{
    const int64_t block = plan->spec.block_tokens;
    const banyan_retention *r = &head->retention;
    const int64_t row = tokens - 1 - plan->spec.rollback_tokens;
    banyan_kept_set kept = {.retention = r, .blocks = banyan_blocks(tokens, (int32_t)block)};
    if (evict && row - r->reach >= 0) kept.from = (row - r->reach) / block;
    if (kept.from > kept.blocks) kept.from = kept.blocks;
    return kept;
}

/* Blocks of the window, at most. */
static int64_t window_blocks(const banyan_plan *plan, const banyan_retention *r)
{
    const banyan_spec *spec = &plan->spec;
    const int64_t all = banyan_blocks(spec->max_tokens, spec->block_tokens);
    if (r->reach >= spec->max_tokens) return all;
    const int64_t w =
        banyan_blocks((int64_t)spec->max_rows + spec->rollback_tokens + r->reach - 1,
                      spec->block_tokens) +
        1;
    return w < all ? w : all;
}

static int64_t residues_of(const banyan_retention *r)
{
    return banyan_retention_count(r, r->prefix + r->period) - r->prefix;
}

/* At most this many of the window's blocks are a holder's. */
static int64_t window_part(const banyan_head_plan *head, int32_t index, int64_t window,
                           int64_t blocks)
{
    const banyan_retention *r = &head->retention;
    const uint64_t low = banyan_cut_low(&head->placed, index);
    const uint64_t high = head->placed.holder[index].cut;
    if (banyan_retention_count(r, blocks) == blocks) return 0; /* all are permanent */
    if (head->placed.count == 1) return window - window / r->period * residues_of(r);
    const int64_t most = banyan_deal_most(window, low, high);
    const int64_t all = banyan_deal_below(blocks, high) - banyan_deal_below(blocks, low);
    return most < all ? most : all;
}

void banyan_head_capacity(const banyan_plan *plan, banyan_head_plan *head)
{
    const banyan_kept_set ever = banyan_plan_kept_at(plan, head, plan->spec.max_tokens, 0);
    const int64_t permanent = banyan_retention_count(&head->retention, ever.blocks);
    const int64_t window = window_blocks(plan, &head->retention);
    int64_t before = 0;
    for (int32_t i = 0; i < head->placed.count; i++) {
        const uint64_t cut = head->placed.holder[i].cut;
        const int64_t below = plan->spec.evict ? banyan_deal_below(permanent, cut)
                                               : banyan_kept_below(&ever, cut);
        head->capacity[i] = below - before;
        if (plan->spec.evict) head->capacity[i] += window_part(head, i, window, ever.blocks);
        before = below;
    }
}

int64_t banyan_plan_capacity(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                             int rank)
{
    (void)plan;
    const banyan_head_plan *head = &kind->head[kv_head];
    const int32_t index = banyan_holder_index(&head->placed, rank);
    return index < 0 ? 0 : head->capacity[index];
}

int64_t banyan_plan_kept(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                         int rank, int64_t tokens)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    const int32_t index = banyan_holder_index(&head->placed, rank);
    if (index < 0) return 0;
    const banyan_kept_set kept = banyan_plan_kept_at(plan, head, tokens, plan->spec.evict);
    return banyan_kept_below(&kept, head->placed.holder[index].cut) -
           banyan_kept_below(&kept, banyan_cut_low(&head->placed, index));
}

int64_t banyan_plan_capacity_bytes(const banyan_plan *plan, int rank)
{
    int64_t bytes = 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        const int64_t record = (int64_t)kind->shape.record_bytes;
        for (int32_t g = 0; g < kind->shape.kv_heads; g++)
            bytes += banyan_plan_capacity(plan, kind, g, rank) * kind->kept_layers * record;
    }
    return bytes;
}

/* ---- what there is -------------------------------------------------------------------------- */

/* A number in a one-line file, or -1. */
static int64_t read_number(const char *path)
{
    long long value = -1;
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    if (fscanf(file, "%lld", &value) != 1) value = -1;
    fclose(file);
    return value;
}

/* What may still be taken within a control group's limit; -1 without one. Pages of files count as
 * used there, though they can be dropped. */
static int64_t group_free(const char *limit, const char *used, const char *stat,
                          const char *droppable)
{
    const int64_t most = read_number(limit), now = read_number(used);
    if (most < 0 || now < 0) return -1;
    int64_t files = 0;
    char name[64];
    long long value;
    FILE *file = fopen(stat, "r");
    while (file && fscanf(file, "%63s %lld", name, &value) == 2)
        if (strcmp(name, droppable) == 0) files = value;
    if (file) fclose(file);
    return most > now - files ? most - (now - files) : 0;
}

int64_t banyan_memory_free(void)
{
    long long kib = -1;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
    if (file) fclose(file);
    int64_t least = kib < 0 ? -1 : (int64_t)kib * 1024;
    const int64_t groups[] = {
        group_free("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
                   "/sys/fs/cgroup/memory.stat", "inactive_file"),
        group_free("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                   "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                   "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
    };
    for (int i = 0; i < 2; i++)
        if (groups[i] >= 0 && (least < 0 || groups[i] < least)) least = groups[i];
    return least;
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

/* memory_limit counts for every rank, also of an imaginary cluster, and for a device's memory where there
 * is one; what is free, for the ranks of this node together. What a device has free is looked at
 * when a cache is made there (device_open.c). */
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
