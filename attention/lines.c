/* SPDX-License-Identifier: Apache-2.0 */
/* What observed rows put on each token and on each distance. Blocks come twice: the first time
 * for what each row's softmax is divided by, the second to add up p along columns and
 * diagonals:
 *
 *     row  at     . . . a b c d         in a block of rows x tokens the distance row - token is
 *          at+1   . . . e f g h         the same from upper left to lower right: written one
 *          at+2   . . . i j k l         behind the other, each begins one further to the left
 *
 * Every kernel adds in an order that the blocks alone decide: the same sums whoever does it. */
#include "attention/attention.h"

#include <math.h>
#include <string.h>

void banyan_observe_begin(banyan_observed *o)
{
    for (int32_t i = 0; i < o->rows; i++) o->most[i] = -INFINITY;
    memset(o->sum, 0, sizeof o->sum);
    memset(o->diagonal, 0, (size_t)(o->at + o->rows) * sizeof *o->diagonal);
}

void banyan_observe_turn(banyan_observed *o)
{
    for (int32_t i = 0; i < o->rows; i++) {
        double sum = 0;
        for (int32_t lane = 0; lane < BANYAN_LINE_LANES; lane++) sum += (double)o->sum[i][lane];
        o->share[i] = sum > 0 ? (float)(1 / sum) : 0;
    }
}

void banyan_observe_distances(banyan_observed *o, int64_t block, const float *distance)
{
    const int64_t first = o->at + o->rows - 1 - block * o->block_tokens;
    for (int32_t d = 0; d < o->block_tokens + o->rows - 1 && d <= first; d++)
        o->diagonal[first - d] += (double)distance[d];
}
