/* SPDX-License-Identifier: Apache-2.0 */
/* config.json of a Hugging Face checkpoint: LlamaForCausalLM, with what it implies when a field is
 * absent. Whatever would change the arithmetic and is not supported is an error, never ignored. */
#include "launch/model/model.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const char *path;
    const json_t *root;
    char *why;
    size_t why_bytes;
    int failed;
} reader;

static void fail(reader *r, const char *field, const char *have, const char *want)
{
    if (!r->failed)
        snprintf(r->why, r->why_bytes, "%s: %s is %s; expected %s", r->path, field, have, want);
    r->failed = 1;
}

static void fail_value(reader *r, const char *field, const json_t *value, const char *want)
{
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    fail(r, field, text ? text : "missing", want);
    free(text);
}

/* An integer 1 .. INT32_MAX, or `absent` (negative: required). */
static int32_t count(reader *r, const char *field, int32_t absent)
{
    const json_t *value = json_object_get(r->root, field);
    json_int_t n = json_integer_value(value);
    if ((!value || json_is_null(value)) && absent >= 0) return absent;
    if (json_is_integer(value) && n >= 1 && n <= INT32_MAX) return (int32_t)n;
    fail_value(r, field, value, "a positive integer");
    return 1;
}

static double number(reader *r, const json_t *object, const char *field, double absent)
{
    const json_t *value = json_object_get(object, field);
    if (!value || json_is_null(value)) return absent;
    if (json_is_number(value) && json_number_value(value) > 0) return json_number_value(value);
    fail_value(r, field, value, "a positive number");
    return absent;
}

static int truth(reader *r, const char *field, int absent)
{
    const json_t *value = json_object_get(r->root, field);
    if (!value || json_is_null(value)) return absent;
    if (json_is_boolean(value)) return json_is_true(value);
    fail_value(r, field, value, "true or false");
    return absent;
}

static void only_text(reader *r, const char *field, const char *only)
{
    const json_t *value = json_object_get(r->root, field);
    if (!value || json_is_null(value)) return;
    const char *text = json_string_value(value);
    if (!text || strcmp(text, only) != 0) fail_value(r, field, value, only);
}

static void check_architecture(reader *r)
{
    const json_t *list = json_object_get(r->root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (json_array_size(list) == 1 && name && strcmp(name, "LlamaForCausalLM") == 0) return;
    fail_value(r, "architectures", list, "[\"LlamaForCausalLM\"]");
}

/* Scaled rotary embeddings change the angles: only the plain ones are computed. */
static void check_rope_type(reader *r, const char *field)
{
    const json_t *object = json_object_get(r->root, field);
    if (!object || json_is_null(object)) return;
    const json_t *type = json_object_get(object, "rope_type");
    if (!type) type = json_object_get(object, "type");
    const char *text = json_string_value(type);
    if (!json_is_object(object) || (type && (!text || strcmp(text, "default") != 0)) ||
        (!type && json_object_get(object, "factor")))
        fail_value(r, field, object, "null or the type \"default\" (plain rotary embeddings)");
}

static void read_rope(reader *r, model_shape *out)
{
    check_rope_type(r, "rope_scaling");
    check_rope_type(r, "rope_parameters");
    const json_t *newer = json_object_get(r->root, "rope_parameters");
    out->rope_theta = number(r, r->root, "rope_theta", number(r, newer, "rope_theta", 10000));
    double partial = number(r, r->root, "partial_rotary_factor",
                            number(r, newer, "partial_rotary_factor", 1));
    if (partial != 1) fail(r, "partial_rotary_factor", "not 1", "1 (whole heads are rotated)");
}

static void check_unsupported(reader *r)
{
    only_text(r, "model_type", "llama");
    only_text(r, "hidden_act", "silu");
    if (truth(r, "attention_bias", 0)) fail(r, "attention_bias", "true", "false (no biases)");
    if (truth(r, "mlp_bias", 0)) fail(r, "mlp_bias", "true", "false (no biases)");
    const json_t *quantised = json_object_get(r->root, "quantization_config");
    if (quantised && !json_is_null(quantised))
        fail_value(r, "quantization_config", quantised, "none: BF16, F16 or F32 weights");
}

static void check_shape(reader *r, const model_shape *s)
{
    char have[64];
    if (r->failed) return;
    if (s->heads % s->kv_heads != 0) {
        snprintf(have, sizeof have, "%d with %d num_key_value_heads", (int)s->heads,
                 (int)s->kv_heads);
        fail(r, "num_attention_heads", have, "a multiple of num_key_value_heads");
    } else if (s->head_dim % 2 != 0 || s->head_dim > 576) {
        snprintf(have, sizeof have, "%d", (int)s->head_dim);
        fail(r, "head_dim", have, "an even number up to 576");
    }
}

static void read_shape(reader *r, model_shape *out)
{
    out->hidden = count(r, "hidden_size", -1);
    out->heads = count(r, "num_attention_heads", -1);
    out->kv_heads = count(r, "num_key_value_heads", out->heads);
    out->head_dim = count(r, "head_dim", 0);
    if (out->head_dim == 0 && out->hidden % out->heads != 0 && !r->failed)
        fail(r, "head_dim", "missing",
             "a number, since num_attention_heads does not divide "
             "hidden_size");
    if (out->head_dim == 0) out->head_dim = out->hidden / out->heads;
    out->intermediate = count(r, "intermediate_size", -1);
    out->layers = count(r, "num_hidden_layers", -1);
    out->vocab = count(r, "vocab_size", -1);
    out->max_positions = (int64_t)number(r, r->root, "max_position_embeddings", 0);
    out->rms_eps = number(r, r->root, "rms_norm_eps", 1e-6);
    out->tied = truth(r, "tie_word_embeddings", 0);
}

banyan_status model_shape_read(const char *dir, model_shape *out, char *why, size_t why_bytes)
{
    char path[4096];
    json_error_t error;
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root && error.line <= 0)
        snprintf(why, why_bytes, "%s", error.text); /* names the path */
    else if (!root)
        snprintf(why, why_bytes, "%s: line %d, column %d: %s", path, error.line, error.column,
                 error.text);
    else if (!json_is_object(root))
        snprintf(why, why_bytes, "%s: no JSON object", path);
    reader r = {path, root, why, why_bytes, !json_is_object(root)};
    model_shape shape = {0};
    if (!r.failed) {
        check_architecture(&r);
        check_unsupported(&r);
        read_shape(&r, &shape);
        read_rope(&r, &shape);
        check_shape(&r, &shape);
    }
    json_decref(root);
    if (r.failed) return BANYAN_ERR_CONFIG;
    *out = shape;
    return BANYAN_OK;
}
