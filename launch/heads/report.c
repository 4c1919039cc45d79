/* SPDX-License-Identifier: Apache-2.0 */
/* Heads' scores as a table, JSON, the files that other projects have, and a picture. */
#include "launch/heads/heads.h"

#include <math.h>
#include <stdlib.h>

typedef struct ranked_head {
    double score;
    int64_t index;
} ranked_head;

/* Highest first; of equal ones the lower layer, then the lower head. */
static int by_head_score(const void *a, const void *b)
{
    const ranked_head *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* For free(); NULL: out of memory. */
static ranked_head *rank(const double *score, int64_t count)
{
    ranked_head *order = malloc((size_t)(count + 1) * sizeof *order);
    for (int64_t i = 0; order && i < count; i++) order[i] = (ranked_head){score[i], i};
    if (order) qsort(order, (size_t)count, sizeof *order, by_head_score);
    return order;
}

void heads_print(const heads_scores *s, int32_t most, FILE *out)
{
    ranked_head *order = rank(s->retrieval, s->all);
    const int64_t shown = most < s->all ? most : s->all;
    fprintf(out, "%d layers of %d query heads, %d KV heads; %d of %d needles were answered\n\n",
            (int)s->shape->layers, (int)s->shape->heads, (int)s->shape->kv_heads,
            (int)s->needles, (int)s->asked);
    fprintf(out, "  %5s %5s %10s %7s %10s %8s %8s %8s\n", "layer", "head", "retrieval", "echo",
            "induction", "needle", "sinks", "window");
    for (int64_t i = 0; order && i < shown; i++) {
        const int64_t n = order[i].index;
        fprintf(out, "  %5d %5d %10.3f %7.3f %10.3f %8.3f %8.3f %8.3f\n",
                (int)(n / s->shape->heads), (int)(n % s->shape->heads), s->retrieval[n],
                s->echo[n], s->induction[n], s->mass[HEADS_ON_NEEDLE][n],
                s->mass[HEADS_ON_SINKS][n], s->mass[HEADS_ON_WINDOW][n]);
    }
    if (shown < s->all)
        fprintf(out, "  .. %lld more; --json has all\n", (long long)(s->all - shown));
    fprintf(
        out,
        "\n  retrieval: share of answered tokens whose strongest token is the one being "
        "copied. echo, induction: attention\n"
        "  to a token's earlier copies, and to what followed them, in random tokens. needle, "
        "sinks (%d), window (%d): mass.\n",
        HEADS_SINKS, HEADS_WINDOW);
    free(order);
}

void heads_json(const heads_scores *s, FILE *out)
{
    for (int64_t n = 0; n < s->all; n++)
        output_line(
            out, json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "layer",
                           (int)(n / s->shape->heads), "head", (int)(n % s->shape->heads),
                           "retrieval", s->retrieval[n], "echo", s->echo[n], "induction",
                           s->induction[n], "needle", s->mass[HEADS_ON_NEEDLE][n], "sinks",
                           s->mass[HEADS_ON_SINKS][n], "window", s->mass[HEADS_ON_WINDOW][n]));
}

/* ---- files --------------------- */

void heads_retrieval(const heads_scores *s, FILE *out)
{
    for (int64_t n = 0; n < s->all; n++) {
        fprintf(out, "%s\"%d-%d\": [", n ? ", " : "{", (int)(n / s->shape->heads),
                (int)(n % s->shape->heads));
        for (int32_t i = 0; i < s->needles; i++)
            fprintf(out, "%s%.6g", i ? ", " : "", (double)s->trial[i * s->all + n]);
        fputs(s->needles ? "]" : "0]", out);
    }
    fputs("}\n", out);
}

/* The highest of a group: value [layers][kv_heads], for free(). */
static double *of_groups(const heads_scores *s, const double *score)
{
    const int64_t heads = s->shape->kv_heads, group = s->shape->heads / heads;
    const int64_t count = s->shape->layers * heads;
    double *value = malloc((size_t)(count + 1) * sizeof *value);
    for (int64_t i = 0; value && i < count; i++) {
        value[i] = score[i * group];
        for (int64_t k = 1; k < group; k++) value[i] = fmax(value[i], score[i * group + k]);
    }
    return value;
}

void heads_duo(const heads_scores *s, FILE *out)
{
    double *value = of_groups(s, s->retrieval);
    const int32_t heads = s->shape->kv_heads;
    for (int64_t i = 0; value && i < (int64_t)s->shape->layers * heads; i++)
        fprintf(out, "%.18e%s", value[i], i % heads < heads - 1 ? "\t" : "\n");
    free(value);
}

/* "prefix_matching": {"0": [1, 3], ..}, of the highest `share`, at least one. */
static void write_head_list(const heads_scores *s, const char *name, const double *score,
                            double share, FILE *out)
{
    const int64_t heads = s->shape->kv_heads, count = s->shape->layers * heads;
    const int64_t most = (int64_t)fmax(1, round(share * (double)count));
    double *value = of_groups(s, score);
    ranked_head *order = value ? rank(value, count) : NULL;
    bool *chosen = calloc((size_t)count + 1, sizeof *chosen);
    for (int64_t i = 0; order && chosen && i < most; i++) chosen[order[i].index] = true;
    fprintf(out, "\"%s\": {", name);
    for (int64_t layer = 0, layers = 0; chosen && layer < s->shape->layers; layer++) {
        int64_t listed = 0;
        for (int64_t h = 0; h < heads; h++) {
            if (!chosen[layer * heads + h]) continue;
            if (!listed++) fprintf(out, "%s\"%d\": [", layers++ ? ", " : "", (int)layer);
            fprintf(out, "%s%d", listed > 1 ? ", " : "", (int)h);
        }
        if (listed) fputc(']', out);
    }
    fputc('}', out);
    free(value);
    free(order);
    free(chosen);
}

void heads_razor(const heads_scores *s, double induction, double echo, FILE *out)
{
    fputc('{', out);
    write_head_list(s, "prefix_matching", s->induction, induction, out);
    fputs(", ", out);
    write_head_list(s, "copying", s->echo, echo, out);
    fputs("}\n", out);
}

/* ---- the picture --------------------- */

static void draw_panel(const heads_scores *s, const char *title, const double *value, FILE *out)
{
    fprintf(out,
            "set title '%s'\nset xrange [-0.5:%d.5]\nset yrange [-0.5:%d.5]\n"
            "plot '-' matrix with image notitle\n",
            title, (int)s->shape->heads - 1, (int)s->shape->layers - 1);
    for (int64_t n = 0; n < s->all; n++)
        fprintf(out, "%.4f%c", value[n], (n + 1) % s->shape->heads ? ' ' : '\n');
    fputs("e\n", out);
}

plot_result heads_svg(const heads_scores *s, FILE *out)
{
    char *script = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&script, &bytes);
    if (!memory) return PLOT_FAILED;
    fputs("set terminal svg size 1180,430 font 'sans-serif,13' background '#ffffff'\n"
          "set multiplot layout 1,3\nset xlabel 'query head'\nset ylabel 'layer'\n"
          "set palette defined (0 '#F4F5F7', 0.5 '#EBB839', 1 '#0CA678')\nset cbrange [0:1]\n",
          memory);
    draw_panel(s, "retrieval", s->retrieval, memory);
    draw_panel(s, "induction", s->induction, memory);
    draw_panel(s, "echo", s->echo, memory);
    fputs("unset multiplot\n", memory);
    plot_result result = fclose(memory) == 0 ? plot_svg(script, out) : PLOT_FAILED;
    free(script);
    return result;
}
