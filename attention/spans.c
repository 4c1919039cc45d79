/* SPDX-License-Identifier: Apache-2.0 */
/* From selections to spans: a device's block list.
 *
 * A selection speaks of block numbers, a span of places among the blocks that are held. What a
 * run of step 1 reads lies together there, whatever was dealt to others or evicted: two
 * searches find it. Of a strided run the places follow from what else is held. They are a
 * progression, found by two searches as well, where no block is missing, or none but those that
 * are evicted (what a retention keeps for good is counted in closed form). Else, as of blocks
 * that are dealt to several ranks, it is walked, and places at equal distances become one span:
 *
 *     held    0  4  7  8  11 12 15 16 17 18         own block 18
 *     place   0  1  2  3  4  5  6  7  8  9
 *     runs    0, 4 .. 12                            places 0 1 3 5    spans 0 +1 x2, 3 +2 x2
 *             16 .. 18                              places 7 8 9      spans 7 +1 x2, 9 (masked)
 *
 * Masked are the own block, what a window's edge cuts, and what the range of tokens cuts. */
#include "attention/attention.h"

enum {
    RUN_SPANS = 4 /* of a run of step 1: the ends may be cut, and its own block is */
};

enum { WHOLE, CUT, CUT_BY_EDGE };

/* One call of build. */
typedef struct building {
    const banyan_held_list *held;
    const banyan_retention *retention;
    int64_t settled;
    int64_t first_token, end_token, own;
    int32_t block_tokens;
    banyan_span_list *out;
    int is_full;
} building;

static int64_t block_at(const building *b, int64_t place)
{
    return banyan_held_at(b->held, place)->block;
}

/* The first place of from .. to-1 whose block is not below `block`; to: there is none. Blocks
 * are different numbers, so that as many as lie between are held between at most. */
