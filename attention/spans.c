/* SPDX-License-Identifier: Apache-2.0 */
/* From selections to spans: a device's block list.
 *
 * A selection speaks of block numbers, a span of places among the blocks that are held. What a run of
 * step 1 reads lies together there, whatever was dealt to others or evicted: two searches find it.
 * Of a strided run the places follow from what else is held, so it is walked once, and places at
 * equal distances become one span:
 *
 *     held    0  4  7  8  11 12 15 16 17 18         own block 18
 *     place   0  1  2  3  4  5  6  7  8  9
 *     runs    0, 4 .. 12                            places 0 1 3 5    spans 0 +1 x2, 3 +2 x2
 *             16 .. 18                              places 7 8 9      spans 7 +1 x2, 9 (masked)
 *
 * Masked are the own block, what a window's edge cuts, and what the range of tokens cuts. */
#include "attention/attention.h"

enum {
    MAX_RUNS = 4, /* of one selection */
    RUN_SPANS = 4 /* of a run of step 1: the ends may be cut, and its own block is */
};

enum { WHOLE, CUT, CUT_BY_EDGE };

/* One call of build. */
typedef struct building {
    const banyan_held *held;
    int64_t held_count;
    int64_t first_token, end_token, own;
    int32_t block_tokens;
    banyan_span_list *out;
    int is_full;
} building;

/* The first place of from .. held_count whose block is not below `block`. */
static int64_t find(const building *b, int64_t from, int64_t block)
{
    int64_t lo = from, hi = b->held_count;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (b->held[mid].block < block)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int how_seen(const building *b, int64_t block, int by_edge)
{
    const int64_t begin = block * b->block_tokens, end = begin + b->block_tokens;
    if (by_edge) return CUT_BY_EDGE;
    return block == b->own || begin < b->first_token || end > b->end_token ? CUT : WHOLE;
}

/* Places first .. first+count-1 behind those that are there; a single one may begin a stride. */
static void add(building *b, int64_t first, int64_t count, int masked)
{
    banyan_span_list *out = b->out;
    if (count <= 0) return;
    out->blocks += count;
    if (masked == CUT_BY_EDGE) out->has_edge = 1;
    banyan_span *last = out->count > 0 ? &out->span[out->count - 1] : NULL;
    if (last && last->masked == masked) {
        const int64_t step = last->count == 1 && count == 1 ? first - last->first : last->step;
        if ((count == 1 || step == 1) && first == last->first + last->count * step) {
            last->step = (int32_t)step;
            last->count += (int32_t)count;
            return;
        }
    }
    if (out->count == out->capacity) {
        b->is_full = 1;
        return;
    }
    out->span[out->count++] = (banyan_span){(int32_t)first, (int32_t)count, 1, masked};
}

/* Places from .. to-1, all of which are read. Only its ends can be cut. */
static void add_dense(building *b, int64_t from, int64_t to, int by_edge)
{
    int64_t middle = from, end = to;
    if (from >= to) return;
    const int low = how_seen(b, b->held[from].block, by_edge);
    const int high = how_seen(b, b->held[to - 1].block, by_edge);
    if (by_edge || (low == WHOLE && high == WHOLE)) {
        add(b, from, to - from, low);
        return;
    }
    if (low == CUT) add(b, middle++, 1, CUT);
    if (high == CUT && end > middle) end--;
    add(b, middle, end - middle, WHOLE);
    if (end < to) add(b, end, 1, CUT);
}

static void add_strided(building *b, const banyan_run *run, int64_t from, int64_t to)
{
    int64_t next = run->first;
    for (int64_t i = from; i < to; i++) {
        const int64_t block = b->held[i].block;
        if (block > next) next += (block - next + run->step - 1) / run->step * run->step;
        if (block != next) continue;
        add(b, i, 1, how_seen(b, block, run->edge));
        next += run->step;
    }
}

int banyan_spans_build(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                       const banyan_held *held, int64_t held_count, int64_t first_token,
                       int64_t end_token, banyan_span_list *out)
{
    banyan_run runs[MAX_RUNS];
    banyan_selection s = {.run = runs, .capacity = MAX_RUNS};
    building b = {.held = held,
                  .held_count = held_count,
                  .first_token = first_token,
                  .end_token = end_token,
                  .own = last_row / pattern->block_tokens,
                  .block_tokens = pattern->block_tokens,
                  .out = out};
    pattern->selector->select(pattern, first_row, last_row, &s);
    out->count = out->blocks = 0;
    out->has_edge = 0;
    out->edge = s.edge;
    if (end_token <= first_token) return 1;
    const int64_t lowest = first_token / b.block_tokens;
    const int64_t highest = (end_token - 1) / b.block_tokens;
    int64_t place = 0;
    for (int32_t r = 0; r < s.count && !b.is_full; r++) {
        const banyan_run *run = &runs[r];
        const int64_t first = run->first > lowest ? run->first : lowest;
        const int64_t last = run->last < highest ? run->last : highest;
        if (last < first) continue;
        place = find(&b, place, first);
        const int64_t end = find(&b, place, last + 1);
        if (run->step == 1)
            add_dense(&b, place, end, run->edge);
        else
            add_strided(&b, run, place, end);
        place = end;
    }
    return !b.is_full;
}

/* Any two places in a row that are seen alike make a span, so that a strided run of n blocks has at most
 * ceil(n / 2), and one more for each end that is cut. How far its steps are apart does not depend on
 * the row; the last block is as far as it gets. */
int64_t banyan_spans_bound(const banyan_pattern *pattern, int64_t blocks, int64_t held_count)
{
    banyan_run runs[MAX_RUNS];
    banyan_selection s = {.run = runs, .capacity = MAX_RUNS};
    const int64_t last = blocks * pattern->block_tokens - 1;
    int64_t bound = MAX_RUNS * RUN_SPANS;
    pattern->selector->select(pattern, last, last, &s);
    for (int32_t r = 0; r < s.count; r++) {
        if (runs[r].step == 1) continue;
        int64_t most = (blocks + runs[r].step - 1) / runs[r].step;
        if (most > held_count) most = held_count;
        bound += (most + 1) / 2 + 2;
    }
    return bound;
}
