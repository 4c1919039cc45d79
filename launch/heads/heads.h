/* SPDX-License-Identifier: Apache-2.0 */
/* heads.h - what each head of a model is for, from what it looks at.
 *
 * Knows: needle's evaluation, whose questions it observes; the files that pattern/ reads.
 * Refuses to know: how a model is run, and what is done with its heads.
 *
 *     retrieval   share of the answer's tokens at which the head's strongest token is the one
 *                 being copied out of the needle (Wu et al., arXiv 2404.15574); of answered
 *                 needles
 *     echo        attention to earlier copies of the same token, in random tokens that are
 *                 repeated
 *     induction   attention to the tokens that followed those copies (RazorAttention,
 *                 2407.15891)
 *     needle, sinks, window   mass at the answer's rows, on the needle, the first tokens, the
 *                             last
 */
#ifndef BANYAN_HEADS_H
#define BANYAN_HEADS_H

#include "launch/needle/setup.h"

enum {
    HEADS_SINKS = 4,    /* tokens of sinks, .. */
    HEADS_WINDOW = 256, /* .. and of the window, the row's own included */
    HEADS_COPIES = 3,   /* earlier copies of the random tokens */
    HEADS_ROWS = 64     /* rows of the last copy that are looked at */
};
enum { HEADS_ON_NEEDLE, HEADS_ON_SINKS, HEADS_ON_WINDOW, HEADS_MASSES };

typedef struct heads_scores {
    const model_shape *shape;
    int64_t all;  /* heads of all layers: [layers][heads], as everything below */
    float *trial; /* [needles][all]: the retrieval score of each needle that was answered */
    int32_t needles, room, asked;
    double *mass[HEADS_MASSES]; /* sums over rows, then means */
    int64_t rows;
    double *retrieval, *echo, *induction; /* means */
    bool failed;                          /* out of memory */
    model_watch watch;
} heads_scores;

banyan_status heads_make(const model *m, int32_t answers, heads_scores *out);
void heads_free(heads_scores *s);
/* What observes the questions. */
observer heads_observer(heads_scores *s);
/* Sums to means, once all questions were asked. */
void heads_settle(heads_scores *s);

/* repeat.c: echo and induction, of `tokens` random ids HEADS_COPIES + 1 times. An exit code. */
int heads_repeat(evaluation *e, int32_t tokens, heads_scores *s);

/* ---- report.c: on rank 0 --------------------- */

/* The `most` heads with the highest scores. */
void heads_print(const heads_scores *s, int32_t most, FILE *out);
void heads_json(const heads_scores *s, FILE *out);
/* As Retrieval_Head's, DuoAttention's and RazorAttention's files are: scores of query heads;
 * for each KV head the highest of its group; the KV heads with the highest induction and echo
 * scores, of these shares. */
void heads_retrieval(const heads_scores *s, FILE *out);
void heads_duo(const heads_scores *s, FILE *out);
void heads_razor(const heads_scores *s, double induction, double echo, FILE *out);
plot_result heads_svg(const heads_scores *s, FILE *out);

#endif
