/* SPDX-License-Identifier: Apache-2.0 */
/* hopper_load.h - the first warpgroup of the Hopper prefill: it brings portions, K, V and q. */
#ifndef BANYAN_ATTENTION_CUDA_HOPPER_LOAD_H
#define BANYAN_ATTENTION_CUDA_HOPPER_LOAD_H

#include "attention/cuda/hopper.h"

/* ---- lists: one warp ------------------------------------------------------------------------
 * To find an entry
 * is a chain of loads: looked up here, it is there before it is needed. */

PTX_FN hopper_entry find_entry(const hopper_params &params, const cuda_work &work,
                               const banyan_slot *slot, int entry)
{
    const cuda_span *const span = params.span + work.first_span;
    int low = 0, high = work.spans - 1;
    while (low < high) { /* the last span that begins at or before it */
        const int middle = (low + high + 1) / 2;
        if (span[middle].first_entry <= entry)
            low = middle;
        else
            high = middle - 1;
    }
    const banyan_slot found =
        slot[span[low].first + (int64_t)(entry - span[low].first_entry) * span[low].step];
    return {found.record, found.block, span[low].how, 0};
}

PTX_FN int steps_of(const cuda_work &work)
{
    return work.steps[0] + work.steps[1] + work.steps[2];
}

/* The entries of all portions, 32 at a time. */
template <int DIM, int HEIGHT>
PTX_FN void list_portions(const hopper_params &params, unsigned char *shared)
{
    typedef hopper_layout<DIM> at;
    const uint32_t address = shared_address(shared);
    const int lane = threadIdx.x % 32;
    hopper_ring<HOPPER_LISTS> ring = {0, 0};
    for (hopper_ring<HOPPER_Q> turn = {0, 0};; ring_next(turn)) {
        const cuda_work &work =
            *(const cuda_work *)(shared + at::WORK + turn.place * at::WORK_BYTES);
        barrier_wait(address + at::WORK_FULL + 8 * turn.place, turn.parity);
        if (work.spans < 0) return;
        const int begin = CUDA_STEP(HEIGHT) * work.first_step;
        const int end = begin + CUDA_STEP(HEIGHT) * steps_of(work);
        for (int from = begin; from < end; from += HOPPER_ENTRIES, ring_next(ring)) {
            const int mine = from + lane < end ? from + lane : end - 1;
            barrier_wait(address + at::LIST_EMPTY + 8 * ring.place, ring.parity ^ 1);
            ((hopper_entry *)(shared + at::LIST + ring.place * at::LIST_BYTES))[lane] =
                find_entry(params, work, params.table[work.table].slot, mine);
            __syncwarp();
            if (lane == 0) barrier_arrive(address + at::LIST_FULL + 8 * ring.place);
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(address + at::Q_EMPTY + 8 * turn.place);
    }
}

/* ---- K and V: one thread ----------------------------------------------------------------- */

/* What a step is, in its stage of K: until V is asked for as well, only this thread knows its
 * records. */
template <int DIM> PTX_FN hopper_step *step_at(unsigned char *shared, int stage)
{
    typedef hopper_layout<DIM> at;
    return (hopper_step *)(shared + at::STEP + stage * at::STEP_BYTES);
}

template <int DIM, int HEIGHT>
PTX_FN void load_k(const char *table, const hopper_step &step, uint32_t shared,
                   hopper_ring<hopper_layout<DIM>::STAGES> &ring)
{
    typedef hopper_layout<DIM> at;
    const uint32_t k = shared + at::K + ring.place * at::STAGE;
    const uint32_t full = shared + at::K_FULL + 8 * ring.place;
    const int bytes = HEIGHT * RECORD_ROW;
    barrier_expect(full, at::STAGE);
#pragma unroll
    for (int i = 0; i < CUDA_STEP(HEIGHT); i++) {
        const char *const record = table + (size_t)step.record[i] * (4 * HEIGHT * DIM);
#pragma unroll
        for (int panel = 0; panel < DIM / 64; panel++)
            bulk_load(k + panel * at::PANEL + i * bytes, record + panel * bytes, bytes, full);
    }
    ring_next(ring);
}

template <int DIM, int HEIGHT>
PTX_FN void load_v(const char *table, const hopper_step &step, uint32_t shared,
                   hopper_ring<hopper_layout<DIM>::STAGES> &ring)
{
    typedef hopper_layout<DIM> at;
    const uint32_t v = shared + at::V + ring.place * at::STAGE;
    const uint32_t full = shared + at::V_FULL + 8 * ring.place;
    const int tile = 2 * HEIGHT * DIM;
    barrier_wait(shared + at::V_EMPTY + 8 * ring.place, ring.parity ^ 1);
    barrier_expect(full, at::STAGE);
#pragma unroll
    for (int i = 0; i < CUDA_STEP(HEIGHT); i++)
        bulk_load(v + i * tile, table + (size_t)step.record[i] * (2 * tile) + tile, tile, full);
    ring_next(ring);
}

/* Where the loading thread is. */
template <int DIM> struct hopper_loader {
    unsigned char *shared;
    uint32_t address;
    hopper_ring<hopper_layout<DIM>::STAGES> k, v;
    hopper_ring<HOPPER_LISTS> list;
};

/* K of a step is asked for before V of the step ahead of it: its stage is free earlier, by one
 * product. */
template <int DIM, int HEIGHT>
PTX_FN void load_steps(const char *table, int steps, hopper_loader<DIM> &loader)
{
    typedef hopper_layout<DIM> at;
    const int entries = CUDA_STEP(HEIGHT), each = HOPPER_ENTRIES / entries;
    int before = 0;
    for (int i = 0; i < steps; i++) {
        const uint32_t list = loader.address + 8 * loader.list.place;
        if (i % each == 0) barrier_wait(list + at::LIST_FULL, loader.list.parity);
        const hopper_entry *const entry =
            (const hopper_entry *)(loader.shared + at::LIST +
                                   loader.list.place * at::LIST_BYTES) +
            entries * (i % each);
        hopper_step now = {};
#pragma unroll
        for (int j = 0; j < entries; j++) {
            const hopper_entry one = entry[j];
            now.record[j] = one.record;
            now.block[j] = one.block;
            now.how |= one.how << j * CUDA_HOW_BITS;
        }
        if (i % each == each - 1 || i == steps - 1) {
            barrier_arrive(list + at::LIST_EMPTY);
            ring_next(loader.list);
        }
        const int stage = loader.k.place;
        barrier_wait(loader.address + at::K_EMPTY + 8 * stage, loader.k.parity ^ 1);
        *step_at<DIM>(loader.shared, stage) = now;
        load_k<DIM, HEIGHT>(table, now, loader.address, loader.k);
        if (i)
            load_v<DIM, HEIGHT>(table, *step_at<DIM>(loader.shared, before), loader.address,
                                loader.v);
        before = stage;
    }
    if (steps)
        load_v<DIM, HEIGHT>(table, *step_at<DIM>(loader.shared, before), loader.address,
                            loader.v);
}

/* The steps of all portions, one after the other. */
template <int DIM, int HEIGHT>
PTX_FN void load_portions(const hopper_params &params, unsigned char *shared)
{
    typedef hopper_layout<DIM> at;
    hopper_loader<DIM> loader = {shared, shared_address(shared), {0, 0}, {0, 0}, {0, 0}};
    for (hopper_ring<HOPPER_Q> turn = {0, 0};; ring_next(turn)) {
        const cuda_work &work =
            *(const cuda_work *)(shared + at::WORK + turn.place * at::WORK_BYTES);
        barrier_wait(loader.address + at::WORK_FULL + 8 * turn.place, turn.parity);
        if (work.spans < 0) return;
        const int steps = steps_of(work);
        if (steps)
            load_steps<DIM, HEIGHT>((const char *)params.table[work.table].records, steps,
                                    loader);
        barrier_arrive(loader.address + at::Q_EMPTY + 8 * turn.place);
    }
}

/* ---- portions: the first warp of those for q --------------------------------------------- */

/* Which portion is next, and where its run ends. */
struct hopper_next {
    int portion, end;
};

/* Takes runs until there are none, and puts their portions where everybody finds them; the last
 * one has spans < 0. The number that says which run is next becomes 0 again with the last
 * thread block that is told that there is none: every block is told so once. A portion is taken
 * as soon as there is room for its q, which is when the portion before it begins: q is then
 * there long before it is needed. */
template <int DIM>
PTX_FN void take_portion(const hopper_params &params, unsigned char *shared,
                         hopper_ring<HOPPER_Q> turn, hopper_next &next)
{
    typedef hopper_layout<DIM> at;
    const uint32_t address = shared_address(shared);
    const int lane = threadIdx.x % 32, words = sizeof(cuda_work) / 4;
    cuda_work *const work = (cuda_work *)(shared + at::WORK + turn.place * at::WORK_BYTES);
    bool is_last = false;
    barrier_wait(address + at::Q_EMPTY + 8 * turn.place, turn.parity ^ 1);
    if (next.portion == next.end) {
        int run = 0;
        if (lane == 0) run = atomicAdd(params.taken, 1);
        run = __shfl_sync(~0u, run, 0);
        is_last = run >= params.runs;
        if (run == params.runs + (int)gridDim.x - 1 && lane == 0) *params.taken = 0;
        next.portion = is_last ? 0 : params.first_portion[run];
        next.end = is_last ? 0 : params.first_portion[run + 1];
    }
    if (is_last) {
        if (lane == 0) work->spans = -1;
    } else {
        for (int i = lane; i < words; i += 32)
            ((int32_t *)work)[i] = ((const int32_t *)&params.work[next.portion])[i];
        next.portion++;
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(address + at::WORK_FULL + 8 * turn.place);
}

/* ---- q: two warps ------------------------------------------------------------------------ */

/* Eight numbers of q at element `at`, times sign, rounded to T. */
template <typename T>
PTX_FN void load_q(uint32_t (&x)[4], const hopper_params &params, int64_t at)
{
    float number[8];
    if (params.in_dtype == BANYAN_F32) {
        const float4 *const from = (const float4 *)((const float *)params.q + at);
        const float4 low = from[0], high = from[1];
        number[0] = low.x, number[1] = low.y, number[2] = low.z, number[3] = low.w;
        number[4] = high.x, number[5] = high.y, number[6] = high.z, number[7] = high.w;
    } else {
        const uint4 from = *(const uint4 *)((const uint16_t *)params.q + at);
        const uint32_t word[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint16_t bits = (uint16_t)(word[i / 2] >> 16 * (i % 2));
            number[i] = params.in_dtype == BANYAN_BF16 ? __uint_as_float((uint32_t)bits << 16)
                                                       : __half2float(__ushort_as_half(bits));
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        x[i] = pack2(number[2 * i] * params.sign, number[2 * i + 1] * params.sign, T());
}

PTX_FN banyan_dtype dtype_of(__nv_bfloat16)
{
    return BANYAN_BF16;
}
PTX_FN banyan_dtype dtype_of(__half)
{
    return BANYAN_F16;
}

/* A lane knows where one vector is, and all lanes together bring 32 of them, sixteen bytes at a
 * time, neighbouring lanes neighbouring bytes. What is of type T already is copied: all of it
 * is under way at once. What a subtile lacks is zeros. */
template <typename T, int DIM>
PTX_FN void load_subtiles(const hopper_params &params, const cuda_work &work, uint32_t q)
{
    const int chunks = DIM / 8, lane = threadIdx.x % 32, chunk = lane % chunks;
    const bool is_copied = params.in_dtype == dtype_of(T()) && params.sign > 0;
    for (int first = threadIdx.x - 32 - lane; first < CUDA_SUBTILES * CUDA_SUBTILE;
         first += HOPPER_Q_THREADS) {
        const cuda_subtile &subtile = work.subtile[first / CUDA_SUBTILE];
        const int begin = first % CUDA_SUBTILE;
        const uint32_t tile = q + first / CUDA_SUBTILE * hopper_layout<DIM>::TILE;
        int64_t mine = -1;
        if (begin + lane < subtile.vectors) {
            int32_t row, head;
            hopper_vector(subtile, begin + lane, &row, &head);
            mine = ((int64_t)row * params.results.heads + head) * DIM;
        }
#pragma unroll 2
        for (int i = 0; i < chunks; i++) {
            const int vector = i * (32 / chunks) + lane / chunks;
            const int64_t at = __shfl_sync(~0u, mine, vector);
            const uint32_t to =
                tile + record16_at(RECORD_TOKENS, DIM, (uint32_t)(begin + vector),
                                   8 * (uint32_t)chunk);
            uint32_t x[4] = {0, 0, 0, 0};
            if (at >= 0 && is_copied) {
                async_copy16(to, (const T *)params.q + at + 8 * chunk);
            } else {
                if (at >= 0) load_q<T>(x, params, at + 8 * chunk);
                shared_store4(to, x);
            }
        }
    }
    async_commit();
    async_wait<0>();
}

template <typename T, int DIM>
PTX_FN void load_qs(const hopper_params &params, unsigned char *shared)
{
    typedef hopper_layout<DIM> at;
    const uint32_t address = shared_address(shared);
    hopper_next next = {0, 0};
    for (hopper_ring<HOPPER_Q> turn = {0, 0};; ring_next(turn)) {
        const cuda_work &work =
            *(const cuda_work *)(shared + at::WORK + turn.place * at::WORK_BYTES);
        if (threadIdx.x < 64) take_portion<DIM>(params, shared, turn, next);
        barrier_wait(address + at::WORK_FULL + 8 * turn.place, turn.parity);
        const bool is_last = work.spans < 0;
        if (!is_last)
            load_subtiles<T, DIM>(params, work, address + at::Q + turn.place * at::Q_BYTES);
        shared_written();
        barrier_arrive(address + at::Q_FULL + 8 * turn.place);
        if (is_last) return;
    }
}

#endif
