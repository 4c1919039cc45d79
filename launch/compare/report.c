/* SPDX-License-Identifier: Apache-2.0 */
/* The table and the JSON lines of a comparison. */
#include "launch/columns.h"
#include "launch/compare/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- figures --------------------- */

static const char *const tasks[] = {"single", "multikey", "absent"};
enum { TASK_COUNT = 3 };

static tally compared_tally(const comparison *c, const compared *p, int task)
{
    return summary_tally(results_all(p->e.results), &c->s->wish, tasks[task], c->length);
}

static int64_t right(const tally *t, int task)
{
    return task == 2 ? t->none : t->found;
}

double compare_recall(const comparison *c, const compared *p)
{
    int64_t found = 0, cells = 0;
    for (int t = 0; t < 2; t++) {
        const tally one = compared_tally(c, p, t);
        found += one.found;
        cells += one.cells;
    }
    return cells ? (double)found / (double)cells : 0;
}

/* Are a pattern's cells predicted at all? Those of a checkpoint are not, nor is every
 * choice. */
static bool is_predicted(const compared *p)
{
    const json_t *first = json_array_get(results_all(p->e.results), 0);
    return json_object_get(first, "predicted") != NULL;
}

/* Over a pattern's cells: how often a field is false, or what its numbers add up to. */
static int64_t cells_count(const compared *p, const char *field)
{
    int64_t count = 0;
    size_t i;
    json_t *r;
    json_array_foreach(results_all(p->e.results), i, r)
    {
        const json_t *value = json_object_get(r, field);
        count += json_is_false(value) + json_integer_value(value);
    }
    return count;
}

static int64_t unequal_of(const compared *p)
{
    return cells_count(p, "equal");
}

/* Tokens of answers whose being read was measured, since rounding decides it. */
static int64_t undecided_of(const compared *p)
{
    return cells_count(p, "undecided");
}

int64_t compare_unequal(const comparison *c)
{
    int64_t count = 0;
    for (int32_t i = 0; i < c->count; i++) count += unequal_of(&c->of[i]);
    return count;
}

/* Quartiles of the decoded tokens' seconds. */
static void quartiles(const compared *p, double q[3])
{
    double step[COMPARE_STEPS];
    memcpy(step, p->step, sizeof step);
    q[1] = numbers_median(step, p->steps); /* ascending now */
    q[0] = step[p->steps / 4];
    q[2] = step[(p->steps - 1) * 3 / 4];
}

/* Root of the sums of squares, of the difference over the first pattern's; NaN: not
 * measured. */
static double output_error(const compared *p)
{
    const outputs *o = &p->outputs;
    return o->failed || o->size <= 0 ? NAN : sqrt(o->difference / o->size);
}

double compare_share(const comparison *c, const compared *p)
{
    return (double)p->kept_bytes / (double)c->of[0].kept_bytes;
}

/* ---- the table --------------------- */

static const column shown[] = {{NULL, "  pattern", -22, false},
                               {NULL, "keeps MiB", 9, false},
                               {NULL, "share", 6, false},
                               {NULL, "reads", 7, false},
                               {NULL, "prefill s", 9, false},
                               {NULL, "token ms", 8, false},
                               {NULL, "quartiles", 15, true},
                               {NULL, "messages", 8, false},
                               {NULL, "KiB", 7, true},
                               {NULL, "single", 7, false},
                               {NULL, "multikey", 8, false},
                               {NULL, "absent", 7, false},
                               {NULL, "error", 8, false},
                               {NULL, "equal", 5, false},
                               {0}};

static void print_head(const comparison *c, columns *table)
{
    const model_shape *m = &c->s->e.shape;
    char length[32];
    wrapped(table->out, table->is_wide, 2,
            "%s, %d layers, %d query heads, %d KV heads; %s tokens, %d ranks",
            c->s->wish.foreign ? c->s->dir : "the constructed model", (int)m->layers,
            (int)m->heads, (int)m->kv_heads, length_text(c->length, length, sizeof length),
            c->j->ranks);
    fputc('\n', table->out);
    columns_heading(table);
}

static void print_cells(const comparison *c, const compared *p, int task, columns *table)
{
    const tally t = compared_tally(c, p, task);
    if (t.cells)
        columns_cell(table, "%lld/%lld", (long long)right(&t, task), (long long)t.cells);
    else
        columns_cell(table, "-");
}

