/* SPDX-License-Identifier: Apache-2.0 */
/* From a config to a spec. A field that is not given keeps the library's default, so nothing
 * here knows a default; ranges and names of rules are checked by the plan, which knows the
 * shape. */
#include "launch/launch.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* A given field of a message that may be absent. */
#define TAKE(part, field, to)                                                                  \
    if ((part) && (part)->has_##field) (to) = (part)->field
#define TAKE_TEXT(part, field, to)                                                             \
    if ((part) && (part)->field) (to) = (part)->field

static bool read_number(const char **text, int32_t *out)
{
    char *end;
    if (!isdigit((unsigned char)**text)) return false;
    errno = 0;
    long n = strtol(*text, &end, 10);
    if (errno || n > INT32_MAX) return false;
    *out = (int32_t)n;
    *text = end;
    return true;
}

/* "all" (or nothing), "5", "0-3", "4-"; last -1 is the last there is. */
static bool read_range(const char *text, int32_t *first, int32_t *last)
{
    *first = 0;
    *last = -1;
    if (!text || !strcmp(text, "all")) return true;
    if (!read_number(&text, first)) return false;
    *last = *first;
    if (!*text) return true;
    if (*text++ != '-') return false;
    *last = -1;
    if (!*text) return true;
    return read_number(&text, last) && !*text && *last >= *first;
}

static banyan_status fill_rules(const Banyan__Config *config, config_spec *out, char *why,
                                size_t why_bytes)
{
    out->rules = calloc(config->n_rule + 1, sizeof *out->rules);
    if (!out->rules) {
        snprintf(why, why_bytes, "out of memory");
        return BANYAN_ERR_MEMORY;
    }
    for (size_t i = 0; i < config->n_rule; i++) {
        const Banyan__Rule *from = config->rule[i];
        banyan_rule *rule = &out->rules[i];
        bool layers = read_range(from->layers, &rule->first_layer, &rule->last_layer);
        if (!layers || !read_range(from->heads, &rule->first_head, &rule->last_head)) {
            snprintf(why, why_bytes,
                     "rule[%zu].%s \"%s\": expected \"5\", \"0-3\", \"4-\" or \"all\"", i,
                     layers ? "heads" : "layers", layers ? from->heads : from->layers);
            return BANYAN_ERR_CONFIG;
        }
        rule->use = from->use ? from->use : "dense";
    }
    out->spec.rules = out->rules;
    out->spec.rule_count = (int32_t)config->n_rule;
    return BANYAN_OK;
}

static void fill_shape(const Banyan__Shape *shape, banyan_spec *spec)
{
    spec->layers = 1;
    TAKE(shape, layers, spec->layers);
    TAKE(shape, heads, spec->heads);
    TAKE(shape, kv_heads, spec->kv_heads);
    TAKE(shape, key_dim, spec->key_dim);
    TAKE(shape, value_dim, spec->value_dim);
    TAKE(shape, scale, spec->scale);
    if (!shape || !shape->value_in_key) return;
    static const banyan_layer_shape latent = {.last_layer = -1, .value_in_key = 1};
    spec->shapes = &latent;
    spec->shape_count = 1;
}

bool spec_value_in_key(const banyan_spec *spec)
{
    return spec->shape_count > 0 && spec->shapes[0].value_in_key;
}

double spec_token_bytes(const banyan_spec *spec)
{
    const int64_t value = spec->value_dim ? spec->value_dim : spec->key_dim;
    return (double)((spec->key_dim + (spec_value_in_key(spec) ? 0 : value)) *
                    (int64_t)banyan_dtype_bytes(spec->cache_dtype));
}

static void fill_cache(const Banyan__Cache *cache, banyan_spec *spec)
{
    TAKE(cache, max_tokens, spec->max_tokens);
    TAKE(cache, planned_tokens, spec->planned_tokens);
    TAKE(cache, max_rows, spec->max_rows);
    TAKE(cache, block_tokens, spec->block_tokens);
    TAKE(cache, rollback_tokens, spec->rollback_tokens);
    TAKE(cache, evict, spec->evict);
    TAKE(cache, sequences, spec->sequences);
    if (spec->sequences > 1) spec->pool_tokens = spec->sequences * spec->max_tokens;
    TAKE(cache, pool_tokens, spec->pool_tokens);
    if (!cache || !cache->has_dtype) return;
    switch (cache->dtype) {
    case BANYAN__DTYPE__FP32: spec->cache_dtype = BANYAN_F32; break;
    case BANYAN__DTYPE__BF16: spec->cache_dtype = BANYAN_BF16; break;
    case BANYAN__DTYPE__FP16: spec->cache_dtype = BANYAN_F16; break;
    default: spec->cache_dtype = BANYAN_E4M3; break;
    }
}

/* The index of a name among names (ends with NULL) in *index, which stays as it is when none is
 * given. */
static banyan_status choice(const char *field, const char *given, const char *const *names,
                            int *index, char *why, size_t why_bytes)
{
    if (!given) return BANYAN_OK;
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], given)) continue;
        *index = i;
        return BANYAN_OK;
    }
    const char *near = banyan_nearest(given, names);
    snprintf(why, why_bytes, "execution.%s is \"%s\": expected %s or %s%s%s%s", field, given,
             names[0], names[1], near ? "; did you mean \"" : "", near ? near : "",
             near ? "\"?" : "");
    return BANYAN_ERR_CONFIG;
}

