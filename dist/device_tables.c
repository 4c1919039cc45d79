/* SPDX-License-Identifier: Apache-2.0 */
/* A device's tables follow the blocks that are held.
 *
 * Few places of a table change in a call, and only those are copied: from the ring, where they
 * stay until the device has them. When the ring is full, the device has: it is waited for, once
 * in thousands of calls. A graph copies again when it is replayed, and by then the ring has
 * other things in it: calls that change a table are not captured. */
#include "dist/device_cache.h"

banyan_mirror *banyan_device_mirror(const banyan_cache *c, const banyan_sequence *s,
                                    int32_t layer, int32_t index)
{
    const int64_t of = s - c->sequence;
    return &c->device->mirror[of * c->plan->spec.layers + layer][index];
}

void banyan_device_note(banyan_cache *c, const banyan_sequence *s, int32_t layer, int32_t index,
                        int64_t place)
{
    banyan_mirror *mirror = banyan_device_mirror(c, s, layer, index);
    const int64_t changed = place * banyan_device_slots(c->plan);
    if (changed < mirror->changed) mirror->changed = changed;
}

/* `count` slots that nobody reads until the queue gets to their copy. */
static banyan_status take_ring(banyan_cache *c, int64_t count, banyan_slot **out)
{
    banyan_device_cache *d = c->device;
    if (d->ring_used + count > d->ring_slots) {
        const banyan_status status = banyan_device_wait(c);
        if (status) return status;
        d->ring_used = 0;
    }
    *out = d->ring + d->ring_used;
    d->ring_used += count;
    return BANYAN_OK;
}

/* slots: of a block. */
static banyan_slot slot_of(const banyan_pool *pool, const banyan_kept *kept, int32_t slots,
                           int64_t place)
{
    const banyan_held held = banyan_kept_at(kept, place / slots);
    const int32_t slot = (int32_t)(place % slots);
    const size_t offset = (size_t)((const char *)held.record - pool->records);
    return (banyan_slot){(int32_t)held.block * slots + slot,
                         (uint32_t)(offset / pool->record_bytes) * (uint32_t)slots +
                             (uint32_t)slot};
}

static int is_current(const banyan_mirror *mirror, int64_t place, banyan_slot slot)
{
    return place < mirror->count && mirror->copy[place].block == slot.block &&
           mirror->copy[place].record == slot.record;
}

/* Copies the places that are not on the device as they are held. */
static banyan_status follow(banyan_cache *c, banyan_mirror *mirror, const banyan_kept *kept,
                            const banyan_pool *pool)
{
    banyan_device_cache *d = c->device;
    const int32_t slots = banyan_device_slots(c->plan);
    const int64_t count = kept->count * slots;
    int64_t first = mirror->changed, end = count;
    while (first < end && is_current(mirror, first, slot_of(pool, kept, slots, first))) first++;
    while (first < end && is_current(mirror, end - 1, slot_of(pool, kept, slots, end - 1)))
        end--;
    mirror->changed = count;
    if (first == end) return BANYAN_OK;

    banyan_slot *ring;
    const banyan_status status = take_ring(c, end - first, &ring);
    if (status) return status;
    for (int64_t i = first; i < end; i++)
        mirror->copy[i] = ring[i - first] = slot_of(pool, kept, slots, i);
    if (end > mirror->count) mirror->count = end;
    return banyan_device_said(banyan_memory_copy(&d->memory, mirror->slot + first, ring,
                                                 (size_t)(end - first) * sizeof *ring));
}

banyan_status banyan_device_follow(banyan_cache *c, const banyan_sequence *s, int32_t layer)
{
    banyan_status status = BANYAN_OK;
    for (int32_t j = 0; j < banyan_cache_part(c, layer)->mine_count && !status; j++)
        status = follow(c, banyan_device_mirror(c, s, layer, j), &s->layer[layer].kept[j],
                        banyan_cache_pool(c, layer));
    return status;
}