static void print_compared(const comparison *c, const compared *p, columns *table)
{
    double q[3], error = output_error(p);
    quartiles(p, q);
    columns_cell(table, "  %-19.19s%s", p->name, p->scaled ? "*" : "");
    columns_number(table, 2, (double)p->kept_bytes / 1048576);
    columns_number(table, 3, compare_share(c, p));
    columns_number(table, 0, p->read);
    columns_number(table, 2, p->prefill);
    columns_number(table, 2, 1e3 * q[1]);
    columns_cell(table, "(%.2f-%.2f)", 1e3 * q[0], 1e3 * q[2]);
    columns_number(table, 1, p->messages);
    columns_number(table, 1, p->bytes_sent / 1024);
    for (int t = 0; t < TASK_COUNT; t++) print_cells(c, p, t, table);
    if (p == &c->of[0] || isnan(error))
        columns_cell(table, "-");
    else
        columns_cell(table, "%.2g", error);
    columns_cell(table, "%s", !is_predicted(p) ? "-" : unequal_of(p) ? "NO" : "yes");
    columns_end(table, "");
}

static void print_uses(const comparison *c, bool is_wide, FILE *out)
{
    bool scaled = false;
    for (int32_t i = 0; i < c->count; i++) {
        const compared *p = &c->of[i];
        scaled = scaled || p->scaled;
        if (*p->use && (strcmp(p->name, p->use) || strlen(p->use) > 19))
            wrapped(out, is_wide, 23, "  %-20.19s %s%s", p->name, p->use,
                    p->scaled ? "  *" : "");
    }
    if (scaled)
        fputs("  * numbers that are meant for longer contexts, scaled to this one\n", out);
}

void compare_print(const comparison *c, FILE *out)
{
    columns table = {shown, job_switch(c->j, "wide"), out, 0};
    print_head(c, &table);
    for (int32_t i = 0; i < c->count; i++) print_compared(c, &c->of[i], &table);
    fprintf(
        out,
        "\n  keeps: keys and values while tokens are decoded, all ranks, and their share of "
        "the "
        "first pattern's.\n"
        "  reads: tokens that a decoded row reads, mean over KV heads and layers, in whole "
        "blocks.\n"
        "  messages%s: partial results and choices sent for a decoded token.\n"
        "  single, multikey: needles found (multikey: among some that share two thirds of the "
        "key); absent: keys\n  that are not there, and the model said so. equal: each cell and "
        "head as the pattern's definition predicts.\n"
        "  error: of attention in layer %d at the questions' rows against the first pattern, "
        "relative (root of squares).\n\n",
        table.is_wide ? ", KiB" : "", (int)c->s->e.layer);
    print_uses(c, table.is_wide, out);
}

/* ---- JSON --------------------- */

void compare_json(const comparison *c, FILE *out)
{
    for (int32_t i = 0; i < c->count; i++) {
        const compared *p = &c->of[i];
        double q[3];
        quartiles(p, q);
        json_t *line = json_pack(
            "{s:o, s:o, s:b, s:I, s:i, s:I, s:I, s:f, s:f, s:o, s:f, s:f, s:f, s:f, s:f, s:o}",
            "pattern", json_text(p->name), "use", json_text(p->use), "scaled", p->scaled,
            "length", (json_int_t)c->length, "ranks", c->j->ranks, "kept_bytes",
            (json_int_t)p->kept_bytes, "planned_bytes", (json_int_t)p->planned_bytes, "share",
            compare_share(c, p), "read_tokens", p->read, "prefill_seconds",
            json_finite(p->prefill), "token_seconds", q[1], "token_lower_quartile", q[0],
            "token_upper_quartile", q[2], "messages", p->messages, "bytes_sent", p->bytes_sent,
            "error", i ? json_finite(output_error(p)) : json_null());
        for (int t = 0; line && t < TASK_COUNT; t++) {
            const tally one = compared_tally(c, p, t);
            json_object_set_new(
                line, tasks[t],
                json_pack("[I, I]", (json_int_t)right(&one, t), (json_int_t)one.cells));
        }
        if (line) {
            json_object_set_new(line, "unequal",
                                is_predicted(p) ? json_integer(unequal_of(p)) : json_null());
            json_object_set_new(line, "undecided", json_integer(undecided_of(p)));
        }
        output_line(out, line);
    }
}
