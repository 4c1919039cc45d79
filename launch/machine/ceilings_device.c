/* SPDX-License-Identifier: Apache-2.0 */
/* What a device can do at most, by its own clock: the copy of a piece of its memory to another,
 * which reads and writes each byte once, and cuBLAS's product of two bf16 matrices of random
 * numbers (zeros would be faster: a GPU's clock depends on the bits that change). The best of
 * some passes. */
#include "launch/machine/machine.h"

#include "launch/data.h"

#include <stdlib.h>
#include <string.h>

enum { copies = 7, products = 5, most_wide = 4096 };

banyan_status ceilings_copy(device *d, int64_t bytes, double *rate)
{
    void *from = NULL, *to = NULL;
    banyan_status status =
        device_said(d, d->row->memory->allocate(d->own, 0, (size_t)bytes, &from));
    if (!status)
        status = device_said(d, d->row->memory->allocate(d->own, 0, (size_t)bytes, &to));
    if (!status) status = device_said(d, d->row->memory->fill(d->own, from, 1, (size_t)bytes));
    *rate = 0;
    for (int i = 0; i < copies && !status; i++) {
        double seconds = 0;
        status = device_said(d, d->row->mark(d->own, 0));
        if (!status)
            status = device_said(d, d->row->memory->copy(d->own, to, from, (size_t)bytes));
        if (!status) status = device_said(d, d->row->mark(d->own, 1));
        if (!status) status = device_said(d, d->row->elapsed(d->own, &seconds));
        const double one = seconds > 0 ? 2 * (double)bytes / seconds : 0;
        if (i > 0 && one > *rate) *rate = one;
    }
    if (from) d->row->memory->release(d->own, 0, from);
    if (to) d->row->memory->release(d->own, 0, to);
    return status;
}

/* n x n random numbers in bf16: rows repeat after `most_wide`, which no product notices. */
static banyan_status random_matrix(device *d, int32_t n, void *to)
{
    const int32_t rows = n < most_wide ? n : most_wide;
    const size_t row_bytes = (size_t)n * sizeof(uint16_t);
    float *row = malloc((size_t)n * sizeof *row);
    uint16_t *half = malloc((size_t)rows * row_bytes);
    banyan_status status = row && half ? BANYAN_OK : BANYAN_ERR_MEMORY;
    for (int32_t i = 0; i < rows && !status; i++) {
        data_row(row, 1, DATA_K, 0, i, 0, n);
        data_round_bf16(row, n);
        for (int32_t k = 0; k < n; k++) {
            uint32_t bits;
            memcpy(&bits, &row[k], sizeof bits);
            half[(size_t)i * (size_t)n + (size_t)k] = (uint16_t)(bits >> 16);
        }
    }
    for (int32_t i = 0; i < n && !status; i += rows) {
        const int32_t some = n - i < rows ? n - i : rows;
        status = device_said(d, d->row->memory->copy(d->own, (char *)to + (size_t)i * row_bytes,
                                                     half, (size_t)some * row_bytes));
    }
    if (!status) status = device_wait(d);
    free(row);
    free(half);
    return status;
}

banyan_status ceilings_matrix(device *d, int32_t n, double *rate)
{
    const size_t bytes = (size_t)n * (size_t)n * sizeof(uint16_t);
    void *m[3] = {NULL, NULL, NULL};
    banyan_status status = BANYAN_OK;
    for (int i = 0; i < 3 && !status; i++)
        status = device_said(d, d->row->memory->allocate(d->own, 0, bytes, &m[i]));
    for (int i = 0; i < 2 && !status; i++) status = random_matrix(d, n, m[i]);
    *rate = 0;
    for (int i = 0; i < products && !status; i++) {
        double seconds = 0;
        status = device_said(d, d->row->mark(d->own, 0));
        if (!status) status = device_said(d, d->row->product_bf16(d->own, n, m[0], m[1], m[2]));
        if (!status) status = device_said(d, d->row->mark(d->own, 1));
        if (!status) status = device_said(d, d->row->elapsed(d->own, &seconds));
        const double one = seconds > 0 ? 2.0 * n * n * n / seconds : 0;
        if (i > 0 && one > *rate) *rate = one;
    }
    for (int i = 0; i < 3; i++)
        if (m[i]) d->row->memory->release(d->own, 0, m[i]);
    return status;
}
