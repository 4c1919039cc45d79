/* SPDX-License-Identifier: Apache-2.0 */
/* What is done with partials and results that are all here: results of several caches are
 * joined, and partials compared. A warp takes a row. */
#include "attention/cuda/exact_fold.h"
#include "attention/cuda/launch.h"
#include "attention/cuda/partial.h"
#include "attention/cuda/queue.h"
#include "attention/cuda/result.h"

/* ---- join -------------------------------------------------------------------------------- */

struct join_arguments {
    const void *const *outs;
    const float *const *lses;
    const float *sinks; /* or NULL */
    const uint8_t *is_mine;
    int count, heads, dim;
    int64_t rows;
    void *out;
    float *lse;
    banyan_dtype dtype;
};

/* Sums in double, in the order of the results, as in dist/combine.c, whose comment has the
 * law. */
static __global__ void join_rows(const join_arguments a)
{
    const int64_t row = row_of_warp();
    const int head = (int)blockIdx.y;
    if (row >= a.rows || !a.is_mine[head]) return;
    const int64_t at = row * a.heads + head;
    const double sink = a.sinks ? (double)a.sinks[head] : (double)-INFINITY;
    double top = sink, sum = 0;
    for (int i = 0; i < a.count; i++) {
        const double lse = (double)a.lses[i][at];
        if (lse > top || lse != lse) top = lse; /* NaN stays */
    }
    if (sink > -INFINITY) sum = exp(sink - top);
    for (int i = 0; i < a.count; i++)
        if (a.lses[i][at] != -INFINITY) sum += exp((double)a.lses[i][at] - top);
    for (int d = (int)threadIdx.x % 32; d < a.dim; d += 32) {
        double mean = 0;
        for (int i = 0; i < a.count; i++)
            if (a.lses[i][at] != -INFINITY) /* something was seen */
                mean += exp((double)a.lses[i][at] - top) *
                        (double)load_number(a.outs[i], at * a.dim + d, a.dtype);
        store_number(a.out, at * a.dim + d, top == -INFINITY ? 0 : (float)(mean / sum),
                     a.dtype);
    }
    __syncwarp(); /* all lanes have read what lse may be written over */
    if (a.lse && threadIdx.x % 32 == 0)
        a.lse[at] = top == -INFINITY ? -INFINITY : (float)(top + log(sum));
}

const char *banyan_cuda_join(banyan_queue *queue, const void *const *outs,
                             const float *const *lses, int32_t count, const float *sinks,
                             const uint8_t *is_mine, int32_t heads, int32_t value_dim,
                             int64_t rows, void *out, banyan_dtype out_dtype, float *lse)
{
    if (rows == 0) return NULL;
    cuda_array array[4] = {{outs, (size_t)count * sizeof *outs, NULL},
                           {lses, (size_t)count * sizeof *lses, NULL},
                           {sinks, sinks ? (size_t)heads * sizeof *sinks : 0, NULL},
                           {is_mine, (size_t)heads, NULL}};
    const char *failed = cuda_stage(queue, array, 4);
    if (failed) return failed;
    const join_arguments arguments = {(const void *const *)array[0].device,
                                      (const float *const *)array[1].device,
                                      sinks ? (const float *)array[2].device : NULL,
                                      (const uint8_t *)array[3].device,
                                      count,
                                      heads,
                                      value_dim,
                                      rows,
                                      out,
                                      lse,
                                      out_dtype};
    const cuda_shape shape = {dim3(partial_blocks(rows), (unsigned)heads),
                              dim3(PARTIAL_THREADS), 0, queue->stream, false};
    return cuda_failed(cuda_launch(shape, join_rows, arguments), "joining results");
}

/* ---- share ------------------------------------------------------------------------------- */

/* Both are sums of exponentials, each relative to its own m. */
static __device__ float share_of(ends probed, ends all)
{
    if (probed.l == 0) return 0;
    return __fdiv_rn(__fmul_rn(probed.l, probed.m == all.m ? 1 : expf(probed.m - all.m)),
                     all.l);
}

/* Of a row of partials, or of fixed-point sums. */
static __device__ ends ends_of_row(const float *rows, int64_t row, int dim, bool exact)
{
    if (!exact) return ends_of(rows + row * (dim + 2), dim);
    const exact_list one = {(const int64_t *)rows + row * fixed_words(dim), 0, 1};
    return round_ends(one, dim).e;
}

static __global__ void share_rows(float *const *partial, float *const *probed, bool exact,
                                  int heads, int dim, int64_t rows, float *mass)
{
    const int64_t row = (int64_t)blockIdx.x * PARTIAL_THREADS + threadIdx.x;
    const int head = (int)blockIdx.y;
    if (row >= rows || !partial[head]) return;
    mass[row * heads + head] = share_of(ends_of_row(probed[head], row, dim, exact),
                                        ends_of_row(partial[head], row, dim, exact));
}

const char *banyan_cuda_share(banyan_queue *queue, float *const *partial, float *const *probed,
                              int32_t heads, int32_t value_dim, int64_t rows, float *mass)
{
    if (rows == 0) return NULL;
    const size_t bytes = (size_t)heads * sizeof *partial;
    cuda_array array[2] = {{partial, bytes, NULL}, {probed, bytes, NULL}};
    const char *failed = cuda_stage(queue, array, 2);
    if (failed) return failed;
    const cuda_shape shape = {
        dim3((unsigned)((rows + PARTIAL_THREADS - 1) / PARTIAL_THREADS), (unsigned)heads),
        dim3(PARTIAL_THREADS), 0, queue->stream, false};
    return cuda_failed(cuda_launch(shape, share_rows, (float *const *)array[0].device,
                                   (float *const *)array[1].device, queue->limits.exact != 0,
                                   heads, value_dim, rows, mass),
                       "comparing partials");
}

const char *cuda_partials_open(banyan_queue *)
{
    cudaError_t error = cuda_prepare(join_rows, 0);
    if (error == cudaSuccess) error = cuda_prepare(share_rows, 0);
    return cuda_failed(error, "loading the work on partials");
}
