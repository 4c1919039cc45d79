/* SPDX-License-Identifier: Apache-2.0 */
/* A softmax's denominator that does not depend on who adds what in which order, in one round:
 * no maximum has to be known first. exp(s) is f 2^k with 1 <= f < 2, and f, to 40 binary
 * places, is added to the sum of all that have this k. Sums of one k are whole numbers: 2^20
 * blocks are below 2^61. Only the 63 highest powers are kept. What a rank drops is below those
 * that it has, and so below those that all have together: all drop the same. */
#include "attention/attention.h"

#include <math.h>
#include <string.h>

enum { PLACES = 40 };

static const double most_power = 0x1p40; /* of what is infinite */

/* exp(score) = *fraction / 2^PLACES * 2^power. exp on [0, ln 2) by its series: libraries
 * differ. */
static int64_t split128(double score, int64_t *power)
{
    double y = score * 1.4426950408889634; /* log2(e) */
    if (!(y < most_power)) y = most_power;
    if (y < -most_power) y = -most_power;
    const double whole = floor(y), x = (y - whole) * 0.6931471805599453;
    double sum = 1;
    for (int n = 18; n > 0; n--) sum = 1 + x / n * sum;
    *power = (int64_t)whole;
    return (int64_t)(sum * ((int64_t)1 << PLACES));
}

void banyan_tally_clear(banyan_tally *tally)
{
    memset(tally, 0, sizeof *tally);
    tally->top = INT64_MIN;
}

/* The powers of `top` and below. */
static void raise(banyan_tally *tally, int64_t top)
{
    if (tally->top >= top) return;
    const int64_t by = tally->top == INT64_MIN ? BANYAN_TALLY_POWERS : top - tally->top;
    for (int64_t i = BANYAN_TALLY_POWERS; i-- > 0;)
        tally->sum[i] = i >= by ? tally->sum[i - by] : 0;
    tally->top = top;
}

void banyan_tally_add(banyan_tally *tally, double score)
{
    int64_t power;
    const int64_t fraction = split128(score, &power);
    raise(tally, power);
    if (tally->top - power < BANYAN_TALLY_POWERS) tally->sum[tally->top - power] += fraction;
}

void banyan_tally_combine(banyan_tally *out, const banyan_tally *lo, const banyan_tally *hi)
{
    banyan_tally a = *lo, b = *hi;
    const int64_t top = a.top > b.top ? a.top : b.top;
    raise(&a, top);
    raise(&b, top);
    for (int32_t i = 0; i < BANYAN_TALLY_POWERS; i++) a.sum[i] += b.sum[i];
    *out = a;
}

int64_t banyan_tally_reach(const banyan_tally *tally, const banyan_pick *pick, int64_t count,
                           double factor, double mass)
{
    double all = 0, reached = 0;
    for (int32_t i = 0; i < BANYAN_TALLY_POWERS; i++) all += ldexp((double)tally->sum[i], -i);
    int64_t n = 0;
    while (n < count && pick[n].block != BANYAN_NO_BLOCK && (!n || reached < mass * all)) {
        int64_t power;
        const int64_t fraction = split128(pick[n++].score * factor, &power);
        const int64_t below = tally->top - power;
        if (below < BANYAN_TALLY_POWERS) reached += ldexp((double)fraction, (int)-below);
    }
    return n;
}
