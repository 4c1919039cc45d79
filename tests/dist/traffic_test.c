/* SPDX-License-Identifier: Apache-2.0 */
/* What a decoded row sends, beside Tree Attention's three all-reduces: 8 ranks, 2 dense and 6
 * S2 KV heads with 4 query heads each, dim 128, cut for a context of 1M tokens. Tree Attention
 * reduces
 *
 *     n = (128 + 1 + 1) x 32 query heads x 4 bytes = 16,640 bytes
 *
 * on all ranks, and no all-reduce sends less than 2 (p-1)/p n a rank (Patarasuk and Yuan,
 * 2009): 14 n in all. Ours is what the plan says, and, on 8 ranks, what attending really
 * sent. */
#include "dist/plan.h"
#include "tests/test.h"

enum { ranks = 8, heads = 32, kv_heads = 8, dim = 128, rows = 4, tokens = 128 };

static const double least_tree = 14.0 * (dim + 2) * heads * 4;

static void fill_spec(banyan_spec *spec, const char *merge, banyan_out out, int is_mixed)
{
    static const banyan_rule rules[] = {{0, -1, 8, -1, "s2 stride=16 local=16"}};
    banyan_spec_init(spec);
    spec->layers = 1;
    spec->heads = heads;
    spec->kv_heads = kv_heads;
    spec->key_dim = dim;
    spec->max_tokens = 1 << 20;
    spec->memory_limit = INT64_C(1) << 40; /* set aside, and hardly touched */
    spec->max_rows = tokens;
    spec->kernel = "scalar";
    spec->threads = 1;
    spec->merge = merge;
    spec->out = out;
    spec->rules = rules;
    spec->rule_count = is_mixed;
}

typedef struct sent {
    int64_t messages, bytes;
} sent;

static banyan_plan *plan_for(banyan_comm *comm, const char *merge, banyan_out out, int is_mixed)
{
    banyan_spec spec;
    banyan_plan *plan = NULL;
    fill_spec(&spec, merge, out, is_mixed);
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    return plan;
}

/* Really sent for one row, on average over a few, by all ranks; every rank what its share
 * says. */
static sent measure(banyan_comm *comm, const banyan_plan *plan)
{
    static float q[tokens * heads * dim], kv[tokens * kv_heads * dim], out[rows * heads * dim];
    banyan_cache *cache = NULL;
    banyan_stats stats = {0};
    banyan_share share = {0};
    uint64_t seed = 3;
    for (int i = 0; i < tokens * heads * dim; i++) q[i] = test_normal(&seed);
    for (int i = 0; i < tokens * kv_heads * dim; i++) kv[i] = test_normal(&seed);
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    banyan_rows part = {.rows = tokens};
    CHECK(banyan_sequence_create(cache, 0, &part.sequence) == BANYAN_OK);
    CHECK(banyan_attend(cache, 0, &part, 1, NULL, kv, kv, NULL, NULL) == BANYAN_OK);
    part.rows = 1;
    for (part.at = tokens; part.at < tokens + rows; part.at++)
        CHECK(banyan_attend(cache, 0, &part, 1, q, kv, kv, out, NULL) == BANYAN_OK);
    banyan_cache_stats(cache, &stats);
    CHECK(banyan_plan_share(plan, plan->rank, 1, tokens, &share) == BANYAN_OK);
    CHECK_MSG(stats.messages == rows * share.messages &&
                  stats.bytes_sent == rows * share.bytes_sent,
              "rank %d sent %lld messages, %lld bytes; planned %lld, %lld a row", plan->rank,
              (long long)stats.messages, (long long)stats.bytes_sent, (long long)share.messages,
              (long long)share.bytes_sent);
    double sums[2] = {(double)stats.messages, (double)stats.bytes_sent};
    CHECK(banyan_comm_allreduce(comm, sums, 2, BANYAN_SUM) == BANYAN_OK);
    banyan_cache_destroy(cache);
    return (sent){(int64_t)sums[0] / rows, (int64_t)sums[1] / rows};
}

static sent send_row(banyan_comm *comm, const char *merge, banyan_out out, int is_mixed)
{
    banyan_plan *plan = plan_for(comm, merge, out, is_mixed);
    sent s = {0};
    if (!plan) return s;
    for (int r = 0; r < ranks; r++) {
        banyan_share share = {0};
        CHECK(banyan_plan_share(plan, r, 1, tokens, &share) == BANYAN_OK);
        s.messages += share.messages;
        s.bytes += share.bytes_sent;
    }
    if (!comm->transport->is_imaginary) {
        const sent real = measure(comm, plan);
        CHECK(real.messages == s.messages && real.bytes == s.bytes);
    }
    if (comm->rank == 0 && !comm->transport->is_imaginary)
        printf("%-9s out %-4s  %s heads: %3lld messages, %6lld bytes a row, %.4f of the least "
               "that three all-reduces send\n",
               plan->merge->name, out == BANYAN_OUT_ALL ? "all" : "home",
               is_mixed ? "mixed" : "like ", (long long)s.messages, (long long)s.bytes,
               (double)s.bytes / least_tree);
    banyan_plan_destroy(plan);
    return s;
}

int main(int argc, char **argv)
{
    banyan_comm *comm = NULL;
    (void)argv;
    if (banyan_comm_create(argc > 1 ? "mpi" : "imaginary", argc > 1 ? NULL : (void *)"rank:8",
                           &comm)) {
        fprintf(stderr, "%s\n", banyan_error_message());
        return 99;
    }
    CHECK(comm->size == ranks);
    sent s = send_row(comm, "direct", BANYAN_OUT_HOME, 1);
    CHECK(s.messages <= ranks - 1 && (double)s.bytes <= least_tree / 12);
    s = send_row(comm, NULL, BANYAN_OUT_HOME, 1);
    CHECK(s.messages <= ranks - 1 && (double)s.bytes <= least_tree / 12);
    s = send_row(comm, "direct", BANYAN_OUT_ALL, 1);
    CHECK((double)s.bytes <= least_tree * 0.6);
    send_row(comm, NULL, BANYAN_OUT_ALL, 1);
    s = send_row(comm, NULL, BANYAN_OUT_HOME, 0);
    CHECK(s.messages == 0 && s.bytes == 0);
    s = send_row(comm, "allreduce", BANYAN_OUT_HOME,
                 1); /* doubling: 3 messages of n / 3 .. each */
    CHECK(s.messages == 3 * 3 * ranks && (double)s.bytes >= least_tree);
    banyan_comm_destroy(comm);
    return test_end();
}
