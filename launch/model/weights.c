/* SPDX-License-Identifier: Apache-2.0 */
/* Which rows of which tensors are a matrix's columns, and this rank's share of them. Weights
 * stay in the map of the file; each rank reads its own once, and looks for values that are
 * not finite on the way. Vectors (norms and biases) are small, and every rank has them in
 * memory. */
#include "launch/model/runner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static banyan_status not_finite(model *m, const tensor *t, int64_t index)
{
    int64_t columns = t->dims >= 2 ? t->shape[t->dims - 1] : 1;
    snprintf(m->why, WHY,
             "%s: tensor '%s' holds a NaN or an infinity at [%" PRId64 ", %" PRId64 "]",
             t->file, t->name, index / columns, index % columns);
    return BANYAN_ERR_CONFIG;
}

static banyan_status no_tensor_memory(model *m)
{
    snprintf(m->why, WHY, "out of memory for the list of the model's tensors");
    return BANYAN_ERR_MEMORY;
}

/* ---- names ------------------------------------------------------------------------------- */

enum { NAME = 256, OUTSIDE = -1 };

/* Two numbers of a name: the layer (or OUTSIDE), and the expert within it. */
typedef struct where {
    int32_t layer, expert;
} where;

/* A part's name, "model.layers.3." "mlp.gate_proj" ".weight" */
static void full_name(const model *m, where at, const char *part, const char *ending,
                      char out[NAME])
{
    size_t length = 0;
    if (at.layer != OUTSIDE)
        length = (size_t)snprintf(out, NAME, m->is.family->names.layer, (int)at.layer);
    length += (size_t)snprintf(out + length, NAME - length, part, (int)at.expert);
    snprintf(out + length, NAME - length, "%s", ending);
}

static banyan_status find_vector(model *m, where at, const char *part, const char *ending,
                                 int64_t width, float **out)
{
    char name[NAME];
    full_name(m, at, part, ending, name);
    const tensor *t = safetensors_matrix(m->files, name, width, 0, m->why, WHY);
    if (!t) return BANYAN_ERR_CONFIG;
    *out = malloc((size_t)width * sizeof **out);
    if (!*out) return no_tensor_memory(m);
    int64_t bad = tensor_to_float(t, 0, width, *out);
    return bad < 0 ? BANYAN_OK : not_finite(m, t, bad);
}

static banyan_status find_norm(model *m, where at, const char *part, int64_t width, norm *out)
{
    if (!part) return BANYAN_OK;
    banyan_status status = find_vector(m, at, part, ".weight", width, &out->weight);
    if (!status && m->is.norm == NORM_LAYER)
        status = find_vector(m, at, part, ".bias", width, &out->bias);
    for (int64_t i = 0; !status && m->is.norm == NORM_RMS_ONE && i < width; i++)
        out->weight[i] += 1;
    return status;
}

/* ---- which row a column is --------------------------------------------------------------- */

/* One of the tensors of a matrix, and a row of it. */
typedef struct tensor_row {
    int tensor;
    int64_t row;
} tensor_row;
typedef tensor_row (*source_fn)(const description *d, int64_t column, int64_t columns);

static tensor_row plain(const description *d, int64_t column, int64_t columns)
{
    (void)columns;
    (void)d;
    return (tensor_row){0, column};
}

/* Entry i of a head as attention has it, where checkpoints may have its pairs side by side. */
static int64_t entry(const description *d, int64_t i)
{
    int64_t pairs = d->rope[0].dims / 2;
    if (!d->family->interleaved || i >= 2 * pairs) return i;
    return i < pairs ? 2 * i : 2 * (i - pairs) + 1;
}

/* Columns [heads][head_dim]. */
static tensor_row q_source(const description *d, int64_t column, int64_t columns)
{
    (void)columns;
    int64_t dim = d->shape.head_dim, head = column / dim, i = entry(d, column % dim);
    int64_t group = d->shape.heads / d->shape.kv_heads;
    if (d->family->qkv == QKV_GROUPED) head += head / group * 2;
    return (tensor_row){0, head * dim + i};
}

/* Columns [kv_heads][k, v][head_dim]. */
static tensor_row kv_source(const description *d, int64_t column, int64_t columns)
{
    (void)columns;
    int64_t dim = d->shape.head_dim, part = column / dim, head = part / 2, i = column % dim;
    int64_t group = d->shape.heads / d->shape.kv_heads, heads = d->shape.heads;
    int is_v = part % 2;
    if (!is_v) i = entry(d, i);
    switch (d->family->qkv) {
    case QKV_APART: return (tensor_row){is_v, head * dim + i};
    case QKV_JOINED:
        return (tensor_row){0, (heads + is_v * d->shape.kv_heads + head) * dim + i};
    case QKV_GROUPED: break;
    }
    return (tensor_row){0, (head * (group + 2) + group + is_v) * dim + i};
}

