/* SPDX-License-Identifier: Apache-2.0 */
/* The spec: its defaults, and whether what it asks for is possible. A message names the field,
 * the value and what was expected. */
#include "dist/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_COUNT = 65536 }; /* of layers, heads and rows: keeps products within 64 bits */
static const int64_t max_length = INT64_C(1) << 40;

void banyan_spec_defaults(banyan_spec *spec, size_t size)
{
    const banyan_spec defaults = {
        .size = size,
        .sequences = 1,
        .max_rows = 512,
        .block_tokens = 64,
        .cache_dtype = BANYAN_BF16,
        .evict = 1,
        .in_dtype = BANYAN_F32,
        .out_dtype = BANYAN_F32,
        .placement = "line",
        .device = "cpu",
        .lost_rank = -1,
        .lost_layer = -1,
    };
    memset(spec, 0, size);
    memcpy(spec, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

/* A caller's struct may be of an older version, and shorter: what it does not know has its
 * default. */
banyan_status banyan_spec_widen(const banyan_spec *given, banyan_spec *out)
{
    if (given->size < offsetof(banyan_spec, rules) || given->size > sizeof *out)
        return banyan_fail(
            BANYAN_ERR_ARGUMENT,
            "spec.size is %zu: expected what banyan_spec_init sets, at most %zu in "
            "this library",
            given->size, sizeof *out);
    banyan_spec_defaults(out, sizeof *out);
    memcpy(out, given, given->size);
    out->size = sizeof *out;
    return BANYAN_OK;
}

static banyan_status check_within(const char *field, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_CONFIG, "%s is %lld: expected %lld..%lld", field,
                       (long long)value, (long long)low, (long long)high);
}

static banyan_status at_least(const char *field, int64_t value, int64_t low)
{
    if (value >= low) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_CONFIG, "%s is %lld: expected at least %lld", field,
                       (long long)value, (long long)low);
}