/* In the order of the enums. */
static banyan_status fill_choices(const Banyan__Execution *e, banyan_spec *spec, char *why,
                                  size_t why_bytes)
{
    static const char *const balances[] = {"decode", "prefill", NULL};
    static const char *const homes[] = {"first", "dealt", NULL};
    static const char *const outs[] = {"home", "all", NULL};
    int balance = spec->balance, home = spec->home, out = spec->out;
    if (!e) return BANYAN_OK;
    banyan_status status = choice("balance", e->balance, balances, &balance, why, why_bytes);
    if (!status) status = choice("home", e->home, homes, &home, why, why_bytes);
    if (!status) status = choice("out", e->out, outs, &out, why, why_bytes);
    spec->balance = (banyan_balance)balance;
    spec->home = (banyan_home)home;
    spec->out = (banyan_out)out;
    return status;
}

static banyan_status fill_execution(const Banyan__Execution *e, config_spec *out)
{
    banyan_spec *spec = &out->spec;
    TAKE_TEXT(e, placement, spec->placement);
    TAKE_TEXT(e, merge, spec->merge);
    TAKE_TEXT(e, kernel, spec->kernel);
    TAKE_TEXT(e, device, spec->device);
    TAKE(e, reproducible, spec->reproducible);
    TAKE(e, threads, spec->threads);
    TAKE(e, strict, spec->strict);
    TAKE(e, lost_rank, spec->lost_rank);
    TAKE(e, lost_layer, spec->lost_layer);
    TAKE(e, memory_limit, spec->memory_limit);
    if (!e || !e->n_bandwidth) return BANYAN_OK;
    /* As many as were given; the plan reads one per rank, so the verb compares the count. */
    out->bandwidth = malloc(e->n_bandwidth * sizeof *out->bandwidth);
    if (!out->bandwidth) return BANYAN_ERR_MEMORY;
    memcpy(out->bandwidth, e->bandwidth, e->n_bandwidth * sizeof *out->bandwidth);
    spec->bandwidth = out->bandwidth;
    return BANYAN_OK;
}

banyan_status spec_from_config(const Banyan__Config *config, config_spec *out, char *why,
                               size_t why_bytes)
{
    memset(out, 0, sizeof *out);
    banyan_spec_init(&out->spec);
    fill_shape(config->shape, &out->spec);
    fill_cache(config->cache, &out->spec);
    banyan_status status = fill_execution(config->execution, out);
    if (status) snprintf(why, why_bytes, "out of memory");
    if (!status) status = fill_choices(config->execution, &out->spec, why, why_bytes);
    if (!status) status = fill_rules(config, out, why, why_bytes);
    if (status) spec_free(out);
    return status;
}

void spec_free(config_spec *s)
{
    if (!s) return;
    free(s->rules);
    free(s->bandwidth);
    s->rules = NULL;
    s->bandwidth = NULL;
}
