/* SPDX-License-Identifier: Apache-2.0 */
/* launch/cuda_blas.c for the emulated GPU, which knows no cuBLAS: operands are copied to the host,
 * multiplied there in double, and the result is copied back. */
#include "launch/cuda.h"

#include <cuda_runtime_api.h>
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

static void *fetched(cudaStream_t stream, const void *from, size_t bytes)
{
    void *to = malloc(bytes ? bytes : 1);
    if (to && (cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream) ||
               cudaStreamSynchronize(stream))) {
        free(to);
        return NULL;
    }
    return to;
}

static cudaError_t put(cudaStream_t stream, void *to, const void *from, size_t bytes)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream);
    return error ? error : cudaStreamSynchronize(stream);
}

const char *cuda_blas_product(void *blas, const float *weight, int64_t count, int64_t width,
                              const float *in, int32_t rows, float *out)
{
    const size_t out_bytes = (size_t)(rows * count) * sizeof(float);
    float *w = fetched(blas, weight, (size_t)(count * width) * sizeof *w);
    float *x = fetched(blas, in, (size_t)(rows * width) * sizeof *x), *y = malloc(out_bytes);
    const char *why = w && x && y ? NULL : "the emulated product could not copy";
    for (int64_t row = 0; row < rows && !why; row++)
        for (int64_t i = 0; i < count; i++) {
            double sum = 0;
            for (int64_t k = 0; k < width; k++)
                sum += (double)x[row * width + k] * (double)w[i * width + k];
            y[row * count + i] = (float)sum;
        }
    if (!why && put(blas, out, y, out_bytes)) why = "the emulated product could not copy";
    free(w);
    free(x);
    free(y);
    return why;
}

static float from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Cut off, not rounded: nobody looks at the result. */
static uint16_t to_bf16(double x)
{
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

const char *cuda_blas_product_bf16(void *blas, int32_t n, const void *a, const void *b, void *c)
{
    const size_t bytes = (size_t)n * (size_t)n * sizeof(uint16_t);
    uint16_t *x = fetched(blas, a, bytes), *y = fetched(blas, b, bytes), *z = malloc(bytes);
    const char *why = x && y && z ? NULL : "the emulated product could not copy";
    for (int32_t row = 0; row < n && !why; row++)
        for (int32_t i = 0; i < n; i++) {
            double sum = 0;
            for (int32_t k = 0; k < n; k++)
                sum += (double)from_bf16(x[row * n + k]) * (double)from_bf16(y[k * n + i]);
            z[row * n + i] = to_bf16(sum);
        }
    if (!why && put(blas, c, z, bytes)) why = "the emulated product could not copy";
    free(x);
    free(y);
    free(z);
    return why;
}
