/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan answers, against loops over blocks; that it is the same when made again; and that
 * the things which must not change it do not. */
#include "tests/dist/plans.h"

#include <math.h>

static const banyan_rule mixed[] = {
    {0, -1, 0, -1, "s2 stride=8 local=4 per=query"},
    {0, -1, 12, 15, "dense"},
    {1, 2, 4, 7, "sink_window sink=1 window=300t"},
    {2, 2, 3, 3, "dense"},
};

static banyan_spec mixed_spec(void)
{
    banyan_spec spec = small_spec();
    spec.layers = 4;
    spec.heads = 16;
    spec.kv_heads = 4;
    spec.max_tokens = 20000;
    spec.rules = mixed;
    spec.rule_count = 4;
    return spec;
}

/* The last matching rule wins; layers with equal rules are of one kind. */
static void test_rules(void)
{
    banyan_spec spec = mixed_spec();
    planned p = plan_on("rank:3", &spec);
    const banyan_plan *plan = p.plan;
    CHECK(plan->kinds == 3);
    CHECK(plan->kind_of_layer[0] == plan->kind_of_layer[3]);
    CHECK(plan->kind[0].layer_count == 2 && plan->kind[1].first_layer == 1);
    CHECK(strcmp(plan->kind[0].use[3], "s2 stride=8 local=4 per=query") == 0);
    CHECK(strcmp(plan->kind[1].use[5], "sink_window sink=1 window=300t") == 0);
    CHECK(strcmp(plan->kind[2].use[3], "dense") == 0);
    CHECK(plan->kind[0].head[0].class_count == 4); /* four residues */
    CHECK(plan->kind[0].head[3].class_count == 1 && plan->kind[1].head[1].class_count == 1);
    CHECK(plan->kind[0].head[3].classes[0].heads == 15);
    unplan(&p);
    spec.rule_count = 0;
    p = plan_on("rank:3", &spec);
    CHECK(p.plan->kinds == 1 && strcmp(p.plan->kind[0].use[0], "dense") == 0);
    unplan(&p);
}

/* Groups wider than a tile: subgroups of 64 units, each with its own classes. A unit is two
 * query heads where neighbours read alike. */
static void test_wide_group(void)
{
    banyan_rule rule = {0, -1, 101, -1, "sink_window sink=1 window=4"};
    banyan_spec spec = small_spec();
    spec.heads = 150;
    spec.kv_heads = 1;
    spec.rules = &rule;
    spec.rule_count = 1;
    planned p = plan_on("rank:1", &spec);
    const banyan_head_plan *head = &p.plan->kind[0].head[0];
    CHECK(p.plan->kind[0].shape.unit == 1 && p.plan->kind[0].shape.subgroups == 3);
    CHECK(head->class_count == 4 && head->subgroup_first[1] == 1);
    CHECK(head->subgroup_first[2] == 3 && head->subgroup_first[3] == 4);
    CHECK(head->classes[0].heads == UINT64_MAX);
    CHECK(head->classes[1].heads == (UINT64_C(1) << 37) - 1);
    CHECK(head->classes[2].heads == ~((UINT64_C(1) << 37) - 1));
    CHECK(head->classes[3].heads == (UINT64_C(1) << 22) - 1);
    CHECK(banyan_plan_reads(p.plan, 0, 100, 5000, 2500));
    CHECK(!banyan_plan_reads(p.plan, 0, 101, 5000, 2500));
    CHECK(!banyan_plan_reads(p.plan, 0, 149, 5000, 2500));
    unplan(&p);

    rule.first_head = 100;
    p = plan_on("rank:1", &spec);
    head = &p.plan->kind[0].head[0];
    CHECK(p.plan->kind[0].shape.unit == 2 && p.plan->kind[0].shape.subgroups == 2);
    CHECK(head->class_count == 3 && head->subgroup_first[1] == 2);
    CHECK(head->classes[0].heads == (UINT64_C(1) << 50) - 1);
    CHECK(head->classes[1].heads == ~((UINT64_C(1) << 50) - 1));
    CHECK(head->classes[2].heads == (UINT64_C(1) << 11) - 1);
    CHECK(banyan_plan_reads(p.plan, 0, 99, 5000, 2500));
    CHECK(!banyan_plan_reads(p.plan, 0, 100, 5000, 2500));
    CHECK(!banyan_plan_reads(p.plan, 0, 149, 5000, 2500));
    unplan(&p);
}

