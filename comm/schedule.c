/* SPDX-License-Identifier: Apache-2.0 */
/* A merge as data: who sends which item to whom in which round. Since it is data, it can be
 * priced before anything is sent, and proved before anything is trusted: replay carries sets of
 * contributors in place of values,
 *
 *     combine:  set(dst) = set(dst) + set(src)     which must be disjoint
 *     replace:  set(dst) = set(src)
 *
 * and at the end home (or everyone) must have the set of all holders. Exact attention needs
 * "exactly once": a part counted twice changes the result as much as one that is lost, and is
 * much harder to notice. */
#include "comm/comm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void banyan_schedule_add(banyan_schedule *s, int32_t round, int32_t src, int32_t dst,
                         int32_t item, int32_t combine)
{
    if (s->failed) return;
    if (s->count == s->capacity) {
        const int32_t capacity = s->capacity ? 2 * s->capacity : 64;
        banyan_step *step = realloc(s->step, (size_t)capacity * sizeof *step);
        if (!step) {
            s->failed = 1;
            return;
        }
        s->step = step;
        s->capacity = capacity;
    }
    s->step[s->count++] = (banyan_step){round, src, dst, item, combine};
    if (round >= s->rounds) s->rounds = round + 1;
}

static int compare_steps(const void *a, const void *b)
{
    const banyan_step *x = a, *y = b;
    if (x->round != y->round) return x->round < y->round ? -1 : 1;
    if (x->src != y->src) return x->src < y->src ? -1 : 1;
    if (x->dst != y->dst) return x->dst < y->dst ? -1 : 1;
    return x->item < y->item ? -1 : x->item > y->item;
}

void banyan_schedule_sort(banyan_schedule *s)
{
    if (s->count) qsort(s->step, (size_t)s->count, sizeof *s->step, compare_steps);
}

void banyan_schedule_free(banyan_schedule *s)
{
    free(s->step);
    *s = (banyan_schedule){0};
}

/* ---- cost -------------------------------------------------------------------------------- */

/* One rank's part of the traffic, and its clock: when it was through with the rounds before,
 * and of the current round, when all that it receives could begin, how long it sends and
 * receives, and when the last message to it has been sent. */
typedef struct rank_load {
    int64_t messages, bytes;
    double ready, begin, sends, receives, last;
} rank_load;

/* The steps from `begin` that are one message: same round, src and dst. */
static int32_t message_end(const banyan_schedule *s, int32_t begin)
{
    const banyan_step *first = &s->step[begin];
    int32_t end = begin;
    while (end < s->count && s->step[end].round == first->round &&
           s->step[end].src == first->src && s->step[end].dst == first->dst)
        end++;
    return end;
}

static void charge_message(rank_load *from, rank_load *to, int64_t bytes, double seconds)
{
    from->messages++;
    from->bytes += bytes;
    from->sends += seconds;
    to->receives += seconds;
    to->begin = fmax(to->begin, from->ready);
    to->last = fmax(to->last, from->ready + from->sends);
}

/* A rank goes on when all that it sends and receives is through, whatever others still do. */
static void close_round(rank_load *load, int32_t ranks)
{
    for (rank_load *r = load; r < load + ranks; r++) {
        r->ready = fmax(r->last, fmax(r->ready, r->begin) + fmax(r->sends, r->receives));
        r->begin = r->sends = r->receives = 0;
    }
}

void banyan_schedule_cost(const banyan_schedule *s, const banyan_topology *topology,
                          size_t item_bytes, int rank, banyan_traffic *out)
{
    *out = (banyan_traffic){0};
    rank_load *load = calloc((size_t)topology->ranks, sizeof *load);
    if (!load) {
        out->seconds = INFINITY;
        return;
    }
    for (int32_t i = 0, end; i < s->count; i = end) {
        end = message_end(s, i);
        const banyan_step *step = &s->step[i];
        const int64_t bytes = (int64_t)(end - i) * (int64_t)item_bytes + BANYAN_HEADER_BYTES;
        const int is_between = topology->node[step->src] != topology->node[step->dst];
        const banyan_link *link = is_between ? &topology->between : &topology->inside;
        const double seconds = link->alpha + link->beta * (double)bytes;
        charge_message(&load[step->src], &load[step->dst], bytes, seconds);
        if (rank < 0 || rank == step->src) {
            out->messages++;
            out->bytes += bytes;
            out->between_messages += is_between;
            out->between_bytes += is_between ? bytes : 0;
        }
        if (end == s->count || s->step[end].round != step->round) {
            close_round(load, topology->ranks);
            out->rounds++;
        }
    }
    for (int32_t r = 0; r < topology->ranks; r++) {
        if (load[r].messages > out->max_messages) out->max_messages = load[r].messages;
        if (load[r].bytes > out->max_bytes) out->max_bytes = load[r].bytes;
        out->seconds = fmax(out->seconds, load[r].ready);
    }
    free(load);
}

