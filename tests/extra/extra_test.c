/* SPDX-License-Identifier: Apache-2.0 */
/* A build with further rows (BANYAN_EXTRA_ROWS: this folder): they are listed, and do what rows
 * do. A selector with too many runs is the plan's error, one with many runs that keeps more
 * than it reads is right, one that is to be whole is not cut. */
#include "dist/dist.h"
#include "tests/oracle.h"
#include "tests/world.h"

#include <math.h>

enum { HEADS = 4, KV_HEADS = 2, DIM = 16, BLOCK = 16, TOKENS = 900 };

static banyan_spec usual(const banyan_rule *rule)
{
    return test_spec(HEADS, KV_HEADS, DIM, BLOCK, TOKENS, rule);
}

static void test_listed(void)
{
    static const struct {
        banyan_table table;
        const char *name;
    } rows[] = {{BANYAN_SELECTORS, "levels"}, {BANYAN_SELECTORS, "alone"},
                {BANYAN_KERNELS, "again"},    {BANYAN_PLACEMENTS, "nodes"},
                {BANYAN_MERGES, "chain"},     {BANYAN_TRANSPORTS, "alone"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *name, *doc;
        int found = 0, available;
        for (int j = 0; banyan_list(rows[i].table, j, &name, &doc, &available, NULL); j++)
            found |= !strcmp(name, rows[i].name) && available && strstr(doc, "for tests");
        CHECK_MSG(found, "%s is not listed", rows[i].name);
    }
}

static void refused(const char *cluster, const banyan_spec *spec, const char *words)
{
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    CHECK(banyan_comm_create(cluster ? "imaginary" : "alone", (void *)(uintptr_t)cluster,
                             &comm) == BANYAN_OK);
    const banyan_status status = banyan_plan_create(spec, comm, &plan);
    CHECK_MSG(status == BANYAN_ERR_CONFIG && strstr(banyan_error_message(), words), "%d: %s",
              status, banyan_error_message());
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

static void test_refused(void)
{
    const banyan_rule levels = {0, -1, 1, 2, "levels levels=14 stride=2"};
    banyan_spec spec = usual(&levels);
    spec.max_tokens = (int64_t)1 << 20;
    refused(
        NULL, &spec,
        "query head 1, \"levels levels=14 stride=2\": what rows from token 65536 on read is "
        "more than 12 runs of blocks");
    const banyan_rule alone = {0, -1, 2, 3, "alone"};
    spec = usual(&alone);
    spec.placement = "spread";
    refused(
        "rank:3", &spec,
        "placement \"spread\" cuts KV head 1 of layer 0 over 3 ranks, but selector \"alone\" "
        "needs it whole");
}

/* Heads, one by one, to the first ranks of the nodes in turn. */
static void test_nodes(void)
{
    const banyan_rule alone = {0, -1, 0, -1, "alone"};
    banyan_spec spec = usual(&alone);
    spec.placement = "nodes";
    spec.merge = "chain";
    static char cluster[] = "node:2 rank:3";
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    CHECK(banyan_comm_create("imaginary", cluster, &comm) == BANYAN_OK);
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    if (plan) CHECK(banyan_plan_home(plan, 0, 0) == 0 && banyan_plan_home(plan, 0, 2) == 3);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

/* The formula, written anew. */
static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const int64_t distance = row / BLOCK - token / BLOCK, block = token / BLOCK;
    (void)ctx;
    if (head == 0 || head == 3) return 1; /* no rule: dense */
    if (distance >= 16) return block % 16 == 0;
    if (distance >= 8) return block % 8 == 0;
    if (distance >= 4) return block % 4 == 0;
    return distance >= 2 ? block % 2 == 0 : 1;
}

/* Five levels: more runs than there was room for once. */
static void test_levels(void)
{
    const banyan_rule levels = {0, -1, 1, 2, "levels levels=5 stride=2"};
    banyan_spec spec = usual(&levels);
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    static float q[TOKENS][HEADS][DIM], k[TOKENS][KV_HEADS][DIM], v[TOKENS][KV_HEADS][DIM],
        out[TOKENS][HEADS][DIM], lse[TOKENS][HEADS];
    uint64_t seed = 3;
    for (int i = 0; i < TOKENS * HEADS * DIM; i++) (&q[0][0][0])[i] = test_normal(&seed);
    for (int i = 0; i < TOKENS * KV_HEADS * DIM; i++) {
        (&k[0][0][0])[i] = test_normal(&seed);
        (&v[0][0][0])[i] = test_normal(&seed);
    }
    spec.kernel = "again";
    CHECK(banyan_comm_create("alone", NULL, &comm) == BANYAN_OK);
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    banyan_cache *cache = NULL;
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    banyan_sequence *sequence = NULL;
    CHECK(banyan_sequence_create(cache, 0, &sequence) == BANYAN_OK);
    const banyan_rows part = {.sequence = sequence, .rows = TOKENS};
    CHECK_MSG(banyan_attend(cache, 0, &part, 1, q, k, v, out, lse[0]) == BANYAN_OK, "%s",
              banyan_error_message());
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = DIM,
                      .tokens = TOKENS,
                      .scale = 0.25,
                      .k = k[0][0],
                      .v = v[0][0],
                      .reads = reads};
    for (int row = 0; row < TOKENS; row += 7)
        for (int h = 0; h < HEADS; h++) {
            double expect[DIM], expect_lse;
            bound b = {.block_tokens = BLOCK, .combines = 2};
            oracle_row(&o, q[row][h], h, row, expect, &expect_lse, &b);
            const double error = oracle_compare(expect, expect_lse, &b, DIM, out[row][h],
                                                BANYAN_F32, &lse[row][h]);
            CHECK_MSG(error <= 1, "row %d head %d: %g times the bound", row, h, error);
        }
    banyan_share share;
    CHECK(banyan_plan_share(plan, 0, 1, 800, &share) == BANYAN_OK);
    int64_t read = 0, pairs = 0; /* of the next row, at token 800 */
    for (int64_t b = 0; b <= 800 / BLOCK; b++)
        for (int g = 0; g < KV_HEADS; g++) {
            read++; /* a dense head of the group reads it */
            pairs += 1 + reads(NULL, 1, 800, b * BLOCK);
        }
    CHECK_MSG(share.read_blocks == read && share.pairs == pairs,
              "%lld and %lld, not %lld, %lld", (long long)share.read_blocks,
              (long long)share.pairs, (long long)read, (long long)pairs);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

int main(void)
{
    test_listed();
    test_refused();
    test_nodes();
    test_levels();
    return test_end();
}
