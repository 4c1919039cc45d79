/* SPDX-License-Identifier: Apache-2.0 */
/* Weights from the map into memory: each rank converts its own columns to fp32, once, and looks for
 * values that are not finite on the way. Embedding rows stay in the map; each rank tests its share
 * of them. */
#include "launch/model/llama.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static banyan_status not_finite(model *m, const tensor *t, int64_t index)
{
    int64_t columns = t->dims == 2 ? t->shape[1] : 1;
    snprintf(m->why, WHY,
             "%s: tensor '%s' holds a NaN or an infinity at [%" PRId64 ", %" PRId64 "]",
             t->file, t->name, index / columns, index % columns);
    return BANYAN_ERR_CONFIG;
}

static banyan_status no_memory(model *m, const char *what, int64_t floats)
{
    snprintf(m->why, WHY, "out of memory: %s needs %.1f MiB", what,
             (double)floats * sizeof(float) / 0x1p20);
    return BANYAN_ERR_MEMORY;
}

/* Rows first .. first+count-1 of matrix `name` [rows][cols] into out. */
static banyan_status load_rows(model *m, const char *name, int64_t rows, int64_t cols,
                               int64_t first, int64_t count, float *out)
{
    const tensor *t = safetensors_matrix(m->files, name, rows, cols, m->why, WHY);
    if (!t) return BANYAN_ERR_CONFIG;
    int64_t width = cols ? cols : 1;
    int64_t bad = tensor_to_float(t, first * width, count * width, out);
    return bad < 0 ? BANYAN_OK : not_finite(m, t, bad);
}

static const char *layer_name(char *text, size_t bytes, int32_t layer, const char *part)
{
    snprintf(text, bytes, "model.layers.%d.%s.weight", (int)layer, part);
    return text;
}

static banyan_status load_norm(model *m, const char *name, float **out)
{
    *out = malloc((size_t)m->shape.hidden * sizeof **out);
    if (!*out) return no_memory(m, name, m->shape.hidden);
    return load_rows(m, name, m->shape.hidden, 0, 0, m->shape.hidden, *out);
}

/* Room for this rank's columns; `copies` of the same cut one after the other. */
static banyan_status make_linear(model *m, int64_t columns, int64_t in, int copies, linear *l)
{
    l->columns = columns;
    l->in = in;
    l->first = cut_first(columns, m->rank, m->ranks);
    l->count = cut_first(columns, m->rank + 1, m->ranks) - l->first;
    int64_t floats = copies * l->count * in;
    if (posix_memalign((void **)&l->weight, 64, (size_t)(floats + 16) * sizeof(float)) == 0)
        return BANYAN_OK;
    l->weight = NULL;
    return no_memory(m, "a rank's share of a matrix", floats);
}

/* When all is loaded: to where it is multiplied. */
static banyan_status keep_linear(model *m, banyan_status loaded, int copies, linear *l)
{
    return loaded ? loaded : linear_keep(m, &l->weight, copies * l->count * l->in);
}

static banyan_status load_linear(model *m, const char *name, int64_t columns, int64_t in,
                                 linear *l)
{
    banyan_status status = make_linear(m, columns, in, 1, l);
    if (!status) status = load_rows(m, name, columns, in, l->first, l->count, l->weight);
    return keep_linear(m, status, 1, l);
}

/* Columns k_0, v_0, k_1, v_1, ..: each part of a KV head that lies in this rank's cut. */
static banyan_status load_kv(model *m, int32_t layer, linear *l)
{
    int64_t dim = m->shape.head_dim, in = m->shape.hidden, each = m->shape.kv_heads * dim;
    char key[80], value[80];
    layer_name(key, sizeof key, layer, "self_attn.k_proj");
    layer_name(value, sizeof value, layer, "self_attn.v_proj");
    banyan_status status = make_linear(m, 2 * each, in, 1, l);
    for (int64_t at = l->first, next; !status && at < l->first + l->count; at = next) {
        int64_t part = at / dim, end = l->first + l->count;
        next = (part + 1) * dim < end ? (part + 1) * dim : end;
        status = load_rows(m, part % 2 ? value : key, each, in, part / 2 * dim + at % dim,
                           next - at, l->weight + (at - l->first) * in);
    }
    return keep_linear(m, status, 1, l);
}

static banyan_status load_gate_up(model *m, int32_t layer, linear *l)
{
    int64_t columns = m->shape.intermediate, in = m->shape.hidden;
    char name[80];
    banyan_status status = make_linear(m, columns, in, 2, l);
    if (!status)
        status = load_rows(m, layer_name(name, sizeof name, layer, "mlp.gate_proj"), columns,
                           in, l->first, l->count, l->weight);
    if (!status)
        status = load_rows(m, layer_name(name, sizeof name, layer, "mlp.up_proj"), columns, in,
                           l->first, l->count, l->weight + l->count * in);
    return keep_linear(m, status, 2, l);
}

