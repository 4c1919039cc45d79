/* SPDX-License-Identifier: Apache-2.0 */
/* What blocks are judged by, and the best of them. Of a block's keys k_i and a query q
 *
 *     mean      q . (sum k_i / n)                               MInference's block-sparse heads
 *                                                               (2407.02490), MoBA (2502.13189)
 *     bounds    sum over d of max(q_d min_i k_id, q_d max_i k_id)           Quest (2406.10774)
 *
 * the second of which no q . k_i of the block exceeds. Of a q_d that is not negative the larger
 * product is that with the larger number, else that with the smaller: so it is a scalar product
 * too,
 *
 *     bounds    sum over d of min(q_d, 0) min_i k_id + max(q_d, 0) max_i k_id
 *
 * and query heads that choose together need one pass over a summary, not one each: their
 * vectors are added up. (An infinite number in a key makes the score NaN where q_d is 0 or of
 * the other sign.)
 *
 * Scores are sums of 16 partial sums in fp32, which compilers make vectors of without changing
 * a bit, and those are added in float64. */
#include "attention/attention.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, LINE = 64 / sizeof(float) };

/* ---- summaries --------------------------------------------------------------------------- */

static void make_mean(const float *keys, int32_t rows, int32_t key_dim, float *out)
{
    for (int32_t d = 0; d < key_dim; d++) {
        double sum = 0;
        for (int32_t i = 0; i < rows; i++) sum += (double)keys[(int64_t)i * key_dim + d];
        out[d] = (float)(sum / rows);
    }
}

/* NaN in a key is NaN in its bounds. */
static void make_bounds(const float *keys, int32_t rows, int32_t key_dim, float *out)
{
    float *least = out, *most = out + key_dim;
    memcpy(least, keys, (size_t)key_dim * sizeof *least);
    memcpy(most, keys, (size_t)key_dim * sizeof *most);
    for (int32_t i = 1; i < rows; i++)
        for (int32_t d = 0; d < key_dim; d++) {
            const float k = keys[(int64_t)i * key_dim + d];
            if (!(k >= least[d])) least[d] = isnan(least[d]) ? least[d] : k;
            if (!(k <= most[d])) most[d] = isnan(most[d]) ? most[d] : k;
        }
}

static void add_mean(const double *q, int32_t key_dim, double *to)
{
    for (int32_t d = 0; d < key_dim; d++) to[d] += q[d];
}

/* NaN is in both, so that it is in the score. */
static void add_bounds(const double *q, int32_t key_dim, double *to)
{
    double *least = to, *most = to + key_dim;
    for (int32_t d = 0; d < key_dim; d++) {
        least[d] += q[d] > 0 ? 0 : q[d];
        most[d] += q[d] < 0 ? 0 : q[d];
    }
}

/* `next` comes into the second cache, since the first waits for too few lines at a time: of a
 * million tokens bounds of 1 KiB took a core 220 ns each unasked, 142 ns when asked into the
 * first one, and 105 ns so. */
double banyan_summary_score(const float *summary, const float *query, int32_t numbers,
                            const float *next)
{
    float part[LANES] = {0};
    double sum[LANES];
    const int32_t whole = numbers / LANES * LANES;
    for (int32_t n = 0; n < numbers; n += LINE) __builtin_prefetch(next + n, 0, 2);
    for (int32_t n = 0; n < whole; n += LANES)
        for (int32_t i = 0; i < LANES; i++) part[i] += query[n + i] * summary[n + i];
    for (int32_t n = whole; n < numbers; n++) part[n - whole] += query[n] * summary[n];
    for (int32_t i = 0; i < LANES; i++) sum[i] = (double)part[i];
    for (int32_t half = LANES / 2; half; half /= 2)
        for (int32_t i = 0; i < half; i++) sum[i] += sum[i + half];
    return sum[0];
}

static const banyan_summary table[] = {
    [BANYAN_SUMMARY_MEAN] = {"mean", 1, make_mean, add_mean},
    [BANYAN_SUMMARY_BOUNDS] = {"bounds", 2, make_bounds, add_bounds},
};

const banyan_summary *banyan_summary_row(int32_t index)
{
    return index >= 0 && index < BANYAN_SUMMARIES ? &table[index] : NULL;
}

/* ---- the best ---------------------------------------------------------------------------- */

static int is_better(const banyan_pick *a, const banyan_pick *b)
{
    return a->score > b->score || (a->score >= b->score && a->block < b->block);
}

void banyan_picks_clear(banyan_pick *pick, int64_t count)
{
    for (int64_t i = 0; i < count; i++) pick[i] = (banyan_pick){-INFINITY, BANYAN_NO_BLOCK};
}

/* A heap has the last in some order on top: here the worst, so that whoever is no better than
 * it is done with one comparison. */
typedef int (*order_fn)(const banyan_pick *a, const banyan_pick *b);

static int is_lower(const banyan_pick *a, const banyan_pick *b)
{
    return a->block < b->block;
}

/* `x` takes the place of what is at `at`, or of one below it. */
static void sift(banyan_pick *heap, int64_t count, int64_t at, banyan_pick x,
                 order_fn is_before)
{
    for (int64_t below; (below = 2 * at + 1) < count; at = below) {
        if (below + 1 < count && is_before(&heap[below], &heap[below + 1])) below++;
        if (!is_before(&x, &heap[below])) break;
        heap[at] = heap[below];
    }
    heap[at] = x;
}

/* Heapsort: attending allocates nothing, which qsort may. */
static void sort(banyan_pick *pick, int64_t count, order_fn is_before)
{
    for (int64_t i = count / 2; i-- > 0;) sift(pick, count, i, pick[i], is_before);
    for (int64_t end = count - 1; end > 0; end--) {
        const banyan_pick x = pick[end];
        pick[end] = pick[0];
        sift(pick, end, 0, x, is_before);
    }
}

void banyan_picks_offer(banyan_pick *pick, int64_t count, double score, int64_t block)
{
    const banyan_pick offered = {isnan(score) ? INFINITY : score, block};
    if (count && is_better(&offered, &pick[0])) sift(pick, count, 0, offered, is_better);
}

void banyan_picks_rank(banyan_pick *pick, int64_t count)
{
    sort(pick, count, is_better);
}

void banyan_picks_combine(banyan_pick *out, const banyan_pick *lo, const banyan_pick *hi,
                          int64_t count, banyan_pick *scratch)
{
    for (int64_t i = 0, a = 0, b = 0; i < count; i++)
        scratch[i] = is_better(&hi[b], &lo[a]) ? hi[b++] : lo[a++];
    memcpy(out, scratch, (size_t)count * sizeof *out);
}

static int is_worse(const banyan_pick *a, const banyan_pick *b)
{
    return is_better(b, a);
}

/* The best on top: one after the other is taken, most of many are never put in order. */
int64_t banyan_picks_reach(banyan_pick *pick, int64_t count, double mass, int64_t least)
{
    double all = 0, reached = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) {
        if (isnan(pick[i].score)) pick[i].score = INFINITY;
        all += pick[i].score;
    }
    for (int64_t i = count / 2; i-- > 0;) sift(pick, count, i, pick[i], is_worse);
    while (n < count && (n < least || reached < mass * all)) {
        const banyan_pick best = pick[0], last = pick[count - ++n];
        sift(pick, count - n, 0, last, is_worse);
        pick[count - n] = best;
        reached += best.score;
    }
    return n;
}

int64_t banyan_picks_list(banyan_pick *pick, int64_t count)
{
    sort(pick, count, is_lower);
    while (count > 0 && pick[count - 1].block == BANYAN_NO_BLOCK) count--;
    return count;
}
