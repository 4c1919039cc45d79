/* SPDX-License-Identifier: Apache-2.0 */
/* The table for people: a line per case on the terminal, and as Markdown for a README. */
#include "launch/columns.h"
#include "launch/scale/scale.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const double mib = 1 << 20, kib = 1 << 10;

void scale_pattern(const scale_task *t, char *text, size_t bytes)
{
    const banyan_spec *s = &t->asked.spec;
    size_t used = (size_t)snprintf(text, bytes, "%s", s->rule_count ? "" : "dense");
    for (int32_t i = 0; i < s->rule_count && used < bytes; i++) {
        const banyan_rule *r = &s->rules[i];
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? "; " : "", r->use);
        if (used < bytes && (r->first_head || r->last_head >= 0))
            used +=
                (size_t)snprintf(text + used, bytes - used, " on heads %d-%d", r->first_head,
                                 r->last_head < 0 ? s->heads - 1 : r->last_head);
    }
}

double scale_kv_rate(const scale_line *line)
{
    return line->median > 0 ? line->kv_bytes / line->median : 0;
}

static const char *mode_name(const scale_task *t)
{
    static const char *const name[] = {[SCALE_STRONG] = "strong scaling, tokens fixed",
                                       [SCALE_WEAK] = "weak scaling, tokens per rank fixed",
                                       [SCALE_WEAK_WORK] = "weak scaling, work per rank fixed",
                                       [SCALE_NODES] = "node sweep, tokens fixed"};
    return name[t->mode];
}

static void shape_text(const scale_task *t, char *text, size_t bytes)
{
    const banyan_spec *s = &t->asked.spec;
    char pattern[256];
    scale_pattern(t, pattern, sizeof pattern);
    const int32_t value = s->value_dim ? s->value_dim : s->key_dim;
    snprintf(text, bytes,
             "%d %s, %d query and %d KV heads, key %d, value %d, %s; %s; %d %s a rank",
             s->layers, s->layers == 1 ? "layer" : "layers", s->heads,
             s->kv_heads ? s->kv_heads : s->heads, s->key_dim, value,
             banyan_dtype_name(s->cache_dtype), pattern, s->threads,
             s->threads == 1 ? "thread" : "threads");
}

/* Beside what a method takes: what it was made of, what was predicted, and whether it is
 * right. */
static const column shown[] = {{NULL, "method", -14, false},
                               {NULL, "ranks", 5, false},
                               {NULL, "nodes", 5, true},
                               {NULL, "tokens", 8, false},
                               {NULL, "a rank", 7, true},
                               {"milliseconds", "median", 9, false},
                               {NULL, "p95", 8, true},
                               {NULL, "p99", 8, true},
                               {NULL, "+-%", 5, false},
                               {"of it, ms", "compute", 7, false},
                               {NULL, "mean", 7, true},
                               {NULL, "imb", 4, true},
                               {NULL, "comm.", 8, false},
                               {NULL, "share", 5, true},
                               {"sent by all", "msgs", 5, false},
                               {NULL, "KiB", 8, false},
                               {"by one at most", "msgs", 6, true},
                               {NULL, "KiB", 9, true},
                               {"predicted", "ms", 8, false},
                               {NULL, "meas/", 5, false},
                               {"1 rank", "speed-up", 8, false},
                               {NULL, "eff.", 5, true},
                               {"keys, values", "GB/s", 5, true},
                               {NULL, "of read", 7, true},
                               {"error", "/bound", 6, false},
                               {"output", "bits", 16, true},
                               {"peak", "MiB", 6, true},
                               {0}};

static bool is_wide(const scale_task *t)
{
    return job_switch(t->j, "wide");
}

void scale_print_heading(const scale_task *t, FILE *out)
{
    char shape[512];
    wrapping w;
    FILE *in = wrapped_begin(&w, out);
    shape_text(t, shape, sizeof shape);
    fprintf(in, "%s, %s; %s\n", t->prefill ? "prefill" : "decode", mode_name(t), shape);
    machine_print(t->machine, in);
    if (t->measuring > 0) fprintf(in, "         measured in %.2f s\n", t->measuring);
    fprintf(in,
            "medians of up to %d steps after %d to warm up; a step takes as long as its "
            "slowest rank\n\n",
            t->steps, t->warmup);
    wrapped_end(&w, is_wide(t), 9);
    columns_heading(&(columns){shown, is_wide(t), out, 0});
}

/* A number, or "-" when there is none. */
static const char *number(char text[24], const char *format, double x)
{
    if (!isfinite(x) || x <= 0)
        snprintf(text, 24, "-");
    else
        snprintf(text, 24, format, x);
    return text;
}

/* Numbers that are not above 0 were not measured. */
static double known(double x)
{
    return x > 0 ? x : NAN;
}

static bool is_oversubscribed(const scale_line *line)
{
    return line->busy > line->cores;
}

