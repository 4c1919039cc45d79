/* SPDX-License-Identifier: Apache-2.0 */
/* Heads end to end on a line, cut into one piece per rank.
 *
 *     head:    0 dense                 1 dense                 2 s2 3 s2 4 s2 5 s2 6 s2 7 s2
 *              |-----------------------|-----------------------|---|---|---|---|---|---|
 *     rank:    |0      |1      |2      |3      |4      |5      |6      |7              |
 *
 * Piece r is bandwidth[r] / sum of bandwidths of the line. G heads and P pieces make at most
 * G + P - 1 (head, rank) pairs, so at most P - 1 holders more than one per head: merges happen
 * only where a cut falls inside a head.
 *
 * Snapping. A cut that nearly meets a border between heads is worth moving there, since then
 * nobody merges. If every cut can go to the border nearest to it while every piece stays within
 * the tolerance of what is due to it, all do (heads that are alike but for a block, P divides
 * G). Otherwise each cut goes that lies within the tolerance of a border. Tolerance: 1 % of the
 * smallest piece or 2 blocks, the larger; but 2 blocks only where they are at most a quarter of
 * the smallest piece, so that a short context still uses every rank.
 *
 * All in integers, so that every rank comes to the same cuts: with S the total weight and B the
 * total bandwidth (in 1/16), the line is S B long, head borders are multiples of B and cuts are
 * multiples of S. */
#include "dist/dist.h"

typedef struct line {
    const double *weight;
    const double *bandwidth;
    int32_t heads, ranks;
    uint64_t weights, bandwidths, slowest; /* sums, and the least bandwidth above 0; in 1/16 */
    int even;                              /* no weight at all: every head counts 1 */
    uint128 tolerance;
} line;

static uint64_t line_weight(const line *l, int32_t head)
{
    return l->even ? 1 : (uint64_t)l->weight[head];
}
static uint64_t bandwidth_of(const line *l, int32_t rank)
{
    return (uint64_t)(l->bandwidth[rank] * 16);
}
static uint128 distance(uint128 a, uint128 b)
{
    return a > b ? a - b : b - a;
}

static line line_make(const double *weight, int32_t heads, const double *bandwidth,
                      int32_t ranks, double border)
{
    line l = {.weight = weight, .bandwidth = bandwidth, .heads = heads, .ranks = ranks};
    for (int32_t h = 0; h < heads; h++) l.weights += (uint64_t)weight[h];
    l.even = l.weights == 0;
    if (l.even) l.weights = (uint64_t)heads;
    for (int32_t r = 0; r < ranks; r++) {
        const uint64_t b = bandwidth_of(&l, r);
        l.bandwidths += b;
        if (b && (!l.slowest || b < l.slowest)) l.slowest = b;
    }
    const uint128 piece = (uint128)l.weights * l.slowest;
    const uint128 blocks = (uint128)(border > 0 ? border : 0) * l.bandwidths;
    l.tolerance = blocks < piece / 4 ? blocks : piece / 4;
    if (l.tolerance < piece / 100) l.tolerance = piece / 100;
    return l;
}

/* A walk along the line from cut to cut. */
typedef struct walk {
    int32_t rank;        /* whose piece ends at `due` */
    uint64_t speed;      /* bandwidths up to and with it */
    uint128 due;         /* where its piece should end */
    int32_t head;        /* border: the start of head `head`, the last at or before due .. */
    uint128 border;      /* .. or the one after, if that is nearer */
    uint128 below, span; /* the start of the head that `due` is in, and its length */
} walk;

/* To the end of the next piece of a rank with bandwidth; 0 after the last. */
static int walk_on(const line *l, walk *w)
{
    uint64_t b;
    do {
        if (++w->rank >= l->ranks) return 0;
        b = bandwidth_of(l, w->rank);
    } while (!b);
    w->speed += b;
    w->due = (uint128)l->weights * w->speed;
    w->span = (uint128)line_weight(l, w->head) * l->bandwidths;
    while (w->head + 1 < l->heads && w->below + w->span <= w->due) {
        w->below += w->span;
        w->span = (uint128)line_weight(l, ++w->head) * l->bandwidths;
    }
    const uint128 above = w->below + w->span;
    w->border = distance(w->due, w->below) <= distance(w->due, above) ? w->below : above;
    return 1;
}

/* Can all cuts go to their nearest borders? */
static int all_snap(const line *l)
{
    walk w = {.rank = -1};
    uint128 start = 0, due = 0;
    while (walk_on(l, &w)) {
        if (distance(w.border - start, w.due - due) > l->tolerance) return 0;
        start = w.border;
        due = w.due;
    }
    return 1;
}

/* floor(2^64 part / whole), part < whole. */
static uint64_t fraction(uint128 part, uint128 whole)
{
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) {
        part += part;
        bits <<= 1;
        if (part >= whole) part -= whole, bits |= 1;
    }
    return bits;
}

static void add_holder(banyan_placed *placed, int32_t rank, uint64_t cut)
{
    placed->holder[placed->count].rank = rank;
    placed->holder[placed->count++].cut = cut;
}

static void line_place(const double *weight, int32_t kv_heads, const double *bandwidth,
                       const int32_t *node, int32_t ranks, double border, banyan_placed *out)
{
    (void)node;
    const line l = line_make(weight, kv_heads, bandwidth, ranks, border);
    const int whole = all_snap(&l);
    walk w = {.rank = -1};
    uint128 start = 0, low = 0; /* of the piece, and of the head */
    int32_t head = 0, last = 0;
    for (int32_t h = 0; h < kv_heads; h++) out[h].count = 0;
    while (walk_on(&l, &w)) {
        const int snaps = whole || distance(w.due, w.border) <= l.tolerance;
        const uint128 end = snaps ? w.border : w.due;
        if (end > start) last = w.rank;
        for (; head < kv_heads; head++) {
            const uint128 length = (uint128)line_weight(&l, head) * l.bandwidths;
            if (end <= low || (length == 0 && end == start)) break;
            if (low + length > end) {
                add_holder(&out[head], w.rank, fraction(end - low, length));
                break;
            }
            add_holder(&out[head], w.rank, UINT64_MAX);
            low += length;
        }
        start = end;
    }
    for (; head < kv_heads; head++) add_holder(&out[head], last, UINT64_MAX);
}

const banyan_placement banyan_place_line = {
    .name = "line",
    .place = line_place,
};
