/* SPDX-License-Identifier: Apache-2.0 */
/* evaluate.h - the evaluation as a whole: cells measured one after another, and what they add
 * up to.
 *
 * Knows: needle.h, the job (its ranks, progress and error lines).
 * Refuses to know: flags and configs; verb_needle.c fills in the wish. */
#ifndef BANYAN_EVALUATE_H
#define BANYAN_EVALUATE_H

#include "launch/launch.h"
#include "launch/needle/needle.h"

/* Token ids for a checkpoint that is not the constructed one. */
typedef struct id_list {
    uint32_t *ids;
    int64_t count;
} id_list;
/* A needle, what is asked, and what is expected. */
typedef struct foreign_fact {
    id_list needle, question, answer;
    /* The needle's tokens that say the answer; all of them where it does not. */
    int64_t said, said_count;
} foreign_fact;
typedef struct foreign_ids {
    id_list prefix;   /* what stands first, once; may be empty */
    id_list haystack; /* repeated until it is long enough */
    id_list pauses;   /* of texts: tokens of the haystack that begin a sentence, ascending */
    foreign_fact *fact;
    int32_t facts;
    int32_t reply; /* of texts: so many tokens more than the answer's are generated */
    struct foreign_texts *texts; /* rank 0: what ids are said with; NULL: they are ids alone */
} foreign_ids;

/* What is asked. */
typedef struct needle_wish {
    const int64_t *length;
    int32_t lengths, depths, trials;
    depth_mode mode;
    bool classic; /* a prefill per needle */
    unsigned tasks;
    bool needles; /* the haystack is made of distractors */
    bool mixed; /* every second needle is of multikey, the others of single, in one haystack */
    uint64_t seed;
    int32_t period;
    const foreign_ids *foreign; /* NULL: the constructed model */
    /* What the last layer reads, compared on one prefill; one: the plain rules. A summary is of
     * one. */
    const char *const *pattern;
    int32_t patterns, which;
    /* A folder for snapshots of the haystack that is read; NULL: none. */
    const char *checkpoint;
    int64_t every; /* tokens from one to the next */
} needle_wish;

/* Attention's output at the rows of questions, beside what another evaluation had at the same:
 * NULL there, it is kept for others. */
typedef struct outputs {
    float *value; /* [floats], for free() */
    int64_t floats, room;
    const struct outputs *reference;
    double difference, size; /* sums of squares: of the difference, of the reference */
    bool failed;             /* out of memory, or not the same rows */
} outputs;
void outputs_take(outputs *o, const float *value, int64_t count);

/* Of the question that is asked: where the haystack has its answer, and what is fed. */
typedef struct asked {
    int64_t needle;      /* the needle's first token, and .. */
    const uint32_t *ids; /* .. its ids */
    int64_t count;
    int64_t said;           /* where in it the answer stands */
    int64_t row;            /* the token whose row says the answer's first */
    const uint32_t *answer; /* what is expected, and .. */
    const uint32_t *got;    /* .. what was said */
    int32_t answers;
} asked;
/* Who wants to know what heads look at while a question is answered: launch/heads. begin fills
 * the watch's ranges in; take gets what was seen. NULL: nobody. */
typedef struct observer {
    model_watch *watch;
    void (*begin)(void *arg, const asked *a);
    void (*take)(void *arg, const asked *a);
    void *arg;
} observer;

typedef struct evaluation {
    const job *j;
    const needle_wish *wish;
    const char *dir;
    banyan_spec spec; /* rules and execution; lengths are filled in per prompt */
    model_shape shape;
    constructed_spec constructed;
    int32_t layer;    /* that finds needles: the constructed model's, or the last */
    int32_t further;  /* rules at the end of spec's, of patterns beside the first */
    int32_t pattern;  /* that is asked now */
    int32_t decoded;  /* tokens that are decoded behind the question, besides the answer */
    model *m;         /* NULL until the first prompt */
    results *results; /* rank 0 only */
    outputs *outputs; /* of `layer`; NULL: nobody asks */
    const observer *observer;
} evaluation;

/* Measure every cell that the results file lacks. An exit code, the same on every rank. */
int evaluate_all(evaluation *e);

/* One cell's verdict: rank 0 passes the record, others NULL. Collective; an exit code. */
int evaluation_keep(evaluation *e, json_t *record);
/* Something of the record was not made for want of memory: it is not kept, and evaluation_keep
 * says so. */
void record_no_room(json_t *record);
/* missing [count]: which of "task/length/trial/first .. " are not in the file, on every
 * rank. */
int evaluation_missing(evaluation *e, const char *task, int64_t length, int32_t trial,
                       int32_t first, int32_t count, bool *missing, int32_t *total);
/* An empty cache for a prompt of `length` tokens. */
int evaluation_reset(evaluation *e, int64_t length, banyan_dtype cache_dtype);
int evaluation_prefill(evaluation *e, const prompt *p, const char *what, double *seconds);
/* checkpoint.c: reads the haystack as evaluation_prefill does, from the snapshot on that has a
 * part of it, and makes one every now and then. */
banyan_status checkpoint_prefill(evaluation *e, const prompt *p,
                                 void (*progress)(void *arg, int64_t done), void *arg);
