/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of more tokens than a device's kernels know (slot_tokens): each is several slots,
 * whose records lie one behind the other in its own. Lists that were made of blocks become
 * lists of slots. */
#include "dist/device_cache.h"
#include "dist/plan.h"

int32_t banyan_device_slots(const banyan_plan *plan)
{
    const int32_t block = plan->spec.block_tokens, slot = plan->kernel->device->slot_tokens;
    return slot && slot < block ? block / slot : 1;
}

int64_t banyan_device_pieces(const banyan_plan *plan, int64_t rows)
{
    const int64_t tokens = plan->spec.block_tokens / banyan_device_slots(plan);
    return rows < 2 ? rows : banyan_blocks(rows - 1, tokens) + 1;
}

static int is_run(const banyan_span *span)
{
    return span->step == 1 || span->count == 1;
}

/* A span of places a step apart becomes one for each slot of a block. From the last one
 * backwards, since they go where the blocks' spans are. */
int banyan_device_spread(const banyan_plan *plan, const banyan_kept *kept, int64_t last_row,
                         banyan_span_list *list)
{
    const int32_t slots = banyan_device_slots(plan);
    const int64_t tokens = plan->spec.block_tokens, own = last_row / tokens;
    const int32_t begun = (int32_t)(last_row % tokens / (tokens / slots)) + 1;
    int64_t count = 0;
    if (slots == 1) return 1;
    for (int64_t i = 0; i < list->count; i++) count += is_run(&list->span[i]) ? 1 : slots;
    if (count > list->capacity) return 0;
    banyan_span *to = list->span + count;
    list->blocks = 0;
    for (int64_t i = list->count - 1; i >= 0; i--) {
        const banyan_span s = list->span[i];
        const int64_t last = s.first + (int64_t)(s.count - 1) * s.step;
        /* of the own block, what no row sees may never have been written */
        const int32_t seen = banyan_kept_at(kept, last).block == own ? begun : slots;
        if (is_run(&s))
            *--to =
                (banyan_span){s.first * slots, s.count * slots - (slots - seen), 1, s.masked};
        for (int32_t slot = slots - 1; slot >= 0 && !is_run(&s); slot--)
            *--to = (banyan_span){s.first * slots + slot, s.count - (slot >= seen),
                                  s.step * slots, s.masked};
    }
    for (int64_t i = 0; i < count; i++) list->blocks += list->span[i].count;
    list->count = count;
    return 1;
}