/* read_blocks and pairs of every rank, by asking every block of every head. */
static void count_reads(const banyan_plan *plan, int64_t tokens, int64_t *blocks,
                        int64_t *pairs)
{
    const banyan_spec *spec = &plan->spec;
    for (int32_t layer = 0; layer < spec->layers; layer++)
        for (int32_t g = 0; g < spec->kv_heads; g++)
            for (int64_t b = 0; b <= tokens / spec->block_tokens; b++) {
                int64_t readers = 0;
                for (int32_t h = g * plan->kind[0].shape.group;
                     h < (g + 1) * plan->kind[0].shape.group; h++) {
                    int reads = 0; /* any token of the block */
                    for (int64_t t = b * spec->block_tokens;
                         !reads && t < (b + 1) * spec->block_tokens && t <= tokens; t++)
                        reads = banyan_plan_reads(plan, layer, h, tokens, t);
                    readers += reads;
                }
                const int owner = banyan_plan_owner(plan, 0, layer, g, b);
                CHECK(banyan_plan_holds(plan, layer, g, owner));
                blocks[owner] += readers > 0;
                pairs[owner] += readers;
            }
}

static void test_shares(void)
{
    static const int64_t lengths[] = {0, 1, 63, 64, 300, 4000, 12345};
    for (int i = 0; i < 7; i++) {
        banyan_spec spec = mixed_spec();
        planned p = plan_on(i % 2 ? "rank:3" : "node:2 rank:7", &spec);
        int64_t blocks[14] = {0}, pairs[14] = {0}, messages = 0;
        count_reads(p.plan, lengths[i], blocks, pairs);
        for (int32_t r = 0; r < p.plan->ranks; r++) {
            banyan_share share;
            CHECK(banyan_plan_share(p.plan, r, 1, lengths[i], &share) == BANYAN_OK);
            CHECK_MSG(share.read_blocks == blocks[r] && share.pairs == pairs[r],
                      "rank %d at %lld: %lld blocks, %lld pairs; not %lld, %lld", (int)r,
                      (long long)lengths[i], (long long)share.read_blocks,
                      (long long)share.pairs, (long long)blocks[r], (long long)pairs[r]);
            CHECK(share.kept_bytes ==
                  share.kept_blocks * (int64_t)p.plan->kind[0].shape.record_bytes);
            CHECK(share.capacity_bytes >= share.kept_bytes && share.workspace_bytes > 0);
            messages += share.messages;
        }
        int64_t all = 0;
        for (int32_t k = 0; k < p.plan->kinds; k++) {
            banyan_traffic traffic;
            banyan_schedule_cost(&p.plan->kind[k].schedule, &p.comm->topology, 1, -1, &traffic);
            all += traffic.messages * p.plan->kind[k].layer_count;
        }
        CHECK(messages == all && all > 0);
        unplan(&p);
    }
}

/* balance: prefill weighs what selectors select, over all rows. */
static void test_prefill_weight(void)
{
    banyan_spec spec = mixed_spec();
    spec.balance = BANYAN_BALANCE_PREFILL;
    planned p = plan_on("rank:3", &spec);
    const banyan_plan *plan = p.plan;
    const int64_t own_blocks = banyan_blocks(spec.max_tokens, spec.block_tokens);
    for (int32_t k = 0; k < plan->kinds; k++)
        for (int32_t g = 0; g < spec.kv_heads; g++) {
            const banyan_head_plan *head = &plan->kind[k].head[g];
            double sum = 0;
            for (int32_t c = 0; c < head->class_count; c++)
                for (int64_t own = 0; own < own_blocks; own++) {
                    banyan_selection s;
                    const banyan_pattern *pattern = &head->classes[c].pattern;
                    banyan_pattern_select(pattern, own * 64, own * 64 + 63, &s);
                    for (int32_t i = 0; i < s.count; i++)
                        sum += (double)((s.run[i].last - s.run[i].first) / s.run[i].step + 1) *
                               __builtin_popcountll(head->classes[c].heads);
                }
            CHECK_MSG(head->weight == sum, "kind %d, KV head %d: %.1f, not %.1f", (int)k,
                      (int)g, head->weight, sum);
        }
    unplan(&p);
}

