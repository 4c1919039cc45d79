/* SPDX-License-Identifier: Apache-2.0 */
/* columns.h - what people read on a terminal: no line is longer than COLUMNS_MOST characters,
 * unless --wide asks for it. Tables leave columns out, sentences are wrapped. Nothing of it is
 * for programs: JSON, CSV and Markdown have every figure. */
#ifndef BANYAN_COLUMNS_H
#define BANYAN_COLUMNS_H

#include <stdbool.h>
#include <stdio.h>

enum { COLUMNS_MOST = 120 };

/* One column of a table; an array of them ends with a NULL title. */
typedef struct column {
    /* NULL: of the group before; else one begins here, with a bar in front (but for the first)
     * and this title above, cut to what is shown of the group. */
    const char *group;
    const char *title;
    int width;     /* of title and cells; negative: they stand to the left */
    bool is_extra; /* only shown with --wide */
} column;

typedef struct columns {
    const column *of;
    bool is_wide;
    FILE *out;
    int next; /* the column whose turn it is: 0 to begin with */
} columns;

/* Two lines: the groups' titles (left out where there are none), and the columns'. */
void columns_heading(const columns *t);
/* The next column's cell, printed or, of a column that is left out, dropped. */
void columns_cell(columns *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A number, with as many of `decimals` as there is room for; "-" for NaN and the like: not
 * known. */
void columns_number(columns *t, int decimals, double x);
/* The end of a row, which may be short of cells, and words behind it. */
void columns_end(columns *t, const char *words);

/* A sentence: prints it with a line end, and goes on `indent` characters to the right where it
 * is wrapped. */
void wrapped(FILE *out, bool is_wide, int indent, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same for lines that somebody else prints: they print to wrapped_begin's stream, and
 * wrapped_end passes everything on. (Out of memory: to `out` at once, as it is.) */
typedef struct wrapping {
    FILE *in, *out;
    char *text;
    size_t bytes;
} wrapping;
FILE *wrapped_begin(wrapping *w, FILE *out);
void wrapped_end(wrapping *w, bool is_wide, int indent);

#endif
