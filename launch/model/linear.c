/* SPDX-License-Identifier: Apache-2.0 */
/* The one place where matrices are multiplied, and the work counted. Weights stay in the
 * file's map, in the format of the file: one row of input is multiplied as they are read,
 * several by OpenBLAS on panels of columns that are widened to fp32 as they are used. */
#include "launch/model/runner.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t cut_first(int64_t columns, int rank, int ranks)
{
    return columns * rank / ranks;
}

banyan_status device_result(model *m, banyan_status status)
{
    if (status == BANYAN_ERR_DEVICE) snprintf(m->why, WHY, "%s", m->device->why);
    return status;
}

/* Can columns be multiplied where they lie? */
static const float *as_floats(const tensor_rows *s, int64_t in)
{
    const void *data = s->tensor->data + (size_t)(s->row * in) * sizeof(float);
    bool is_dense = s->tensor->layout == TENSOR_ROWS && s->tensor->dtype == BANYAN_F32 &&
                    (s->step == 1 || s->count == 1);
    return is_dense && (uintptr_t)data % sizeof(float) == 0 ? data : NULL;
}

/* Columns `at` .. of a stretch, [count][in] in fp32. */
static void widen_columns(const tensor_rows *s, int64_t in, int64_t at, int64_t count,
                          float *out)
{
    if (s->step == 1)
        tensor_read(s->tensor, (s->row + at) * in, count * in, out);
    else
        for (int64_t i = 0; i < count; i++)
            tensor_read(s->tensor, (s->row + (at + i) * s->step) * in, in, out + i * in);
}

/* A product on its way: columns are taken in order. */
typedef struct linear_product {
    const linear *l;
    const float *in;
    int32_t rows;
    float *out, *panel;
    int64_t done, have; /* columns multiplied, and after them in the panel */
} linear_product;

static void multiply(linear_product *p, const float *weight, int64_t count)
{
    if (count > 0)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->rows, (blasint)count,
                    (blasint)p->l->in, 1, p->in, (blasint)p->l->in, weight, (blasint)p->l->in,
                    0, p->out + p->done, (blasint)p->l->outputs);
    p->done += count;
}

static void multiply_panel(linear_product *p)
{
    multiply(p, p->panel, p->have);
    p->have = 0;
}

/* A panel may hold columns of several stretches. */
static void run_panels(model *m, const linear *l, const float *in, int32_t rows, float *out)
{
    linear_product p = {l, in, rows, out, m->work.panel, 0, 0};
    for (int32_t i = 0; i < l->stretches; i++) {
        const tensor_rows *s = &l->stretch[i];
        const float *dense = as_floats(s, l->in);
        if (dense) {
            multiply_panel(&p);
            multiply(&p, dense, s->count);
        }
        for (int64_t at = 0, take; !dense && at < s->count; at += take) {
            take = smaller64(s->count - at, PANEL - p.have);
            widen_columns(s, l->in, at, take, p.panel + p.have * l->in);
            p.have += take;
            if (p.have == PANEL) multiply_panel(&p);
        }
    }
    multiply_panel(&p);
}

static void multiply_row(const linear *l, const float *in, float *out)
{
    for (int32_t i = 0; i < l->stretches; i++) {
        const tensor_rows *s = &l->stretch[i];
        tensor_multiply(s->tensor, s->row, s->step, s->count, l->in, in, out);
        out += s->count;
    }
}

int64_t linear_widest(const model *m)
{
    const model_shape *s = &m->shape;
    const int64_t widths[] = {s->hidden, (int64_t)s->heads * s->head_dim, s->intermediate,
                              m->is.expert_intermediate};
    int64_t widest = 0;
    for (int i = 0; i < 4; i++) widest = widths[i] > widest ? widths[i] : widest;
    return widest;
}

/* An input in bf16. Norms leave h so. */
static const uint16_t *narrowed(model *m, const float *in, int64_t count)
{
    const workspace *w = &m->work;
    const int64_t ahead = ((intptr_t)in - (intptr_t)w->h) / (intptr_t)sizeof *in;
    if (ahead >= 0 && ahead < (int64_t)m->max_rows * m->shape.hidden)
        return w->h_narrow + ahead;
    m->step->narrow(m->device->own, in, count, w->narrow);
    return w->narrow;
}

static banyan_status multiply_there(model *m, const linear *l, const float *in, int32_t rows,
                                    float *out)
{
    device *d = m->device;
    const void *from =
        l->dtype == BANYAN_BF16 ? (const void *)narrowed(m, in, rows * l->in) : in;
    return device_result(m,
                         device_said(d, d->row->product(d->own, l->dtype, l->there, l->outputs,
                                                        l->in, from, rows, out)));
}

