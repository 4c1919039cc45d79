/* SPDX-License-Identifier: Apache-2.0 */
/* banyan plan: the plan for a machine that need not exist. */
#include "launch/columns.h"
#include "launch/pattern/pattern.h"
#include "launch/scale/scale.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    most_ranks = 1 << 16, /* whose plan takes some seconds */
    PLAN_INDENT = 13      /* where a plan's words begin, behind their name */
};

/* Blocks that each rank reads for a step of so many sequences of equal lengths, and how even
 * that is. */
static banyan_status print_balance(const job *j, const banyan_plan *plan,
                                   const banyan_comm *comm, int64_t sequences, int64_t tokens)
{
    const int ranks = banyan_comm_size(comm);
    int64_t least = INT64_MAX, most = 0, sum = 0;
    for (int r = 0; r < ranks; r++) {
        banyan_share s;
        const banyan_status status = banyan_plan_share(plan, r, sequences, tokens, &s);
        if (status) return status;
        if (s.read_blocks < least) least = s.read_blocks;
        if (s.read_blocks > most) most = s.read_blocks;
        sum += s.read_blocks;
    }
    putchar('\n');
    wrapped(stdout, job_switch(j, "wide"), 4,
            "%" PRId64 " sequences of %" PRId64 " tokens, turns 0..%" PRId64
            ": a step reads %" PRId64 " blocks, a rank %" PRId64 " to %" PRId64
            ", largest over mean %.3f",
            sequences, tokens, sequences - 1, sum, least, most,
            sum ? (double)most * ranks / (double)sum : 1);
    return BANYAN_OK;
}

static bool read_plan_count(const job *j, const char *name, int64_t *out)
{
    const char *text = job_text(j, name);
    if (!text || number_read(text, 1, most_ranks, out)) return true;
    say_error(j, "--%s \"%s\": expected a number, 1..%d", name, text, most_ranks);
    return false;
}

/* "node:3 rank:3,3,2": the ranks dealt to the nodes as evenly as they go. NULL: reported. */
static char *machine_text(const job *j)
{
    const char *given = job_text(j, "topology");
    int64_t ranks = 1, nodes = 1;
    if (given && (job_text(j, "ranks") || job_text(j, "nodes"))) {
        say_error(j, "--topology stands for --ranks and --nodes; give one or the other");
        return NULL;
    }
    if (given) {
        char *copy = strdup(given);
        if (!copy) say_error(j, "out of memory");
        return copy;
    }
    if (!read_plan_count(j, "ranks", &ranks) || !read_plan_count(j, "nodes", &nodes))
        return NULL;
    if (nodes > ranks) {
        say_error(j, "--nodes %lld: expected 1..%lld (--ranks)", (long long)nodes,
                  (long long)ranks);
        return NULL;
    }
    size_t bytes = 64 + 9 * (size_t)nodes, used = 0;
    char *text = malloc(bytes);
    if (!text) {
        say_error(j, "out of memory");
        return NULL;
    }
    used = (size_t)snprintf(text, bytes, "node:%lld rank:", (long long)nodes);
    for (int64_t n = 0; n < nodes; n++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%lld", n ? "," : "",
                                 (long long)(ranks / nodes + (n < ranks % nodes)));
    return text;
}

/* Most and mean over the ranks of what is kept at `tokens`, a line of JSON per rank on the
 * way. */