/* All ranks come to one exit code; `what` was tried. */
int evaluation_agree(const evaluation *e, banyan_status status, const char *what);
/* .. after a call on the model, whose words are said. */
int evaluation_forward(const evaluation *e, banyan_status status, const char *what);

/* What all ranks together have used so far. */
typedef struct usage {
    int64_t messages, bytes_sent, cache_bytes, resident_bytes;
} usage;
int evaluation_usage(evaluation *e, usage *out);

/* The fields that all records begin with. */
json_t *record_begin(const evaluation *e, const char *task, int64_t length, int32_t trial,
                     int32_t depth);
void record_usage(json_t *record, const usage *u, double prefill, double decode);

/* Ask for the needles at depths first .. first+count-1 of one prompt (task NULL: none of them),
 * and for as many absent keys. */
int evaluate_prompt(evaluation *e, const char *task, int64_t length, int32_t trial,
                    int32_t first, int32_t count, bool with_absent);
int evaluate_graded(evaluation *e, int64_t length, int32_t trial);
int evaluate_uniform(evaluation *e, int64_t length);

/* The token at `t` of a haystack that no needle lies in. */
uint32_t foreign_id(const foreign_ids *f, int64_t t);

/* ---- rules.c --------------------- */

/* Append the rules of one line for one layer; text is cut up, and must live as long as they
 * do. */
bool rules_append(banyan_rule *rules, int32_t *count, int32_t room, int32_t layer, char *text,
                  char *why, size_t why_bytes);

/* What a record says of a place and of heads: cells.c. */
void record_place(json_t *record, const predictor *view, const needle_grid *grid, int64_t first,
                  int64_t answer);
void record_masses(json_t *record, const float *mass, const bool *saw, int32_t answers,
                   int32_t heads);
json_t *record_ids(const uint32_t *ids, int32_t count);

/* ---- given.c, words.c --------------------- */

/* The prefix, haystack, needles, questions and answers that the flags give, on every rank.
 * false: reported. Collective. */
bool given_read(const job *j, const char *dir, int32_t vocab, foreign_ids *out);
void foreign_free(foreign_ids *f);
/* Where the needle has the answer's tokens; false: nowhere. */
bool foreign_find(foreign_fact *fact);

/* What is to be said in words; the texts of a file where one has that name. */
typedef struct words_wish {
    const char *dir; /* the checkpoint: its tokenizer */
    const char *system, *prefix, *haystack, *needle, *question, *answer;
    const char *begin; /* of the answer, given */
    const char *set;   /* a file of needles, instead of one */
    bool chat;
} words_wish;
/* On one rank. */
bool words_read(const words_wish *w, foreign_ids *out, char *why, size_t why_bytes);
void words_free(struct foreign_texts *t);
/* The text of a reply, up to its end, for free(); NULL: out of memory. *contains: the answer of
 * fact `fact` stands in it, in capitals or not. */
char *words_reply(const struct foreign_texts *t, int32_t fact, const uint32_t *ids,
                  int64_t count, bool *contains);
/* Of a prompt as one text, tokenised anew: its tokens, and whether those of `needle` stand in
 * it. */
bool words_again(const struct foreign_texts *t, const id_list *prompt, const id_list *needle,
                 int64_t *tokens, bool *stands);

/* ---- texts.c --------------------- */

/* The cells of a length, for a checkpoint that is not the constructed one. */
int evaluate_texts(evaluation *e, int64_t length);
/* ---- summary.c --------------------- */

/* A task at a length, over all cells. */
typedef struct tally {
    int64_t cells, found, predicted, none, wrong, equal, messages;
    double least_mass;       /* over the cells that measured some; NaN: none did */
    double error, lse_error; /* graded, uniform: the largest */
    double prefill_seconds, decode_seconds; /* means */
} tally;
tally summary_tally(json_t *records, const needle_wish *wish, const char *task, int64_t length);
/* Recall by depth and length; value [depths][lengths], depth [depths]: mean percent. */
void summary_heat(json_t *records, const char *task, const needle_wish *wish, double *value,
                  double *depth);
/* Share of answer tokens that each head saw: [heads][lengths]; NaN: no cells. */
void summary_heads(json_t *records, const char *task, const needle_wish *wish, int32_t heads,
                   const char *field, double *value);
/* The cells of this wish that are not as predicted. */
int64_t summary_unequal(json_t *records, const needle_wish *wish);
/* Tables and maps, for people. is_wide: however many lengths, each map and table is one. */
void summary_print(json_t *records, const needle_wish *wish, int32_t heads, FILE *out,
                   bool colour, bool is_wide);
void summary_csv(json_t *records, const needle_wish *wish, FILE *out);
/* The table's rows and the head maps, a JSON object per line. */
void summary_json(json_t *records, const needle_wish *wish, int32_t heads, FILE *out);

/* ---- tasks.c --------------------- */

/* A map of recall and of heads, and a row of the table; the row alone; a line of its own. */
typedef enum task_kind { TASK_MAPPED, TASK_ASKED, TASK_MEASURED } task_kind;
typedef struct needle_task {
    const char *name, *doc;
    task_kind kind;
    int (*run)(evaluation *e, int64_t length,
               int32_t trial); /* an exit code, the same on every rank */
} needle_task;
const needle_task *task_row(int index); /* by bit of `tasks`; NULL past the end */

#endif
