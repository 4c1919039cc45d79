/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA as a device of the programs: one GPU, one stream. Its memory is the library's
 * (banyan_memory.h). */
#include "launch/cuda.h"

#include "launch/device.h"
#include "launch/model/steps.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct cuda {
    banyan_cuda_line line; /* memory and steps see it: first */
    int index;
    cudaEvent_t mark[2];
    void *blas; /* made with the first product */
} cuda;

/* A call's result in words. */
static const char *cuda_error_words(cudaError_t error)
{
    return error == cudaSuccess ? NULL : cudaGetErrorString(error);
}

static const char *cuda_missing(void)
{
    static char text[256];
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error == cudaSuccess && devices > 0) return NULL;
    snprintf(text, sizeof text, "no CUDA device: %s",
             error == cudaSuccess ? "the driver sees none" : cudaGetErrorString(error));
    return text;
}

static int cuda_count(void)
{
    int devices = 0;
    return cudaGetDeviceCount(&devices) == cudaSuccess ? devices : 0;
}

static void close_cuda(void *own)
{
    cuda *c = own;
    if (c->blas) cuda_blas_close(c->blas);
    for (int i = 0; i < 2; i++)
        if (c->mark[i]) cudaEventDestroy(c->mark[i]);
    if (c->line.stream) cudaStreamDestroy(c->line.stream);
    free(c);
}

/* cudaSetDevice holds for this thread, and so for every later call of the program and of the
 * library, which it makes from this thread only. */
static const char *open_cuda(int index, void **own)
{
    cuda *c = calloc(1, sizeof *c);
    if (!c) return "out of memory";
    c->index = index;
    c->line.is_mapped = 1;
    cudaError_t error = cudaSetDevice(index);
    if (!error) error = cudaStreamCreateWithFlags(&c->line.stream, cudaStreamNonBlocking);
    for (int i = 0; i < 2 && !error; i++) error = cudaEventCreate(&c->mark[i]);
    if (error) {
        close_cuda(c);
        return cuda_error_words(error);
    }
    *own = c;
    return NULL;
}

static void cuda_describe(void *own, char *text, size_t size)
{
    struct cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, ((cuda *)own)->index))
        snprintf(text, size, "a CUDA device");
    else
        snprintf(text, size, "%s, %d SMs, %.1f GiB", p.name, p.multiProcessorCount,
                 (double)p.totalGlobalMem / 0x1p30);
}

static const char *memory_free(void *own, int64_t *bytes)
{
    (void)own;
    size_t available = 0, total;
    const cudaError_t error = cudaMemGetInfo(&available, &total);
    *bytes = (int64_t)available;
    return cuda_error_words(error);
}

/* ---- products ---------------------------------------------------------------------------- */

static const char *make_blas(cuda *c)
{
    return c->blas ? NULL : cuda_blas_open(c->line.stream, &c->blas);
}

static const char *product(void *own, banyan_dtype dtype, const void *weight, int64_t count,
                           int64_t width, const void *in, int32_t rows, float *out)
{
    cuda *c = own;
    const char *why = make_blas(c);
    return why ? why : cuda_blas_product(c->blas, dtype, weight, count, width, in, rows, out);
}

static const char *product_bf16(void *own, int32_t n, const void *a, const void *b, void *to)
{
    cuda *c = own;
    const char *why = make_blas(c);
    return why ? why : cuda_blas_product_bf16(c->blas, n, a, b, to);
}

/* ---- clocks and graphs ------------------------------------------------------------------- */

static const char *cuda_mark(void *own, int which)
{
    cuda *c = own;
    return cuda_error_words(cudaEventRecord(c->mark[which], c->line.stream));
}

static const char *elapsed(void *own, double *seconds)
{
    cuda *c = own;
    float milliseconds = 0;
    cudaError_t error = cudaEventSynchronize(c->mark[1]);
    if (!error) error = cudaEventElapsedTime(&milliseconds, c->mark[0], c->mark[1]);
    *seconds = milliseconds * 1e-3;
    return cuda_error_words(error);
}

static const char *capture(void *own)
{
    return cuda_error_words(
        cudaStreamBeginCapture(((cuda *)own)->line.stream, cudaStreamCaptureModeThreadLocal));
}

static const char *captured(void *own, void **graph)
{
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t ready = NULL;
    cudaError_t error = cudaStreamEndCapture(((cuda *)own)->line.stream, &recorded);
    if (!error) error = cudaGraphInstantiate(&ready, recorded, 0);
    if (recorded) cudaGraphDestroy(recorded);
    if (!error) *graph = ready;
    return cuda_error_words(error);
}

static const char *replay(void *own, void *graph)
{
    return cuda_error_words(cudaGraphLaunch(graph, ((cuda *)own)->line.stream));
}

static void drop(void *own, void *graph)
{
    (void)own;
    if (graph) cudaGraphExecDestroy(graph);
}

const device_row device_row_cuda = {.name = "cuda",
                                    .missing = cuda_missing,
                                    .count = cuda_count,
                                    .open = open_cuda,
                                    .close = close_cuda,
                                    .describe = cuda_describe,
                                    .memory_free = memory_free,
                                    .memory = &banyan_cuda_memory,
                                    .steps = &step_row_cuda,
                                    .product = product,
                                    .product_bf16 = product_bf16,
                                    .mark = cuda_mark,
                                    .elapsed = elapsed,
                                    .capture = capture,
                                    .captured = captured,
                                    .replay = replay,
                                    .drop = drop};
