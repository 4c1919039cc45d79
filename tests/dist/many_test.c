/* SPDX-License-Identifier: Apache-2.0 */
/* Batches of up to 64 sequences, and forks of a long one.
 *
 * A batch gives each of its sequences the bits of the same calls made alone, with the same
 * turn, and sends as many messages as one of them. A fork takes its own blocks and one copied
 * block of each head, and answers as a sequence that was given all of it. */
#include "dist/plan.h"
#include "tests/dist/sequence.h"
#include "tests/world.h"

#include <unistd.h>

enum { HEADS = 8, KV_HEADS = 4, DIM = 16, BLOCK = 64, MOST = 64 };

static const banyan_rule rules[] = {{0, -1, 2, 3, "sink_window sink=1 window=100t"},
                                    {0, -1, 4, 5, "s2 stride=4 local=2 per=query"}};

static void set_spec(banyan_spec *spec, int64_t tokens, int32_t sequences, int32_t rows)
{
    banyan_spec_init(spec);
    spec->layers = 1;
    spec->heads = HEADS;
    spec->kv_heads = KV_HEADS;
    spec->key_dim = DIM;
    spec->rules = rules;
    spec->rule_count = 2;
    spec->max_tokens = tokens;
    spec->sequences = sequences;
    spec->pool_tokens = sequences * banyan_blocks(tokens, BLOCK) * BLOCK;
    spec->block_tokens = BLOCK;
    spec->max_rows = rows;
}

/* Rows of sequence `id`: the same numbers whoever asks for them. */
static void rows_of(int id, int what, int64_t at, int32_t rows, int32_t heads, float *to)
{
    for (int32_t i = 0; i < rows; i++) {
        uint64_t seed =
            (uint64_t)(((int64_t)id * 4 + what) * 1000003 + at + i) * 0x9e3779b97f4a7c15u;
        for (int32_t d = 0; d < heads * DIM; d++)
            to[(int64_t)i * heads * DIM + d] = (float)(test_below(&seed, 1024) - 512) / 256;
    }
}

typedef struct arrays {
    float *q, *k, *v, *out, *lse;
} arrays;

static arrays make_arrays(int32_t rows)
{
    return (arrays){sequence_take((int64_t)rows * HEADS * DIM, sizeof(float)),
                    sequence_take((int64_t)rows * KV_HEADS * DIM, sizeof(float)),
                    sequence_take((int64_t)rows * KV_HEADS * DIM, sizeof(float)),
                    sequence_take((int64_t)rows * HEADS * DIM, sizeof(float)),
                    sequence_take((int64_t)rows * HEADS, sizeof(float))};
}

static void free_arrays(arrays *a)
{
    free(a->q), free(a->k), free(a->v), free(a->out), free(a->lse);
}

static void fill_part(const arrays *a, int id, const banyan_rows *part, int64_t row)
{
    rows_of(id, 0, part->at, part->rows, HEADS, a->q + row * HEADS * DIM);
    rows_of(id, 1, part->at, part->rows, KV_HEADS, a->k + row * KV_HEADS * DIM);
    rows_of(id, 2, part->at, part->rows, KV_HEADS, a->v + row * KV_HEADS * DIM);
}

/* Tokens 0 .. length-1 of a sequence, in calls of at most so many rows. */
static void prefill(banyan_cache *cache, banyan_sequence *s, int id, int64_t length,
                    int32_t rows, const arrays *a)
{
    for (banyan_rows part = {.sequence = s}; part.at < length; part.at += part.rows) {
        part.rows = length - part.at < rows ? (int32_t)(length - part.at) : rows;
        fill_part(a, id, &part, 0);
        CHECK_MSG(banyan_attend(cache, 0, &part, 1, NULL, a->k, a->v, NULL, NULL) == BANYAN_OK,
                  "%s", banyan_error_message());
    }
}

