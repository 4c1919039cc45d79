/* SPDX-License-Identifier: Apache-2.0 */
/* Two tests that no broken merge passes. A sharp needle is found even when a rank is counted
 * twice or an lse is halved; these are not:
 *
 *   graded split   rank r holds n_r copies of one key, n = 1, 2, 3, 5, 8, .., each with the
 *                  value e_r; every other key is e^-40 away. Then out[r] = n_r / sum n. A rank
 *                  twice, a rank lost, a halved, rounded or base-2 lse each move a share by
 *                  8e-3 or more; the bound of 2e-3 leaves room for a bf16 cache (a copy's value
 *                  1 is exact there, and so are equal keys: what remains is fp32 rounding, <
 *                  1e-5).
 *   uniform head   q = 0: every score is 0, so lse = ln(tokens seen) and out is the mean value.
 *                  l is a sum of ones, exact below 2^24, so only log rounds: 1e-5 is ample. */
#include "dist/dist.h"
#include "tests/world.h"

#include <math.h>

enum { DIM = 64, BLOCK = 16, ROWS = 96, TOKENS = 16 * 72 + 5, HEADS = 4 };

static const int copies[8] = {1, 2, 3, 5, 8, 13, 21, 34};

static void set_up(banyan_spec *spec, int32_t kv_heads, const char *placement,
                   const char *merge, banyan_dtype dtype)
{
    banyan_spec_init(spec);
    spec->layers = 1;
    spec->heads = HEADS;
    spec->kv_heads = kv_heads;
    spec->key_dim = DIM;
    spec->scale = 1;
    spec->max_tokens = TOKENS;
    spec->max_rows = ROWS;
    spec->block_tokens = BLOCK;
    spec->cache_dtype = dtype;
    spec->placement = placement;
    spec->merge = merge;
    spec->out = BANYAN_OUT_ALL;
}

/* Append all tokens; attend with the same q in the last rows, and keep the very last's
 * results. */
static void run(const banyan_plan *plan, const float *k, const float *v, const float *q_row,
                float *out_row, float *lse_row, int64_t *messages)
{
    int32_t kv_heads = banyan_plan_spec(plan)->kv_heads;
    static float q[ROWS * HEADS * DIM], out[ROWS * HEADS * DIM], lse[ROWS * HEADS];
    banyan_cache *cache = NULL;
    banyan_rows part = {0};
    CHECK_MSG(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK &&
                  banyan_sequence_create(cache, 0, &part.sequence) == BANYAN_OK,
              "%s", banyan_error_message());
    if (!cache) return;
    for (int32_t i = 0; i < ROWS; i++)
        memcpy(q + i * HEADS * DIM, q_row, sizeof *q * HEADS * DIM);
    int32_t rows = 0;
    for (int64_t at = 0; at < TOKENS; at += rows) {
        rows = TOKENS - at < ROWS ? (int32_t)(TOKENS - at) : ROWS;
        int is_last = at + rows == TOKENS;
        part.at = at;
        part.rows = rows;
        CHECK_MSG(banyan_attend(cache, 0, &part, 1, is_last ? q : NULL, k + at * kv_heads * DIM,
                                v + at * kv_heads * DIM, out, lse) == BANYAN_OK,
                  "%s", banyan_error_message());
    }
    memcpy(out_row, out + (rows - 1) * HEADS * DIM, sizeof *out * HEADS * DIM);
    memcpy(lse_row, lse + (rows - 1) * HEADS, sizeof *lse * HEADS);
    banyan_stats stats;
    banyan_cache_stats(cache, &stats);
    *messages = stats.messages;
    banyan_cache_destroy(cache);
}

/* Copies of the key of each KV head, dealt so that rank r has copies[r] of them if it can. */
static void grade(const banyan_plan *plan, float *k, float *v, int placed[2][8])
{
    int32_t kv_heads = banyan_plan_spec(plan)->kv_heads;
    memset(k, 0, sizeof *k * TOKENS * (size_t)kv_heads * DIM);
    memset(v, 0, sizeof *v * TOKENS * (size_t)kv_heads * DIM);
    for (int32_t g = 0; g < kv_heads; g++) {
        for (int64_t t = 0; t < TOKENS; t++) {
            int64_t at = (t * kv_heads + g) * DIM;
            int rank = banyan_plan_owner(plan, 0, 0, g, t / BLOCK);
            k[at] = -1; /* q is 20 here: a score of -20 for others, 20 for copies */
            v[at + DIM - 1] = 1;
            /* every third token, so that a block is shared by copies and others */
            if (t % 3 != 1 || placed[g][rank] == copies[rank]) continue;
            placed[g][rank]++;
            k[at] = 1;
            v[at + DIM - 1] = 0;
            v[at + rank] = 1;
        }
    }
}

