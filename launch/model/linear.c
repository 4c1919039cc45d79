/* SPDX-License-Identifier: Apache-2.0 */
/* The one place where matrices are multiplied, and the work counted. */
#include "launch/model/llama.h"

#include <cblas.h>

int64_t cut_first(int64_t columns, int rank, int ranks)
{
    return columns * rank / ranks;
}

void linear_run_many(model *m, const float *weight, int64_t count, int64_t width,
                     const float *in, int32_t rows, float *out)
{
    if (rows == 0 || count == 0) return;
    m->matrix_work += rows * count * width;
    if (rows == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (blasint)count, (blasint)width, 1, weight,
                    (blasint)width, in, 1, 0, out, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, (blasint)count,
                    (blasint)width, 1, in, (blasint)width, weight, (blasint)width, 0, out,
                    (blasint)count);
}

void linear_run(model *m, const linear *l, const float *in, int32_t rows, float *out)
{
    linear_run_many(m, l->weight, l->count, l->in, in, rows, out);
}
