/* SPDX-License-Identifier: Apache-2.0 */
/* Binomial trees, inside nodes first: the slow links between nodes carry one message per pair
 * of nodes that share an item, whatever the number of its holders.
 *
 *     node 0: 0 1 2 3            node 1: 4 5 6 7            node 2: 8 9
 *     round 0:  1->0 3->2          5->4 7->6                  9->8        inside
 *     round 1:  2->0               6->4
 *     round 2:  4->0                                                      between
 *     round 3:  8->0
 *
 * On home's node the root is home; on other nodes it is the lowest holder. A tree over n
 * members, counted from its root, has ceil(log2 n) rounds: in round k the member at place p, of
 * which bit k is the lowest that is set, sends to place p - 2^k. `all` spreads the result by
 * the same trees turned round, over all ranks of the topology: in round k place p < 2^k sends
 * to place p + 2^k.
 *
 * Each phase begins in the same round for all items, so that items which take the same way
 * share its messages. */
#include "comm/comm.h"

#include <stdlib.h>

extern const banyan_merge banyan_merge_tree;

/* An item's members (its holders and its home) node by node, home's node first. */
typedef struct members {
    int32_t *rank;  /* [ranks], grouped by node, ascending in each */
    int32_t *first; /* [nodes + 1]: group g is rank[first[g]] .. rank[first[g + 1] - 1] */
    int32_t *root;  /* [nodes]: the root of group g */
    int32_t *group; /* [nodes]: scratch, the group of a node */
    int32_t groups;
} members;

/* The rounds that each phase has, the longest item's. */
typedef struct phases {
    int32_t inside, between;
} phases;

static int32_t tree_rounds(int32_t members)
{
    int32_t rounds = 0;
    while ((INT64_C(1) << rounds) < members) rounds++;
    return rounds;
}

/* member[(root + p) % count] is the member at place p. */
static void add_tree(banyan_schedule *out, int32_t round, const int32_t *member, int32_t count,
                     int32_t root, int32_t item)
{
    for (int32_t k = 0; k < tree_rounds(count); k++)
        for (int32_t p = 1 << k; p < count; p += 2 << k)
            banyan_schedule_add(out, round + k, member[(root + p) % count],
                                member[(root + p - (1 << k)) % count], item, 1);
}

static void spread(banyan_schedule *out, int32_t round, const int32_t *member, int32_t count,
                   int32_t root, int32_t item)
{
    for (int32_t k = 0; k < tree_rounds(count); k++)
        for (int32_t p = 0; p < 1 << k && p + (1 << k) < count; p++)
            banyan_schedule_add(out, round + k, member[(root + p) % count],
                                member[(root + p + (1 << k)) % count], item, 0);
}

/* Groups ranks [count], ascending, and home, by node. Groups are numbered in the order of
 * nodes, beginning with home's and going round. */
static void group_members(const banyan_topology *topology, const int32_t *rank, int32_t count,
                          int32_t home, members *out)
{
    const int32_t nodes = topology->nodes, home_node = topology->node[home];
    for (int32_t n = 0; n < nodes; n++) out->group[n] = 0;
    int home_counts = 1;
    for (int32_t i = 0; i < count; i++) {
        out->group[topology->node[rank[i]]]++;
        home_counts &= rank[i] != home;
    }
    out->group[home_node] += home_counts;
    out->groups = 0;
    out->first[0] = 0;
    for (int32_t i = 0; i < nodes; i++) {
        const int32_t n = (home_node + i) % nodes, size = out->group[n];
        out->group[n] = out->groups;
        if (!size) continue;
        out->first[out->groups + 1] = out->first[out->groups] + size;
        out->groups++;
    }
    /* first[g] runs through its group while that is filled, and ends where the next begins. */
    for (int32_t i = 0, home_due = home_counts; i < count || home_due;) {
        const int is_home = home_due && (i == count || home < rank[i]);
        const int32_t next = is_home ? home : rank[i];
        if (is_home)
            home_due = 0;
        else
            i++;
        out->rank[out->first[out->group[topology->node[next]]]++] = next;
    }
    for (int32_t g = out->groups; g > 0; g--) out->first[g] = out->first[g - 1];
    out->first[0] = 0;
    for (int32_t g = 0; g < out->groups; g++) out->root[g] = out->rank[out->first[g]];
    out->root[0] = home;
}

/* The place of home in its own group; every other group's root is its first member. */
static int32_t root_index(const members *m, int32_t group)
{
    int32_t i = 0;
    while (m->rank[m->first[group] + i] != m->root[group]) i++;
    return i;
}

static phases count_rounds(const members *m)
{
    phases rounds = {0, tree_rounds(m->groups)};
    for (int32_t g = 0; g < m->groups; g++) {
        const int32_t inside = tree_rounds(m->first[g + 1] - m->first[g]);
        if (inside > rounds.inside) rounds.inside = inside;
    }
    return rounds;
}

/* A home that holds nothing has nothing to fold its first arrival into. */
static void replace_first(banyan_schedule *out, int32_t begin, const banyan_item *item)
{
    for (int32_t h = 0; h < item->holders; h++)
        if (item->holder[h] == item->home) return;
    int32_t first = -1;
    for (int32_t i = begin; i < out->count; i++)
        if (out->step[i].dst == item->home &&
            (first < 0 || out->step[i].round < out->step[first].round))
            first = i;
    if (first >= 0) out->step[first].combine = 0;
}

static void build_items(const banyan_topology *topology, const banyan_item *items,
                        int32_t count, const int32_t *everyone, int all, members *m,
                        banyan_schedule *out)
{
    phases up = {0, 0};
    for (int32_t i = 0; i < count; i++) {
        group_members(topology, items[i].holder, items[i].holders, items[i].home, m);
        const phases one = count_rounds(m);
        if (one.inside > up.inside) up.inside = one.inside;
        if (one.between > up.between) up.between = one.between;
    }
    const int32_t turn = up.inside + up.between;
    for (int32_t i = 0; i < count; i++) {
        const int32_t begin = out->count;
        group_members(topology, items[i].holder, items[i].holders, items[i].home, m);
        for (int32_t g = 0; g < m->groups; g++)
            add_tree(out, 0, m->rank + m->first[g], m->first[g + 1] - m->first[g],
                     root_index(m, g), i);
        add_tree(out, up.inside, m->root, m->groups, 0, i);
        replace_first(out, begin, &items[i]);
        if (!all) continue;
        group_members(topology, everyone, topology->ranks, items[i].home, m);
        spread(out, turn, m->root, m->groups, 0, i);
        for (int32_t g = 0; g < m->groups; g++)
            spread(out, turn + tree_rounds(m->groups), m->rank + m->first[g],
                   m->first[g + 1] - m->first[g], root_index(m, g), i);
    }
}

static void tree_build(const banyan_topology *topology, const banyan_item *items, int32_t count,
                       int all, banyan_schedule *out)
{
    const size_t ranks = (size_t)topology->ranks, nodes = (size_t)topology->nodes;
    int32_t *memory = malloc((2 * ranks + 3 * nodes + 1) * sizeof *memory);
    if (!memory) {
        out->failed = 1;
        return;
    }
    int32_t *everyone = memory;
    for (int32_t r = 0; r < topology->ranks; r++) everyone[r] = r;
    members m = {.rank = memory + ranks,
                 .root = memory + 2 * ranks,
                 .group = memory + 2 * ranks + nodes,
                 .first = memory + 2 * ranks + 2 * nodes};
    build_items(topology, items, count, everyone, all, &m, out);
    free(memory);
}

const banyan_merge banyan_merge_tree = {
    .name = "tree",
    .build = tree_build,
};
