/* SPDX-License-Identifier: Apache-2.0 */
/* Whole heads only: nobody ever merges, and balance is what it can be. Heaviest head first,
 * each to the rank that would be done with it soonest (Graham's LPT rule, at most 4/3 of the
 * best); the lowest head and the lowest rank on ties. */
#include "dist/dist.h"

/* The heaviest head that has no holder yet. */
static int32_t heaviest(const double *weight, int32_t heads, const banyan_placed *out)
{
    int32_t best = -1;
    for (int32_t h = 0; h < heads; h++)
        if (!out[h].count && (best < 0 || weight[h] > weight[best])) best = h;
    return best;
}

/* What a rank has so far: the weights of the heads given to it. */
static uint64_t load_of(const double *weight, int32_t heads, const banyan_placed *out,
                        int32_t rank)
{
    uint64_t load = 0;
    for (int32_t h = 0; h < heads; h++)
        if (out[h].count && out[h].holder[0].rank == rank) load += (uint64_t)weight[h];
    return load;
}

static void heads_place(const double *weight, int32_t kv_heads, const double *bandwidth,
                        const int32_t *node, int32_t ranks, double border, banyan_placed *out)
{
    (void)node;
    (void)border;
    for (int32_t h = 0; h < kv_heads; h++) out[h].count = 0;
    for (int32_t placed = 0; placed < kv_heads; placed++) {
        const int32_t head = heaviest(weight, kv_heads, out);
        int32_t best = -1;
        uint128 best_load = 0, best_speed = 1;
        for (int32_t r = 0; r < ranks; r++) {
            const uint64_t speed = (uint64_t)(bandwidth[r] * 16);
            if (!speed) continue;
            const uint128 load =
                (uint128)load_of(weight, kv_heads, out, r) + (uint64_t)weight[head];
            if (best < 0 || load * best_speed < best_load * speed)
                best = r, best_load = load, best_speed = speed;
        }
        out[head].holder[0] = (banyan_holder){.rank = best, .cut = UINT64_MAX};
        out[head].count = 1;
    }
}

const banyan_placement banyan_place_heads = {
    .name = "heads",
    .place = heads_place,
};