/* Homes hold the head; `first` is the largest holder, `dealt` gives every holder its part. */
static void test_homes(void)
{
    banyan_spec spec = small_spec();
    spec.layers = 1;
    spec.heads = 64;
    spec.kv_heads = 2;
    static const double bandwidth[] = {1, 2, 1};
    spec.bandwidth = bandwidth; /* the middle rank has half of both heads */
    planned p = plan_on("rank:3", &spec);
    for (int32_t h = 0; h < 64; h++) {
        const int home = banyan_plan_home(p.plan, 0, h);
        CHECK(banyan_plan_holds(p.plan, 0, h / 32, home));
        CHECK_MSG(home == (h < 32 ? 0 : 1), "head %d: %d", (int)h, home); /* ties: the lowest */
    }
    unplan(&p);
    spec.home = BANYAN_HOME_DEALT;
    p = plan_on("rank:3", &spec);
    int32_t homes[3] = {0};
    for (int32_t h = 0; h < 64; h++) homes[banyan_plan_home(p.plan, 0, h)]++;
    CHECK_MSG(homes[0] == 16 && homes[1] == 32 && homes[2] == 16, "%d %d %d", (int)homes[0],
              (int)homes[1], (int)homes[2]);
    CHECK(banyan_schedule_replay(&p.plan->kind[0].schedule, &p.comm->topology,
                                 p.plan->kind[0].item, 64, 0) == BANYAN_OK);
    unplan(&p);
}

static uint64_t hash_of(const banyan_spec *spec, const char *cluster)
{
    planned p = plan_on(cluster, spec);
    CHECK_MSG(p.plan, "%s", banyan_error_message());
    const uint64_t hash = p.plan ? banyan_plan_hash(p.plan) : 0;
    unplan(&p);
    return hash;
}

#define CHANGES(field, value)                                                                  \
    do {                                                                                       \
        banyan_spec spec = mixed_spec();                                                       \
        spec.field = value;                                                                    \
        CHECK(hash_of(&spec, "node:2 rank:3") != before);                                      \
    } while (0)

static void test_hash(void)
{
    banyan_spec same = mixed_spec();
    const uint64_t before = hash_of(&same, "node:2 rank:3");
    CHECK(hash_of(&same, "node:2 rank:3") == before);
    CHECK(hash_of(&same, "node:3 rank:2") != before);
    same.threads = 5; /* may differ from machine to machine */
    same.memory_limit = INT64_C(1) << 50;
    CHECK(hash_of(&same, "node:2 rank:3") == before);
    static const double bandwidth[] = {1, 1, 1, 1, 1, 2};
    CHANGES(layers, 5);
    CHANGES(key_dim, 80);
    CHANGES(value_dim, 80);
    CHANGES(scale, 0.5f);
    CHANGES(max_tokens, 20001);
    CHANGES(planned_tokens, 10000);
    CHANGES(max_rows, 100);
    CHANGES(rollback_tokens, 1);
    CHANGES(block_tokens, 32);
    CHANGES(cache_dtype, BANYAN_F32);
    CHANGES(in_dtype, BANYAN_BF16);
    CHANGES(out_dtype, BANYAN_BF16);
    CHANGES(evict, 0);
    CHANGES(placement, "spread");
    CHANGES(balance, BANYAN_BALANCE_PREFILL);
    CHANGES(home, BANYAN_HOME_DEALT);
    CHANGES(out, BANYAN_OUT_ALL);
    CHANGES(lost_rank, 2);
    CHANGES(lost_layer, 2);
    CHANGES(rule_count, 3);
    CHANGES(bandwidth, bandwidth);
}

