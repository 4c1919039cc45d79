/* SPDX-License-Identifier: Apache-2.0 */
/* Making and unmaking a cache. Records are one mapping, reserved here and backed by memory as
 * blocks arrive: slots are handed out in order, and given back slots are used again first, so what
 * is resident is the most blocks that were ever held at once. */
#include "dist/device_cache.h"
#include "dist/plan.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

/* A huge page half used costs up to 2 MiB for each (layer, KV head); not worth more than 1/16 of
 * the head's records. */
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

static banyan_status map_records(banyan_cache *c)
{
    const banyan_plan *plan = c->plan;
    size_t bytes = 0, regions = 0;
    for (int32_t i = 0; i < plan->spec.layers; i++) {
        const size_t record = banyan_plan_kind(plan, i)->shape.record_bytes;
        for (int32_t j = 0; j < banyan_kept_count(c, i); j++, regions++)
            bytes += (size_t)c->layer[i].kept[j].capacity * record;
    }
    if (bytes == 0) return BANYAN_OK;
    banyan_status status = map_memory(bytes + HUGE_PAGE, &c->map);
    if (status != BANYAN_OK) return status;
    c->map_bytes = bytes + HUGE_PAGE;

    char *first = (char *)(((uintptr_t)c->map + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    /* Advice only: without huge pages everything still works. */
    (void)madvise(first, bytes,
                  bytes / regions >= huge_worth ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    for (int32_t i = 0; i < plan->spec.layers; i++) {
        const size_t record = banyan_plan_kind(plan, i)->shape.record_bytes;
        for (int32_t j = 0; j < banyan_kept_count(c, i); j++) {
            banyan_kept *kept = &c->layer[i].kept[j];
            kept->records = first;
            first += (size_t)kept->capacity * record;
        }
    }
    return BANYAN_OK;
}

/* Is any of the group's partials sent in this rank's first round? */
static int is_early(const banyan_part *part, int32_t kv_head, int32_t group)
{
    for (int32_t h = 0; h < group; h++)
        if (banyan_exchange_sends_first(part->exchange, kv_head * group + h)) return 1;
    return 0;
}

static void order_heads(banyan_part *part, int32_t group)
{
    int32_t count = 0;
    for (int32_t j = 0; j < part->mine_count; j++)
        if (is_early(part, part->mine[j].kv_head, group)) part->order[count++] = j;
    part->early = count;
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
        order_heads(&c->part[k], plan->kind[k].shape.group);
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
static banyan_status fill(banyan_cache *c, void *stream)
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
static banyan_status make(banyan_cache *c, void *stream)
{
    const int on_device = c->plan->kernel->device != NULL;
    c->way = on_device ? &banyan_device_way : &banyan_host_way;
    if (stream && !on_device)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "cache: a stream was given, but the device is %s",
                           c->plan->spec.device);
    if (on_device && !(c->device = calloc(1, sizeof *c->device)))
        return banyan_fail(BANYAN_ERR_MEMORY, "cache: no memory for %zu bytes",
                           sizeof *c->device);
    return fill(c, stream);
}

banyan_status banyan_cache_create(const banyan_plan *plan, void *stream, banyan_cache **out)
{
    if (!plan || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "cache: %s is NULL", plan ? "out" : "plan");
    banyan_status status = BANYAN_OK;
    banyan_cache *c = calloc(1, sizeof *c);
    if (!c) {
        status = banyan_fail(BANYAN_ERR_MEMORY, "cache: no memory for %zu bytes", sizeof *c);
    } else {
        c->plan = plan;
        status = make(c, stream);
    }
    status = banyan_comm_agree(plan->comm, status);
    if (status != BANYAN_OK) {
        banyan_cache_destroy(c);
        return status;
    }
    *out = c;
    return BANYAN_OK;
}

void banyan_cache_destroy(banyan_cache *cache)
{
    if (!cache) return;
    const int device = banyan_device_enter(cache);
    for (int32_t k = 0; cache->part && k < cache->plan->kinds; k++)
        banyan_exchange_destroy(cache->part[k].exchange);
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
    for (int32_t i = 0; i < cache->plan->spec.layers; i++) {
        const banyan_layer *layer = &cache->layer[i];
        int64_t blocks = 0;
        if (layer->length > out->tokens) out->tokens = layer->length;
        for (int32_t j = 0; j < banyan_kept_count(cache, i); j++)
            blocks += layer->kept[j].count;
        out->blocks += blocks;
        out->bytes += blocks * (int64_t)banyan_plan_kind(cache->plan, i)->shape.record_bytes;
    }
}

banyan_status banyan_cache_probe(banyan_cache *cache, int64_t first, int64_t count, float *mass)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "probe: cache is NULL");
    int64_t max = cache->plan->spec.max_tokens;
    if (mass && (first < 0 || count < 0 || count > max || first > max - count))
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "probe: tokens %lld, count %lld: expected a range within 0..%lld",
                           (long long)first, (long long)count, (long long)max - 1);
    cache->probe = mass;
    cache->probe_first = first;
    cache->probe_end = first + count;
    return BANYAN_OK;
}

banyan_status banyan_cache_wait(banyan_cache *cache)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "wait: cache is NULL");
    if (!cache->device) return BANYAN_OK;
    const int device = banyan_device_enter(cache);
    const banyan_status status = banyan_device_wait(cache);
    banyan_device_leave(cache, device);
    return status;
}

banyan_status banyan_cache_memory(banyan_cache *cache, int32_t layer, int32_t kv_head,
                                  void **data, size_t *bytes)
{
    if (!cache || !data || !bytes)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "cache_memory: cache, data and bytes must be "
                                                "given");
    const banyan_plan *plan = cache->plan;
    if (layer < 0 || layer >= plan->spec.layers)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "cache_memory: layer %d; expected 0..%d",
                           (int)layer, (int)plan->spec.layers - 1);
    const banyan_shape *shape = &banyan_plan_kind(plan, layer)->shape;
    if (kv_head < 0 || kv_head >= shape->kv_heads)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "cache_memory: KV head %d of layer %d; expected 0..%d", (int)kv_head,
                           (int)layer, (int)shape->kv_heads - 1);
    const banyan_part *part = banyan_cache_part(cache, layer);
    *data = NULL;
    *bytes = 0;
    for (int32_t j = 0; j < part->mine_count; j++) {
        if (part->mine[j].kv_head != kv_head) continue;
        const banyan_kept *kept = &cache->layer[plan->spec.cache_layer[layer]].kept[j];
        *data = kept->records;
        *bytes = (size_t)kept->touched * shape->record_bytes;
    }
    return BANYAN_OK;
}