static banyan_status one_of(const char *field, const char *value, const char *const *names)
{
    char list[256] = "";
    size_t used = 0;
    if (!value)
        return banyan_fail(BANYAN_ERR_CONFIG, "%s is not set: expected %s", field, names[0]);
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], value) == 0) return BANYAN_OK;
        const char *between = i == 0 ? "" : names[i + 1] ? ", " : " or ";
        const int n = snprintf(list + used, sizeof list - used, "%s%s", between, names[i]);
        if (n > 0 && (size_t)n < sizeof list - used) used += (size_t)n;
    }
    const char *near = banyan_nearest(value, names);
    return banyan_fail(BANYAN_ERR_CONFIG, "%s is \"%s\": expected %s%s%s%s", field, value, list,
                       near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static banyan_status check_range(const char *list, int32_t index, const char *what,
                                 int32_t first, int32_t last, int32_t count)
{
    if (first < 0 || first >= count)
        return banyan_fail(BANYAN_ERR_CONFIG, "%s %d: first_%s is %d: expected 0..%d", list,
                           (int)index, what, (int)first, (int)count - 1);
    if (last != -1 && (last < first || last >= count))
        return banyan_fail(BANYAN_ERR_CONFIG,
                           "%s %d: last_%s is %d: expected %d..%d, or -1 for the last", list,
                           (int)index, what, (int)last, (int)first, (int)count - 1);
    return BANYAN_OK;
}

static banyan_status check_spec_shape(const banyan_spec *s)
{
    banyan_status status = BANYAN_OK;
    if (!status) status = check_within("layers", s->layers, 1, MAX_COUNT);
    if (!status) status = check_within("heads", s->heads, 1, MAX_COUNT);
    if (!status) status = check_within("kv_heads", s->kv_heads, 0, MAX_COUNT);
    if (!status && s->kv_heads && s->heads % s->kv_heads)
        status =
            banyan_fail(BANYAN_ERR_CONFIG, "heads is %d: expected a multiple of kv_heads, %d",
                        (int)s->heads, (int)s->kv_heads);
    if (!status) status = check_within("key_dim", s->key_dim, 1, BANYAN_MAX_DIM);
    if (!status && s->value_dim)
        status = check_within("value_dim", s->value_dim, 1, BANYAN_MAX_DIM);
    if (!status && !(isfinite(s->scale) && s->scale >= 0))
        status =
            banyan_fail(BANYAN_ERR_CONFIG,
                        "scale is %g: expected a positive number, or 0 for 1/sqrt(key_dim)",
                        (double)s->scale);
    return status;
}

banyan_layer_shape banyan_spec_shape(const banyan_spec *s, int32_t layer)
{
    banyan_layer_shape out = {.first_layer = layer, .last_layer = layer};
    const float scale = s->scale > 0 ? s->scale : 0;
    for (int32_t i = 0; i < s->shape_count; i++) {
        const banyan_layer_shape *shape = &s->shapes[i];
        const int32_t last = shape->last_layer < 0 ? s->layers - 1 : shape->last_layer;
        if (layer >= shape->first_layer && layer <= last) out = *shape;
    }
    out.scale = out.scale > 0 ? out.scale : out.key_dim ? 0 : scale;
    if (!out.kv_heads) out.kv_heads = s->kv_heads ? s->kv_heads : s->heads;
    if (!out.key_dim) out.key_dim = s->key_dim;
    if (!out.value_dim) out.value_dim = s->value_dim ? s->value_dim : s->key_dim;
    if (!(out.scale > 0)) out.scale = (float)(1 / sqrt((double)out.key_dim));
    return out;
}

static banyan_status check_one_shape(const banyan_spec *s, int32_t i)
{
    const banyan_layer_shape *shape = &s->shapes[i];
    char field[48];
    banyan_status status =
        check_range("shape", i, "layer", shape->first_layer, shape->last_layer, s->layers);
    snprintf(field, sizeof field, "shape %d: kv_heads", (int)i);
    if (!status) status = check_within(field, shape->kv_heads, 0, MAX_COUNT);
    if (!status && shape->kv_heads && s->heads % shape->kv_heads)
        status = banyan_fail(BANYAN_ERR_CONFIG,
                             "shape %d: kv_heads is %d: expected a divisor of heads, %d",
                             (int)i, (int)shape->kv_heads, (int)s->heads);
    snprintf(field, sizeof field, "shape %d: key_dim", (int)i);
    if (!status) status = check_within(field, shape->key_dim, 0, BANYAN_MAX_DIM);
    snprintf(field, sizeof field, "shape %d: value_dim", (int)i);
    if (!status) status = check_within(field, shape->value_dim, 0, BANYAN_MAX_DIM);
    if (!status && !(isfinite(shape->scale) && shape->scale >= 0))
        status = banyan_fail(BANYAN_ERR_CONFIG,
                             "shape %d: scale is %g: expected a positive number, or 0", (int)i,
                             (double)shape->scale);
    if (status) return status;
    const banyan_layer_shape whole = banyan_spec_shape(s, shape->first_layer);
    if (whole.value_in_key && whole.value_dim > whole.key_dim)
        return banyan_fail(BANYAN_ERR_CONFIG,
                           "shape %d: value_dim is %d: expected at most key_dim, %d, with "
                           "value_in_key",
                           (int)i, (int)whole.value_dim, (int)whole.key_dim);
    if (whole.value_in_key && s->cache_dtype == BANYAN_E4M3)
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "shape %d: value_in_key with cache_dtype %s: expected fp32, bf16 or "
                           "fp16",
                           (int)i, banyan_dtype_name(s->cache_dtype));
    return BANYAN_OK;
}

static banyan_status check_shapes(const banyan_spec *s)
{
    banyan_status status = at_least("shape_count", s->shape_count, 0);
    if (!status && s->shape_count && !s->shapes)
        status = banyan_fail(BANYAN_ERR_CONFIG, "shapes is not set: expected %d of them",
                             (int)s->shape_count);
    for (int32_t i = 0; !status && i < s->shape_count; i++) status = check_one_shape(s, i);
    return status;
}

static banyan_status check_cache_layers(const banyan_spec *s)
{
    for (int32_t i = 0; s->cache_layer && i < s->layers; i++) {
        const int32_t c = s->cache_layer[i];
        if (c < 0 || c > i)
            return banyan_fail(
                BANYAN_ERR_CONFIG,
                "cache_layer of layer %d is %d: expected 0..%d, itself or a layer "
                "before it",
                (int)i, (int)c, (int)i);
        if (s->cache_layer[c] != c)
            return banyan_fail(
                BANYAN_ERR_CONFIG,
                "cache_layer of layer %d is %d, which reads layer %d: expected a "
                "layer with keys and values of its own",
                (int)i, (int)c, (int)s->cache_layer[c]);
        const banyan_layer_shape a = banyan_spec_shape(s, i), b = banyan_spec_shape(s, c);
        if (a.kv_heads != b.kv_heads || a.key_dim != b.key_dim || a.value_dim != b.value_dim ||
            !a.value_in_key != !b.value_in_key)
            return banyan_fail(BANYAN_ERR_CONFIG,
                               "layer %d reads layer %d: expected its shape, %d KV heads of "
                               "key_dim %d and value_dim %d; it has %d of %d and %d",
                               (int)i, (int)c, (int)b.kv_heads, (int)b.key_dim,
                               (int)b.value_dim, (int)a.kv_heads, (int)a.key_dim,
                               (int)a.value_dim);
    }
    return BANYAN_OK;
}

