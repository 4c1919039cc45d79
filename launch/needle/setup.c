/* SPDX-License-Identifier: Apache-2.0 */
/* Flags and config to a wish, a checkpoint and a spec. When no checkpoint is named, rank 0
 * writes the constructed one beside the results, once: a directory that holds it already is
 * used again. */
#include "launch/file.h"
#include "launch/needle/setup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { EXTRA_RULES = 64 };

int setup_choose(const job *j, const char *what, const char *word, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(word, names[i])) return i;
    const char *near = banyan_nearest(word, names);
    char list[256] = "";
    for (int i = 0; names[i]; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "",
                 names[i]);
    if (near)
        say_error(j, "%s \"%s\": did you mean \"%s\"? (%s)", what, word, near, list);
    else
        say_error(j, "%s \"%s\": expected one of %s", what, word, list);
    return -1;
}

static bool read_tasks(const job *j, const char *text, unsigned *tasks)
{
    const char *names[TASKS + 1] = {NULL};
    for (int t = 0; t < TASKS; t++) names[t] = task_row(t)->name;
    char copy[256], *rest;
    snprintf(copy, sizeof copy, "%s", text);
    *tasks = 0;
    for (char *word = strtok_r(copy, ", ", &rest); word; word = strtok_r(NULL, ", ", &rest)) {
        int task = setup_choose(j, "needle.task", word, names);
        if (task < 0) return false;
        *tasks |= 1u << task;
    }
    if (!*tasks) say_error(j, "needle.task \"%s\" names no task", text);
    return *tasks != 0;
}

static bool read_wish(const job *j, setup *s)
{
    static const char *const modes[] = {"shared", "classic", NULL};
    static const char *const depth_modes[] = {"stratified", "jittered", "linear", "border",
                                              NULL};
    const Banyan__Needle *n = j->config->needle;
    needle_wish *w = &s->wish;
    s->length[0] = 4096;
    s->length[1] = 16384;
    w->lengths = n && n->n_length ? (int32_t)n->n_length : 2;
    w->length = n && n->n_length ? n->length : s->length;
    w->depths = n && n->has_depths ? n->depths : 10;
    w->trials = n && n->has_trials ? n->trials : 1;
    w->seed = n && n->has_seed ? n->seed : 1;
    s->results = n ? n->results : NULL;
    const char *every = job_text(j, "every");
    w->checkpoint = job_text(j, "checkpoint");
    if (w->checkpoint && !s->results) {
        say_error(j, "--checkpoint %s: expected --results FILE too, which says what is done",
                  w->checkpoint);
        return false;
    }
    w->every = 65536;
    if (every && (!w->checkpoint || !number_read(every, 1, INT64_MAX / 4, &w->every))) {
        say_error(j, "--every \"%s\": expected a number of tokens, with --checkpoint DIR",
                  every);
        return false;
    }
    int mode = setup_choose(j, "needle.mode", n && n->mode ? n->mode : "shared", modes);
    if (mode < 0) return false;
    int depth = setup_choose(j, "needle.depth_mode",
                             n && n->depth_mode ? n->depth_mode : "stratified", depth_modes);
    if (depth < 0) return false;
    w->classic = mode == 1;
    w->mode = (depth_mode)depth;
    if (!read_tasks(j, n && n->task ? n->task : "single,absent", &w->tasks)) return false;
    if (w->depths < 1 || w->depths > 10000 || w->trials < 1) {
        say_error(j,
                  "needle.depths %d and needle.trials %d: expected 1 or more, and at most "
                  "10000 depths",
                  w->depths, w->trials);
        return false;
    }
    for (int32_t i = 0; i < w->lengths; i++)
        if (w->length[i] < 64 || w->length[i] > (int64_t)1 << 40) {
            say_error(j, "needle.length %lld: expected 64 or more tokens",
                      (long long)w->length[i]);
            return false;
        }
    return true;
}

static int64_t longest_asked(const needle_wish *w)
{
    int64_t most = 0;
    for (int32_t i = 0; i < w->lengths; i++)
        if (w->length[i] > most) most = w->length[i];
    return most;
}

