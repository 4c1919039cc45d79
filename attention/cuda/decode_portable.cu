/* SPDX-License-Identifier: Apache-2.0 */
/* Decode with 16-byte copies. Each warp brings the 16 tokens of a block that it computes with,
 * and waits for nobody until a list ends (a pair of warps with two tiles of vectors brings them
 * together). 96 KiB of shared memory are what every GPU from 8.0 on has. */
#include "attention/cuda/decode_entry.h"
#include "attention/cuda/decode_rows.h"
#include "attention/cuda/launch.h"

enum { RING_BYTES = 3 * 32768 };

template <typename B> struct warp_ring {
    enum {
        RECORD = B::RECORD,
        STAGES = RING_BYTES / RECORD / B::SHARES * B::SHARES,
        OWN = STAGES / B::SHARES /* of a warp: it reads one of every SHARES records */
    };
};

/* This warp's share of 16 tokens of a record: all of it, or half where two warps compute with
 * them. */
template <typename B, int TILES>
PTX_FN void bring_tokens(uint32_t to, const unsigned char *record)
{
    const int share = tile_of_warp<TILES>() * 32 + (int)threadIdx.x % 32;
    B::share_of(first_token_of_warp<B>(), share, 32 * TILES,
                [=](int at) { async_copy16(to + at, record + at); });
}
/* Among the warps that bring the same rows. */
template <int TILES> PTX_FN void meet()
{
    if (TILES == 1)
        __syncwarp();
    else
        named_sync<64>(1 + (int)threadIdx.x / 32 % DECODE_WARPS);
}

template <typename B, int TILES>
PTX_FN void read_list(const decode_call &call, const cuda_portion &portion,
                      const banyan_strip *strip, decode_rows<B> &rows)
{
    const int STAGES = warp_ring<B>::STAGES, SHARES = B::SHARES;
    const int lane = (int)threadIdx.x % 32, share = share_of_warp<B, TILES>();
    const uint32_t ring_at = shared_address(dynamic_shared());
    const banyan_table_of_blocks table = staged(call, call.table, strip->table);
    const unsigned char *const records = (const unsigned char *)table.records;
    decode_ahead ahead;
    ahead.cursor = decode_cursor{&staged(call, call.span, strip->first_span), table.slot, 0};
    ahead.now = ahead_entry(portion, ahead.cursor, lane);
    ahead.next = ahead_entry(portion, ahead.cursor, 32 + lane);
    for (int i = share; i < STAGES - SHARES; i += SHARES) {
        const decode_entry entry = pick(ahead, 0, i);
        if (i < portion.count)
            bring_tokens<B, TILES>(ring_at + i * warp_ring<B>::RECORD,
                                   records + (int64_t)entry.record * warp_ring<B>::RECORD);
        async_commit();
    }
    for (int i = share; i < portion.count; i += SHARES) {
        if (i >= 32 && i % 32 < SHARES) {
            ahead.now = ahead.next;
            ahead.next = ahead_entry(portion, ahead.cursor, i - share + 32 + lane);
        }
        async_wait<warp_ring<B>::OWN - 2>();
        meet<TILES>(); /* .. of all of them; and all are done with the stage to be filled */
        const int more = i + STAGES - SHARES;
        const decode_entry coming = pick(ahead, i, more), entry = pick(ahead, i, i);
        if (more < portion.count)
            bring_tokens<B, TILES>(ring_at + more % STAGES * warp_ring<B>::RECORD,
                                   records + (int64_t)coming.record * warp_ring<B>::RECORD);
        async_commit();
        const uint32_t record = ring_at + i % STAGES * warp_ring<B>::RECORD;
        if (entry.masked)
            read_block<B, true>(rows, call, strip, entry, record);
        else
            read_block<B, false>(rows, call, strip, entry, record);
    }
}

template <typename B, int TILES>
__global__ void __launch_bounds__(32 * DECODE_WARPS * TILES, 1)
    decode_async(const __grid_constant__ decode_call call)
{
    launch_next();
    launch_wait();
    const int first = staged(call, call.first_portion, blockIdx.x);
    const int end = staged(call, call.first_portion, blockIdx.x + 1);
    float *const sums = (float *)dynamic_shared(); /* where the ring was */
    for (int i = first; i < end; i++) {
        const cuda_portion portion = staged(call, call.portion, i);
        const banyan_strip *const strip = &staged(call, call.strip, portion.tile);
        decode_rows<B> rows;
        begin_rows<B, TILES>(call, strip, rows);
        read_list<B, TILES>(call, portion, strip, rows);
        __syncthreads();
        put_sums<B, TILES>(rows, share_of_warp<B, TILES>(), sums);
        __syncthreads();
        merge_sums<B::DIM, TILES>(call, strip, portion.partial, sums);
        __syncthreads();
    }
}

const char *banyan_cuda_decode(banyan_queue *queue, const banyan_batch *batch)
{
    return decode_run(queue, batch, [=](auto block, auto tiles, const decode_plan *plan) {
        typedef decltype(block) B;
        enum { TILES = decltype(tiles)::value };
        static_assert(sums_bytes<B::DIM, TILES>() <= RING_BYTES && warp_ring<B>::STAGES <= 32,
                      "room");
        const cuda_shape shape = {dim3((unsigned)plan->workers),
                                  dim3(32 * DECODE_WARPS * TILES), RING_BYTES, queue->stream,
                                  queue->waits != 0};
        return cuda_launch(shape, decode_async<B, TILES>, plan->call);
    });
}

const char *cuda_decode_open(banyan_queue *queue)
{
    return decode_open(queue, [](auto block, auto tiles) {
        return cuda_prepare(decode_async<decltype(block), decltype(tiles)::value>, RING_BYTES);
    });
}
