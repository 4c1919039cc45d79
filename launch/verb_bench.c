/* SPDX-License-Identifier: Apache-2.0 */
/* banyan bench: the kernels against this machine's measured limits. */
#include "launch/bench/device.h"
#include "launch/columns.h"

#include <jansson.h>
#include <omp.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

typedef struct table {
    bench b;
    regex_t only;
    ceilings c;
    bool has_heading, any;
    double fraction[64]; /* of each row with all threads; 0: not measured */
} table;

static bool is_wanted(table *t, const char *name)
{
    bool wanted = !regexec(&t->only, name, 0, NULL, 0);
    t->any |= wanted;
    return wanted;
}

/* ---- one row ----------------------------------------------------------------------------- */

static const column shown[] = {{NULL, "row", -24, false},   {NULL, "kernel", -11, false},
                               {NULL, "threads", 7, false}, {"ceilings", "GB/s", 5, false},
                               {NULL, "GFLOP/s", 8, false}, {"at least", "MiB read", 8, true},
                               {NULL, "GFLOP", 8, true},    {NULL, "ms", 9, false},
                               {NULL, "by", -6, false},     {"measured", "median ms", 9, false},
                               {NULL, "+-%", 5, false},     {NULL, "GB/s", 6, true},
                               {NULL, "GFLOP/s", 8, true},  {NULL, "fraction", 8, false},
                               {NULL, "bar", 4, false},     {0}};

static const char *bench_bound_by(const bench_result *r)
{
    return r->memory_bound > r->math_bound ? "memory" : "math";
}

static double bench_bound(const bench_result *r)
{
    return r->memory_bound > r->math_bound ? r->memory_bound : r->math_bound;
}

/* Read bandwidth where it was measured: prefills do without. */
static const char *gigabytes(char text[16], double bytes_a_second)
{
    if (bytes_a_second > 0)
        snprintf(text, 16, "%.1f", bytes_a_second * 1e-9);
    else
        strcpy(text, "-");
    return text;
}

static void print_result(table *t, const bench_row *row, const bench_result *r, double like)
{
    char text[16];
    columns line = {shown, t->b.is_wide, stdout, 0};
    if (!t->has_heading) columns_heading(&line);
    t->has_heading = true;
    columns_cell(&line, "%s", row->name);
    columns_cell(&line, "%s", r->kernel);
    columns_cell(&line, "%d", r->threads);
    columns_cell(&line, "%s", gigabytes(text, r->at_most.read));
    columns_number(&line, 0, r->at_most.flops * 1e-9);
    columns_number(&line, 1, r->bytes / (1 << 20));
    columns_number(&line, 2, r->flops * 1e-9);
    columns_number(&line, 3, bench_bound(r) * 1e3);
    columns_cell(&line, "%s", bench_bound_by(r));
    columns_number(&line, 3, r->seconds * 1e3);
    columns_number(&line, 1, r->spread * 100);
    columns_cell(&line, "%s", gigabytes(text, r->bytes / r->seconds));
    columns_number(&line, 1, r->flops / r->seconds * 1e-9);
    columns_number(&line, 2, r->fraction);
    columns_number(&line, 2, row->bar);
    columns_end(&line, !t->b.pace.quick && r->fraction < row->bar ? " below" : "");
    if (like > 0)
        wrapped(stdout, t->b.is_wide, BENCH_BELOW,
                "%-*s %.3f x the time of its operations at the rate of \"%s\" (at most "
                "%.2f)%s",
                BENCH_BELOW - 1, "", like, row->like, row->like_bar,
                !t->b.pace.quick && like > row->like_bar ? " above" : "");
}

static void print_peer(const table *t, const bench_peer_rate *peer, const bench_result *r)
{
    wrapped(
        stdout, t->b.is_wide, BENCH_BELOW,
        "%-*s torch %s: %.3f ms +-%.1f %% for %lld tokens, %.1f GFLOP/s; ours has %.2f of its "
        "rate",
        BENCH_BELOW - 1, "", peer->version, peer->seconds * 1e3, peer->spread * 100,
        (long long)peer->tokens, peer->flops * 1e-9, r->flops / r->seconds / peer->flops);
}