static banyan_status write_length(const banyan_plan *plan, const banyan_comm *comm,
                                  int64_t tokens, FILE *out)
{
    const int64_t sequences = banyan_plan_spec(plan)->sequences;
    int ranks = banyan_comm_size(comm);
    double sum = 0, most = 0;
    for (int r = 0; r < ranks; r++) {
        banyan_share s;
        banyan_status status = banyan_plan_share(plan, r, sequences, tokens, &s);
        if (status) return status;
        double kept = (double)s.kept_blocks;
        sum += kept;
        most = kept > most ? kept : most;
        output_line(out,
                    json_pack("{s:I,s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "tokens",
                              (json_int_t)tokens, "rank", r, "node", banyan_comm_node(comm, r),
                              "kept_blocks", (json_int_t)s.kept_blocks, "kept_bytes",
                              (json_int_t)s.kept_bytes, "snapshot_bytes",
                              (json_int_t)s.snapshot_bytes, "read_blocks",
                              (json_int_t)s.read_blocks, "pairs", (json_int_t)s.pairs,
                              "capacity_bytes", (json_int_t)s.capacity_bytes, "workspace_bytes",
                              (json_int_t)s.workspace_bytes, "messages", (json_int_t)s.messages,
                              "bytes_sent", (json_int_t)s.bytes_sent));
    }
    double mean = sum / ranks;
    output_line(out, json_pack("{s:I,s:i,s:f,s:f,s:f}", "tokens", (json_int_t)tokens, "ranks",
                               ranks, "mean_kept_blocks", mean, "most_kept_blocks", most,
                               "imbalance", mean > 0 ? most / mean : 1));
    return BANYAN_OK;
}

/* "1GB/s", "500MB/s", a number of bytes a second. */
static bool read_rate(const job *j, double *rate)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1},           {"k", 1e3},    {"m", 1e6},      {"g", 1e9},
                 {"t", 1e12},       {"kb/s", 1e3}, {"mb/s", 1e6},   {"gb/s", 1e9},
                 {"tb/s", 1e12},    {"b/s", 1},    {"kib/s", 1024}, {"mib/s", 1 << 20},
                 {"gib/s", 1 << 30}};
    const char *text = job_text(j, "disk");
    char *end;
    *rate = 0;
    if (!text) return true;
    *rate = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++)
        if (!strcasecmp(end, units[i].unit) && *rate > 0 && *rate * units[i].bytes < HUGE_VAL)
            return *rate *= units[i].bytes, true;
    say_error(j, "--disk \"%s\": expected a rate as \"1GB/s\" or \"500MB/s\"", text);
    return false;
}

/* What banyan_cache_save writes at the planned length, and how long a disk takes for it. */
static banyan_status print_snapshot(const banyan_plan *plan, const banyan_comm *comm,
                                    double rate)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    double sum = 0, most = 0;
    for (int r = 0; r < banyan_comm_size(comm); r++) {
        banyan_share s;
        const banyan_status status =
            banyan_plan_share(plan, r, spec->sequences, spec->planned_tokens, &s);
        if (status) return status;
        sum += (double)s.snapshot_bytes;
        if ((double)s.snapshot_bytes > most) most = (double)s.snapshot_bytes;
    }
    printf("\na snapshot of %" PRId64
           " tokens takes %.2f GiB, a rank up to %.2f GiB: %.1f s at "
           "%.2f GB/s in all\n",
           spec->planned_tokens, sum / (1 << 30), most / (1 << 30), sum / rate, rate / 1e9);
    return BANYAN_OK;
}

static int plan_write_json(const job *j, const banyan_plan *plan, const banyan_comm *comm)
{
    const char *path = job_text(j, "json");
    output_file *json = path ? output_open(j, path) : NULL;
    if (!json) return path ? EXIT_FAILED : EXIT_OK;
    int64_t planned = banyan_plan_spec(plan)->planned_tokens;
    banyan_status status = BANYAN_OK;
    for (int part = 1; !status && part <= 256; part *= 4) {
        if (part > 1 && planned / part < 1) break;
        status = write_length(plan, comm, planned / part, output_stream(json));
    }
    int code = status ? job_failed(j, status, NULL) : EXIT_OK;
    int written = output_close(json, j, !status);
    return written > code ? written : code;
}

/* What was measured, when --machine or --measure asks for it, into the config. This is one
 * process: it measures reading and computing, and takes links from the file. */
