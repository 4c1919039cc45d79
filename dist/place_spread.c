/* SPDX-License-Identifier: Apache-2.0 */
/* Every head over all ranks: classic tree attention. Balanced by construction; every head
 * merges over every rank. */
#include "dist/dist.h"

static void spread_place(const double *weight, int32_t kv_heads, const double *bandwidth,
                         const int32_t *node, int32_t ranks, double border, banyan_placed *out)
{
    (void)node;
    (void)weight;
    (void)border;
    uint64_t total = 0;
    int32_t last = 0;
    for (int32_t r = 0; r < ranks; r++) {
        total += (uint64_t)(bandwidth[r] * 16);
        if (bandwidth[r] > 0) last = r;
    }
    for (int32_t h = 0; h < kv_heads; h++) {
        uint64_t sum = 0;
        out[h].count = 0;
        for (int32_t r = 0; r <= last; r++) {
            const uint64_t b = (uint64_t)(bandwidth[r] * 16);
            if (!b) continue;
            sum += b;
            banyan_holder *holder = &out[h].holder[out[h].count++];
            holder->rank = r;
            holder->cut = r == last ? UINT64_MAX : (uint64_t)(((uint128)sum << 64) / total);
        }
    }
}

const banyan_placement banyan_place_spread = {
    .name = "spread",
    .place = spread_place,
};
