/* SPDX-License-Identifier: Apache-2.0 */
/* hopper_load.h - the first warpgroup of the Hopper prefill: it brings items, K, V and q. */
#ifndef BANYAN_ATTENTION_CUDA_HOPPER_LOAD_H
#define BANYAN_ATTENTION_CUDA_HOPPER_LOAD_H

#include "attention/cuda/hopper.h"

/* ---- K and V: one warp ------------------------------------------------------------------------ */

/* Of one entry of an item's list. Lanes hold 32 of them, which is 16 steps. */
struct hopper_entry {
    uint32_t record;
    int32_t block, how;
};

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
    return {found.record, found.block, span[low].how};
}

/* One lane brings a step's two blocks to the next stage. */
template <int DIM>
PTX_FN void load_step(const char *first, const char *second, uint32_t shared,
                      hopper_ring<hopper_layout<DIM>::STAGES> ring)
{
    typedef hopper_layout<DIM> at;
    const uint32_t k = shared + at::K + ring.place * at::STAGE;
    const uint32_t v = shared + at::V + ring.place * at::STAGE;
    const uint32_t k_full = shared + at::K_FULL + 8 * ring.place;
    const uint32_t v_full = shared + at::V_FULL + 8 * ring.place;
    barrier_expect(k_full, at::STAGE);
#pragma unroll
    for (int panel = 0; panel < DIM / 64; panel++) {
        const uint32_t to = k + panel * at::PANEL, from = panel * RECORD_PANEL_BYTES;
        bulk_load(to, first + from, RECORD_PANEL_BYTES, k_full);
        bulk_load(to + RECORD_PANEL_BYTES, second + from, RECORD_PANEL_BYTES, k_full);
    }
    barrier_wait(shared + at::V_EMPTY + 8 * ring.place, ring.parity ^ 1);
    barrier_expect(v_full, at::STAGE);
    bulk_load(v, first + at::TILE, at::TILE, v_full);
    bulk_load(v + at::TILE, second + at::TILE, at::TILE, v_full);
}

template <int DIM>
PTX_FN void load_steps(const hopper_params &params, const cuda_work &work,
                       unsigned char *shared, hopper_ring<hopper_layout<DIM>::STAGES> &ring)
{
    typedef hopper_layout<DIM> at;
    const uint32_t address = shared_address(shared);
    const int lane = threadIdx.x % 32;
    const int steps = work.steps[0] + work.steps[1] + work.steps[2];
    const int end = CUDA_STEP * (work.first_step + steps);
    const char *records = NULL;
    const banyan_slot *slot = NULL;
    if (steps) {
        records = (const char *)params.table[work.table].records;
        slot = params.table[work.table].slot;
    }
    for (int from = CUDA_STEP * work.first_step; from < end; from += 32) {
        const int mine = from + lane < end ? from + lane : end - 1;
        const hopper_entry entry = find_entry(params, work, slot, mine);
        const int count = (end - from < 32 ? end - from : 32) / CUDA_STEP;
        for (int i = 0; i < count; i++, ring_next(ring)) {
            hopper_step step;
            uint32_t record[CUDA_STEP];
            step.how = 0;
#pragma unroll
            for (int j = 0; j < CUDA_STEP; j++) {
                const int holder = CUDA_STEP * i + j;
                record[j] = __shfl_sync(~0u, entry.record, holder);
                step.block[j] = __shfl_sync(~0u, entry.block, holder);
                step.how |= __shfl_sync(~0u, entry.how, holder) << j * CUDA_HOW_BITS;
            }
            if (lane) continue;
            barrier_wait(address + at::K_EMPTY + 8 * ring.place, ring.parity ^ 1);
            *(hopper_step *)(shared + at::STEP + ring.place * at::STEP_BYTES) = step;
            load_step<DIM>(records + (size_t)record[0] * (2 * at::TILE),
                           records + (size_t)record[1] * (2 * at::TILE), address, ring);
        }
    }
}

