/* SPDX-License-Identifier: Apache-2.0 */
/* A cache's memory on a device: taken and given back. */
#include "dist/device_cache.h"
#include "dist/plan.h"

#include <string.h>

static banyan_status check_free(const banyan_plan *plan, const banyan_device *device)
{
    int64_t have;
    const banyan_status status = banyan_device_said(device->memory_free(&have));
    const int64_t need = banyan_plan_device_bytes(plan, plan->rank);
    if (status || need <= have) return status;
    return banyan_memory_refuse(need, have, " on the device");
}

static banyan_status allocate_device(banyan_device_cache *d, int64_t bytes, void *out)
{
    void *memory = NULL;
    if (bytes == 0) return BANYAN_OK;
    const banyan_status status =
        banyan_device_said(banyan_memory_allocate(&d->memory, 0, (size_t)bytes, &memory));
    if (!status) memcpy(out, &memory, sizeof memory); /* whatever it points to */
    return status;
}

static void place_mirrors(banyan_cache *c)
{
    banyan_device_cache *d = c->device;
    banyan_slot *slot = d->tables;
    banyan_pools_place(c, d->records);
    for (int32_t s = 0; s < c->plan->spec.sequences; s++)
        for (int32_t i = 0; i < c->plan->spec.layers; i++)
            for (int32_t j = 0; j < banyan_kept_count(c, i); j++) {
                const int32_t kv_head = banyan_cache_part(c, i)->mine[j].kv_head;
                banyan_device_mirror(c, &c->sequence[s], i, j)->slot = slot;
                slot +=
                    banyan_plan_capacity(banyan_plan_kind(c->plan, i), kv_head, c->plan->rank) *
                    banyan_device_slots(c->plan);
            }
}

banyan_status banyan_device_open(banyan_cache *c, void *on_stream, size_t *bytes)
{
    const banyan_plan *plan = c->plan;
    const banyan_device *device = plan->kernel->device;
    banyan_device_cache *d = c->device;
    const banyan_device_need need = banyan_device_needs(plan, plan->rank);
    const int64_t records = banyan_plan_capacity_bytes(plan, plan->rank);
    const int64_t nothing = 0;
    banyan_status status = check_free(plan, device);
    if (!status) status = banyan_device_said(device->open(&need.limits, on_stream, &d->queue));
    if (status) return status;
    d->device = device;
    d->memory = (banyan_memory){
        .row = device->memory, .own = d->queue, .is_staged = !plan->comm->transport->device};
    d->ring_slots = need.ring_slots;
    status = allocate_device(d, records, &d->records);
    if (!status)
        status = allocate_device(d, need.slots * (int64_t)sizeof *d->tables, &d->tables);
    if (!status) status = allocate_device(d, need.items_bytes, &d->items);
    if (!status) status = allocate_device(d, need.probed_bytes, &d->probed);
    if (!status) status = allocate_device(d, sizeof *d->owed, &d->owed);
    if (!status)
        status = banyan_device_said(
            banyan_memory_put(&d->memory, d->owed, &nothing, sizeof nothing));
    if (!status) status = allocate_device(d, need.maxima_bytes, &d->maxima);
    if (!status) status = allocate_device(d, need.pass_bytes, &d->pass_values);
    void *staged = NULL;
    if (!status && need.pass_bytes && d->memory.is_staged)
        status = banyan_device_said(
            banyan_memory_allocate(&d->memory, 1, 2 * (size_t)need.pass_bytes, &staged));
    d->pass_staged = staged;
    void *ring = NULL;
    if (!status)
        status = banyan_device_said(banyan_memory_allocate(
            &d->memory, 1, (size_t)need.ring_slots * sizeof *d->ring, &ring));
    d->ring = ring;
    if (status) return status;
    place_mirrors(c);
    *bytes += sizeof *d + (size_t)(need.device + need.host - need.exchanges);
    return BANYAN_OK;
}

void banyan_device_close(banyan_cache *c)
{
    banyan_device_cache *d = c->device;
    if (!d || !d->queue) return;
    /* ends messages of ranks that have gone, so that the rest ends */
    if (banyan_device_wait(c)) (void)banyan_memory_wait(&d->memory);
    banyan_memory_release(&d->memory, 0, d->records);
    banyan_memory_release(&d->memory, 0, d->tables);
    banyan_memory_release(&d->memory, 0, d->items);
    banyan_memory_release(&d->memory, 0, d->probed);
    banyan_memory_release(&d->memory, 0, d->owed);
    banyan_memory_release(&d->memory, 0, d->maxima);
    banyan_memory_release(&d->memory, 0, d->pass_values);
    banyan_memory_release(&d->memory, 1, d->pass_staged);
    banyan_memory_release(&d->memory, 1, d->ring);
    d->device->close(d->queue);
    d->queue = NULL;
}
