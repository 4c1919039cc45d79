/* SPDX-License-Identifier: Apache-2.0 */
/* All-reduces of floats, short and long, on any number of ranks: the right value (sums of whole
 * numbers, which are exact in any order), the same bits on all ranks (sums of fractions, which
 * are not), NaN kept; and what was sent is what the price says. Prices by hand: the
 * textbook's. */
#include "comm/reduce.h"
#include "tests/world.h"

#include <math.h>

static banyan_comm *comm;
static int rank, size;

enum { most = 70001 };
static float values[most], room[most];

static const banyan_merge *row(void)
{
    const banyan_merge *merge = banyan_merge_find("allreduce");
    CHECK(merge && merge->reduce && merge->reduce_cost && !merge->build);
    return merge;
}

static void check_sent(int64_t count, int64_t messages, int64_t bytes)
{
    banyan_traffic cost;
    row()->reduce_cost(banyan_comm_topology(comm), &count, 1, rank, &cost);
    CHECK_MSG(messages == cost.messages && bytes == cost.bytes,
              "%lld messages, %lld bytes; predicted %lld and %lld", (long long)messages,
              (long long)bytes, (long long)cost.messages, (long long)cost.bytes);
}

static void test_exact(int64_t count, banyan_op op)
{
    int64_t messages = 5, bytes = 6;
    for (int64_t i = 0; i < count; i++) values[i] = (float)((i * 7 + rank * 13) % 101);
    CHECK(banyan_reduce_floats(comm, values, count, op, room, &messages, &bytes) == BANYAN_OK);
    for (int64_t i = 0; i < count; i++) {
        float expected = 0;
        for (int r = 0; r < size; r++) {
            const float one = (float)((i * 7 + r * 13) % 101);
            expected = op == BANYAN_SUM ? expected + one : fmaxf(expected, one);
        }
        CHECK_MSG(values[i] == expected, "%s of %lld, value %lld is %g, expected %g",
                  op == BANYAN_SUM ? "sum" : "max", (long long)count, (long long)i,
                  (double)values[i], (double)expected);
    }
    check_sent(count, messages - 5, bytes - 6);
}

static void test_same_bits(int64_t count, banyan_op op)
{
    uint64_t seed = (uint64_t)rank * 77 + 1, hash = 0, all[64];
    int64_t messages = 0, bytes = 0;
    for (int64_t i = 0; i < count; i++) values[i] = (float)test_uniform(&seed) - 0.5f;
    values[0] = rank % 2 ? 0.0f : -0.0f; /* whose maximum may have either sign */
    if (rank == size / 2) values[count / 2] = NAN;
    CHECK(banyan_reduce_floats(comm, values, count, op, room, &messages, &bytes) == BANYAN_OK);
    CHECK(isnan(values[count / 2]));
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    CHECK(banyan_comm_allgather(comm, &hash, sizeof hash, all) == BANYAN_OK);
    for (int r = 0; r < size; r++) CHECK_MSG(all[r] == hash, "rank %d, %d", r, (int)count);
}

static banyan_traffic price(const char *machine, int64_t floats, int one)
{
    static const banyan_link links[2] = {{1, 0.125}, {10, 2}};
    banyan_topology topology;
    banyan_traffic cost;
    CHECK(banyan_topology_parse(machine, &topology) == BANYAN_OK);
    topology.inside = links[0], topology.between = links[1];
    row()->reduce_cost(&topology, &floats, 1, one, &cost);
    banyan_topology_free(&topology);
    return cost;
}

#define CHECK_EQUAL(a, b) CHECK_MSG((a) == (b), "%g, expected %g", (double)(a), (double)(b))

static void test_prices(void)
{
    banyan_traffic t = price("rank:8", 2, -1); /* doubling: log2 p messages of n */
    CHECK_EQUAL(t.messages, 8 * 3);
    CHECK_EQUAL(t.bytes, 8 * 3 * 8);
    CHECK_EQUAL(t.rounds, 3);
    CHECK_EQUAL(t.seconds, 3 * (1 + 1));
    t = price("node:2 rank:4", 2, -1);
    CHECK_EQUAL(t.between_messages, 8);
    CHECK_EQUAL(t.seconds, 2 * 2 + 26);

    const int64_t n = 1 << 20; /* floats; halving and doubling: 2 (p-1)/p n bytes a rank */
    t = price("rank:8", n, 5);
    CHECK_EQUAL(t.messages, 6);
    CHECK_EQUAL(t.bytes, 2 * n * 4 / 8 * 7);
    CHECK_EQUAL(t.max_bytes, t.bytes);
    CHECK_EQUAL(t.seconds, 6 + (double)t.bytes * 0.125);
    t = price("node:2 rank:4", n, -1); /* the last halving, of a quarter, is the one between */
    CHECK_EQUAL(t.between_bytes, 8 * 2 * (n * 4 / 8));

    t = price("rank:7", 2, -1); /* three pairs fold before, four groups double, three part */
    CHECK_EQUAL(t.messages, 3 + 4 * 2 + 3);
    CHECK_EQUAL(t.rounds, 4);
    CHECK_EQUAL(price("rank:1", n, -1).messages, 0);
}

int main(int argc, char **argv)
{
    comm = test_comm(NULL);
    rank = banyan_comm_rank(comm);
    size = banyan_comm_size(comm);
    CHECK(size == (argc > 1 ? atoi(argv[1]) : 1));
    static const int64_t counts[] = {1, 2, 5, 64, 1000, 8191, 8192, 8193, 70001};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (int op = 0; op < 2; op++) {
            test_exact(counts[i], op ? BANYAN_MAX : BANYAN_SUM);
            test_same_bits(counts[i], op ? BANYAN_MAX : BANYAN_SUM);
        }
    test_exact(0, BANYAN_SUM);
    test_prices();
    banyan_comm_destroy(comm);
    return test_end();
}
