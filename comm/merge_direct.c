/* SPDX-License-Identifier: Apache-2.0 */
/* Every holder sends straight to the home, in one round; the home folds in ascending rank
 * order.
 *
 *     1 ---.
 *     2 ----> 0        all:  0 ----> 1, 2, 3 in a second round
 *     3 ---'
 *
 * One latency, but home receives holders - 1 messages: best for few holders and short items. */
#include "comm/comm.h"

extern const banyan_merge banyan_merge_direct;

static void direct_build(const banyan_topology *topology, const banyan_item *items,
                         int32_t count, int all, banyan_schedule *out)
{
    for (int32_t i = 0; i < count; i++) {
        const banyan_item *item = &items[i];
        int home_holds = 0;
        for (int32_t h = 0; h < item->holders; h++) home_holds |= item->holder[h] == item->home;
        for (int32_t h = 0; h < item->holders; h++)
            if (item->holder[h] != item->home)
                banyan_schedule_add(out, 0, item->holder[h], item->home, i, home_holds);
        for (int32_t rank = 0; rank < topology->ranks && all; rank++)
            if (rank != item->home) banyan_schedule_add(out, 1, item->home, rank, i, 0);
    }
}

const banyan_merge banyan_merge_direct = {
    .name = "direct",
    .build = direct_build,
};
