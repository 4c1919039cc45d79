/* SPDX-License-Identifier: Apache-2.0 */
/* Prompts, one after another: empty the cache, read the haystack, ask. A prompt whose cells are
 * all in the results file costs nothing, not even the checkpoint's opening.
 *
 * Every rank makes the same prompts and gets the same answers; rank 0 predicts, compares and
 * writes. After each step that can fail on one rank alone, all ranks agree on how it went. */
#include "launch/needle/evaluate.h"

#include "launch/pattern/pattern.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int evaluation_agree(const evaluation *e, banyan_status status, const char *what)
{
    status = banyan_comm_agree(e->j->comm, status);
    if (status) progress_end(e->j);
    return status ? job_failed(e->j, status, what) : EXIT_OK;
}

int evaluation_forward(const evaluation *e, banyan_status status, const char *what)
{
    char why[NEEDLE_WHY] = "";
    if (status) snprintf(why, sizeof why, "%s", model_message(e->m));
    if (status == BANYAN_ERR_COMM) return evaluation_agree(e, status, what);
    status = agree_words(e->j->comm, status, why, sizeof why);
    if (!status) return EXIT_OK;
    progress_end(e->j);
    say_error(e->j, "%s: %s", what, why);
    const bool is_ours =
        status != BANYAN_ERR_COMM && status != BANYAN_ERR_DEVICE && status != BANYAN_ERR_FILE;
    return is_ours ? EXIT_USAGE : EXIT_FAILED;
}

/* ---- the results file, on rank 0 --------------------- */

static void cell_name(const evaluation *e, char *text, size_t bytes, const char *task,
                      int64_t length, int32_t trial, int32_t depth)
{
    int used = snprintf(text, bytes, "%s/%lld/%d/%d", task, (long long)length, trial, depth);
    if (e->pattern) snprintf(text + used, bytes - (size_t)used, "/%d", e->pattern);
}

int evaluation_missing(evaluation *e, const char *task, int64_t length, int32_t trial,
                       int32_t first, int32_t count, bool *missing, int32_t *total)
{
    char cell[96], why[NEEDLE_WHY] = "";
    banyan_status status = BANYAN_OK;
    if (e->j->rank == 0) {
        status = results_refresh(e->results, why, sizeof why);
        for (int32_t i = 0; i < count; i++) {
            cell_name(e, cell, sizeof cell, task, length, trial, first + i);
            missing[i] = !results_has(e->results, cell);
        }
    }
    status = agree_words(e->j->comm, status, why, sizeof why);
    if (!status) {
        status = banyan_comm_broadcast(e->j->comm, missing, (size_t)count * sizeof *missing, 0);
        if (status) snprintf(why, sizeof why, "%s", banyan_error_message());
    }
    *total = 0;
    for (int32_t i = 0; i < count && !status; i++) *total += missing[i];
    if (!status) return EXIT_OK;
    progress_end(e->j);
    say_error(e->j, "%s", why);
    return status == BANYAN_ERR_CONFIG ? EXIT_USAGE : EXIT_FAILED;
}

static const char no_room[] = "no room";

void record_no_room(json_t *record)
{
    json_object_set_new(record, no_room, json_true());
}

static bool keep_whole(evaluation *e, json_t *record, char *why, size_t why_bytes)
{
    if (record && !json_object_get(record, no_room))
        return results_add(e->results, record, why, why_bytes);
    snprintf(why, why_bytes, "rank 0: out of memory for a cell's record");
    json_decref(record);
    return false;
}

int evaluation_keep(evaluation *e, json_t *record)
{
    char why[NEEDLE_WHY];
    int32_t failed = 0;
    if (e->j->rank == 0 && !keep_whole(e, record, why, sizeof why)) {
        progress_end(e->j);
        say_error(e->j, "%s", why);
        failed = 1;
    }
    banyan_status status = banyan_comm_broadcast(e->j->comm, &failed, sizeof failed, 0);
    int code = evaluation_agree(e, status, "results");
    return code ? code : failed ? EXIT_FAILED : EXIT_OK;
}

