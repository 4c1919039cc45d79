/* SPDX-License-Identifier: Apache-2.0 */
/* `banyan needle`: finds needles in haystacks at lengths x depths, and compares what each head
 * saw with what the plan says it can see. Exit code 1 when any cell differs. */
#include "launch/launch.h"
#include "launch/needle/setup.h"
#include "launch/pattern/pattern.h"

#include <stdlib.h>
#include <string.h>

#define BANYAN_TASK(name, token, kind, doc) #name ", "
static const flag flags[] = {
    {"model", "DIR", "needle.model", "checkpoint; default: the constructed model"},
    {"model-dir", "DIR", NULL,
     "where the constructed model is written; default: by the results, or here"},
    {"lengths", "N,N,..", "needle.length", "context lengths in tokens, 64k,1m"},
    {"depths", "N", "needle.depths", "needles per length"},
    {"depth-mode", "MODE", "needle.depth_mode", "stratified, jittered, linear or border"},
    {"mode", "MODE", "needle.mode", "shared: one prefill for all depths; classic: one each"},
    {"task", "TASK,..", "needle.task",
#include "launch/needle/tasks.def"
     "or several"},
    {"haystack", "KIND", "needle.haystack",
     "uniform, needles, or for a checkpoint of your own a file of text"},
#include "launch/needle/text_flags.def"
    {"trials", "N", "needle.trials", "repetitions with other keys and places"},
    {"seed", "N", "needle.seed", "of keys, places and words"},
    {"retrieval", "RULE", NULL,
     "what the last layer reads: \"0-1: dense; 2-: s2 stride=8\"; with | between them\n"
     "                         several patterns, compared on one prefill"},
    {"context", "RULE", NULL, "what layer 0 reads; default \"sink_window sink=1 window=3\""},
    PATTERN_FLAGS,
    {"heads", "N", "constructed.heads", "query heads of the constructed model"},
    {"kv-heads", "N", "constructed.kv_heads", "its key/value heads"},
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"strict", NULL, "execution.strict", "refuse patterns that leave context unseen"},
    {"lost-rank", "RANK", "execution.lost_rank", "leave this rank's blocks out, on purpose"},
    {"checkpoint", "DIR", NULL,
     "a snapshot of the haystack as it is read; a job that was ended goes on from it and\n"
     "                         from its --results, on any number of ranks"},
    {"every", "N", NULL, "tokens from one snapshot to the next, default 64k"},
    {"results", "FILE", "needle.results",
     "JSON lines, a cell each, that a second run resumes; default: none is written"},
    {"csv", "OUTPUT", "needle.csv", "the same as a table"},
    {"svg", "OUTPUT", "needle.svg", "heat map"},
    {"colour", "WHEN", NULL, "auto, always or never"},
    {NULL, NULL, NULL, NULL}};
#undef BANYAN_TASK

/* ---- results --------------------- */

static uint64_t hash_ids(uint64_t h, const id_list *list)
{
    for (int64_t i = 0; i < list->count; i++) h = (h ^ list->ids[i]) * 0x100000001b3u;
    return (h ^ (uint64_t)list->count) * 0x100000001b3u;
}

/* What must be equal for old and new cells to stand in one file. A checkpoint is known by its
 * digest, not by its folder, whose contents may change. Ranks are 0, any number, where they may
 * change in between. */
