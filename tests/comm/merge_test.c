/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of a merge, for every row of comm/merges.def: whatever the machine, the holders
 * and the home, every holder's part reaches home (all: every rank) exactly once and nothing
 * else moves. Small machines exhaustively, large ones at random. Then what the rows promise
 * beyond that, counted by hand. */
#include "comm/comm.h"
#include "tests/test.h"

static int check_build(const banyan_merge *merge, const banyan_topology *topology,
                       const banyan_item *items, int32_t count, int all)
{
    banyan_schedule s = {0};
    merge->build(topology, items, count, all, &s);
    banyan_schedule_sort(&s);
    const banyan_status status = banyan_schedule_replay(&s, topology, items, count, all);
    char text[256];
    banyan_topology_print(topology, text, sizeof text);
    CHECK_MSG(status == BANYAN_OK, "%s on %s, %d items, all %d: %s", merge->name, text,
              (int)count, all, banyan_error_message());
    banyan_schedule_free(&s);
    return status == BANYAN_OK;
}

static int32_t holders_of(unsigned mask, int32_t *holder)
{
    int32_t count = 0;
    for (int32_t r = 0; mask >> r; r++)
        if (mask >> r & 1) holder[count++] = r;
    return count;
}

/* Every set of holders and every home on one machine. */
static int check_machine(const banyan_merge *merge, const int32_t *node, int32_t ranks)
{
    banyan_topology topology;
    if (banyan_topology_make(node, ranks, &topology)) return 0;
    int ok = 1;
    for (unsigned mask = 1; mask < 1u << ranks && ok; mask++) {
        int32_t holder[16];
        banyan_item item = {holder, holders_of(mask, holder), 0};
        for (item.home = 0; item.home < ranks && ok; item.home++)
            for (int all = 0; all < 2 && ok; all++)
                ok = check_build(merge, &topology, &item, 1, all);
    }
    banyan_topology_free(&topology);
    return ok;
}

/* Every way to put `ranks` ranks on nodes: restricted growth strings, node[r] <= 1 + max
 * before. */
static int check_partitions(const banyan_merge *merge, int32_t *node, int32_t placed,
                            int32_t nodes, int32_t ranks)
{
    if (placed == ranks) return check_machine(merge, node, ranks);
    int ok = 1;
    for (int32_t n = 0; n <= nodes && ok; n++) {
        node[placed] = n;
        ok = check_partitions(merge, node, placed + 1, n == nodes ? nodes + 1 : nodes, ranks);
    }
    return ok;
}

static void test_small(const banyan_merge *merge)
{
    int32_t node[16];
    for (int32_t ranks = 1; ranks <= 6; ranks++)
        if (!check_partitions(merge, node, 0, 0, ranks)) return;
    for (int32_t ranks = 7; ranks <= 9; ranks++)
        for (int32_t size = 1; size <= ranks; size++) {
            for (int32_t r = 0; r < ranks; r++) node[r] = r / size; /* runs */
            if (!check_machine(merge, node, ranks)) return;
            for (int32_t r = 0; r < ranks; r++) node[r] = r % size; /* dealt */
            if (!check_machine(merge, node, ranks)) return;
        }
}

/* items with random holders; memory for 64 x 200 in holder */
static void random_items(uint64_t *seed, int32_t ranks, banyan_item *items, int32_t count,
                         int32_t *holder)
{
    for (int32_t i = 0; i < count; i++, holder += ranks) {
        const int64_t one_in = 1 + test_below(seed, 8);
        int32_t holders = 0;
        for (int32_t r = 0; r < ranks; r++)
            if (!test_below(seed, one_in)) holder[holders++] = r;
        if (!holders) holder[holders++] = (int32_t)test_below(seed, ranks);
        const int32_t home = test_below(seed, 4) ? holder[test_below(seed, holders)]
                                                 : (int32_t)test_below(seed, ranks);
        items[i] = (banyan_item){holder, holders, home};
    }
}

