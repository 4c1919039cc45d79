/* SPDX-License-Identifier: Apache-2.0 */
/* Whole heads, dealt to nodes in turn: to the first rank of each that has bandwidth. */
#include "dist/dist.h"

/* The first rank of a node that can keep anything, or -1. */
static int32_t rank_of_node(const double *bandwidth, const int32_t *node, int32_t ranks,
                            int32_t wanted)
{
    for (int32_t r = 0; r < ranks; r++)
        if (node[r] == wanted && bandwidth[r] > 0) return r;
    return -1;
}

static void place(const double *weight, int32_t kv_heads, const double *bandwidth,
                  const int32_t *node, int32_t ranks, double border, banyan_placed *out)
{
    int32_t nodes = 0, next = 0;
    (void)weight, (void)border;
    for (int32_t r = 0; r < ranks; r++)
        if (node[r] >= nodes) nodes = node[r] + 1;
    for (int32_t h = 0; h < kv_heads; h++) {
        int32_t rank;
        do rank = rank_of_node(bandwidth, node, ranks, next++ % nodes);
        while (rank < 0);
        out[h].holder[0] = (banyan_holder){.rank = rank, .cut = UINT64_MAX};
        out[h].count = 1;
    }
}

const banyan_placement banyan_place_nodes = {
    .name = "nodes",
    .place = place,
};
