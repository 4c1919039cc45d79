/* SPDX-License-Identifier: Apache-2.0 */
/* Balance of whole plans, in counted blocks.
 *
 * On the line, at the planned length: no rank has more than its due plus the larger of 1 % of
 * it and 4 blocks, plus the snap of the cuts at its two ends; at most P - 1 holders more than
 * heads. */
#include "tests/dist/plans.h"

#include <math.h>

enum { MAX_HEADS = 64, MAX_RANKS = 300 };

static double imbalance_at(const banyan_plan *plan, int64_t tokens)
{
    banyan_load kept[MAX_RANKS] = {{0}};
    for (int32_t k = 0; k < plan->kinds; k++)
        banyan_kind_load(plan, &plan->kind[k], tokens, kept);
    return banyan_imbalance(plan, kept);
}

static planned million(const char *use, int ranks)
{
    const banyan_rule rule = {0, -1, 2, -1, use};
    char cluster[32];
    banyan_spec spec = small_spec();
    spec.layers = 1;
    spec.kv_heads = 8;
    spec.key_dim = 128;
    spec.max_tokens = 1048576;
    spec.rules = &rule;
    spec.rule_count = use ? 1 : 0;
    snprintf(cluster, sizeof cluster, "rank:%d", ranks);
    return plan_on(cluster, &spec);
}

/* 2 dense and 6 S2 heads: even at the planned length, nearly so at a quarter of it. */
static void test_mixed_million(void)
{
    for (int ranks = 2; ranks <= 64; ranks++) {
        planned p = million("s2 stride=16 local=16", ranks);
        const double whole = imbalance_at(p.plan, 1048576),
                     quarter = imbalance_at(p.plan, 262144);
        /* 39002 blocks; a cut is moved by at most half a block, or snaps by 1 % of a piece */
        CHECK_MSG(whole <= 1.01 + 1.0 * ranks / 39002, "%d ranks: %.4f", ranks, whole);
        CHECK_MSG(ranks & (ranks - 1) || whole < 1.0015, "%d ranks: %.4f", ranks, whole);
        /* S2 heads keep 271 of 1039 blocks, all heads 9818 of 39002: 1.036 by itself; then the
         * snap, and 2 blocks of discrepancy */
        CHECK_MSG(quarter <= 1.0362 * 1.01 + 2.0 * ranks / 9818, "%d ranks, a quarter: %.4f",
                  ranks, quarter);
        CHECK(banyan_kind_extra_holders(p.plan->kind) <= ranks - 1);
        unplan(&p);
    }
}

/* Like heads. Powers of two split every aligned run of blocks evenly; for others a rank's part
 * of n blocks in a head is off by the discrepancy of the sequence, at most log2(n) / 3 + 1 at
 * each of two cuts (Bejian and Faure). */
static void test_dense_million(void)
{
    for (int ranks = 2; ranks <= 64; ranks++) {
        planned p = million(NULL, ranks);
        for (int64_t tokens = 1048576; tokens >= 4096; tokens /= 4) {
            const double has = imbalance_at(p.plan, tokens);
            const double mean = (double)tokens / 64 * 8 / ranks;
            const double off = 2 * (log2((double)tokens / 64) / 3 + 1);
            if (ranks & (ranks - 1))
                CHECK_MSG((has - 1) * mean <= off, "%d ranks, %lld tokens: %.4f", ranks,
                          (long long)tokens, has);
            else
                CHECK_MSG(has < 1.0000001, "%d ranks, %lld tokens: %.7f", ranks,
                          (long long)tokens, has);
        }
        const int64_t extra = banyan_kind_extra_holders(p.plan->kind);
        CHECK(extra <= ranks - 1 && (8 % ranks || extra == 0));
        unplan(&p);
    }
}

static banyan_rule random_rule(uint64_t *seed, int32_t heads)
{
    static const char *const uses[] = {
        "dense",
        "s2 stride=16 local=16",
        "s2 stride=8 local=4 per=query",
        "s2 stride=7 local=3 step=2 offset=1",
        "s2 stride=100 local=40",
        "sink_window sink=1 window=16",
        "sink_window sink=4t window=1000t",
        "sink_window sink=0 window=300",
    };
    banyan_rule rule = {.last_layer = -1, .use = uses[test_below(seed, 8)]};
    rule.first_head = (int32_t)test_below(seed, heads);
    rule.last_head = rule.first_head + (int32_t)test_below(seed, heads - rule.first_head);
    return rule;
}

static void check_bar(const banyan_plan *plan)
{
    const banyan_spec *spec = &plan->spec;
    double sum = 0, speed = 0, slowest = INFINITY;
    int64_t kept[MAX_RANKS];
    for (int32_t r = 0; r < plan->ranks; r++) {
        banyan_share share;
        CHECK(banyan_plan_share(plan, r, 1, spec->planned_tokens, &share) == BANYAN_OK);
        kept[r] = share.kept_blocks;
        sum += (double)kept[r];
        speed += spec->bandwidth[r];
        if (spec->bandwidth[r] > 0) slowest = fmin(slowest, spec->bandwidth[r]);
    }
    const double piece = sum * slowest / speed, snap = fmax(piece / 100, fmin(2, piece / 4));
    for (int32_t r = 0; r < plan->ranks; r++) {
        const double due = sum * spec->bandwidth[r] / speed;
        CHECK_MSG((double)kept[r] - due <= fmax(due / 100, 4) + 2 * snap,
                  "rank %d of %d keeps %lld blocks, due %.2f", (int)r, (int)plan->ranks,
                  (long long)kept[r], due);
        CHECK(spec->bandwidth[r] > 0 || kept[r] == 0);
    }
    CHECK(banyan_kind_extra_holders(plan->kind) <= plan->ranks - 1);
}

