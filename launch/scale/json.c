/* SPDX-License-Identifier: Apache-2.0 */
/* A case as a line of JSON: every figure of the table, in seconds and bytes, and what it
 * was. */
#include "launch/scale/scale.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>

static void set_real(json_t *line, const char *name, double x)
{
    json_object_set_new(line, name, json_finite(x));
}

/* null when it is not known. */
static void set_known(json_t *line, const char *name, double x)
{
    json_object_set_new(line, name, isfinite(x) && x > 0 ? json_real(x) : json_null());
}

static void set_count(json_t *line, const char *name, int64_t x)
{
    json_object_set_new(line, name, json_integer(x));
}

static json_t *describe_line(const scale_task *t, const scale_line *l)
{
    static const char *const mode[] = {"strong", "weak", "weak-work", "nodes"};
    const banyan_spec *s = &t->asked.spec;
    char pattern[256];
    scale_pattern(t, pattern, sizeof pattern);
    return json_pack(
        "{s:s,s:s,s:s,s:i,s:i,s:I,s:I,s:i,s:i,s:i,s:i,s:i,s:s,s:s,s:i}", "method",
        l->method->name, "phase", t->prefill ? "prefill" : "decode", "mode", mode[t->mode],
        "ranks", l->ranks, "nodes", l->nodes, "tokens", (json_int_t)l->tokens,
        "tokens_per_rank", (json_int_t)(l->tokens / l->ranks), "layers", s->layers, "heads",
        s->heads, "kv_heads", s->kv_heads ? s->kv_heads : s->heads, "key_dim", s->key_dim,
        "value_dim", s->value_dim ? s->value_dim : s->key_dim, "dtype",
        banyan_dtype_name(s->cache_dtype), "pattern", pattern, "threads", l->threads);
}

static void set_times(json_t *line, const scale_task *t, const scale_line *l)
{
    set_count(line, "steps", l->steps);
    set_count(line, "warmup", t->warmup);
    set_real(line, "median_seconds", l->median);
    set_real(line, "p95_seconds", l->p95);
    set_real(line, "p99_seconds", l->p99);
    set_real(line, "spread", l->spread);
    set_real(line, "compute_most_seconds", l->compute_most);
    set_real(line, "compute_mean_seconds", l->compute_mean);
    set_real(line, "imbalance", l->compute_mean > 0 ? l->compute_most / l->compute_mean : 1);
    set_real(line, "communication_seconds", l->communication);
    set_real(line, "communication_share", l->communication / l->median);
}

static void set_results(json_t *line, const scale_line *l)
{
    char bits[17];
    set_count(line, "messages", l->messages);
    set_count(line, "bytes", l->bytes);
    set_count(line, "most_messages", l->most_messages);
    set_count(line, "most_bytes", l->most_bytes);
    set_known(line, "predicted_seconds", l->predicted);
    set_known(line, "measured_over_predicted", l->median / l->predicted);
    set_known(line, "one_rank_seconds", l->alone);
    set_known(line, "speedup", l->speedup);
    set_known(line, "efficiency", l->speedup / l->ranks);
    set_real(line, "pairs", l->pairs);
    set_real(line, "kv_bytes", l->kv_bytes);
    set_known(line, "kv_bytes_per_second", scale_kv_rate(l));
    set_known(line, "share_of_read_bandwidth", l->read_share);
    set_real(line, "worst_error", l->error);
    set_real(line, "error_over_bound", l->error_share);
    snprintf(bits, sizeof bits, "%016" PRIx64, l->bits);
    json_object_set_new(line, "bits", json_string(bits));
    json_object_set_new(line, "same_bits", json_boolean(l->same_bits));
    snprintf(bits, sizeof bits, "%016" PRIx64, l->plan_hash);
    json_object_set_new(line, "plan", json_string(bits));
    json_object_set_new(line, "kernel", json_string(l->kernel));
    json_object_set_new(line, "merge", json_string(l->merge));
    set_count(line, "peak_bytes", l->peak_memory);
}

void scale_write_json(const scale_task *t, const scale_line *l, FILE *out)
{
    json_t *line = describe_line(t, l);
    json_object_set_new(line, "oversubscribed", json_boolean(l->busy > l->cores));
    json_object_set_new(line, "measured", json_boolean(l->measured));
    if (l->measured) {
        set_times(line, t, l);
        set_results(line, l);
    } else {
        json_object_set_new(line, "why", json_text(l->why));
    }
    output_line(out, line);
}
