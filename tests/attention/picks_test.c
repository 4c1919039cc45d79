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

/* Scores with many ties; blocks in any order; offered to one array, or to two that are
 * combined. */
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

/* By a kind of summary, of queries that choose together. */
static double score(int32_t by, const float *summary, const double *q, int queries)
{
    const banyan_summary *row = banyan_summary_row(by);
    double sum[BANYAN_SUMMARY_VECTORS * DIM] = {0};
    float pooled[BANYAN_SUMMARY_VECTORS * DIM];
    for (int i = 0; i < queries; i++) row->add(q + i * DIM, DIM, sum);
    for (int i = 0; i < row->vectors * DIM; i++) pooled[i] = (float)sum[i];
    return banyan_summary_score(summary, pooled, row->vectors * DIM, summary);
}

/* Of some queries that choose together, the sums of what each says alone, by the definition:
 * its product with the mean; the sum of the larger of its numbers' products with the two
 * bounds, which is at least its product with any key. */
static void test_summaries(uint64_t *random)
{
    enum { QUERIES = 5 };
    float keys[ROWS * DIM], mean[DIM], bounds[2 * DIM];
    double q[QUERIES * DIM], pooled = 0, most = 0, size = 0;
    const int rows = 1 + test_below(random, ROWS), queries = 1 + test_below(random, QUERIES);
    for (int i = 0; i < rows * DIM; i++) keys[i] = test_normal(random);
    for (int i = 0; i < queries * DIM; i++) q[i] = (double)test_normal(random);
    banyan_summary_row(BANYAN_SUMMARY_MEAN)->make(keys, rows, DIM, mean);
    banyan_summary_row(BANYAN_SUMMARY_BOUNDS)->make(keys, rows, DIM, bounds);
    for (int i = 0; i < queries; i++) {
        double best = -INFINITY, bound = 0;
        for (int d = 0; d < DIM; d++) {
            double largest = -INFINITY;
            for (int r = 0; r < rows; r++) {
                const double product = q[i * DIM + d] * (double)keys[r * DIM + d];
                pooled += product / rows;
                largest = fmax(largest, product);
                size += fabs(product);
            }
            bound += largest;
        }
        for (int r = 0; r < rows; r++) {
            double product = 0;
            for (int d = 0; d < DIM; d++) product += q[i * DIM + d] * (double)keys[r * DIM + d];
            best = fmax(best, product);
        }
        CHECK(score(BANYAN_SUMMARY_BOUNDS, bounds, q + i * DIM, 1) >= best - size * 0x1p-21);
        most += bound;
    }
    CHECK(fabs(score(BANYAN_SUMMARY_MEAN, mean, q, queries) - pooled) <= size * 0x1p-21);
    CHECK(fabs(score(BANYAN_SUMMARY_BOUNDS, bounds, q, queries) - most) <= size * 0x1p-21);
}

/* The fewest of the best that have a share of the softmax over all, against plain float64; and
 * the same bits whoever adds what, in which order. */
static void test_tally(uint64_t *random)
{
    enum { SOME = 60 };
    banyan_pick pick[SOME];
    banyan_tally tally[3], sum, other;
    const double spread = (double)test_below(random, 40),
                 mass = 0.05 + 0.9 * (double)test_below(random, 1000) / 1000;
    const int64_t count = 1 + test_below(random, SOME);
    double all = 0, reached = 0;
    for (int i = 0; i < 3; i++) banyan_tally_clear(&tally[i]);
    banyan_picks_clear(pick, SOME);
    for (int64_t i = 0; i < count; i++) {
        const double score = 300 * (double)test_normal(random) * (spread > 35) +
                             spread * (double)test_normal(random);
        banyan_picks_offer(pick, SOME, score, i);
        banyan_tally_add(&tally[test_below(random, 3)], score * 0.5);
    }
    banyan_picks_rank(pick, SOME);
    banyan_tally_combine(&sum, &tally[0], &tally[1]);
    banyan_tally_combine(&sum, &sum, &tally[2]);
    banyan_tally_clear(&other);
    for (int64_t i = count; i-- > 0;) banyan_tally_add(&other, pick[i].score * 0.5);
    CHECK(!memcmp(&sum, &other, sizeof sum));
    for (int64_t i = 0; i < count; i++) all += exp(0.5 * (pick[i].score - pick[0].score));
    int64_t fewest = 0;
    int near = 0;
    while (fewest < count && (!fewest || reached < mass * all)) {
        reached += exp(0.5 * (pick[fewest++].score - pick[0].score));
        near |= fabs(reached / all - mass) < 1e-9;
    }
    const int64_t got = banyan_tally_reach(&sum, pick, SOME, 0.5, mass);
    CHECK_MSG(near || got == fewest, "%lld of %lld have %g of the mass, not %lld",
              (long long)fewest, (long long)count, mass, (long long)got);
    CHECK(banyan_tally_reach(&sum, pick, 1, 0.5, mass) == 1);
}

/* The fewest of the best that have a share, against sorting all of them. */
static void test_reach(uint64_t *random)
{
    banyan_pick pick[MANY] = {{0}}, sorted[MANY];
    const int64_t count = test_below(random, MANY), least = test_below(random, 9);
    const double mass = (double)test_below(random, 1000) / 1000 + 0.0003;
    double all = 0, reached = 0;
    for (int64_t i = 0; i < count; i++) { /* whole numbers add up to the same in any order */
        pick[i] = (banyan_pick){(double)test_below(random, 30), (i * 7919) % 10007};
        all += pick[i].score;
    }
    memcpy(sorted, pick, sizeof sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, best_first);
    int64_t n = 0;
    while (n < count && (n < least || reached < mass * all)) reached += sorted[n++].score;
    CHECK(banyan_picks_reach(pick, count, mass, least) == n);
    for (int64_t i = 0; i < n; i++) CHECK(pick[count - 1 - i].block == sorted[i].block);
    for (int64_t i = 0; i < count; i++) pick[i] = (banyan_pick){i == 7 ? (double)NAN : 1, i};
    CHECK(count < 8 ||
          (banyan_picks_reach(pick, count, 0.5, 0) == 1 && pick[count - 1].block == 7));
}

/* A NaN in a key, wherever it is, or in a query, makes the block one of the best. */
static void test_nan(uint64_t *random)
{
    for (int32_t s = 0; banyan_summary_row(s); s++)
        for (int row = 0; row <= ROWS; row++) {
            float keys[ROWS * DIM], summary[BANYAN_SUMMARY_VECTORS * DIM];
            double q[DIM];
            banyan_pick pick[1];
            for (int i = 0; i < ROWS * DIM; i++) keys[i] = test_normal(random);
            for (int i = 0; i < DIM; i++) q[i] = (double)test_normal(random);
            if (row < ROWS)
                keys[row * DIM + 3] = NAN;
            else
                q[3] = NAN;
            banyan_summary_row(s)->make(keys, ROWS, DIM, summary);
            banyan_picks_clear(pick, 1);
            banyan_picks_offer(pick, 1, 1e300, 1);
            banyan_picks_offer(pick, 1, score(s, summary, q, 1), 2);
            CHECK(pick->block == 2);
        }
}

int main(void)
{
    uint64_t random = 9;
    for (int trial = 0; trial < 2000; trial++) test_best(&random);
    for (int trial = 0; trial < 200; trial++) test_summaries(&random);
    for (int trial = 0; trial < 2000; trial++) test_tally(&random);
    for (int trial = 0; trial < 2000; trial++) test_reach(&random);
    test_nan(&random);
    return test_end();
}
