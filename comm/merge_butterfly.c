/* SPDX-License-Identifier: Apache-2.0 */
/* Recursive doubling: in round k those at distance 2^k exchange what they have and both fold
 * it, the lower ranks' part first, so both have the same bits.
 *
 *     ranks:     0   1   2   3   4   5   6        7 = 4 + 3: three pairs and one alone
 *     before:    0<--1   2<--3   4<--5   |        the pairs become one
 *     round 0:   0<----->2       4<----->6        distance 1 in (01) (23) (45) (6)
 *     round 1:   0<------------->4
 *                        2<------------->6        distance 2
 *     after:     0-->1   2-->3   4-->5            the others of the pairs get the result
 *
 * With P ranks there are log2 P rounds, and two more when P is no power of two (Thakur,
 * Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", 2005).
 * Ranks are taken node by node, so that the first rounds stay inside.
 *
 * A step is left out while its sender has nothing of the item. So each item takes the rounds of
 * one all-reduce at most, wherever its holders are, where a tree needs as many to gather and
 * again to spread; and all items take the same way, so that a rank sends log2 P messages in
 * all. An item with one holder is spread by doubling; one of each rank makes an all-gather.
 *
 * When only home wants the result, one of the two sides sends, from one holder to one holder: a
 * binomial tree, with the bits that the whole butterfly gives. The side that receives is that
 * which home would be on, by its number's bit of the round, so that items of different homes
 * take different ways, two ranks exchanging in a round as in the butterfly. */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

extern const banyan_merge banyan_merge_butterfly;

/* All ranks node by node, and one item on them. The first `pairs` groups are two ranks, the
 * others one; there are 2^rounds. */
typedef struct flock {
    int32_t *rank;      /* [ranks]: the rank at a place */
    int32_t *place;     /* [ranks]: and its reverse */
    int32_t *speaker;   /* [groups]: of a run of groups that begins here, who has their part */
    unsigned char *has; /* [ranks]: does the one at a place have anything? */
    int32_t pairs, rounds;
} flock;

enum { nobody = -1 };

/* floor(log2 n) */
static int32_t whole_rounds(int32_t n)
{
    int32_t k = 0;
    while (n >> (k + 1)) k++;
    return k;
}

static int32_t rounds_before(const flock *f)
{
    return f->pairs > 0;
}

static int32_t first_place(const flock *f, int32_t group)
{
    return group < f->pairs ? 2 * group : group + f->pairs;
}

static int32_t group_of(const flock *f, int32_t place)
{
    return place < 2 * f->pairs ? place / 2 : place - f->pairs;
}

/* What is at place `from` also goes to place `to`, if it is anything. */
static void add_step(const flock *f, int32_t round, int32_t from, int32_t to, int32_t item,
                     banyan_schedule *out)
{
    if (f->has[from])
        banyan_schedule_add(out, round, f->rank[from], f->rank[to], item, f->has[to]);
}

static void add_for_all(flock *f, int32_t item, int32_t holders, banyan_schedule *out)
{
    for (int32_t g = 0; g < f->pairs; g++) {
        add_step(f, 0, 2 * g + 1, 2 * g, item, out);
        f->has[2 * g] |= f->has[2 * g + 1];
    }
    for (int32_t k = 0; k < f->rounds; k++)
        for (int32_t g = 0; g < 1 << f->rounds; g++) {
            if (g >> k & 1) continue;
            const int32_t low = first_place(f, g), high = first_place(f, g | 1 << k);
            add_step(f, rounds_before(f) + k, high, low, item, out);
            add_step(f, rounds_before(f) + k, low, high, item, out);
            f->has[low] = f->has[high] = f->has[low] | f->has[high];
        }
    for (int32_t g = 0; g < f->pairs; g++) {
        const int is_its_own = holders == 1 && f->has[2 * g + 1];
        f->has[2 * g + 1] = 0; /* replaced */
        if (!is_its_own) add_step(f, rounds_before(f) + f->rounds, 2 * g, 2 * g + 1, item, out);
    }
}

/* Two neighbouring parts become one, at the speaker of one of them. */
static int32_t join_neighbours(const flock *f, int32_t round, int32_t low, int32_t high,
                               int at_high, int32_t item, banyan_schedule *out)
{
    if (low == nobody || high == nobody) return low == nobody ? high : low;
    const int32_t from = at_high ? low : high, to = at_high ? high : low;
    banyan_schedule_add(out, round, f->rank[from], f->rank[to], item, 1);
    return to;
}

static void add_for_home(flock *f, int32_t item, int32_t home, banyan_schedule *out)
{
    const int32_t place = f->place[home], home_group = group_of(f, place);
    for (int32_t g = 0; g < 1 << f->rounds; g++) {
        const int32_t first = first_place(f, g), low = f->has[first] ? first : nobody;
        const int32_t high = g < f->pairs && f->has[first + 1] ? first + 1 : nobody;
        f->speaker[g] = join_neighbours(f, 0, low, high, place == first + 1, item, out);
    }
    for (int32_t k = 0; k < f->rounds; k++)
        for (int32_t g = 0; g < 1 << f->rounds; g += 2 << k)
            f->speaker[g] =
                join_neighbours(f, rounds_before(f) + k, f->speaker[g],
                                f->speaker[g + (1 << k)], home_group >> k & 1, item, out);
    if (f->speaker[0] != place)
        banyan_schedule_add(out, rounds_before(f) + f->rounds, f->rank[f->speaker[0]], home,
                            item, 0);
}

static void butterfly_build(const banyan_topology *topology, const banyan_item *items,
                            int32_t count, int all, banyan_schedule *out)
{
    const int32_t ranks = topology->ranks, rounds = whole_rounds(ranks);
    int32_t *memory = malloc((size_t)ranks * (3 * sizeof *memory + 1));
    if (!memory) {
        out->failed = 1;
        return;
    }
    flock f = {.rank = memory,
               .place = memory + ranks,
               .speaker = memory + 2 * (size_t)ranks,
               .has = (unsigned char *)(memory + 3 * (size_t)ranks),
               .pairs = ranks - (1 << rounds),
               .rounds = rounds};
    for (int32_t n = 0, p = 0; n < topology->nodes; n++)
        for (int32_t r = 0; r < ranks; r++)
            if (topology->node[r] == n) {
                f.place[r] = p;
                f.rank[p++] = r;
            }
    for (int32_t i = 0; i < count; i++) {
        memset(f.has, 0, (size_t)ranks);
        for (int32_t h = 0; h < items[i].holders; h++) f.has[f.place[items[i].holder[h]]] = 1;
        if (all)
            add_for_all(&f, i, items[i].holders, out);
        else
            add_for_home(&f, i, items[i].home, out);
    }
    free(memory);
}

const banyan_merge banyan_merge_butterfly = {
    .name = "butterfly",
    .build = butterfly_build,
};
