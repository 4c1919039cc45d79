/* SPDX-License-Identifier: Apache-2.0 */
/* Machines as text: what is accepted, how it is printed back, and the words of every
 * refusal. */
#include "comm/comm.h"
#include "tests/test.h"

static void check_text(const char *text, const char *canonical, int ranks, int nodes)
{
    banyan_topology topology = {0}, again = {0};
    char printed[4096];
    const banyan_status status = banyan_topology_parse(text, &topology);
    CHECK_MSG(status == BANYAN_OK, "%s: %s", text, banyan_error_message());
    if (status) return;
    banyan_topology_print(&topology, printed, sizeof printed);
    CHECK_MSG(!strcmp(printed, canonical), "%s: printed %s", text, printed);
    CHECK_MSG(topology.ranks == ranks && topology.nodes == nodes, "%s: %d ranks, %d nodes",
              text, topology.ranks, topology.nodes);
    CHECK(banyan_topology_parse(printed, &again) == BANYAN_OK);
    CHECK(again.ranks == topology.ranks && again.nodes == topology.nodes);
    CHECK(!memcmp(again.node, topology.node, (size_t)topology.ranks * sizeof *again.node));
    for (int r = 1; r < topology.ranks; r++) {
        const int step = topology.node[r] - topology.node[r - 1];
        CHECK(step == 0 || step == 1);
    }
    CHECK(topology.node[0] == 0 && topology.node[topology.ranks - 1] == nodes - 1);
    CHECK(topology.inside.alpha > 0 && topology.inside.alpha < topology.between.alpha);
    CHECK(topology.inside.beta > 0 && topology.inside.beta < topology.between.beta);
    banyan_topology_free(&topology);
    banyan_topology_free(&again);
    CHECK(!topology.node);
}

static void test_texts(void)
{
    check_text("rank:5", "rank:5", 5, 1);
    check_text("rank:1", "rank:1", 1, 1);
    check_text("node:1 rank:5", "rank:5", 5, 1);
    check_text("node:4 rank:8", "node:4 rank:8", 32, 4);
    check_text("  node:4\t rank:8 \n", "node:4 rank:8", 32, 4);
    check_text("node:4 rank:8,8,8,8", "node:4 rank:8", 32, 4);
    check_text("node:4 rank:8,8,8,3", "node:4 rank:8,8,8,3", 27, 4);
    check_text("node:3 rank:1,2,1", "node:3 rank:1,2,1", 4, 3);
    check_text("node:007 rank:01", "node:7 rank:1", 7, 7);
    check_text("node:128 rank:8", "node:128 rank:8", 1024, 128);
    check_text("node:1024 rank:1024", "node:1024 rank:1024", 1 << 20, 1024);
}

static void test_refusals(void)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "topology \"\" ends at column 1; expected node:COUNT or rank:COUNT"},
        {"nodes:4 rank:8",
         "topology \"nodes:4 rank:8\", column 1: \"nodes\"; expected node:COUNT "
         "or rank:COUNT"},
        {"node:4", "topology \"node:4\" ends at column 7; expected rank:COUNT"},
        {"node:4 rink:8",
         "topology \"node:4 rink:8\", column 8: \"rink\"; expected rank:COUNT"},
        {"node:4rank:8",
         "topology \"node:4rank:8\", column 6: \"4rank\"; expected a count of 1..1048576"},
        {"node:4,rank:8", "topology \"node:4,rank:8\", column 7: \",\"; expected rank:COUNT"},
        {"node: rank:8", "topology \"node: rank:8\", column 6: \" \"; expected a count of "
                         "1..1048576"},
        {"node:0 rank:8",
         "topology \"node:0 rank:8\", column 6: \"0\"; expected a count of 1..1048576"},
        {"rank:-1", "topology \"rank:-1\", column 6: \"-\"; expected a count of 1..1048576"},
        {"rank:", "topology \"rank:\" ends at column 6; expected a count of 1..1048576"},
        {"rank:99999999999999999999", "topology \"rank:99999999999999999999\", column 6: "
                                      "\"99999999999999999999\"; expected a "
                                      "count of 1..1048576"},
        {"rank:3,3",
         "topology \"rank:3,3\", column 7: \",\"; expected one count of ranks, or 1"},
        {"node:3 rank:1,2",
         "topology \"node:3 rank:1,2\" ends at column 16; expected one count "
         "of ranks, or 3"},
        {"node:2 rank:1,2,3", "topology \"node:2 rank:1,2,3\", column 16: \",\"; expected one "
                              "count of ranks, or 2"},
        {"node:2 rank:1,", "topology \"node:2 rank:1,\" ends at column 15; expected a count of "
                           "1..1048576"},
        {"rank:4 core:8", "topology \"rank:4 core:8\", column 8: \"core\"; expected the end"},
        {"node:1048576 rank:8",
         "topology \"node:1048576 rank:8\" has 8388608 ranks; at most 1048576"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        banyan_topology topology = {.ranks = -7};
        CHECK(banyan_topology_parse(cases[i].text, &topology) == BANYAN_ERR_CONFIG);
        CHECK_MSG(!strcmp(banyan_error_message(), cases[i].words),
                  "got      %s\n    expected %s", banyan_error_message(), cases[i].words);
        CHECK(topology.ranks == -7);
    }
    banyan_topology topology;
    CHECK(banyan_topology_parse(NULL, &topology) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_topology_make(NULL, 0, &topology) == BANYAN_ERR_ARGUMENT);
}

static void test_make(void)
{
    static const int32_t given[] = {40, -3, 40, 7, -3, 7, 9};
    static const int32_t wanted[] = {0, 1, 0, 2, 1, 2, 3};
    banyan_topology topology;
    CHECK(banyan_topology_make(given, 7, &topology) == BANYAN_OK);
    CHECK(topology.ranks == 7 && topology.nodes == 4);
    CHECK(!memcmp(topology.node, wanted, sizeof wanted));
    char text[64];
    banyan_topology_print(&topology, text, sizeof text);
    CHECK(!strcmp(text, "node:4 rank:2,2,2,1"));
    memset(text, 'x', sizeof text);
    banyan_topology_print(&topology, text, 12); /* as much as there is room for */
    CHECK(!strcmp(text, "node:4 rank") && text[12] == 'x');
    banyan_topology_print(&topology, text, 0);
    banyan_topology_free(&topology);

    uint64_t seed = 11;
    for (int n = 1; n <= 300; n++) { /* a number is the count of nodes met before */
        int32_t node[300], number[300], met = 0;
        for (int r = 0; r < n; r++) {
            node[r] = (int32_t)test_below(&seed, 1 + n / 3) * 1000 - 5;
            number[r] = -1;
            for (int q = 0; q < r && number[r] < 0; q++)
                if (node[q] == node[r]) number[r] = number[q];
            if (number[r] < 0) number[r] = met++;
        }
        CHECK(banyan_topology_make(node, n, &topology) == BANYAN_OK);
        CHECK(topology.nodes == met);
        CHECK(!memcmp(topology.node, number, (size_t)n * sizeof *number));
        banyan_topology_free(&topology);
    }
}

int main(void)
{
    test_texts();
    test_refusals();
    test_make();
    return test_end();
}
