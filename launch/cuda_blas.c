/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices by cuBLAS. It stores matrices by columns: what is [rows][columns] to us is its transpose to
 * cuBLAS, so that out = in weight^T becomes out^T = weight in^T, with weight [count][width] seen as
 * a [width x count] matrix to be transposed.
 *
 * fp32 is fp32: CUBLAS_COMPUTE_32F, in the default math mode, which does not use TF32 (10-bit products,
 * 2^13 times as far off). bf16 is multiplied exactly, and added up in fp32. */
#include "launch/cuda.h"

#include <cublas_v2.h>

static const char *cublas_words(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? NULL : cublasGetStatusString(status);
}

const char *cuda_blas_open(void *stream, void **out)
{
    cublasHandle_t blas = NULL;
    cublasStatus_t status = cublasCreate(&blas);
    if (!status) status = cublasSetStream(blas, stream);
    if (status && blas) cublasDestroy(blas);
    if (!status) *out = blas;
    return cublas_words(status);
}

void cuda_blas_close(void *blas)
{
    cublasDestroy(blas);
}

const char *cuda_blas_product(void *blas, banyan_dtype dtype, const void *weight, int64_t count,
                              int64_t width, const void *in, int32_t rows, float *out)
{
    const float one = 1, zero = 0;
    const cudaDataType_t type = dtype == BANYAN_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    return cublas_words(cublasGemmEx_64(
        blas, CUBLAS_OP_T, CUBLAS_OP_N, count, rows, width, &one, weight, type, width, in, type,
        width, &zero, out, CUDA_R_32F, count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

const char *cuda_blas_product_bf16(void *blas, int32_t n, const void *a, const void *b, void *c)
{
    const float one = 1, zero = 0;
    return cublas_words(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, b,
                                     CUDA_R_16BF, n, a, CUDA_R_16BF, n, &zero, c, CUDA_R_16BF,
                                     n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}