static int64_t find_place(const building *b, int64_t from, int64_t to, int64_t block)
{
    if (from >= to || block_at(b, from) >= block) return from;
    const int64_t low = block_at(b, from), high = block_at(b, to - 1);
    if (high < block) return to;
    int64_t lo = to - banyan_smaller(to - from, high - block + 1);
    int64_t hi = from + banyan_smaller(to - from, block - low);
    if (block_at(b, lo) >= block) return lo;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (block_at(b, mid) < block)
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

/* `count` places first, first + step, .. behind those that are there; a single one may begin a
 * stride. */
static void append_places(building *b, int64_t first, int64_t count, int64_t step, int masked)
{
    banyan_span_list *out = b->out;
    if (count <= 0) return;
    out->blocks += count;
    if (masked == CUT_BY_EDGE) out->has_edge = 1;
    banyan_span *last = out->count > 0 ? &out->span[out->count - 1] : NULL;
    if (last && last->masked == masked) {
        const int64_t between = last->count == 1 ? first - last->first : last->step;
        if ((count == 1 || step == between) && first == last->first + last->count * between) {
            last->step = (int32_t)between;
            last->count += (int32_t)count;
            return;
        }
    }
    if (out->count == out->capacity) {
        b->is_full = 1;
        return;
    }
    out->span[out->count++] =
        (banyan_span){(int32_t)first, (int32_t)count, count > 1 ? (int32_t)step : 1, masked};
}

/* `count` places, all of which are read, from that of block `low` to that of block `high`: only
 * these two can be cut. */
static void add_places(building *b, int64_t first, int64_t count, int64_t step, int64_t low,
                       int64_t high, int by_edge)
{
    const int at_low = how_seen(b, low, by_edge), at_high = how_seen(b, high, by_edge);
    const int64_t last = first + (count - 1) * step;
    if (at_low == at_high && (at_low != CUT || count <= 2)) {
        append_places(b, first, count, step, at_low);
        return;
    }
    if (at_low == CUT) {
        append_places(b, first, 1, 1, CUT);
        first += step;
        count--;
    }
    if (at_high == CUT) count--;
    append_places(b, first, count, step, WHOLE);
    if (at_high == CUT) append_places(b, last, 1, 1, CUT);
}

static void add_dense(building *b, int64_t from, int64_t to, int by_edge)
{
    if (from < to)
        add_places(b, from, to - from, 1, block_at(b, from), block_at(b, to - 1), by_edge);
}

/* ---- strided runs ------------------------------------------------------------------------ */

static void add_one_by_one(building *b, const banyan_run *run, int64_t next, int64_t from,
                           int64_t to)
{
    for (int64_t i = from; i < to; i++) {
        const int64_t block = block_at(b, i);
        while (next < block) next += run->step;
        if (block == next) append_places(b, i, 1, 1, how_seen(b, block, run->edge));
    }
}

/* Of blocks low .. high all are held that `r` keeps for good (NULL: all): these are places from
 * .. to-1. Then the places of a run are a progression too: *place of its block `next`, *step.
 *   0: it is not so. */
static int is_regular(const banyan_retention *r, int64_t run_step, int64_t low, int64_t next,
                      int64_t high, int64_t from, int64_t to, int64_t *place, int64_t *step)
{
    if (!r) {
        *place = from + next - low;
        *step = run_step;
        return high - low == to - 1 - from;
    }
    if (run_step % r->period || low < r->prefix || !banyan_retention_permanent(r, next))
        return 0;
    const int64_t before = banyan_retention_count(r, low);
    *place = from + banyan_retention_count(r, next) - before;
    *step = run_step / r->period *
            (banyan_retention_count(r, next + r->period) - banyan_retention_count(r, next));
    return banyan_retention_count(r, high) - before == to - 1 - from;
}

/* What a strided run reads of places from .. to-1. retention: it keeps all these; or NULL. */
static void add_run_part(building *b, const banyan_run *run, const banyan_retention *retention,
                         int64_t from, int64_t to)
{
    if (from >= to) return;
    const int64_t low = block_at(b, from), high = block_at(b, to - 1);
    int64_t next = run->first, place, step;
    if (low > next) next += (low - next + run->step - 1) / run->step * run->step;
    if (next > high) return;
    if (!is_regular(NULL, run->step, low, next, high, from, to, &place, &step) &&
        (!retention ||
         !is_regular(retention, run->step, low, next, high, from, to, &place, &step))) {
        add_one_by_one(b, run, next, from, to);
        return;
    }
    const int64_t more = (high - next) / run->step;
    add_places(b, place, more + 1, step, next, next + more * run->step, run->edge);
}

/* In three parts: the prefix, and what comes last, where usually nothing is missing; and
 * between them what has been judged, of which the permanent blocks remain. */
static void add_strided(building *b, const banyan_run *run, int64_t from, int64_t to)
{
    int64_t prefix = from, settled = from;
    if (b->retention) {
        settled = find_place(b, from, to, b->settled);
        prefix = find_place(b, from, settled, b->retention->prefix);
    }
    add_run_part(b, run, NULL, from, prefix);
    add_run_part(b, run, b->retention, prefix, settled);
    add_run_part(b, run, NULL, settled, to);
}

int banyan_spans_build(const banyan_pattern *pattern, int64_t first_row, int64_t last_row,
                       const banyan_held_set *held, int64_t first_token, int64_t end_token,
                       banyan_span_list *out)
{
    banyan_selection s;
    building b = {.held = &held->held,
                  .retention = held->retention,
                  .settled = held->settled,
                  .first_token = first_token,
                  .end_token = end_token,
                  .own = last_row / pattern->block_tokens,
                  .block_tokens = pattern->block_tokens,
                  .out = out};
    banyan_pattern_select(pattern, first_row, last_row, &s);
    out->count = out->blocks = 0;
    out->has_edge = 0;
    out->edge = s.edge;
    if (s.too_many) return 0;
    if (end_token <= first_token) return 1;
    const int64_t lowest = first_token / b.block_tokens;
    const int64_t highest = (end_token - 1) / b.block_tokens;
    int64_t place = 0;
    for (int32_t r = 0; r < s.count && !b.is_full; r++) {
        const banyan_run *run = &s.run[r];
        const int64_t first = run->first > lowest ? run->first : lowest;
        const int64_t last = run->last < highest ? run->last : highest;
        if (last < first) continue;
        place = find_place(&b, place, held->held.count, first);
        const int64_t end = find_place(&b, place, held->held.count, last + 1);
        if (run->step == 1)
            add_dense(&b, place, end, run->edge);
        else
            add_strided(&b, run, place, end);
        place = end;
    }
    return !b.is_full;
}

/* Any two places in a row that are seen alike make a span, so that a strided run of n blocks
 * has at most ceil(n / 2), and one more for each end that is cut. How far its steps are apart
 * does not depend on the row; the last block is as far as it gets. */
int64_t banyan_spans_bound(const banyan_pattern *pattern, int64_t blocks, int64_t held_count)
{
    banyan_selection s;
    const int64_t last = blocks * pattern->block_tokens - 1;
    int64_t bound = BANYAN_MAX_RUNS * RUN_SPANS;
    banyan_pattern_select(pattern, last, last, &s);
    for (int32_t r = 0; r < s.count; r++) {
        if (s.run[r].step == 1) continue;
        int64_t most = (blocks + s.run[r].step - 1) / s.run[r].step;
        if (most > held_count) most = held_count;
        bound += (most + 1) / 2 + 2;
    }
    return bound;
}