static void write_result(const table *t, const bench_row *row, const bench_result *r,
                         double like, const bench_peer_rate *peer)
{
    json_t *line = json_pack(
        "{s:s,s:s,s:i,s:b,s:f,s:f,s:s,s:f,s:f,s:f,s:s,s:f,s:f,s:i,s:f,s:f,s:f,s:f}", "row",
        row->name, "kernel", r->kernel, "threads", r->threads, "cpu_time", t->b.pace.cpu_time,
        "read_ceiling_gb_s", r->at_most.read * 1e-9, "math_ceiling_gflop_s",
        r->at_most.flops * 1e-9, "math", r->math->name, "bytes", r->bytes, "flops", r->flops,
        "bound_seconds", bench_bound(r), "bound_by", bench_bound_by(r), "median_seconds",
        r->seconds, "spread", r->spread, "repetitions", r->repetitions, "gb_s",
        r->bytes / r->seconds * 1e-9, "gflop_s", r->flops / r->seconds * 1e-9, "fraction",
        r->fraction, "bar", row->bar);
    if (like > 0) json_object_set_new(line, "over_like", json_real(like));
    if (peer)
        json_object_set_new(line, "torch",
                            json_pack("{s:s,s:I,s:f,s:f,s:i,s:f}", "version", peer->version,
                                      "tokens", (json_int_t)peer->tokens, "median_seconds",
                                      peer->seconds, "spread", peer->spread, "turns",
                                      peer->turns, "gflop_s", peer->flops * 1e-9));
    output_line(t->b.json, line);
}

static int row_index(const char *name)
{
    for (int i = 0; name && bench_rows[i].name; i++)
        if (!strcmp(bench_rows[i].name, name)) return i;
    return -1;
}

static int bench_row_run(table *t, int index, int threads)
{
    const bench_row *row = &bench_rows[index];
    bench_result r;
    int code = bench_measure(&t->b, &t->c, row, threads, &r);
    if (code) return code;
    int other = row_index(row->like);
    /* both as fractions of the same ceiling, each of which was measured beside its row */
    double like = other >= 0 ? t->fraction[other] / r.fraction : 0;
    t->fraction[index] = r.fraction;
    print_result(t, row, &r, like);
    bench_peer_rate peer;
    const bool has_peer = t->b.peer && bench_peer_result(t->b.peer, &peer);
    if (has_peer) print_peer(t, &peer, &r);
    if (t->b.json) write_result(t, row, &r, like, has_peer ? &peer : NULL);
    return EXIT_OK;
}

/* ---- all of them ------------------------------------------------------------------------- */

static void say_busy(const table *t)
{
    double load = 0;
    int cores = omp_get_num_procs();
    if (t->b.pace.cpu_time)
        printf("Seconds are CPU seconds of each thread, not of the clock on the wall.\n");
    else if (getloadavg(&load, 1) == 1 && load > cores / 2.0)
        wrapped(stdout, t->b.is_wide, 2,
                "Load average %.1f on %d cores: others compute here, and it shows; --cpu-time "
                "leaves out what waits for a core.",
                load, cores);
}

/* Alone or under mpirun. */
static int run_choosing(table *t)
{
    int code = EXIT_OK;
    for (int i = 0; !code && choosing_names[i]; i++)
        if (is_wanted(t, choosing_names[i])) code = choosing_run(&t->b, i);
    return code;
}

/* With one thread where asked, and with all. */
static int run_alone(table *t)
{
    const Banyan__Execution *e = t->b.j->config->execution;
    int most = e && e->has_threads && e->threads > 0 ? e->threads : omp_get_max_threads();
    int code = EXIT_OK;
    say_busy(t);
    for (int i = 0; !code && bench_rows[i].name; i++) {
        const bench_row *row = &bench_rows[i];
        if (!is_wanted(t, row->name)) continue;
        if (row->kernel && !row_is_available(BANYAN_KERNELS, row->kernel)) continue;
        if (row->each_thread && most > 1) code = bench_row_run(t, i, 1);
        if (!code) code = bench_row_run(t, i, most);
    }
    ceilings_free(&t->c);
    if (!code && is_wanted(t, reproducible_name)) {
        if (most > 1) code = reproducible_run(&t->b, 1);
        if (!code) code = reproducible_run(&t->b, most);
    }
    for (int i = 0; !code && lines_names[i]; i++)
        if (is_wanted(t, lines_names[i])) code = lines_run(&t->b, i, most);
    if (!code && is_wanted(t, steady_name)) code = steady_run(&t->b, most);
    return code ? code : run_choosing(t);
}