banyan_status linear_run(model *m, const linear *l, const float *in, int32_t rows, float *out)
{
    device *d = m->device;
    banyan_status status = BANYAN_OK;
    if (rows == 0 || l->outputs == 0) return BANYAN_OK;
    m->matrix_work += rows * l->outputs * l->in;
    if (d->row->memory->is_apart)
        status = multiply_there(m, l, in, rows, out);
    else if (rows == 1)
        multiply_row(l, in, out);
    else
        run_panels(m, l, in, rows, out);
    if (!status && l->bias) m->step->bias(d->own, out, rows, l->outputs, l->bias);
    return status;
}

/* What rows of tensors are kept as: mxfp4's numbers are bf16's too, since a power of two scales
 * them. */
static banyan_dtype kept_dtype(const tensor_rows *stretch, int32_t stretches)
{
    for (const tensor_rows *s = stretch; s < stretch + stretches; s++)
        if (s->tensor->layout != TENSOR_MXFP4 && s->tensor->dtype != BANYAN_BF16)
            return BANYAN_F32;
    return BANYAN_BF16;
}

/* fp32 numbers to their upper halves, which is all that they have, in place. */
static void narrow_panel(float *panel, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &panel[i], sizeof bits);
        const uint16_t upper = (uint16_t)(bits >> 16);
        memcpy((char *)panel + i * (int64_t)sizeof upper, &upper, sizeof upper);
    }
}

/* Rows of tensors, `in` numbers each, one after the other, in their kept_dtype. */
static banyan_status send_columns(model *m, const tensor_rows *stretch, int32_t stretches,
                                  int64_t in, void *there)
{
    device *d = m->device;
    const banyan_dtype dtype = kept_dtype(stretch, stretches);
    float *panel = malloc((size_t)(PANEL * in) * sizeof *panel);
    char *to = there;
    banyan_status status = panel ? BANYAN_OK : BANYAN_ERR_MEMORY;
    for (const tensor_rows *s = stretch; s < stretch + stretches; s++)
        for (int64_t at = 0, n; !status && at < s->count; at += n) {
            n = smaller64(s->count - at, PANEL);
            const size_t bytes = (size_t)(n * in) * banyan_dtype_bytes(dtype);
            widen_columns(s, in, at, n, panel);
            if (dtype == BANYAN_BF16) narrow_panel(panel, n * in);
            status = device_said(d, d->row->memory->copy(d->own, to, panel, bytes));
            to += bytes;
        }
    if (!status) status = device_wait(d);
    free(panel);
    return status;
}

/* A device's own words, or that the host has no memory. */
static banyan_status keep_failed(model *m, banyan_status status, const char *what, size_t bytes)
{
    if (status)
        snprintf(m->why, WHY, "%s, %.1f MiB: %s", what, (double)bytes / 0x1p20,
                 status == BANYAN_ERR_MEMORY ? "out of memory" : m->device->why);
    return status;
}

banyan_status vector_keep(model *m, float **vector, int64_t count, bool *is_kept)
{
    *is_kept = true;
    return device_keep(m->device, (void **)vector, (size_t)count * sizeof **vector);
}

void vector_free(model *m, float *vector, bool is_kept)
{
    if (is_kept)
        device_memory_free(m->device, vector);
    else
        free(vector);
}

banyan_status linear_keep(model *m, linear *l)
{
    device *d = m->device;
    l->dtype = kept_dtype(l->stretch, l->stretches);
    const size_t bytes = (size_t)(l->outputs * l->in) * banyan_dtype_bytes(l->dtype);
    if (!d->row->memory->is_apart) return BANYAN_OK;
    m->has_narrow |= l->dtype == BANYAN_BF16;
    banyan_status status = device_memory_make(d, bytes, 0, &l->there);
    if (!status) status = send_columns(m, l->stretch, l->stretches, l->in, l->there);
    if (!status) status = vector_keep(m, &l->bias, l->outputs, &l->is_kept);
    return keep_failed(m, status, "a rank's share of a matrix", bytes);
}

banyan_status embedding_keep(model *m)
{
    device *d = m->device;
    const linear *head = &m->head;
    const tensor_rows all = {m->embedding, 0, 1, m->shape.vocab};
    const banyan_dtype dtype = kept_dtype(&all, 1);
    const size_t bytes = (size_t)(all.count * m->shape.hidden) * banyan_dtype_bytes(dtype);
    const bool is_head = m->ranks == 1 && head->stretches == 1 &&
                         head->stretch[0].tensor == m->embedding && head->count == all.count;
    m->table = (step_table){m->embedding, NULL, dtype};
    if (!d->row->memory->is_apart) return BANYAN_OK;
    if (is_head) {
        m->table.there = head->there;
        return BANYAN_OK;
    }
    banyan_status status = device_memory_make(d, bytes, 0, &m->own_table);
    m->table.there = m->own_table;
    if (!status) status = send_columns(m, &all, 1, m->shape.hidden, m->own_table);
    return keep_failed(m, status, "the embedding of all ids", bytes);
}

void linear_free(model *m, linear *l)
{
    free(l->stretch);
    vector_free(m, l->bias, l->is_kept);
    free(l->view);
    device_memory_free(m->device, l->there);
    *l = (linear){0};
}
