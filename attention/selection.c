/* SPDX-License-Identifier: Apache-2.0 */
/* From selections to a kernel's block list.
 *
 * A selection is a handful of runs (first, last, step) that ascend and do not overlap. The list
 * for a tile walks the blocks that are held here once, with one cursor per class of query heads
 * into that class's runs, and writes an entry for every way in which a block is seen: one for
 * all heads that see every token up to the row, and one for each edge rule that cuts the block.
 *
 *     held       0    3    4    7    8   11   12   15   16          own block: 16
 *     class A    0         4         8        12        16          s2, residue 0
 *     class B         3         7         11       15   16          s2, residue 3
 *     entries    A    B    A    B    A    B   A    B    A|B */
#include "attention/attention.h"

void banyan_selection_add(banyan_selection *s, int64_t first, int64_t last, int64_t step,
                          int edge)
{
    if (first < 0) first += (-first + step - 1) / step * step;
    if (last < first) return;
    if (s->count > 0) {
        banyan_run *before = &s->run[s->count - 1];
        if (before->step > 1 && before->last >= first) {
            /* a strided run gives way to the denser one that follows */
            int64_t excess = (before->last - first) / before->step + 1;
            before->last -= excess * before->step;
            if (before->last < before->first) s->count--;
        } else if (before->last >= first) {
            first += (before->last - first) / step * step + step;
        }
    }
    if (last < first) return;
    if (s->count == BANYAN_MAX_RUNS) {
        s->too_many = 1;
        return;
    }
    last -= (last - first) % step;
    s->run[s->count++] = (banyan_run){first, last, step, edge};
}

int banyan_selection_holds(const banyan_selection *s, int64_t block)
{
    for (int32_t i = 0; i < s->count; i++) {
        const banyan_run *run = &s->run[i];
        if (block < run->first) return 0;
        if (block <= run->last && (block - run->first) % run->step == 0) return 1;
    }
    return 0;
}

/* What one class reads, and how far the walk has come in it. */
typedef struct cursor {
    banyan_selection read;
    banyan_chosen chosen; /* those that are still to come */
    int32_t at;           /* the run */
    int32_t edge;         /* index into the tile's edges */
} cursor;

/* Index of `edge` among edges[0 .. *count-1], added when new. */
static int32_t edge_index(banyan_edge *edges, int32_t *count, banyan_edge edge)
{
    for (int32_t i = 0; i < *count; i++)
        if (edges[i].sink_end == edge.sink_end && edges[i].window == edge.window) return i;
    edges[*count] = edge;
    return (*count)++;
}

/* The run that holds `block`, or NULL. Blocks are asked for in ascending order. */
static const banyan_run *seek(cursor *c, int64_t block)
{
    while (c->at < c->read.count && c->read.run[c->at].last < block) c->at++;
    if (c->at == c->read.count) return NULL;
    const banyan_run *run = &c->read.run[c->at];
    if (block < run->first) return NULL;
    return run->step == 1 || (block - run->first) % run->step == 0 ? run : NULL;
}

/* Has the class chosen `block`? Likewise. own: the rows' block. */
static int is_chosen(cursor *c, int64_t block, int64_t own)
{
    if (c->chosen.only) return block <= own && banyan_bit(c->chosen.only, block);
    if (c->chosen.band) return block <= own && banyan_bit(c->chosen.band, own - block);
    while (c->chosen.count > 0 && c->chosen.pick->block < block)
        c->chosen.pick++, c->chosen.count--;
    return c->chosen.count > 0 && c->chosen.pick->block == block;
}

static int32_t open_cursors(const banyan_class *classes, int32_t class_count,
                            const banyan_chosen *chosen, int64_t first_row, int64_t last_row,
                            cursor *cursors, banyan_edge *edges)
{
    int32_t edge_count = 0;
    for (int32_t i = 0; i < class_count; i++) {
        cursor *c = &cursors[i];
        banyan_selection *read = &c->read;
        banyan_pattern_select(&classes[i].pattern, first_row, last_row, read);
        if (read->too_many) return -1;
        c->at = 0;
        c->chosen = chosen ? chosen[i] : (banyan_chosen){0};
        if (c->chosen.band || c->chosen.only) read->count = 0;
        c->edge = -1;
        for (int32_t r = 0; r < read->count; r++)
            if (read->run[r].edge) c->edge = edge_index(edges, &edge_count, read->edge);
    }
    return edge_count;
}

int64_t banyan_list_build(const banyan_class *classes, int32_t class_count,
                          const banyan_chosen *chosen, int64_t first_row, int64_t last_row,
                          const banyan_held_list *held, banyan_entry *entries,
                          banyan_edge *edges)
{
    cursor cursors[BANYAN_TILE_HEADS];
    uint64_t cut[BANYAN_TILE_HEADS] = {0}; /* per edge: heads that see the block through it */
    int32_t edge_count =
        open_cursors(classes, class_count, chosen, first_row, last_row, cursors, edges);
    const int64_t own = class_count ? last_row / classes[0].pattern.block_tokens : 0;
    int64_t count = 0;

    if (edge_count < 0) return -1;
    for (int64_t b = 0; b < held->count; b++) {
        const banyan_held h = *banyan_held_at(held, b);
        uint64_t whole = 0;
        for (int32_t i = 0; i < class_count; i++) {
            const banyan_run *run = seek(&cursors[i], h.block);
            if (!run && !is_chosen(&cursors[i], h.block, own)) continue;
            if (run && run->edge)
                cut[cursors[i].edge] |= classes[i].heads;
            else
                whole |= classes[i].heads;
        }
        if (whole) entries[count++] = (banyan_entry){h.record, h.block, whole, -1, NULL, NULL};
        for (int32_t e = 0; e < edge_count; e++) {
            if (cut[e])
                entries[count++] = (banyan_entry){h.record, h.block, cut[e], e, NULL, NULL};
            cut[e] = 0;
        }
    }
    return count;
}
