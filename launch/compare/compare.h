/* SPDX-License-Identifier: Apache-2.0 */
/* compare.h - head patterns side by side: what each keeps and reads, how long it takes, which
 * needles it finds, how far its attention is from the whole one's.
 *
 * Knows: needle's evaluation, of which each pattern has one of its own; pattern files.
 * Refuses to know: what a pattern does.
 *
 * The first pattern is the one that the others are held against: every head dense, or what a
 * checkpoint's own layers read. Models of all patterns have the same weights, and their caches
 * are there at the same time, so that decoded tokens can be timed in turn. */
#ifndef BANYAN_COMPARE_H
#define BANYAN_COMPARE_H

#include "launch/needle/setup.h"

enum { COMPARE_MOST = 32, COMPARE_STEPS = 20 };

typedef struct compared {
    char name[64];         /* of the default patterns, or the file's */
    char use[1024];        /* its rules, in words */
    bool scaled;           /* some number of its paper is scaled to this length */
    const char *placement; /* NULL: the config's */
    banyan_rule *rules;
    int32_t rule_count;
    char *text;             /* cut up; rules point into it */
    Banyan__Config *config; /* of a file */
    config_spec spec;       /* .. likewise */

    /* what was measured */
    evaluation e;
    outputs outputs;
    double prefill;
    double step[COMPARE_STEPS]; /* seconds of a decoded token */
    int32_t steps;
    int64_t kept_bytes,
        planned_bytes; /* in the end, over all ranks: counted, and as the plan says */
    double read;       /* tokens that a decoded row reads, mean over KV heads and layers */
    double messages, bytes_sent; /* of a decoded token */
} compared;

typedef struct comparison {
    const job *j;
    setup *s;
    int64_t length;
    compared of[COMPARE_MOST];
    int32_t count;
} comparison;

/* ---- patterns.c --------------------- */

/* The patterns that --use and --pattern name, in their order, or the table's; for a model that
 * is known (setup_read). EXIT_OK, or reported. Collective. */
int compare_choose(comparison *c);
void compare_free(comparison *c);

/* ---- measure.c --------------------- */

/* All of it; an exit code, the same on every rank. */
int compare_measure(comparison *c);

/* ---- report.c --------------------- */

/* On rank 0. */
void compare_print(const comparison *c, FILE *out);
void compare_json(const comparison *c, FILE *out);
/* Needles found of single and multikey; bytes kept, of the first pattern's. */
double compare_recall(const comparison *c, const compared *p);
double compare_share(const comparison *c, const compared *p);
/* Cells that are not as predicted. */
int64_t compare_unequal(const comparison *c);

/* ---- picture.c --------------------- */

plot_result compare_svg(const comparison *c, FILE *out);

#endif
