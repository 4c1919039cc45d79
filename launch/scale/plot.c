/* SPDX-License-Identifier: Apache-2.0 */
/* Time and efficiency against ranks, a curve per method and the ideal one, a row of two plots
 * per context length. What was measured with more threads than cores has hollow points. */
#include "launch/scale/scale.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const colour[] = {"#0CA678", "#EBB839", "#F0496E", "#5B6EE1",
                                     "#8A8F98", "#7B3FA0", "#2B9FD9"};

static bool is_in(const scale_line *l, int64_t base, const scale_method *m)
{
    return l->measured && l->base == base && (!m || l->method == m);
}

static void data(const scale_task *t, int64_t base, const scale_method *m, bool efficiency,
                 bool crowded, FILE *out)
{
    for (int32_t i = 0; i < t->lines; i++) {
        const scale_line *l = &t->line[i];
        if (!is_in(l, base, m) || (crowded && l->busy <= l->cores)) continue;
        if (efficiency && l->speedup <= 0) continue;
        fprintf(out, "%d %.9g\n", l->ranks,
                efficiency ? l->speedup / l->ranks : 1e3 * l->median);
    }
    fputs("e\n", out);
}

/* The time that a perfect machine would take: as on one rank, divided (strong) or kept
 * (weak). */
static void ideal(const scale_task *t, int64_t base, FILE *out)
{
    const scale_line *first = NULL;
    int32_t most = 1;
    for (int32_t i = 0; i < t->lines; i++) {
        const scale_line *l = &t->line[i];
        if (!is_in(l, base, NULL)) continue;
        if (!first || l->ranks < first->ranks) first = l;
        most = l->ranks > most ? l->ranks : most;
    }
    if (first) {
        const double end = t->mode == SCALE_STRONG || t->mode == SCALE_NODES
                               ? first->median * first->ranks / most
                               : first->median;
        fprintf(out, "%d %.9g\n%d %.9g\n", first->ranks, 1e3 * first->median, most, 1e3 * end);
    }
    fputs("e\n", out);
}

static bool has_crowded(const scale_task *t)
{
    for (int32_t i = 0; i < t->lines; i++)
        if (t->line[i].measured && t->line[i].busy > t->line[i].cores) return true;
    return false;
}

/* Methods in the order in which they appear in this case list. */
static int32_t list_methods(const scale_task *t, int64_t base, const scale_method **list)
{
    int32_t count = 0;
    for (int32_t i = 0; i < t->lines; i++) {
        bool known = !is_in(&t->line[i], base, NULL);
        for (int32_t k = 0; k < count && !known; k++) known = list[k] == t->line[i].method;
        if (!known && count < 16) list[count++] = t->line[i].method;
    }
    return count;
}

static void panel(const scale_task *t, int64_t base, bool efficiency, FILE *out)
{
    const scale_method *method[16];
    const int32_t methods = list_methods(t, base, method);
    const bool crowded = has_crowded(t);
    fprintf(out, "set title '%s, %" PRId64 " tokens%s'\nset ylabel '%s'\n",
            t->prefill ? "prefill" : "decode", base,
            t->mode == SCALE_WEAK || t->mode == SCALE_WEAK_WORK ? " on one rank" : "",
            efficiency ? "efficiency against one rank" : "median, ms");
    fputs(efficiency ? "unset logscale y\nset yrange [0:1.1]\n"
                     : "set logscale y\nset yrange [*:*]\n",
          out);
    fputs("plot ", out);
    for (int32_t m = 0; m < methods; m++) {
        const char *c = colour[m % 7];
        fprintf(out, "'-' with linespoints lc rgb '%s' lw 2 pt 7 title '%s', ", c,
                method[m]->name);
        if (crowded) fprintf(out, "'-' with points lc rgb '#FFFFFF' pt 7 ps 0.45 notitle, ");
    }
    fputs(efficiency ? "1 with lines lc rgb '#8A8F98' dt 2 title 'ideal'\n"
                     : "'-' with lines lc rgb '#8A8F98' dt 2 title 'ideal'\n",
          out);
    for (int32_t m = 0; m < methods; m++) {
        data(t, base, method[m], efficiency, false, out);
        if (crowded) data(t, base, method[m], efficiency, true, out);
    }
    if (!efficiency) ideal(t, base, out);
}

void scale_plot(const scale_task *t, FILE *out)
{
    int64_t base[64];
    int32_t rows = 0;
    for (int32_t i = 0; i < t->lines && rows < 64; i++) {
        bool known = !t->line[i].measured;
        for (int32_t k = 0; k < rows && !known; k++) known = base[k] == t->line[i].base;
        if (!known) base[rows++] = t->line[i].base;
    }
    if (!rows) return;
    int32_t most = 1;
    for (int32_t i = 0; i < t->lines; i++)
        most = t->line[i].ranks > most ? t->line[i].ranks : most;
    fprintf(out, "set terminal svg size 960,%d font 'sans-serif,13' background '#ffffff'\n",
            80 + 380 * rows);
    fprintf(out, "set multiplot layout %d,2%s\n", rows,
            has_crowded(t) ? " title 'hollow points: more threads than cores'" : "");
    fputs("set logscale x 2\nset xlabel 'ranks'\nset grid lc rgb '#E4E6EA'\nset key below "
          "center horizontal\n",
          out);
    fprintf(out, "set xrange [0.9:%g]\n", 1.12 * most);
    for (int32_t i = 0; i < rows; i++) {
        panel(t, base[i], false, out);
        panel(t, base[i], true, out);
    }
    fputs("unset multiplot\n", out);
}
