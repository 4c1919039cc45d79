/* SPDX-License-Identifier: Apache-2.0 */
/* banyan_sequence_record: the bytes of one cache, copied into another of the same plan, make it
 * answer as the first does. Also where the sequence ends within a block, and when a shorter
 * prefix is asked. */
#include "tests/dist/sequence.h"

enum { TOKENS = 150, BLOCK = 16, HEADS = 6, KV_HEADS = 3, DIM = 24 };

static float q[HEADS * DIM], k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];

static void fill_random(float *x, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) x[i] = test_normal(&seed);
}

static banyan_cache *filled(const banyan_plan *plan, uint64_t seed)
{
    banyan_cache *cache = sequence_cache(plan);
    fill_random(k, TOKENS * KV_HEADS * DIM, seed);
    fill_random(v, TOKENS * KV_HEADS * DIM, seed + 1);
    for (int32_t layer = 0; layer < 2; layer++)
        CHECK(sequence_attend(cache, layer, 0, TOKENS, NULL, k, v, NULL, NULL) == BANYAN_OK);
    return cache;
}

static void copy(banyan_cache *from, banyan_cache *to)
{
    for (int32_t layer = 0; layer < 2; layer++)
        for (int32_t head = 0; head < KV_HEADS; head++) {
            int64_t i = 0, block, other;
            void *source, *target;
            size_t bytes, room;
            for (; banyan_sequence_record(from->sequence, layer, head, i, &block, &source,
                                          &bytes);
                 i++) {
                CHECK(banyan_sequence_record(to->sequence, layer, head, i, &other, &target,
                                             &room));
                CHECK(block == i && other == i && bytes == room && bytes > 0);
                memcpy(target, source, bytes);
            }
            CHECK(i == (TOKENS + BLOCK - 1) / BLOCK);
        }
}

static int is_same(banyan_cache *a, banyan_cache *b, int64_t at)
{
    float out[2][HEADS * DIM], lse[2][HEADS];
    for (int32_t layer = 0; layer < 2; layer++) {
        CHECK(sequence_attend(a, layer, at, 1, q, NULL, NULL, out[0], lse[0]) == BANYAN_OK);
        CHECK(sequence_attend(b, layer, at, 1, q, NULL, NULL, out[1], lse[1]) == BANYAN_OK);
        if (memcmp(out[0], out[1], sizeof out[0]) || memcmp(lse[0], lse[1], sizeof lse[0]))
            return 0;
    }
    return 1;
}

static void test_dtype(banyan_comm *comm, banyan_dtype dtype)
{
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 2;
    spec.heads = HEADS;
    spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.max_tokens = spec.max_rows = TOKENS;
    spec.block_tokens = BLOCK;
    spec.cache_dtype = dtype;
    spec.evict = 0;
    spec.threads = 1;
    banyan_plan *plan = NULL;
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK);
    banyan_cache *a = filled(plan, 1), *b = filled(plan, 5);
    fill_random(q, HEADS * DIM, 9);
    CHECK(!is_same(a, b, TOKENS - 1));
    copy(a, b);
    for (int64_t at = 0; at < TOKENS; at += 7) CHECK(is_same(a, b, at));
    CHECK(is_same(a, b, TOKENS - 1));

    int64_t block;
    void *data;
    size_t bytes;
    CHECK(!banyan_sequence_record(a->sequence, 2, 0, 0, &block, &data, &bytes));
    CHECK(!banyan_sequence_record(a->sequence, 0, KV_HEADS, 0, &block, &data, &bytes));
    CHECK(!banyan_sequence_record(a->sequence, 0, 0, -1, &block, &data, &bytes));
    CHECK(!banyan_sequence_record(NULL, 0, 0, 0, &block, &data, &bytes));
    banyan_cache_destroy(a);
    banyan_cache_destroy(b);
    banyan_plan_destroy(plan);
}

int main(void)
{
    banyan_comm *comm = NULL;
    CHECK(banyan_comm_create("self", NULL, &comm) == BANYAN_OK);
    test_dtype(comm, BANYAN_F32);
    test_dtype(comm, BANYAN_BF16);
    test_dtype(comm, BANYAN_F16);
    banyan_comm_destroy(comm);
    return test_end();
}
