/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a round of messages, in one launch: what came is folded, item by item and row by
 * row, in the order of the schedule; what is whole then becomes a result; and headers are
 * compared with what they should be, by a thread block of its own.
 *
 *     headers that came --> as expected?                   --> faults, for the host
 *     own partial, those that came --> fold --> partial
 *                                       \--> with a sink --> row of out, lse
 *
 * As in partial.c, whose comment derives the laws. A warp takes a row, which it has in
 * registers from its first value to its last. Products and sums are rounded one by one, not
 * fused, so that a + b and b + a are the same bits here as well. */
#include "attention/cuda/exact_fold.h"
#include "attention/cuda/launch.h"
#include "attention/cuda/partial.h"
#include "attention/cuda/queue.h"
#include "attention/cuda/result.h"

#include <string.h>

enum { HEAD_WORDS = BANYAN_COMPARED_BYTES / 4 };

struct cuda_fold {
    float *partial; /* or NULL */
    int32_t first, values, head;
    float sink;
};

struct cuda_check {
    const uint32_t *got;
    uint32_t expected[HEAD_WORDS];
};

struct fold_call {
    const cuda_fold *fold;
    const float *const *value;
    const cuda_check *check;
    banyan_fault *fault;
    void *out;
    float *lse;
    int64_t rows;
    int folds, checks, dim, heads;
    banyan_dtype out_dtype;
    cuda_carried carried;
};

/* ---- headers ----------------------------------------------------------------------------- */

/* One thread reads all of a header: others would only wait for each other, and it is 64 bytes.
 * The host reads is_set first, so it is written last. */
static __device__ void check_header(const cuda_check *check, banyan_fault *fault)
{
    uint32_t mine[HEAD_WORDS];
    bool is_same = true;
    for (int i = 0; i < HEAD_WORDS; i++) {
        mine[i] = check->got[i];
        is_same = is_same && mine[i] == check->expected[i];
    }
    if (is_same || *(volatile int32_t *)&fault->is_set) return;
    for (int i = 0; i < HEAD_WORDS; i++) {
        ((volatile uint32_t *)fault->got)[i] = mine[i];
        ((volatile uint32_t *)fault->expected)[i] = check->expected[i];
    }
    __threadfence_system();
    *(volatile int32_t *)&fault->is_set = 1;
}

static __device__ void check_headers(const fold_call &call)
{
    const cuda_check *const check = carried_at(call.carried, call.check);
    for (int i = (int)threadIdx.x; i < call.checks; i += PARTIAL_THREADS)
        if (blockIdx.x == 0) check_header(check + i, call.fault + i);
}

/* ---- rows -------------------------------------------------------------------------------- */

/* A warp's row: a lane has numbers lane, lane + 32, .. */
template <int EACH> struct partial_row {
    float o[EACH];
    ends e;
};

template <int EACH> PTX_FN partial_row<EACH> load_partial(const float *partial, int dim)
{
    partial_row<EACH> row;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int d = (int)threadIdx.x % 32 + 32 * i;
        row.o[i] = d < dim ? partial[d] : 0;
    }
    row.e = ends_of(partial, dim);
    return row;
}

template <int EACH>
PTX_FN void store_folded(float *partial, const partial_row<EACH> &row, int dim)
{
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int d = (int)threadIdx.x % 32 + 32 * i;
        if (d < dim) partial[d] = row.o[i];
    }
    if (threadIdx.x % 32 == 0) {
        partial[dim] = row.e.m;
        partial[dim + 1] = row.e.l;
    }
}

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

template <int EACH> PTX_FN void add_partial(partial_row<EACH> &sum, const partial_row<EACH> &hi)
{
    const factors f = weigh_ends(sum.e, hi.e);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const float x = sum.o[i], y = hi.o[i];
        sum.o[i] = is_empty(hi.e)    ? x
                   : is_empty(sum.e) ? y
                                     : __fadd_rn(__fmul_rn(x, f.a), __fmul_rn(y, f.b));
    }
    sum.e = {f.m, f.l};
}

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

template <int EACH>
PTX_FN void finish_folded(const fold_call &call, const cuda_fold &fold, int64_t row,
                          const partial_row<EACH> &sum)
{
    const int lane = (int)threadIdx.x % 32;
    const int64_t at = row * call.heads + fold.head;
    ends e = sum.e;
    const float shrink = add_sink(e, fold.sink);
    const bool empty = is_empty(e);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int d = lane + 32 * i;
        if (d < call.dim)
            store_number(call.out, at * call.dim + d,
                         empty ? 0 : __fdiv_rn(__fmul_rn(sum.o[i], shrink), e.l),
                         call.out_dtype);
    }
    if (call.lse && lane == 0) call.lse[at] = empty ? -INFINITY : e.m + logf(e.l);
}

/* ---- all of it --------------------------------------------------------------------------- */

