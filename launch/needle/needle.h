/* SPDX-License-Identifier: Apache-2.0 */
/* needle.h - the needle in a haystack: where needles lie, what the prompt is, what each head
 * can see of it, what the model answered, and how that is kept and shown.
 *
 * Knows: the constructed model's tokens, what a plan lets a head read, models (model.h).
 * Refuses to know: flags and configs; verb_needle.c turns them into a needle_wish.
 *
 * A prompt of `length` tokens ends with the question; its last row gives the answer's first
 * token:
 *
 *     BOS x 4 | words .. <K> k1 k2 k3 <V> v1 v2 v3 v4 . .. words | <Q> k1 k2 k3 <V>
 *                                                                 -> v1 v2 v3 v4 .
 *
 * One prefill serves many questions: each goes back to the token where the question begins. */
#ifndef BANYAN_NEEDLE_H
#define BANYAN_NEEDLE_H

#include "launch/launch.h"
#include "launch/model/model.h"

#include <jansson.h>
#include <stdbool.h>

enum {
    NEEDLE_TOKENS = 10,  /* <K> k1 k2 k3 <V> v1 v2 v3 v4 . */
    NEEDLE_ANSWER = 5,   /* of these, the answer begins here .. */
    NEEDLE_ANSWERS = 5,  /* .. and has v1 v2 v3 v4 and the dot */
    NEEDLE_QUESTION = 5, /* <Q> k1 k2 k3 <V> */
    NEEDLE_FIRST = 4,    /* tokens of BOS before the haystack */
    NEEDLE_WHY = 512     /* bytes of a reason */
};

/* Numbers of the rows of tasks.def, and their bits in a wish. */
#define BANYAN_TASK(name, token, kind, doc) TASK_ROW_##token,
enum {
#include "launch/needle/tasks.def"
    TASKS
};
#undef BANYAN_TASK
#define BANYAN_TASK(name, token, kind, doc) TASK_##token = 1 << TASK_ROW_##token,
enum {
#include "launch/needle/tasks.def"
};
#undef BANYAN_TASK

typedef enum depth_mode {
    DEPTH_STRATIFIED,
    DEPTH_JITTERED,
    DEPTH_LINEAR,
    DEPTH_BORDER
} depth_mode;

/* ---- random numbers: a seed gives the same prompts on every rank and machine ------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t needle_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline int64_t needle_below(uint64_t *state, int64_t n) /* 0 .. n-1; n >= 1 */
{
    return (int64_t)(needle_random(state) % (uint64_t)n);
}
/* A stream of its own for every (seed, length, trial, purpose). */
static inline uint64_t needle_seed(uint64_t seed, int64_t length, int32_t trial,
                                   int32_t purpose)
{
    uint64_t state = seed;
    state = needle_random(&state) ^ (uint64_t)length;
    state = needle_random(&state) ^ (uint64_t)trial << 32 ^ (uint64_t)purpose;
    return needle_random(&state);
}

/* ---- grid.c: where needles lie --------------------- */

typedef struct needle_grid {
    int64_t begin, end; /* a needle lies within tokens begin .. end-1 */
    int32_t depths;
    depth_mode mode;
    int32_t tokens;          /* of a needle */
    int32_t answer, answers; /* the answer's offset in it, and its tokens */
    int32_t block_tokens;
    /* In blocks: the longest stride of any head, so that residues are met alike. */
    int32_t period;
    uint64_t seed;
    /* DEPTH_BORDER: the rank that keeps `block` of the KV head that depth `depth` looks at, to
     * find borders between ranks. NULL: block borders only. */
    int (*owner)(const void *arg, int32_t depth, int64_t block);
    const void *arg;
} needle_grid;

/* first [depths]: the needles' first tokens, ascending, not overlapping. */
bool grid_place(const needle_grid *g, int64_t *first, char *why, size_t why_bytes);
double grid_percent(const needle_grid *g, int64_t first);
/* The longest stride= that rules `use` name or have by default, in blocks; `otherwise` if
 * none. */
int32_t grid_period(const banyan_rule *rules, int32_t count, int32_t layer, int32_t otherwise);

/* ---- prompt.c: what is read --------------------- */

