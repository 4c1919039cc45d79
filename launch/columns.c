/* SPDX-License-Identifier: Apache-2.0 */
/* Tables and sentences that fit a terminal. */
#include "launch/columns.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables --------------------- */

static bool is_shown(const columns *t, const column *c)
{
    return t->is_wide || !c->is_extra;
}

/* Of the group that begins at `first`: characters that its shown columns take, spaces between
 * them included; 0: nothing of it is shown. */
static int group_width(const columns *t, const column *first)
{
    int width = 0;
    for (const column *c = first; c->title && (c == first || !c->group); c++)
        if (is_shown(t, c)) width += (width > 0) + abs(c->width);
    return width;
}

static bool has_groups(const columns *t)
{
    for (const column *c = t->of; c->title; c++)
        if (c->group && c->group[0] && group_width(t, c)) return true;
    return false;
}

/* What stands between a shown column and the shown one before it. */
static const char *between(const columns *t, const column *c)
{
    const column *first = c;
    while (first > t->of && !first->group) first--;
    for (const column *before = c; before > t->of;)
        if (is_shown(t, --before)) return before < first ? " | " : " ";
    return "";
}

void columns_heading(const columns *t)
{
    const char *bar = "";
    for (const column *c = t->of; has_groups(t) && c->title; c++) {
        const int width = c->group || c == t->of ? group_width(t, c) : 0;
        if (!width) continue;
        fprintf(t->out, "%s%-*.*s", bar, width, width, c->group ? c->group : "");
        bar = " | ";
    }
    if (*bar) fputc('\n', t->out);
    for (const column *c = t->of; c->title; c++)
        if (is_shown(t, c)) fprintf(t->out, "%s%*s", between(t, c), c->width, c->title);
    fputc('\n', t->out);
}

void columns_cell(columns *t, const char *format, ...)
{
    const column *c = &t->of[t->next++];
    char text[128];
    va_list list;
    if (!is_shown(t, c)) return;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    fprintf(t->out, "%s%*s", between(t, c), c->width, text);
}

void columns_number(columns *t, int decimals, double x)
{
    const int width = abs(t->of[t->next].width);
    char text[512];
    if (!isfinite(x)) {
        columns_cell(t, "-");
        return;
    }
    do snprintf(text, sizeof text, "%.*f", decimals, x);
    while (strlen(text) > (size_t)width && decimals-- > 0);
    if (strlen(text) > (size_t)width) snprintf(text, sizeof text, "%.0e", x);
    columns_cell(t, "%s", text);
}

void columns_end(columns *t, const char *words)
{
    fprintf(t->out, "%s\n", words);
    fflush(t->out);
    t->next = 0;
}

/* ---- sentences --------------------- */

/* Characters, of UTF-8. */
static int length_of(const char *text, size_t bytes)
{
    int length = 0;
    for (size_t i = 0; i < bytes; i++) length += ((unsigned char)text[i] & 0xc0) != 0x80;
    return length;
}

/* One line, wrapped at spaces; those at its beginning, and gaps that it is not wrapped at,
 * stay. */
static void print_line(FILE *out, bool is_wide, int indent, const char *line, size_t bytes)
{
    int at = 0;
    for (size_t begin = 0, end; begin < bytes; begin = end) {
        end = begin + 1;
        while (end < bytes && (line[end] != ' ' || line[end - 1] == ' ')) end++;
        const int length = length_of(line + begin, end - begin);
        if (!is_wide && at > indent && at + length > COLUMNS_MOST) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
            while (begin < end && line[begin] == ' ') begin++;
        }
        fwrite(line + begin, 1, end - begin, out);
        at += length_of(line + begin, end - begin);
    }
    fputc('\n', out);
}

static void print_lines(FILE *out, bool is_wide, int indent, const char *text)
{
    while (*text) {
        const size_t bytes = strcspn(text, "\n");
        print_line(out, is_wide, indent, text, bytes);
        text += bytes + (text[bytes] == '\n');
    }
    fflush(out);
}

FILE *wrapped_begin(wrapping *w, FILE *out)
{
    *w = (wrapping){.out = out};
    w->in = open_memstream(&w->text, &w->bytes);
    return w->in ? w->in : out;
}

void wrapped_end(wrapping *w, bool is_wide, int indent)
{
    if (w->in && fclose(w->in) == 0) print_lines(w->out, is_wide, indent, w->text);
    free(w->text);
}

void wrapped(FILE *out, bool is_wide, int indent, const char *format, ...)
{
    wrapping w;
    va_list list;
    FILE *in = wrapped_begin(&w, out);
    va_start(list, format);
    vfprintf(in, format, list);
    va_end(list);
    if (in == out) fputc('\n', out);
    wrapped_end(&w, is_wide, indent);
}
