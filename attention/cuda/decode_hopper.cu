/* SPDX-License-Identifier: Apache-2.0 */
/* Decode with bulk copies: the last warp brings whole records to a ring of stages, as far ahead
 * as the ring goes (128 KiB and more; 4.3 TB/s at a latency of 1 us need 33 KiB for each of 132
 * multiprocessors), across the ends of lists, while four or eight warps compute.
 *
 * A record of e4m3 arrives in half the time, and takes four warps as long as one of 16 bits:
 * about as long as it takes to arrive. So eight warps compute, four with one record and four
 * with the next. Of records of 32 tokens each four warps have two. */
#include "attention/cuda/decode_entry.h"
#include "attention/cuda/decode_rows.h"
#include "attention/cuda/launch.h"

enum { RING_BYTES = 4 * 32768, MOST_RING_STAGES = 16 };

template <typename B, int TILES> struct warps {
    enum {
        GROUPS = B::IS_SCALED && TILES == 1 ? 2 : 1, /* of four warps for each tile */
        SHARES = GROUPS * B::SHARES,                 /* records that are read at a time */
        OF_RECORD = B::WARPS * TILES,
        COMPUTE = SHARES * OF_RECORD,
        THREADS = 32 * (COMPUTE + 1)
    };
};

/* Shared memory: barriers and notes, the stages, the warps' sums. Where several records are
 * read at a time the stages are a multiple of as many, so that all records of a stage are of
 * the same warps: the parity of a barrier's phase tells only those who have waited for the
 * phase before it, and warps of other records do not wait for each other. */
template <typename B> struct decode_ring {
    enum {
        RECORD = B::RECORD,
        ROUND = (B::IS_SCALED ? 2 : 1) * B::SHARES,
        FIT = RING_BYTES / RECORD < MOST_RING_STAGES ? RING_BYTES / RECORD : MOST_RING_STAGES,
        STAGES = FIT / ROUND * ROUND,
        HEAD = 1024,
        SUMS = HEAD + STAGES * RECORD
    };
};
/* In the first kilobyte. full: a record has arrived; empty: the other warps are done with
 * it. */
struct ring_head {
    uint64_t full[MOST_RING_STAGES], empty[MOST_RING_STAGES];
    /* Of each stage: whether and how its block is masked. */
    decode_entry entry[MOST_RING_STAGES];
};

struct ring_place {
    int stage, parity;
};
template <typename B> PTX_FN void next_stage(ring_place &place)
{
    if (++place.stage < decode_ring<B>::STAGES) return;
    place.stage = 0;
    place.parity ^= 1;
}

/* All lanes read the table ahead, 32 entries and another 32; the first one starts the
 * copies. */
template <typename B>
PTX_FN void bring_records(const decode_call &call, const cuda_portion &portion, ring_head *head,
                          ring_place &place)
{
    const int lane = (int)threadIdx.x % 32;
    const banyan_strip strip = staged(call, call.strip, portion.tile);
    const banyan_table_of_blocks table = staged(call, call.table, strip.table);
    decode_cursor cursor = {&staged(call, call.span, strip.first_span), table.slot, 0};
    const unsigned char *const records = (const unsigned char *)table.records;
    const uint32_t ring_at = shared_address(dynamic_shared()) + decode_ring<B>::HEAD;
    decode_entry entry = {}, ahead = {};
    if (lane < portion.count) ahead = entry_at(cursor, portion.first + lane);
    for (int i = 0; i < portion.count; i++) {
        if (i % 32 == 0) {
            entry = ahead;
            if (i + 32 + lane < portion.count)
                ahead = entry_at(cursor, portion.first + i + 32 + lane);
        }
        decode_entry now;
        now.record = __shfl_sync(0xffffffffu, entry.record, i % 32);
        now.block = __shfl_sync(0xffffffffu, entry.block, i % 32);
        now.masked = __shfl_sync(0xffffffffu, entry.masked, i % 32);
        if (lane == 0) {
            const uint32_t full = shared_address(&head->full[place.stage]);
            barrier_wait(shared_address(&head->empty[place.stage]), place.parity ^ 1);
            head->entry[place.stage] = now;
            barrier_expect(full, decode_ring<B>::RECORD);
            bulk_load(ring_at + place.stage * decode_ring<B>::RECORD,
                      records + (int64_t)now.record * decode_ring<B>::RECORD,
                      decode_ring<B>::RECORD, full);
        }
        __syncwarp(); /* while others are ahead of lane 0, a shuffle costs hundreds of cycles */
        next_stage<B>(place);
    }
}