static int run_ranks(table *t)
{
    int code = EXIT_OK;
    if (t->b.j->rank == 0) say_busy(t);
    for (int i = 0; !code && ranks_names[i]; i++)
        if (is_wanted(t, ranks_names[i])) code = ranks_run(&t->b, i);
    return code ? code : run_choosing(t);
}

static bool is_wanted_row(void *table_of, const char *name)
{
    return is_wanted(table_of, name);
}

static int run_rows(table *t)
{
    const job *j = t->b.j;
    if (!j->device->row->memory->is_apart) return j->ranks > 1 ? run_ranks(t) : run_alone(t);
    if (j->ranks == 1) return device_run(&t->b, is_wanted_row, t);
    say_error(j, "bench measures one device; start it without mpirun");
    return EXIT_USAGE;
}

static int bench_all(table *t)
{
    const job *j = t->b.j;
    const char *path = job_text(j, "json");
    output_file *json = path ? output_open(j, path) : NULL;
    if (path && !json) return EXIT_FAILED;
    if (json) t->b.json = output_stream(json);
    int code = run_rows(t);
    if (!code && !t->any) {
        say_error(j, "--only \"%s\" matches no row%s", job_text(j, "only"),
                  j->ranks > 1 ? " that is for several ranks" : "");
        code = EXIT_USAGE;
    }
    int written = output_close(json, j, code == EXIT_OK);
    return written > code ? written : code;
}

static int bench_run(job *j)
{
    table t = {.b = {.j = j,
                     .pace = {job_switch(j, "quick"), job_switch(j, "cpu-time")},
                     .is_wide = job_switch(j, "wide")}};
    const char *pattern = job_text(j, "only");
    int wrong = regcomp(&t.only, pattern ? pattern : "", REG_EXTENDED | REG_NOSUB);
    if (wrong) {
        char why[128];
        regerror(wrong, &t.only, why, sizeof why);
        say_error(j, "--only \"%s\": %s", pattern, why);
        return EXIT_USAGE;
    }
    banyan_log_set(BANYAN_LOG_ERROR, NULL, NULL); /* coverage is not what is measured here */
    const char *peer = job_text(j, "peer");
    int code = peer ? EXIT_USAGE : EXIT_OK;
    if (peer && (j->ranks > 1 || j->device->row->memory->is_apart))
        say_error(j, "--peer is for one rank on cpu");
    else if (peer && (t.b.peer = bench_peer_open(j, peer)))
        code = EXIT_OK;
    if (!code) code = bench_all(&t);
    bench_peer_close(t.b.peer);
    regfree(&t.only);
    return code;
}

static const flag flags[] = {
    {"only", "REGEX", NULL, "rows whose name matches, \"decode|s2\""},
    {"quick", NULL, NULL, "a 64th of the tokens and one repetition: is it working?"},
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"threads", "N", "execution.threads", "at most, default: all cores"},
    {"peer", "NAME", NULL, "torch: its attention too, in turns (where python3 has it)"},
    {"cpu-time", NULL, NULL,
     "time by the CPU seconds of the threads, for a machine where others compute (with "
     "OMP_WAIT_POLICY=passive, or threads that wait count too)"},
    {NULL, NULL, NULL, NULL}};

const verb verb_bench = {
    .name = "bench",
    .doc =
        "Measures this machine's ceilings (reading memory, multiply-adds in registers), and "
        "the kernels\n"
        "in turns. A row's bound is derived from the bytes that it must read and the "
        "operations that it\n"
        "must do; fraction is the median of bound / time. A prefill's repetition is a "
        "quarter of its calls.\n"
        "Under mpirun: N ranks with one thread against one rank with N threads, and blocks "
        "chosen by data.\n"
        "With --device cuda: other rows, against the rate of copies in the GPU's memory and of "
        "cuBLAS.",
    .flags = flags,
    .needs_comm = 1,
    .run = bench_run};
