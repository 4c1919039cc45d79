/* SPDX-License-Identifier: Apache-2.0 */
/* The cells of a length, for a checkpoint that is not the constructed one: its needles, each at
 * every depth. All prompts begin with the prefix and the haystack up to where their needle
 * lies, so that they are asked by depth, and share it:
 *
 *     base   prefix haystack .. place_1 .......... place_2 ..
 *                               |                  fork: needle, the rest of the haystack,
 *                                                  question
 *                               fork: needle, the rest of the haystack, question
 *
 * In texts a needle stands where a sentence begins: the last one before the place that was
 * asked for.
 *
 * The expected answer is fed with the question (ask.c), which gives its probability; where the
 * model would have said something else, it goes on from there, and what it says is searched for
 * the answer. */
#include "launch/needle/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BACK = 256 }; /* tokens that a needle may go back to a sentence's beginning, at most */

typedef struct cell {
    int32_t depth, trial;
    int64_t asked, place; /* the needle's first token */
} cell;

typedef struct shared {
    evaluation *e;
    int64_t length;
    cell *cell; /* [depths of all trials that the results lack], ascending by place */
    int32_t cells;
    int64_t base;  /* tokens of the base that are read */
    uint32_t *ids; /* [length] of the prompt that is asked */
    predictor view;
    needle_grid grid; /* of the cell that is asked */
} shared;

static const foreign_fact *fact_of(const shared *s, int32_t trial)
{
    const foreign_ids *f = s->e->wish->foreign;
    return &f->fact[trial % f->facts];
}

/* ---- places --------------------- */

static needle_grid trial_grid(const shared *s, int32_t trial)
{
    const needle_wish *w = s->e->wish;
    const foreign_fact *fact = fact_of(s, trial);
    const int64_t said = fact->said_count, block = s->e->spec.block_tokens;
    return (needle_grid){.begin = w->foreign->prefix.count,
                         .end = s->length - fact->question.count,
                         .depths = w->depths,
                         .mode = w->mode,
                         .tokens = (int32_t)fact->needle.count,
                         .answer = (int32_t)fact->said,
                         .answers = (int32_t)(said < block ? said : block),
                         .block_tokens = (int32_t)block,
                         .period = w->period,
                         .seed = needle_seed(w->seed, s->length, trial / w->foreign->facts, 0)};
}

/* The last sentence's beginning before a place, if there is one near: nearer than a quarter of
 * what lies between depths. */
static int64_t at_sentence(const foreign_ids *f, const needle_grid *g, int64_t place)
{
    const int64_t quarter = (g->end - g->begin) / (4 * (int64_t)g->depths);
    const int64_t back = quarter < BACK ? quarter : BACK;
    const int64_t hay = place - f->prefix.count, round = hay / f->haystack.count;
    const int64_t within = hay % f->haystack.count;
    int64_t low = 0, high = f->pauses.count; /* pauses[low - 1] <= within < pauses[high] */
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if ((int64_t)f->pauses.ids[middle] <= within)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || within - f->pauses.ids[low - 1] > back) return place;
    return f->prefix.count + round * f->haystack.count + f->pauses.ids[low - 1];
}

static int by_needle_place(const void *a, const void *b)
{
    const cell *x = a, *y = b;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return x->trial - y->trial;
}

