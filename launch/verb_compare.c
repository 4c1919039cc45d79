/* SPDX-License-Identifier: Apache-2.0 */
/* `banyan compare`: head patterns side by side, of the constructed model or of a checkpoint.
 * Exit code 1 when a cell is not what the pattern's own definition predicts. */
#include "launch/compare/compare.h"

#include "launch/command.h"
#include "launch/pattern/pattern.h"

#include <stdlib.h>
#include <string.h>

static const flag flags[] = {
    {"use", "RULE", NULL,
     "a pattern, \"s2 stride=8\" or \"0-3: dense; 4-: sink_window sink=4t window=512t\";\n"
     "                         may be repeated. Without any: those of the systems that are "
     "known"},
    PATTERN_FLAGS,
    {"tokens", "N", "needle.length", "context length, default 8k"},
    {"depths", "N", "needle.depths", "needles of each task, default 10"},
    {"seed", "N", "needle.seed", "of keys, places and words"},
    {"model", "DIR", "needle.model", "checkpoint; default: the constructed model, of 6 layers"},
    {"model-dir", "DIR", NULL, "where the constructed model is written; default: here"},
    {"heads", "N", "constructed.heads", "query heads of the constructed model"},
    {"kv-heads", "N", "constructed.kv_heads", "its key/value heads, default 4"},
    {"context", "RULE", NULL,
     "what its layer 0 reads, which copies the tokens before each; default\n"
     "                         \"sink_window sink=1 window=3\""},
    {"haystack", "FILE", "needle.haystack", "of a checkpoint of your own: a file of text"},
#include "launch/needle/text_flags.def"
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"svg", "OUTPUT", NULL, "picture: what each keeps, reads and finds"},
    {NULL, NULL, NULL, NULL}};

/* What a comparison has where nothing else is said. */
static bool set_defaults(const job *j)
{
    static const struct {
        const char *field, *value;
    } defaults[] = {{"constructed.layers", "6"},
                    {"constructed.retrieval", "2"},
                    {"constructed.kv_heads", "4"}};
    char why[512];
    const Banyan__Constructed *c = j->config->constructed;
    const bool given[] = {c && c->has_layers, c && c->has_retrieval, c && c->has_kv_heads};
    for (int i = 0; i < 3; i++)
        if (!given[i] &&
            !config_set(j->config, defaults[i].field, defaults[i].value, why, sizeof why))
            return say_error(j, "%s", why), false;
    return true;
}

static int check_comparison(const job *j, comparison *c)
{
    needle_wish *w = &c->s->wish;
    if (j->config->n_rule) {
        say_error(j, "compare: the config has rules; expected patterns by --use and --pattern");
        return EXIT_USAGE;
    }
    if (w->lengths > 1 && j->config->needle && j->config->needle->n_length > 1) {
        say_error(j, "--tokens: %d lengths; expected one", (int)w->lengths);
        return EXIT_USAGE;
    }
    if (!j->config->needle || !j->config->needle->n_length) c->s->length[0] = 8192;
    w->lengths = 1;
    c->length = w->length[0];
    w->tasks = TASK_SINGLE | TASK_MULTIKEY | TASK_ABSENT;
    w->mixed = true;
    return EXIT_OK;
}

static plot_result draw_comparison(const void *c, FILE *out)
{
    return compare_svg(c, out);
}

static int compare_write_json(comparison *c)
{
    const char *path = job_text(c->j, "json");
    output_file *f = path ? output_open(c->j, path) : NULL;
    if (!f) return path ? EXIT_FAILED : EXIT_OK;
    if (c->j->rank == 0) compare_json(c, output_stream(f));
    return output_close(f, c->j, true);
}

static int report_comparison(comparison *c)
{
    int32_t unequal = 0;
    if (c->j->rank == 0) {
        compare_print(c, stdout);
        unequal = compare_unequal(c) > 0;
        if (unequal)
            say_error(c->j, "%lld cells are not as predicted", (long long)compare_unequal(c));
    }
    int code = compare_write_json(c);
    if (!code) code = plot_write(c->j, job_text(c->j, "svg"), draw_comparison, c);
    banyan_status status = banyan_comm_broadcast(c->j->comm, &unequal, sizeof unequal, 0);
    if (status) return job_failed(c->j, status, "results");
    return code ? code : unequal ? EXIT_MISMATCH : EXIT_OK;
}

static int compare_run(job *j)
{
    comparison *c = calloc(1, sizeof *c);
    setup *s = calloc(1, sizeof *s);
    int code = EXIT_FAILED;
    if (!c || !s) say_error(j, "out of memory");
    if (!job_all_good(j, c && s)) goto done;
    *c = (comparison){.j = j, .s = s};
    s->e.j = j;
    s->e.wish = &s->wish;
    code = set_defaults(j) ? setup_wish(j, s) : EXIT_USAGE;
    if (!code) code = check_comparison(j, c);
    if (!code) code = setup_model(j, s);
    if (!code) code = setup_read(j, s);
    if (!code && !s->wish.foreign) s->wish.depths *= 2; /* every second one is of multikey */
    if (!code) code = compare_choose(c);
    if (!code) code = compare_measure(c);
    if (!code) code = report_comparison(c);
done:
    if (c) compare_free(c);
    if (s) setup_free(s);
    free(c);
    free(s);
    return code;
}

const verb verb_compare = {
    .name = "compare",
    .doc = "Head patterns side by side, on one model and the same texts: what each keeps and "
           "reads, how long\n"
           "it takes, which needles it finds, how far its attention is from the whole one's. "
           "The caches of\n"
           "all patterns are there at the same time, and tokens are decoded by all in turn.",
    .flags = flags,
    .needs_comm = 1,
    .run = compare_run};