/* evict: false keeps more under the same placement. */
static void test_evict_off(void)
{
    banyan_spec spec = mixed_spec();
    spec.rollback_tokens = 77;
    planned p = plan_on("rank:7", &spec);
    spec.evict = 0;
    planned q = plan_on("rank:7", &spec);
    for (int32_t layer = 0; layer < spec.layers; layer++) {
        for (int32_t g = 0; g < spec.kv_heads; g++)
            for (int64_t b = 0; b < 313; b++)
                CHECK(banyan_plan_owner(p.plan, 0, layer, g, b) ==
                      banyan_plan_owner(q.plan, 0, layer, g, b));
        for (int32_t h = 0; h < spec.heads; h++)
            CHECK(banyan_plan_home(p.plan, layer, h) == banyan_plan_home(q.plan, layer, h));
    }
    int64_t all = 0;
    for (int32_t r = 0; r < 7; r++) {
        banyan_share share;
        CHECK(banyan_plan_share(q.plan, r, 1, spec.max_tokens, &share) == BANYAN_OK);
        all += share.kept_blocks;
    }
    CHECK(all == (int64_t)spec.layers * spec.kv_heads * 313);
    unplan(&p);
    unplan(&q);
}

static void note(void *arg, banyan_log_level level, const char *message)
{
    if (level == BANYAN_LOG_WARN) snprintf(arg, 256, "%s", message);
}

/* 8 heads reach 8 of 16 residues at most: said, and with strict refused. */
static void test_coverage(void)
{
    const char *words =
        "layers 1-3: heads cover 8 of 16 residues, 50.0 % of the far context is invisible";
    char logged[256] = "";
    const banyan_rule rules[] = {{1, -1, 0, -1, "s2 stride=16 local=16 step=1 per=query"},
                                 {0, 0, 0, -1, "sink_window sink=1 window=4"},
                                 {1, -1, 0, 0, "dense"}};
    banyan_spec spec = small_spec();
    spec.layers = 4;
    spec.rules = rules;
    spec.rule_count = 2;
    banyan_log_set(BANYAN_LOG_WARN, note, logged);
    planned p = plan_on("rank:3", &spec);
    CHECK_MSG(p.plan && strcmp(p.plan->warnings, words) == 0, "%s", p.plan->warnings);
    CHECK_MSG(strcmp(logged, words) == 0, "%s", logged);
    unplan(&p);
    spec.strict = 1;
    p = plan_on("rank:3", &spec);
    CHECK(p.status == BANYAN_ERR_CONFIG && strstr(banyan_error_message(), words));
    unplan(&p);
    spec.rule_count = 3; /* a dense head sees everything */
    p = plan_on("rank:3", &spec);
    CHECK_MSG(p.plan && !p.plan->warnings[0], "%s", banyan_error_message());
    unplan(&p);
    banyan_log_set(BANYAN_LOG_WARN, NULL, NULL);
}

/* One with 1024 ranks, 32 layers and 128 heads: nothing grows with tokens or ranks squared. */
static void test_large(void)
{
    const banyan_rule rules[] = {{0, -1, 0, -1, "s2 stride=16 local=16"},
                                 {0, -1, 0, 15, "dense"}};
    banyan_spec spec = small_spec();
    spec.layers = 32;
    spec.heads = 128;
    spec.kv_heads = 16;
    spec.max_tokens = INT64_C(1) << 24;
    spec.rules = rules;
    spec.rule_count = 2;
    planned p = plan_on("node:128 rank:8", &spec);
    CHECK_MSG(p.plan, "%s", banyan_error_message());
    CHECK(banyan_schedule_replay(&p.plan->kind[0].schedule, &p.comm->topology,
                                 p.plan->kind[0].item, 128, 0) == BANYAN_OK);
    unplan(&p);
}

int main(void)
{
    test_rules();
    test_wide_group();
    test_shares();
    test_prefill_weight();
    test_homes();
    test_hash();
    test_evict_off();
    test_coverage();
    test_large();
    return test_end();
}
