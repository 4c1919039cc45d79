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

static void print_ceilings(const ceilings *c)
{
    printf("%d %s: read %.1f GB/s", c->threads, c->threads == 1 ? "thread" : "threads",
           c->read * 1e-9);
    for (int i = 0; i < BENCH_PEAKS; i++)
        if (c->flops[i] > 0) printf("; %s %.0f GFLOP/s", peak_row(i)->name, c->flops[i] * 1e-9);
    putchar('\n');
    fflush(stdout);
}

static void print_result(const bench_row *row, const bench_result *r)
{
    double bound = bench_bound(r);
    printf("%-24s %-7s %7d %10.1f %10.2f %10.3f %-6s %10.3f %6.1f %8.1f %9.1f %9.2f %5.2f\n",
           row->name, r->kernel, r->threads, r->bytes / (1 << 20), r->flops * 1e-9, bound * 1e3,
           r->memory_bound > r->math_bound ? "memory" : "math", r->median * 1e3,
           r->spread * 100, r->memory_bound > 0 ? r->bytes / r->median * 1e-9 : 0,
           r->flops / r->median * 1e-9, bound / r->median, row->bar);
    fflush(stdout);
}

static void write_result(const bench_row *row, const bench_result *r, FILE *out)
{
    double bound = bench_bound(r);
    json_t *line = json_pack(
        "{s:s,s:s,s:i,s:f,s:f,s:f,s:s,s:f,s:f,s:i,s:f,s:f,s:f,s:f}", "row", row->name, "kernel",
        r->kernel, "threads", r->threads, "bytes", r->bytes, "flops", r->flops, "bound_seconds",
        bound, "bound_by", r->memory_bound > r->math_bound ? "memory" : "math",
        "median_seconds", r->median, "spread", r->spread, "repetitions", r->repetitions, "gb_s",
        r->memory_bound > 0 ? r->bytes / r->median * 1e-9 : 0.0, "gflop_s",
        r->flops / r->median * 1e-9, "fraction", bound / r->median, "bar", row->bar);
    json_dumpf(line, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(line);
}

static void write_ceilings(const ceilings *c, FILE *out)
{
    json_t *line =
        json_pack("{s:i,s:f}", "ceilings_of_threads", c->threads, "read_gb_s", c->read * 1e-9);
    for (int i = 0; i < BENCH_PEAKS; i++)
        if (c->flops[i] > 0)
            json_object_set_new(line, peak_row(i)->name, json_real(c->flops[i] * 1e-9));
    json_dumpf(line, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(line);
}

/* All rows that match, with one thread where asked, and with all. */
static int run_rows(const job *j, const regex_t *only, bool quick, FILE *json)
{
    int most = omp_get_max_threads(), code = EXIT_OK, matched = 0;
    const Banyan__Execution *e = j->config->execution;
    if (e && e->has_threads && e->threads > 0) most = e->threads;
    for (int threads = 1; !code; threads = most) {
        bool heading = false;
        ceilings c;
        for (const bench_row *row = bench_rows; !code && row->name; row++) {
            if (regexec(only, row->name, 0, NULL, 0) || !is_available(row->kernel)) continue;
            matched++;
            if (threads < most && !row->each_thread) continue;
            if (!heading) {
                if (!ceilings_measure(threads, quick, &c)) {
                    say_error(j, "no memory to measure the read bandwidth with");
                    return EXIT_FAILED;
                }
                print_ceilings(&c);
                if (json) write_ceilings(&c, json);
                printf("%-24s %-7s %7s %10s %10s %10s %-6s %10s %6s %8s %9s %9s %5s\n", "row",
                       "kernel", "threads", "MiB read", "GFLOP", "bound ms", "by", "median ms",
                       "+-%", "GB/s", "GFLOP/s", "fraction", "bar");
                heading = true;
            }
            bench_result r;
            code = bench_measure(j, row, &c, quick, &r);
            if (code) break;
            print_result(row, &r);
            if (json) write_result(row, &r, json);
        }
        if (threads == most) break;
    }
    if (!code && !matched) {
        say_error(j, "--only \"%s\" matches no row", job_text(j, "only"));
        code = EXIT_USAGE;
    }
    return code;
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
    if (!code)
        code = run_rows(j, &only, job_switch(j, "quick"), json ? output_stream(json) : NULL);
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