static json_t *make_header(const job *j, const setup *s)
{
    static const char *const depth_modes[] = {"stratified", "jittered", "linear", "border"};
    const evaluation *e = &s->e;
    char model[128], digest[32];
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)s->digest);
    snprintf(model, sizeof model, "constructed for %lld tokens",
             (long long)e->constructed.max_tokens);
    if (s->wish.foreign) {
        uint64_t h = hash_ids(hash_ids(0, &s->foreign.haystack), &s->foreign.prefix);
        for (int32_t i = 0; i < s->foreign.facts; i++) {
            const foreign_fact *fact = &s->foreign.fact[i];
            h = hash_ids(hash_ids(hash_ids(h, &fact->needle), &fact->question), &fact->answer);
        }
        snprintf(model, sizeof model, "given, ids %016llx", (unsigned long long)h);
    }
    json_t *rules = json_array();
    for (int32_t i = 0; i < e->spec.rule_count; i++) {
        const banyan_rule *r = &e->spec.rules[i];
        char text[512];
        snprintf(text, sizeof text, "layers %d..%d heads %d..%d: %s", r->first_layer,
                 r->last_layer, r->first_head, r->last_head, r->use);
        json_array_append_new(rules, json_text(text));
    }
    json_t *bandwidth = json_array();
    for (int r = 0; e->spec.bandwidth && r < j->ranks; r++)
        json_array_append_new(bandwidth, json_real(e->spec.bandwidth[r]));
    const char *merge = e->spec.merge ? e->spec.merge : "cheapest";
    return json_pack(
        "{s:s, s:s, s:o, s:i, s:i, s:i, s:o, s:o, s:s, s:s, s:s, s:s, s:i, s:b, s:i, s:i, s:i, "
        "s:s, s:s, s:s, s:I}",
        "model", model, "digest", digest, "folder", json_text(s->dir), "heads", e->shape.heads,
        "kv_heads", e->shape.kv_heads, "ranks", s->wish.checkpoint ? 0 : j->ranks, "rules",
        rules, "bandwidth", bandwidth, "placement", e->spec.placement, "balance",
        e->spec.balance == BANYAN_BALANCE_PREFILL ? "prefill" : "decode", "merge", merge,
        "cache_dtype", banyan_dtype_name(e->spec.cache_dtype), "block_tokens",
        e->spec.block_tokens, "evict", e->spec.evict, "lost_rank", e->spec.lost_rank,
        "lost_layer", e->spec.lost_layer, "depths", s->wish.depths, "depth_mode",
        depth_modes[s->wish.mode], "mode", s->wish.classic ? "classic" : "shared", "haystack",
        s->wish.foreign   ? "file"
        : s->wish.needles ? "needles"
                          : "uniform",
        "seed", (json_int_t)s->wish.seed);
}

/* Before anything is done: can they be written? */
static int open_results(const job *j, setup *s)
{
    char why[NEEDLE_WHY] = "";
    if (j->rank == 0) s->e.results = results_open(s->results, why, sizeof why);
    bool good = j->rank != 0 || s->e.results;
    banyan_status status =
        agree_words(j->comm, good ? BANYAN_OK : BANYAN_ERR_CONFIG, why, sizeof why);
    if (status) say_error(j, "%s", why);
    return !status ? EXIT_OK : status == BANYAN_ERR_CONFIG ? EXIT_USAGE : EXIT_FAILED;
}

static int begin_results(const job *j, setup *s)
{
    char why[NEEDLE_WHY] = "out of memory";
    banyan_status status = BANYAN_OK;
    if (j->rank == 0) {
        json_t *header = make_header(j, s);
        status =
            header ? results_begin(s->e.results, header, why, sizeof why) : BANYAN_ERR_MEMORY;
        json_decref(header);
        if (!status && results_cut(s->e.results))
            say_warning(j, "%s ended in an unfinished line; its cell is measured again",
                        s->results);
    }
    status = agree_words(j->comm, status, why, sizeof why);
    if (status) say_error(j, "%s", why);
    return !status ? EXIT_OK : status == BANYAN_ERR_COMM ? EXIT_FAILED : EXIT_USAGE;
}

static int write_text(const job *j, const setup *s, const char *path, bool csv)
{
    if (!path) return EXIT_OK;
    output_file *f = output_open(j, path);
    if (!f) return EXIT_FAILED;
    if (j->rank == 0) {
        json_t *all = results_all(s->e.results);
        if (csv)
            summary_csv(all, &s->wish, output_stream(f));
        else
            summary_json(all, &s->wish, s->e.shape.heads, output_stream(f));
    }
    return output_close(f, j, true);
}

/* The heat maps of all patterns beside each other; value, of and length: room for all
 * columns. */
static void fill_map(const setup *s, const char *task, double *value, double *depth,
                     const char **of, int64_t *length)
{
    const needle_wish *w = &s->wish;
    int32_t columns = w->lengths * w->patterns;
    double *one = value + (size_t)w->depths * (size_t)columns;
    needle_wish wish = *w;
    for (; wish.which < w->patterns; wish.which++) {
        summary_heat(results_all(s->e.results), task, &wish, one, depth);
        for (int32_t c = 0; c < w->lengths; c++) {
            int32_t column = wish.which * w->lengths + c;
            for (int32_t d = 0; d < w->depths; d++)
                value[d * columns + column] = one[d * w->lengths + c];
            of[column] = w->pattern[wish.which];
            length[column] = w->length[c];
        }
    }
}

