/* SPDX-License-Identifier: Apache-2.0 */
/* Partials as arrays that an all-reduce takes, and back: what dist/merge_passes.c does on the
 * host, a number a thread. */
#include "attention/cuda/launch.h"
#include "attention/cuda/ptx.h"
#include "attention/cuda/queue.h"

enum { PASS_THREADS = 256 };

/* Number i of the values of a pass. */
struct pass_value {
    int64_t vector; /* head * rows + row */
    int64_t head, row;
    int d;
};

PTX_FN pass_value pass_value_of(int64_t i, int numbers, int64_t rows)
{
    pass_value p;
    p.vector = i / numbers;
    p.d = (int)(i % numbers);
    p.head = p.vector / rows;
    p.row = p.vector % rows;
    return p;
}

/* exp(m - M); 0 where nothing was seen, NaN where m is. */
PTX_FN float factor(float m, float largest)
{
    return m == -INFINITY ? 0 : m == largest ? 1 : expf(m - largest);
}

static __global__ void give_kernel(int pass, float *const *partial, int64_t count, int numbers,
                                   int value_dim, int64_t rows, const float *maxima,
                                   float *values, const __grid_constant__ cuda_carried carried)
{
    partial = carried_at(carried, partial);
    const int64_t i = (int64_t)blockIdx.x * PASS_THREADS + threadIdx.x;
    if (i >= count) return;
    const pass_value p = pass_value_of(i, numbers, rows);
    if (!partial[p.head]) {
        values[i] = pass ? 0 : -INFINITY;
        return;
    }
    const float *const o = partial[p.head] + p.row * (value_dim + 2);
    const float m = o[value_dim];
    if (pass == 0)
        values[i] = m;
    else
        values[i] = o[pass == 1 ? p.d : value_dim + 1] * factor(m, maxima[p.vector]);
}

static __global__ void take_kernel(int pass, float *const *partial, int64_t count, int numbers,
                                   int value_dim, int64_t rows, const float *maxima,
                                   const float *values,
                                   const __grid_constant__ cuda_carried carried)
{
    partial = carried_at(carried, partial);
    const int64_t i = (int64_t)blockIdx.x * PASS_THREADS + threadIdx.x;
    if (i >= count) return;
    const pass_value p = pass_value_of(i, numbers, rows);
    if (!partial[p.head]) return;
    float *const o = partial[p.head] + p.row * (value_dim + 2);
    if (pass == 1) {
        o[p.d] = values[i];
    } else {
        o[value_dim] = maxima[p.vector];
        o[value_dim + 1] = values[i];
    }
}

/* Of both: pointers to the device, and how much there is to do. */
struct pass_work {
    cuda_array partial;
    int64_t count;
    int numbers;
    cuda_shape shape;
    cuda_carried carried;
};

static const char *plan_work(banyan_queue *queue, int pass, float *const *partial,
                             int32_t heads, int32_t value_dim, int64_t rows, pass_work *out)
{
    out->numbers = pass == 1 ? value_dim : 1;
    out->count = heads * rows * out->numbers;
    out->partial = {partial, (size_t)heads * sizeof *partial, NULL};
    out->shape = {dim3((unsigned)((out->count + PASS_THREADS - 1) / PASS_THREADS)),
                  dim3(PASS_THREADS), 0, queue->stream, false};
    return out->count ? cuda_stage(queue, &out->partial, 1, &out->carried) : NULL;
}

const char *banyan_cuda_give(banyan_queue *queue, int pass, float *const *partial,
                             int32_t heads, int32_t value_dim, int64_t rows,
                             const float *maxima, float *values)
{
    pass_work w;
    const char *failed = plan_work(queue, pass, partial, heads, value_dim, rows, &w);
    if (failed || !w.count) return failed;
    return cuda_failed(cuda_launch(w.shape, give_kernel, pass, (float *const *)w.partial.device,
                                   w.count, w.numbers, (int)value_dim, rows, maxima, values,
                                   w.carried),
                       "giving partials to an all-reduce");
}

const char *banyan_cuda_take(banyan_queue *queue, int pass, float *const *partial,
                             int32_t heads, int32_t value_dim, int64_t rows,
                             const float *maxima, const float *values)
{
    pass_work w;
    const char *failed = plan_work(queue, pass, partial, heads, value_dim, rows, &w);
    if (failed || !w.count) return failed;
    return cuda_failed(cuda_launch(w.shape, take_kernel, pass, (float *const *)w.partial.device,
                                   w.count, w.numbers, (int)value_dim, rows, maxima, values,
                                   w.carried),
                       "taking partials from an all-reduce");
}

const char *cuda_passes_open(banyan_queue *)
{
    cudaError_t error = cuda_prepare(give_kernel, 0);
    if (error == cudaSuccess) error = cuda_prepare(take_kernel, 0);
    return cuda_failed(error, "loading the passes of an all-reduce");
}
