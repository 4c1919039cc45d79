/* SPDX-License-Identifier: Apache-2.0 */
/* The line as text, for plans that are small enough to look at:
 *
 *     head  |0 dense         |1 dense         |2 s2  |3 s2  |
 *     rank  |0         |1          |2         |3            |
 *
 * Widths are in proportion to weights; a piece too short for its name shows its border only. */
#include "dist/plan.h"

#include <stdio.h>
#include <string.h>

enum { WIDTH = 72 };

/* `name` from column `first` on, behind a border, as far as it is free until `end`. */
static void put_name(char *row, int first, int end, const char *name)
{
    const int length = (int)strlen(name);
    row[first] = '|';
    if (first + 1 + length > end) return;
    memcpy(row + first + 1, name, (size_t)length);
}

static int column(double at, double whole)
{
    return (int)(at / whole * WIDTH + 0.5);
}

static void draw_ranks(const banyan_kind *kind, double whole, char *row)
{
    double low = 0, start = 0;
    int32_t rank = -1;
    char name[16] = "";
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        double cut = 0;
        for (int32_t i = 0; i < head->placed.count; i++) {
            const banyan_holder *holder = &head->placed.holder[i];
            const double at = low + cut * head->weight;
            if (holder->rank != rank) {
                if (rank >= 0) put_name(row, column(start, whole), column(at, whole), name);
                rank = holder->rank;
                start = at;
                snprintf(name, sizeof name, "%d", (int)rank);
            }
            cut = (double)holder->cut / 18446744073709551616.0;
        }
        low += head->weight;
    }
    put_name(row, column(start, whole), WIDTH, name);
}

void banyan_kind_draw(const banyan_kind *kind, FILE *out)
{
    char heads[WIDTH + 2], ranks[WIDTH + 2], name[32];
    double whole = 0, low = 0;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) whole += kind->head[g].weight;
    memset(heads, ' ', sizeof heads);
    memset(ranks, ' ', sizeof ranks);
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        const int first = column(low, whole), end = column(low + head->weight, whole);
        snprintf(name, sizeof name, "%d %s", (int)g, head->classes[0].pattern.selector->name);
        if (first + 1 + (int)strlen(name) > end) snprintf(name, sizeof name, "%d", (int)g);
        put_name(heads, first, end, name);
        low += head->weight;
    }
    draw_ranks(kind, whole, ranks);
    heads[WIDTH] = ranks[WIDTH] = '|';
    heads[WIDTH + 1] = ranks[WIDTH + 1] = 0;
    fprintf(out, "    head  %s\n    rank  %s\n", heads, ranks);
}