/* Takes runs until there are none, and puts their items where everybody finds them; the last one has
 * spans < 0. The number that says which run is next becomes 0 again with the last thread block
 * that is told that there is none: every block is told so once. */
template <int DIM> PTX_FN void load_items(const hopper_params &params, unsigned char *shared)
{
    typedef hopper_layout<DIM> at;
    const uint32_t address = shared_address(shared);
    const int lane = threadIdx.x % 32, words = sizeof(cuda_work) / 4;
    hopper_ring<at::STAGES> ring = {0, 0};
    int item = 0, end = 0;
    for (hopper_ring<HOPPER_Q> turn = {0, 0};; ring_next(turn)) {
        cuda_work *const work = (cuda_work *)(shared + at::WORK + turn.place * at::WORK_BYTES);
        bool is_last = false;
        barrier_wait(address + at::Q_EMPTY + 8 * turn.place, turn.parity ^ 1);
        if (item == end) {
            int run = 0;
            if (lane == 0) run = atomicAdd(params.taken, 1);
            run = __shfl_sync(~0u, run, 0);
            is_last = run >= params.runs;
            if (run == params.runs + (int)gridDim.x - 1 && lane == 0) *params.taken = 0;
            item = is_last ? 0 : params.first_item[run];
            end = is_last ? 0 : params.first_item[run + 1];
        }
        if (is_last) {
            if (lane == 0) work->spans = -1;
        } else {
            for (int i = lane; i < words; i += 32)
                ((int32_t *)work)[i] = ((const int32_t *)&params.work[item])[i];
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(address + at::WORK_FULL + 8 * turn.place);
        if (is_last) return;
        load_steps<DIM>(params, *work, shared, ring);
        item++;
    }
}

/* ---- q: three warps ---------------------------------------------------------------------------- */

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

/* Sixteen bytes at a time, neighbouring threads neighbouring bytes, and of two vectors before either is
 * stored, so that their loads are under way together (for more, 40 registers do not suffice). What a
 * subtile lacks is zeros. */
template <typename T, int DIM>
PTX_FN void load_subtiles(const hopper_params &params, const cuda_work &work, uint32_t q)
{
    const int chunks = DIM / 8, at_once = HOPPER_Q_THREADS / chunks, together = 2;
    const int thread = threadIdx.x - 32, chunk = thread % chunks;
    const int vectors = CUDA_SUBTILES * CUDA_SUBTILE;
    for (int first = thread / chunks; first < vectors; first += together * at_once) {
        uint32_t x[together][4] = {};
#pragma unroll
        for (int j = 0; j < together; j++) {
            const int i = first + j * at_once, vector = i % CUDA_SUBTILE;
            if (i >= vectors || vector >= work.subtile[i / CUDA_SUBTILE].vectors) continue;
            int32_t row, head;
            hopper_vector(work.subtile[i / CUDA_SUBTILE], vector, &row, &head);
            load_q<T>(x[j], params,
                      ((int64_t)row * params.results.heads + head) * DIM + 8 * chunk);
        }
#pragma unroll
        for (int j = 0; j < together; j++) {
            const int i = first + j * at_once;
            if (i < vectors)
                shared_store4(
                    q + i / CUDA_SUBTILE * hopper_layout<DIM>::TILE +
                        record16_at(DIM, (uint32_t)(i % CUDA_SUBTILE), 8 * (uint32_t)chunk),
                    x[j]);
        }
    }
}

template <typename T, int DIM>
PTX_FN void load_qs(const hopper_params &params, unsigned char *shared)
{
    typedef hopper_layout<DIM> at;
    const uint32_t address = shared_address(shared);
    for (hopper_ring<HOPPER_Q> turn = {0, 0};; ring_next(turn)) {
        const cuda_work &work =
            *(const cuda_work *)(shared + at::WORK + turn.place * at::WORK_BYTES);
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