/* .. where gate has the even rows and up the odd ones. */
static tensor_row mixed_source(const description *d, int64_t column, int64_t columns)
{
    (void)d;
    const int64_t is_up = column >= columns;
    return (tensor_row){0, 2 * (column - is_up * columns) + is_up};
}

/* Columns [gate, up][columns]. */
static tensor_row gate_up_source(const description *d, int64_t column, int64_t columns)
{
    int64_t is_up = column >= columns, i = column - is_up * columns;
    switch (d->family->gate_up) {
    case GATE_UP_APART: return (tensor_row){(int)is_up, i};
    case GATE_UP_JOINED: return (tensor_row){0, column};
    case GATE_UP_MIXED: break;
    }
    return mixed_source(d, column, columns);
}

/* ---- matrices ---------------------------------------------------------------------------- */

/* A matrix as it is looked for. Where all experts lie together, its one tensor is theirs. */
typedef struct matrix {
    where at;
    const char *part[2]; /* its tensors; the second may be NULL */
    int64_t rows[2];     /* of each */
    int64_t columns, in;
    int copies; /* 2: columns .. of gate, then the same of up */
    bool has_bias;
    source_fn source;
    bool is_together;
} matrix;

static bool add_tensor_row(linear *l, const tensor *t, int64_t row)
{
    tensor_rows *last = l->stretches > 0 ? &l->stretch[l->stretches - 1] : NULL;
    if (last && last->tensor == t) {
        if (last->count == 1 && row > last->row) last->step = row - last->row;
        if (row == last->row + last->count * last->step) return ++last->count;
    }
    if ((l->stretches & (l->stretches - 1)) == 0) { /* full at powers of two */
        size_t room = l->stretches > 0 ? 2 * (size_t)l->stretches : 1;
        tensor_rows *grown = realloc(l->stretch, room * sizeof *grown);
        if (!grown) return false;
        l->stretch = grown;
    }
    l->stretch[l->stretches++] = (tensor_rows){t, row, 1, 1};
    return true;
}

static banyan_status find_tensors(model *m, const matrix *x, const tensor *t[2],
                                  const tensor *bias[2])
{
    char name[NAME];
    for (int i = 0; i < 2 && x->part[i]; i++) {
        full_name(m, x->at, x->part[i], ".weight", name);
        t[i] = safetensors_matrix(m->files, name, x->rows[i], x->in, m->why, WHY);
        if (!t[i]) return BANYAN_ERR_CONFIG;
        if (!x->has_bias) continue;
        full_name(m, x->at, x->part[i], ".bias", name);
        bias[i] = safetensors_matrix(m->files, name, x->rows[i], 0, m->why, WHY);
        if (!bias[i]) return BANYAN_ERR_CONFIG;
    }
    return BANYAN_OK;
}

/* .. of an expert among all: views of its matrix, and of its bias, a vector that lies in one
 *   piece. */
static banyan_status find_view(model *m, const matrix *x, linear *l, const tensor *t[2],
                               tensor *bias, const tensor *biases[2])
{
    char name[NAME];
    const int64_t shape[] = {m->is.experts, x->rows[0]};
    const view_wish wish = {m->is.experts, x->at.expert, x->rows[0], x->in, m->is.is_mxfp4};
    l->view = malloc(sizeof *l->view);
    if (!l->view) return no_tensor_memory(m);
    full_name(m, x->at, x->part[0], "", name);
    if (!tensor_view(m->files, name, &wish, l->view, m->why, WHY)) return BANYAN_ERR_CONFIG;
    t[0] = l->view;
    if (!x->has_bias) return BANYAN_OK;
    full_name(m, x->at, x->part[0], "_bias", name);
    const tensor *all = safetensors_shaped(m->files, name, shape, 2, NULL, m->why, WHY);
    if (!all) return BANYAN_ERR_CONFIG;
    *bias = *all;
    bias->data += tensor_room(all, x->at.expert * x->rows[0]);
    biases[0] = bias;
    return BANYAN_OK;
}

