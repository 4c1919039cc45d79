/* SPDX-License-Identifier: Apache-2.0 */
/* calls.h - what fuzz_calls.c makes of its bytes: numbers, good and bad; plans; and a plain
 * model of what each sequence was given, from which the float64 oracle says what a row's result
 * is. */
#ifndef BANYAN_FUZZ_CALLS_H
#define BANYAN_FUZZ_CALLS_H

#include "dist/cache.h"
#include "tests/fuzz/fuzz.h"

/* The largest plans whose caches are filled. */
enum { LAYERS = 3, HEADS = 4, DIM = 24, TOKENS = 160, ROWS = 48, LIVES = 4, PARTS = 3 };

typedef struct draw {
    const uint8_t *data;
    size_t size;
} draw;

int draw_byte(draw *in);             /* 0 when there are no more */
int32_t draw_below(draw *in, int n); /* 0 .. n-1 */
int draw_one_in(draw *in, int n);
int64_t draw_number(draw *in); /* one that somebody might get wrong: borders, negative, huge */

/* A sequence, and whose rows its tokens have. */
typedef struct life {
    banyan_sequence *sequence; /* of one that has ended the last handle */
    int is_there;
    int32_t source[LAYERS][TOKENS]; /* 0: appended by a step, and not written yet */
} life;

typedef struct world {
    draw in;
    banyan_plan *plan;
    banyan_cache *cache;
    life life[LIVES];
    int32_t sources;            /* so many were used */
    banyan_rows stepped[PARTS]; /* the parts of the last step, */
    int of[PARTS];              /* and of which lives they are */
    int32_t steps;              /* 0: there was none */
} world;

/* Rows of a source, exact in every format. what: 0 q, 1 k, 2 v. */
void calls_row(int32_t source, int what, int32_t layer, int64_t token, int32_t count,
               float *to);
/* A plan of any spec that the bytes ask for; NULL where it was refused, in words. */
banyan_plan *calls_plan(draw *in, banyan_comm *comm);
/* Is it one of those whose caches are filled? */
int calls_fits(const banyan_plan *plan);
/* Everything that can be seen of the cache, as one number; with the bytes of its records, or
 * only which there are. */
uint64_t calls_state(const banyan_cache *cache, int has_bytes);
/* The result of the row at `token` of a life, whose q has `source`, is what the oracle says; of
 * tokens first .. end-1 and without sinks where end is not 0. */
void calls_check_row(const world *w, const life *l, int32_t layer, int64_t token,
                     int32_t source, banyan_range range, int has_sinks, const char *out,
                     const float *lse);
/* May it be saved: has every layer the same tokens, and keys and values of them all? */
int calls_is_whole(const world *w);

/* It failed for a reason that is said. */
void calls_refused(banyan_status status);
/* Questions: with numbers that may be none of the plan's; without what is needed; and a comm's
 * calls. */
void calls_ask_plan(const banyan_plan *plan, draw *in);
void calls_ask_sequence(world *w);
void calls_ask_nothing(const world *w);
void calls_use_comm(banyan_comm *comm, draw *in);

#endif
