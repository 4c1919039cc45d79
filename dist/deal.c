/* SPDX-License-Identifier: Apache-2.0 */
/* Dealing blocks to the holders of a head.
 *
 * The n-th block goes to the point x(n) = bitreverse64(n) / 2^64 of [0, 1): the van der Corput
 * sequence in base 2. A holder owns an interval [low, high) of points. The first n points of
 * the sequence, for every n, put n |interval| + O(log n) of themselves in it, so a holder has
 * its share at every length while the context grows, and no block ever moves.
 *
 * Counting. n = 2^a + 2^b + .. (a > b > ..) splits 0 .. n-1 into aligned runs of 2^a, 2^b, ..
 * numbers. In a run of 2^i numbers the low i bits take every value; reversed they are the high
 * i bits, above a constant s (the reversal of the run's first number):
 *
 *     x 2^64 = t 2^(64-i) + s,  t = 0 .. 2^i - 1:  #{x 2^64 < cut} = ceil((cut - s) / 2^(64-i))
 *
 * so counting takes one step per set bit of n.
 *
 * Settling. At the planned length the O(log n) can be removed: a cut may be moved, between two
 * neighbouring points of those dealt, until the count below it is the rounded share. */
#include "dist/plan.h"

uint64_t banyan_bit_reverse(uint64_t x)
{
    x = (x >> 1 & 0x5555555555555555u) | (x & 0x5555555555555555u) << 1;
    x = (x >> 2 & 0x3333333333333333u) | (x & 0x3333333333333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0f0f0f0f0fu) | (x & 0x0f0f0f0f0f0f0f0fu) << 4;
    x = (x >> 8 & 0x00ff00ff00ff00ffu) | (x & 0x00ff00ff00ff00ffu) << 8;
    x = (x >> 16 & 0x0000ffff0000ffffu) | (x & 0x0000ffff0000ffffu) << 16;
    return x >> 32 | x << 32;
}

int banyan_owner_index(const banyan_holder *holder, int32_t count, uint64_t ordinal)
{
    const uint64_t point = banyan_bit_reverse(ordinal);
    int32_t low = 0, high = count - 1; /* the last takes what remains */
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (point < holder[middle].cut)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int32_t banyan_holder_index(const banyan_placed *placed, int rank)
{
    int32_t low = 0, high = placed->count;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (placed->holder[middle].rank < rank)
            low = middle + 1;
        else
            high = middle;
    }
    return low < placed->count && placed->holder[low].rank == rank ? low : -1;
}

int64_t banyan_deal_below(int64_t n, uint64_t cut)
{
    if (n <= 0 || cut == UINT64_MAX) return n > 0 ? n : 0;
    uint64_t count = 0, first = 0; /* first: the run's first number */
    for (uint64_t rest = (uint64_t)n; rest;) {
        const int i = 63 - __builtin_clzll(rest);
        const uint64_t s = banyan_bit_reverse(first);
        if (cut > s) count += i ? ((cut - s - 1) >> (64 - i)) + 1 : 1;
        first |= UINT64_C(1) << i;
        rest ^= UINT64_C(1) << i;
    }
    return (int64_t)count;
}

static int has_residues(const banyan_retention *r)
{
    for (int word = 0; word < (r->period + 63) / 64; word++)
        if (r->residue[word]) return 1;
    return 0;
}

/* Of the ordinals first .. end-1, with a turn added. */
static int64_t dealt_below(int64_t first, int64_t end, int64_t turn, uint64_t cut)
{
    if (end <= first) return 0;
    return banyan_deal_below(turn + end, cut) - banyan_deal_below(turn + first, cut);
}

/* Permanent blocks of [first, end), counted by the points of their block numbers. */
static int64_t permanent_below(const banyan_kept_set *kept, int64_t first, uint64_t cut)
{
    const banyan_retention *r = kept->retention;
    const int64_t end = kept->blocks;
    int64_t count = 0;
    if (first < r->prefix) {
        const int64_t until = r->prefix < end ? r->prefix : end;
        count += dealt_below(first, until, kept->turn, cut);
        first = until;
    }
    if (first >= end || !has_residues(r)) return count;
    for (int64_t b = first; b < end; b++)
        count += banyan_retention_permanent(r, b) &&
                 banyan_bit_reverse((uint64_t)(kept->turn + b)) < cut;
    return count;
}

/* Permanent blocks are dealt by how many come before them, the others by their own numbers. */
int64_t banyan_kept_below(const banyan_kept_set *kept, uint64_t cut)
{
    const banyan_retention *r = kept->retention;
    const int64_t permanent = banyan_retention_count(r, kept->blocks);
    const int64_t count = dealt_below(0, permanent, kept->turn, cut);
    if (permanent == kept->blocks || kept->from >= kept->blocks) return count;
    return count + dealt_below(kept->from, kept->blocks, kept->turn, cut) -
           permanent_below(kept, kept->from, cut);
}

