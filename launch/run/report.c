/* SPDX-License-Identifier: Apache-2.0 */
/* The report of `banyan run`: a line per rank, times over all ranks, and the verdict. */
#include "launch/run/run.h"

#include "launch/columns.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static const double mib = 1 << 20, gib = 1 << 30;

/* Below this, pages of libraries and of MPI weigh more than the cache. */
static const int64_t least_rss = (int64_t)256 << 20;

typedef struct summary {
    int64_t checked, near_ties, lined;
    double worst_error, worst_share, prefill_seconds;
    double median, fastest, slowest; /* of decode steps, the slowest rank of each */
    uint64_t bits;
    bool same_bits, memory_fits;
} summary;

/* What a device holds is not resident. */
static bool fits(const run_task *t, const run_figures *f)
{
    if (t->j->device->row->memory->is_apart) return true;
    if (f->kept_bytes < least_rss || f->rss_growth <= 0) return true;
    double grown = f->rss_growth - (double)f->workspace_bytes;
    return fabs(grown - (double)f->kept_bytes) <= 0.1 * (double)f->kept_bytes;
}

static summary summarise_ranks(const run_task *t, const run_figures *all)
{
    summary s = {.same_bits = true, .memory_fits = true};
    for (int r = 0; r < t->j->ranks; r++) {
        s.checked += all[r].checked;
        s.near_ties += all[r].near_ties;
        s.lined += all[r].lined;
        s.worst_error = fmax(s.worst_error, all[r].worst_error);
        s.worst_share = fmax(s.worst_share, all[r].worst_share);
        s.prefill_seconds = fmax(s.prefill_seconds, all[r].prefill_seconds);
        s.memory_fits = s.memory_fits && fits(t, &all[r]);
        if (!t->all) s.bits += all[r].bits;
        if (t->all && all[r].bits != all[0].bits) s.same_bits = false;
    }
    if (t->all) s.bits = all[0].bits;
    if (t->decode > 0) {
        s.median = numbers_median(t->step_seconds, t->decode);
        s.fastest = t->step_seconds[0];
        s.slowest = t->step_seconds[t->decode - 1];
    }
    return s;
}

/* GB a second; 0 when nothing was appended alone. */
static double rate(double bytes, double seconds)
{
    return seconds > 0 ? bytes / seconds * 1e-9 : 0;
}

static void print_ranks(const run_task *t, const run_figures *all)
{
    const banyan_spec *s = t->spec;
    wrapped(stdout, job_switch(t->j, "wide"), 4,
            "%d %s on %d %s; %d %s, %d query and %d KV heads, key %d, value %d%s, %s cache, "
            "kernel %s, %d %s each",
            t->j->ranks, t->j->ranks == 1 ? "rank" : "ranks", banyan_comm_nodes(t->j->comm),
            banyan_comm_nodes(t->j->comm) == 1 ? "node" : "nodes", s->layers,
            s->layers == 1 ? "layer" : "layers", s->heads, s->kv_heads, s->key_dim,
            s->value_dim, spec_value_in_key(s) ? " in the key" : "",
            banyan_dtype_name(s->cache_dtype), s->kernel ? s->kernel : "?", s->threads,
            s->threads == 1 ? "thread" : "threads");
    printf(
        "\nrank  kept MiB  planned  workspace  RSS growth  append GB/s  a CPU-s  messages    "
        "MiB sent  checked  error/bound\n");
    double kept = 0, workspace = 0;
    for (int r = 0; r < t->j->ranks; r++) {
        const run_figures *f = &all[r];
        printf("%4d  %8.1f %8.1f   %8.1f    %8.1f     %8.2f %8.2f  %8" PRId64
               "  %10.2f  %7" PRId64 "  %11.3g\n",
               r, (double)f->kept_bytes / mib, (double)f->planned_bytes / mib,
               (double)f->workspace_bytes / mib, f->rss_growth / mib,
               rate(f->append_bytes, f->append_seconds), rate(f->append_bytes, f->append_cpu),
               f->messages, (double)f->bytes_sent / mib, f->checked, f->worst_share);
        kept += (double)f->kept_bytes;
        workspace += (double)f->workspace_bytes;
    }
    printf("\nKV of all ranks  %.3f GiB, workspace %.3f GiB\n", kept / gib, workspace / gib);
}

static void print_device(const device *d)
{
    char text[128];
    if (!d->row->memory->is_apart) return;
    d->row->describe(d->own, text, sizeof text);
    printf("device           %s: %s; times are without copies to and from it\n", d->row->name,
           text);
}

