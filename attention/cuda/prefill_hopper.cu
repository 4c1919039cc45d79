/* SPDX-License-Identifier: Apache-2.0 */
/* Prefill on Hopper. A thread block stays on its multiprocessor and takes one portion after the
 * other (tiles.h); one of its warpgroups loads (hopper_load.h), two compute, 64 vectors each:
 *
 *     S = q K^T     wgmma, both from shared memory: 64 x 128 scores in registers
 *     P = 2^(S c - m c), masked where the list says so                      (hopper_softmax.h)
 *     O = decay O + P V     wgmma, P from the registers in which S came
 *
 * Registers of a computing thread: 64 of S, 32 of P, DIM / 2 of O. */
#include "attention/cuda/combine.h"
#include "attention/cuda/hopper_load.h"
#include "attention/cuda/hopper_softmax.h"
#include "attention/cuda/hopper_store.h"
#include "attention/cuda/launch.h"
#include "attention/cuda/wgmma.h"

/* s = q k^T: a subtile with a stage of K. */
template <typename T, int DIM>
PTX_FN void product_scores(float (&s)[64], uint32_t q, uint32_t k)
{
#pragma unroll
    for (int panel = 0; panel < DIM / 64; panel++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            wgmma_ss<128, T>(
                s, wgmma_descriptor(q + panel * RECORD_PANEL_BYTES + 32 * c, 16, 1024),
                wgmma_descriptor(k + panel * hopper_layout<DIM>::PANEL + 32 * c, 16, 1024),
                panel + c > 0);
}

/* o += p v: weights with a stage of V, 16 keys at a time. */
template <typename T, int DIM, int HEIGHT>
PTX_FN void product_values(float (&o)[DIM / 2], const uint32_t (&p)[8][4], uint32_t v)
{
#pragma unroll
    for (int c = 0; c < 8; c++)
        wgmma_rs<DIM, T>(o, p[c],
                         wgmma_descriptor(v + c / (HEIGHT / 16) * (HEIGHT * DIM * 2) +
                                              c % (HEIGHT / 16) * 2048,
                                          HEIGHT * RECORD_ROW, 1024),
                         1);
}

/* What a computing warpgroup knows. */
template <int DIM> struct hopper_turn {
    unsigned char *shared;
    uint32_t address;
    int subtile;
    hopper_ring<hopper_layout<DIM>::STAGES> ring; /* the next step */

    __device__ __forceinline__ const hopper_step *step(int stage) const
    {
        return (const hopper_step *)(shared + hopper_layout<DIM>::STEP +
                                     stage * hopper_layout<DIM>::STEP_BYTES);
    }
};

/* This warp is done with a stage, or with a portion. */
PTX_FN void release_stage(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

/* Scores are there: the weights of a step from them, and its stage of K free. how: of its
 * blocks. */
template <typename T, int HEIGHT, int DIM>
PTX_FN void weigh_step(float (&s)[64], const hopper_params &params, const cuda_subtile &subtile,
                       const hopper_turn<DIM> &turn, int stage, int how,
                       const int64_t (&row)[2], float (&m)[2], float (&l)[2], float (&decay)[2])
{
    typedef hopper_layout<DIM> at;
    if (how) mask_step<HEIGHT>(s, params, subtile, turn.subtile, row, *turn.step(stage));
    release_stage(turn.address + at::K_EMPTY + 8 * stage);
    soften<T>(s, m, l, decay, params.factor);
}

/* o and the weights of a step, once the products of the step before are there: weights before
 * and what was summed up before them are of one maximum, and weights are rounded to T. A warp
 * whose rows kept their maxima has nothing to multiply. */
template <typename T, int DIM>
PTX_FN void settle_step(float (&o)[DIM / 2], uint32_t (&p)[8][4], const float (&s)[64],
                        const float (&decay)[2])
{
    if (__any_sync(~0u, decay[0] != 1 || decay[1] != 1))
#pragma unroll
        for (int j = 0; j < DIM / 2; j++) o[j] *= decay[j / 2 % 2];
    pack_weights<T>(p, s);
}

/* The next `steps` steps, of which the other subtile goes through the first `both` as well.
 *
 * The loop's end lies between the softmax of a step and the wait for the products with V that
 * were started ahead of it: ptxas moves a wait up as far as its block of instructions goes, and
 * the softmax is to run beside those products. */
template <typename T, int DIM, int HEIGHT>
PTX_FN void attend_steps(const hopper_params &params, const cuda_subtile &subtile, int steps,
                         int both, uint32_t q, hopper_turn<DIM> &turn, const int64_t (&row)[2],
                         float (&o)[DIM / 2], float (&m)[2], float (&l)[2])
{
    typedef hopper_layout<DIM> at;
    const uint32_t shared = turn.address;
    hopper_ring<at::STAGES> k = turn.ring, &v = turn.ring;
    float s[64], decay[2];
    uint32_t p[8][4];
    if (steps == 0) return;
    barrier_wait(shared + at::K_FULL + 8 * k.place, k.parity);
    int how = turn.step(k.place)->how;
    wgmma_fence();
    product_scores<T, DIM>(s, q, shared + at::K + k.place * at::STAGE);
    wgmma_commit();
    wgmma_wait<0>();
    weigh_step<T, HEIGHT>(s, params, subtile, turn, k.place, how, row, m, l, decay);
#pragma unroll 1
    for (int i = 1;; i++) {
        wgmma_wait<0>();
        if (i > 1) {
            release_stage(shared + at::V_EMPTY + 8 * v.place);
            ring_next(v);
        }
        settle_step<T, DIM>(o, p, s, decay);
        if (i == steps) break;
        ring_next(k);
        barrier_wait(shared + at::K_FULL + 8 * k.place, k.parity);
        how = turn.step(k.place)->how;
        if (i < both) named_sync<256>(HOPPER_TURN + turn.subtile);
        wgmma_fence();
        product_scores<T, DIM>(s, q, shared + at::K + k.place * at::STAGE);
        wgmma_commit();
        barrier_wait(shared + at::V_FULL + 8 * v.place, v.parity);
        wgmma_fence();
        product_values<T, DIM, HEIGHT>(o, p, shared + at::V + v.place * at::STAGE);
        wgmma_commit();
        if (i < both) named_arrive<256>(HOPPER_TURN + 1 - turn.subtile);
        wgmma_wait<1>();
        weigh_step<T, HEIGHT>(s, params, subtile, turn, k.place, how, row, m, l, decay);
    }
    barrier_wait(shared + at::V_FULL + 8 * v.place, v.parity);
    wgmma_fence();
    product_values<T, DIM, HEIGHT>(o, p, shared + at::V + v.place * at::STAGE);
    wgmma_commit();
    wgmma_wait<0>();
    release_stage(shared + at::V_EMPTY + 8 * v.place);
    ring_next(v);
}

/* Steps of the other subtile alone. */
template <int DIM> PTX_FN void skip_steps(int steps, hopper_turn<DIM> &turn)
{
    typedef hopper_layout<DIM> at;
    for (int i = 0; i < steps; i++, ring_next(turn.ring)) {
        const int stage = 8 * turn.ring.place;
        barrier_wait(turn.address + at::K_FULL + stage, turn.ring.parity);
        release_stage(turn.address + at::K_EMPTY + stage);
        barrier_wait(turn.address + at::V_FULL + stage, turn.ring.parity);
        release_stage(turn.address + at::V_EMPTY + stage);
    }
}

template <typename T, int DIM, int HEIGHT>
PTX_FN void attend_portions(const hopper_params &params, unsigned char *shared, int index)
{
    typedef hopper_layout<DIM> at;
    hopper_turn<DIM> turn = {shared, shared_address(shared), index, {0, 0}};
    for (hopper_ring<HOPPER_Q> portion = {0, 0};; ring_next(portion)) {
        const cuda_work &work =
            *(const cuda_work *)(shared + at::WORK + portion.place * at::WORK_BYTES);
        const uint32_t q =
            turn.address + at::Q + portion.place * at::Q_BYTES + index * at::TILE;
        float o[DIM / 2], m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
        int64_t row[2];
#pragma unroll
        for (int i = 0; i < DIM / 2; i++) o[i] = 0;
        barrier_wait(turn.address + at::Q_FULL + 8 * portion.place, portion.parity);
        if (work.spans < 0) return;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const cuda_subtile &subtile = work.subtile[index];
            const int vector = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * r;
            const int known = subtile.first_vector + vector;
            row[r] =
                params.at + subtile.first_row + (subtile.vectors ? known % subtile.rows : 0);
        }
        /* first what both read, and what the first subtile reads, which the second skips */
        const int both = work.steps[0];
        for (int part = 0; part < 2; part++) {
            const int mine = part == 0 ? both + (index == 0 ? work.steps[1] : 0)
                                       : (index == 1 ? work.steps[2] : 0);
            attend_steps<T, DIM, HEIGHT>(params, work.subtile[index], mine,
                                         part == 0 ? both : 0, q, turn, row, o, m, l);
            skip_steps(part == index ? 0 : work.steps[1 + part], turn);
        }
        store_rows<T, DIM>(params, work, index, o, m, l);
        release_stage(turn.address + at::Q_EMPTY + 8 * portion.place);
    }
}

template <int DIM> PTX_FN void make_barriers(uint32_t shared)
{
    typedef hopper_layout<DIM> at;
    for (int i = 0; i < at::STAGES; i++) {
        barrier_init(shared + at::K_FULL + 8 * i, 1);
        barrier_init(shared + at::V_FULL + 8 * i, 1);
        barrier_init(shared + at::K_EMPTY + 8 * i, HOPPER_WARPS);
        barrier_init(shared + at::V_EMPTY + 8 * i, HOPPER_WARPS);
    }
    for (int i = 0; i < HOPPER_Q; i++) {
        barrier_init(shared + at::WORK_FULL + 8 * i, 1);
        barrier_init(shared + at::Q_FULL + 8 * i, HOPPER_Q_THREADS);
        barrier_init(shared + at::Q_EMPTY + 8 * i, HOPPER_WARPS + 2);
    }
    for (int i = 0; i < HOPPER_LISTS; i++) {
        barrier_init(shared + at::LIST_FULL + 8 * i, 1);
        barrier_init(shared + at::LIST_EMPTY + 8 * i, 1);
    }
    barrier_init_done();
}

template <typename T, int DIM, int HEIGHT>
__global__ void __launch_bounds__(HOPPER_THREADS, 1) prefill(const hopper_params params)
{
    unsigned char *const shared = dynamic_shared();
    if (threadIdx.x == 0) make_barriers<DIM>(shared_address(shared));
    __syncthreads();
    const int warpgroup = threadIdx.x / 128;
    if (warpgroup == 0) {
        registers_fewer<40>();
        if (threadIdx.x == 0)
            load_portions<DIM, HEIGHT>(params, shared);
        else if (threadIdx.x >= 96)
            list_portions<DIM, HEIGHT>(params, shared);
        else if (threadIdx.x >= 32)
            load_qs<T, DIM>(params, shared);
    } else {
        registers_more<232>();
        if (warpgroup == 2) named_arrive<256>(HOPPER_TURN); /* the first subtile begins */
        attend_portions<T, DIM, HEIGHT>(params, shared, warpgroup - 1);
    }
}

/* ---- host -------------------------------------------------------------------------------- */

template <typename T, int DIM, int HEIGHT>
static cudaError_t start_hopper(const banyan_queue *queue, const hopper_params &params)
{
    const int blocks =
        params.runs < queue->multiprocessors ? params.runs : queue->multiprocessors;
    const cuda_shape shape = {dim3(blocks), dim3(HOPPER_THREADS), hopper_layout<DIM>::BYTES,
                              queue->stream, false};
    return cuda_launch(shape, prefill<T, DIM, HEIGHT>, params);
}

template <typename T, int DIM, int HEIGHT> static cudaError_t prepare_hopper()
{
    return cuda_prepare(prefill<T, DIM, HEIGHT>, hopper_layout<DIM>::BYTES);
}

/* An instance: how it is made ready, and started. */
struct hopper_instance {
    cudaError_t (*prepare)();
    cudaError_t (*start)(const banyan_queue *, const hopper_params &);
};
template <typename T, int HEIGHT> static hopper_instance instance_of_dim(int dim)
{
    if (dim == 64) return {prepare_hopper<T, 64, HEIGHT>, start_hopper<T, 64, HEIGHT>};
    return {prepare_hopper<T, 128, HEIGHT>, start_hopper<T, 128, HEIGHT>};
}
template <typename T> static hopper_instance instance_of_type(const banyan_block_shape &shape)
{
    return record_tokens(shape.block_tokens) == 32 ? instance_of_dim<T, 32>(shape.key_dim)
                                                   : instance_of_dim<T, 64>(shape.key_dim);
}
static hopper_instance instance_of_shape(const banyan_block_shape &shape)
{
    return shape.dtype == BANYAN_F16 ? instance_of_type<__half>(shape)
                                     : instance_of_type<__nv_bfloat16>(shape);
}

const char *cuda_prefill_hopper_open(banyan_queue *queue)
{
    banyan_block_shape shape = queue->limits.shape;
    const int32_t most = shape.key_dim;
    if (shape.dtype == BANYAN_E4M3) return NULL; /* the portable one's */
    shape.key_dim = 64;
    cudaError_t error = instance_of_shape(shape).prepare();
    shape.key_dim = 128;
    if (error == cudaSuccess && most >= 128) error = instance_of_shape(shape).prepare();
    return cuda_failed(error, "loading the Hopper prefill");
}

/* Two for each tile that was cut, one for a tile of one subtile. Returns how many. */
static int32_t list_combined(const cuda_tiles &tiles, cuda_combined *out, int32_t *most_parts)
{
    int32_t count = 0;
    *most_parts = 0;
    for (int32_t i = 0; i < tiles.cuts; i++) {
        const cuda_cut &cut = tiles.cut[i];
        if (cut.partials > *most_parts) *most_parts = cut.partials;
        for (int j = 0; j < CUDA_SUBTILES; j++) {
            const cuda_subtile &from = tiles.work[cut.tile].subtile[j];
            if (!from.vectors) continue;
            cuda_combined &to = out[count++];
            to.heads = from.heads;
            to.part = ((int64_t)cut.partial * CUDA_SUBTILES + j) * CUDA_SUBTILE;
            to.stride = CUDA_SUBTILES * CUDA_SUBTILE;
            to.parts = cut.partials;
            to.first_head = from.first_head;
            to.first_row = from.first_row;
            to.rows = from.rows;
            to.first_vector = from.first_vector;
            to.vectors = from.vectors;
        }
    }
    return count;
}

/* The plan of a call, in the queue's room. */
static const char *plan(const banyan_queue *queue, const banyan_batch *batch, cuda_tiles *tiles,
                        cuda_combined **combined, int32_t *combines, int32_t *most_parts)
{
    const cuda_tiles_limits limits = {banyan_cuda_subtiles(batch->strip, batch->strips),
                                      batch->strips, batch->spans, batch->tables,
                                      queue->multiprocessors};
    const size_t most = (size_t)limits.workers * CUDA_SUBTILES * sizeof **combined;
    size_t device_bytes, bytes = banyan_cuda_tiles_bytes(&limits, &device_bytes);
    if (bytes + most > queue->room_bytes)
        return cuda_words("planning a call of %d strips takes %zu bytes; its queue has %zu",
                          (int)batch->strips, bytes + most, queue->room_bytes);
    banyan_cuda_tiles(batch, &limits, queue->room, tiles);
    *combined = (cuda_combined *)(queue->room + bytes);
    *combines = list_combined(*tiles, *combined, most_parts);
    bytes = (size_t)tiles->partials * CUDA_SUBTILES * CUDA_SUBTILE *
            banyan_partial_floats(batch->shape.value_dim) * sizeof(float);
    if (bytes > queue->scratch_bytes)
        return cuda_words("%d partials of tiles need %zu bytes of scratch, and there are %zu",
                          (int)tiles->partials, bytes, queue->scratch_bytes);
    return NULL;
}

static hopper_params params_of(const banyan_queue *queue, const banyan_batch *batch)
{
    hopper_params params = {};
    params.q = batch->q;
    params.results.out = batch->out;
    params.results.lse = batch->lse;
    params.results.heads = batch->heads;
    params.results.out_dtype = batch->out_dtype;
    params.scratch = (float *)queue->scratch;
    params.taken = queue->counter;
    params.at = batch->part->at - batch->part->first_row; /* of row 0 */
    params.first_token = batch->part->first_token;
    params.end_token = batch->part->end_token;
    params.in_dtype = batch->in_dtype;
    params.sign =
        batch->scale < 0 ? -1.0f : 1.0f; /* the largest score is that of the largest q.k */
    params.factor = params.sign * batch->scale * 1.44269504088896341f;
    return params;
}

/* attention/device.h: attend, for 16-bit caches with key_dim = value_dim = 64 or 128, on
 * sm_90. */
extern "C" const char *banyan_cuda_prefill_hopper(banyan_queue *queue,
                                                  const banyan_batch *batch)
{
    enum { WORK, FIRST_PORTION, SPAN, TABLE, PARTIAL, COMBINED, ARRAYS };
    cuda_tiles tiles;
    cuda_combined *combined = NULL;
    int32_t combines = 0, most_parts = 0;
    const char *failed = plan(queue, batch, &tiles, &combined, &combines, &most_parts);
    if (failed || tiles.runs == 0) return failed;
    cuda_array array[ARRAYS] = {
        {tiles.work, (size_t)tiles.portions * sizeof *tiles.work, NULL},
        {tiles.first_portion, (size_t)(tiles.runs + 1) * sizeof *tiles.first_portion, NULL},
        {tiles.span, (size_t)tiles.spans * sizeof *tiles.span, NULL},
        {batch->table, (size_t)batch->tables * sizeof *batch->table, NULL},
        {batch->partial, (size_t)batch->heads * sizeof *batch->partial, NULL},
        {combined, (size_t)combines * sizeof *combined, NULL}};
    failed = cuda_stage(queue, array, ARRAYS);
    if (failed) return failed;
    hopper_params params = params_of(queue, batch);
    params.runs = tiles.runs;
    params.work = (const cuda_work *)array[WORK].device;
    params.first_portion = (const int32_t *)array[FIRST_PORTION].device;
    params.span = (const cuda_span *)array[SPAN].device;
    params.table = (const banyan_table_of_blocks *)array[TABLE].device;
    params.results.partial = (float *const *)array[PARTIAL].device;
    failed = cuda_failed(instance_of_shape(batch->shape).start(queue, params),
                         "starting the Hopper prefill");
    if (failed) return failed;
    return cuda_combine(queue, (const cuda_combined *)array[COMBINED].device, combines,
                        CUDA_SUBTILE, most_parts, (const float *)queue->scratch,
                        batch->shape.value_dim, params.results);
}
