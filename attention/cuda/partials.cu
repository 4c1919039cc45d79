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

static unsigned thread_blocks(int64_t rows)
{
    return (unsigned)((rows + WARPS - 1) / WARPS);
}

/* ---- combine --------------------------------------------------------------------------------- */

/* What each side is multiplied by; 0 for a side that is empty, whose numbers are not used. */
struct factors {
    float m, l, a, b;
};
static __device__ factors weigh_ends(ends lo, ends hi)
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
    const factors f = weigh_ends(e_lo, e_hi);
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
    const cuda_shape shape = {dim3(thread_blocks(rows)), dim3(THREADS), 0, queue->stream,
                              false};
    return cuda_failed(cuda_launch(shape, combine_rows, out, lo, hi, value_dim, rows),
                       "combining partials");
}

/* ---- finish ---------------------------------------------------------------------------------- */

/* With a sink (none: -inf); returns by what o is to be multiplied. */
static __device__ float add_sink(ends &e, float sink)
{
    if (sink == -INFINITY) return 1;
    const float top = e.m > sink || e.m != e.m ? e.m : sink; /* NaN stays */
    const float a = e.m == top ? 1 : expf(e.m - top), b = sink == top ? 1 : expf(sink - top);
    e.m = top;
    e.l = __fadd_rn(__fmul_rn(e.l, a), b);
    return a;
}

static __global__ void finish_rows(float *const *partial, const float *sinks, int heads,
                                   int dim, int64_t rows, void *out, banyan_dtype out_dtype,
                                   float *lse)
{
    const int64_t row = row_of_warp();
    const int head = (int)blockIdx.y;
    if (row >= rows || !partial[head]) return;
    const float *const p = partial[head] + row * (dim + 2);
    ends e = ends_of(p, dim);
    const float shrink = sinks ? add_sink(e, sinks[head]) : 1;
    const bool empty = is_empty(e);
    const int64_t at = row * heads + head;
    for (int d = (int)threadIdx.x % 32; d < dim; d += 32)
        store_number(out, at * dim + d, empty ? 0 : __fdiv_rn(__fmul_rn(p[d], shrink), e.l),
                     out_dtype);
    if (lse && threadIdx.x % 32 == 0) lse[at] = empty ? -INFINITY : e.m + logf(e.l);
}

const char *banyan_cuda_finish(banyan_queue *queue, float *const *partial, const float *sinks,
                               int32_t heads, int32_t value_dim, int64_t rows, void *out,
                               banyan_dtype out_dtype, float *lse)
{
    if (rows == 0) return NULL;
    cuda_array array[2] = {{partial, (size_t)heads * sizeof *partial, NULL},
                           {sinks, sinks ? (size_t)heads * sizeof *sinks : 0, NULL}};
    const char *failed = cuda_stage(queue, array, 2);
    if (failed) return failed;
    const cuda_shape shape = {dim3(thread_blocks(rows), (unsigned)heads), dim3(THREADS), 0,
                              queue->stream, false};
    return cuda_failed(cuda_launch(shape, finish_rows, (float *const *)array[0].device,
                                   sinks ? (const float *)array[1].device : NULL, heads,
                                   value_dim, rows, out, out_dtype, lse),
                       "finishing partials");
}

/* ---- join ------------------------------------------------------------------------------------- */

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

/* Sums in double, in the order of the results, as in dist/combine.c, whose comment has the law. */
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
    const cuda_shape shape = {dim3(thread_blocks(rows), (unsigned)heads), dim3(THREADS), 0,
                              queue->stream, false};
    return cuda_failed(cuda_launch(shape, join_rows, arguments), "joining results");
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
    if (error == cudaSuccess) error = cuda_prepare(join_rows, 0);
    if (error == cudaSuccess) error = cuda_prepare(share_rows, 0);
    return cuda_failed(error, "loading the work on partials");
}