static banyan_status check_sinks(const banyan_spec *s)
{
    const int64_t count = s->sinks ? (int64_t)s->layers * s->heads : 0;
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(s->sinks[i]) && s->sinks[i] != -INFINITY)
            return banyan_fail(BANYAN_ERR_CONFIG,
                               "sink of layer %d, query head %d is %g: expected a number, or "
                               "-inf for none",
                               (int)(i / s->heads), (int)(i % s->heads), (double)s->sinks[i]);
    return BANYAN_OK;
}

static banyan_status check_cache(const banyan_spec *s)
{
    banyan_status status = BANYAN_OK;
    if (!status) status = check_within("max_tokens", s->max_tokens, 1, max_length);
    if (!status && s->planned_tokens &&
        (s->planned_tokens < 0 || s->planned_tokens > s->max_tokens))
        status = banyan_fail(BANYAN_ERR_CONFIG,
                             "planned_tokens is %lld: expected 1..%lld (max_tokens), or 0 for "
                             "max_tokens",
                             (long long)s->planned_tokens, (long long)s->max_tokens);
    if (!status) status = check_within("sequences", s->sequences, 1, MAX_COUNT);
    if (!status) status = check_within("pool_tokens", s->pool_tokens, 0, max_length);
    if (!status) status = check_within("max_rows", s->max_rows, 1, 1 << 24);
    if (!status && (s->block_tokens < 16 || s->block_tokens > 256 ||
                    (s->block_tokens & (s->block_tokens - 1))))
        status = banyan_fail(BANYAN_ERR_CONFIG,
                             "block_tokens is %d: expected 16, 32, 64, 128 or 256",
                             (int)s->block_tokens);
    if (!status) status = at_least("rollback_tokens", s->rollback_tokens, 0);
    if (!status) status = check_within("cache_dtype", s->cache_dtype, BANYAN_F32, BANYAN_E4M3);
    if (!status) status = check_within("in_dtype", s->in_dtype, BANYAN_F32, BANYAN_F16);
    if (!status) status = check_within("out_dtype", s->out_dtype, BANYAN_F32, BANYAN_F16);
    return status;
}

enum { MAX_NAMES = 64 };

/* Is there a kernel for it? */
static int is_device_built(const char *device)
{
    for (int i = 0; banyan_kernel_row(i); i++)
        if (strcmp(banyan_kernel_device(banyan_kernel_row(i)), device) == 0) return 1;
    return 0;
}

static banyan_status check_names(const banyan_spec *s)
{
    static const char *const devices[] = {"cpu", "cuda", NULL};
    const char *placements[MAX_NAMES + 1] = {NULL}, *merges[MAX_NAMES + 1] = {NULL};
    for (int i = 0; i < MAX_NAMES && banyan_placement_row(i); i++)
        placements[i] = banyan_placement_row(i)->name;
    for (int i = 0; i < MAX_NAMES && banyan_merge_row(i); i++)
        merges[i] = banyan_merge_row(i)->name;

    banyan_status status = one_of("placement", s->placement, placements);
    if (!status && s->merge) status = one_of("merge", s->merge, merges);
    if (!status) status = one_of("device", s->device, devices);
    if (!status && !is_device_built(s->device))
        status = banyan_fail(BANYAN_ERR_UNSUPPORTED,
                             "device is \"%s\", which is not in this build: expected cpu",
                             s->device);
    return status;
}