/* ---- replay ------------------------------------------------------------------------------ */

/* Sets of the holders of one item, one per rank, as bits: before and after the current
 * round. */
typedef struct replay {
    const banyan_topology *topology;
    const banyan_item *item;
    int32_t number; /* of the item */
    int all;
    int32_t words;         /* of a set */
    uint64_t *before;      /* [ranks][words] */
    uint64_t *after;       /* [ranks][words] */
    unsigned char *may;    /* [ranks]: is a holder or home */
    unsigned char *useful; /* [ranks]: its value is sent on later, or is home's */
} replay;

static uint64_t *set_of(const replay *r, uint64_t *sets, int32_t rank)
{
    return sets + (size_t)rank * (size_t)r->words;
}

static int is_empty_set(const replay *r, const uint64_t *set)
{
    for (int32_t w = 0; w < r->words; w++)
        if (set[w]) return 0;
    return 1;
}

/* The first holder that is in both sets, or -1. */
static int32_t first_common(const replay *r, const uint64_t *a, const uint64_t *b)
{
    for (int32_t i = 0; i < r->item->holders; i++)
        if (a[i / 64] & b[i / 64] & (UINT64_C(1) << (i % 64))) return r->item->holder[i];
    return -1;
}

static void start_item(replay *r)
{
    const size_t words = (size_t)r->topology->ranks * (size_t)r->words;
    memset(r->before, 0, words * sizeof *r->before);
    memset(r->may, r->all ? 1 : 0, (size_t)r->topology->ranks);
    for (int32_t i = 0; i < r->item->holders; i++) {
        set_of(r, r->before, r->item->holder[i])[i / 64] |= UINT64_C(1) << (i % 64);
        r->may[r->item->holder[i]] = 1;
    }
    r->may[r->item->home] = 1;
    memcpy(r->after, r->before, words * sizeof *r->after);
}

static banyan_status replay_step(replay *r, const banyan_step *step)
{
    uint64_t *from = set_of(r, r->before, step->src), *to = set_of(r, r->after, step->dst);
    const int number = (int)r->number, round = (int)step->round;
    if (!r->may[step->src] || !r->may[step->dst])
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "item %d, round %d: rank %d is neither a holder nor home", number,
                           round, (int)(r->may[step->src] ? step->dst : step->src));
    if (is_empty_set(r, from))
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "item %d, round %d: rank %d sends to rank %d before it has anything",
                           number, round, (int)step->src, (int)step->dst);
    const int32_t twice = first_common(r, from, to);
    if (twice >= 0)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "item %d, round %d: the part of rank %d reaches rank %d twice",
                           number, round, (int)twice, (int)step->dst);
    for (int32_t w = 0; w < r->words; w++) to[w] |= from[w];
    return BANYAN_OK;
}

/* A step that combines needs something to be folded into: what dst has, or another arrival that
 * replaces. */
static int has_target(replay *r, const banyan_step *const *step, int32_t count, int32_t at)
{
    if (!step[at]->combine || !is_empty_set(r, set_of(r, r->before, step[at]->dst))) return 1;
    for (int32_t i = 0; i < count; i++)
        if (step[i]->dst == step[at]->dst && !step[i]->combine) return 1;
    return 0;
}

/* The steps of one round: replaced values go first, then everything that arrives is united. */
static banyan_status replay_round(replay *r, const banyan_step *const *step, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (!step[i]->combine)
            memset(set_of(r, r->after, step[i]->dst), 0, (size_t)r->words * sizeof *r->after);
    for (int32_t i = 0; i < count; i++) {
        const banyan_status status = replay_step(r, step[i]);
        if (status) return status;
        if (!has_target(r, step, count, i))
            return banyan_fail(
                BANYAN_ERR_ARGUMENT,
                "item %d, round %d: what comes from rank %d is to be folded into "
                "rank %d's own, but that is nothing",
                (int)r->number, (int)step[i]->round, (int)step[i]->src, (int)step[i]->dst);
    }
    for (int32_t i = 0; i < count; i++)
        memcpy(set_of(r, r->before, step[i]->dst), set_of(r, r->after, step[i]->dst),
               (size_t)r->words * sizeof *r->before);
    return BANYAN_OK;
}

