/* SPDX-License-Identifier: Apache-2.0 */
/* The best of many, against sorting all of them; summaries against their definitions. */
#include "attention/attention.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 300, DIM = 37, ROWS = 11 };

static int best_first(const void *a, const void *b)
{
    const banyan_pick *x = a, *y = b;
    if (x->score > y->score || x->score < y->score) return x->score > y->score ? -1 : 1;
    return x->block < y->block ? -1 : 1;
}

/* Scores with many ties; blocks in any order; offered to one array, or to two that are combined. */
static void test_best(uint64_t *random)
{
    banyan_pick all[MANY], one[MANY], other[MANY], scratch[MANY];
    const int64_t offered = test_below(random, MANY), count = 1 + test_below(random, MANY - 1);
    for (int64_t i = 0; i < offered; i++)
        all[i] = (banyan_pick){(double)test_below(random, 40) - 20, (i * 7919) % 10007};
    banyan_picks_clear(one, count);
    banyan_picks_clear(other, count);
    for (int64_t i = 0; i < offered; i++)
        banyan_picks_offer(test_below(random, 2) ? one : other, count, all[i].score,
                           all[i].block);
    banyan_picks_rank(one, count);
    banyan_picks_rank(other, count);
    banyan_pick *out = test_below(random, 2) ? one : other;
    banyan_picks_combine(out, one, other, count, scratch);
    qsort(all, (size_t)offered, sizeof *all, best_first);
    for (int64_t i = 0; i < count; i++)
        CHECK(i < offered ? out[i].block == all[i].block : out[i].block == BANYAN_NO_BLOCK);
    const int64_t listed = banyan_picks_list(out, count);
    CHECK(listed == (offered < count ? offered : count));
    for (int64_t i = 1; i < listed; i++) CHECK(out[i - 1].block < out[i].block);
}

static void test_summaries(uint64_t *random)
{
    float keys[ROWS * DIM], q[DIM], mean[DIM], bounds[2 * DIM];
    for (int i = 0; i < ROWS * DIM; i++) keys[i] = test_normal(random);
    for (int i = 0; i < DIM; i++) q[i] = test_normal(random);
    const banyan_summary *by_mean = banyan_summary_row(BANYAN_SUMMARY_MEAN);
    const banyan_summary *by_bounds = banyan_summary_row(BANYAN_SUMMARY_BOUNDS);
    CHECK(by_mean->vectors == 1 && by_bounds->vectors == 2);
    by_mean->make(keys, ROWS, DIM, mean);
    by_bounds->make(keys, ROWS, DIM, bounds);
    double pooled = 0, best = -INFINITY, size = 0;
    for (int r = 0; r < ROWS; r++) {
        double score = 0;
        for (int d = 0; d < DIM; d++) {
            score += (double)q[d] * (double)keys[r * DIM + d];
            size += fabs((double)q[d] * (double)keys[r * DIM + d]);
        }
        pooled += score / ROWS;
        best = fmax(best, score);
    }
    CHECK(fabs(by_mean->score(mean, q, DIM) - pooled) <= size * 0x1p-22);
    CHECK(by_bounds->score(bounds, q, DIM) >= best - size * 0x1p-22);
    /* of one key both are its score */
    by_mean->make(keys, 1, DIM, mean);
    by_bounds->make(keys, 1, DIM, bounds);
    CHECK(fabs(by_mean->score(mean, q, DIM) - by_bounds->score(bounds, q, DIM)) <=
          size * 0x1p-22);
}

/* A NaN in a key, wherever it is, makes the block one of the best. */
static void test_nan(uint64_t *random)
{
    for (int32_t s = 0; banyan_summary_row(s); s++)
        for (int row = 0; row < ROWS; row++) {
            float keys[ROWS * DIM], q[DIM], summary[2 * DIM];
            banyan_pick pick[1];
            for (int i = 0; i < ROWS * DIM; i++) keys[i] = test_normal(random);
            for (int i = 0; i < DIM; i++) q[i] = test_normal(random);
            keys[row * DIM + 3] = NAN;
            banyan_summary_row(s)->make(keys, ROWS, DIM, summary);
            banyan_picks_clear(pick, 1);
            banyan_picks_offer(pick, 1, 1e300, 1);
            banyan_picks_offer(pick, 1, banyan_summary_row(s)->score(summary, q, DIM), 2);
            CHECK(pick->block == 2);
        }
}

int main(void)
{
    uint64_t random = 9;
    for (int trial = 0; trial < 2000; trial++) test_best(&random);
    for (int trial = 0; trial < 200; trial++) test_summaries(&random);
    test_nan(&random);
    return test_end();
}
