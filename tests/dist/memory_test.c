/* SPDX-License-Identifier: Apache-2.0 */
/* Capacity is enough, whatever is called in whatever order, and not much more than enough; what
 * is kept is counted right; more than there is gets refused. */
#include "tests/dist/plans.h"

enum { MAX_BLOCKS = 4096, MAX_RANKS = 8 };

/* One KV head of one layer as the rules of a cache say: which blocks are there. */
typedef struct sequence {
    const banyan_plan *plan;
    int32_t kv_head;
    char held[MAX_BLOCKS];
    int64_t length, longest;
} sequence;

static const banyan_head_plan *head_of(const sequence *s)
{
    return &s->plan->kind[0].head[s->kv_head];
}

static void append(sequence *s, int64_t at, int32_t rows)
{
    const int64_t block = s->plan->spec.block_tokens;
    const int64_t row =
        at > s->plan->spec.rollback_tokens ? at - s->plan->spec.rollback_tokens : 0;
    for (int64_t b = 0; b < MAX_BLOCKS; b++) {
        if (b * block >= at) s->held[b] = 0; /* forgotten */
        if (s->plan->spec.evict &&
            !banyan_retention_keeps(&head_of(s)->retention, b, row, (int32_t)block))
            s->held[b] = 0;
    }
    for (int64_t b = at / block; b <= (at + rows - 1) / block; b++) s->held[b] = 1;
    s->length = at + rows;
    if (s->length > s->longest) s->longest = s->length;
}

static void count(const sequence *s, int64_t *blocks)
{
    memset(blocks, 0, MAX_RANKS * sizeof *blocks);
    for (int64_t b = 0; b < MAX_BLOCKS; b++)
        if (s->held[b]) blocks[banyan_plan_owner(s->plan, 0, 0, s->kv_head, b)]++;
}

static void check_room(const sequence *s)
{
    int64_t blocks[MAX_RANKS];
    count(s, blocks);
    for (int32_t r = 0; r < s->plan->ranks; r++) {
        const int64_t room = banyan_plan_capacity(s->plan->kind, s->kv_head, r);
        CHECK_MSG(blocks[r] <= room, "rank %d of %d holds %lld blocks, has room for %lld",
                  (int)r, (int)s->plan->ranks, (long long)blocks[r], (long long)room);
    }
}

/* After a row of decoding, what is held is what the plan says is kept. */
static void check_kept(const sequence *s)
{
    int64_t blocks[MAX_RANKS];
    count(s, blocks);
    for (int32_t r = 0; r < s->plan->ranks; r++) {
        const int64_t kept = banyan_plan_kept(s->plan, s->plan->kind, s->kv_head, r, s->length);
        CHECK_MSG(blocks[r] == kept, "rank %d holds %lld blocks at %lld, the plan says %lld",
                  (int)r, (long long)blocks[r], (long long)s->length, (long long)kept);
    }
}

static void live(const banyan_plan *plan, int32_t kv_head, uint64_t *seed)
{
    static sequence s;
    const banyan_spec *spec = &plan->spec;
    memset(&s, 0, sizeof s);
    s.plan = plan;
    s.kv_head = kv_head;
    while (s.length < spec->max_tokens) {
        const int64_t left = spec->max_tokens - s.length;
        const int64_t most = spec->max_rows < left ? spec->max_rows : left;
        int64_t at = s.length;
        if (test_below(seed, 4) == 0) { /* go back, but no further than is allowed */
            const int64_t lowest = s.longest - spec->rollback_tokens;
            at -= test_below(seed, s.length - (lowest > 0 ? lowest : 0) + 1);
        }
        append(&s, at, (int32_t)(test_below(seed, 2) ? most : 1 + test_below(seed, most)));
        check_room(&s);
        if (s.length < spec->max_tokens && test_below(seed, 4) == 0) {
            append(&s, s.length, 1);
            check_room(&s);
            if (s.length == s.longest) check_kept(&s);
        }
    }
}

/* Blocks that a holder is dealt when all are kept, with some other turn. */
static int64_t dealt(const banyan_plan *plan, int32_t kv_head, int32_t index, uint64_t turn)
{
    const banyan_head_plan *head = &plan->kind[0].head[kv_head];
    const int64_t blocks = banyan_blocks(plan->spec.max_tokens, plan->spec.block_tokens);
    int64_t count = 0;
    for (int64_t b = 0; b < blocks; b++) count += banyan_head_owner(head, turn, b) == index;
    return count;
}

/* A holder's room is enough for any turn, and of a head that keeps all not much more: a run of
 * n numbers is cut into 2 log2(n) aligned ones at most, each of which is less than one off. The
 * whole head's room, when one rank has it, is what it keeps and one call more. */
static void check_tight(const banyan_plan *plan, int32_t kv_head)
{
    const banyan_spec *spec = &plan->spec;
    const banyan_placed *placed = &plan->kind[0].head[kv_head].placed;
    const int64_t call =
        banyan_blocks((int64_t)spec->max_rows + spec->rollback_tokens, spec->block_tokens) + 1;
    for (int32_t i = 0; i < placed->count; i++) {
        const int32_t rank = placed->holder[i].rank;
        const int64_t room = banyan_plan_capacity(plan->kind, kv_head, rank);
        const int64_t kept =
            banyan_plan_kept(plan, plan->kind, kv_head, rank, spec->max_tokens);
        if (placed->count == 1)
            CHECK_MSG(room <= kept + call, "room %lld, kept %lld, call %lld", (long long)room,
                      (long long)kept, (long long)call);
        const int64_t blocks = banyan_blocks(spec->max_tokens, spec->block_tokens);
        const int is_dense =
            banyan_retention_count(&plan->kind[0].head[kv_head].retention, blocks) == blocks;
        for (uint64_t turn = 1; turn < 1 << 20 && (!spec->evict || is_dense); turn *= 5)
            CHECK(dealt(plan, kv_head, i, turn) <= room);
        if (is_dense) CHECK(room >= kept && room <= kept + 20);
        if (!spec->evict && placed->count == 1) CHECK(room == kept);
    }
}