/* Which cells are to be asked, and where; an exit code. */
static int list_cells(shared *s)
{
    const needle_wish *w = s->e->wish;
    char why[NEEDLE_WHY] = "out of memory";
    const size_t depths = (size_t)w->depths;
    int64_t *place = malloc(depths * sizeof *place);
    bool *missing = malloc(depths * sizeof *missing);
    s->cell = malloc(depths * (size_t)w->trials * sizeof *s->cell);
    int code = evaluation_agree(
        s->e, place && missing && s->cell ? BANYAN_OK : BANYAN_ERR_MEMORY, "a list of cells");
    for (int32_t trial = 0; !code && trial < w->trials; trial++) {
        const needle_grid g = trial_grid(s, trial);
        int32_t total;
        if (!grid_place(&g, place, why, sizeof why)) { /* alike on every rank */
            progress_end(s->e->j);
            say_error(s->e->j, "a prompt of %lld tokens: %s", (long long)s->length, why);
            code = EXIT_USAGE;
            break;
        }
        code =
            evaluation_missing(s->e, "single", s->length, trial, 0, w->depths, missing, &total);
        for (int32_t d = 0; !code && d < w->depths; d++)
            if (missing[d])
                s->cell[s->cells++] =
                    (cell){d, trial, place[d], at_sentence(w->foreign, &g, place[d])};
    }
    free(place);
    free(missing);
    if (!code && s->cells) qsort(s->cell, (size_t)s->cells, sizeof *s->cell, by_needle_place);
    return code;
}

/* ---- the prompt --------------------- */

uint32_t foreign_id(const foreign_ids *f, int64_t t)
{
    return t < f->prefix.count ? f->prefix.ids[t]
                               : f->haystack.ids[(t - f->prefix.count) % f->haystack.count];
}

static void make_prompt(shared *s, const cell *c)
{
    const foreign_fact *fact = fact_of(s, c->trial);
    const int64_t count = fact->needle.count, after = c->place + count;
    for (int64_t t = 0; t < s->length; t++)
        s->ids[t] = foreign_id(s->e->wish->foreign, t < after ? t : t - count);
    memcpy(s->ids + c->place, fact->needle.ids, (size_t)count * sizeof *s->ids);
    memcpy(s->ids + s->grid.end, fact->question.ids,
           (size_t)fact->question.count * sizeof *s->ids);
}

static void show_tokens_read(void *arg, int64_t done)
{
    const shared *s = arg;
    progress(s->e->j, "single, %lld tokens: %d cells left, %lld tokens read",
             (long long)s->length, s->cells, (long long)done);
}

/* ids [at .. end) to the sequence that is current. */
static int read_tokens(shared *s, int64_t at, int64_t end)
{
    if (end <= at) return EXIT_OK;
    return evaluation_forward(s->e,
                              model_forward(s->e->m, at, s->ids + at, end - at, 0, NULL, NULL,
                                            NULL, show_tokens_read, s),
                              "reading the haystack");
}

/* ---- one question --------------------- */

/* What came of it; arrays for free(). */
typedef struct said {
    uint32_t *id; /* what the model says: [answers + reply] */
    int64_t count;
    int32_t equal; /* tokens of the answer that it would have said too */
    double logprob;
    float *mass; /* [answers][heads] */
    float *out;  /* [answers][heads][head_dim], for evaluation.outputs; or NULL */
    double seconds;
} said;

static void said_free(said *r)
{
    free(r->id);
    free(r->mass);
    free(r->out);
}