json_t *record_begin(const evaluation *e, const char *task, int64_t length, int32_t trial,
                     int32_t depth)
{
    char cell[96];
    cell_name(e, cell, sizeof cell, task, length, trial, depth);
    json_t *record = json_pack("{s:s, s:s, s:I, s:i, s:i, s:I}", "cell", cell, "task", task,
                               "length", (json_int_t)length, "trial", trial, "depth", depth,
                               "seed", (json_int_t)e->wish->seed);
    if (e->wish->patterns > 1) {
        json_object_set_new(record, "pattern", json_integer(e->pattern));
        json_object_set_new(record, "retrieval", json_text(e->wish->pattern[e->pattern]));
    }
    return record;
}

void record_usage(json_t *record, const usage *u, double prefill, double decode)
{
    json_object_set_new(record, "prefill_seconds", json_real(prefill));
    json_object_set_new(record, "decode_seconds", json_real(decode));
    json_object_set_new(record, "cache_bytes", json_integer(u->cache_bytes));
    json_object_set_new(record, "resident_bytes", json_integer(u->resident_bytes));
    json_object_set_new(record, "messages", json_integer(u->messages));
    json_object_set_new(record, "bytes_sent", json_integer(u->bytes_sent));
}

/* ---- the model --------------------- */

/* Further patterns need cache layers that the checkpoint does not know of. */
static banyan_status open_model(evaluation *e, const banyan_spec *spec, char *why,
                                size_t why_bytes)
{
    banyan_spec first = *spec;
    const model_loading loading = {progress_loading, (void *)(uintptr_t)e->j};
    first.rule_count -= e->further;
    if (e->wish->patterns > 1 && first.max_tokens > 4 * first.max_rows)
        first.max_tokens = first.planned_tokens = 4 * first.max_rows; /* made anew at once */
    banyan_status status =
        model_open(e->dir, &first, e->j->comm, e->j->device, &loading, &e->m, why, why_bytes);
    if (status || e->wish->patterns == 1) return status;
    model_add_readings(e->m, e->wish->patterns - 1);
    return model_reset(e->m, spec, why, why_bytes);
}

int evaluation_reset(evaluation *e, int64_t length, banyan_dtype cache_dtype)
{
    char why[NEEDLE_WHY] = "";
    banyan_spec spec = e->spec;
    spec.cache_dtype = cache_dtype;
    spec.planned_tokens = length;
    int64_t asked = NEEDLE_QUESTION + NEEDLE_ANSWERS;
    spec.max_tokens = length + NEEDLE_ANSWERS;
    const foreign_ids *f = e->wish->foreign;
    if (f) spec.max_tokens = length;
    for (int32_t i = 0; f && i < f->facts; i++) {
        /* what is generated after the expected answer goes back to where it differs */
        const int64_t answers = f->fact[i].answer.count, most = answers + f->reply;
        if (spec.max_tokens < length + most) spec.max_tokens = length + most;
        if (asked < f->fact[i].needle.count + most) asked = f->fact[i].needle.count + most;
        if (f->reply && spec.rollback_tokens < answers) spec.rollback_tokens = (int32_t)answers;
    }
    spec.max_tokens += e->decoded;
    asked += e->decoded;
    /* The haystack, and a fork of it that is asked: its own tokens, and a block that is
     * copied. */
    spec.sequences = 2;
    spec.pool_tokens = spec.max_tokens + asked + 2 * spec.block_tokens;
    progress(e->j, "%s", e->m ? "emptying the cache" : "opening the checkpoint");
    banyan_rule *rules = pattern_prompt_rules(spec.rules, spec.rule_count, length);
    if (evaluation_agree(e, rules ? BANYAN_OK : BANYAN_ERR_MEMORY, "rules")) {
        free(rules);
        return EXIT_FAILED;
    }
    spec.rules = rules;
    banyan_status status = e->m ? model_reset(e->m, &spec, why, sizeof why)
                                : open_model(e, &spec, why, sizeof why);
    free(rules);
    int32_t layer, head;
    const bool measured = e->wish->tasks & (TASK_GRADED | TASK_UNIFORM);
    if (!status && !f && !e->wish->mixed &&
        (measured ? predictor_chooses : predictor_is_blind)(model_plan(e->m), &layer, &head)) {
        progress_end(e->j);
        say_error(e->j,
                  "layer %d, head %d chooses blocks by data: which needles the constructed "
                  "model finds with it is not predicted; expected patterns of positions",
                  (int)layer, (int)head);
        return EXIT_USAGE;
    }
    if (!status) return EXIT_OK;
    progress_end(e->j);
    if (!why[0]) return job_failed(e->j, status, e->dir);
    say_error(e->j, "%s", why);
    return status == BANYAN_ERR_COMM || status == BANYAN_ERR_DEVICE ? EXIT_FAILED : EXIT_USAGE;
}