static banyan_status check_bandwidth(const banyan_spec *s, int32_t ranks)
{
    double most = 0;
    if (!s->bandwidth) return BANYAN_OK;
    for (int32_t r = 0; r < ranks; r++) {
        const double b = s->bandwidth[r];
        if (!isfinite(b) || b < 0)
            return banyan_fail(BANYAN_ERR_CONFIG,
                               "bandwidth of rank %d is %g: expected a number, 0 or more",
                               (int)r, b);
        if (b > most) most = b;
    }
    if (most <= 0)
        return banyan_fail(BANYAN_ERR_CONFIG,
                           "bandwidth is 0 on all %d ranks: expected at least one above 0",
                           (int)ranks);
    for (int32_t r = 0; r < ranks; r++) {
        const double b = s->bandwidth[r];
        if (b > 0 && b < most / 65536)
            return banyan_fail(BANYAN_ERR_CONFIG,
                               "bandwidth of rank %d is %g: expected 0, or at least 1/65536 of "
                               "the largest, %g",
                               (int)r, b, most);
    }
    return BANYAN_OK;
}

static banyan_status check_rules(const banyan_spec *s)
{
    banyan_status status = at_least("rule_count", s->rule_count, 0);
    if (!status && s->rule_count && !s->rules)
        status = banyan_fail(BANYAN_ERR_CONFIG, "rules is not set: expected %d of them",
                             (int)s->rule_count);
    for (int32_t i = 0; !status && i < s->rule_count; i++) {
        const banyan_rule *rule = &s->rules[i];
        status =
            check_range("rule", i, "layer", rule->first_layer, rule->last_layer, s->layers);
        if (!status)
            status =
                check_range("rule", i, "head", rule->first_head, rule->last_head, s->heads);
        if (!status && !rule->use)
            status = banyan_fail(BANYAN_ERR_CONFIG,
                                 "rule %d: use is not set: expected a selector", (int)i);
        char why[512];
        banyan_pattern pattern;
        if (!status && banyan_pattern_parse(
                           rule->use, rule->first_head, s->heads,
                           banyan_spec_shape(s, rule->first_layer).kv_heads, s->block_tokens,
                           s->planned_tokens ? s->planned_tokens : s->max_tokens, &pattern, why,
                           sizeof why))
            status =
                banyan_fail(BANYAN_ERR_CONFIG, "rule %d, \"%s\": %s", (int)i, rule->use, why);
    }
    return status;
}

/* Fixed-point sums hold so many blocks, and an all-reduce of floats does not add them. */
static banyan_status check_reproducible(const banyan_spec *s)
{
    const int64_t most = (int64_t)BANYAN_FIXED_BLOCKS * s->block_tokens;
    if (!s->reproducible) return BANYAN_OK;
    if (s->max_tokens > most)
        return banyan_fail(BANYAN_ERR_CONFIG,
                           "max_tokens is %lld: expected at most %lld with reproducible and "
                           "blocks of %d tokens",
                           (long long)s->max_tokens, (long long)most, (int)s->block_tokens);
    if (s->merge && banyan_merge_find(s->merge)->reduce)
        return banyan_fail(BANYAN_ERR_CONFIG,
                           "merge is \"%s\", which adds up floats: expected another one with "
                           "reproducible",
                           s->merge);
    return BANYAN_OK;
}

banyan_status banyan_spec_check(const banyan_spec *spec, int32_t ranks)
{
    banyan_status status = check_spec_shape(spec);
    if (!status) status = check_cache(spec);
    if (!status) status = check_names(spec);
    if (!status) status = check_shapes(spec);
    if (!status) status = check_cache_layers(spec);
    if (!status) status = check_sinks(spec);
    if (!status) status = check_bandwidth(spec, ranks);
    if (!status) status = check_rules(spec);
    if (!status) status = check_reproducible(spec);
    if (!status)
        status = check_within("balance", spec->balance, BANYAN_BALANCE_DECODE,
                              BANYAN_BALANCE_PREFILL);
    if (!status)
        status = check_within("home", spec->home, BANYAN_HOME_FIRST, BANYAN_HOME_DEALT);
    if (!status) status = check_within("out", spec->out, BANYAN_OUT_HOME, BANYAN_OUT_ALL);
    if (!status) status = check_within("threads", spec->threads, 0, 4096);
    if (!status && (spec->lost_rank < -1 || spec->lost_rank >= ranks))
        status = banyan_fail(BANYAN_ERR_CONFIG,
                             "lost_rank is %d: expected a rank, 0..%d, or -1 for none",
                             (int)spec->lost_rank, (int)ranks - 1);
    if (!status && (spec->lost_layer < -1 || spec->lost_layer >= spec->layers))
        status = banyan_fail(BANYAN_ERR_CONFIG,
                             "lost_layer is %d: expected a layer, 0..%d, or -1 for all",
                             (int)spec->lost_layer, (int)spec->layers - 1);
    if (!status) status = at_least("memory_limit", spec->memory_limit, 0);
    return status;
}