/* The first d bits of a point are decided by the number modulo 2^d. So look at the cells of [0,
 * 1) of width 2^-d that [low, high) touches, each of which every 2^d-th number hits, and slide
 *   a
 * window of `blocks` numbers once around. Touched in part counts as touched: an upper bound. */
int64_t banyan_deal_most(int64_t blocks, uint64_t low, uint64_t high)
{
    if (blocks <= 0 || high <= low) return 0;
    if (low == 0 && high == UINT64_MAX) return blocks;
    int d = 3;
    while (d < 12 && (INT64_C(1) << d) < 8 * blocks) d++;
    const int64_t period = INT64_C(1) << d, rest = blocks % period;
    const uint64_t first = low >> (64 - d), last = (high - 1) >> (64 - d);
    int64_t inside = 0, most = 0;
    for (int64_t n = -rest; n < period; n++) {
        const uint64_t in = banyan_bit_reverse((uint64_t)(n + rest) % (uint64_t)period);
        const uint64_t out = banyan_bit_reverse((uint64_t)(n + period) % (uint64_t)period);
        inside += in >> (64 - d) >= first && in >> (64 - d) <= last;
        if (n >= 0) inside -= out >> (64 - d) >= first && out >> (64 - d) <= last;
        if (inside > most) most = inside;
    }
    return blocks / period * (int64_t)(last - first + 1) + (rest ? most : 0);
}

/* A run of n numbers has n w + e of [low, high), where w is the width of the cells of 2^-12
 * that are touched; e, over all places in the period, is at most the largest sum of any run of
 * the numbers' own (1 - w or -w): Kadane's algorithm, over two periods, since a run may cross
 * the end of one and a whole period sums up to 0. */
int64_t banyan_deal_most_of(int64_t blocks, int64_t sequences, uint64_t low, uint64_t high)
{
    enum { DIGITS = 12 };
    const int64_t period = INT64_C(1) << DIGITS;
    if (sequences == 1 || blocks <= 1 || high <= low || (low == 0 && high == UINT64_MAX))
        return banyan_deal_most(blocks, low, high);
    const uint64_t first = low >> (64 - DIGITS), last = (high - 1) >> (64 - DIGITS);
    const int64_t cells = (int64_t)(last - first + 1);
    int64_t sum = 0, excess = 0; /* in units of 1 / period */
    for (int64_t n = 0; n < 2 * period; n++) {
        const uint64_t cell = banyan_bit_reverse((uint64_t)(n % period)) >> (64 - DIGITS);
        sum += (cell >= first && cell <= last ? period : 0) - cells;
        if (sum < 0) sum = 0;
        if (sum > excess) excess = sum;
    }
    const int64_t most =
        blocks / period * cells + (blocks % period * cells + sequences * excess) / period;
    return most < blocks ? most : blocks;
}

/* The cut nearest to `ideal`, to within `grain`, with `target` blocks below it. The points are
 * about 2^64 / total apart, so a few doublings of the stride from there enclose it. (A
 * permanent block's ordinal can be another block's number: two blocks on one point. Then it may
 * be one off.) */
static uint64_t settled_cut(const banyan_kept_set *kept, int64_t target, uint64_t ideal,
                            uint64_t grain)
{
    const int64_t below = banyan_kept_below(kept, ideal);
    if (below == target) return ideal;
    const int up = below < target;
    uint64_t near = ideal, far = ideal, stride = grain;
    do {
        near = far;
        if (up)
            far = far < UINT64_MAX - stride ? far + stride : UINT64_MAX;
        else
            far = far > stride ? far - stride : 0;
        stride += stride / 2 + 1;
    } while (up ? banyan_kept_below(kept, far) < target
                : banyan_kept_below(kept, far) > target);
    while ((up ? far - near : near - far) > grain) {
        const uint64_t middle = up ? near + (far - near) / 2 : far + (near - far) / 2;
        const int64_t count = banyan_kept_below(kept, middle);
        if (up ? count >= target : count <= target)
            far = middle;
        else
            near = middle;
    }
    return far;
}

void banyan_deal_settle(const banyan_kept_set *kept, banyan_holder *holder, int32_t count)
{
    const uint64_t total = (uint64_t)banyan_kept_below(kept, UINT64_MAX);
    const uint64_t grain = UINT64_MAX / (64 * (total + 1)) + 1;
    uint64_t before = 0;
    for (int32_t i = 0; i + 1 < count; i++) {
        const uint64_t ideal = holder[i].cut;
        const int64_t target = (int64_t)(((uint128)ideal * total + ((uint128)1 << 63)) >> 64);
        const uint64_t cut = settled_cut(kept, target, ideal, grain);
        before = cut > before ? cut : before;
        holder[i].cut = before;
    }
}
