/* SPDX-License-Identifier: Apache-2.0 */
/* banyan scale: the same attention on more and more ranks of one job, by several methods,
 * beside the time that was predicted. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "launch/scale/scale.h"

#include "launch/columns.h"
#include "launch/data.h"
#include "launch/pattern/pattern.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TAKE(part, field, otherwise)                                                           \
    ((part) && (part)->has_##field ? (part)->field : (otherwise))

/* ---- what is asked ---- */

static int ask_mode(scale_task *t, const Banyan__Scale *asked)
{
    static const char *const modes[] = {"strong", "weak", "weak-work", "nodes", NULL};
    const char *mode = asked && asked->mode ? asked->mode : "strong";
    const char *phase = asked && asked->phase ? asked->phase : "decode";
    int found = 0;
    while (modes[found] && strcmp(modes[found], mode)) found++;
    if (!modes[found]) {
        const char *near = banyan_nearest(mode, modes);
        say_error(t->j, "scale.mode \"%s\": expected strong, weak, weak-work or nodes%s%s%s",
                  mode, near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
        return EXIT_USAGE;
    }
    t->mode = (scale_mode)found;
    t->prefill = !strcmp(phase, "prefill");
    if (!t->prefill && strcmp(phase, "decode")) {
        say_error(t->j, "scale.phase \"%s\": expected decode or prefill", phase);
        return EXIT_USAGE;
    }
    if (t->mode == SCALE_WEAK_WORK && !t->prefill) {
        say_error(t->j, "mode weak-work keeps tokens^2 per rank, which is a prefill's work; "
                        "expected phase prefill, or mode weak");
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

static int ask_scale(scale_task *t)
{
    const Banyan__Scale *asked = t->j->config->scale;
    int code = ask_mode(t, asked);
    if (code) return code;
    t->steps = TAKE(asked, steps, t->prefill ? 3 : 31);
    t->warmup = TAKE(asked, warmup, t->prefill ? 1 : 5);
    t->seconds = TAKE(asked, seconds, 20);
    t->samples = TAKE(asked, samples, 4);
    t->seed = TAKE(asked, seed, 1);
    if (t->steps < 1 || t->steps > 1 << 20 || t->warmup < 1 || t->warmup > 1 << 20 ||
        t->samples < 0 || t->samples > 1 << 20 || !(t->seconds > 0)) {
        say_error(
            t->j,
            "scale: steps %d, warmup %d, samples %d, seconds %g: expected 1 step and 1 to "
            "warm up or more, samples 0 or more, at most %d of each, seconds above 0",
            t->steps, t->warmup, t->samples, t->seconds, 1 << 20);
        return EXIT_USAGE;
    }
    banyan_spec *s = &t->asked.spec;
    if (spec_value_in_key(s)) {
        say_error(t->j, "shape.value_in_key: expected with plan and run only; rings and Tree "
                        "Attention send values of their own");
        return EXIT_USAGE;
    }
    if (!s->heads && !s->key_dim) { /* the attention of Llama-3-8B */
        s->heads = 32;
        s->kv_heads = 8;
        s->key_dim = 128;
    }
    if (s->heads < 1 || s->key_dim < 1 || (s->kv_heads && s->heads % s->kv_heads)) {
        say_error(t->j,
                  "shape: heads %d, kv_heads %d, key_dim %d: expected numbers of 1 or more, "
                  "and kv_heads that divide heads",
                  s->heads, s->kv_heads, s->key_dim);
        return EXIT_USAGE;
    }
    if (!s->kv_heads) s->kv_heads = s->heads;
    if (!s->value_dim) s->value_dim = s->key_dim;
    return EXIT_OK;
}

/* ---- the job's ranks ---- */

/* The same number of threads on all ranks of all cases: as many as there is room for when all
 * work. */
static banyan_status find_ranks(scale_task *t)
{
    const job *j = t->j;
    cpu_set_t own;
    scale_rank mine = {.machine = hosts_number(),
                       .cores = (int32_t)sysconf(_SC_NPROCESSORS_ONLN),
                       .node = banyan_comm_node(j->comm, j->rank)};
    t->all = calloc((size_t)j->ranks, sizeof *t->all);
    banyan_status status = banyan_comm_agree(j->comm, t->all ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status) status = banyan_comm_allgather(j->comm, &mine, sizeof mine, t->all);
    if (status || t->asked.spec.threads > 0) return status;
    int32_t here = 0;
    for (int r = 0; r < j->ranks; r++) here += t->all[r].machine == mine.machine;
    int32_t threads = mine.cores / here;
    if (!sched_getaffinity(0, sizeof own, &own) && CPU_COUNT(&own) < threads)
        threads = CPU_COUNT(&own);
    double fewest = -(threads > 1 ? threads : 1);
    status = banyan_comm_allreduce(j->comm, &fewest, 1, BANYAN_MAX);
    t->asked.spec.threads = (int32_t)-fewest;
    return status;
}

static int find_scale_machine(scale_task *t)
{
    const job *j = t->j;
    const char *path = job_text(j, "machine");
    double there = path && j->rank == 0 && access(path, F_OK) == 0;
    int code = EXIT_OK;
    if (banyan_comm_allreduce(j->comm, &there, 1, BANYAN_MAX)) return EXIT_FAILED;
    if (there > 0 && !job_switch(j, "measure")) {
        code = machine_read(j, path);
    } else if (!j->config->machine || path || job_switch(j, "measure")) {
        code = machine_measure(j, &t->asked.spec, t->asked.spec.threads, &t->measuring);
        if (!code && path) code = machine_write(j, path);
    }
    if (code) return code;
    t->machine = j->config->machine;
    banyan_status status = banyan_comm_agree(j->comm, machine_links(t->machine, j->comm));
    return status ? job_failed(j, status, "machine") : EXIT_OK;
}

/* ---- the cases ---- */

/* A case that needs more memory than there is is a line that says so; all else ends the job. */
static banyan_status measure_one(const scale_task *t, scale_line *line)
{
    const job *j = t->j;
    const bool part = scale_takes_part(t, line, j->rank);
    banyan_comm *comm = NULL;
    bool *waits = calloc((size_t)j->ranks, sizeof *waits);
    j->device->why[0] = 0; /* of another case, which had no memory */
    banyan_status status = banyan_comm_agree(j->comm, waits ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status) status = banyan_comm_split(j->comm, part ? 0 : -1, j->rank, &comm);
    if (status) {
        free(waits);
        return status;
    }
    for (int r = 0; r < j->ranks; r++) waits[r] = !scale_takes_part(t, line, r);
    if (part) {
        status = scale_measure(t, line, comm);
        if (status)
            snprintf(line->why, sizeof line->why, "%s",
                     j->device->why[0] ? j->device->why : banyan_error_message());
        if (j->rank == 0) {
            const banyan_status released = quiet_release(j->comm, waits);
            if (!status) status = released;
        }
    } else {
        status = quiet_wait(j->comm, 0);
    }
    free(waits);
    if (status == BANYAN_ERR_COMM) return status; /* who knows who still answers */
    banyan_comm_destroy(comm);
    double memory = status == BANYAN_ERR_MEMORY;
    if (banyan_comm_allreduce(j->comm, &memory, 1, BANYAN_MAX)) return BANYAN_ERR_COMM;
    return memory > 0 ? BANYAN_OK : banyan_comm_agree(j->comm, status);
}

/* Against one rank: the same method at as many tokens, or, weak, at as many per rank. The work
 * may have grown: what counts is (query head, block) pairs a second. */
static void compare_with_one(const scale_task *t, scale_line *line)
{
    double read = 0;
    for (int32_t i = 0; i < t->lines; i++) {
        const scale_line *one = &t->line[i];
        if (one->method != line->method || one->ranks != 1 || one->base != line->base ||
            !one->measured || one->pairs <= 0)
            continue;
        line->alone = one->median;
        line->speedup = one->median / line->median * (line->pairs / one->pairs);
    }
    const Banyan__Machine *m = t->machine;
    if (m && m->read > 0) {
        const int32_t here = line->ranks / line->nodes;
        read =
            here < 2 || m->together < 2 || m->read_together <= 0 ? m->read : m->read_together;
    }
    if (read > 0) line->read_share = scale_kv_rate(line) / (read * line->ranks);
}

static int judge_line(const scale_task *t, const scale_line *line)
{
    if (!line->measured || t->samples == 0) return EXIT_OK;
    if (line->error_share <= 1 && line->same_bits) return EXIT_OK;
    if (!line->same_bits)
        say_error(t->j,
                  "%s on %d ranks: the last step's outputs have other bits than the first's",
                  line->method->name, line->ranks);
    else
        say_error(t->j,
                  "%s on %d ranks: a sampled row is %.3g times its error bound from the oracle",
                  line->method->name, line->ranks, line->error_share);
    return EXIT_MISMATCH;
}

static int run_cases(scale_task *t, FILE *json)
{
    int code = EXIT_OK;
    if (t->j->rank == 0) scale_print_heading(t, stdout);
    for (int32_t i = 0; i < t->lines; i++) {
        scale_line *line = &t->line[i];
        progress(t->j, "%s on %d ranks, %lld tokens", line->method->name, line->ranks,
                 (long long)line->tokens);
        banyan_status status = measure_one(t, line);
        progress_end(t->j);
        if (status) return job_failed(t->j, status, line->method->name);
        if (t->j->rank != 0) continue;
        if (line->measured) compare_with_one(t, line);
        scale_print(t, line, stdout);
        if (json) scale_write_json(t, line, json);
        int one = judge_line(t, line);
        code = one > code ? one : code;
    }
    if (t->j->rank == 0) scale_print_end(t, stdout);
    return code;
}

/* ---- what comes out ---- */

static plot_result draw_scale(const scale_task *t, FILE *out)
{
    char *script = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&script, &bytes);
    if (!memory) return PLOT_FAILED;
    scale_plot(t, memory);
    plot_result result = fclose(memory) == 0 ? plot_svg(script, out) : PLOT_FAILED;
    free(script);
    return result;
}

static int write_pictures(const scale_task *t)
{
    const job *j = t->j;
    const char *markdown = job_text(j, "markdown"), *svg = job_text(j, "svg");
    int code = EXIT_OK;
    if (markdown) {
        output_file *file = output_open(j, markdown);
        if (file && j->rank == 0) scale_markdown(t, output_stream(file));
        code = file ? output_close(file, j, true) : EXIT_FAILED;
    }
    output_file *file = svg ? output_open(j, svg) : NULL;
    if (!file) return svg ? EXIT_FAILED : code;
    plot_result result = j->rank == 0 ? draw_scale(t, output_stream(file)) : PLOT_DRAWN;
    if (result == PLOT_NO_GNUPLOT)
        say_warning(j, "gnuplot is not installed: no plot in %s", svg);
    else if (result == PLOT_FAILED)
        say_warning(j, "gnuplot could not draw %s", svg);
    const int written = output_close(file, j, result == PLOT_DRAWN);
    return written > code ? written : code;
}

/* Ours: what the plan says about more and fewer ranks than these. */
static int advise_scale(const scale_task *t)
{
    const job *j = t->j;
    if (j->rank != 0 || !t->machine) return EXIT_OK;
    banyan_spec s = t->asked.spec;
    if (t->prefill) s.balance = BANYAN_BALANCE_PREFILL;
    fputc('\n', stdout);
    bool one_machine = true;
    for (int r = 1; r < j->ranks; r++) one_machine &= t->all[r].machine == t->all[0].machine;
    wrapping w;
    banyan_status status =
        predict_advise(&s, t->machine, j->comm, one_machine, t->line[t->lines - 1].tokens,
                       t->prefill, wrapped_begin(&w, stdout));
    wrapped_end(&w, job_switch(j, "wide"), 4);
    return status ? job_failed(j, status, "advice") : EXIT_OK;
}

static int scale_all(scale_task *t)
{
    const job *j = t->j;
    int code = ask_scale(t);
    if (code) return code;
    /* All rows of a prefill are of the prompt, those of a decode come after it. */
    if (t->prefill && !pattern_prompt(j->config, INT64_C(1) << 46, t->asked.rules)) {
        say_error(j, "out of memory for the rules");
        return EXIT_USAGE;
    }
    banyan_status status = find_ranks(t);
    if (status) return job_failed(j, status, NULL);
    code = scale_cases(t);
    if (!code) code = find_scale_machine(t);
    if (code) return code;
    const char *path = job_text(j, "json");
    output_file *json = path ? output_open(j, path) : NULL;
    if (path && !json) return EXIT_FAILED;
    code = run_cases(t, json ? output_stream(json) : NULL);
    double worst = code; /* rank 0 judged */
    if (banyan_comm_allreduce(j->comm, &worst, 1, BANYAN_MAX)) return EXIT_FAILED;
    int written = output_close(json, j, (int)worst < EXIT_USAGE);
    if ((int)worst >= EXIT_USAGE) return (int)worst;
    int drawn = write_pictures(t), advised = advise_scale(t);
    written = drawn > written ? drawn : written;
    written = advised > written ? advised : written;
    return written > (int)worst ? written : (int)worst;
}

static int scale_run(job *j)
{
    char why[512];
    scale_task t = {.j = j};
    int code = pattern_apply_config(j);
    if (code) return code;
    banyan_status status = spec_from_config(j->config, &t.asked, why, sizeof why);
    if (status) {
        say_error(j, "%s", why);
        return EXIT_USAGE;
    }
    banyan_log_set(BANYAN_LOG_ERROR, NULL, NULL); /* coverage is not what is measured here */
    code = scale_all(&t);
    free(t.line);
    free(t.all);
    spec_free(&t.asked);
    return code;
}

static const flag flags[] = {
    {"mode", "NAME", "scale.mode", "strong, weak, weak-work (prefill), nodes"},
    {"phase", "NAME", "scale.phase", "decode or prefill"},
    {"method", "LIST", "scale.method",
     "line, spread, dcp, tree-attention, ring, ring-q, heads, reproducible"},
    {"ranks", "LIST", "scale.ranks", "ranks of the cases, default 1, 2, 4, .. and all"},
    {"nodes", "LIST", "scale.nodes", "instead: nodes of the cases"},
    {"per-node", "N", "scale.per_node", "ranks of each node in a node sweep"},
    {"tokens", "LIST", "scale.tokens", "context lengths; weak: of one rank; default 64k"},
    {"steps", "N", "scale.steps", "timed steps of a case, default 31 (prefill: 3)"},
    {"warmup", "N", "scale.warmup", "steps before them, default 5 (prefill: 1)"},
    {"seconds", "N", "scale.seconds", "no new step of a case after as many, default 20"},
    {"samples", "N", "scale.samples", "rows compared with the oracle, default 4"},
    {"seed", "N", "scale.seed", "of the random data, default 1"},
    {"measure", NULL, NULL, "measure the machine, also where --machine names a file"},
    {"machine", "FILE", NULL, "its figures: read when the file is there, else written"},
    {"markdown", "OUTPUT", NULL, "the table for a README"},
    {"svg", "OUTPUT", NULL, "a plot of time and efficiency against ranks"},
    {"layers", "N", "shape.layers", "layers, default 1"},
    {"heads", "N", "shape.heads", "query heads, default 32 (on 8 KV heads of 128)"},
    {"kv-heads", "N", "shape.kv_heads", "key/value heads, default: heads"},
    {"key-dim", "N", "shape.key_dim", "width of a key"},
    {"value-dim", "N", "shape.value_dim", "width of a value, default: key-dim"},
    {"max-rows", "N", "cache.max_rows", "rows per call in append and prefill, default 512"},
    {"dtype", "NAME", "cache.dtype", "format of the cache: fp32, bf16, fp16, fp8"},
    {"use", "RULE", "rule[0].use", "what the first rule's heads read"},
    PATTERN_FLAGS,
    {"merge", "NAME", "execution.merge", "of method line and heads; default: the cheapest"},
    {"out", "WHERE", "execution.out", "home or all: where outputs are written"},
    {"kernel", "NAME", "execution.kernel",
     "of those that `banyan list` names; default: the fastest"},
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"threads", "N", "execution.threads",
     "per rank, default: cores over all ranks of a machine"},
    {NULL, NULL, NULL, NULL}};

const verb verb_scale = {
    .name = "scale",
    .doc =
        "Measures decode or prefill on more and more ranks of one job (and, with several "
        "--tokens,\n"
        "at more contexts), by several methods: plans of this library, Tree Attention's three\n"
        "all-reduces, ring attention. Each case is a line: times (the slowest rank of each "
        "step),\n"
        "computing and communication, messages and bytes, the time that the plan predicts from "
        "the\n"
        "machine's measured figures, speed-up, error against a float64 oracle. The exit code "
        "is "
        "1\n"
        "when a result is beyond its error bound.",
    .flags = flags,
    .needs_comm = 1,
    .run = scale_run};