static void test_graded(const banyan_plan *plan, float *k, float *v)
{
    int32_t kv_heads = banyan_plan_spec(plan)->kv_heads, ranks = plan->ranks;
    float q[HEADS * DIM] = {0}, out[HEADS * DIM] = {0}, lse[HEADS] = {0};
    int placed[2][8] = {{0}};
    grade(plan, k, v, placed);
    for (int32_t h = 0; h < HEADS; h++) q[h * DIM] = 20;

    int64_t messages = 0;
    run(plan, k, v, q, out, lse, &messages);
    for (int32_t h = 0; h < HEADS; h++) {
        const int *n = placed[h / (HEADS / kv_heads)];
        double sum = 0;
        for (int r = 0; r < ranks; r++) {
            if (banyan_plan_holds(plan, 0, h / (HEADS / kv_heads), r))
                CHECK_MSG(n[r] == copies[r], "rank %d got %d copies", r, n[r]);
            sum += n[r];
        }
        for (int r = 0; r < ranks; r++)
            CHECK_MSG(fabs(out[h * DIM + r] - n[r] / sum) < 2e-3,
                      "head %d rank %d: mass %g, expected %g", h, r, out[h * DIM + r],
                      n[r] / sum);
        CHECK_MSG(fabs(lse[h] - (20 + log(sum))) < 2e-5, "lse %.7g, expected %.7g", lse[h],
                  20 + log(sum));
    }
    double total = (double)messages;
    CHECK(banyan_comm_allreduce(plan->comm, &total, 1, BANYAN_SUM) == BANYAN_OK);
    CHECK_MSG(ranks < 3 || total > 0, "%d ranks merged without a message", ranks);
}

static void test_mean(const banyan_plan *plan, float *k, float *v)
{
    int32_t kv_heads = banyan_plan_spec(plan)->kv_heads;
    float q[HEADS * DIM] = {0}, out[HEADS * DIM] = {0}, lse[HEADS] = {0};
    uint64_t seed = 7;
    for (int64_t i = 0; i < TOKENS * kv_heads * DIM; i++) k[i] = test_normal(&seed);
    for (int64_t i = 0; i < TOKENS * kv_heads * DIM; i++) v[i] = 1;
    int64_t messages;
    run(plan, k, v, q, out, lse, &messages);
    for (int32_t h = 0; h < HEADS; h++) {
        int64_t seen = 0;
        for (int64_t t = 0; t < TOKENS; t++)
            seen += banyan_plan_reads(plan, 0, h, TOKENS - 1, t);
        CHECK_MSG(fabs(lse[h] - log((double)seen)) < 1e-5,
                  "head %d: lse %.7g, %lld tokens seen", h, lse[h], (long long)seen);
        for (int d = 0; d < DIM; d++)
            CHECK_MSG(fabs(out[h * DIM + d] - 1) < 1e-5, "mean %g", out[h * DIM + d]);
    }
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL);
    static float k[TOKENS * 2 * DIM], v[TOKENS * 2 * DIM];
    const banyan_rule s2 = {0, -1, 0, -1, "s2 stride=4 local=4 per=query"};
    for (int i = 0; i < 16; i++) {
        banyan_spec spec;
        banyan_plan *plan = NULL;
        set_up(&spec, 1 + (i & 1), i & 2 ? "spread" : "line", i & 4 ? "tree" : "direct",
               i & 8 ? BANYAN_BF16 : BANYAN_F32);
        CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
                  banyan_error_message());
        if (plan) test_graded(plan, k, v);
        if (plan) test_mean(plan, k, v);
        banyan_plan_destroy(plan);
        plan = NULL;
        spec.rules = &s2;
        spec.rule_count = 1;
        CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
                  banyan_error_message());
        if (plan) test_mean(plan, k, v);
        banyan_plan_destroy(plan);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