static banyan_status find_matrix(model *m, const matrix *x, linear *l)
{
    const tensor *t[2] = {NULL}, *bias[2] = {NULL};
    tensor own_bias;
    *l = (linear){.columns = x->columns, .in = x->in};
    banyan_status status =
        x->is_together ? find_view(m, x, l, t, &own_bias, bias) : find_tensors(m, x, t, bias);
    if (status) return status;
    l->first = cut_first(x->columns, m->rank, m->ranks);
    l->count = cut_first(x->columns, m->rank + 1, m->ranks) - l->first;
    l->outputs = x->copies * l->count;
    if (x->has_bias) l->bias = malloc((size_t)(l->outputs + 1) * sizeof *l->bias);
    if (x->has_bias && !l->bias) return no_tensor_memory(m);
    for (int64_t i = 0; i < l->outputs; i++) {
        tensor_row s =
            x->source(&m->is, l->first + i % l->count + i / l->count * x->columns, x->columns);
        if (!add_tensor_row(l, t[s.tensor], s.row)) return no_tensor_memory(m);
        if (!x->has_bias) continue;
        if (tensor_to_float(bias[s.tensor], s.row, 1, &l->bias[i]) >= 0)
            return not_finite(m, bias[s.tensor], s.row);
    }
    return BANYAN_OK;
}

static banyan_status find_qkv(model *m, where at, layer *l)
{
    const model_shape *s = &m->shape;
    const tensor_names *n = &m->is.family->names;
    bool apart = m->is.family->qkv == QKV_APART, bias = m->is.qkv_bias;
    int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
    int64_t all = q + 2 * kv;
    const matrix query = {at, {n->q}, {apart ? q : all}, q,    s->hidden,
                          1,  bias,   q_source,          false};
    const matrix rest = {at,
                         {apart ? n->k : n->q, apart ? n->v : NULL},
                         {apart ? kv : all, kv},
                         2 * kv,
                         s->hidden,
                         1,
                         bias,
                         kv_source,
                         false};
    banyan_status status = find_matrix(m, &query, &l->q);
    return status ? status : find_matrix(m, &rest, &l->kv);
}

/* gate, up and down of a layer, or of an expert. */
static banyan_status find_mlp(model *m, where at, const char *const part[3], int64_t width,
                              linear *gate_up, linear *down)
{
    int64_t hidden = m->shape.hidden;
    bool of_expert = m->is.layer[at.layer].experts;
    bool together = of_expert && m->is.family->experts_together;
    bool apart = !together && m->is.family->gate_up == GATE_UP_APART;
    bool bias = of_expert ? m->is.expert_bias : m->is.mlp_bias;
    int64_t rows = apart ? width : 2 * width;
    const matrix both = {
        at,   {part[0], apart ? part[1] : NULL},        {rows, rows}, width, hidden, 2,
        bias, together ? mixed_source : gate_up_source, together};
    const matrix last = {at, {part[2]}, {hidden}, hidden, width, 1, bias, plain, together};
    banyan_status status = find_matrix(m, &both, gate_up);
    return status ? status : find_matrix(m, &last, down);
}

static banyan_status find_feed_forward(model *m, where at, layer *l)
{
    const tensor_names *n = &m->is.family->names;
    const char *const dense[] = {n->gate, n->up, n->down};
    const char *const expert[] = {n->expert_gate, n->expert_up, n->expert_down};
    int64_t hidden = m->shape.hidden, experts = m->is.experts;
    const matrix router = {at, {n->router},       {experts}, experts, hidden,
                           1,  m->is.router_bias, plain,     false};
    if (!m->is.layer[at.layer].experts)
        return find_mlp(m, at, dense, m->shape.intermediate, &l->gate_up, &l->down);
    l->expert_gate_up = calloc((size_t)experts, sizeof *l->expert_gate_up);
    l->expert_down = calloc((size_t)experts, sizeof *l->expert_down);
    if (!l->expert_gate_up || !l->expert_down) return no_tensor_memory(m);
    banyan_status status = find_matrix(m, &router, &l->router);
    for (int32_t e = 0; !status && e < experts; e++)
        status = find_mlp(m, (where){at.layer, e}, expert, m->is.expert_intermediate,
                          &l->expert_gate_up[e], &l->expert_down[e]);
    return status;
}