template <int EACH>
static __global__ void __launch_bounds__(PARTIAL_THREADS)
    fold_kernel(const __grid_constant__ fold_call call)
{
    enum { AHEAD = EACH > 4 ? 2 : 4 }; /* values on their way at once */
    if ((int)blockIdx.y == call.folds) {
        check_headers(call);
        return;
    }
    const int64_t row = row_of_warp(), at = row * (call.dim + 2);
    if (row >= call.rows) return;
    const cuda_fold fold = carried_at(call.carried, call.fold)[blockIdx.y];
    const float *const *const value = carried_at(call.carried, call.value) + fold.first;
    partial_row<EACH> sum = load_partial<EACH>(value[0] + at, call.dim);
    for (int v = 1; v < fold.values; v += AHEAD) {
        partial_row<EACH> next[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (v + i < fold.values) next[i] = load_partial<EACH>(value[v + i] + at, call.dim);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (v + i < fold.values) add_partial(sum, next[i]);
    }
    __syncwarp(); /* all lanes have read m and l before they are written */
    if (fold.partial) store_folded(fold.partial + at, sum, call.dim);
    if (fold.head >= 0) finish_folded(call, fold, row, sum);
}

/* The same of fixed-point sums: a thread block takes a row. */
static __global__ void __launch_bounds__(PARTIAL_THREADS, 4)
    fold_exact(const __grid_constant__ fold_call call)
{
    if ((int)blockIdx.y == call.folds) {
        check_headers(call);
        return;
    }
    const cuda_fold fold = carried_at(call.carried, call.fold)[blockIdx.y];
    const int64_t row = blockIdx.x, at = row * fixed_words(call.dim);
    const exact_pointers parts = {carried_at(call.carried, call.value) + fold.first, at,
                                  fold.values};
    if (row >= call.rows) return;
    /* by one thread: it takes longer than the sums do */
    exact_ends *const room = (exact_ends *)dynamic_shared();
    if (threadIdx.x == 0) *room = round_ends(parts, call.dim);
    __syncthreads();
    const exact_ends rounded = *room;
    const exact_row sum = sum_of(parts, call.dim);
    float o[EXACT_COLUMNS];
#pragma unroll
    for (int i = 0; i < EXACT_COLUMNS; i++) {
        const int d = (int)threadIdx.x + i * PARTIAL_THREADS;
        o[i] = d >= call.dim || fold.head < 0
                   ? 0
                   : round_column(sum.sum[i], rounded, has_flag(parts, false, call.dim, d),
                                  has_flag(parts, true, call.dim, d));
    }
    if (fold.partial) store_sum_row((int64_t *)fold.partial + at, sum, parts, call.dim);
    if (fold.head < 0) return;
    ends e = rounded.e;
    const float shrink = add_sink(e, fold.sink);
    const bool empty = is_empty(e);
    const int64_t result = row * call.heads + fold.head;
#pragma unroll
    for (int i = 0; i < EXACT_COLUMNS; i++) {
        const int d = (int)threadIdx.x + i * PARTIAL_THREADS;
        if (d < call.dim)
            store_number(call.out, result * call.dim + d,
                         empty ? 0 : __fdiv_rn(__fmul_rn(o[i], shrink), e.l), call.out_dtype);
    }
    if (call.lse && threadIdx.x == 0) call.lse[result] = empty ? -INFINITY : e.m + logf(e.l);
}

const char *cuda_fold_open(banyan_queue *queue)
{
    cudaError_t error = cuda_prepare(fold_kernel<4>, 0);
    if (error == cudaSuccess && queue->limits.exact) error = cuda_prepare(fold_exact, 0);
    if (error == cudaSuccess) error = cuda_prepare(fold_kernel<16>, 0);
    return cuda_failed(error, "loading the folding of partials");
}

/* ---- host -------------------------------------------------------------------------------- */

/* The lists of one launch, in the queue's room. */
struct fold_lists {
    cuda_fold *fold;
    const float **value;
    cuda_check *check;
    int32_t folds, values, checks;
};

static size_t list_bytes(int32_t folds, int32_t values, int32_t checks)
{
    return (size_t)folds * sizeof(cuda_fold) + (size_t)values * sizeof(float *) +
           (size_t)checks * sizeof(cuda_check);
}

/* How many of each go in the next launch: those that its parameters have room for, and one at
 * least. */
static void take_some(const banyan_fold_batch *batch, int32_t first, int32_t checked,
                      fold_lists *out)
{
    const size_t room = CUDA_CARRIED - 3 * 16; /* each list begins at a multiple of 16 */
    out->folds = out->values = out->checks = 0;
    for (; checked + out->checks < batch->checks; out->checks++)
        if (list_bytes(0, 0, out->checks + 1) > room) break;
    for (; first + out->folds < batch->folds; out->folds++) {
        const int32_t values = out->values + batch->fold[first + out->folds].values;
        const bool is_some = out->folds || out->checks;
        if (list_bytes(out->folds + 1, values, out->checks) > room && is_some) break;
        out->values = values;
    }
}

static const char *fill_lists(const banyan_queue *queue, const banyan_fold_batch *batch,
                              int32_t first, int32_t checked, fold_lists *out)
{
    int32_t values = 0;
    if (list_bytes(out->folds, out->values, out->checks) > queue->room_bytes)
        return cuda_words("a fold of %d partials; at most %zu are", (int)out->values,
                          queue->room_bytes / sizeof(float *));
    out->check = (cuda_check *)queue->room;
    out->fold = (cuda_fold *)(out->check + out->checks);
    out->value = (const float **)(out->fold + out->folds);
    for (int32_t i = 0; i < out->checks; i++) {
        const banyan_check *const check = &batch->check[checked + i];
        out->check[i].got = (const uint32_t *)check->got;
        memcpy(out->check[i].expected, check->expected, sizeof out->check[i].expected);
    }
    for (int32_t i = 0; i < out->folds; i++) {
        const banyan_folding *const from = &batch->fold[first + i];
        const bool has_sink = batch->sinks && from->head >= 0;
        out->fold[i] = {from->partial, values, from->values, from->head,
                        has_sink ? batch->sinks[from->head] : -INFINITY};
        for (int32_t v = 0; v < from->values; v++)
            out->value[values++] = (const float *)from->value[v];
    }
    return NULL;
}

static const char *start_fold(banyan_queue *queue, const banyan_fold_batch *batch,
                              const fold_lists *lists, banyan_fault *fault)
{
    fold_call call;
    cuda_array array[3] = {{lists->fold, (size_t)lists->folds * sizeof *lists->fold, NULL},
                           {lists->value, (size_t)lists->values * sizeof *lists->value, NULL},
                           {lists->check, (size_t)lists->checks * sizeof *lists->check, NULL}};
    const char *const failed = cuda_stage(queue, array, 3, &call.carried);
    if (failed) return failed;
    call.fold = (const cuda_fold *)array[0].device;
    call.value = (const float *const *)array[1].device;
    call.check = (const cuda_check *)array[2].device;
    call.fault = fault;
    call.out = batch->out;
    call.lse = batch->lse;
    call.rows = batch->rows;
    call.folds = lists->folds;
    call.checks = lists->checks;
    call.dim = batch->value_dim;
    call.heads = batch->heads;
    call.out_dtype = batch->out_dtype;
    const int64_t rows = lists->folds ? batch->rows : 1;
    const bool exact = queue->limits.exact != 0;
    const cuda_shape shape = {dim3(exact ? (unsigned)rows : partial_blocks(rows),
                                   (unsigned)(lists->folds + (lists->checks > 0))),
                              dim3(PARTIAL_THREADS), exact ? sizeof(exact_ends) : 0,
                              queue->stream, false};
    if (exact)
        return cuda_failed(cuda_launch(shape, fold_exact, call), "adding up fixed-point sums");
    return cuda_failed(batch->value_dim <= 4 * 32 ? cuda_launch(shape, fold_kernel<4>, call)
                                                  : cuda_launch(shape, fold_kernel<16>, call),
                       "folding partials");
}

/* Where the device cannot write to the host's memory, faults go there and come back. */
static const char *start_checked(banyan_queue *queue, const banyan_fold_batch *batch,
                                 const fold_lists *lists, banyan_fault *fault)
{
    const size_t bytes = (size_t)lists->checks * sizeof *fault;
    if (!bytes || queue->is_mapped) return start_fold(queue, batch, lists, fault);
    if (bytes > queue->scratch_bytes)
        return cuda_words("%d headers, with %zu bytes for what is wrong with them",
                          (int)lists->checks, queue->scratch_bytes);
    const char *failed = banyan_cuda_copy(queue, queue->scratch, fault, bytes);
    if (!failed) failed = start_fold(queue, batch, lists, (banyan_fault *)queue->scratch);
    return failed ? failed : banyan_cuda_copy(queue, fault, queue->scratch, bytes);
}

const char *banyan_cuda_fold(banyan_queue *queue, const banyan_fold_batch *batch)
{
    fold_lists lists;
    const char *failed = NULL;
    if (batch->value_dim > 16 * 32)
        return cuda_words("folding partials of %d numbers; at most 512 are",
                          (int)batch->value_dim);
    if (!batch->rows && !batch->checks) return NULL;
    for (int32_t first = 0, checked = 0;
         !failed && (first < batch->folds || checked < batch->checks);) {
        take_some(batch, first, checked, &lists);
        failed = fill_lists(queue, batch, first, checked, &lists);
        if (!failed) failed = start_checked(queue, batch, &lists, batch->fault + checked);
        first += lists.folds;
        checked += lists.checks;
    }
    return failed;
}