/* Cells are asked in the same order whatever the patterns are. */
void outputs_take(outputs *o, const float *value, int64_t count)
{
    const outputs *ref = o->reference;
    if (!ref) {
        if (o->floats + count > o->room) {
            const int64_t room = 2 * (o->floats + count);
            float *more = realloc(o->value, (size_t)room * sizeof *more);
            if (!more) o->failed = true;
            if (!more) return;
            o->value = more;
            o->room = room;
        }
        memcpy(o->value + o->floats, value, (size_t)count * sizeof *value);
    } else if (ref->failed || o->floats + count > ref->floats) {
        o->failed = true;
        return;
    }
    const float *was = (ref ? ref : o)->value + o->floats;
    for (int64_t i = 0; i < count; i++) {
        const double d = (double)value[i] - was[i];
        o->difference += d * d;
        o->size += (double)was[i] * was[i];
    }
    o->floats += count;
}

typedef struct prefill_state {
    const evaluation *e;
    const char *what;
    int64_t count;
    double start;
} prefill_state;

static void show_prefill(void *arg, int64_t done)
{
    const prefill_state *s = arg;
    double spent = now_seconds() - s->start;
    progress(s->e->j, "%s, %lld tokens: read %3.0f %%, %.0f s left", s->what,
             (long long)s->count, 100.0 * (double)done / (double)s->count,
             done ? spent * (double)(s->count - done) / (double)done : 0);
}

int evaluation_prefill(evaluation *e, const prompt *p, const char *what, double *seconds)
{
    prefill_state s = {e, what, p->count, now_seconds()};
    banyan_status status =
        e->wish->checkpoint
            ? checkpoint_prefill(e, p, show_prefill, &s)
            : model_forward(e->m, 0, p->ids, p->count, 0, NULL, NULL, NULL, show_prefill, &s);
    *seconds = now_seconds() - s.start;
    progress_end(e->j);
    return evaluation_forward(e, status, "reading the haystack");
}

/* This process's share of physical memory (PSS: shared pages divided by their users), or 0. */
static int64_t proportional_bytes(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    long long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Pss: %lld", &kib) == 1) break;
    if (f) fclose(f);
    return (int64_t)kib * 1024;
}

int evaluation_usage(evaluation *e, usage *out)
{
    banyan_stats stats;
    banyan_cache_stats(model_cache(e->m), &stats);
    double sums[4] = {(double)stats.messages, (double)stats.bytes_sent, (double)stats.bytes,
                      (double)proportional_bytes()};
    banyan_status status = banyan_comm_allreduce(e->j->comm, sums, 4, BANYAN_SUM);
    *out = (usage){(int64_t)sums[0], (int64_t)sums[1], (int64_t)sums[2], (int64_t)sums[3]};
    return evaluation_agree(e, status, "statistics");
}
