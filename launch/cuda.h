/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.h - between cuda.c (memory, streams, clocks), cuda_blas.c (matrices) and cuda_steps.cu
 * (what is between them). Functions return NULL or words, as in device.h. */
#ifndef BANYAN_CUDA_H
#define BANYAN_CUDA_H

#include "banyan.h"
#include "banyan_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A handle whose products run on `stream`, a cudaStream_t. */
const char *cuda_blas_open(void *stream, void **out);
void cuda_blas_close(void *blas);
/* As device_row.product. Queued. */
const char *cuda_blas_product(void *blas, banyan_dtype dtype, const void *weight, int64_t count,
                              int64_t width, const void *in, int32_t rows, float *out);
/* As device_row.product_bf16. */
const char *cuda_blas_product_bf16(void *blas, int32_t n, const void *a, const void *b,
                                   void *c);

#ifdef __cplusplus
}
#endif
#endif
