/* SPDX-License-Identifier: Apache-2.0 */
/* The cells of one prompt: needles at their depths, keys that are not there, and for each cell
 * what was measured beside what the plan predicts. A cell is as predicted when the outcome is,
 * and for every token of the answer and every head whether that head saw it (mass at least
 * 1/2).
 *
 * The LM head adds up one code per head that sees the token, and <none> weighs half a head: so
 * a token is found if and only if some head sees it, and a needle if every token of its answer
 * is. */
#include "launch/needle/chosen.h"
#include "launch/needle/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct cells {
    evaluation *e;
    const char *task; /* NULL: only absent keys are asked */
    bool absent;
    bool predicted; /* what heads see, from the plan alone */
    int64_t length;
    int32_t trial, first, count; /* depths */
    needle_grid grid;
    int64_t *place; /* [depths] */
    prompt p;
    predictor view;
    double prefill;
} cells;

static void choose_pattern(cells *c, int32_t pattern)
{
    c->e->pattern = pattern;
    c->view.last = c->e->layer + pattern;
    model_choose_reading(c->e->m, pattern);
}

/* DEPTH_BORDER: KV heads take turns. */
static int owner_of(const void *arg, int32_t depth, int64_t block)
{
    const predictor *v = arg;
    return banyan_plan_owner(v->plan, 0, v->last, depth % v->kv_heads, block);
}

static needle_grid cells_grid(const cells *c)
{
    const needle_wish *w = c->e->wish;
    needle_grid g = {.begin = NEEDLE_FIRST,
                     .end = c->length - NEEDLE_QUESTION,
                     .depths = w->depths,
                     .mode = w->mode,
                     .tokens = NEEDLE_TOKENS,
                     .answer = NEEDLE_ANSWER,
                     .answers = NEEDLE_ANSWERS,
                     .block_tokens = c->view.block_tokens,
                     .period = w->period,
                     .seed = needle_seed(w->seed, c->length, c->trial, 0),
                     .owner = owner_of,
                     .arg = &c->view};
    return g;
}

/* Places, the prompt, and nulls where some head would have none. */
static bool build_prompt(cells *c, char *why, size_t why_bytes)
{
    const needle_wish *w = c->e->wish;
    c->grid = cells_grid(c);
    if (!grid_place(&c->grid, c->place, why, why_bytes)) return false;
    bool multikey = w->mixed || (c->task && strcmp(c->task, "multikey") == 0);
    int32_t purpose = 1 + c->first * 2 + multikey; /* classic prompts differ by depth */
    haystack_wish wish = {.count = c->grid.end,
                          .first = c->place + c->first,
                          .facts = c->count,
                          .absents = c->absent ? c->count : 0,
                          .distractors = multikey ? 4 : 0,
                          .mixed = w->mixed,
                          .needles = w->needles,
                          .seed = needle_seed(w->seed, c->length, c->trial, purpose)};
    if (!prompt_make(&wish, &c->p, why, why_bytes)) return false;
    for (int32_t p = 0; p < w->patterns; p++) {
        choose_pattern(c, p);
        predictor_plant(&c->view, &c->p, c->length - 1, NEEDLE_ANSWERS);
    }
    return true;
}

/* ---- one cell --------------------- */

json_t *record_ids(const uint32_t *ids, int32_t count)
{
    json_t *a = json_array();
    for (int32_t i = 0; i < count; i++) json_array_append_new(a, json_integer(ids[i]));
    return a;
}

/* "10010000" per answer token; saw or mass is NULL. NULL: out of memory. */
static json_t *head_texts(const bool *saw, const float *mass, int32_t answers, int32_t heads)
{
    json_t *texts = json_array();
    char *text = malloc((size_t)heads + 1);
    if (!text) {
        json_decref(texts);
        return NULL;
    }
    for (int32_t i = 0; i < answers; i++) {
        for (int32_t h = 0; h < heads; h++) {
            int32_t at = i * heads + h;
            text[h] = (saw ? saw[at] : mass[at] >= .5f) ? '1' : '0';
        }
        text[heads] = 0;
        json_array_append_new(texts, json_string(text));
    }
    free(text);
    return texts;
}

void record_place(json_t *record, const predictor *view, const needle_grid *grid, int64_t first,
                  int64_t answer)
{
    json_t *owners = json_array();
    int64_t block = answer / view->block_tokens;
    for (int32_t g = 0; g < view->kv_heads; g++)
        json_array_append_new(
            owners, json_integer(banyan_plan_owner(view->plan, 0, view->last, g, block)));
    json_object_set_new(record, "depth_percent", json_real(grid_percent(grid, first)));
    json_object_set_new(record, "needle",
                        json_pack("[I, i]", (json_int_t)first, (int)grid->tokens));
    json_object_set_new(record, "block", json_integer(block));
    json_object_set_new(record, "owners", owners);
}

