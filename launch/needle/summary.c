/* SPDX-License-Identifier: Apache-2.0 */
/* What the cells add up to. Everything is read from the records, so that a resumed run sums up
 * old and new cells alike; records of lengths or trials that this run does not ask for are left
 * out. */
#include "launch/needle/evaluate.h"

#include "launch/columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *record_text(const json_t *record, const char *name)
{
    const char *text = json_string_value(json_object_get(record, name));
    return text ? text : "";
}

static int64_t record_integer(const json_t *record, const char *name)
{
    return json_integer_value(json_object_get(record, name));
}

static double record_number(const json_t *record, const char *name) /* NaN: not there */
{
    const json_t *value = json_object_get(record, name);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static bool is_asked(const json_t *record, const needle_wish *w)
{
    bool length = false, task = false;
    if (record_integer(record, "pattern") != w->which) return false;
    for (int32_t i = 0; i < w->lengths; i++)
        length = length || record_integer(record, "length") == w->length[i];
    for (int t = 0; t < TASKS; t++)
        task = task ||
               ((w->tasks >> t & 1) && !strcmp(record_text(record, "task"), task_row(t)->name));
    return length && task && record_integer(record, "trial") < w->trials;
}

/* Is the task asked, and of a kind up to `kind`? */
static bool is_kind(const needle_wish *w, int task, task_kind kind)
{
    return (w->tasks >> task & 1) && task_row(task)->kind <= kind;
}

static double larger_known(double a, double b) /* of NaN and a number: the number */
{
    return isnan(a) || b > a ? b : a;
}

tally summary_tally(json_t *records, const needle_wish *w, const char *task, int64_t length)
{
    tally t = {.least_mass = NAN, .error = NAN, .lse_error = NAN};
    size_t i;
    json_t *r;
    json_array_foreach(records, i, r)
    {
        if (record_integer(r, "length") != length || strcmp(record_text(r, "task"), task))
            continue;
        if (!is_asked(r, w)) continue; /* of an earlier run with more trials */
        t.cells++;
        t.found += !strcmp(record_text(r, "outcome"), "found");
        t.none += !strcmp(record_text(r, "outcome"), "none");
        t.wrong += !strcmp(record_text(r, "outcome"), "wrong");
        t.predicted += !strcmp(record_text(r, "predicted"), "found");
        t.equal += json_is_true(json_object_get(r, "equal"));
        double mass = record_number(r, "least_mass");
        if (!isnan(mass) && !(mass >= t.least_mass)) t.least_mass = mass;
        if (!isnan(record_number(r, "error")))
            t.error = larger_known(t.error, record_number(r, "error"));
        if (!isnan(record_number(r, "lse_error")))
            t.lse_error = larger_known(t.lse_error, record_number(r, "lse_error"));
        if (record_integer(r, "messages") > t.messages)
            t.messages = record_integer(r, "messages");
        t.prefill_seconds += record_number(r, "prefill_seconds");
        t.decode_seconds += record_number(r, "decode_seconds");
    }
    if (t.cells) t.prefill_seconds /= (double)t.cells, t.decode_seconds /= (double)t.cells;
    return t;
}

static int32_t column_of(const json_t *record, const needle_wish *w)
{
    for (int32_t c = 0; c < w->lengths; c++)
        if (record_integer(record, "length") == w->length[c]) return c;
    return -1;
}

void summary_heat(json_t *records, const char *task, const needle_wish *w, double *value,
                  double *depth)
{
    int32_t cells = w->depths * w->lengths;
    int32_t *count = calloc((size_t)cells, sizeof *count), *seen = NULL;
    seen = calloc((size_t)w->depths, sizeof *seen);
    for (int32_t i = 0; i < cells; i++) value[i] = NAN;
    for (int32_t d = 0; d < w->depths; d++) depth[d] = NAN;
    size_t i;
    json_t *r;
    json_array_foreach(records, i, r)
    {
        int64_t d = record_integer(r, "depth");
        int32_t c = column_of(r, w);
        if (!count || !seen || c < 0 || d >= w->depths ||
            strcmp(record_text(r, "task"), task) || !is_asked(r, w))
            continue;
        double good =
            !strcmp(record_text(r, "outcome"), !strcmp(task, "absent") ? "none" : "found");
        double *cell = &value[d * w->lengths + c], percent = record_number(r, "depth_percent");
        int32_t n = ++count[d * w->lengths + c];
        *cell = n == 1 ? good : *cell + (good - *cell) / n;
        if (isnan(percent)) percent = 100.0 * ((double)d + .5) / w->depths;
        n = ++seen[d];
        depth[d] = n == 1 ? percent : depth[d] + (percent - depth[d]) / n;
    }
    free(count);
    free(seen);
}

void summary_heads(json_t *records, const char *task, const needle_wish *w, int32_t heads,
                   const char *field, double *value)
{
    int32_t *tokens = calloc((size_t)w->lengths, sizeof *tokens);
    for (int32_t i = 0; i < heads * w->lengths; i++) value[i] = 0;
    size_t i, k;
    json_t *r, *text;
    json_array_foreach(records, i, r)
    {
        int32_t c = column_of(r, w);
        if (!tokens || c < 0 || strcmp(record_text(r, "task"), task) || !is_asked(r, w))
            continue;
        json_array_foreach(json_object_get(r, field), k, text)
        {
            const char *saw = json_string_value(text);
            if (!saw || strlen(saw) != (size_t)heads) continue;
            tokens[c]++;
            for (int32_t h = 0; h < heads; h++) value[h * w->lengths + c] += saw[h] == '1';
        }
    }
    for (int32_t c = 0; tokens && c < w->lengths; c++)
        for (int32_t h = 0; h < heads; h++)
            value[h * w->lengths + c] = tokens[c] ? value[h * w->lengths + c] / tokens[c] : NAN;
    free(tokens);
}

int64_t summary_unequal(json_t *records, const needle_wish *w)
{
    int64_t unequal = 0;
    needle_wish one = *w;
    for (; one.which < w->patterns; one.which++) {
        size_t i;
        json_t *r;
        json_array_foreach(records, i, r) unequal +=
            is_asked(r, &one) && json_is_false(json_object_get(r, "equal"));
    }
    return unequal;
}

/* ---- for people --------------------- */

static void print_retrieval(json_t *records, const needle_wish *w, FILE *out)
{
    fprintf(out, "%-9s %7s %7s %10s %12s %5s %5s %11s %10s %9s %9s\n", "task", "length",
            "recall", "predicted", "as predicted", "none", "wrong", "least mass", "prefill s",
            "answer s", "messages");
    for (int t = 0; t < TASKS; t++)
        for (int32_t i = 0; i < w->lengths && is_kind(w, t, TASK_ASKED); i++) {
            const bool mapped = task_row(t)->kind == TASK_MAPPED;
            char text[32], least[32] = "-", predicted[32] = "-", equal[48] = "-";
            tally s = summary_tally(records, w, task_row(t)->name, w->length[i]);
            if (!s.cells) continue;
            char recall[32] = "-"; /* of what is not there */
            double cells = (double)s.cells;
            if (mapped) snprintf(recall, sizeof recall, "%.3f", (double)s.found / cells);
            if (!isnan(s.least_mass)) snprintf(least, sizeof least, "%.6f", s.least_mass);
            if (!w->foreign) {
                if (mapped)
                    snprintf(predicted, sizeof predicted, "%.3f", (double)s.predicted / cells);
                snprintf(equal, sizeof equal, "%lld of %lld", (long long)s.equal,
                         (long long)s.cells);
            }
            fprintf(out, "%-9s %7s %7s %10s %12s %5lld %5lld %11s %10.1f %9.3f %9lld\n",
                    task_row(t)->name, length_text(w->length[i], text, sizeof text), recall,
                    predicted, equal, (long long)s.none, (long long)s.wrong, least,
                    s.prefill_seconds, s.decode_seconds, (long long)s.messages);
        }
}

/* Of texts and ids that were given: how far the answer was from what is expected, and the
 * prompts from what was asked. */
static void print_given(json_t *records, const needle_wish *w, int64_t length, FILE *out,
                        bool is_wide)
{
    double cells = 0, exact = 0, contained = 0, probability = 0, off = 0;
    int64_t texts = 0, stands = 0, least = INT64_MAX, most = 0;
    char text[32];
    size_t i;
    json_t *r;
    json_array_foreach(records, i, r)
    {
        if (record_integer(r, "length") != length || !is_asked(r, w)) continue;
        const double asked = record_number(r, "asked_percent");
        const int64_t tokens = record_integer(r, "tokens_as_text");
        cells++;
        exact += json_is_true(json_object_get(r, "exact"));
        contained += json_is_true(json_object_get(r, "contained"));
        probability += record_number(r, "answer_probability");
        if (isnan(asked)) continue;
        texts++;
        off = fmax(off, fabs(asked - record_number(r, "depth_percent")));
        stands += json_is_true(json_object_get(r, "needle_as_text"));
        least = tokens < least ? tokens : least;
        most = tokens > most ? tokens : most;
    }
    if (!cells) return;
    fprintf(out, "%-9s %7s exact %.3f", "answer", length_text(length, text, sizeof text),
            exact / cells);
    if (texts) fprintf(out, ", contained %.3f", contained / cells);
    fprintf(out, ", mean probability of the expected %.4f\n", probability / cells);
    if (texts)
        wrapped(
            out, is_wide, 18,
            "%-9s %7s %lld tokens; their text tokenised as a whole has %lld .. %lld, with the "
            "needle's own in %lld of %lld; depths within %.1f %% of those asked",
            "prompt", text, (long long)length, (long long)least, (long long)most,
            (long long)stands, (long long)texts, off);
}

static void print_merges(json_t *records, const needle_wish *w, FILE *out)
{
    char text[32];
    for (int32_t i = 0; i < w->lengths; i++) {
        length_text(w->length[i], text, sizeof text);
        tally g = summary_tally(records, w, "graded", w->length[i]);
        if (w->tasks & TASK_GRADED && g.cells)
            fprintf(out,
                    "graded    %7s mass error %.1e (bar 2e-03), %lld of %lld as expected, "
                    "%lld messages\n",
                    text, g.error, (long long)g.equal, (long long)g.cells,
                    (long long)g.messages);
        tally u = summary_tally(records, w, "uniform", w->length[i]);
        if (w->tasks & TASK_UNIFORM && u.cells)
            fprintf(out,
                    "uniform   %7s lse error %.1e (bar 1e-05), count error %.2f (bar 0.5), "
                    "%lld messages\n",
                    text, u.lse_error, u.error, (long long)u.messages);
    }
}

/* value: saw [heads][lengths], then what was predicted: lengths first .. end-1. */
static void print_saw(const needle_wish *w, int32_t heads, const double *value, int32_t first,
                      int32_t end, FILE *out)
{
    char text[32];
    fprintf(out, "   head");
    for (int32_t c = first; c < end; c++)
        fprintf(out, " %11s", length_text(w->length[c], text, sizeof text));
    fputc('\n', out);
    for (int32_t h = 0; h < heads; h++) {
        fprintf(out, "   %4d", h);
        for (int32_t c = first; c < end; c++) {
            const double *m = &value[h * w->lengths + c], p = m[(size_t)heads * w->lengths];
            if (isnan(*m))
                fprintf(out, " %11s", "-");
            else if (isnan(p))
                fprintf(out, " %11.2f", *m);
            else
                fprintf(out, " %4.2f / %4.2f", *m, p);
        }
        fputc('\n', out);
    }
}

/* Per head, measured beside predicted. Lengths that a line has no room for follow below. */
static void print_head_shares(json_t *records, const char *task, const needle_wish *w,
                              int32_t heads, FILE *out, bool is_wide)
{
    const int32_t most = is_wide ? w->lengths : (COLUMNS_MOST - 7) / 12;
    size_t cells = (size_t)heads * (size_t)w->lengths;
    double *saw = malloc(2 * cells * sizeof *saw);
    if (!saw) return;
    summary_heads(records, task, w, heads, "saw", saw);
    summary_heads(records, task, w, heads, "predicted_saw", saw + cells);
    fprintf(out, "\n%s: share of answer tokens that each head saw%s\n", task,
            w->foreign ? "" : " / predicted");
    for (int32_t first = 0; first < w->lengths; first += most)
        print_saw(w, heads, saw, first, first + most < w->lengths ? first + most : w->lengths,
                  out);
    free(saw);
}

static void print_one(json_t *records, const needle_wish *w, int32_t heads, FILE *out,
                      bool colour, bool is_wide)
{
    size_t cells = (size_t)w->depths * (size_t)w->lengths;
    double *value = malloc((cells + (size_t)w->depths) * sizeof *value);
    if (!value) return;
    bool asked = false;
    for (int t = 0; t < TASKS; t++) {
        asked = asked || is_kind(w, t, TASK_ASKED);
        if (!is_kind(w, t, TASK_MAPPED)) continue;
        double *depth = value + cells;
        summary_heat(records, task_row(t)->name, w, value, depth);
        char title[64];
        snprintf(title, sizeof title, "needle, %s: recall", task_row(t)->name);
        heat_map h = {title, w->depths, w->lengths, value, depth, w->length, NULL};
        heat_print(&h, out, colour, is_wide);
        print_head_shares(records, task_row(t)->name, w, heads, out, is_wide);
    }
    free(value);
    fputc('\n', out);
    if (asked) print_retrieval(records, w, out);
    for (int32_t i = 0; w->foreign && i < w->lengths; i++)
        print_given(records, w, w->length[i], out, is_wide);
    print_merges(records, w, out);
}

void summary_print(json_t *records, const needle_wish *w, int32_t heads, FILE *out, bool colour,
                   bool is_wide)
{
    needle_wish one = *w;
    for (; one.which < w->patterns; one.which++) {
        if (w->patterns > 1) {
            fputc('\n', out);
            wrapped(out, is_wide, 4, "== retrieval layer: %s", w->pattern[one.which]);
        }
        print_one(records, &one, heads, out, colour, is_wide);
    }
}

/* ---- for programs --------------------- */

static void csv_value(const json_t *value, FILE *out)
{
    const char *text = json_string_value(value);
    if (text && strpbrk(text, ",\"\n")) { /* RFC 4180 */
        fputc('"', out);
        for (; *text; text++) fprintf(out, *text == '"' ? "\"\"" : "%c", *text);
        fputc('"', out);
    } else if (text) {
        fputs(text, out);
    } else if (json_is_integer(value))
        fprintf(out, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        fprintf(out, "%.9g", json_real_value(value));
    else if (json_is_boolean(value))
        fputc(json_is_true(value) ? '1' : '0', out);
    else if (json_is_array(value)) { /* ids, spans: with spaces between */
        size_t i;
        json_t *item;
        json_array_foreach(value, i, item)
        {
            if (i) fputc(' ', out);
            csv_value(item, out);
        }
    }
}

void summary_csv(json_t *records, const needle_wish *w, FILE *out)
{
    static const char *const column[] = {"task",
                                         "retrieval",
                                         "length",
                                         "trial",
                                         "depth",
                                         "depth_percent",
                                         "seed",
                                         "needle",
                                         "block",
                                         "owners",
                                         "expected",
                                         "got",
                                         "outcome",
                                         "predicted",
                                         "equal",
                                         "least_mass",
                                         "saw",
                                         "error",
                                         "predicted_saw",
                                         "lse_error",
                                         "plain_error",
                                         "cache_bytes",
                                         "resident_bytes",
                                         "prefill_seconds",
                                         "decode_seconds",
                                         "messages",
                                         "bytes_sent",
                                         "asked_percent",
                                         "exact",
                                         "contained",
                                         "reply",
                                         "answer_logprob",
                                         "answer_probability",
                                         "tokens_as_text",
                                         "needle_as_text"};
    enum { COLUMNS = sizeof column / sizeof column[0] };
    for (int c = 0; c < COLUMNS; c++) fprintf(out, "%s%s", c ? "," : "", column[c]);
    fputc('\n', out);
    needle_wish one = *w;
    for (; one.which < w->patterns; one.which++) {
        size_t i;
        json_t *r;
        json_array_foreach(records, i, r)
        {
            if (!is_asked(r, &one)) continue;
            for (int c = 0; c < COLUMNS; c++) {
                if (c) fputc(',', out);
                csv_value(json_object_get(r, column[c]), out);
            }
            fputc('\n', out);
        }
    }
}

static json_t *head_values(json_t *records, const char *task, const needle_wish *w,
                           int32_t heads, const char *field, int32_t column)
{
    json_t *array = json_array();
    double *value = malloc((size_t)heads * (size_t)w->lengths * sizeof *value);
    if (value) summary_heads(records, task, w, heads, field, value);
    for (int32_t h = 0; value && h < heads; h++)
        json_array_append_new(array, json_finite(value[h * w->lengths + column]));
    free(value);
    return array;
}

static void json_of_one(json_t *records, const needle_wish *w, int32_t heads, FILE *out)
{
    for (int t = 0; t < TASKS; t++)
        for (int32_t i = 0; i < w->lengths && w->tasks >> t & 1; i++) {
            tally s = summary_tally(records, w, task_row(t)->name, w->length[i]);
            if (!s.cells) continue;
            json_t *line = json_pack(
                "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:I}",
                "task", task_row(t)->name, "length", (json_int_t)w->length[i], "cells",
                (json_int_t)s.cells, "found", (json_int_t)s.found, "predicted",
                (json_int_t)s.predicted, "none", (json_int_t)s.none, "wrong",
                (json_int_t)s.wrong, "equal", (json_int_t)s.equal, "least_mass",
                json_finite(s.least_mass), "error", json_finite(s.error), "lse_error",
                json_finite(s.lse_error), "prefill_seconds", json_finite(s.prefill_seconds),
                "decode_seconds", json_finite(s.decode_seconds), "messages",
                (json_int_t)s.messages);
            if (w->patterns > 1)
                json_object_set_new(line, "retrieval", json_text(w->pattern[w->which]));
            if (task_row(t)->kind == TASK_MAPPED) {
                json_object_set_new(
                    line, "head_saw",
                    head_values(records, task_row(t)->name, w, heads, "saw", i));
                json_object_set_new(
                    line, "head_predicted",
                    head_values(records, task_row(t)->name, w, heads, "predicted_saw", i));
            }
            output_line(out, line);
        }
}

void summary_json(json_t *records, const needle_wish *w, int32_t heads, FILE *out)
{
    needle_wish one = *w;
    for (; one.which < w->patterns; one.which++) json_of_one(records, &one, heads, out);
}
