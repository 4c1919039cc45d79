/* SPDX-License-Identifier: Apache-2.0 */
/* The table for people: a line per case on the terminal, and as Markdown for a README. */
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

void scale_print_heading(const scale_task *t, FILE *out)
{
    char shape[512];
    shape_text(t, shape, sizeof shape);
    fprintf(out, "%s, %s; %s\n", t->prefill ? "prefill" : "decode", mode_name(t), shape);
    machine_print(t->machine, out);
    if (t->measuring > 0) fprintf(out, "         measured in %.2f s\n", t->measuring);
    fprintf(out,
            "medians of up to %d steps after %d to warm up; a step takes as long as its "
            "slowest rank\n\n",
            t->steps, t->warmup);
    fprintf(
        out,
        "                                            |        milliseconds             "
        "|  compute ms         | communication | sent in a step, all  most of a rank "
        "| predicted     | against 1 rank  | keys, values | error  output            peak\n"
        "method          ranks nodes   tokens  a rank |    median      p95      p99  +-%% "
        "|   most    mean  imb | ms      share | msgs      KiB    msgs      KiB     "
        "| ms       meas/ | speed-up   eff. | GB/s  of read | /bound bits               MiB\n");
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

static bool is_oversubscribed(const scale_line *line)
{
    return line->busy > line->cores;
}

void scale_print(const scale_task *t, const scale_line *l, FILE *out)
{
    char a[24], b[24], c[24], d[24], e[24], f[24];
    (void)t;
    fprintf(out, "%-15s %5d %5d %8" PRId64 " %7" PRId64 " |", l->method->name, l->ranks,
            l->nodes, l->tokens, l->tokens / l->ranks);
    if (!l->measured) {
        fprintf(out, " n/a: %s\n", l->why);
        return;
    }
    fprintf(out, " %9.3f %8.3f %8.3f %4.1f |", 1e3 * l->median, 1e3 * l->p95, 1e3 * l->p99,
            100 * l->spread);
    fprintf(out, " %7.3f %7.3f %4.2f |", 1e3 * l->compute_most, 1e3 * l->compute_mean,
            l->compute_mean > 0 ? l->compute_most / l->compute_mean : 1);
    fprintf(out, " %7.3f %3.0f %% |", 1e3 * l->communication,
            100 * l->communication / l->median);
    fprintf(out, " %4" PRId64 " %9.1f %6" PRId64 " %9.1f |", l->messages,
            (double)l->bytes / kib, l->most_messages, (double)l->most_bytes / kib);
    fprintf(out, " %8s %5s |", number(a, "%.3f", 1e3 * l->predicted),
            number(b, "%.2f", l->median / l->predicted));
    fprintf(out, " %8s %5s |", number(c, "%.2f", l->speedup),
            number(d, "%.2f", l->speedup / l->ranks));
    fprintf(out, " %5s %5s |", number(e, "%.1f", 1e-9 * scale_kv_rate(l)),
            number(f, "%.2f", l->read_share));
    fprintf(out, " %6.2g %016" PRIx64 " %6.1f", l->error_share, l->bits,
            (double)l->peak_memory / mib);
    if (!l->same_bits) fprintf(out, "  other bits in the last step");
    if (is_oversubscribed(l))
        fprintf(out, "  oversubscribed: %d threads on %d cores", l->busy, l->cores);
    fputc('\n', out);
    fflush(out);
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