/* A logit of each query head. */
static banyan_status find_sinks(model *m, where at)
{
    const char *part = m->is.family->names.sinks;
    char name[NAME];
    if (!part) return BANYAN_OK;
    if (!m->sinks)
        m->sinks = calloc((size_t)m->shape.layers * (size_t)m->shape.heads, sizeof *m->sinks);
    if (!m->sinks) return no_tensor_memory(m);
    full_name(m, at, part, "", name);
    const tensor *t = safetensors_matrix(m->files, name, m->shape.heads, 0, m->why, WHY);
    if (!t) return BANYAN_ERR_CONFIG;
    int64_t bad =
        tensor_to_float(t, 0, m->shape.heads, m->sinks + (int64_t)at.layer * m->shape.heads);
    return bad < 0 ? BANYAN_OK : not_finite(m, t, bad);
}

static banyan_status find_layer(model *m, int32_t index)
{
    const model_shape *s = &m->shape;
    const tensor_names *n = &m->is.family->names;
    layer *l = &m->layer[index];
    where at = {index, 0};
    int64_t q = (int64_t)s->heads * s->head_dim;
    const struct {
        const char *part;
        int64_t width;
        norm *to;
    } norms[] = {
        {n->input_norm, s->hidden, &l->input}, {n->attention_norm, s->hidden, &l->attention},
        {n->post_norm, s->hidden, &l->post},   {n->mlp_norm, s->hidden, &l->mlp},
        {n->q_norm, s->head_dim, &l->q_norm},  {n->k_norm, s->head_dim, &l->k_norm}};
    const matrix o = {at, {n->o}, {s->hidden}, s->hidden, q, 1, m->is.o_bias, plain, false};
    banyan_status status = BANYAN_OK;
    for (size_t i = 0; !status && i < sizeof norms / sizeof norms[0]; i++)
        status = find_norm(m, at, norms[i].part, norms[i].width, norms[i].to);
    if (!status) status = find_sinks(m, at);
    if (!status) status = find_qkv(m, at, l);
    if (!status) status = find_matrix(m, &o, &l->o);
    if (!status) status = find_feed_forward(m, at, l);
    return status;
}

/* Of the embedding, and of the head, which in a tied model is the embedding unless the file
 * has one. */
static banyan_status find_ends(model *m)
{
    const model_shape *s = &m->shape;
    const tensor_names *n = &m->is.family->names;
    const where at = {OUTSIDE, 0};
    char name[NAME];
    full_name(m, at, n->embedding, ".weight", name);
    m->embedding = safetensors_matrix(m->files, name, s->vocab, s->hidden, m->why, WHY);
    if (!m->embedding) return BANYAN_ERR_CONFIG;
    full_name(m, at, n->head, ".weight", name);
    bool own = !s->tied || safetensors_find(m->files, name);
    const matrix head = {
        at,   {own ? n->head : n->embedding}, {s->vocab}, s->vocab, s->hidden, 1, false, plain,
        false};
    banyan_status status = find_norm(m, at, n->final_norm, s->hidden, &m->final_norm);
    return status ? status : find_matrix(m, &head, &m->head);
}

static int64_t linear_room(const linear *l)
{
    int64_t bytes = 0;
    for (int32_t i = 0; i < l->stretches; i++)
        bytes += tensor_room(l->stretch[i].tensor, l->stretch[i].count * l->in);
    return bytes;
}

/* All matrices of a layer, one after the other; NULL past the end. */
static linear *layer_matrix(const model *m, layer *l, int32_t index)
{
    linear *const fixed[] = {&l->q, &l->kv, &l->o, &l->gate_up, &l->down, &l->router};
    enum { count = sizeof fixed / sizeof fixed[0] };
    if (index < count) return fixed[index];
    int32_t e = (index - count) / 2;
    if (!l->expert_gate_up || !l->expert_down || e >= m->is.experts) return NULL;
    return index % 2 ? &l->expert_down[e] : &l->expert_gate_up[e];
}

banyan_status weights_find(model *m, int64_t *bytes)
{
    *bytes = 0;
    m->layer = calloc((size_t)m->shape.layers, sizeof *m->layer);
    if (!m->layer) return no_tensor_memory(m);
    banyan_status status = find_ends(m);
    for (int32_t i = 0; !status && i < m->shape.layers; i++) status = find_layer(m, i);
    if (status) return status;
    for (int32_t i = 0; i < m->shape.layers; i++)
        for (int32_t k = 0; layer_matrix(m, &m->layer[i], k); k++)
            *bytes += linear_room(layer_matrix(m, &m->layer[i], k));
    *bytes += linear_room(&m->head);
    const tensor *rest = safetensors_unused(m->files);
    if (!rest) return BANYAN_OK;
    snprintf(m->why, WHY,
             "%s: tensor '%s' is read by nobody: the model that config.json describes has no "
             "such part, and would be computed without it",
             rest->file, rest->name);
    return BANYAN_ERR_CONFIG;
}