/* ---- the checkpoint --------------------- */

static constructed_spec wanted_model(const job *j, const needle_wish *w)
{
    const Banyan__Constructed *c = j->config->constructed;
    constructed_spec spec = {
        .max_tokens = 1048576, .heads = 8, .kv_heads = 2, .dtype = BANYAN_BF16, .shards = 1};
    while (spec.max_tokens < longest_asked(w)) spec.max_tokens *= 2;
    if (c && c->has_max_tokens) spec.max_tokens = c->max_tokens;
    if (c && c->has_heads) spec.heads = c->heads;
    if (c && c->has_kv_heads) spec.kv_heads = c->kv_heads;
    if (c && c->has_shards) spec.shards = c->shards;
    spec.layers = c && c->has_layers ? c->layers : 2;
    spec.retrieval = c && c->has_retrieval ? c->retrieval : spec.layers - 1;
    if (c && c->has_dtype)
        spec.dtype = c->dtype == BANYAN__CONSTRUCTED__DTYPE__FP32   ? BANYAN_F32
                     : c->dtype == BANYAN__CONSTRUCTED__DTYPE__FP16 ? BANYAN_F16
                                                                    : BANYAN_BF16;
    return spec;
}

static bool is_same_constructed(const char *dir, const constructed_spec *want)
{
    constructed_spec have;
    char why[NEEDLE_WHY];
    return constructed_recognise(dir, &have, why, sizeof why) > 0 &&
           have.max_tokens == want->max_tokens && have.heads == want->heads &&
           have.kv_heads == want->kv_heads && have.dtype == want->dtype &&
           have.layers == want->layers && have.retrieval == want->retrieval;
}