static int is_same(const banyan_plan *plan, const float *a, const float *a_lse, const float *b,
                   const float *b_lse, int32_t rows)
{
    for (int32_t h = 0; h < HEADS; h++) {
        if (banyan_plan_home(plan, 0, h) != plan->rank) continue;
        for (int32_t r = 0; r < rows; r++) {
            const int64_t x = (int64_t)r * HEADS + h;
            if (memcmp(a + x * DIM, b + x * DIM, sizeof *a * DIM) || a_lse[x] != b_lse[x])
                return 0;
        }
    }
    return 1;
}

/* ---- batches ----------------------------------------------------------------------------- */

/* The batch's sequences one by one, each alone in a cache of the same plan. */
static void check_alone(const banyan_plan *plan, const banyan_rows *batch, int count,
                        const uint64_t *turn, const arrays *got, int64_t messages)
{
    arrays a = make_arrays(plan->spec.max_rows);
    int64_t row = 0;
    for (int i = 0; i < count; row += batch[i++].rows) {
        banyan_cache *cache = NULL;
        banyan_rows part = batch[i];
        banyan_stats before, after;
        CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
        CHECK(banyan_sequence_create(cache, turn[i], &part.sequence) == BANYAN_OK);
        prefill(cache, part.sequence, i, part.at, plan->spec.max_rows, &a);
        fill_part(&a, i, &part, 0);
        banyan_cache_stats(cache, &before);
        CHECK(banyan_attend(cache, 0, &part, 1, a.q, a.k, a.v, a.out, a.lse) == BANYAN_OK);
        banyan_cache_stats(cache, &after);
        CHECK_MSG(is_same(plan, got->out + row * HEADS * DIM, got->lse + row * HEADS, a.out,
                          a.lse, part.rows),
                  "rank %d of %d: sequence %d of %d has other bits alone", plan->rank,
                  plan->ranks, i, count);
        /* How an all-reduce goes its rounds is chosen by its bytes. */
        if (after.merges - before.merges == 1 && strcmp(plan->spec.merge, "allreduce"))
            CHECK_MSG(after.messages - before.messages == messages,
                      "a batch of %d sends %lld messages, one alone %lld", count,
                      (long long)messages, (long long)(after.messages - before.messages));
        banyan_cache_destroy(cache);
    }
    free_arrays(&a);
}

static void test_batch(banyan_comm *comm, int32_t count, int64_t tokens, int32_t threads,
                       int reproducible, const char *merge, uint64_t seed)
{
    banyan_spec spec;
    set_spec(&spec, tokens, count, 256);
    spec.merge = merge;
    spec.threads = threads;
    spec.reproducible = reproducible;
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = NULL;
    banyan_rows batch[MOST];
    uint64_t turn[MOST];
    int64_t rows = 0;
    if (!plan) return;
    plan->kind->cut_blocks = 2; /* short lists are cut, too */
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    arrays a = make_arrays(spec.max_rows);
    for (int i = 0; i < count; i++) {
        const int64_t length = test_below(&seed, tokens);
        int32_t n = i % 3 ? 1 : 1 + (int32_t)test_below(&seed, 40); /* decode, or a chunk */
        if (n > tokens - length) n = (int32_t)(tokens - length);
        if (rows + n > plan->panel_rows - (count - i)) n = 1;
        turn[i] = (uint64_t)test_below(&seed, 1000);
        batch[i] = (banyan_rows){.at = length, .rows = n};
        CHECK(banyan_sequence_create(cache, turn[i], &batch[i].sequence) == BANYAN_OK);
        prefill(cache, batch[i].sequence, i, length, spec.max_rows, &a);
        rows += n;
    }
    int64_t row = 0;
    for (int i = 0; i < count; row += batch[i++].rows) fill_part(&a, i, &batch[i], row);
    banyan_stats before, after;
    banyan_cache_stats(cache, &before);
    CHECK_MSG(banyan_attend(cache, 0, batch, count, a.q, a.k, a.v, a.out, a.lse) == BANYAN_OK,
              "%s", banyan_error_message());
    banyan_cache_stats(cache, &after);
    CHECK_MSG(after.merges - before.merges == 1, "%lld rows in %lld panels", (long long)rows,
              (long long)(after.merges - before.merges));
    for (int i = 0; reproducible && i < count; i++) turn[i] = 1000 - turn[i];
    check_alone(plan, batch, count, turn, &a, after.messages - before.messages);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    free_arrays(&a);
}

