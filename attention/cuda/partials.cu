/* SPDX-License-Identifier: Apache-2.0 */
/* Partials on the device: combined, finished and compared as in partial.c, whose comment derives the
 * laws. A warp takes a row. Products and sums are rounded one by one, not fused, so that a + b and
 * b + a are the same bits here as well. */
#include "attention/cuda/launch.h"
#include "attention/cuda/queue.h"
#include "attention/cuda/result.h"

enum { THREADS = 128, WARPS = THREADS / 32 };

/* m and l of a partial. */
struct ends {
    float m, l;
};

PTX_FN ends ends_of(const float *partial, int dim)
{
    return {partial[dim], partial[dim + 1]};
}
PTX_FN bool is_empty(ends e)
{
    return e.m == -INFINITY && e.l == 0;
}
PTX_FN int64_t row_of_warp()
{
    return (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
}

static unsigned blocks_of(int64_t rows)
{
    return (unsigned)((rows + WARPS - 1) / WARPS);
}

/* ---- combine --------------------------------------------------------------------------------- */

/* What each side is multiplied by; 0 for a side that is empty, whose numbers are not used. */
struct factors {
    float m, l, a, b;
};
static __device__ factors weigh(ends lo, ends hi)
{
    if (is_empty(hi)) return {lo.m, lo.l, 1, 0};
    if (is_empty(lo)) return {hi.m, hi.l, 0, 1};
    const float m = hi.m > lo.m || hi.m != hi.m ? hi.m : lo.m; /* NaN if either is */
    const float a = lo.m == m ? 1 : expf(lo.m - m), b = hi.m == m ? 1 : expf(hi.m - m);
    return {m, __fadd_rn(__fmul_rn(lo.l, a), __fmul_rn(hi.l, b)), a, b};
}

static __global__ void combine_rows(float *out, const float *lo, const float *hi, int dim,
                                    int64_t rows)
{
    const int64_t row = row_of_warp(), at = row * (dim + 2);
    const int lane = (int)threadIdx.x % 32;
    if (row >= rows) return;
    const ends e_lo = ends_of(lo + at, dim), e_hi = ends_of(hi + at, dim);
    const factors f = weigh(e_lo, e_hi);
    __syncwarp(); /* all lanes have read m and l before they are written */
    for (int d = lane; d < dim; d += 32) {
        const float x = lo[at + d], y = hi[at + d];
        out[at + d] = is_empty(e_hi)   ? x
                      : is_empty(e_lo) ? y
                                       : __fadd_rn(__fmul_rn(x, f.a), __fmul_rn(y, f.b));
    }
    if (lane == 0) {
        out[at + dim] = f.m;
        out[at + dim + 1] = f.l;
    }
}

const char *banyan_cuda_combine(banyan_queue *queue, float *out, const float *lo,
                                const float *hi, int32_t value_dim, int64_t rows)
{
    if (rows == 0) return NULL;
    const cuda_shape shape = {dim3(blocks_of(rows)), dim3(THREADS), 0, queue->stream, false};
    return cuda_failed(cuda_launch(shape, combine_rows, out, lo, hi, value_dim, rows),
                       "combining partials");
}

/* ---- finish ---------------------------------------------------------------------------------- */

static __global__ void finish_rows(float *const *partial, int heads, int dim, int64_t rows,
                                   void *out, banyan_dtype out_dtype, float *lse)
{
    const int64_t row = row_of_warp();
    const int head = (int)blockIdx.y;
    if (row >= rows || !partial[head]) return;
    const float *const p = partial[head] + row * (dim + 2);
    const ends e = ends_of(p, dim);
    const bool empty = is_empty(e);
    const int64_t at = row * heads + head;
    for (int d = (int)threadIdx.x % 32; d < dim; d += 32)
        store_number(out, at * dim + d, empty ? 0 : __fdiv_rn(p[d], e.l), out_dtype);
    if (lse && threadIdx.x % 32 == 0) lse[at] = empty ? -INFINITY : e.m + logf(e.l);
}

const char *banyan_cuda_finish(banyan_queue *queue, float *const *partial, int32_t heads,
                               int32_t value_dim, int64_t rows, void *out,
                               banyan_dtype out_dtype, float *lse)
{
    if (rows == 0) return NULL;
    cuda_array array = {partial, (size_t)heads * sizeof *partial, NULL};
    const char *failed = cuda_stage(queue, &array, 1);
    if (failed) return failed;
    const cuda_shape shape = {dim3(blocks_of(rows), (unsigned)heads), dim3(THREADS), 0,
                              queue->stream, false};
    return cuda_failed(cuda_launch(shape, finish_rows, (float *const *)array.device, heads,
                                   value_dim, rows, out, out_dtype, lse),
                       "finishing partials");
}

/* ---- share ----------------------------------------------------------------------------------- */

/* Both are sums of exponentials, each relative to its own m. */
static __device__ float share_of(ends probed, ends all)
{
    if (probed.l == 0) return 0;
    return __fdiv_rn(__fmul_rn(probed.l, probed.m == all.m ? 1 : expf(probed.m - all.m)),
                     all.l);
}

static __global__ void share_rows(float *const *partial, float *const *probed, int heads,
                                  int dim, int64_t rows, float *mass)
{
    const int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int head = (int)blockIdx.y;
    if (row >= rows || !partial[head]) return;
    mass[row * heads + head] = share_of(ends_of(probed[head] + row * (dim + 2), dim),
                                        ends_of(partial[head] + row * (dim + 2), dim));
}

const char *banyan_cuda_share(banyan_queue *queue, float *const *partial, float *const *probed,
                              int32_t heads, int32_t value_dim, int64_t rows, float *mass)
{
    if (rows == 0) return NULL;
    const size_t bytes = (size_t)heads * sizeof *partial;
    cuda_array array[2] = {{partial, bytes, NULL}, {probed, bytes, NULL}};
    const char *failed = cuda_stage(queue, array, 2);
    if (failed) return failed;
    const cuda_shape shape = {dim3((unsigned)((rows + THREADS - 1) / THREADS), (unsigned)heads),
                              dim3(THREADS), 0, queue->stream, false};
    return cuda_failed(cuda_launch(shape, share_rows, (float *const *)array[0].device,
                                   (float *const *)array[1].device, heads, value_dim, rows,
                                   mass),
                       "comparing partials");
}

const char *cuda_partials_open(banyan_queue *)
{
    cudaError_t error = cuda_prepare(combine_rows, 0);
    if (error == cudaSuccess) error = cuda_prepare(finish_rows, 0);
    if (error == cudaSuccess) error = cuda_prepare(share_rows, 0);
    return cuda_failed(error, "loading the work on partials");
}