static int find_plan_machine(const job *j, const banyan_spec *spec)
{
    const char *path = job_text(j, "machine");
    if (!path && !job_switch(j, "measure")) return EXIT_OK;
    if (job_switch(j, "measure") && spec->device && strcmp(spec->device, "cpu")) {
        say_error(j,
                  "plan --measure measures the CPU; device is %s (\"banyan scale --measure\" "
                  "measures that)",
                  spec->device);
        return EXIT_USAGE;
    }
    job alone = *j;
    banyan_status status = banyan_comm_create("self", NULL, &alone.comm);
    if (status) return job_failed(j, status, NULL);
    double seconds;
    int code = path ? machine_read(&alone, path) : EXIT_OK;
    if (!code && job_switch(j, "measure"))
        code = machine_measure(&alone, spec, spec->threads > 0 ? spec->threads : 1, &seconds);
    banyan_comm_destroy(alone.comm);
    return code;
}

/* More ranks, or fewer? */
static int advise_plan(const job *j, const banyan_spec *spec, const banyan_plan *plan,
                       const banyan_comm *comm)
{
    const Banyan__Machine *m = j->config->machine;
    if (!m) return EXIT_OK;
    fputc('\n', stdout);
    wrapping w;
    FILE *in = wrapped_begin(&w, stdout);
    machine_print(m, in);
    banyan_log_set(BANYAN_LOG_ERROR, NULL, NULL); /* the plan itself has warned */
    banyan_status status =
        predict_advise(spec, m, comm, false, banyan_plan_spec(plan)->planned_tokens,
                       banyan_plan_spec(plan)->balance == BANYAN_BALANCE_PREFILL, in);
    wrapped_end(&w, job_switch(j, "wide"), 4);
    return status ? job_failed(j, status, "advice") : EXIT_OK;
}

static int plan_on(const job *j, const banyan_spec *spec, const char *machine)
{
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_status status = banyan_comm_create("imaginary", (void *)(uintptr_t)machine, &comm);
    if (status) return job_failed(j, status, "--topology");
    int code = EXIT_OK;
    if (banyan_comm_size(comm) > most_ranks) {
        say_error(j, "--topology \"%s\": %d ranks; expected at most %d", machine,
                  banyan_comm_size(comm), most_ranks);
        banyan_comm_destroy(comm);
        return EXIT_USAGE;
    }
    status = machine_links(j->config->machine, comm);
    if (status) {
        banyan_comm_destroy(comm);
        return job_failed(j, status, "machine");
    }
    double rate;
    const Banyan__Execution *e = j->config->execution;
    if (!read_rate(j, &rate)) {
        code = EXIT_USAGE;
    } else if (e && e->n_bandwidth && e->n_bandwidth != (size_t)banyan_comm_size(comm)) {
        say_error(j, "execution.bandwidth has %zu values; the machine has %d ranks",
                  e->n_bandwidth, banyan_comm_size(comm));
        code = EXIT_USAGE;
    } else if ((status = banyan_plan_create(spec, comm, &plan))) {
        code = job_failed(j, status, NULL);
    } else {
        const banyan_spec *s = banyan_plan_spec(plan);
        int64_t tokens = s->planned_tokens;
        wrapping w;
        banyan_plan_print(plan, wrapped_begin(&w, stdout));
        wrapped_end(&w, job_switch(j, "wide"), PLAN_INDENT);
        if (!read_plan_count(j, "tokens", &tokens)) code = EXIT_USAGE;
        if (!code && (s->sequences > 1 || job_text(j, "tokens")) &&
            (status = print_balance(j, plan, comm, s->sequences, tokens)))
            code = job_failed(j, status, NULL);
        if (!code && rate > 0 && (status = print_snapshot(plan, comm, rate)))
            code = job_failed(j, status, NULL);
        if (!code) code = plan_write_json(j, plan, comm);
        if (!code) code = advise_plan(j, spec, plan, comm);
    }
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
    return code;
}

