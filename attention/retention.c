/* SPDX-License-Identifier: Apache-2.0 */
/* Retention: what a KV head keeps, in closed form.
 *
 *     block   0 1 | 2 3 4 5 6 7 8 9 10 ...           prefix 2, period 4, residues {3}, reach
 *             P P | . P . . . P . . .                P: permanent
 *                                ^ . : goes with the last row within `reach` tokens of its end
 *
 * Query heads of a group share the keys, so their KV head keeps the union: the larger prefix,
 * the larger reach, and the residues of both sets over their common period, lcm(p, p'). The
 * result is brought to its smallest period, so that 8 heads with the 8 residues of a stride of
 * 8 are simply "all", and periods do not grow without need.
 *
 * Permanent blocks are counted without a loop over blocks: n = q period + r blocks hold q |R| +
 * (the residues below r) of the periodic ones. */
#include "attention/attention.h"

#include <string.h>

static int bit(const banyan_retention *r, int64_t residue)
{
    return (int)(r->residue[residue / 64] >> (residue % 64) & 1);
}

static void set_bit(banyan_retention *r, int64_t residue)
{
    r->residue[residue / 64] |= (uint64_t)1 << (residue % 64);
}

/* Residues in the set that are below n. */
static int64_t residues_below(const banyan_retention *r, int64_t n)
{
    int64_t count = 0;
    for (int64_t word = 0; word < n / 64; word++)
        count += __builtin_popcountll(r->residue[word]);
    if (n % 64)
        count += __builtin_popcountll(r->residue[n / 64] & (((uint64_t)1 << (n % 64)) - 1));
    return count;
}

/* Of the blocks below n, how many are in the periodic set? */
static int64_t periodic_below(const banyan_retention *r, int64_t n)
{
    return n / r->period * residues_below(r, r->period) + residues_below(r, n % r->period);
}

static int repeats_every(const banyan_retention *r, int32_t period)
{
    for (int32_t i = period; i < r->period; i++)
        if (bit(r, i) != bit(r, i - period)) return 0;
    return 1;
}

static void shorten(banyan_retention *r)
{
    for (int32_t period = 1; period < r->period; period++) {
        if (r->period % period != 0 || !repeats_every(r, period)) continue;
        for (int32_t i = period; i < r->period; i++)
            r->residue[i / 64] &= ~((uint64_t)1 << (i % 64));
        r->period = period;
    }
}

static void keep_all(banyan_retention *r)
{
    r->period = 1;
    memset(r->residue, 0, sizeof(r->residue));
    set_bit(r, 0);
}

static int64_t lcm(int64_t a, int64_t b)
{
    int64_t x = a, y = b;
    while (y) {
        int64_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

int banyan_retention_union(banyan_retention *a, const banyan_retention *b)
{
    banyan_retention left = *a, right = *b;
    shorten(&left);
    shorten(&right);
    int64_t period = lcm(left.period, right.period);

    if (right.prefix > a->prefix) a->prefix = right.prefix;
    if (right.reach > a->reach) a->reach = right.reach;
    if ((left.period == 1 && bit(&left, 0)) || (right.period == 1 && bit(&right, 0))) {
        keep_all(a);
        return 1;
    }
    if (period > BANYAN_MAX_PERIOD) {
        keep_all(a);
        return 0;
    }
    memset(a->residue, 0, sizeof(a->residue));
    a->period = (int32_t)period;
    for (int64_t i = 0; i < period; i++)
        if (bit(&left, i % left.period) || bit(&right, i % right.period)) set_bit(a, i);
    shorten(a);
    return 1;
}

int banyan_retention_permanent(const banyan_retention *r, int64_t block)
{
    return block < r->prefix || bit(r, block % r->period);
}

int64_t banyan_retention_count(const banyan_retention *r, int64_t blocks)
{
    if (blocks <= r->prefix) return blocks;
    /* In this order nothing is more than `blocks`, which may be any number. */
    return periodic_below(r, blocks) - (periodic_below(r, r->prefix) - r->prefix);
}

int64_t banyan_retention_ordinal(const banyan_retention *r, int64_t block)
{
    return banyan_retention_permanent(r, block) ? banyan_retention_count(r, block) : block;
}

int banyan_retention_keeps(const banyan_retention *r, int64_t block, int64_t row,
                           int32_t block_tokens)
{
    int64_t last_token = block * block_tokens + block_tokens - 1;
    return banyan_retention_permanent(r, block) || row - last_token <= r->reach;
}