void record_masses(json_t *record, const float *mass, const bool *saw, int32_t answers,
                   int32_t heads)
{
    json_t *rows = json_array();
    double least = INFINITY;
    for (int32_t i = 0; i < answers; i++) {
        json_t *row = json_array();
        for (int32_t h = 0; h < heads; h++) {
            double m = mass[i * heads + h];
            json_array_append_new(row, json_finite(m));
            if (saw && saw[i * heads + h] && !(m >= least)) least = m;
        }
        json_array_append_new(rows, row);
    }
    json_object_set_new(record, "mass", rows);
    if (json_object_set_new(record, "saw", head_texts(NULL, mass, answers, heads)))
        record_no_room(record);
    if (!saw) return;
    if (json_object_set_new(record, "predicted_saw", head_texts(saw, NULL, answers, heads)))
        record_no_room(record);
    json_object_set_new(record, "least_mass", json_finite(least));
}

static json_t *make_record(const cells *c, const char *task, int32_t depth,
                           const needle_fact *fact, const question *q, const reply *r)
{
    int32_t heads = c->view.heads;
    json_t *record = record_begin(c->e, task, c->length, c->trial, depth);
    if (q->answer_first >= 0)
        record_place(record, &c->view, &c->grid, c->place[depth], q->answer_first);
    json_object_set_new(record, "expected", record_ids(q->answer, q->answers));
    json_object_set_new(record, "got", record_ids(r->got, r->count));
    uint32_t none = CONSTRUCTED_NONE;
    bool absent = fact->first < 0;
    if (absent) json_object_set_new(record, "expected", record_ids(&none, 1));
    json_object_set_new(record, "outcome", json_string(outcome_name(r->outcome)));
    if (!c->predicted) {
        if (r->mass) record_masses(record, r->mass, NULL, q->answers, heads);
        return record;
    }
    bool *saw = absent ? NULL : calloc((size_t)(q->answers * heads), sizeof *saw);
    if (!absent && !saw) record_no_room(record);
    int32_t undecided = 0;
    outcome predicted = OUTCOME_NONE;
    if (saw)
        predicted = predictor_answer(&c->view, fact, c->length - 1, r->mass, saw, &undecided);
    bool equal = r->outcome == predicted;
    for (int32_t i = 0; saw && i < q->answers * heads; i++)
        equal = equal && saw[i] == (r->mass[i] >= .5f);
    json_object_set_new(record, "predicted", json_string(outcome_name(predicted)));
    json_object_set_new(record, "equal", json_boolean(equal));
    if (undecided) json_object_set_new(record, "undecided", json_integer(undecided));
    if (r->mass) record_masses(record, r->mass, saw, q->answers, heads);
    free(saw);
    return record;
}

/* Before the question is asked (got NULL), and after it. */
static void observe_question(const cells *c, const needle_fact *fact, const question *q,
                             const uint32_t *got)
{
    uint32_t needle[NEEDLE_TOKENS];
    const observer *o = c->e->observer;
    for (int32_t i = 0; i < NEEDLE_TOKENS; i++) needle[i] = c->p.ids[fact->first + i];
    const asked a = {.needle = fact->first,
                     .ids = needle,
                     .count = NEEDLE_TOKENS,
                     .said = NEEDLE_ANSWER,
                     .row = q->at + q->count - 1,
                     .answer = q->answer,
                     .got = got,
                     .answers = q->answers};
    (got ? o->take : o->begin)(o->arg, &a);
}

static int ask_question(cells *c, const char *task, int32_t depth, const needle_fact *fact,
                        const question *q)
{
    reply r;
    usage used;
    progress(c->e->j, "%s, %lld tokens: question %d of %d", task, (long long)c->length,
             depth + 1, c->e->wish->depths);
    int code = evaluation_forward(c->e, question_ask(c->e->m, q, &r), "asking");
    if (code) return code;
    if (q->watch) observe_question(c, fact, q, r.got);
    if (r.out)
        outputs_take(c->e->outputs, r.out,
                     (int64_t)q->answers * c->view.heads * c->e->shape.head_dim);
    code = evaluation_usage(c->e, &used);
    if (!code) {
        json_t *record = NULL;
        if (c->e->j->rank == 0) {
            record = make_record(c, task, depth, fact, q, &r);
            record_usage(record, &used, c->prefill, r.seconds);
        }
        code = evaluation_keep(c->e, record);
    }
    reply_free(&r);
    return code;
}

