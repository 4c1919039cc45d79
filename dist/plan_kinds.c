/* SPDX-License-Identifier: Apache-2.0 */
/* Kinds of layers. Layers are of one kind when their shapes and their rules are the same, and
 * when the cache layers that they read are read alike, since a KV head keeps what any reader of
 * its cache layer will read:
 *
 *     layer           0       1       2       3       4       5
 *     rule            dense   s2      dense   s2      dense   s2
 *     cache layer     0       1       2       2       4       4
 *     kind            A       B       C       D       C       D    (C, D: kept by the union)
 *
 * Kinds that read the same cache layers have the same retention, and therefore the same
 * holders. */
#include "dist/plan.h"

#include <stdlib.h>
#include <string.h>

static const char *const no_rule = "dense";

static void uses_of_layer(const banyan_spec *spec, int32_t layer, const char **use)
{
    for (int32_t h = 0; h < spec->heads; h++) use[h] = no_rule;
    for (int32_t i = 0; i < spec->rule_count; i++) {
        const banyan_rule *rule = &spec->rules[i];
        if (layer < rule->first_layer || layer > rule->last_layer) continue;
        for (int32_t h = rule->first_head; h <= rule->last_head; h++) use[h] = rule->use;
    }
}

static banyan_shape shape_of_layer(const banyan_spec *spec, int32_t layer)
{
    const banyan_layer_shape s = banyan_spec_shape(spec, layer);
    const int32_t group = spec->heads / s.kv_heads;
    return (banyan_shape){.kv_heads = s.kv_heads,
                          .key_dim = s.key_dim,
                          .value_dim = s.value_dim,
                          .scale = s.scale,
                          .group = group,
                          .block = {.block_tokens = spec->block_tokens,
                                    .key_dim = s.key_dim,
                                    .value_dim = s.value_dim,
                                    .dtype = spec->cache_dtype,
                                    .value_in_key = s.value_in_key}};
}

static int is_same_shape(const banyan_shape *a, const banyan_shape *b)
{
    return a->kv_heads == b->kv_heads && a->key_dim == b->key_dim &&
           a->value_dim == b->value_dim && a->scale == b->scale &&
           a->block.value_in_key == b->block.value_in_key;
}

/* What a layer is, whatever others read. */
typedef struct layer_form {
    banyan_shape shape;
    const char **use; /* [heads] */
} layer_form;

typedef struct finding {
    banyan_plan *plan;
    layer_form *forms; /* [layers] */
    int32_t form_count;
    int32_t *form_of; /* [layers] */
    size_t words;
    uint64_t *read_by; /* [layers][words]: bits of looks of the readers of a cache layer */
} finding;

/* Equal texts share one pointer, so that uses compare as bytes. */
static banyan_status find_forms(finding *f)
{
    const banyan_spec *spec = &f->plan->spec;
    const size_t bytes = (size_t)spec->heads * sizeof(char *);
    const char **use = NULL;
    for (int32_t layer = 0; layer < spec->layers; layer++) {
        const banyan_shape shape = shape_of_layer(spec, layer);
        if (!use) use = banyan_plan_alloc(f->plan, bytes, 1);
        if (!use) return BANYAN_ERR_MEMORY;
        uses_of_layer(spec, layer, use);
        int32_t i = 0;
        while (i < f->form_count && (!is_same_shape(&f->forms[i].shape, &shape) ||
                                     memcmp(f->forms[i].use, use, bytes)))
            i++;
        if (i == f->form_count) {
            f->forms[f->form_count++] = (layer_form){shape, use};
            use = NULL;
        }
        f->form_of[layer] = i;
    }
    return BANYAN_OK;
}

static const uint64_t *readers_of(const finding *f, int32_t layer)
{
    return f->read_by + (size_t)f->plan->spec.cache_layer[layer] * f->words;
}

static void find_readers(finding *f)
{
    for (int32_t layer = 0; layer < f->plan->spec.layers; layer++) {
        const int32_t i = f->form_of[layer], cache_layer = f->plan->spec.cache_layer[layer];
        f->read_by[(size_t)cache_layer * f->words + (size_t)i / 64] |= UINT64_C(1) << i % 64;
    }
}

static void find_kinds(finding *f)
{
    banyan_plan *plan = f->plan;
    for (int32_t layer = 0; layer < plan->spec.layers; layer++) {
        const layer_form *l = &f->forms[f->form_of[layer]];
        const uint64_t *readers = readers_of(f, layer);
        int32_t k = 0;
        while (k < plan->kinds &&
               (plan->kind[k].use != l->use ||
                memcmp(readers_of(f, plan->kind[k].first_layer), readers, f->words * 8)))
            k++;
        if (k == plan->kinds)
            plan->kind[plan->kinds++] =
                (banyan_kind){.first_layer = layer, .shape = l->shape, .use = l->use};
        plan->kind[k].layer_count++;
        plan->kind[k].kept_layers += plan->spec.cache_layer[layer] == layer;
        plan->kind_of_layer[layer] = k;
    }
}

/* The kinds that read the cache layers of `kind`, ascending, itself among them. */
static banyan_status set_readers(banyan_plan *plan, banyan_kind *kind)
{
    const int32_t *cache_layer = plan->spec.cache_layer;
    kind->reader = banyan_plan_alloc(plan, (size_t)plan->kinds, sizeof *kind->reader);
    if (!kind->reader) return BANYAN_ERR_MEMORY;
    for (int32_t layer = 0; layer < plan->spec.layers; layer++) {
        if (cache_layer[layer] != cache_layer[kind->first_layer]) continue;
        const int32_t k = plan->kind_of_layer[layer];
        int32_t at = kind->reader_count;
        while (at > 0 && kind->reader[at - 1] > k) at--;
        if (at > 0 && kind->reader[at - 1] == k) continue;
        memmove(kind->reader + at + 1, kind->reader + at,
                (size_t)(kind->reader_count - at) * sizeof *kind->reader);
        kind->reader[at] = k;
        kind->reader_count++;
    }
    return BANYAN_OK;
}

static banyan_status fill_kinds(finding *f)
{
    banyan_plan *plan = f->plan;
    const size_t layers = (size_t)plan->spec.layers;
    f->forms = calloc(layers, sizeof *f->forms);
    f->form_of = calloc(layers, sizeof *f->form_of);
    if (!f->forms || !f->form_of)
        return banyan_fail(BANYAN_ERR_MEMORY, "no memory to tell %zu layers apart", layers);
    const banyan_status status = find_forms(f);
    if (status) return status;
    f->words = ((size_t)f->form_count + 63) / 64;
    f->read_by = calloc(layers * f->words, sizeof *f->read_by);
    if (!f->read_by)
        return banyan_fail(BANYAN_ERR_MEMORY, "no memory to tell %zu layers apart", layers);
    find_readers(f);
    find_kinds(f);
    return BANYAN_OK;
}

banyan_status banyan_plan_kinds(banyan_plan *plan)
{
    const size_t layers = (size_t)plan->spec.layers;
    plan->kind_of_layer = banyan_plan_alloc(plan, layers, sizeof *plan->kind_of_layer);
    plan->kind = banyan_plan_alloc(plan, layers, sizeof *plan->kind);
    if (!plan->kind_of_layer || !plan->kind) return BANYAN_ERR_MEMORY;
    finding f = {.plan = plan};
    banyan_status status = fill_kinds(&f);
    free(f.forms);
    free(f.form_of);
    free(f.read_by);
    for (int32_t k = 0; !status && k < plan->kinds; k++)
        status = set_readers(plan, &plan->kind[k]);
    return status;
}
