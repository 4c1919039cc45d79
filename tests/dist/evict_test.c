/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction never shows. The same plan with and without it gives the same bits: for chunks
 * longer than the window, for decode, and after going back as far as rollback_tokens lets one.
 * With it, the memory of a head is bounded by what it keeps, without it by the sequence. */
#include "dist/cache.h"
#include "tests/dist/sequence.h"
#include "tests/world.h"

enum { TOKENS = 1100, ROWS = 180, BLOCK = 16 };

typedef struct pattern_case {
    const char *use, *placement, *merge;
    int32_t rollback, threads;
    banyan_dtype dtype;
} pattern_case;

static const pattern_case cases[] = {
    {"sink_window sink=1 window=4", "line", "direct", 0, 1, BANYAN_F32},
    {"sink_window sink=3t window=50t", "spread", "tree", 37, 1, BANYAN_BF16},
    {"sink_window sink=0 window=1t", "line", "tree", 5, 2, BANYAN_F32},
    {"s2 stride=4 local=3 per=query", "line", "tree", 0, 1, BANYAN_F16},
    {"s2 stride=8 local=2 per=kv", "spread", "direct", 64, 3, BANYAN_F32},
    {"s2 stride=5 local=2 per=kv", "heads", "direct", 16, 1, BANYAN_BF16},
    {"razor sink=20t recent=50t part=0", "heads", "direct", 40, 2, BANYAN_BF16},
    {"razor sink=1 recent=1 part=40", "heads", "tree", 0, 1, BANYAN_F16},
    {"span alpha=-1024 beta=0.5 sink=16t", "line", "tree", 40, 2, BANYAN_BF16},
    {"strided local=2 stride1=2 range1=9 stride2=6 range2=12", "spread", "tree", 33, 1,
     BANYAN_F16},
    {"strided local=3 stride1=4 range1=0", "line", "direct", 0, 2, BANYAN_F32},
};

/* Calls in one fixed, random order: chunks, steps, and ways back. */
static void run(sequence *s, banyan_cache *cache)
{
    uint64_t seed = 11;
    int64_t length = 0, longest = 0;
    int32_t rollback = s->spec->rollback_tokens;
    while (length < TOKENS) {
        int32_t most = test_below(&seed, 3) ? ROWS : 3;
        int64_t at = length;
        if (rollback && length > rollback && test_below(&seed, 3) == 0)
            at = longest - test_below(&seed, rollback + 1);
        if (at > length) at = length;
        int64_t rows = test_below(&seed, most) + 1;
        if (rows > TOKENS - at) rows = TOKENS - at;
        for (int32_t layer = 0; layer < s->spec->layers; layer++)
            CHECK_MSG(sequence_call(s, cache, layer, at, (int32_t)rows, APPEND | ATTEND) ==
                          BANYAN_OK,
                      "%s", banyan_error_message());
        length = at + rows;
        if (length > longest) longest = length;
    }
    /* and as far back as it goes, attending only, which is as far as the last append let it */
    for (int32_t layer = 0; layer < s->spec->layers; layer++)
        for (int64_t at = length - 1 - rollback; at < length; at++)
            if (at >= cache->sequence->layer[layer].floor)
                CHECK_MSG(sequence_call(s, cache, layer, at, 1, ATTEND) == BANYAN_OK, "%s",
                          banyan_error_message());
}

static void test_case(const pattern_case *c, banyan_comm *comm)
{
    uint64_t hash[2] = {0};
    int64_t blocks[2] = {0}, evicted[2] = {0};
    for (int evict = 0; evict < 2; evict++) {
        const banyan_rule rule = {0, -1, 0, -1, c->use};
        banyan_spec spec;
        banyan_spec_init(&spec);
        spec.layers = 2;
        spec.heads = 8;
        spec.kv_heads = 4;
        spec.key_dim = 32;
        spec.max_tokens = TOKENS;
        spec.max_rows = ROWS;
        spec.block_tokens = BLOCK;
        spec.rollback_tokens = c->rollback;
        spec.cache_dtype = c->dtype;
        spec.evict = evict;
        spec.rules = &rule;
        spec.rule_count = 1;
        spec.placement = c->placement;
        spec.merge = c->merge;
        spec.out = BANYAN_OUT_ALL;
        spec.threads = c->threads;
        banyan_plan *plan = sequence_plan(&spec, comm);
        banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
        if (cache) {
            sequence s;
            sequence_make(&s, plan, TOKENS, 3);
            sequence_mark_results(&s);
            run(&s, cache);
            hash[evict] = sequence_results_hash(&s);
            banyan_stats stats;
            banyan_cache_stats(cache, &stats);
            blocks[evict] = sequence_sum(plan, stats.blocks);
            evicted[evict] = sequence_sum(plan, stats.evicted_blocks);
            CHECK(stats.bytes <= stats.capacity_bytes);
            sequence_free(&s);
        }
        banyan_cache_destroy(cache);
        banyan_plan_destroy(plan);
    }
    CHECK_MSG(hash[0] == hash[1], "%s: eviction changed results", c->use);
    CHECK_MSG(blocks[0] == 2 * 4 * ((TOKENS + BLOCK - 1) / BLOCK), "%s: %lld blocks", c->use,
              (long long)blocks[0]);
    CHECK_MSG(evicted[0] == 0 && evicted[1] > 0 && blocks[1] < blocks[0],
              "%s: %lld evicted, %lld left of %lld", c->use, (long long)evicted[1],
              (long long)blocks[1], (long long)blocks[0]);
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) test_case(&cases[i], comm);
    banyan_comm_destroy(comm);
    return test_end();
}