/* Write it unless it is there. An exit code. */
static int write_missing(const char *dir, const constructed_spec *want, char *why,
                         size_t why_bytes)
{
    constructed_spec other;
    struct stat about;
    char path[4200];
    snprintf(path, sizeof path, "%s/config.json", dir);
    if (is_same_constructed(dir, want)) return EXIT_OK;
    if (constructed_recognise(dir, &other, why, why_bytes) <= 0 && stat(path, &about) == 0) {
        snprintf(why, why_bytes, "%.400s holds another checkpoint; name another --model-dir",
                 dir);
        return EXIT_USAGE;
    }
    banyan_status status = constructed_write(dir, want, why, why_bytes);
    return !status ? EXIT_OK : status == BANYAN_ERR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

/* On rank 0. Jobs that start together want the same one: one writes it, the others wait. */
static int provide(const job *j, const char *dir, const constructed_spec *want, char *why,
                   size_t why_bytes)
{
    enum { SECONDS = 600 };
    path_lock *lock = path_lock_take(dir, SECONDS, why, why_bytes);
    if (!lock && errno != EWOULDBLOCK && is_same_constructed(dir, want))
        return EXIT_OK; /* read only */
    if (!lock) return EXIT_FAILED;
    progress(j, "writing the constructed model to %s", dir);
    int code = write_missing(dir, want, why, why_bytes);
    path_lock_release(lock);
    return code;
}

int setup_model(const job *j, setup *s)
{
    const Banyan__Needle *n = j->config->needle;
    constructed_spec want = wanted_model(j, &s->wish);
    char why[NEEDLE_WHY] = "";
    int32_t code = EXIT_OK;
    if (n && n->model) {
        snprintf(s->dir, sizeof s->dir, "%s", n->model);
    } else {
        const char *given = job_text(j, "model-dir"), *results = s->results ? s->results : "";
        const char *slash = strrchr(results, '/');
        if (given)
            snprintf(s->dir, sizeof s->dir, "%s", given);
        else
            snprintf(s->dir, sizeof s->dir, "%.*sconstructed_h%d_g%d_%lld_%s",
                     slash ? (int)(slash - results) + 1 : 0, results, want.heads, want.kv_heads,
                     (long long)want.max_tokens, banyan_dtype_name(want.dtype));
        if (!given && want.layers != 2) {
            const size_t used = strlen(s->dir);
            snprintf(s->dir + used, sizeof s->dir - used, "_l%d_r%d", want.layers,
                     want.retrieval);
        }
        if (j->rank == 0) code = provide(j, s->dir, &want, why, sizeof why);
        progress_end(j);
        if (code) say_error(j, "%s", why);
        banyan_status status = banyan_comm_broadcast(j->comm, &code, sizeof code, 0);
        if (status) return job_failed(j, status, "writing the constructed model");
        if (code) return code;
    }
    s->e.dir = s->dir;
    banyan_status status = model_shape_read(s->dir, &s->e.shape, why, sizeof why);
    if (!status && j->rank == 0) status = model_digest(s->dir, &s->digest, why, sizeof why);
    status = agree_words(j->comm, status, why, sizeof why); /* each rank reads its own disk */
    if (!status) return EXIT_OK;
    say_error(j, "%s", why);
    return status == BANYAN_ERR_COMM ? EXIT_FAILED : EXIT_USAGE;
}

static bool read_foreign(const job *j, setup *s)
{
    needle_wish *w = &s->wish;
    if (!given_read(j, s->dir, s->e.shape.vocab, &s->foreign)) return false;
    if (!w->mixed && w->tasks & ~(unsigned)(TASK_SINGLE | TASK_ABSENT)) {
        say_error(j, "task: a checkpoint of your own can only be asked for \"single\"");
        return false;
    }
    w->tasks = TASK_SINGLE;
    w->trials *= s->foreign.facts;
    w->foreign = &s->foreign;
    const int64_t made_for = s->e.shape.max_positions;
    if (made_for > 0 && longest_asked(w) > made_for)
        say_warning(j,
                    "%lld tokens, and the model was made for %lld (max_position_embeddings and "
                    "its scaling)",
                    (long long)longest_asked(w), (long long)made_for);
    return true;
}

static bool check_kind(const job *j, setup *s)
{
    static const char *const kinds[] = {"uniform", "needles", NULL};
    const Banyan__Needle *n = j->config->needle;
    s->e.layer = s->e.shape.layers - 1;
    char why[NEEDLE_WHY];
    const int known = constructed_recognise(s->dir, &s->e.constructed, why, sizeof why);
    if (known < 0) return say_error(j, "%s", why), false;
    if (!known) return read_foreign(j, s);
    s->e.layer = s->e.constructed.retrieval;
    if (!s->wish.mixed && s->e.layer < s->e.shape.layers - 1) {
        say_error(j,
                  "the model in %s finds needles in layer %d of %d; expected the last layer "
                  "(banyan compare takes this one)",
                  s->dir, (int)s->e.layer, (int)s->e.shape.layers);
        return false;
    }
    int kind =
        setup_choose(j, "needle.haystack", n && n->haystack ? n->haystack : "uniform", kinds);
    if (kind < 0) return false;
    s->wish.needles = kind == 1;
    if (longest_asked(&s->wish) <= s->e.constructed.max_tokens) return true;
    say_error(
        j,
        "needle.length %lld: the constructed model in %s is exact to %lld tokens; write a "
        "longer one with --set constructed.max_tokens=%lld",
        (long long)longest_asked(&s->wish), s->dir, (long long)s->e.constructed.max_tokens,
        (long long)longest_asked(&s->wish));
    return false;
}

/* ---- the spec --------------------- */

/* Rules of one layer, or with | between them of so many: those of `layer` on. */
static bool add_line(const job *j, setup *s, const char *flag_name, int32_t layer,
                     const char *otherwise, char **text)
{
    const char *given = job_text(j, flag_name);
    char why[NEEDLE_WHY], *rest;
    int32_t room = (int32_t)j->config->n_rule + 2 * EXTRA_RULES;
    if (!given) given = otherwise;
    if (!given) return true;
    if (s->wish.foreign) {
        say_error(j,
                  "--%s is for the constructed model; give this checkpoint rules in a config",
                  flag_name);
        return false;
    }
    *text = rest = strdup(given);
    if (!*text) return say_error(j, "out of memory"), false;
    for (char *one; (one = strsep(&rest, "|")); layer++) {
        if (rules_append(s->rules, &s->e.spec.rule_count, room, layer, one, why, sizeof why))
            continue;
        say_error(j, "--%s: %s", flag_name, why);
        return false;
    }
    return true;
}

/* "dense | s2 stride=8": patterns of the last layer that are compared on one prefill. */
static bool name_patterns(const job *j, setup *s)
{
    const char *given = job_text(j, "retrieval");
    char *rest = s->patterns = strdup(given ? given : "");
    needle_wish *w = &s->wish;
    if (!rest) return say_error(j, "out of memory"), false;
    for (char *one; (one = strsep(&rest, "|")) && w->patterns < MOST_PATTERNS;) {
        one += strspn(one, " ");
        for (size_t n = strlen(one); n > 0 && one[n - 1] == ' ';) one[--n] = 0;
        s->pattern[w->patterns++] = one;
    }
    w->pattern = s->pattern;
    const char *why = rest ? "expected at most 16 patterns" : NULL;
    if (w->patterns > 1 && w->tasks & (TASK_GRADED | TASK_UNIFORM))
        why = "several patterns are for the tasks single, multikey and absent";
    if (w->patterns > 1 && s->e.spec.lost_rank >= 0) why = "several patterns, and a lost rank";
    if (why) say_error(j, "--retrieval \"%s\": %s", given, why);
    return !why;
}

static bool make_spec(const job *j, setup *s)
{
    char why[NEEDLE_WHY];
    if (spec_from_config(j->config, &s->config, why, sizeof why) != BANYAN_OK) {
        say_error(j, "%s", why);
        return false;
    }
    const Banyan__Cache *cache = j->config->cache;
    const Banyan__Execution *x = j->config->execution;
    banyan_spec *spec = &s->e.spec;
    *spec = s->config.spec;
    s->rules = calloc(j->config->n_rule + 2 * EXTRA_RULES, sizeof *s->rules);
    if (!s->rules) return say_error(j, "out of memory"), false;
    bool defaults = !s->wish.foreign && (!j->config->n_rule || job_text(j, "pattern"));
    int32_t last = s->e.shape.layers - 1;
    memcpy(s->rules, s->config.rules, j->config->n_rule * sizeof *s->rules);
    if (!name_patterns(j, s) ||
        !add_line(j, s, "context", 0, defaults ? "sink_window sink=1 window=3" : NULL,
                  &s->context) ||
        !add_line(j, s, "retrieval", last, NULL, &s->retrieval))
        return false;
    spec->rules = s->rules;
    for (int32_t i = 0; i < spec->rule_count; i++)
        s->e.further += s->rules[i].first_layer > last && s->wish.patterns > 1;
    for (int32_t p = 0; p < s->wish.patterns; p++) {
        int32_t period = grid_period(s->rules, spec->rule_count, last + p, p ? 1 : 16);
        if (period > s->wish.period) s->wish.period = period;
    }
    if (!cache || !cache->has_max_rows) spec->max_rows = 2048;
    int64_t back = NEEDLE_QUESTION + NEEDLE_ANSWERS;
    for (int32_t i = 0; i < s->foreign.facts; i++)
        if (back < s->foreign.fact[i].answer.count) back = s->foreign.fact[i].answer.count;
    if (spec->max_rows < back) spec->max_rows = (int32_t)back;
    bool named = x && x->has_lost_layer;
    if (spec->lost_rank >= 0 && !named && !s->wish.foreign) spec->lost_layer = last;
    if (spec->lost_rank >= j->ranks) {
        say_error(j, "execution.lost_rank %d: this job has %d ranks", spec->lost_rank,
                  j->ranks);
        return false;
    }
    return true;
}

int setup_wish(const job *j, setup *s)
{
    return read_wish(j, s) ? EXIT_OK : EXIT_USAGE;
}

int setup_read(const job *j, setup *s)
{
    return job_all_good(j, check_kind(j, s) && make_spec(j, s)) ? EXIT_OK : EXIT_USAGE;
}

void setup_free(setup *s)
{
    foreign_free(&s->foreign);
    spec_free(&s->config);
    free(s->rules);
    free(s->context);
    free(s->retrieval);
    free(s->patterns);
}