static void test_random_mixes(void)
{
    uint64_t seed = 3;
    for (int i = 0; i < 250; i++) {
        const int32_t ranks = 1 + (int32_t)test_below(&seed, i % 3 ? 24 : MAX_RANKS);
        banyan_spec spec = small_spec();
        spec.layers = 1;
        spec.kv_heads = 1 + (int32_t)test_below(&seed, MAX_HEADS);
        spec.heads = spec.kv_heads * (1 + (int32_t)test_below(&seed, 4));
        spec.max_tokens = 1 + test_below(&seed, INT64_C(1) << (8 + test_below(&seed, 15)));
        spec.planned_tokens = 1 + test_below(&seed, spec.max_tokens);
        spec.block_tokens = 16 << test_below(&seed, 5);
        spec.rollback_tokens = test_below(&seed, 4) ? 0 : (int32_t)test_below(&seed, 300);
        banyan_rule rules[6];
        spec.rules = rules;
        spec.rule_count = (int32_t)test_below(&seed, 7);
        for (int32_t k = 0; k < spec.rule_count; k++) rules[k] = random_rule(&seed, spec.heads);
        double bandwidth[MAX_RANKS];
        for (int32_t r = 0; r < ranks; r++) bandwidth[r] = (double)test_below(&seed, 5);
        bandwidth[test_below(&seed, ranks)] = 1;
        if (i % 4 == 0) spec.bandwidth = bandwidth;
        char cluster[32];
        snprintf(cluster, sizeof cluster, "rank:%d", (int)ranks);
        planned p = plan_on(cluster, &spec);
        CHECK_MSG(p.plan, "%s", banyan_error_message());
        if (p.plan) check_bar(p.plan);
        unplan(&p);
    }
}

/* S2 heads differ by a block where residues do; they are alike all the same. */
static void test_like_s2(void)
{
    for (int ranks = 1; ranks <= 32; ranks *= 2) {
        const banyan_rule rule = {0, -1, 0, -1, "s2 stride=32 local=4 step=1"};
        char cluster[32];
        banyan_spec spec = small_spec();
        spec.layers = 1;
        spec.heads = spec.kv_heads = 32;
        spec.max_tokens = 64 * (64 * 32 + 17);
        spec.rules = &rule;
        spec.rule_count = 1;
        snprintf(cluster, sizeof cluster, "rank:%d", ranks);
        planned p = plan_on(cluster, &spec);
        const int64_t extra = banyan_kind_extra_holders(p.plan->kind);
        CHECK_MSG(ranks < 32 || extra == 0, "%d ranks: %lld extra holders", ranks,
                  (long long)extra);
        unplan(&p);
    }
}

/* What a step of 64 sequences reads, with turns 0..63: the largest part over the mean. */
static double step_imbalance(const banyan_spec *spec, int64_t tokens)
{
    planned p = plan_on("rank:7", spec);
    CHECK_MSG(!p.status, "%s", banyan_error_message());
    int64_t most = 0, sum = 0;
    for (int32_t r = 0; r < 7 && !p.status; r++) {
        banyan_share share;
        CHECK(banyan_plan_share(p.plan, r, 64, tokens, &share) == BANYAN_OK);
        if (share.read_blocks > most) most = share.read_blocks;
        sum += share.read_blocks;
    }
    unplan(&p);
    return (double)most * 7 / (double)sum;
}

/* Many short sequences: each has a block or two of a head, and their turns deal them evenly. */
static void test_sequences(void)
{
    const banyan_rule rule = {0, -1, 8, -1, "s2 stride=16 local=16"};
    banyan_spec spec = small_spec();
    spec.layers = 1;
    spec.heads = 32;
    spec.kv_heads = 8;
    spec.key_dim = 128;
    spec.sequences = 64;
    for (int i = 0; i < 3; i++) {
        spec.max_tokens = i < 1 ? 64 : 1048576;
        spec.planned_tokens = i < 2 ? 64 : 1048576;
        spec.pool_tokens = 64 * spec.max_tokens;
        const double most = step_imbalance(&spec, 63);
        CHECK_MSG(most <= 1.05, "64 sequences of 63 tokens, case %d: %.4f", i, most);
    }
    spec.rules = &rule;
    spec.rule_count = 1;
    spec.max_tokens = spec.planned_tokens = 65536;
    spec.pool_tokens = 64 * spec.max_tokens;
    const double mixed = step_imbalance(&spec, 65535);
    CHECK_MSG(mixed <= 1.05, "mixed heads: %.4f", mixed);
}

int main(void)
{
    test_mixed_million();
    test_dense_million();
    test_random_mixes();
    test_like_s2();
    test_sequences();
    return test_end();
}
