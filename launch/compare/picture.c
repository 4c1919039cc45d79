/* SPDX-License-Identifier: Apache-2.0 */
/* The picture of a comparison: a line of bars for each pattern, those that find most on top,
 * and of equal ones those that keep least.
 *
 *     S2            |####      35 %   |###      30 %   |############ 100 %
 *                    kept memory       read by a row    needles found        */
#include "launch/compare/compare.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 3 };
static const double column_width = 1.45; /* a bar is at most 1 */

typedef struct bar_line {
    const compared *p;
    /* Shares: kept and read of the first pattern's, found of all needles. */
    double bar[COLUMNS];
} bar_line;

static int best_first(const void *a, const void *b)
{
    const bar_line *x = a, *y = b;
    const double found = y->bar[2] - x->bar[2], kept = x->bar[0] - y->bar[0],
                 read = x->bar[1] - y->bar[1];
    const double by = found < 0 || found > 0 ? found : kept < 0 || kept > 0 ? kept : read;
    return by < 0 ? -1 : by > 0;
}

static const char *colour_of(int column, double share)
{
    if (column < 2) return column ? "#7AA5E0" : "#4C6FB1";
    return share > 0.999 ? "#0CA678" : share > 0.5 ? "#EBB839" : "#F0496E";
}

/* Numbers to the right of a bar, and a name to the left of them all, as many characters as
 * there is room. */
static void label(double x, int32_t row, const char *side, const char *text, FILE *out)
{
    fputs("set label ", out);
    plot_string(text, out);
    fprintf(out, " at %.3f,%d %s noenhanced\n", x, (int)row, side);
}

static void draw_line(const bar_line *l, int32_t row, FILE *out)
{
    char text[64];
    snprintf(text, sizeof text, "%.24s%s", l->p->name, l->p->scaled ? " *" : "");
    label(-0.04, row, "right", text, out);
    for (int i = 0; i < COLUMNS; i++) {
        const double from = i * column_width, length = l->bar[i] > 1 ? 1 : l->bar[i];
        fprintf(out,
                "set object rectangle from %.3f,%.2f to %.4f,%.2f fillcolor rgb '%s' "
                "fillstyle solid noborder\n",
                from, row - 0.34, from + length, row + 0.34, colour_of(i, l->bar[i]));
        snprintf(text, sizeof text, "%.*f %%", l->bar[i] < 0.0995 ? 1 : 0, 100 * l->bar[i]);
        label(from + length + 0.03, row, "left", text, out);
    }
}

static void draw_bars(const comparison *c, const bar_line *lines, FILE *out)
{
    static const char *const heads[COLUMNS] = {"keys and values kept", "read by a decoded row",
                                               "needles found"};
    char text[160], length[32];
    bool scaled = false;
    fprintf(out,
            "set terminal svg size 880,%d font 'sans-serif,14' background '#ffffff'\n"
            "set lmargin 0\nset rmargin 0\nset tmargin 0\nset bmargin 0\nunset border\n"
            "unset tics\nunset key\nset xrange [-1.15:4.2]\nset yrange [%d.6:-2.6]\n",
            28 * ((int)c->count + 4), (int)c->count);
    snprintf(text, sizeof text, "Head patterns side by side: %s, %s tokens, %d ranks",
             c->s->wish.foreign ? "a model" : "the constructed model",
             length_text(c->length, length, sizeof length), c->j->ranks);
    label(-1.1, -2, "left", text, out);
    for (int i = 0; i < COLUMNS; i++) label(i * column_width, -1, "left", heads[i], out);
    for (int32_t i = 0; i < c->count; i++) {
        draw_line(&lines[i], i, out);
        scaled = scaled || lines[i].p->scaled;
    }
    if (scaled)
        label(-1.1, c->count, "left", "* settings of a paper, scaled to this length", out);
    fputs("plot NaN\n", out);
}

plot_result compare_svg(const comparison *c, FILE *out)
{
    bar_line lines[COMPARE_MOST];
    char *script = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&script, &bytes);
    if (!memory) return PLOT_FAILED;
    for (int32_t i = 0; i < c->count; i++) {
        const compared *p = &c->of[i];
        lines[i] =
            (bar_line){p, {compare_share(c, p), p->read / c->of[0].read, compare_recall(c, p)}};
    }
    qsort(lines, (size_t)c->count, sizeof *lines, best_first);
    draw_bars(c, lines, memory);
    plot_result result = fclose(memory) == 0 ? plot_svg(script, out) : PLOT_FAILED;
    free(script);
    return result;
}