/* ln of the softmax's share of `id`. */
static double log_share(const float *logits, int64_t vocab, uint32_t id)
{
    double sum = 0;
    float most = -INFINITY;
    for (int64_t i = 0; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
    for (int64_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - most);
    return (double)logits[id] - most - log(sum);
}

/* On from where the model differs from the answer, token by token. */
static banyan_status go_on(shared *s, const foreign_fact *fact, said *r)
{
    banyan_status status = BANYAN_OK;
    const int64_t most = fact->answer.count + s->e->wish->foreign->reply;
    while (!status && r->count < most) {
        const uint32_t last = r->id[r->count - 1];
        status = model_forward(s->e->m, s->length + r->count - 1, &last, 1, 1, NULL,
                               &r->id[r->count], NULL, NULL, NULL);
        r->count++;
    }
    return status;
}

/* The question with its answer, at once; logits [answers][vocab]. */
static banyan_status feed(shared *s, const cell *c, uint32_t *ids, float *logits, uint32_t *got,
                          said *r)
{
    const foreign_fact *fact = fact_of(s, c->trial);
    const int64_t vocab = s->e->shape.vocab, questions = fact->question.count;
    const int32_t answers = (int32_t)fact->answer.count;
    const observer *o = s->e->observer;
    const model_probe probe = {.layer = s->e->layer,
                               .first_token = c->place + fact->said,
                               .token_count = fact->said_count,
                               .mass = r->mass,
                               .out = r->out,
                               .watch = o ? o->watch : NULL};
    const asked a = {.needle = c->place,
                     .ids = fact->needle.ids,
                     .count = fact->needle.count,
                     .said = fact->said,
                     .row = s->grid.end + questions - 1,
                     .answer = fact->answer.ids,
                     .got = got,
                     .answers = answers};
    if (o) o->begin(o->arg, &a);
    memcpy(ids, fact->question.ids, (size_t)questions * sizeof *ids);
    memcpy(ids + questions, fact->answer.ids, (size_t)answers * sizeof *ids);
    banyan_status status = model_forward(s->e->m, s->grid.end, ids, questions + answers - 1,
                                         answers, logits, got, &probe, NULL, NULL);
    if (!status && o) o->take(o->arg, &a);
    for (int32_t i = 0; !status && i < answers; i++)
        r->logprob += log_share(logits + i * vocab, vocab, fact->answer.ids[i]);
    while (!status && r->equal < answers && got[r->equal] == fact->answer.ids[r->equal])
        r->equal++;
    r->count = r->equal < answers ? r->equal + 1 : answers;
    memcpy(r->id, got, (size_t)r->count * sizeof *got);
    return status;
}

static int ask_trial(shared *s, const cell *c, said *r)
{
    const foreign_fact *fact = fact_of(s, c->trial);
    const foreign_ids *f = s->e->wish->foreign;
    const size_t answers = (size_t)fact->answer.count, vocab = (size_t)s->e->shape.vocab;
    const size_t heads = (size_t)s->e->shape.heads;
    const size_t outs = answers * heads * (size_t)s->e->shape.head_dim;
    const double start = now_seconds();
    *r = (said){.id = calloc(answers + (size_t)f->reply, sizeof *r->id),
                .mass = calloc(answers * heads, sizeof *r->mass),
                .out = s->e->outputs ? calloc(outs, sizeof *r->out) : NULL};
    uint32_t *ids = malloc(((size_t)fact->question.count + 2 * answers) * sizeof *ids);
    float *logits = malloc(answers * vocab * sizeof *logits);
    bool room = r->id && r->mass && ids && logits && (r->out || !s->e->outputs);
    int code = evaluation_agree(s->e, room ? BANYAN_OK : BANYAN_ERR_MEMORY, "asking");
    if (!code) {
        uint32_t *got = ids + fact->question.count + answers;
        banyan_status status = feed(s, c, ids, logits, got, r);
        if (!status && f->reply && r->equal < (int32_t)answers) status = go_on(s, fact, r);
        code = evaluation_forward(s->e, status, "asking");
        if (!code && r->out) outputs_take(s->e->outputs, r->out, (int64_t)outs);
    }
    free(ids);
    free(logits);
    r->seconds = now_seconds() - start;
    return code;
}

/* ---- its record --------------------- */

/* What words say of it. */
static void record_words(const shared *s, json_t *record, const cell *c, const said *r)
{
    const foreign_ids *f = s->e->wish->foreign;
    const foreign_fact *fact = fact_of(s, c->trial);
    const id_list prompt = {s->ids, s->length};
    int64_t tokens;
    bool contains, stands;
    char *text = words_reply(f->texts, c->trial % f->facts, r->id, r->count, &contains);
    if (text)
        json_object_set_new(record, "reply", json_text(text));
    else
        record_no_room(record);
    json_object_set_new(record, "contained", json_boolean(text && contains));
    if (text && contains) json_object_set_new(record, "outcome", json_string("found"));
    if (words_again(f->texts, &prompt, &fact->needle, &tokens, &stands)) {
        json_object_set_new(record, "tokens_as_text", json_integer(tokens));
        json_object_set_new(record, "needle_as_text", json_boolean(stands));
    }
    json_object_set_new(record, "asked_percent", json_real(grid_percent(&s->grid, c->asked)));
    free(text);
}

static int keep_trial(shared *s, const cell *c, const said *r, double prefill)
{
    usage used;
    int code = evaluation_usage(s->e, &used);
    if (code) return code;
    json_t *record = NULL;
    if (s->e->j->rank == 0) {
        const foreign_fact *fact = fact_of(s, c->trial);
        const int32_t answers = (int32_t)fact->answer.count;
        const bool exact = r->equal == answers;
        record = record_begin(s->e, "single", s->length, c->trial, c->depth);
        record_place(record, &s->view, &s->grid, c->place, c->place + fact->said);
        json_object_set_new(record, "expected", record_ids(fact->answer.ids, answers));
        json_object_set_new(record, "got", record_ids(r->id, (int32_t)r->count));
        json_object_set_new(record, "outcome", json_string(exact ? "found" : "wrong"));
        json_object_set_new(record, "exact", json_boolean(exact));
        json_object_set_new(record, "answer_logprob", json_real(r->logprob));
        json_object_set_new(record, "answer_probability", json_real(exp(r->logprob)));
        if (s->e->wish->foreign->texts) record_words(s, record, c, r);
        record_masses(record, r->mass, NULL, answers, s->e->shape.heads);
        record_usage(record, &used, prefill, r->seconds);
    }
    return evaluation_keep(s->e, record);
}

/* ---- all of a length --------------------- */

/* An empty base, in a plan that may be another. */
static int begin_base(shared *s)
{
    int code = evaluation_reset(s->e, s->length, s->e->spec.cache_dtype);
    s->base = 0;
    if (!code) predictor_init(&s->view, model_plan(s->e->m), &s->e->constructed);
    return code;
}

/* The base up to the needle; a fork of it, read to the question, and asked. */
static int ask_cell(shared *s, const cell *c)
{
    said r = {0};
    const double start = now_seconds();
    s->grid = trial_grid(s, c->trial);
    make_prompt(s, c);
    int code = s->e->wish->classic && s->base ? begin_base(s) : EXIT_OK;
    if (!code && s->base == 0 && c->place > 0) { /* which may go on from a snapshot */
        double seconds;
        const prompt first = {.ids = s->ids, .count = c->place};
        code = evaluation_prefill(s->e, &first, "single", &seconds);
    } else if (!code) {
        code = read_tokens(s, s->base, c->place);
    }
    if (code) return code;
    s->base = c->place;
    code = evaluation_forward(s->e, model_fork(s->e->m, s->base, BANYAN_OK),
                              "a fork of the haystack");
    if (!code) code = read_tokens(s, s->base, s->grid.end);
    const double prefill = now_seconds() - start;
    if (!code) code = ask_trial(s, c, &r);
    if (!code) code = keep_trial(s, c, &r, prefill);
    said_free(&r);
    model_back(s->e->m);
    return code;
}

int evaluate_texts(evaluation *e, int64_t length)
{
    shared s = {.e = e, .length = length};
    int code = list_cells(&s);
    if (!code && s.cells) {
        s.ids = malloc((size_t)length * sizeof *s.ids);
        code = evaluation_agree(e, s.ids ? BANYAN_OK : BANYAN_ERR_MEMORY, "a prompt");
    }
    if (!code && s.cells) code = begin_base(&s);
    for (const cell *c = s.cell; !code && s.cells > 0; c++, s.cells--) code = ask_cell(&s, c);
    progress_end(e->j);
    free(s.cell);
    free(s.ids);
    return code;
}
