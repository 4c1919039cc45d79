/* SPDX-License-Identifier: Apache-2.0 */
/* launch/cuda_blas.c for the emulated GPU, which knows no cuBLAS: products are computed in
 * double, as work of the stream, which may touch the device's memory. */
#include "launch/cuda.h"

#include "emulator.h"

#include <stdlib.h>
#include <string.h>

const char *cuda_blas_open(void *stream, void **out)
{
    *out = stream;
    return NULL;
}

void cuda_blas_close(void *blas)
{
    (void)blas;
}

/* out [rows][count] = in [rows][width] weight [count][width]^T */
typedef struct product {
    const void *weight, *in;
    void *out;
    int64_t count, width;
    int32_t rows;
} product;

static const char *queue(void *blas, void (*run)(void *), const product *p)
{
    product *own = malloc(sizeof *own);
    if (!own) return "out of memory for an emulated product";
    *own = *p;
    return emulator_enqueue(blas, run, own, free) ? "the emulated product was refused" : NULL;
}

static float from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void run_f32(void *argument)
{
    const product *p = argument;
    const float *w = p->weight, *x = p->in;
    float *y = p->out;
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t i = 0; i < p->count; i++) {
            double sum = 0;
            for (int64_t k = 0; k < p->width; k++)
                sum += (double)x[row * p->width + k] * (double)w[i * p->width + k];
            y[row * p->count + i] = (float)sum;
        }
}

static void run_bf16(void *argument)
{
    const product *p = argument;
    const uint16_t *w = p->weight, *x = p->in;
    float *y = p->out;
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t i = 0; i < p->count; i++) {
            double sum = 0;
            for (int64_t k = 0; k < p->width; k++)
                sum += (double)from_bf16(x[row * p->width + k]) *
                       (double)from_bf16(w[i * p->width + k]);
            y[row * p->count + i] = (float)sum;
        }
}

const char *cuda_blas_product(void *blas, banyan_dtype dtype, const void *weight, int64_t count,
                              int64_t width, const void *in, int32_t rows, float *out)
{
    return queue(blas, dtype == BANYAN_BF16 ? run_bf16 : run_f32,
                 &(product){weight, in, out, count, width, rows});
}

/* Cut off, not rounded: nobody looks at the result. */
static uint16_t to_bf16(double x)
{
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* [n][n] = a b */
static void run_squares(void *argument)
{
    const product *p = argument;
    const uint16_t *a = p->in, *b = p->weight;
    uint16_t *c = p->out;
    const int64_t n = p->count;
    for (int64_t row = 0; row < n; row++)
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += (double)from_bf16(a[row * n + k]) * (double)from_bf16(b[k * n + i]);
            c[row * n + i] = to_bf16(sum);
        }
}

const char *cuda_blas_product_bf16(void *blas, int32_t n, const void *a, const void *b, void *c)
{
    return queue(blas, run_squares, &(product){b, a, c, n, n, n});
}