/* Rows up to the planned length are a prompt's. */
static bool set_prompt(const job *j, config_spec *asked)
{
    const banyan_spec *s = &asked->spec;
    const int64_t tokens = s->planned_tokens > 0 ? s->planned_tokens : s->max_tokens;
    if (pattern_prompt(j->config, tokens, asked->rules)) return true;
    say_error(j, "out of memory for the rules");
    return false;
}

static int plan_run(job *j)
{
    char why[512];
    config_spec asked;
    int code = pattern_apply_config(j);
    if (code) return code;
    if (job_switch(j, "print-config")) {
        pattern_print(j->config, stdout);
        return EXIT_OK;
    }
    banyan_status status = spec_from_config(j->config, &asked, why, sizeof why);
    if (status) {
        say_error(j, "%s", why);
        return EXIT_USAGE;
    }
    char *machine = set_prompt(j, &asked) ? machine_text(j) : NULL;
    code = machine ? find_plan_machine(j, &asked.spec) : EXIT_USAGE;
    if (!code) code = plan_on(j, &asked.spec, machine);
    free(machine);
    spec_free(&asked);
    return code;
}

static const flag flags[] = {
    {"ranks", "N", NULL, "ranks of the machine, default 1"},
    {"nodes", "N", NULL, "nodes that the ranks are dealt to, default 1"},
    {"topology", "TEXT", NULL,
     "the machine in words, \"node:4 rank:8\" or \"node:2 rank:8,3\""},
    {"sequences", "N", "cache.sequences", "sequences at a time, default 1"},
    {"tokens", "N", NULL, "how evenly a step reads when each sequence has N tokens"},
    {"layers", "N", "shape.layers", "layers, default 1"},
    {"heads", "N", "shape.heads", "query heads"},
    {"kv-heads", "N", "shape.kv_heads", "key/value heads, default: heads"},
    {"key-dim", "N", "shape.key_dim", "width of a key"},
    {"value-dim", "N", "shape.value_dim", "width of a value, default: key-dim"},
    {"value-in-key", NULL, "shape.value_in_key",
     "values are the first numbers of their keys (latent attention)"},
    {"max-tokens", "N", "cache.max_tokens", "longest sequence"},
    {"planned-tokens", "N", "cache.planned_tokens",
     "balance for this length, default: longest"},
    {"dtype", "NAME", "cache.dtype", "format of the cache: fp32, bf16, fp16, fp8"},
    {"balance", "WHAT", "execution.balance", "decode (default) or prefill"},
    {"strict", NULL, "execution.strict", "refuse patterns that leave context unseen"},
    {"placement", "NAME", "execution.placement", "{placements}; default: line"},
    {"merge", "NAME", "execution.merge", "{merges}; default: the cheapest"},
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"use", "RULE", "rule[0].use",
     "what the first rule's heads read, \"s2 stride=8 local=16\"; selectors: {selectors}"},
    PATTERN_FLAGS,
    {"print-config", NULL, NULL, "print the rules as a config, and no plan"},
    {"disk", "RATE", NULL, "what a snapshot takes, and seconds for it at \"1GB/s\""},
    {"machine", "FILE", NULL, "predict by these figures, which \"scale --measure\" wrote"},
    {"measure", NULL, NULL, "measure how fast one rank reads and computes here"},
    {NULL, NULL, NULL, NULL}};

const verb verb_plan = {
    .name = "plan",
    .doc =
        "Prints the plan for any machine, also one that is only imagined: who keeps what, "
        "memory\n"
        "per rank, balance at the planned length and below it, messages and bytes per merge,\n"
        "coverage. With figures of a machine also how many ranks are fastest, and from which "
        "context\n"
        "on more are worth having. Needs no MPI. With --json, a line per rank and length.",
    .flags = flags,
    .run = plan_run};