static void test_large(const banyan_merge *merge)
{
    uint64_t seed = 5;
    int32_t *holder = malloc(64 * 200 * sizeof *holder), node[200];
    banyan_item items[64];
    for (int i = 0; i < 60; i++) {
        const int32_t ranks = 1 + (int32_t)test_below(&seed, 200),
                      nodes = 1 + (int32_t)test_below(&seed, ranks),
                      count = 1 + (int32_t)test_below(&seed, 64);
        for (int32_t r = 0; r < ranks; r++)
            node[r] = i % 2 ? (int32_t)test_below(&seed, nodes)
                            : (int32_t)((int64_t)r * nodes / ranks);
        banyan_topology topology;
        CHECK(banyan_topology_make(node, ranks, &topology) == BANYAN_OK);
        random_items(&seed, ranks, items, count, holder);
        const int ok = check_build(merge, &topology, items, count, i % 3 == 0);
        banyan_topology_free(&topology);
        if (!ok) break;
    }
    free(holder);
}

/* A head with one holder, which is its home, sends nothing. */
static void test_alone(const banyan_merge *merge)
{
    banyan_topology topology;
    CHECK(banyan_topology_parse("node:3 rank:3", &topology) == BANYAN_OK);
    const int32_t five = 5;
    const banyan_item item = {&five, 1, 5};
    banyan_schedule s = {0};
    merge->build(&topology, &item, 1, 0, &s);
    CHECK_MSG(s.count == 0, "%s: %d steps for one holder", merge->name, (int)s.count);
    banyan_schedule_free(&s);
    banyan_topology_free(&topology);
}

/* ---- what each row promises -------------------------------------------------------------- */

static banyan_traffic cost_of(const char *merge, const char *machine, const banyan_item *items,
                              int32_t count, int all, size_t bytes, int rank,
                              const banyan_link *links)
{
    banyan_traffic traffic = {0};
    banyan_topology topology;
    banyan_schedule s = {0};
    CHECK(banyan_topology_parse(machine, &topology) == BANYAN_OK);
    if (links) topology.inside = links[0], topology.between = links[1];
    CHECK(banyan_merge_find(merge) != NULL);
    banyan_merge_find(merge)->build(&topology, items, count, all, &s);
    banyan_schedule_sort(&s);
    CHECK(banyan_schedule_replay(&s, &topology, items, count, all) == BANYAN_OK);
    banyan_schedule_cost(&s, &topology, bytes, rank, &traffic);
    banyan_schedule_free(&s);
    banyan_topology_free(&topology);
    return traffic;
}

#define CHECK_EQUAL(a, b) CHECK_MSG((a) == (b), "%g, expected %g", (double)(a), (double)(b))