/* ---- reading them once ------------------------------------------------------------------- */

static banyan_status check_finite(model *m, const linear *l)
{
    for (int32_t i = 0; i < l->stretches; i++) {
        const tensor_rows *s = &l->stretch[i];
        int64_t once = s->step == 1 ? s->count : 1; /* rows that lie together */
        for (int64_t row = 0; row < s->count; row += once) {
            int64_t bad =
                tensor_find_bad(s->tensor, (s->row + row * s->step) * l->in, once * l->in);
            if (bad >= 0) return not_finite(m, s->tensor, bad);
        }
    }
    return BANYAN_OK;
}

static banyan_status take_linear(model *m, linear *l)
{
    banyan_status status = check_finite(m, l);
    return status ? status : linear_keep(m, l);
}

static banyan_status keep_norm(model *m, norm *n, int64_t width)
{
    banyan_status status = vector_keep(m, &n->weight, width, &n->is_kept);
    if (!status) status = vector_keep(m, &n->bias, width, &n->is_kept);
    if (status) snprintf(m->why, WHY, "a norm's weights: %s", m->device->why);
    return status;
}

/* What is no matrix, to a device that is apart. */
static banyan_status keep_vectors(model *m)
{
    const int64_t hidden = m->shape.hidden, dim = m->shape.head_dim;
    const size_t bytes = (size_t)m->is.dummies * sizeof *m->dummy;
    banyan_status status = keep_norm(m, &m->final_norm, hidden);
    for (int32_t i = 0; i < m->shape.layers; i++) {
        layer *l = &m->layer[i];
        norm *const norms[] = {&l->input, &l->attention, &l->post, &l->mlp};
        for (int n = 0; n < 4 && !status; n++) status = keep_norm(m, norms[n], hidden);
        if (!status) status = keep_norm(m, &l->q_norm, dim);
        if (!status) status = keep_norm(m, &l->k_norm, dim);
    }
    if (status || m->is.dummies == 0) return status;
    m->dummy = malloc(bytes);
    if (!m->dummy) return no_tensor_memory(m);
    memcpy(m->dummy, m->is.dummy, bytes);
    return device_result(m, device_keep(m->device, (void **)&m->dummy, bytes));
}

/* Layers are alike, and the embedding and the head are taken for one each. */
static void show_loading(const model *m, const model_loading *loading, int32_t done)
{
    if (loading) loading->progress(loading->arg, (double)done / (m->shape.layers + 2));
}

banyan_status weights_load(model *m, const model_loading *loading)
{
    int64_t width = m->shape.hidden, vocab = m->shape.vocab;
    int64_t first = cut_first(vocab, m->rank, m->ranks);
    int64_t end = cut_first(vocab, m->rank + 1, m->ranks);
    int64_t bad = tensor_find_bad(m->embedding, first * width, (end - first) * width);
    banyan_status status = bad < 0 ? BANYAN_OK : not_finite(m, m->embedding, bad);
    for (int32_t i = 0; !status && i < m->shape.layers; i++) {
        show_loading(m, loading, i + 1);
        for (int32_t k = 0; !status && layer_matrix(m, &m->layer[i], k); k++)
            status = take_linear(m, layer_matrix(m, &m->layer[i], k));
    }
    show_loading(m, loading, m->shape.layers + 1);
    if (!status) status = take_linear(m, &m->head);
    if (!status) status = embedding_keep(m);
    return status ? status : keep_vectors(m);
}

static void free_norm(model *m, norm *n)
{
    vector_free(m, n->weight, n->is_kept);
    vector_free(m, n->bias, n->is_kept);
}

void weights_free(model *m)
{
    for (int32_t i = 0; m->layer && i < m->shape.layers; i++) {
        layer *l = &m->layer[i];
        norm *const norms[] = {&l->input, &l->attention, &l->post,
                               &l->mlp,   &l->q_norm,    &l->k_norm};
        for (size_t n = 0; n < sizeof norms / sizeof norms[0]; n++) free_norm(m, norms[n]);
        for (int32_t k = 0; layer_matrix(m, l, k); k++) linear_free(m, layer_matrix(m, l, k));
        free(l->expert_gate_up);
        free(l->expert_down);
    }
    free(m->layer);
    free(m->sinks);
    free_norm(m, &m->final_norm);
    linear_free(m, &m->head);
    device_memory_free(m->device, m->own_table);
    device_memory_free(m->device, m->dummy);
}