/* ---- forks ------------------------------------------------------------------------------- */

enum { QUESTIONS = 16, ASKED = 40 };

/* The question is asked of a sequence of its own, which was given everything. */
static void check_answer(const banyan_plan *plan, int64_t tokens, int id, const arrays *got)
{
    banyan_cache *cache = NULL;
    banyan_rows part = {.at = tokens, .rows = ASKED};
    arrays a = make_arrays(plan->spec.max_rows);
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    CHECK(banyan_sequence_create(cache, 3, &part.sequence) == BANYAN_OK);
    prefill(cache, part.sequence, 0, tokens, plan->spec.max_rows, &a);
    fill_part(&a, id, &part, 0);
    CHECK(banyan_attend(cache, 0, &part, 1, a.q, a.k, a.v, a.out, a.lse) == BANYAN_OK);
    CHECK_MSG(is_same(plan, got->out, got->lse, a.out, a.lse, ASKED),
              "rank %d of %d: question %d has another answer of a fork", plan->rank,
              plan->ranks, id);
    banyan_cache_destroy(cache);
    free_arrays(&a);
}

static void test_forks(banyan_comm *comm, int64_t tokens, int checked)
{
    banyan_spec spec;
    set_spec(&spec, tokens + ASKED, QUESTIONS + 1, 512);
    spec.pool_tokens = tokens + (QUESTIONS + 1) * 3 * BLOCK;
    spec.reproducible = 1;
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = NULL;
    banyan_sequence *whole = NULL;
    banyan_stats stats;
    if (!plan) return;
    arrays a = make_arrays(spec.max_rows);
    CHECK(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK);
    CHECK(banyan_sequence_create(cache, 0, &whole) == BANYAN_OK);
    prefill(cache, whole, 0, tokens, spec.max_rows, &a);
    banyan_cache_stats(cache, &stats);
    int64_t blocks = sequence_sum(plan, stats.blocks);
    for (int i = 0; i < QUESTIONS; i++) {
        banyan_rows part = {.at = tokens, .rows = ASKED};
        CHECK_MSG(banyan_sequence_fork(whole, tokens, (uint64_t)i, &part.sequence) == BANYAN_OK,
                  "%s", banyan_error_message());
        fill_part(&a, i + 1, &part, 0);
        CHECK_MSG(banyan_attend(cache, 0, &part, 1, a.q, a.k, a.v, a.out, a.lse) == BANYAN_OK,
                  "%s", banyan_error_message());
        banyan_cache_stats(cache, &stats);
        const int64_t now = sequence_sum(plan, stats.blocks);
        /* the copied block, and those that the question begins */
        const int64_t own = banyan_blocks(tokens + ASKED, BLOCK) - tokens / BLOCK;
        CHECK_MSG(now - blocks == own * KV_HEADS, "a fork took %lld blocks, expected %lld",
                  (long long)(now - blocks), (long long)(own * KV_HEADS));
        blocks = now;
        if (i < checked) check_answer(plan, tokens, i + 1, &a);
    }
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    free_arrays(&a);
}

/* With a word: all of it, which takes minutes. */
int main(int argc, char **argv)
{
    (void)argv;
    const int full = argc > 1;
    banyan_comm *comm = test_comm(NULL);
    const int32_t counts[] = {1, 64, 5, 17};
    const int turns = full ? 3 : 1;
    for (int t = 0, i = 0; t < turns; t++)
        for (int m = 0; banyan_merge_row(m); m++, i++)
            test_batch(comm, counts[(i + 1) % 4], full ? 20000 : 700, 1 + i % 2, i % 3 == 2,
                       banyan_merge_row(m)->name, (uint64_t)i);
    test_forks(comm, 65536 - 30, full ? QUESTIONS : 2);
    if (full) test_forks(comm, 1048576 - 30, 2);
    banyan_comm_destroy(comm);
    return test_end();
}
