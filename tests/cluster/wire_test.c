/* SPDX-License-Identifier: Apache-2.0 */
/* wire_test RANKS_PER_HOST [by-node]: what crosses between hosts, counted by the network
 * itself.
 *
 * Ranks find the right nodes. Then one KV head is spread over all ranks and merged by every row
 * of comm/merges.def, for output at home and everywhere. A message holds the partials of 8
 * query heads x 32 rows,
 *
 *     8 x 32 x (128 + 2) x 4 bytes = 133,120,
 *
 * and three figures of the same calls must agree: what the library counted as sent; what the
 * schedule's cost predicts; and the bytes that left the hosts' interfaces, within 5 %. Beyond
 * the payload an interface counts headers (66 bytes to a packet of up to 64 KiB, 0.1 %), Open
 * MPI's own (0.1 %), and the acknowledgements of what it received: at worst 66 bytes for every
 * two segments of 1,448, 2.3 % where as much is received as sent. It never counts less than the
 * payload.
 *
 * Set-up, and what keeps ranks in step, cancels out: n calls are counted, then 3n, and the
 * difference is that of 2n. */
#include "comm/comm.h"
#include "dist/plan.h"
#include "tests/world.h"

#include <unistd.h>

enum { block_tokens = 16, heads = 8, rows = 32, dim = 128, calls = 8, name_bytes = 64 };

static banyan_comm *comm;
static int rank, size;

/* Bytes that left through eth0 of this host; the network namespace's own /proc. */
static double sent_bytes(void)
{
    char line[512];
    double sent = -1;
    FILE *f = fopen("/proc/self/net/dev", "r");
    while (f && fgets(line, sizeof line, f)) {
        double received, other, out;
        char name[32];
        if (sscanf(line, " %31[^:]: %lf %lf %lf %lf %lf %lf %lf %lf %lf", name, &received,
                   &other, &other, &other, &other, &other, &other, &other, &out) == 10 &&
            !strcmp(name, "eth0"))
            sent = out;
    }
    if (f) fclose(f);
    CHECK_MSG(sent >= 0, "no eth0 in /proc/self/net/dev: this test runs in a cluster");
    return sent;
}

static double sum(double value)
{
    CHECK(banyan_comm_allreduce(comm, &value, 1, BANYAN_SUM) == BANYAN_OK);
    return value;
}

/* ---- nodes ------------------------------------------------------------------------------- */

static void test_nodes(int per_host, int by_node)
{
    char mine[name_bytes] = "", *all = calloc((size_t)size, name_bytes);
    const int hosts = size / per_host;
    gethostname(mine, sizeof mine - 1);
    CHECK(banyan_comm_allgather(comm, mine, sizeof mine, all) == BANYAN_OK);
    CHECK_MSG(banyan_comm_nodes(comm) == hosts, "%d nodes, %d hosts", banyan_comm_nodes(comm),
              hosts);
    for (int r = 0; r < size; r++) {
        const int expected = by_node ? r % hosts : r / per_host,
                  node = banyan_comm_node(comm, r);
        CHECK_MSG(node == expected, "rank %d is on node %d, expected %d", r, node, expected);
        for (int s = 0; s < r; s++)
            CHECK_MSG(!strcmp(all + r * name_bytes, all + s * name_bytes) ==
                          (node == banyan_comm_node(comm, s)),
                      "ranks %d and %d are on %s and %s", r, s, all + r * name_bytes,
                      all + s * name_bytes);
    }
    free(all);
}

/* ---- bytes ------------------------------------------------------------------------------- */

/* The messages that go from node to node, and the most between one pair of nodes in one
 * direction in one round; a message is all that goes from one rank to another in a round. */
static void count_pairs(const banyan_plan *plan, int64_t *messages, int32_t *most)
{
    const banyan_schedule *s = &plan->kind[0].schedule;
    const int32_t nodes = comm->topology.nodes, *node = comm->topology.node;
    int32_t *pair = calloc((size_t)nodes * (size_t)nodes, sizeof *pair);
    *messages = 0;
    *most = 0;
    for (int32_t i = 0; i < s->count; i++) {
        const banyan_step *a = &s->step[i], *before = i ? a - 1 : NULL;
        if (!before || before->round != a->round)
            memset(pair, 0, (size_t)nodes * (size_t)nodes * sizeof *pair);
        if (node[a->src] == node[a->dst]) continue;
        if (before && before->round == a->round && before->src == a->src &&
            before->dst == a->dst)
            continue;
        int32_t *count = &pair[node[a->src] * nodes + node[a->dst]];
        ++*messages;
        if (++*count > *most) *most = *count;
    }
    free(pair);
}

static banyan_plan *make_plan(const char *merge, banyan_out out)
{
    banyan_spec spec;
    banyan_plan *plan = NULL;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = heads;
    spec.kv_heads = 1;
    spec.key_dim = dim;
    spec.max_tokens = 2 * (int64_t)size * block_tokens + rows;
    spec.max_rows = rows;
    spec.block_tokens = block_tokens;
    spec.placement = "spread";
    spec.merge = merge;
    spec.out = out;
    spec.threads = 1;
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    return plan;
}

/* Attends `count` times to the last rows, and returns what all hosts sent meanwhile. */
static double attend(banyan_cache *cache, const banyan_rows *part, const float *array,
                     float *out, int count, int is_first_here)
{
    sum(0);        /* all have begun, and all that was sent has arrived .. */
    usleep(20000); /* .. and is acknowledged (Linux waits 40 ms at most) */
    const double before = is_first_here ? sent_bytes() : 0;
    sum(0);
    for (int i = 0; i < count; i++)
        CHECK_MSG(banyan_attend(cache, 0, part, 1, array, NULL, NULL, out, NULL) == BANYAN_OK,
                  "%s", banyan_error_message());
    sum(0);
    usleep(60000);
    const double after = is_first_here ? sent_bytes() : 0;
    sum(0);
    return sum(after - before);
}