static banyan_status load_layer(model *m, int32_t layer)
{
    const model_shape *s = &m->shape;
    llama_layer *l = &m->layer[layer];
    int64_t q = (int64_t)s->heads * s->head_dim;
    char name[80];
    banyan_status status =
        load_norm(m, layer_name(name, sizeof name, layer, "input_layernorm"), &l->input_norm);
    if (!status)
        status = load_norm(m, layer_name(name, sizeof name, layer, "post_attention_layernorm"),
                           &l->post_norm);
    if (!status)
        status = load_linear(m, layer_name(name, sizeof name, layer, "self_attn.q_proj"), q,
                             s->hidden, &l->q);
    if (!status) status = load_kv(m, layer, &l->kv);
    if (!status)
        status = load_linear(m, layer_name(name, sizeof name, layer, "self_attn.o_proj"),
                             s->hidden, q, &l->o);
    if (!status) status = load_gate_up(m, layer, &l->gate_up);
    if (!status)
        status = load_linear(m, layer_name(name, sizeof name, layer, "mlp.down_proj"),
                             s->hidden, s->intermediate, &l->down);
    return status;
}

static banyan_status check_embedding(model *m)
{
    int64_t width = m->shape.hidden, vocab = m->shape.vocab;
    m->embedding =
        safetensors_matrix(m->files, "model.embed_tokens.weight", vocab, width, m->why, WHY);
    if (!m->embedding) return BANYAN_ERR_CONFIG;
    int64_t first = cut_first(vocab, m->rank, m->ranks);
    int64_t end = cut_first(vocab, m->rank + 1, m->ranks);
    int64_t bad = tensor_find_bad(m->embedding, first * width, (end - first) * width);
    return bad < 0 ? BANYAN_OK : not_finite(m, m->embedding, bad);
}

/* Rows that are this rank's of a matrix that is cut; 0 cols: a vector, which all have. */
static banyan_status measure_one(model *m, const char *name, int64_t rows, int64_t cols,
                                 int64_t *floats)
{
    if (!safetensors_matrix(m->files, name, rows, cols, m->why, WHY)) return BANYAN_ERR_CONFIG;
    int64_t mine = cut_first(rows, m->rank + 1, m->ranks) - cut_first(rows, m->rank, m->ranks);
    *floats += cols ? mine * cols : rows;
    return BANYAN_OK;
}

banyan_status weights_measure(model *m, int64_t *bytes)
{
    const model_shape *s = &m->shape;
    int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
    const struct {
        const char *name;
        int64_t rows, cols;
    } parts[] = {{"input_layernorm", s->hidden, 0},
                 {"post_attention_layernorm", s->hidden, 0},
                 {"self_attn.q_proj", q, s->hidden},
                 {"self_attn.k_proj", kv, s->hidden},
                 {"self_attn.v_proj", kv, s->hidden},
                 {"self_attn.o_proj", s->hidden, q},
                 {"mlp.gate_proj", s->intermediate, s->hidden},
                 {"mlp.up_proj", s->intermediate, s->hidden},
                 {"mlp.down_proj", s->hidden, s->intermediate}};
    int64_t floats = 0;
    banyan_status status =
        measure_one(m, "model.embed_tokens.weight", s->vocab, s->hidden, &floats);
    if (s->tied == 0) floats = 0; /* embeddings stay in the map */
    for (int32_t layer = 0; !status && layer < s->layers; layer++)
        for (size_t i = 0; !status && i < sizeof parts / sizeof parts[0]; i++) {
            char name[80];
            status = measure_one(m, layer_name(name, sizeof name, layer, parts[i].name),
                                 parts[i].rows, parts[i].cols, &floats);
        }
    if (!status) status = measure_one(m, "model.norm.weight", s->hidden, 0, &floats);
    if (!status && !s->tied)
        status = measure_one(m, "lm_head.weight", s->vocab, s->hidden, &floats);
    *bytes = floats * (int64_t)sizeof(float);
    return status;
}

banyan_status weights_load(model *m)
{
    const char *head = m->shape.tied ? "model.embed_tokens.weight" : "lm_head.weight";
    banyan_status status = check_embedding(m);
    m->layer = calloc((size_t)m->shape.layers, sizeof *m->layer);
    if (!m->layer) return no_memory(m, "the list of layers", 0);
    for (int32_t layer = 0; !status && layer < m->shape.layers; layer++)
        status = load_layer(m, layer);
    if (!status) status = load_norm(m, "model.norm.weight", &m->final_norm);
    if (!status) status = load_linear(m, head, m->shape.vocab, m->shape.hidden, &m->head);
    return status;
}

void weights_free(model *m)
{
    for (int32_t layer = 0; m->layer && layer < m->shape.layers; layer++) {
        llama_layer *l = &m->layer[layer];
        free(l->input_norm);
        free(l->post_norm);
        linear_drop(m, l->q.weight);
        linear_drop(m, l->kv.weight);
        linear_drop(m, l->o.weight);
        linear_drop(m, l->gate_up.weight);
        linear_drop(m, l->down.weight);
    }
    free(m->layer);
    free(m->final_norm);
    linear_drop(m, m->head.weight);
}