static void test_lives(void)
{
    static const char *const uses[] = {"s2 stride=16 local=16",
                                       "s2 stride=7 local=3 offset=1 per=query",
                                       "s2 stride=5 local=200t",
                                       "sink_window sink=1 window=16",
                                       "sink_window sink=4t window=77t",
                                       "sink_window sink=3 window=300t",
                                       "dense"};
    uint64_t seed = 7;
    for (int i = 0; i < 60; i++) {
        const banyan_rule rules[] = {{0, -1, 0, -1, uses[test_below(&seed, 7)]},
                                     {0, -1, 2, 5, uses[test_below(&seed, 7)]}};
        banyan_spec spec = small_spec();
        spec.layers = 1;
        spec.block_tokens = 16 << test_below(&seed, 3);
        spec.max_tokens = 1 + test_below(&seed, 12000);
        spec.max_rows = 1 + (int32_t)test_below(&seed, 600);
        spec.rollback_tokens = (int32_t)(test_below(&seed, 2) * test_below(&seed, 200));
        spec.evict = i % 5 != 0;
        spec.rules = rules;
        spec.rule_count = 2;
        spec.placement = i % 3 ? "line" : "spread";
        char cluster[32];
        snprintf(cluster, sizeof cluster, "rank:%d", 1 + i % MAX_RANKS);
        planned p = plan_on(cluster, &spec);
        CHECK_MSG(p.plan, "%s", banyan_error_message());
        for (int32_t g = 0; g < spec.kv_heads; g++) {
            live(p.plan, g, &seed);
            check_tight(p.plan, g);
        }
        unplan(&p);
    }
}

/* Llama-3-8B's shape, one layer, 1048576 tokens on 4 ranks: 4 GiB dense, at most 0.27 with
 * S2. */
static void test_million(void)
{
    const double gib = 1024.0 * 1024 * 1024;
    const banyan_rule rule = {0, -1, 0, -1, "s2 stride=16 local=16"};
    banyan_spec spec = small_spec();
    spec.layers = 1;
    spec.heads = 32;
    spec.kv_heads = 8;
    spec.key_dim = 128;
    spec.max_tokens = 1048576;
    for (int s2 = 0; s2 < 2; s2++) {
        for (spec.max_rows = 512; spec.max_rows <= 4096; spec.max_rows *= 8) {
            spec.rules = &rule;
            spec.rule_count = s2;
            planned p = plan_on("rank:4", &spec);
            double bytes = 0;
            for (int32_t r = 0; r < 4; r++)
                bytes += (double)banyan_plan_capacity_bytes(p.plan, r);
            /* one head: 16384 / 16 blocks for good; a window of ceil((512 + 15 x 64 - 1) / 64)
             * + 1 blocks, one of which is among them */
            if (s2 && spec.max_rows == 512)
                CHECK(banyan_plan_capacity(p.plan->kind, 0, 0) == 1024 + 24 - 1);
            if (s2)
                CHECK_MSG(bytes <= 0.27 * gib, "%.4f GiB", bytes / gib);
            else
                CHECK_MSG(bytes == 4 * gib, "%.4f GiB", bytes / gib);
            unplan(&p);
        }
    }
}

/* A rank's need against a limit that its plan states, and the same plan without. */
static void test_limit(void)
{
    banyan_spec spec = small_spec();
    spec.layers = 32;
    spec.heads = 32;
    spec.kv_heads = 8;
    spec.key_dim = 128;
    spec.max_tokens = 1048576;
    planned p = plan_on("rank:2", &spec); /* 64 GiB each: nobody asks an imaginary machine */
    CHECK(p.plan);
    unplan(&p);
    spec.memory_limit = INT64_C(16) << 30;
    p = plan_on("rank:2", &spec);
    CHECK(p.status == BANYAN_ERR_MEMORY && !p.plan);
    CHECK_MSG(strstr(banyan_error_message(), "needs 64.0 GiB per rank, 16.0 free"), "%s",
              banyan_error_message());
    unplan(&p);
    spec.memory_limit = INT64_C(66) << 30;
    p = plan_on("rank:2", &spec);
    CHECK_MSG(p.plan, "%s", banyan_error_message());
    unplan(&p);

    spec.memory_limit = 0; /* this machine: 2 ^ 40 tokens are too many for any */
    spec.max_tokens = INT64_C(1) << 40;
    banyan_plan *plan = NULL;
    CHECK(banyan_comm_create("self", NULL, &p.comm) == BANYAN_OK);
    CHECK(banyan_plan_create(&spec, p.comm, &plan) == BANYAN_ERR_MEMORY);
    CHECK_MSG(strstr(banyan_error_message(), "GiB per rank, "), "%s", banyan_error_message());
    CHECK_MSG(strstr(banyan_error_message(), " free"), "%s", banyan_error_message());
    unplan(&p);
}

int main(void)
{
    test_lives();
    test_million();
    test_limit();
    return test_end();
}