/* On rank 0. A picture that cannot be drawn is a warning: the numbers are there. */
static bool draw_heat_map(const job *j, const setup *s, const char *path, FILE *out)
{
    const needle_wish *w = &s->wish;
    size_t columns = (size_t)w->lengths * (size_t)w->patterns, depths = (size_t)w->depths;
    double *value = malloc((2 * columns * depths + depths) * sizeof *value);
    const char **of = malloc(columns * sizeof *of);
    int64_t *length = malloc(columns * sizeof *length);
    const char *task = NULL; /* the first of which there is a map */
    for (int t = 0; t < TASKS && !task; t++)
        if (w->tasks >> t & 1 && task_row(t)->kind == TASK_MAPPED) task = task_row(t)->name;
    plot_result result = PLOT_FAILED;
    if (!task) {
        say_warning(j, "no heat map in %s: neither single nor multikey was asked", path);
    } else if (value && of && length) {
        char title[128];
        double *depth = value + 2 * columns * depths;
        fill_map(s, task, value, depth, of, length);
        snprintf(title, sizeof title, "needle, %s, %d ranks", task, j->ranks);
        heat_map h = {title, w->depths, (int32_t)columns,           value,
                      depth, length,    w->patterns > 1 ? of : NULL};
        result = heat_svg(&h, out);
    }
    if (result == PLOT_NO_GNUPLOT)
        say_warning(
            j, "gnuplot is not installed: no heat map in %s; --csv FILE has its numbers", path);
    else if (result == PLOT_FAILED && task)
        say_warning(j, "gnuplot could not draw the heat map %s", path);
    free(value);
    free(of);
    free(length);
    return result == PLOT_DRAWN;
}

static int write_svg(const job *j, const setup *s, const char *path)
{
    if (!path) return EXIT_OK;
    output_file *f = output_open(j, path);
    if (!f) return EXIT_FAILED;
    return output_close(f, j, j->rank != 0 || draw_heat_map(j, s, path, output_stream(f)));
}

static int finish(const job *j, setup *s)
{
    const Banyan__Needle *n = j->config->needle;
    const char *when = job_text(j, "colour");
    int32_t unequal = 0;
    if (j->rank == 0) {
        json_t *all = results_all(s->e.results);
        bool colour =
            when && strcmp(when, "auto") ? !strcmp(when, "always") : job_on_terminal(j, 1);
        summary_print(all, &s->wish, s->e.shape.heads, stdout, colour, job_switch(j, "wide"));
        unequal = summary_unequal(all, &s->wish) > 0;
        if (unequal)
            say_error(j, "%lld cells are not as predicted: see \"equal\" in %s",
                      (long long)summary_unequal(all, &s->wish),
                      s->results ? s->results : "what --results FILE writes");
    }
    int code = write_text(j, s, n ? n->csv : NULL, true);
    if (!code) code = write_text(j, s, job_text(j, "json"), false);
    if (!code) code = write_svg(j, s, n ? n->svg : NULL);
    banyan_status status = banyan_comm_broadcast(j->comm, &unequal, sizeof unequal, 0);
    if (status) return job_failed(j, status, "results");
    return code ? code : unequal ? EXIT_MISMATCH : EXIT_OK;
}

/* A file says what all layers read; of the constructed model the layer that copies its tokens
 * keeps its window, without which nothing is found. */
static int apply_needle_pattern(const job *j, const setup *s)
{
    const model_shape *is = &s->e.shape;
    if (!job_text(j, "pattern") || !job_text(j, "retrieval"))
        return pattern_apply(j, is->layers, is->heads, is->kv_heads);
    say_error(j, "--pattern and --retrieval: give one or the other");
    return EXIT_USAGE;
}

static int needle_run(job *j)
{
    static const char *const when[] = {"auto", "always", "never", NULL};
    setup *s = calloc(1, sizeof *s);
    int code = EXIT_USAGE;
    if (!s) say_error(j, "out of memory");
    if (!job_all_good(j, s != NULL)) return free(s), EXIT_USAGE;
    s->e.j = j;
    s->e.wish = &s->wish;
    const char *colour = job_text(j, "colour");
    if (colour && setup_choose(j, "--colour", colour, when) < 0) goto done;
    code = setup_wish(j, s);
    if (!code) code = open_results(j, s);
    if (!code) code = setup_model(j, s);
    if (!code) code = apply_needle_pattern(j, s);
    if (!code) code = setup_read(j, s);
    if (!code) code = begin_results(j, s);
    if (!code) code = evaluate_all(&s->e);
    if (!code) code = finish(j, s);
done:
    if (s->e.m) model_close(s->e.m);
    results_close(s->e.results);
    setup_free(s);
    free(s);
    return code;
}

const verb verb_needle = {
    .name = "needle",
    .doc =
        "Find needles in haystacks of many lengths, and compare what every head saw with what\n"
        "the plan says that it can see. Exit code 1: some cell is not as predicted.",
    .flags = flags,
    .needs_comm = 1,
    .run = needle_run};