static void print_summary(const run_task *t, const summary *s)
{
    print_device(t->j->device);
    if (t->loaded > 0) printf("snapshot         %" PRId64 " tokens\n", t->loaded);
    if (t->at > t->loaded) printf("append           %" PRId64 " tokens\n", t->at - t->loaded);
    if (t->tokens > t->at)
        printf("prefill          %" PRId64 " rows in %.3f s, %.0f tokens/s\n",
               t->tokens - t->at, s->prefill_seconds,
               (double)(t->tokens - t->at) / s->prefill_seconds);
    if (t->decode > 0)
        printf("decode           %d steps of %d %s, median %.3f ms (%.3f to %.3f), "
               "%.0f tokens/s\n",
               t->decode, t->rows, t->rows == 1 ? "row" : "rows", 1e3 * s->median,
               1e3 * s->fastest, 1e3 * s->slowest, t->rows / s->median);
    printf("oracle           %" PRId64 " rows checked, worst error %.3g, %.3g of its bound\n",
           s->checked, s->worst_error, s->worst_share);
    if (s->near_ties)
        printf("                 %" PRId64
               " of them not compared: what they choose by data is a "
               "tie, but for rounding\n",
               s->near_ties);
    if (s->lined)
        printf("                 %" PRId64
               " of them not compared: rows of a prefill that read columns and diagonals\n",
               s->lined);
    printf("output bits      %016" PRIx64 "%s\n", s->bits, t->all ? " on every rank" : "");
}

static void run_write_json(const run_task *t, const run_figures *all, const summary *s,
                           FILE *out)
{
    for (int r = 0; r < t->j->ranks; r++) {
        const run_figures *f = &all[r];
        json_t *line = json_pack(
            "{s:i,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:I,s:I,s:I,s:f}", "rank", r, "kept_bytes",
            (json_int_t)f->kept_bytes, "planned_bytes", (json_int_t)f->planned_bytes,
            "workspace_bytes", (json_int_t)f->workspace_bytes, "rss_growth_bytes",
            f->rss_growth, "append_gb_s", rate(f->append_bytes, f->append_seconds),
            "append_gb_cpu_s", rate(f->append_bytes, f->append_cpu), "prefill_seconds",
            f->prefill_seconds, "messages", (json_int_t)f->messages, "bytes_sent",
            (json_int_t)f->bytes_sent, "checked", (json_int_t)f->checked, "error_over_bound",
            isfinite(f->worst_share) ? f->worst_share : 1e300);
        output_line(out, line);
    }
    char bits[17];
    snprintf(bits, sizeof bits, "%016" PRIx64, s->bits);
    json_t *line =
        json_pack("{s:i,s:I,s:I,s:i,s:i,s:f,s:f,s:f,s:f,s:I,s:f,s:f,s:s,s:b,s:b}", "ranks",
                  t->j->ranks, "tokens", (json_int_t)t->tokens, "at", (json_int_t)t->at,
                  "decode", t->decode, "rows", t->rows, "prefill_seconds", s->prefill_seconds,
                  "decode_median_seconds", s->median, "decode_fastest_seconds", s->fastest,
                  "decode_slowest_seconds", s->slowest, "checked", (json_int_t)s->checked,
                  "worst_error", isfinite(s->worst_error) ? s->worst_error : 1e300,
                  "error_over_bound", isfinite(s->worst_share) ? s->worst_share : 1e300, "bits",
                  bits, "same_bits", s->same_bits, "memory_fits", s->memory_fits);
    output_line(out, line);
}

static int judge_run(const run_task *t, const summary *s)
{
    int code = EXIT_OK;
    if (s->near_ties > (s->checked + 1) / 2) {
        say_error(t->j, "%" PRId64 " of %" PRId64 " sampled rows choose by ties", s->near_ties,
                  s->checked);
        code = EXIT_MISMATCH;
    }
    if (s->checked != t->samples) {
        say_error(t->j, "%" PRId64 " of %d sampled rows were checked", s->checked, t->samples);
        code = EXIT_MISMATCH;
    }
    if (!(s->worst_share <= 1)) {
        say_error(t->j, "a sampled row is %.3g times its error bound from the oracle",
                  s->worst_share);
        code = EXIT_MISMATCH;
    }
    if (!s->same_bits) {
        say_error(t->j, "outputs differ between ranks");
        code = EXIT_MISMATCH;
    }
    if (!s->memory_fits) {
        say_error(t->j, "memory grew by other than the keys and values that are kept, by more "
                        "than 10 %%");
        code = EXIT_MISMATCH;
    }
    return code;
}

int run_report(run_task *t)
{
    const job *j = t->j;
    run_figures *all = calloc((size_t)j->ranks, sizeof *all);
    banyan_status status = banyan_comm_agree(j->comm, all ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status) status = banyan_comm_allgather(j->comm, &t->mine, sizeof t->mine, all);
    if (!status && t->decode > 0)
        status = banyan_comm_allreduce(j->comm, t->step_seconds, t->decode, BANYAN_MAX);
    if (status) {
        free(all);
        return job_failed(j, status, "exchanging figures");
    }
    summary s = summarise_ranks(t, all);
    int code = judge_run(t, &s);
    if (j->rank == 0) {
        print_ranks(t, all);
        print_summary(t, &s);
    }
    const char *path = job_text(j, "json");
    output_file *json = path ? output_open(j, path) : NULL;
    if (json) run_write_json(t, all, &s, output_stream(json));
    int written = path && !json ? EXIT_FAILED : output_close(json, j, true);
    free(all);
    return written > code ? written : code;
}
