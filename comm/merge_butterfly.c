/* SPDX-License-Identifier: Apache-2.0 */
/* Recursive doubling among an item's holders: in round k those at distance 2^k exchange what they
 * have and both fold it, the lower ranks' part first, so both have the same bits.
 *
 *     holders:   0   1   2   3   4   5   6        7 = 4 + 3: three pairs and one alone
 *     before:    0<--1   2<--3   4<--5   |        the pairs become one
 *     round 0:   0<----->2       4<----->6        distance 1 in (01) (23) (45) (6)
 *     round 1:   0<------------->4
 *                        2<------------->6        distance 2
 *     after:     0-->1   2-->3   4-->5            the others of the pairs get the result
 *
 * With n holders there are log2 n rounds, and two more when n is no power of two (Thakur, Rabenseifner,
 * Gropp, "Optimization of Collective Communication Operations in MPICH", 2005). Holders are
 * taken node by node, so that the first rounds stay inside.
 *
 * `all`: the holders pass the result on by doubling as well: in every round each rank that has it
 * serves one that has not, h, 2h, 4h .. places further on. When every rank starts with an item of
 * its own, that is Bruck's all-gather: log2 P messages a rank, since items that take the same way
 * travel together.
 *
 * When only home wants the result, steps that do not lead there are left out: a binomial tree
 * remains, with the bits that the whole butterfly would give. */
#include "comm/comm.h"

#include <stdlib.h>

extern const banyan_merge banyan_merge_butterfly;

/* One item's ranks: its holders node by node, then, when all ranks want the result, the others. */
typedef struct flock {
    int32_t *rank; /* [ranks] */
    int32_t holders;
    int32_t pairs; /* the first `pairs` groups are two holders, the others one */
    int32_t root;  /* place of home, or of the holder that sends to it */
} flock;

/* The phases of all items begin in the same rounds. */
typedef struct phases {
    int32_t before, rounds;
} phases;

/* floor(log2 n) */
static int32_t whole_rounds(int32_t n)
{
    int32_t k = 0;
    while (n >> (k + 1)) k++;
    return k;
}

static void gather_flock(const banyan_topology *topology, const banyan_item *item, flock *out)
{
    out->holders = 0;
    for (int32_t n = 0; n < topology->nodes; n++)
        for (int32_t h = 0; h < item->holders; h++)
            if (topology->node[item->holder[h]] == n)
                out->rank[out->holders++] = item->holder[h];
    out->pairs = out->holders - (1 << whole_rounds(out->holders));
    /* The root is home, or the first on home's node, or the first of all. */
    out->root = 0;
    for (int32_t i = out->holders - 1; i >= 0; i--)
        if (topology->node[out->rank[i]] == topology->node[item->home]) out->root = i;
    for (int32_t i = 0; i < out->holders; i++)
        if (out->rank[i] == item->home) out->root = i;
}

/* The place of the member of a group that takes part in the rounds: the root in its own. */
static int32_t lead(const flock *f, int32_t group)
{
    const int32_t first = group < f->pairs ? 2 * group : group + f->pairs;
    return group < f->pairs && f->root == first + 1 ? f->root : first;
}

static int32_t other(const flock *f, int32_t group)
{
    return 4 * group + 1 - lead(f, group);
}

static int32_t root_group(const flock *f)
{
    return f->root < 2 * f->pairs ? f->root / 2 : f->root - f->pairs;
}

static void add_doubling(const flock *f, const phases *at, int32_t item, int all,
                         banyan_schedule *out)
{
    const int32_t rounds = whole_rounds(f->holders), home = root_group(f);
    for (int32_t g = 0; g < f->pairs; g++)
        banyan_schedule_add(out, 0, f->rank[other(f, g)], f->rank[lead(f, g)], item, 1);
    for (int32_t k = 0; k < rounds; k++)
        for (int32_t g = 0; g < 1 << rounds; g++) {
            /* What group g has now reaches home when they differ in later rounds' bits only. */
            const int is_wanted = all || ((g ^ home) & ((2 << k) - 1)) == 0;
            if (is_wanted)
                banyan_schedule_add(out, at->before + k, f->rank[lead(f, g ^ 1 << k)],
                                    f->rank[lead(f, g)], item, 1);
        }
    for (int32_t g = 0; g < f->pairs && all; g++)
        banyan_schedule_add(out, at->before + at->rounds, f->rank[lead(f, g)],
                            f->rank[other(f, g)], item, 0);
}

/* The ranks that hold nothing, from the last holder's neighbour on, round the circle. */
static void add_spread(const banyan_topology *topology, const banyan_item *item, flock *f,
                       int32_t round, int32_t number, banyan_schedule *out)
{
    int32_t have = f->holders, count = f->holders;
    const int32_t last = item->holder[item->holders - 1];
    for (int32_t i = 1; i <= topology->ranks; i++) {
        const int32_t rank = (last + i) % topology->ranks;
        int holds = 0;
        for (int32_t h = 0; h < item->holders; h++) holds |= item->holder[h] == rank;
        if (!holds) f->rank[count++] = rank;
    }
    for (; have < count; have *= 2, round++)
        for (int32_t i = 0; i < have && i + have < count; i++)
            banyan_schedule_add(out, round, f->rank[i], f->rank[i + have], number, 0);
}

static void butterfly_build(const banyan_topology *topology, const banyan_item *items,
                            int32_t count, int all, banyan_schedule *out)
{
    flock f = {.rank = malloc(((size_t)topology->ranks + 1) * sizeof *f.rank)};
    if (!f.rank) {
        out->failed = 1;
        return;
    }
    phases at = {0, 0};
    for (int32_t i = 0; i < count; i++) {
        const int32_t rounds = whole_rounds(items[i].holders);
        if (rounds > at.rounds) at.rounds = rounds;
        if (items[i].holders != 1 << rounds) at.before = 1;
    }
    const int32_t end = at.before + at.rounds + (all ? at.before : 0);
    for (int32_t i = 0; i < count; i++) {
        gather_flock(topology, &items[i], &f);
        add_doubling(&f, &at, i, all, out);
        if (all)
            add_spread(topology, &items[i], &f, end, i, out);
        else if (f.rank[f.root] != items[i].home)
            banyan_schedule_add(out, end, f.rank[f.root], items[i].home, i, 0);
    }
    free(f.rank);
}

const banyan_merge banyan_merge_butterfly = {
    .name = "butterfly",
    .doc = "recursive doubling among the holders: log2 rounds, the result on all of them",
    .build = butterfly_build,
};
