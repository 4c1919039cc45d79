/* SPDX-License-Identifier: Apache-2.0 */
/* banyan bench: one rank's kernels against this machine's measured limits. */
#include "launch/bench/bench.h"

#include <jansson.h>
#include <omp.h>
#include <regex.h>
#include <string.h>

static bool is_available(const char *kernel)
{
    const char *name;
    int available;
    if (!kernel) return true;
    for (int i = 0; banyan_list(BANYAN_KERNELS, i, &name, NULL, &available, NULL); i++)
        if (!strcmp(name, kernel)) return available;
    return false;
}

static const char heading[] = "                                            |        ceilings | "
                              "at least                       | "
                              "measured\n"
                              "row                      kernel  threads    |  GB/s   GFLOP/s | "
                              "MiB read   GFLOP         ms by     | "
                              "median ms  +-%   GB/s  GFLOP/s  fraction  bar\n";

static double read_rate(const bench_result *r)
{
    return r->memory_bound > 0 ? r->bytes / r->median : 0;
}

static const char *bound_by(const bench_result *r)
{
    return r->memory_bound > r->math_bound ? "memory" : "math";
}

static void print_result(const bench_row *row, const bench_result *r)
{
    printf(
        "%-24s %-10s %4d    | %5.1f  %8.0f | %8.1f %8.2f %9.3f %-6s | %9.3f %4.1f %6.1f %8.1f  "
        "%8.2f %4.2f\n",
        row->name, r->kernel, r->threads, r->at_most.read * 1e-9, r->at_most.flops * 1e-9,
        r->memory_bound > 0 ? r->bytes / (1 << 20) : 0, r->flops * 1e-9, bench_bound(r) * 1e3,
        bound_by(r), r->median * 1e3, r->spread * 100, read_rate(r) * 1e-9,
        r->flops / r->median * 1e-9, bench_bound(r) / r->median, row->bar);
    if (r->over_like > 0)
        printf("%-24s %.3f x the time of its operations at the rate of \"%s\"\n", "",
               r->over_like, row->like);
    fflush(stdout);
}

static void write_result(const bench_row *row, const bench_result *r, FILE *out)
{
    json_t *line = json_pack(
        "{s:s,s:s,s:i,s:f,s:f,s:s,s:f,s:f,s:f,s:s,s:f,s:f,s:i,s:f,s:f,s:f,s:f}", "row",
        row->name, "kernel", r->kernel, "threads", r->threads, "read_ceiling_gb_s",
        r->at_most.read * 1e-9, "math_ceiling_gflop_s", r->at_most.flops * 1e-9, "math",
        r->at_most.math->name, "bytes", r->bytes, "flops", r->flops, "bound_seconds",
        bench_bound(r), "bound_by", bound_by(r), "median_seconds", r->median, "spread",
        r->spread, "repetitions", r->repetitions, "gb_s", read_rate(r) * 1e-9, "gflop_s",
        r->flops / r->median * 1e-9, "fraction", bench_bound(r) / r->median, "bar", row->bar);
    if (r->over_like > 0) json_object_set_new(line, "over_like", json_real(r->over_like));
    json_dumpf(line, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(line);
}

typedef struct bench_table {
    const job *j;
    const regex_t *only;
    bool quick;
    FILE *json;
    int printed;
    double rate[64]; /* of each row with all threads, operations a second; 0: not measured */
} bench_table;

static int row_index(const char *name)
{
    for (int i = 0; name && bench_rows[i].name; i++)
        if (!strcmp(bench_rows[i].name, name)) return i;
    return -1;
}

static int run_row(bench_table *t, int index, int threads)
{
    const bench_row *row = &bench_rows[index];
    bench_result r;
    int code = bench_measure(t->j, row, threads, t->quick, &r);
    if (code) return code;
    int like = row_index(row->like);
    if (like >= 0) r.over_like = t->rate[like] * r.median / r.flops;
    t->rate[index] = r.flops / r.median;
    if (t->printed++ == 0) fputs(heading, stdout);
    print_result(row, &r);
    if (t->json) write_result(row, &r, t->json);
    return EXIT_OK;
}

/* All rows that match: with one thread where asked, and with all. */
static int run_rows(bench_table *t)
{
    const Banyan__Execution *e = t->j->config->execution;
    int most = e && e->has_threads && e->threads > 0 ? e->threads : omp_get_max_threads();
    for (int i = 0; bench_rows[i].name; i++) {
        const bench_row *row = &bench_rows[i];
        if (regexec(t->only, row->name, 0, NULL, 0) || !is_available(row->kernel)) continue;
        int code = row->each_thread && most > 1 ? run_row(t, i, 1) : EXIT_OK;
        if (!code) code = run_row(t, i, most);
        if (code) return code;
    }
    if (t->printed) return EXIT_OK;
    say_error(t->j, "--only \"%s\" matches no row", job_text(t->j, "only"));
    return EXIT_USAGE;
}

static int run(job *j)
{
    const char *pattern = job_text(j, "only"), *path = job_text(j, "json");
    regex_t only;
    int wrong = regcomp(&only, pattern ? pattern : "", REG_EXTENDED | REG_NOSUB);
    if (wrong) {
        char why[128];
        regerror(wrong, &only, why, sizeof why);
        say_error(j, "--only \"%s\": %s", pattern, why);
        return EXIT_USAGE;
    }
    output_file *json = path ? output_open(j, path) : NULL;
    int code = path && !json ? EXIT_FAILED : EXIT_OK;
    banyan_log_set(BANYAN_LOG_ERROR, NULL, NULL); /* coverage is not what is measured here */
    bench_table table = {.j = j, .only = &only, .quick = job_switch(j, "quick")};
    if (json) table.json = output_stream(json);
    if (!code) code = run_rows(&table);
    int written = output_close(json, j, code == EXIT_OK);
    regfree(&only);
    return written > code ? written : code;
}

static const flag flags[] = {
    {"only", "REGEX", NULL, "rows whose name matches, \"decode|s2\""},
    {"quick", NULL, NULL, "a 64th of the tokens and one repetition: is it working?"},
    {"threads", "N", "execution.threads", "at most, default: all cores"},
    {NULL, NULL, NULL, NULL}};

const verb verb_bench = {.name = "bench",
                         .doc = "Measures this machine's ceilings (reading memory, "
                                "multiply-adds in registers), then the\n"
                                "kernels. A row's bound is derived from the bytes that it must "
                                "read and the operations\n"
                                "that it must do; fraction is bound / median time.",
                         .flags = flags,
                         .run = run};
