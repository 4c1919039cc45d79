/* SPDX-License-Identifier: Apache-2.0 */
/* `banyan heads`: what each head of a model is for, and pattern files made of it. */
#include "launch/heads/heads.h"

#include <math.h>
#include <stdlib.h>

static const flag flags[] = {
    {"model", "DIR", "needle.model", "checkpoint; default: the constructed model"},
    {"model-dir", "DIR", NULL, "where the constructed model is written; default: here"},
    {"tokens", "N", "needle.length", "length of a needle's prompt, default 2k"},
    {"depths", "N", "needle.depths", "depths of each needle, default 10"},
    {"seed", "N", "needle.seed", "of keys, places, words and random tokens"},
    {"repeat", "N", NULL, "random tokens, each of which comes 4 times, default 500; 0: none"},
    {"top", "N", NULL, "heads that the table shows, default 20"},
    {"haystack", "FILE", "needle.haystack", "of a checkpoint of your own: a file of text"},
#include "launch/needle/text_flags.def"
    {"duo", "OUTPUT", NULL,
     "retrieval scores of KV heads as DuoAttention's full_attention_heads.tsv;\n"
     "                         --pattern reads it, and --sparsity says how many are not dense"},
    {"scores", "OUTPUT", NULL, "retrieval scores of query heads, as Retrieval_Head's JSON"},
    {"razor", "OUTPUT", NULL,
     "RazorAttention's lists: 14 % of the KV heads by induction, 1 % by echo"},
    {"svg", "OUTPUT", NULL, "picture: layers x heads"},
    {NULL, NULL, NULL, NULL}};

static bool read_heads_count(const job *j, const char *name, int64_t low, int64_t high,
                             int64_t *out)
{
    const char *text = job_text(j, name);
    if (!text || number_read(text, low, (uint64_t)high, out)) return true;
    say_error(j, "--%s \"%s\": expected %lld..%lld", name, text, (long long)low,
              (long long)high);
    return false;
}

static int check_heads_wish(const job *j, setup *s, int64_t *repeat, int64_t *top)
{
    const Banyan__Needle *n = j->config->needle;
    *repeat = 500;
    *top = 20;
    if (n && n->n_length > 1) {
        say_error(j, "--tokens: %d lengths; expected one", (int)n->n_length);
        return EXIT_USAGE;
    }
    if (!n || !n->n_length) s->length[0] = 2048;
    s->wish.lengths = 1;
    s->wish.tasks = TASK_SINGLE;
    const bool good = read_heads_count(j, "repeat", 0, 1 << 20, repeat) &&
                      read_heads_count(j, "top", 0, 1 << 20, top);
    return good ? EXIT_OK : EXIT_USAGE;
}

/* The most tokens that an answer has. */
static int32_t most_answers(const setup *s)
{
    int64_t most = s->wish.foreign ? 1 : NEEDLE_ANSWERS;
    for (int32_t i = 0; i < s->foreign.facts; i++)
        if (s->foreign.fact[i].answer.count > most) most = s->foreign.fact[i].answer.count;
    return (int32_t)most;
}

/* All needles, then the random tokens. */
static int measure_heads(setup *s, int64_t repeat, heads_scores *scores)
{
    evaluation *e = &s->e;
    const int64_t length = s->wish.length[0];
    int code = evaluation_reset(e, length, e->spec.cache_dtype);
    if (!code) code = evaluation_agree(e, heads_make(e->m, most_answers(s), scores), "scores");
    const observer o = heads_observer(scores);
    e->observer = &o;
    for (int32_t trial = 0; !code && trial < (s->wish.foreign ? 1 : s->wish.trials); trial++)
        code = s->wish.foreign
                   ? evaluate_texts(e, length)
                   : evaluate_prompt(e, "single", length, trial, 0, s->wish.depths, false);
    e->observer = NULL;
    if (!code)
        code = evaluation_agree(e, scores->failed ? BANYAN_ERR_MEMORY : BANYAN_OK, "scores");
    if (!code && repeat) code = heads_repeat(e, (int32_t)repeat, scores);
    progress_end(e->j);
    heads_settle(scores);
    return code;
}

/* ---- what comes of it --------------------- */

static void write_razor(const heads_scores *s, FILE *out)
{
    heads_razor(s, 0.14, 0.01, out);
}

static int write_files(const job *j, const heads_scores *s)
{
    static const struct {
        const char *flag;
        void (*write)(const heads_scores *s, FILE *out);
    } files[] = {{"json", heads_json},
                 {"duo", heads_duo},
                 {"scores", heads_retrieval},
                 {"razor", write_razor}};
    int code = EXIT_OK;
    for (size_t i = 0; !code && i < sizeof files / sizeof *files; i++) {
        const char *path = job_text(j, files[i].flag);
        output_file *f = path ? output_open(j, path) : NULL;
        if (!f && path) return EXIT_FAILED;
        if (f && j->rank == 0) files[i].write(s, output_stream(f));
        if (f) code = output_close(f, j, true);
    }
    return code;
}

static plot_result draw_heads(const void *scores, FILE *out)
{
    return heads_svg(scores, out);
}

static int report_heads(const job *j, const heads_scores *s, int64_t top)
{
    if (j->rank == 0) heads_print(s, (int32_t)top, stdout);
    if (!s->needles)
        say_warning(j, "no needle of %d was answered: there are no retrieval scores",
                    (int)s->asked);
    int code = write_files(j, s);
    return code ? code : plot_write(j, job_text(j, "svg"), draw_heads, s);
}

static int heads_run(job *j)
{
    setup *s = calloc(1, sizeof *s);
    heads_scores scores = {0};
    int64_t repeat, top;
    char why[NEEDLE_WHY];
    if (!s) say_error(j, "out of memory");
    if (!job_all_good(j, s != NULL)) {
        free(s);
        return EXIT_FAILED;
    }
    s->e.j = j;
    s->e.wish = &s->wish;
    int code = setup_wish(j, s);
    if (!code) code = check_heads_wish(j, s, &repeat, &top);
    if (!code) code = setup_model(j, s);
    if (!code) code = setup_read(j, s);
    if (!code && j->rank == 0) {
        s->e.results = results_open(NULL, why, sizeof why);
        if (!s->e.results) say_error(j, "%s", why);
    }
    if (!code && !job_all_good(j, j->rank > 0 || s->e.results)) code = EXIT_FAILED;
    if (!code) code = measure_heads(s, repeat, &scores);
    if (!code) code = report_heads(j, &scores, top);
    heads_free(&scores);
    if (s->e.m) model_close(s->e.m);
    results_close(s->e.results);
    setup_free(s);
    free(s);
    return code;
}

const verb verb_heads = {
    .name = "heads",
    .doc =
        "What each head of a model is for, by what it looks at: which heads copy an answer out "
        "of a\n"
        "needle, and which ones go by repetition. Written as the pattern files that --pattern "
        "reads.",
    .flags = flags,
    .needs_comm = 1,
    .run = heads_run};
