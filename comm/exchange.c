/* SPDX-License-Identifier: Apache-2.0 */
/* One rank's part of a schedule. create reads the whole schedule once and keeps what concerns
 * this rank, per round:
 *
 *     messages   one per peer and direction, with all its items in item order
 *     folds      one per item that arrives: the sources in the order in which they are folded
 *
 * Order decides bits, so it may depend on nothing but the schedule: what is folded is sorted by
 * the lowest rank that each value contains (then by the rank that sends it), which create works
 * out for every rank by following the schedule: a value begins as its own rank's, and folding
 * keeps the lowest. The receiver's own value takes its place among the others, or none when it
 * is replaced. */
#include "comm/exchange.h"

#include <stdlib.h>
#include <string.h>

/* All of its messages are the host's: none passes through anything else. */
static const banyan_memory host_memory = {.row = &banyan_memory_host};

/* While the schedule is followed: the lowest rank in each rank's value of each item. */
typedef struct follower {
    const banyan_schedule *s;
    int32_t rank, items;
    int32_t *lowest; /* [ranks][items] */
    int32_t *sent; /* [steps of the longest round]: the lowest rank in what each step carries */
    char *arrived; /* [items]: it does, in this round */
} follower;

static int32_t *lowest_of(const follower *f, int32_t rank, int32_t item)
{
    return &f->lowest[(size_t)rank * (size_t)f->items + (size_t)item];
}

static void begin_message(banyan_exchange *x, int32_t peer, int32_t before, int32_t offset)
{
    x->message[x->messages++] =
        (message){.peer = peer, .first_item = x->items, .before = before, .offset = offset};
}

static message *last_message(banyan_exchange *x)
{
    return &x->message[x->messages - 1];
}

/* The messages of steps begin .. end-1, one round: a new one whenever the peer changes. Returns
 * the items of all of them. */
static int32_t add_messages(banyan_exchange *x, const follower *f, int32_t begin, int32_t end,
                            int recv)
{
    int32_t total = 0;
    const int32_t before = x->messages;
    for (int32_t i = begin; i < end; i++) {
        const banyan_step *step = &f->s->step[i];
        if ((recv ? step->dst : step->src) != f->rank) continue;
        const int32_t peer = recv ? step->src : step->dst;
        if (x->messages == before || last_message(x)->peer != peer)
            begin_message(x, peer, x->messages - before, total);
        message *m = last_message(x);
        if (recv) {
            x->source[x->sources++] = (fold_source){.message = x->messages - 1,
                                                    .index = m->items,
                                                    .item = step->item,
                                                    .lowest = f->sent[i - begin],
                                                    .rank = peer};
            f->arrived[step->item] = 1;
        }
        x->item[x->items++] = step->item;
        m->items++;
        total++;
    }
    return total;
}

