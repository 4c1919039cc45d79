/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices by cuBLAS. It stores matrices by columns: what is [rows][columns] to us is its
 * transpose to cuBLAS, so that out = in weight^T becomes out^T = weight in^T, with weight
 * [count][width] seen as a [width x count] matrix to be transposed.
 *
 * fp32 is fp32: CUBLAS_COMPUTE_32F, in the default math mode, which does not use TF32 (10-bit
 * products, 2^13 times as far off). bf16 is multiplied exactly, and added up in fp32. */
#include "launch/cuda.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <stdlib.h>

static const char *cublas_words(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? NULL : cublasGetStatusString(status);
}

/* Scratch memory is given to cuBLAS, which else would take some in the middle of a capture; as
 * much as it takes for itself on a Hopper. */
enum { ROOM = 32 << 20 };

typedef struct blas {
    cublasHandle_t handle;
    void *room;
} blas;

void cuda_blas_close(void *own)
{
    blas *b = own;
    if (b->handle) cublasDestroy(b->handle);
    cudaFree(b->room);
    free(b);
}

const char *cuda_blas_open(void *stream, void **out)
{
    blas *b = calloc(1, sizeof *b);
    if (!b) return "out of memory";
    const cudaError_t error = cudaMalloc(&b->room, ROOM);
    const char *why =
        error ? cudaGetErrorString(error) : cublas_words(cublasCreate(&b->handle));
    if (!why) why = cublas_words(cublasSetStream(b->handle, stream));
    if (!why) why = cublas_words(cublasSetWorkspace(b->handle, b->room, ROOM));
    if (why)
        cuda_blas_close(b);
    else
        *out = b;
    return why;
}

const char *cuda_blas_product(void *own, banyan_dtype dtype, const void *weight, int64_t count,
                              int64_t width, const void *in, int32_t rows, float *out)
{
    const float one = 1, zero = 0;
    const cudaDataType_t type = dtype == BANYAN_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    return cublas_words(cublasGemmEx_64(((blas *)own)->handle, CUBLAS_OP_T, CUBLAS_OP_N, count,
                                        rows, width, &one, weight, type, width, in, type, width,
                                        &zero, out, CUDA_R_32F, count, CUBLAS_COMPUTE_32F,
                                        CUBLAS_GEMM_DEFAULT));
}

const char *cuda_blas_product_bf16(void *own, int32_t n, const void *a, const void *b, void *c)
{
    const float one = 1, zero = 0;
    return cublas_words(cublasGemmEx(((blas *)own)->handle, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n,
                                     &one, b, CUDA_R_16BF, n, a, CUDA_R_16BF, n, &zero, c,
                                     CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}