static int ask_fact(cells *c, const char *task, int32_t depth, const needle_fact *fact)
{
    uint32_t ids[NEEDLE_QUESTION + 4], answer[NEEDLE_ANSWERS];
    prompt_question(fact, ids);
    for (int32_t i = 0; i < NEEDLE_ANSWERS; i++) answer[i] = prompt_answer(fact, i);
    bool absent = fact->first < 0;
    question q = {.ids = ids,
                  .answer = answer,
                  .count = NEEDLE_QUESTION,
                  .answers = absent ? 1 : NEEDLE_ANSWERS,
                  .at = c->p.count,
                  .answer_first = absent ? -1 : fact->first + NEEDLE_ANSWER,
                  .mass_count = NEEDLE_ANSWERS,
                  .none = CONSTRUCTED_NONE,
                  .layer = c->e->layer,
                  .with_out = c->e->outputs && !absent};
    predictor_read(&c->view, &c->p, ids);
    if (c->view.chosen) chosen_ask(c->view.chosen);
    if (c->e->observer && !absent) {
        q.watch = c->e->observer->watch;
        observe_question(c, fact, &q, NULL);
    }
    return ask_question(c, task, depth, fact, &q);
}

/* ---- one prompt --------------------- */

/* Needle i's: one haystack may have needles of two. */
static const char *task_of(const cells *c, int32_t i)
{
    return c->e->wish->mixed && i % 2 ? "multikey" : c->task;
}

static int read_and_ask(cells *c, const bool *needle, const bool *absent)
{
    char why[NEEDLE_WHY];
    evaluation *e = c->e;
    int32_t layer, head;
    int code = evaluation_reset(e, c->length, e->spec.cache_dtype);
    if (code) return code;
    c->predicted = !predictor_is_blind(model_plan(e->m), &layer, &head);
    predictor_init(&c->view, model_plan(e->m), &e->constructed);
    choose_pattern(c, 0);
    const bool chooses =
        e->j->rank == 0 && c->predicted && predictor_chooses(model_plan(e->m), &layer, &head);
    if (chooses) c->view.chosen = chosen_open(&c->view);
    code = evaluation_agree(e, chooses && !c->view.chosen ? BANYAN_ERR_MEMORY : BANYAN_OK,
                            "predictions");
    if (code) return code;
    bool built = build_prompt(c, why, sizeof why);
    if (agree_words(e->j->comm, built ? BANYAN_OK : BANYAN_ERR_CONFIG, why, sizeof why)) {
        progress_end(e->j);
        say_error(e->j, "a prompt of %lld tokens: %s", (long long)c->length, why);
        if (built) prompt_free(&c->p);
        chosen_close(c->view.chosen);
        return EXIT_USAGE;
    }
    code = evaluation_prefill(e, &c->p, c->task ? c->task : "absent", &c->prefill);
    for (int32_t p = 0; !code && p < e->wish->patterns; p++) {
        choose_pattern(c, p);
        for (int32_t i = 0; !code && i < c->count; i++) {
            if (needle[p * c->count + i])
                code = ask_fact(c, task_of(c, i), c->first + i, &c->p.fact[i]);
            if (!code && !(e->wish->mixed && i % 2) && absent[p * c->count + i])
                code = ask_fact(c, "absent", c->first + i, &c->p.absent[i]);
        }
    }
    choose_pattern(c, 0);
    chosen_close(c->view.chosen);
    prompt_free(&c->p);
    return code;
}

/* Which cells the file lacks, of every pattern. */
static int find_missing(cells *c, const char *task, bool *missing, int32_t *total)
{
    evaluation *e = c->e;
    int code = EXIT_OK;
    for (int32_t p = 0; !code && p < e->wish->patterns; p++) {
        int32_t some;
        e->pattern = p;
        code = evaluation_missing(e, task, c->length, c->trial, c->first, c->count,
                                  missing + p * c->count, &some);
        *total += some;
    }
    e->pattern = 0;
    return code;
}

int evaluate_prompt(evaluation *e, const char *task, int64_t length, int32_t trial,
                    int32_t first, int32_t count, bool with_absent)
{
    cells c = {.e = e,
               .task = task,
               .absent = with_absent,
               .length = length,
               .trial = trial,
               .first = first,
               .count = count};
    int32_t missing = 0;
    size_t all = (size_t)count * (size_t)e->wish->patterns;
    bool *needle = calloc(all, sizeof *needle);
    bool *absent = calloc(all, sizeof *absent);
    c.place = calloc((size_t)e->wish->depths, sizeof *c.place);
    bool room = needle && absent && c.place;
    int code = evaluation_agree(e, room ? BANYAN_OK : BANYAN_ERR_MEMORY, "a prompt");
    if (!code && task) code = find_missing(&c, task, needle, &missing);
    if (!code && with_absent) code = find_missing(&c, "absent", absent, &missing);
    if (!code && missing > 0) code = read_and_ask(&c, needle, absent);
    free(needle);
    free(absent);
    free(c.place);
    return code;
}