static int compare_sources(const void *a, const void *b)
{
    const fold_source *x = a, *y = b;
    if (x->item != y->item) return x->item < y->item ? -1 : 1;
    if (x->lowest != y->lowest) return x->lowest < y->lowest ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* Does any step of the round replace what this rank has of the item? */
static int is_replaced(const follower *f, int32_t begin, int32_t end, int32_t item)
{
    for (int32_t i = begin; i < end; i++) {
        const banyan_step *step = &f->s->step[i];
        if (step->dst == f->rank && step->item == item && !step->combine) return 1;
    }
    return 0;
}

/* Orders what arrived in the round, from source `first` on, and puts this rank's own values to
 * it: one fold per item. */
static void add_folds(banyan_exchange *x, const follower *f, int32_t first, int32_t begin,
                      int32_t end)
{
    const int32_t arrived = x->sources;
    for (int32_t i = first; i < arrived; i++) {
        const int32_t item = x->source[i].item;
        if (!f->arrived[item]) continue; /* its own is there already */
        f->arrived[item] = 0;
        if (!is_replaced(f, begin, end, item))
            x->source[x->sources++] = (fold_source){.message = -1,
                                                    .item = item,
                                                    .lowest = *lowest_of(f, f->rank, item),
                                                    .rank = f->rank};
    }
    qsort(x->source + first, (size_t)(x->sources - first), sizeof *x->source, compare_sources);
    for (int32_t i = first; i < x->sources; i++) {
        if (i == first || x->source[i].item != x->source[i - 1].item)
            x->fold[x->folds++] = (fold){.item = x->source[i].item, .first_source = i};
        x->fold[x->folds - 1].sources++;
    }
}

/* What the round makes of everybody's values. */
static void follow_round(const follower *f, int32_t begin, int32_t end)
{
    for (int32_t i = begin; i < end; i++)
        if (!f->s->step[i].combine)
            *lowest_of(f, f->s->step[i].dst, f->s->step[i].item) = INT32_MAX;
    for (int32_t i = begin; i < end; i++) {
        int32_t *low = lowest_of(f, f->s->step[i].dst, f->s->step[i].item);
        if (f->sent[i - begin] < *low) *low = f->sent[i - begin];
    }
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Of the rounds that this rank takes part in: after which does nothing come, and nothing go
 * out? */
static void mark_ends(banyan_exchange *x)
{
    int is_last = 1, is_over = 1;
    for (int32_t r = x->rounds - 1; r >= 0; r--) {
        x->round[r].is_last = is_last;
        x->round[r].is_over = is_over;
        is_last &= !x->round[r].recvs;
        is_over = 0;
    }
}

static void add_round(banyan_exchange *x, const follower *f, int32_t begin, int32_t end)
{
    round_part part = {.first_message = x->messages,
                       .first_fold = x->folds,
                       .number = f->s->step[begin].round};
    const int32_t first_source = x->sources;
    for (int32_t i = begin; i < end; i++)
        f->sent[i - begin] = *lowest_of(f, f->s->step[i].src, f->s->step[i].item);
    x->send_items = larger(x->send_items, add_messages(x, f, begin, end, 0));
    part.sends = x->messages - part.first_message;
    x->recv_items = larger(x->recv_items, add_messages(x, f, begin, end, 1));
    part.recvs = x->messages - part.first_message - part.sends;
    x->send_messages = larger(x->send_messages, part.sends);
    x->recv_messages = larger(x->recv_messages, part.recvs);
    add_folds(x, f, first_source, begin, end);
    part.folds = x->folds - part.first_fold;
    if (part.sends || part.recvs) x->round[x->rounds++] = part;
    follow_round(f, begin, end);
}

/* What this rank sends or receives in one round at most, and in all of them. */
typedef struct load {
    int32_t items, messages; /* of the largest round */
    int32_t total;           /* items */
    int32_t all;             /* messages of all rounds */
} load;

/* The sizes of everything, from the schedule: ranks and items that it names, its longest round,
 * the steps that concern this rank. */
typedef struct extent {
    int32_t ranks, items, longest;
    load sends, recvs;
} extent;

/* Counts one item to or from a peer; a round's messages follow each other by peer. */
static void count_item(load *all, load *round, int32_t *last_peer, int32_t peer)
{
    round->items++;
    round->messages += peer != *last_peer;
    all->all += peer != *last_peer;
    *last_peer = peer;
    all->total++;
    all->items = larger(all->items, round->items);
    all->messages = larger(all->messages, round->messages);
}

static extent extent_of(const banyan_schedule *s, int rank)
{
    extent size = {.ranks = rank + 1};
    load sends = {0}, recvs = {0}; /* this round */
    int32_t to = -1, from = -1;
    for (int32_t i = 0, begin = 0; i < s->count; i++) {
        const banyan_step *step = &s->step[i];
        if (step->round != s->step[begin].round) {
            begin = i;
            sends = recvs = (load){0};
            to = from = -1;
        }
        size.longest = larger(size.longest, i - begin + 1);
        size.ranks = larger(size.ranks, larger(step->src, step->dst) + 1);
        size.items = larger(size.items, step->item + 1);
        if (step->src == rank) count_item(&size.sends, &sends, &to, step->dst);
        if (step->dst == rank) count_item(&size.recvs, &recvs, &from, step->src);
    }
    return size;
}

static size_t fixed_bytes(const extent *size, int32_t rounds)
{
    const size_t sends = (size_t)size->sends.total, recvs = (size_t)size->recvs.total;
    return sizeof(banyan_exchange) + (size_t)(rounds + 1) * sizeof(round_part) +
           (sends + recvs + 1) * (sizeof(message) + sizeof(int32_t)) +
           (recvs + 1) * sizeof(fold) + (2 * recvs + 1) * sizeof(fold_source);
}

/* Whole cache lines, and never none. */
static size_t buffer_bytes(int32_t messages, int32_t items, size_t max_item_bytes)
{
    return ((size_t)items * max_item_bytes + 63) / 64 * 64 +
           (size_t)(messages + 1) * BANYAN_HEADER_BYTES;
}

size_t banyan_exchange_measure(const banyan_schedule *s, int rank, size_t max_item_bytes)
{
    const extent size = extent_of(s, rank);
    return fixed_bytes(&size, s->rounds) +
           buffer_bytes(size.sends.messages, size.sends.items, max_item_bytes) +
           buffer_bytes(size.recvs.messages, size.recvs.items, max_item_bytes);
}

/* A fault for each message, so that what a receive's has is its own; sends' stay unused. */
static size_t fault_bytes(int32_t messages)
{
    return (size_t)(messages + 1) * sizeof(banyan_fault);
}

/* Of the lists of what a round does at once in a device's memory. */
static size_t round_bytes(int32_t sends, int32_t send_items, int32_t recvs, int32_t recv_items)
{
    return (size_t)(larger(sends, recvs) + 1) * sizeof(message_header) +
           (size_t)(sends + send_items + 1) * sizeof(banyan_gathered) +
           (size_t)(recvs + 1) * sizeof(banyan_check) +
           (size_t)(recv_items + 1) * (sizeof(banyan_fold) + 2 * sizeof(void *));
}

void banyan_exchange_measure_device(const banyan_schedule *s, int rank, size_t max_item_bytes,
                                    int is_staged, size_t *host, size_t *device)
{
    const extent size = extent_of(s, rank);
    const size_t sends = buffer_bytes(size.sends.messages, size.sends.items, max_item_bytes);
    const size_t recvs = buffer_bytes(size.recvs.messages, size.recvs.items, max_item_bytes);
    *host = fixed_bytes(&size, s->rounds) +
            round_bytes(size.sends.messages, size.sends.items, size.recvs.messages,
                        size.recvs.items) +
            (is_staged ? sends + recvs : fault_bytes(size.sends.all + size.recvs.all));
    *device = recvs + (is_staged ? 0 : sends);
}

static int allocate_lists(banyan_exchange *x, follower *f, const extent *size, int32_t rounds)
{
    const size_t sends = (size_t)size->sends.total, recvs = (size_t)size->recvs.total;
    const size_t values = (size_t)size->ranks * (size_t)size->items;
    x->round = malloc((size_t)(rounds + 1) * sizeof *x->round);
    x->message = malloc((sends + recvs + 1) * sizeof *x->message);
    x->item = malloc((sends + recvs + 1) * sizeof *x->item);
    x->fold = malloc((recvs + 1) * sizeof *x->fold);
    x->source = malloc((2 * recvs + 1) * sizeof *x->source);
    f->lowest = malloc((values + 1) * sizeof *f->lowest);
    f->sent = malloc((size_t)(size->longest + 1) * sizeof *f->sent);
    f->arrived = calloc((size_t)size->items + 1, sizeof *f->arrived);
    if (!x->round || !x->message || !x->item || !x->fold || !x->source || !f->lowest ||
        !f->sent || !f->arrived)
        return 0;
    x->held_bytes = fixed_bytes(size, rounds);
    for (int32_t r = 0; r < size->ranks; r++)
        for (int32_t i = 0; i < size->items; i++) *lowest_of(f, r, i) = r;
    return 1;
}

static const char *allocate_buffer(banyan_exchange *x, int on_host, size_t bytes, void *out)
{
    size_t *held = on_host || !x->memory->row->is_apart ? &x->held_bytes : &x->device_bytes;
    void *memory = NULL;
    const char *failed = banyan_memory_allocate(x->memory, on_host, bytes, &memory);
    if (failed) return failed;
    *held += bytes;
    memcpy(out, &memory, sizeof memory); /* whatever it points to */
    return NULL;
}

/* Of the largest round: a fold has at most one value more than arrive of its item. */
static int take_round_lists(banyan_exchange *x)
{
    const int32_t sends = x->send_messages, recvs = x->recv_messages;
    x->header = malloc((size_t)(larger(sends, recvs) + 1) * sizeof *x->header);
    x->move = malloc((size_t)(sends + x->send_items + 1) * sizeof *x->move);
    x->check = malloc((size_t)(recvs + 1) * sizeof *x->check);
    x->folded = malloc((size_t)(x->recv_items + 1) * sizeof *x->folded);
    x->value = malloc((size_t)(2 * x->recv_items + 2) * sizeof *x->value);
    x->held_bytes += round_bytes(sends, x->send_items, recvs, x->recv_items);
    return x->header && x->move && x->check && x->folded && x->value;
}

/* What comes to the host's memory stays where it came. */
static banyan_status take_buffers(banyan_exchange *x)
{
    const size_t sends = buffer_bytes(x->send_messages, x->send_items, x->max_item_bytes);
    const size_t recvs = buffer_bytes(x->recv_messages, x->recv_items, x->max_item_bytes);
    const size_t faults = fault_bytes(x->messages);
    const int is_staged = x->memory->is_staged, is_apart = x->memory->row->is_apart;
    const char *failed = allocate_buffer(x, is_staged, sends, &x->send_buffer);
    if (!failed) failed = allocate_buffer(x, 0, recvs, &x->recv_buffer);
    if (!is_apart) {
        x->arrivals = x->recv_buffer;
        return failed ? BANYAN_ERR_MEMORY : BANYAN_OK;
    }
    if (!failed && !take_round_lists(x)) failed = "out of memory";
    if (!failed)
        failed = is_staged ? allocate_buffer(x, 1, recvs, &x->arrivals)
                           : allocate_buffer(x, 1, faults, &x->fault);
    if (!failed && x->fault) memset(x->fault, 0, faults);
    return banyan_device_status(failed);
}

static int is_sorted(const banyan_schedule *s)
{
    for (int32_t i = 1; i < s->count; i++) {
        const banyan_step *a = &s->step[i - 1], *b = &s->step[i];
        if (a->round != b->round ? a->round > b->round
            : a->src != b->src   ? a->src > b->src
            : a->dst != b->dst   ? a->dst > b->dst
                                 : a->item >= b->item)
            return 0;
    }
    return 1;
}

banyan_status banyan_exchange_create(const banyan_schedule *s, int rank, size_t max_item_bytes,
                                     uint64_t plan, const banyan_memory *memory,
                                     banyan_exchange **out)
{
    if (s->failed) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a schedule");
    if (!is_sorted(s))
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "the schedule is not sorted, or repeats a step");
    const extent size = extent_of(s, rank);
    follower f = {.s = s, .rank = rank, .items = size.items};
    banyan_exchange *x = calloc(1, sizeof *x);
    int is_made = x && allocate_lists(x, &f, &size, s->rounds);
    for (int32_t begin = 0, end; is_made && begin < s->count; begin = end) {
        for (end = begin; end < s->count && s->step[end].round == s->step[begin].round;) end++;
        add_round(x, &f, begin, end);
    }
    if (is_made) mark_ends(x);
    free(f.lowest);
    free(f.sent);
    free(f.arrived);
    banyan_status status = is_made ? BANYAN_OK : BANYAN_ERR_MEMORY;
    if (is_made) {
        x->max_item_bytes = max_item_bytes;
        x->plan = plan;
        x->memory = memory ? memory : &host_memory;
        status = take_buffers(x);
    }
    if (status) {
        banyan_exchange_destroy(x);
        if (status != BANYAN_ERR_MEMORY) return status;
        return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for the messages of rank %d",
                           rank);
    }
    *out = x;
    return BANYAN_OK;
}

void banyan_exchange_destroy(banyan_exchange *x)
{
    if (!x) return;
    free(x->round);
    free(x->message);
    free(x->item);
    free(x->fold);
    free(x->source);
    free(x->header);
    free(x->move);
    free(x->check);
    free(x->folded);
    free(x->value);
    if (x->memory) { /* else it was not made */
        banyan_memory_release(x->memory, x->memory->is_staged, x->send_buffer);
        if (x->arrivals != x->recv_buffer) banyan_memory_release(x->memory, 1, x->arrivals);
        banyan_memory_release(x->memory, 0, x->recv_buffer);
        banyan_memory_release(x->memory, 1, x->fault);
    }
    free(x);
}

size_t banyan_exchange_bytes(const banyan_exchange *x)
{
    return x->held_bytes;
}

size_t banyan_exchange_device_bytes(const banyan_exchange *x)
{
    return x->device_bytes;
}