/* index: of the portion; before: records of those ahead of it. */
template <typename B, int TILES>
PTX_FN void compute_portion(const decode_call &call, int index, ring_head *head, int &before)
{
    const uint32_t ring_at = shared_address(dynamic_shared()) + decode_ring<B>::HEAD;
    float *const sums = (float *)(dynamic_shared() + decode_ring<B>::SUMS);
    const banyan_strip *const strip =
        &staged(call, call.strip, staged(call, call.portion, index).tile);
    const int end = before + staged(call, call.portion, index).count;
    decode_rows<B> rows;
    begin_rows<B, TILES>(call, strip, rows);
    /* Stages belong to warps, so which of the portion's records these warps have depends on how
     * many were before them: sums are put by it, so that bits do not depend on what else these
     * threads read. */
    const int SHARES = warps<B, TILES>::SHARES;
    const int share = (share_of_warp<B, TILES>() + (SHARES - 1) * before) % SHARES;
    for (int i = before + share; i < end; i += SHARES) {
        const int stage = i % decode_ring<B>::STAGES;
        barrier_wait(shared_address(&head->full[stage]), i / decode_ring<B>::STAGES % 2);
        const decode_entry entry = head->entry[stage];
        const uint32_t record = ring_at + stage * decode_ring<B>::RECORD;
        if (entry.masked)
            read_block<B, true>(rows, call, strip, entry, record);
        else
            read_block<B, false>(rows, call, strip, entry, record);
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&head->empty[stage]));
    }
    before = end;
    put_sums<B, TILES>(rows, share, sums);
    named_sync<32 * warps<B, TILES>::COMPUTE>(1);
    merge_sums<B::DIM, TILES, warps<B, TILES>::GROUPS>(
        call, strip, staged(call, call.portion, index).partial, sums);
    named_sync<32 * warps<B, TILES>::COMPUTE>(1);
}

template <typename B, int TILES>
__global__ void __launch_bounds__(warps<B, TILES>::THREADS, 1)
    decode_bulk(const __grid_constant__ decode_call call)
{
    ring_head *const head = (ring_head *)dynamic_shared();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < decode_ring<B>::STAGES; stage++) {
            barrier_init(shared_address(&head->full[stage]), 1);
            barrier_init(shared_address(&head->empty[stage]), warps<B, TILES>::OF_RECORD);
        }
        barrier_init_done();
    }
    __syncthreads();
    launch_next(); /* the combine waits for the end of this kernel, but not for its own start */
    launch_wait();
    const int first = staged(call, call.first_portion, blockIdx.x);
    const int end = staged(call, call.first_portion, blockIdx.x + 1);
    if (threadIdx.x / 32 == warps<B, TILES>::COMPUTE) {
        ring_place place = {0, 0};
        for (int i = first; i < end; i++)
            bring_records<B>(call, staged(call, call.portion, i), head, place);
    } else {
        int before = 0;
        for (int i = first; i < end; i++) compute_portion<B, TILES>(call, i, head, before);
    }
}

template <typename B, int TILES> static size_t shared_bytes()
{
    static_assert(sizeof(ring_head) <= decode_ring<B>::HEAD && decode_ring<B>::STAGES > 0,
                  "room");
    return (size_t)decode_ring<B>::SUMS + sums_bytes<B::DIM, TILES, warps<B, TILES>::GROUPS>();
}

const char *banyan_cuda_decode_hopper(banyan_queue *queue, const banyan_batch *batch)
{
    return decode_run(queue, batch, [=](auto block, auto tiles, const decode_plan *plan) {
        typedef decltype(block) B;
        enum { TILES = decltype(tiles)::value };
        const cuda_shape shape = {dim3((unsigned)plan->workers), dim3(warps<B, TILES>::THREADS),
                                  shared_bytes<B, TILES>(), queue->stream, queue->waits != 0};
        return cuda_launch(shape, decode_bulk<B, TILES>, plan->call);
    });
}

const char *cuda_decode_hopper_open(banyan_queue *queue)
{
    return decode_open(queue, [](auto block, auto tiles) {
        typedef decltype(block) B;
        enum { TILES = decltype(tiles)::value };
        return cuda_prepare(decode_bulk<B, TILES>, shared_bytes<B, TILES>());
    });
}
