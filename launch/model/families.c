/* SPDX-License-Identifier: Apache-2.0 */
/* The table of families, and what all of them read from config.json. Whatever would change
 * the arithmetic and is not supported is an error, never ignored. */
#include "launch/model/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BANYAN_ROW(name, needs, doc) extern const family family_##name;
#include "launch/model/families.def"
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) {&family_##name, #name, doc},
static const struct {
    const family *family;
    const char *name, *doc;
} rows[] = {
#include "launch/model/families.def"
};
#undef BANYAN_ROW
enum { row_count = sizeof rows / sizeof rows[0] };

const family *family_row(int index)
{
    return index >= 0 && index < row_count ? rows[index].family : NULL;
}

const char *family_name(int index)
{
    return rows[index].name;
}

const char *family_doc(int index)
{
    return rows[index].doc;
}

/* ---- which family ------------------------------------------------------------------------ */

static bool is_among(const char *word, const char *const list[4])
{
    for (int i = 0; word && i < 4 && list[i]; i++)
        if (!strcmp(list[i], word)) return true;
    return false;
}

static void add_names(char *text, size_t bytes, const char *const list[4])
{
    for (int i = 0; i < 4 && list[i]; i++)
        snprintf(text + strlen(text), bytes - strlen(text), "%s%s", *text ? ", " : "", list[i]);
}

/* transformers goes by model_type; architectures must then be the one that generates.
 * Without a model_type the architecture decides. */
static const family *find_family(hf_config *c)
{
    const char *type = hf_text(c, NULL, "model_type", NULL);
    const json_t *list = hf_get(c, NULL, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    char known[2048] = "";
    for (int i = 0; i < row_count && !c->failed; i++) {
        const family *f = rows[i].family;
        if (type ? !is_among(type, f->types) : !is_among(name, f->architectures)) continue;
        if (!list || (json_array_size(list) == 1 && is_among(name, f->architectures))) return f;
        add_names(known, sizeof known, f->architectures);
        hf_fail(c, "architectures", list, known);
    }
    for (int i = 0; i < row_count; i++)
        add_names(known, sizeof known,
                  type ? rows[i].family->types : rows[i].family->architectures);
    hf_fail(c, type ? "model_type" : "architectures",
            hf_get(c, NULL, type ? "model_type" : "architectures"), known);
    return NULL;
}

/* ---- the shape --------------------------------------------------------------------------- */

static const char *word(const char *own, const char *common)
{
    return own ? own : common;
}

static void check_model_shape(hf_config *c, const model_shape *s)
{
    char have[64];
    if (c->failed) return;
    json_t *value = NULL;
    if (s->heads % s->kv_heads != 0) {
        snprintf(have, sizeof have, "%d with %d num_key_value_heads", (int)s->heads,
                 (int)s->kv_heads);
        value = json_string(have);
        hf_fail(c, "num_attention_heads", value, "a multiple of num_key_value_heads");
    } else if (s->head_dim % 2 != 0 || s->head_dim > 2 * ROPE_PAIRS) {
        value = json_integer(s->head_dim);
        hf_fail(c, "head_dim", value, "an even number up to 576");
    }
    json_decref(value);
}

/* Beyond 64 bits there is no difference. */
static int64_t as_tokens(double count)
{
    return count < 0x1p63 ? (int64_t)count : INT64_MAX;
}

static void read_shape(hf_config *c, const family *f, model_shape *out)
{
    const config_words *w = &f->words;
    out->hidden = hf_count(c, NULL, "hidden_size", -1);
    out->heads = hf_count(c, NULL, "num_attention_heads", -1);
    out->kv_heads = hf_count(c, NULL, word(w->kv_heads, "num_key_value_heads"), out->heads);
    const char *head_dim = word(w->head_dim, "head_dim");
    out->head_dim = hf_count(c, NULL, head_dim, hf_has(c, NULL, head_dim) ? 0 : f->head_dim);
    if (out->head_dim == 0 && out->hidden % out->heads != 0)
        hf_fail(c, head_dim, NULL,
                "a number, since num_attention_heads does not divide hidden_size");
    if (out->head_dim == 0) out->head_dim = out->hidden / out->heads;
    out->intermediate = hf_count(c, NULL, word(w->intermediate, "intermediate_size"), -1);
    out->layers = hf_count(c, NULL, word(w->layers, "num_hidden_layers"), -1);
    out->vocab = hf_count(c, NULL, word(w->vocab, "vocab_size"), -1);
    out->max_positions =
        as_tokens(hf_number(c, NULL, word(w->positions, "max_position_embeddings"), 0));
    out->norm_eps =
        hf_number(c, NULL, word(w->eps, "rms_norm_eps"), f->eps > 0 ? f->eps : 1e-6);
    out->tied = hf_truth(c, NULL, "tie_word_embeddings", f->tied);
    check_model_shape(c, out);
}

static void read_layer_fields(hf_config *c, const family *f, description *d)
{
    static const char *const words[] = {"silu",  "gelu_pytorch_tanh", "gelu", "gegelu",
                                        "swish", "gelu_new",          NULL};
    static const activation kinds[] = {ACT_SILU,   ACT_GELU_TANH, ACT_GELU,
                                       ACT_GEGELU, ACT_SILU,      ACT_GELU_TANH};
    const char *field = word(f->words.act, "hidden_act");
    const char *name = hf_text(c, NULL, field, word(f->act, "silu"));
    bool bias = hf_truth(c, NULL, word(f->words.attention_bias, "attention_bias"), f->biased);
    if (!c->failed) d->act = kinds[hf_choice(c, field, name, words)];
    d->norm = f->norm;
    d->qkv_bias = f->qkv_bias || bias;
    d->o_bias = bias && !f->no_o_bias;
    d->mlp_bias = hf_truth(c, NULL, word(f->words.mlp_bias, "mlp_bias"), false);
    d->embedding_scale = d->residual_scale = d->logit_divisor = 1;
    d->act_cap = 20;
    const json_t *quantised = hf_get(c, NULL, "quantization_config");
    const char *method = json_string_value(json_object_get(quantised, "quant_method"));
    d->is_mxfp4 = f->experts_together && method && !strcmp(method, "mxfp4");
    if (quantised && !d->is_mxfp4)
        hf_fail(c, "quantization_config", quantised,
                f->experts_together ? "quant_method mxfp4, or none: BF16, F16 or F32 weights"
                                    : "none: BF16, F16 or F32 weights");
}

/* ---- ropes ------------------------------------------------------------------------------- */

/* The object of a kind of layer: rope_parameters (which older files call rope_scaling), or a
 * member of it where it has one for each kind of layer. */
static const json_t *rope_object(hf_config *c, const char *layer_type, bool *is_nested)
{
    const json_t *newer = hf_get(c, NULL, "rope_parameters");
    const json_t *older = hf_get(c, NULL, "rope_scaling");
    if (newer && older && !json_equal(newer, older))
        hf_fail(c, "rope_scaling", older, "the same as in rope_parameters, or one of the two");
    const json_t *object = newer ? newer : older;
    if (object && !json_is_object(object))
        hf_fail(c, newer ? "rope_parameters" : "rope_scaling", object, "an object or null");
    *is_nested = hf_get(c, object ? object : c->root, "full_attention") != NULL;
    return *is_nested ? hf_get(c, object, layer_type) : object;
}

static void read_ropes(hf_config *c, const family *f, description *d)
{
    bool is_nested = false;
    double theta = f->theta > 0 ? f->theta : 10000, partial = f->partial > 0 ? f->partial : 1;
    const char *word_theta = word(f->words.theta, "rope_theta");
    const json_t *full = rope_object(c, "full_attention", &is_nested);
    const rope_defaults defaults = {
        .theta = hf_number(c, NULL, word_theta, theta),
        .theta_given = !is_nested && hf_get(c, NULL, word_theta) != NULL,
        .partial = hf_number(c, NULL, "partial_rotary_factor", partial),
        .partial_given = hf_get(c, NULL, "partial_rotary_factor") != NULL,
        .head_dim = d->shape.head_dim,
        .trained = (double)d->shape.max_positions,
        .original = hf_number(c, NULL, "original_max_position_embeddings", 0)};
    if (c->failed) return;
    rope_read(c, full, &defaults, &d->rope[0]);
    d->ropes = 1;
    const json_t *sliding = is_nested ? rope_object(c, "sliding_attention", &is_nested) : NULL;
    if (sliding) rope_read(c, sliding, &defaults, &d->rope[d->ropes++]);
    d->shape.rope_theta = d->rope[0].theta;
    if (!c->failed) d->shape.max_positions = as_tokens(rope_reach(&d->rope[0]));
}

/* ---- layers that differ ------------------------------------------------------------------ */

/* Qwen2.5-1M, Qwen3-2507: dual.c. */
static void read_dual_chunk(hf_config *c, description *d)
{
    const json_t *dual = hf_get(c, NULL, "dual_chunk_attention_config");
    if (!dual) return;
    d->dual_chunk = hf_count(c, dual, "chunk_size", -1);
    d->dual_local = hf_count(c, dual, "local_size", -1);
    d->dual_original = hf_number(c, dual, "original_max_position_embeddings", 0);
    if (!c->failed && d->dual_local >= d->dual_chunk)
        hf_fail(c, "local_size", hf_get(c, dual, "local_size"), "less than chunk_size");
    if (!c->failed && d->ropes > 1)
        hf_fail(c, "dual_chunk_attention_config", dual, "one kind of rotary embedding");
}

/* ---- all of it --------------------------------------------------------------------------- */

static void read_all(hf_config *c, description *d)
{
    const family *f = d->family = find_family(c);
    if (f) read_shape(c, f, &d->shape);
    if (f) read_layer_fields(c, f, d);
    if (c->failed) return;
    read_ropes(c, f, d);
    d->layer = calloc((size_t)d->shape.layers, sizeof *d->layer);
    if (!d->layer) hf_out_of_memory(c);
    read_dual_chunk(c, d);
    if (!c->failed && f->read) f->read(c, d);
    if (d->experts && d->top_experts > d->experts)
        hf_fail(c, "num_experts_per_tok", hf_get(c, NULL, "num_experts_per_tok"),
                "no more than there are experts");
}

banyan_status description_read(const char *dir, description *out, char *why, size_t why_bytes)
{
    hf_config c;
    *out = (description){0};
    if (!hf_config_open(dir, &c, why, why_bytes)) return BANYAN_ERR_CONFIG;
    read_all(&c, out);
    hf_config_close(&c);
    if (!c.failed) return BANYAN_OK;
    description_free(out);
    return BANYAN_ERR_CONFIG;
}

void description_free(description *d)
{
    free(d->layer);
    free(d->dummy);
    *d = (description){0};
}

banyan_status model_shape_read(const char *dir, model_shape *out, char *why, size_t why_bytes)
{
    description d;
    banyan_status status = description_read(dir, &d, why, why_bytes);
    if (!status) *out = d.shape;
    description_free(&d);
    return status;
}
