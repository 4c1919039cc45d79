/* SPDX-License-Identifier: Apache-2.0 */
/* The union is a merge of two ascending lists, but of whole runs at a time: while both cursors
 * stand on the same place, as far as their steps agree; and while one is behind, up to where
 * the other stands. Lists of neighbouring own blocks are made of the same progressions, cut at
 * other places, so that a few runs do; lists that are not would come out place by place, and
 * are refused.
 *
 * The result has its three modes one after the other, and nothing is known of their lengths
 * before the end of the merge: so it is done once for each mode. */
#include "attention/cuda/spans.h"

/* What is left of a list. */
struct span_cursor {
    const banyan_span *span;
    int32_t spans;
    int32_t first, count; /* of *span; count 0: the end of the list */
};

static void skip_empty(struct span_cursor *c)
{
    while (c->spans && !c->span->count) c->span++, c->spans--;
    c->first = c->spans ? c->span->first : 0;
    c->count = c->spans ? c->span->count : 0;
}

static void advance(struct span_cursor *c, int32_t count)
{
    c->first += count * c->span->step;
    c->count -= count;
    if (c->count) return;
    c->span++, c->spans--;
    skip_empty(c);
}

/* A list that is being written. */
struct writer {
    cuda_list *list;
    int32_t room; /* for so many spans */
    int32_t entries;
};

static void append(struct writer *w, int32_t first, int32_t count, int32_t step, int32_t how)
{
    cuda_list *const list = w->list;
    if (list->spans) {
        const cuda_span *const last = &list->span[list->spans - 1];
        const int32_t next = last->first + (w->entries - last->first_entry) * last->step;
        if (last->how == how && last->step == step && next == first) {
            w->entries += count;
            return;
        }
    }
    if (list->spans < w->room)
        list->span[list->spans] = (cuda_span){w->entries, first, step, how};
    list->spans++; /* over the room: refused by the caller */
    w->entries += count;
}

/* A step has so many entries: the last one may need companions, in the place of their
 * neighbour. */
static void end_mode(struct writer *w, int32_t mode, int32_t begin)
{
    cuda_list *const list = w->list;
    const int32_t over = w->entries % list->step;
    if (over && list->spans <= w->room) {
        const cuda_span *const last = &list->span[list->spans - 1];
        append(w, last->first + (w->entries - 1 - last->first_entry) * last->step,
               list->step - over, 0, CUDA_NOTHING);
    }
    list->steps[mode] = (w->entries - begin) / list->step;
}

void banyan_cuda_list(const banyan_span *span, int32_t count, int both, cuda_list *out)
{
    struct writer w = {out, count + 1, 0};
    out->spans = out->steps[0] = out->steps[1] = out->steps[2] = 0;
    for (int32_t i = 0; i < count; i++)
        if (span[i].count)
            append(&w, span[i].first, span[i].count, span[i].count > 1 ? span[i].step : 1,
                   span[i].masked | span[i].masked << CUDA_MASK_BITS);
    end_mode(&w, both ? 0 : 1, 0);
}

static int32_t last_of(const struct span_cursor *c)
{
    return c->first + (c->count - 1) * c->span->step;
}

/* Places of `c` below `limit`: it has at least one. */
static int32_t below(const struct span_cursor *c, int32_t limit)
{
    if (last_of(c) < limit) return c->count;
    return (limit - c->first + c->span->step - 1) / c->span->step;
}

static int32_t step_of(const struct span_cursor *c, int32_t count)
{
    return count == 1 ? 1 : c->span->step;
}

/* Writes the places that are in both lists (mode 0), in the first only (1), in the second only
 * (2). */
static void merge(struct span_cursor a, struct span_cursor b, int32_t mode, struct writer *w)
{
    const int32_t begin = w->entries;
    while ((a.count || b.count) && w->list->spans <= w->room) {
        if (a.count && b.count && a.first == b.first) {
            int32_t count = a.count < b.count ? a.count : b.count;
            if (a.span->step != b.span->step) count = 1;
            if (mode == 0)
                append(w, a.first, count, step_of(&a, count),
                       a.span->masked | b.span->masked << CUDA_MASK_BITS);
            advance(&a, count);
            advance(&b, count);
            continue;
        }
        const int a_first = a.count && (!b.count || a.first < b.first);
        struct span_cursor *const c = a_first ? &a : &b, *const other = a_first ? &b : &a;
        const int32_t count = other->count ? below(c, other->first) : c->count;
        if (mode == (a_first ? 1 : 2))
            append(w, c->first, count, step_of(c, count),
                   c->span->masked << (a_first ? 0 : CUDA_MASK_BITS));
        advance(c, count);
    }
    end_mode(w, mode, begin);
}

static int ascends(const banyan_span *span, int32_t count)
{
    int64_t last = -1;
    for (int32_t i = 0; i < count; i++) {
        if (!span[i].count) continue;
        if (span[i].first <= last || (span[i].count > 1 && span[i].step < 1)) return 0;
        last = span[i].first + (int64_t)(span[i].count - 1) * span[i].step;
    }
    return 1;
}

int banyan_cuda_union(const banyan_span *a, int32_t a_count, const banyan_span *b,
                      int32_t b_count, cuda_list *out)
{
    struct span_cursor at_a = {a, a_count, 0, 0}, at_b = {b, b_count, 0, 0};
    struct writer w = {out, a_count + b_count + CUDA_UNION_SPANS, 0};
    out->spans = 0;
    if (!ascends(a, a_count) || !ascends(b, b_count)) return 0;
    skip_empty(&at_a);
    skip_empty(&at_b);
    for (int32_t mode = 0; mode < 3; mode++) {
        merge(at_a, at_b, mode, &w);
        if (out->spans > w.room) return 0;
    }
    return 2 * out->steps[0] >= out->steps[1] + out->steps[2];
}
