/* SPDX-License-Identifier: Apache-2.0 */
/* Making and unmaking a cache. Records are one mapping, reserved here and backed by memory as
 * blocks arrive: they are handed out in order, and those given back first, so what is resident
 * is the most blocks that were ever held at once. */
#include "dist/device_cache.h"
#include "dist/plan.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

/* A huge page half used costs up to 2 MiB; not worth more than 1/16 of the records. */
static const size_t huge_worth = (size_t)16 * HUGE_PAGE;

static banyan_status map_memory(size_t bytes, void **out)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return banyan_fail(BANYAN_ERR_MEMORY, "cache: the system refused to map %.1f MiB",
                           (double)bytes / (1 << 20));
    *out = p;
    return BANYAN_OK;
}

/* The records are one mapping, backed by memory as they are touched. */
static banyan_status map_records(banyan_cache *c)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < c->plan->pools; i++)
        bytes += (size_t)c->pool[i].capacity * c->pool[i].record_bytes;
    if (bytes == 0) return BANYAN_OK;
    banyan_status status = map_memory(bytes + HUGE_PAGE, &c->map);
    if (status != BANYAN_OK) return status;
    c->map_bytes = bytes + HUGE_PAGE;
    char *first = (char *)(((uintptr_t)c->map + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    /* Advice only: without huge pages everything still works. */
    (void)madvise(first, bytes, bytes >= huge_worth ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    banyan_pools_place(c, first);
    return BANYAN_OK;
}

/* Records set aside for a KV head of one layer. */
static int64_t pooled(const banyan_cache *c, int32_t layer, int32_t j)
{
    const banyan_mine *mine = &banyan_cache_part(c, layer)->mine[j];
    return banyan_plan_kind(c->plan, layer)->head[mine->kv_head].pooled[mine->index];
}

/* What each rank has room for: all ranks count alike. */
static void fill_pools(banyan_cache *c)
{
    const banyan_plan *plan = c->plan;
    for (int32_t k = 0; k < plan->kinds; k++)
        c->pool[plan->kind[k].pool].record_bytes = plan->kind[k].shape.record_bytes;
    for (int32_t i = 0; i < plan->pools; i++)
        for (int32_t r = 0; r < plan->ranks; r++)
            c->pool[i].most[r] = banyan_plan_records(plan, i, r);
    for (int32_t layer = 0; layer < plan->spec.layers; layer++) {
        banyan_pool *pool = banyan_cache_pool(c, layer);
        for (int32_t j = 0; j < banyan_kept_count(c, layer); j++) {
            banyan_region *region = &c->region[layer][j];
            region->first = pool->capacity;
            region->capacity = pooled(c, layer, j);
            pool->capacity += region->capacity;
        }
    }
}

/* Is any of the group's partials sent in this rank's first round? */
static int is_early(const banyan_part *part, int32_t kv_head, int32_t group)
{
    for (int32_t h = 0; h < group; h++)
        if (banyan_exchange_sends_first(part->exchange, kv_head * group + h)) return 1;
    return 0;
}

/* Where a merge is queued behind all that is computed nothing is sent early: heads keep one
 * batch. */
static void order_heads(banyan_part *part, int32_t group, int is_queued)
{
    int32_t count = 0;
    for (int32_t j = 0; j < part->mine_count; j++)
        if (is_early(part, part->mine[j].kv_head, group)) part->order[count++] = j;
    part->early = is_queued ? part->mine_count : count;
    for (int32_t j = 0; j < part->mine_count; j++)
        if (!is_early(part, part->mine[j].kv_head, group)) part->order[count++] = j;
}

static banyan_status make_exchanges(banyan_cache *c, size_t *bytes)
{
    const banyan_plan *plan = c->plan;
    for (int32_t k = 0; k < plan->kinds; k++) {
        banyan_status status = banyan_exchange_create(
            &plan->kind[k].schedule, plan->rank, c->sizes.item_bytes, plan->hash,
            c->device ? &c->device->memory : NULL, &c->part[k].exchange);
        if (status != BANYAN_OK) return status;
        *bytes += banyan_exchange_bytes(c->part[k].exchange) +
                  banyan_exchange_device_bytes(c->part[k].exchange);
        if (plan->kind[k].pickers)
            status = banyan_exchange_create(&plan->kind[k].pick_schedule, plan->rank,
                                            banyan_pick_bytes(plan, &plan->kind[k]), plan->hash,
                                            NULL, &c->part[k].pick_exchange);
        if (status != BANYAN_OK) return status;
        if (plan->kind[k].pickers) *bytes += banyan_exchange_bytes(c->part[k].pick_exchange);
        if (plan->kind[k].followers) {
            status = banyan_exchange_create(&plan->kind[k].follow_schedule, plan->rank,
                                            banyan_follow_bytes(plan, &plan->kind[k]),
                                            plan->hash, NULL, &c->part[k].follow_exchange);
            if (status != BANYAN_OK) return status;
            *bytes += banyan_exchange_bytes(c->part[k].follow_exchange);
        }
        order_heads(&c->part[k], plan->kind[k].shape.group,
                    c->device && !c->device->memory.is_staged);
    }
    return BANYAN_OK;
}

static void touch(void *arg, int64_t i, int32_t worker)
{
    banyan_cache *c = arg;
    (void)i;
    c->worker[worker].pairs = 0;
}

/* On failure the caller destroys what there is. */
static banyan_status lay_out_cache(banyan_cache *c, void *stream)
{
    const banyan_plan *plan = c->plan;
    banyan_arena arena = {0};
    banyan_cache_layout(plan, plan->rank, &arena, NULL);
    void *base = NULL;
    banyan_status status = map_memory(arena.used, &base);
    if (status != BANYAN_OK) return status;
    c->arena = base;
    c->arena_bytes = arena.used;
    arena = (banyan_arena){.base = base};
    banyan_cache_layout(plan, plan->rank, &arena, c);
    fill_pools(c);

    size_t bytes = sizeof *c + arena.used;
    if (c->device) status = banyan_device_open(c, stream, &bytes);
    if (!status) status = make_exchanges(c, &bytes);
    if (status != BANYAN_OK) return status;
    int64_t planned = banyan_plan_workspace(plan, plan->rank);
    if ((int64_t)bytes > planned)
        return banyan_fail(BANYAN_ERR_MEMORY,
                           "cache: takes %lld bytes of workspace, but the plan said %lld",
                           (long long)bytes, (long long)planned);
    c->stats.workspace_bytes = (int64_t)bytes;
    c->stats.device_bytes = banyan_plan_device_bytes(plan, plan->rank);
    c->stats.capacity_bytes = banyan_plan_capacity_bytes(plan, plan->rank);
    if (c->device) return BANYAN_OK;
    /* The first parallel region makes the threads, which attend must not. */
    banyan_each(c->sizes.workers, c->sizes.workers, touch, c);
    return map_records(c);
}

/* On the CPU or on the plan's device. */
static banyan_status open_cache(banyan_cache *c, void *stream)
{
    const int on_device = c->plan->kernel->device != NULL;
    c->backend = on_device ? &banyan_device_backend : &banyan_host_backend;
    if (stream && !on_device)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "cache: a stream was given, but the device is %s",
                           c->plan->spec.device);
    if (on_device && !(c->device = calloc(1, sizeof *c->device)))
        return banyan_fail(BANYAN_ERR_MEMORY, "cache: out of memory for %zu bytes",
                           sizeof *c->device);
    return lay_out_cache(c, stream);
}

banyan_status banyan_cache_create(const banyan_plan *plan, void *stream, banyan_cache **out)
{
    if (!plan || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "cache: %s is NULL", plan ? "out" : "plan");
    banyan_status status = BANYAN_OK;
    banyan_cache *c = calloc(1, sizeof *c);
    if (!c) {
        status =
            banyan_fail(BANYAN_ERR_MEMORY, "cache: out of memory for %zu bytes", sizeof *c);
    } else {
        c->plan = plan;
        status = open_cache(c, stream);
    }
    status = banyan_comm_agree(plan->comm, status);
    if (status != BANYAN_OK) {
        banyan_cache_destroy(c);
        return status;
    }
    *out = c;
    return BANYAN_OK;
}

static void destroy_exchanges(banyan_part *part)
{
    banyan_exchange_destroy(part->exchange);
    banyan_exchange_destroy(part->pick_exchange);
    banyan_exchange_destroy(part->follow_exchange);
}

void banyan_cache_destroy(banyan_cache *cache)
{
    if (!cache) return;
    const int device = banyan_device_enter(cache);
    for (int32_t i = 0; cache->sequence && i < cache->plan->spec.sequences; i++)
        free(cache->sequence[i].turns);
    for (int32_t k = 0; cache->part && k < cache->plan->kinds; k++)
        destroy_exchanges(&cache->part[k]);
    banyan_device_close(cache);
    banyan_device_leave(cache, device);
    free(cache->device);
    if (cache->map) munmap(cache->map, cache->map_bytes);
    if (cache->arena) munmap(cache->arena, cache->arena_bytes);
    free(cache);
}

void banyan_cache_stats(const banyan_cache *cache, banyan_stats *out)
{
    *out = cache->stats;
    for (int32_t i = 0; i < cache->plan->spec.sequences; i++)
        if (cache->sequence[i].is_live)
            out->tokens += banyan_sequence_length(&cache->sequence[i], -1);
    out->sequences = cache->live;
    for (int32_t i = 0; i < cache->plan->pools; i++) {
        const banyan_pool *pool = &cache->pool[i];
        out->blocks += pool->held;
        out->bytes += pool->held * (int64_t)pool->record_bytes;
    }
}

banyan_status banyan_cache_wait(banyan_cache *cache)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "wait: cache is NULL");
    if (!cache->device) return BANYAN_OK;
    const int device = banyan_device_enter(cache);
    banyan_status status = banyan_device_wait(cache);
    for (int32_t k = 0; k < cache->plan->kinds && !status; k++)
        status = banyan_exchange_look(cache->part[k].exchange, cache->plan->comm);
    banyan_device_leave(cache, device);
    return status;
}