static const int32_t first_ranks[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

/* Seconds are exact: alpha inside 1, between 10; a byte 1/8 and 2: sums of powers of two. */
static const banyan_link unit_links[2] = {{1, 0.125}, {10, 2}};
/* A message of one item of 8 bytes, with its header, inside a node and between two. */
enum { head = BANYAN_HEADER_BYTES, near = 1 + (head + 8) / 8, far = 10 + (head + 8) * 2 };

static void test_direct_cost(void)
{
    const banyan_item item = {first_ranks, 8, 0};
    banyan_traffic t = cost_of("direct", "node:2 rank:4", &item, 1, 0, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 7);
    CHECK_EQUAL(t.bytes, 7 * (head + 8));
    CHECK_EQUAL(t.between_messages, 4);
    CHECK_EQUAL(t.between_bytes, 4 * (head + 8));
    CHECK_EQUAL(t.max_messages, 1);
    CHECK_EQUAL(t.max_bytes, head + 8);
    CHECK_EQUAL(t.seconds, 3 * near + 4 * far); /* home receives all */

    t = cost_of("direct", "node:2 rank:4", &item, 1, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 14);
    CHECK_EQUAL(t.max_messages, 7);
    CHECK_EQUAL(t.seconds, 2 * (3 * near + 4 * far));

    t = cost_of("direct", "node:2 rank:4", &item, 1, 1, 8, 0, unit_links);
    CHECK_EQUAL(t.messages, 7);
    CHECK_EQUAL(t.between_messages, 4);
    t = cost_of("direct", "node:2 rank:4", &item, 1, 1, 8, 5, unit_links);
    CHECK_EQUAL(t.messages, 1);
    CHECK_EQUAL(t.between_bytes, head + 8);
}

static void test_tree_cost(void)
{
    /* 12 ranks on 3 nodes: inside 3 x 3 messages in 2 rounds, then one from each other node. */
    const banyan_item item = {first_ranks, 12, 5};
    banyan_traffic t = cost_of("tree", "node:3 rank:4", &item, 1, 0, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 11);
    CHECK_EQUAL(t.between_messages, 2);
    CHECK_EQUAL(t.bytes, 11 * (head + 8));
    CHECK_EQUAL(t.max_messages, 1);
    CHECK_EQUAL(t.seconds, 2 * near + 2 * far);
    t = cost_of("tree", "node:3 rank:4", &item, 1, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 22);
    CHECK_EQUAL(t.between_messages, 4);
    CHECK_EQUAL(t.seconds, 2 * (2 * near + 2 * far));

    /* Ranks that skip rounds wait for nobody: 4 and 8 exchange in the third, 0 .. 3 in the
     * first two. */
    const banyan_item apart[] = {{first_ranks, 4, 0}, {(const int32_t[]){4, 8}, 2, 4}};
    t = cost_of("tree", "node:3 rank:4", apart, 2, 0, 8, -1, unit_links);
    CHECK_EQUAL(t.rounds, 3);
    CHECK_EQUAL(t.seconds, far);

    /* nodes - 1 messages in each direction, on any number of nodes with any number of ranks */
    for (int nodes = 1; nodes <= 5; nodes++)
        for (int ranks = 1; ranks <= 2; ranks++) {
            char machine[64];
            snprintf(machine, sizeof machine, "node:%d rank:%d", nodes, ranks);
            const banyan_item all_hold = {first_ranks, nodes * ranks, nodes * ranks / 2};
            t = cost_of("tree", machine, &all_hold, 1, 0, 8, -1, NULL);
            CHECK_EQUAL(t.between_messages, nodes - 1);
            CHECK_EQUAL(t.messages, nodes * ranks - 1);
            t = cost_of("tree", machine, &all_hold, 1, 1, 8, -1, NULL);
            CHECK_EQUAL(t.between_messages, 2 * (nodes - 1));
        }
}

static void test_butterfly_cost(void)
{
    const banyan_item item = {first_ranks, 8, 3};
    banyan_traffic t = cost_of("butterfly", "node:2 rank:4", &item, 1, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 8 * 3);
    CHECK_EQUAL(t.max_messages, 3);
    CHECK_EQUAL(t.between_messages, 8);
    CHECK_EQUAL(t.seconds, 2 * near + far);
    t = cost_of("butterfly", "node:2 rank:4", &item, 1, 0, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 7); /* a tree remains */
    CHECK_EQUAL(t.seconds, 2 * near + far);

    /* ranks dealt over nodes: still inside first */
    const int32_t node[] = {0, 1, 0, 1, 0, 1, 0, 1};
    banyan_topology topology;
    banyan_schedule s = {0};
    CHECK(banyan_topology_make(node, 8, &topology) == BANYAN_OK);
    banyan_merge_find("butterfly")->build(&topology, &item, 1, 1, &s);
    for (int32_t i = 0; i < s.count; i++)
        CHECK(s.step[i].round == 2 || node[s.step[i].src] == node[s.step[i].dst]);
    banyan_schedule_free(&s);
    banyan_topology_free(&topology);

    /* n = 2^k + pairs holders: the pairs become one, k rounds of all groups, the pairs part */
    for (int n = 1; n <= 12; n++) {
        const banyan_item some = {first_ranks, n, n / 2};
        int k = 0;
        while (2 << k <= n) k++;
        const int pairs = n - (1 << k);
        char machine[64];
        snprintf(machine, sizeof machine, "rank:%d", n);
        t = cost_of("butterfly", machine, &some, 1, 1, 8, -1, unit_links);
        CHECK_EQUAL(t.messages, k * (1 << k) + 2 * pairs);
        CHECK_EQUAL(t.seconds, near * (k + 2 * (pairs > 0)));
        t = cost_of("butterfly", machine, &some, 1, 0, 8, -1, unit_links);
        CHECK_EQUAL(t.messages, n - 1);
        CHECK_EQUAL(t.seconds, near * (k + (pairs > 0)));
    }

    /* 2 of 9 have it, 2 and 3: groups (0 1) 2 3 4 .. 8. To 0 and 4; 0 2 meet 3 4; to 5 .. 8; to
     * 1. */
    const banyan_item pair = {first_ranks + 2, 2, 2};
    t = cost_of("butterfly", "rank:9", &pair, 1, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 2 + 4 + 4 + 1);
    CHECK_EQUAL(t.seconds, near * (1 + 3));
    CHECK_EQUAL(t.max_messages, 3);

    /* a line: however many holders an item has, log2 rounds for all of them together */
    const banyan_item line[] = {
        {first_ranks, 5, 0}, {first_ranks + 4, 3, 5}, {first_ranks + 6, 2, 7}};
    t = cost_of("butterfly", "node:2 rank:4", line, 3, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.rounds, 3);
    CHECK_EQUAL(t.max_messages, 3);

    /* the second of a pair has the only part: it goes to the first, and does not come back */
    const banyan_item sole = {first_ranks + 1, 1, 1};
    t = cost_of("butterfly", "rank:3", &sole, 1, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 2);

    /* everyone has an item of its own: log2 rounds, one message a rank in each */
    banyan_item own[8];
    for (int i = 0; i < 8; i++) own[i] = (banyan_item){first_ranks + i, 1, i};
    t = cost_of("butterfly", "rank:8", own, 8, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 8 * 3);
    CHECK_EQUAL(t.max_bytes, 3 * head + 7 * 8);
    CHECK_EQUAL(t.seconds, 3 * near + 1 + 3); /* 1, 2 and 4 items */
}

static void test_gather_cost(void)
{
    const banyan_item item = {first_ranks + 1, 3, 2};
    banyan_traffic t = cost_of("gather", "node:2 rank:4", &item, 1, 1, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 3 * 7);
    CHECK_EQUAL(t.max_messages, 7);
    CHECK_EQUAL(t.between_messages, 3 * 4);
    CHECK_EQUAL(t.seconds, 3 * near + 4 * far);
    t = cost_of("gather", "node:2 rank:4", &item, 1, 0, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 2);
    CHECK_EQUAL(t.seconds, 2 * near);
}

/* Items that take the same way travel together, whatever phase a shorter one could be in. */
static void test_packing(void)
{
    const banyan_item items[] = {
        {first_ranks, 8, 0}, {first_ranks + 3, 5, 0}, {first_ranks, 5, 0}};
    banyan_traffic t = cost_of("tree", "node:2 rank:4", items, 3, 0, 8, -1, unit_links);
    CHECK_EQUAL(t.between_messages, 1);
    CHECK_EQUAL(t.between_bytes, head + 24);
    t = cost_of("direct", "node:2 rank:4", items, 3, 0, 8, -1, unit_links);
    CHECK_EQUAL(t.messages, 7);
    CHECK_EQUAL(t.bytes, 7 * head + (7 + 5 + 4) * 8);
}

int main(void)
{
    int rows = 0;
    for (; banyan_merge_row(rows); rows++) {
        const banyan_merge *merge = banyan_merge_row(rows);
        CHECK(banyan_merge_find(merge->name) == merge);
        CHECK(!merge->build == (merge->reduce && merge->reduce_cost));
        if (!merge->build) continue;
        test_small(merge);
        test_large(merge);
        test_alone(merge);
    }
    CHECK(rows >= 4);
    CHECK(!banyan_merge_find("trees") && !banyan_merge_find(NULL) && !banyan_merge_row(-1));
    test_direct_cost();
    test_tree_cost();
    test_butterfly_cost();
    test_gather_cost();
    test_packing();
    return test_end();
}