/* What a needle says: the value of a key. */
typedef struct needle_fact {
    uint32_t key[3], value[4];
    int64_t first; /* its first token in the haystack; -1: absent */
} needle_fact;

typedef struct prompt {
    uint32_t *ids; /* [count]: everything before the question */
    int64_t count;
    uint8_t *fixed; /* [count] 1: part of a needle, not to be changed */
    needle_fact *fact;
    int32_t facts;       /* in the haystack .. */
    needle_fact *absent; /* .. and not in it */
    int32_t absents;
} prompt;

typedef struct haystack_wish {
    int64_t count;
    const int64_t *first; /* [facts] ascending */
    int32_t facts, absents;
    int32_t distractors; /* per fact: needles that share two thirds of its key .. */
    bool mixed;          /* .. but only of every second fact, and of no absent one */
    bool needles;        /* the haystack itself is made of such needles, not of random words */
    uint64_t seed;
} haystack_wish;

/* Every queried trigram occurs where its needle is and nowhere else. */
bool prompt_make(const haystack_wish *wish, prompt *out, char *why, size_t why_bytes);
void prompt_free(prompt *p);

/* The parts of prompt_make, for prompts with other needles. */
bool prompt_begin(int64_t count, uint64_t *random, prompt *out, char *why, size_t why_bytes);
void prompt_splice(prompt *p, int64_t first, const uint32_t *ids, int32_t count);
/* count words that differ from each other. */
bool prompt_words(uint64_t *random, uint32_t *words, int32_t count, char *why,
                  size_t why_bytes);
/* ids: room for NEEDLE_QUESTION + 4: the question and the first four tokens of its answer. */
void prompt_question(const needle_fact *fact, uint32_t *ids);
uint32_t prompt_answer(const needle_fact *fact, int32_t index); /* v1 v2 v3 v4 . */

/* Three ids in a row that some query looks for. at: where the third may stand. */
enum { TRIGRAM_NOWHERE = -1, TRIGRAM_FIXED = -2 /* in any needle */ };
typedef struct trigram {
    uint64_t code;
    int64_t at;
} trigram;
uint64_t trigram_code(uint32_t a, uint32_t b, uint32_t c);
void trigram_sort(trigram *set, int32_t count);
/* The first token >= from that ends a trigram of `set` where it may not be; -1: none. */
int64_t trigram_fault(const trigram *set, int32_t count, const prompt *p, int64_t from);
/* Change words until there is no fault. */
bool prompt_settle(prompt *p, const trigram *set, int32_t count, uint64_t *random, char *why,
                   size_t why_bytes);

/* ---- predict.c: what each head can see of it --------------------- */

typedef enum outcome { OUTCOME_NONE, OUTCOME_FOUND, OUTCOME_WRONG } outcome;

typedef struct predictor {
    const banyan_plan *plan;
    constructed_spec constructed;
    int32_t last; /* the cache layer that the last layer reads */
    int32_t heads, kv_heads, block_tokens;
    int32_t lost_rank, lost_layer;
    const prompt *p;       /* what is read, and then .. */
    const uint32_t *tail;  /* .. the question and what follows it */
    struct chosen *chosen; /* chosen.h; NULL: no head of the last layer chooses by data */
} predictor;

/* What layer 0 makes of a token: the compared signs of its own code, and of those 1, 2, 3
 * back. */
typedef struct token_signs {
    float word[4][CONSTRUCTED_WORD];
    double square; /* mean square of the residual: RMSNorm divides by its root */
} token_signs;
void predictor_signs(const predictor *v, int64_t token, token_signs *out);
bool predictor_is_null(const predictor *v, int64_t token);
uint32_t predictor_id(const predictor *v, int64_t token);

/* Does some head choose what it reads by data? Which one. */
bool predictor_chooses(const banyan_plan *plan, int32_t *layer, int32_t *head);
/* .. and in a way that is not foreseen: in layer 0, by layer 0, or after a rank is lost. */
bool predictor_is_blind(const banyan_plan *plan, int32_t *layer, int32_t *head);
void predictor_init(predictor *v, const banyan_plan *plan, const constructed_spec *constructed);
/* What the rows and tokens of the calls below are; both are borrowed. */
void predictor_read(predictor *v, const prompt *p, const uint32_t *tail);
/* Does the head's row read the token, and has no lost rank kept it? */
bool predictor_reads(const predictor *v, int32_t layer, int32_t head, int64_t row,
                     int64_t token);
