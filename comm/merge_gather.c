/* SPDX-License-Identifier: Apache-2.0 */
/* Everybody who wants the result gets every part, and folds them all in ascending rank order.
 *
 *     holders 0 1 2, all ranks want it:     0 <--> 1 <--> 2 <--> 0      and  0, 1, 2 --> 3
 *
 * One round whatever is wanted, and the same sum in the same order everywhere, for (holders -
 * 1) times the bytes on every rank: best for short items and few holders. When only home wants
 *   the
 * result, this is `direct`, bit for bit. */
#include "comm/comm.h"

extern const banyan_merge banyan_merge_gather;

static int is_holder(const banyan_item *item, int32_t rank)
{
    for (int32_t h = 0; h < item->holders; h++)
        if (item->holder[h] == rank) return 1;
    return 0;
}

static void gather_build(const banyan_topology *topology, const banyan_item *items,
                         int32_t count, int all, banyan_schedule *out)
{
    for (int32_t i = 0; i < count; i++)
        for (int32_t rank = 0; rank < topology->ranks; rank++) {
            if (!all && rank != items[i].home) continue;
            const int holds = is_holder(&items[i], rank);
            for (int32_t h = 0; h < items[i].holders; h++)
                if (items[i].holder[h] != rank)
                    banyan_schedule_add(out, 0, items[i].holder[h], rank, i, holds);
        }
}

const banyan_merge banyan_merge_gather = {
    .name = "gather",
    .build = gather_build,
};
