/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of shared memory that one warp fills with bulk copies and two warpgroups empty, as
 * attention kernels do; named barriers; and a bulk store of the result. */
#include "tests/emu/trial.h"

enum { STAGES = 3, TILE = 256, CONSUMERS = 256 }; /* TILE: floats */

/* out [2][TILE / 2]: warpgroup g adds up floats g TILE / 2 .. of all tiles. */
static __global__ void ring_kernel(const float *in, float *out, int tiles)
{
    unsigned char *const shared = dynamic_shared();
    float *const ring = (float *)(shared + 1024), *const sums = ring + STAGES * TILE;
    const uint32_t full = shared_address(shared), empty = full + 8 * STAGES;
    const int thread = (int)threadIdx.x;
    if (thread == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * (uint32_t)i, 1);
            barrier_init(empty + 8 * (uint32_t)i, CONSUMERS / 32);
        }
        barrier_init_done();
    }
    __syncthreads();
    if (thread >= CONSUMERS) { /* the producer: first waits pass, nothing is in the ring */
        registers_fewer<24>();
        for (int i = 0; thread == CONSUMERS && i < tiles; i++) {
            const uint32_t stage = (uint32_t)(i % STAGES);
            barrier_wait(empty + 8 * stage, i / STAGES % 2 ^ 1);
            barrier_expect(full + 8 * stage, TILE * 4);
            for (int half = 0; half < 2; half++)
                bulk_load(shared_address(ring + stage * TILE + half * TILE / 2),
                          in + i * TILE + half * TILE / 2, TILE * 2, full + 8 * stage);
        }
        return;
    }
    registers_more<208>();
    float sum = 0;
    for (int i = 0; i < tiles; i++) {
        const uint32_t stage = (uint32_t)(i % STAGES);
        barrier_wait(full + 8 * stage, i / STAGES % 2);
        sum += ring[stage * TILE + (uint32_t)thread];
        __syncwarp();
        if (thread % 32 == 0) barrier_arrive(empty + 8 * stage);
    }
    sums[thread] = sum;
    shared_written();
    named_sync<128>(1 + thread / 128);
    if (thread % 128 == 0) {
        bulk_store(out + thread, shared_address(sums + thread), 128 * 4);
        bulk_store_done();
    }
}

static void test_ring(int tiles)
{
    std::vector<float> in((size_t)(tiles * TILE));
    for (size_t i = 0; i < in.size(); i++) in[i] = (float)(i * 7 % 1000);
    device_array<float> from(in), to(TILE);
    run_block(CONSUMERS + 128, 1024 + (STAGES + 1) * TILE * 4, ring_kernel,
              (const float *)from.at, to.at, tiles);
    const std::vector<float> r = to.read();
    for (int i = 0; i < TILE; i++) {
        float sum = 0;
        for (int j = 0; j < tiles; j++) sum += in[(size_t)(j * TILE + i)];
        CHECK_MSG(r[(size_t)i] == sum, "tiles %d, %d: %g, not %g", tiles, i, r[(size_t)i], sum);
    }
}

/* ---- two warpgroups take turns, as in pingpong ------------------------------------------- */

static __global__ void turns_kernel(int *out)
{
    int *const count = (int *)dynamic_shared();
    const int group = (int)threadIdx.x / 128;
    if (threadIdx.x == 0) *count = 0;
    __syncthreads();
    if (group == 1) named_arrive<256>(1); /* the first turn is group 0's */
    for (int i = 0; i < 5; i++) {
        named_sync<256>(1 + group);
        if (threadIdx.x % 128 == 0) out[group * 5 + i] = (*count)++;
        if (group == 0 || i < 4) named_arrive<256>(2 - group);
    }
}

static void test_turns()
{
    device_array<int> out(10);
    run_block(256, 16, turns_kernel, out.at);
    const std::vector<int> r = out.read();
    for (int i = 0; i < 5; i++) CHECK(r[(size_t)i] == 2 * i && r[(size_t)i + 5] == 2 * i + 1);
}

int main()
{
    for (int tiles = 0; tiles <= 8; tiles++) test_ring(tiles);
    test_turns();
    return test_end();
}