/* Will `head` of the last layer, asked at `row`, put its mass on `token`? */
bool predictor_sees(const predictor *v, int32_t head, int64_t row, int64_t token);
/* The answer that a fact has, asked at first_row: saw [NEEDLE_ANSWERS][heads], whether the
 * head puts its mass on any token of the answer. mass, likewise: what was measured, which is
 * taken where rounding may decide what is chosen, *undecided times; NULL: then nothing is. */
outcome predictor_answer(const predictor *v, const needle_fact *fact, int64_t first_row,
                         const float *mass, bool *saw, int32_t *undecided);
/* Give every head that reads anything at rows first_row .. first_row+rows-1 a null token to
 * rest on. The question begins at p->count with one. Returns how many were put into the
 * haystack. */
int32_t predictor_plant(const predictor *v, prompt *p, int64_t first_row, int32_t rows);

/* ---- ask.c: one question --------------------- */

const char *outcome_name(outcome o);

/* ids: the question, then the answer without its last token: count + answers - 1. */
typedef struct question {
    const uint32_t *ids, *answer; /* answer: what is expected */
    int32_t count, answers;
    int64_t at;           /* where the question begins */
    int64_t answer_first; /* where the haystack has the answer; -1: nowhere */
    int64_t mass_count;   /* tokens from there whose mass is measured */
    uint32_t none; /* the id that says "not there"; one beyond the vocabulary: no such id */
    int32_t layer; /* whose masses are measured */
    bool with_out;
    model_watch *watch; /* or NULL */
} question;

typedef struct reply {
    uint32_t *got; /* [answers] */
    int32_t count; /* up to the first that was not expected */
    float *out;    /* [answers][heads][head_dim] of it, where question.with_out; else NULL */
    float *mass;   /* [answers][heads], of question.layer; NULL when nothing is there */
    outcome outcome;
    double seconds;
} reply;
banyan_status question_ask(model *m, const question *q, reply *out);
void reply_free(reply *r);

/* ---- graded.c, uniform.c: what a sharp needle cannot show --------------------- */

/* x [columns]: least squares of |sum_c x_c code_c - y|^2; code [columns][CONSTRUCTED_CODE]. */
bool graded_solve(const int8_t *code, int32_t columns, const float *y, double *x);

/* ---- results.c: the file that a second run resumes --------------------- */

typedef struct results results;
/* path NULL: in memory, for this run alone. NULL, with why: it cannot be written. */
results *results_open(const char *path, char *why, size_t why_bytes);
/* header: an object; every field but "folder" must equal the file's. Reads what is there.
 * CONFIG for a file of another configuration; COMM when it cannot be read, or half a line
 * cannot be cut off. */
banyan_status results_begin(results *r, json_t *header, char *why, size_t why_bytes);
/* What other jobs have written meanwhile. */
banyan_status results_refresh(results *r, char *why, size_t why_bytes);
bool results_has(const results *r, const char *cell);
/* Takes the reference. On disk when it returns. */
bool results_add(results *r, json_t *record, char *why, size_t why_bytes);
json_t *results_all(const results *r); /* array; borrowed */
int64_t results_cut(const results *r); /* bytes of an unfinished line that were dropped */
void results_close(results *r);

/* ---- picture.c --------------------- */

typedef struct heat_map {
    const char *title;
    int32_t rows, columns;
    const double *value;   /* [rows][columns] 0..1; NaN: not measured */
    const double *depth;   /* [rows] percent */
    const int64_t *length; /* [columns] */
    const char *const *of; /* NULL, or [columns]: what stands beside the length */
} heat_map;
void heat_print(const heat_map *h, FILE *out, bool colour, bool is_wide);
double heat_mean(const heat_map *h);
/* The SVG's gnuplot commands. */
void heat_plot(const heat_map *h, FILE *out);
plot_result heat_svg(const heat_map *h, FILE *out);
/* A gnuplot string in single quotes. */
void plot_string(const char *text, FILE *out);
void heat_colour(double value, int rgb[3]);
const char *length_text(int64_t length, char *text, size_t bytes); /* 65536: "64K" */

#endif
