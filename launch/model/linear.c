/* SPDX-License-Identifier: Apache-2.0 */
/* The one place where matrices are multiplied, and the work counted. */
#include "launch/model/llama.h"

#include <stdio.h>
#include <stdlib.h>

int64_t cut_first(int64_t columns, int rank, int ranks)
{
    return columns * rank / ranks;
}

banyan_status device_result(model *m, banyan_status status)
{
    if (status == BANYAN_ERR_DEVICE) snprintf(m->why, WHY, "%s", m->device->why);
    return status;
}

banyan_status linear_run_many(model *m, const float *weight, int64_t count, int64_t width,
                              const float *in, int32_t rows, float *out)
{
    device *d = m->device;
    if (rows == 0 || count == 0) return BANYAN_OK;
    m->matrix_work += rows * count * width;
    return device_result(
        m, device_said(d, d->row->product(d->own, weight, count, width, in, rows, out)));
}

banyan_status linear_run(model *m, const linear *l, const float *in, int32_t rows, float *out)
{
    return linear_run_many(m, l->weight, l->count, l->in, in, rows, out);
}

banyan_status linear_keep(model *m, float **weight, int64_t floats)
{
    device *d = m->device;
    const size_t bytes = (size_t)(floats > 0 ? floats : 1) * sizeof **weight;
    void *there = NULL;
    if (!d->row->is_apart) return BANYAN_OK;
    banyan_status status = device_said(d, d->row->allocate(d->own, bytes, &there));
    if (!status) status = device_said(d, d->row->copy(d->own, there, *weight, bytes));
    if (!status) status = device_wait(d);
    free(*weight);
    *weight = there;
    if (status)
        snprintf(m->why, WHY, "a rank's share of a matrix, %.1f MiB: %s",
                 (double)bytes / 0x1p20, d->why);
    return status;
}

void linear_drop(model *m, float *weight)
{
    if (!m->device->row->is_apart)
        free(weight);
    else if (weight)
        m->device->row->release(m->device->own, weight);
}