typedef struct figures {
    double counted, predicted, measured; /* bytes of a call; counted: of all messages */
    banyan_traffic traffic;
} figures;

static void check_figures(const figures *f, const char *merge, banyan_out out, int64_t messages,
                          int64_t counted_messages)
{
    CHECK_MSG(counted_messages == f->traffic.messages, "%lld messages counted, %lld predicted",
              (long long)counted_messages, (long long)f->traffic.messages);
    CHECK_MSG(f->counted == (double)f->traffic.bytes, "%.0f bytes counted, %lld predicted",
              f->counted, (long long)f->traffic.bytes);
    if (messages >= 0) CHECK(messages == f->traffic.between_messages);
    const double ratio = f->measured / f->predicted;
    CHECK_MSG(ratio >= 1 && ratio <= 1.05, "%s, %s: %.0f bytes on the wire, %.0f expected",
              merge, out == BANYAN_OUT_ALL ? "all" : "home", f->measured, f->predicted);
    if (rank == 0)
        printf("%-9s %-4s  %2lld messages, %2lld between hosts; bytes per call: counted %.0f, "
               "between hosts %.0f, on the wire %.0f = %.4f of it\n",
               merge, out == BANYAN_OUT_ALL ? "all" : "home", (long long)f->traffic.messages,
               (long long)f->traffic.between_messages, f->counted, f->predicted, f->measured,
               ratio);
}

/* What a call moves, for `rows` rows. */
static void predict(const banyan_plan *plan, banyan_traffic *out)
{
    const size_t item = (size_t)rows * banyan_partial_floats(dim) * sizeof(float);
    int64_t floats[BANYAN_PASSES];
    banyan_pass_floats(plan, dim, rows, floats);
    if (plan->merge->reduce)
        plan->merge->reduce_cost(&comm->topology, floats, BANYAN_PASSES, -1, out);
    else
        banyan_schedule_cost(&plan->kind[0].schedule, &comm->topology, item, -1, out);
}

/* Bytes on the wire in one call. */
static double test_merge(const char *merge, banyan_out out)
{
    banyan_plan *plan = make_plan(merge, out);
    banyan_cache *cache = NULL;
    const int64_t length = 2 * (int64_t)size * block_tokens;
    const size_t floats = (size_t)rows * heads * dim;
    float *array = calloc(floats, sizeof *array), *result = calloc(floats, sizeof *result);
    CHECK(plan && banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    banyan_rows part = {0};
    CHECK(banyan_sequence_create(cache, 0, &part.sequence) == BANYAN_OK);
    for (; part.at < length; part.at += rows) {
        part.rows = length - part.at < rows ? (int32_t)(length - part.at) : rows;
        CHECK(banyan_attend(cache, 0, &part, 1, NULL, array, array, NULL, NULL) == BANYAN_OK);
    }
    part.at = length - rows;
    part.rows = rows;
    int is_first_here = 1;
    for (int r = 0; r < rank; r++)
        is_first_here &= banyan_comm_node(comm, r) != banyan_comm_node(comm, rank);
    banyan_stats before, after;
    attend(cache, &part, array, result, 2, is_first_here); /* connections are made */
    banyan_cache_stats(cache, &before);
    const double few = attend(cache, &part, array, result, calls, is_first_here);
    const double many = attend(cache, &part, array, result, 3 * calls, is_first_here);
    banyan_cache_stats(cache, &after);

    figures f = {0};
    predict(plan, &f.traffic);
    int64_t messages = -1; /* no schedule to count them in */
    int32_t most = 0;
    if (!plan->merge->reduce) count_pairs(plan, &messages, &most);
    CHECK_MSG(strcmp(merge, "tree") || most <= 1, "%d messages between two nodes", (int)most);
    if (!strcmp(merge, "tree"))
        CHECK(messages == (comm->topology.nodes - 1) * (out == BANYAN_OUT_ALL ? 2 : 1));
    f.measured = (many - few) / (2 * calls);
    f.predicted = (double)f.traffic.between_bytes;
    f.counted = sum((double)(after.bytes_sent - before.bytes_sent)) / (4 * calls);
    check_figures(&f, merge, out, messages,
                  (int64_t)sum((double)(after.messages - before.messages)) / (4 * calls));
    free(array);
    free(result);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    return f.measured;
}

int main(int argc, char **argv)
{
    const int per_host = argc > 1 ? atoi(argv[1]) : 1, by_node = argc > 2;
    comm = test_comm("mpi");
    rank = banyan_comm_rank(comm);
    size = banyan_comm_size(comm);
    test_nodes(per_host, by_node);
    double direct = 0, tree = 0;
    const banyan_merge *merge;
    for (int i = 0; (merge = banyan_merge_row(i)); i++) {
        const double home = test_merge(merge->name, BANYAN_OUT_HOME);
        if (!strcmp(merge->name, "direct")) direct = home;
        if (!strcmp(merge->name, "tree")) tree = home;
        test_merge(merge->name, BANYAN_OUT_ALL);
    }
    /* A host sends one message instead of one for each of its ranks; home's own host sends
     * none. */
    CHECK_MSG(tree <= direct / per_host * 1.06, "tree %.0f, direct %.0f", tree, direct);
    banyan_comm_destroy(comm);
    return test_end();
}
