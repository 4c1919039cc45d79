/* SPDX-License-Identifier: Apache-2.0 */
/* From holder to holder, ascending, and from the last to the home; with `all`, from there to
 * everybody. Rounds of a holder each: the longest way there is. */
#include "comm/comm.h"

extern const banyan_merge banyan_merge_chain;

static void build(const banyan_topology *topology, const banyan_item *items, int32_t count,
                  int all, banyan_schedule *out)
{
    int32_t rounds = 0;
    for (int32_t i = 0; i < count; i++)
        if (items[i].holders > rounds) rounds = items[i].holders;
    for (int32_t i = 0; i < count; i++) {
        const banyan_item *item = &items[i];
        int32_t from = -1, round = 0;
        int home_holds = 0;
        for (int32_t h = 0; h < item->holders; h++) { /* the home's own comes in at the end */
            if (item->holder[h] == item->home) {
                home_holds = 1;
                continue;
            }
            if (from >= 0) banyan_schedule_add(out, round++, from, item->holder[h], i, 1);
            from = item->holder[h];
        }
        if (from >= 0) banyan_schedule_add(out, round, from, item->home, i, home_holds);
        for (int32_t rank = 0; rank < topology->ranks && all; rank++)
            if (rank != item->home) banyan_schedule_add(out, rounds, item->home, rank, i, 0);
    }
}

const banyan_merge banyan_merge_chain = {
    .name = "chain",
    .build = build,
};