/* Backwards: what a rank receives must go on to somebody later, unless it ends there. */
static banyan_status check_useful(replay *r, const banyan_step *const *step, int32_t count)
{
    if (r->all) return BANYAN_OK;
    memset(r->useful, 0, (size_t)r->topology->ranks);
    r->useful[r->item->home] = 1;
    for (int32_t end = count, begin; end > 0; end = begin) {
        for (begin = end; begin > 0 && step[begin - 1]->round == step[end - 1]->round; begin--)
            if (!r->useful[step[begin - 1]->dst])
                return banyan_fail(BANYAN_ERR_ARGUMENT,
                                   "item %d, round %d: what rank %d sends to rank %d goes no "
                                   "further, and home is rank %d",
                                   (int)r->number, (int)step[begin - 1]->round,
                                   (int)step[begin - 1]->src, (int)step[begin - 1]->dst,
                                   (int)r->item->home);
        for (int32_t i = begin; i < end; i++) r->useful[step[i]->src] = 1;
    }
    return BANYAN_OK;
}

static banyan_status check_end(replay *r)
{
    for (int32_t rank = 0; rank < r->topology->ranks; rank++) {
        if (!r->all && rank != r->item->home) continue;
        const uint64_t *set = set_of(r, r->before, rank);
        for (int32_t i = 0; i < r->item->holders; i++)
            if (!(set[i / 64] >> (i % 64) & 1))
                return banyan_fail(BANYAN_ERR_ARGUMENT,
                                   "item %d: the part of rank %d never reaches %srank %d",
                                   (int)r->number, (int)r->item->holder[i],
                                   rank == r->item->home ? "home, " : "", (int)rank);
    }
    return BANYAN_OK;
}

static banyan_status replay_item(replay *r, const banyan_step *const *step, int32_t count)
{
    start_item(r);
    for (int32_t begin = 0, end; begin < count; begin = end) {
        for (end = begin; end < count && step[end]->round == step[begin]->round;) end++;
        const banyan_status status = replay_round(r, step + begin, end - begin);
        if (status) return status;
    }
    const banyan_status status = check_useful(r, step, count);
    return status ? status : check_end(r);
}

static banyan_status check_steps(const banyan_schedule *s, const banyan_topology *topology,
                                 int32_t items)
{
    if (s->failed) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a schedule");
    for (int32_t i = 0; i < s->count; i++) {
        const banyan_step *step = &s->step[i];
        const int is_in_range = step->round >= 0 && step->round < s->rounds && step->src >= 0 &&
                                step->src < topology->ranks && step->dst >= 0 &&
                                step->dst < topology->ranks && step->item >= 0 &&
                                step->item < items;
        if (!is_in_range || step->src == step->dst)
            return banyan_fail(
                BANYAN_ERR_ARGUMENT,
                "step %d (round %d, rank %d to rank %d, item %d) is out of range: "
                "%d rounds, %d ranks, %d items",
                (int)i, (int)step->round, (int)step->src, (int)step->dst, (int)step->item,
                (int)s->rounds, (int)topology->ranks, (int)items);
        if (i && compare_steps(step - 1, step) >= 0)
            return banyan_fail(BANYAN_ERR_ARGUMENT, "step %d is a repetition or not in order",
                               (int)i);
    }
    return BANYAN_OK;
}

/* The steps of each item one after another, in their order: first [items + 1] into step. */
static void group_by_item(const banyan_schedule *s, int32_t items, int32_t *first,
                          const banyan_step **step)
{
    memset(first, 0, ((size_t)items + 1) * sizeof *first);
    for (int32_t i = 0; i < s->count; i++) first[s->step[i].item + 1]++;
    for (int32_t i = 0; i < items; i++) first[i + 1] += first[i];
    for (int32_t i = 0; i < s->count; i++) step[first[s->step[i].item]++] = &s->step[i];
    for (int32_t i = items; i > 0; i--) first[i] = first[i - 1];
    first[0] = 0;
}

banyan_status banyan_schedule_replay(const banyan_schedule *s, const banyan_topology *topology,
                                     const banyan_item *items, int32_t count, int all)
{
    banyan_status status = check_steps(s, topology, count);
    if (status) return status;
    const size_t ranks = (size_t)topology->ranks, words = (ranks + 63) / 64;
    replay r = {.topology = topology, .all = all, .words = (int32_t)words};
    r.before = malloc(ranks * words * sizeof *r.before);
    r.after = malloc(ranks * words * sizeof *r.after);
    r.may = malloc(2 * ranks);
    int32_t *first = malloc(((size_t)count + 1) * sizeof *first);
    const banyan_step **step = malloc(((size_t)s->count + 1) * sizeof *step);
    if (r.before && r.after && r.may && first && step) {
        r.useful = r.may + ranks;
        group_by_item(s, count, first, step);
        for (int32_t i = 0; i < count && !status; i++) {
            r.item = &items[i];
            r.number = i;
            status = replay_item(&r, step + first[i], first[i + 1] - first[i]);
        }
    } else {
        status = banyan_fail(BANYAN_ERR_MEMORY, "out of memory to replay a schedule");
    }
    free(r.before);
    free(r.after);
    free(r.may);
    free(first);
    free(step);
    return status;
}