void scale_print(const scale_task *t, const scale_line *l, FILE *out)
{
    columns row = {shown, is_wide(t), out, 0};
    columns_cell(&row, "%s", l->method->name);
    columns_cell(&row, "%d%s", l->ranks, is_oversubscribed(l) ? "*" : "");
    columns_cell(&row, "%d", l->nodes);
    columns_cell(&row, "%" PRId64, l->tokens);
    columns_cell(&row, "%" PRId64, l->tokens / l->ranks);
    if (!l->measured) {
        columns_end(&row, "");
        wrapped(out, row.is_wide, 20, "%15sn/a: %s", "", l->why);
        return;
    }
    columns_number(&row, 3, 1e3 * l->median);
    columns_number(&row, 3, 1e3 * l->p95);
    columns_number(&row, 3, 1e3 * l->p99);
    columns_number(&row, 1, 100 * l->spread);
    columns_number(&row, 3, 1e3 * l->compute_most);
    columns_number(&row, 3, 1e3 * l->compute_mean);
    columns_number(&row, 2, l->compute_mean > 0 ? l->compute_most / l->compute_mean : 1);
    columns_number(&row, 3, 1e3 * l->communication);
    columns_cell(&row, "%.0f %%", 100 * l->communication / l->median);
    columns_cell(&row, "%" PRId64, l->messages);
    columns_number(&row, 1, (double)l->bytes / kib);
    columns_cell(&row, "%" PRId64, l->most_messages);
    columns_number(&row, 1, (double)l->most_bytes / kib);
    columns_number(&row, 3, 1e3 * known(l->predicted));
    columns_number(&row, 2, known(l->median / l->predicted));
    columns_number(&row, 2, known(l->speedup));
    columns_number(&row, 2, known(l->speedup / l->ranks));
    columns_number(&row, 1, 1e-9 * known(scale_kv_rate(l)));
    columns_number(&row, 2, known(l->read_share));
    columns_cell(&row, "%.2g", l->error_share);
    columns_cell(&row, "%016" PRIx64, l->bits);
    columns_number(&row, 1, (double)l->peak_memory / mib);
    columns_end(&row, "");
    if (!l->same_bits) fprintf(out, "%15sother bits in the last step\n", "");
}

void scale_print_end(const scale_task *t, FILE *out)
{
    int32_t most = 0, cores = 0;
    for (int32_t i = 0; i < t->lines; i++) {
        const scale_line *l = &t->line[i];
        if (is_oversubscribed(l) && l->busy > most) most = l->busy, cores = l->cores;
    }
    if (most)
        wrapped(out, is_wide(t), 2,
                "* oversubscribed: more threads than cores, as many as %d threads on %d cores, "
                "so that "
                "these are no measurements of scaling",
                most, cores);
}

void scale_markdown(const scale_task *t, FILE *out)
{
    char shape[512], a[24], b[24], c[24], d[24];
    bool crowded = false;
    shape_text(t, shape, sizeof shape);
    fprintf(out,
            "`banyan scale`, %s, %s: %s. Medians of up to %d steps after %d to warm up.\n\n",
            t->prefill ? "prefill" : "decode", mode_name(t), shape, t->steps, t->warmup);
    fputs(
        "| method | ranks | nodes | tokens | median ms | p95 | p99 | compute ms (most/mean) | "
        "communication ms | messages | KiB sent | predicted ms | measured/predicted | "
        "speed-up | efficiency | KV GB/s | error/bound |\n",
        out);
    fputs("|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n", out);
    for (int32_t i = 0; i < t->lines; i++) {
        const scale_line *l = &t->line[i];
        fprintf(out, "| %s | %d%s | %d | %" PRId64 " |", l->method->name, l->ranks,
                is_oversubscribed(l) ? "\\*" : "", l->nodes, l->tokens);
        crowded = crowded || is_oversubscribed(l);
        if (!l->measured) {
            fprintf(out, " n/a | | | | | | | | | | | | |\n");
            continue;
        }
        fprintf(out, " %.3f | %.3f | %.3f | %.3f/%.3f | %.3f | %" PRId64 " | %.1f |",
                1e3 * l->median, 1e3 * l->p95, 1e3 * l->p99, 1e3 * l->compute_most,
                1e3 * l->compute_mean, 1e3 * l->communication, l->messages,
                (double)l->bytes / kib);
        fprintf(out, " %s | %s | %s | %s | %s | %.2g |\n",
                number(a, "%.3f", 1e3 * l->predicted),
                number(b, "%.2f", l->median / l->predicted), number(c, "%.2f", l->speedup),
                number(d, "%.2f", l->speedup / l->ranks),
                l->kv_bytes > 0 ? number((char[24]){0}, "%.1f", 1e-9 * scale_kv_rate(l)) : "-",
                l->error_share);
    }
    if (crowded)
        fputs("\n\\* oversubscribed: more threads than cores, so these are no measurements of "
              "scaling.\n",
              out);
}
