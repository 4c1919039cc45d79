/* SPDX-License-Identifier: Apache-2.0 */
/* mbarriers (9.7.13.15). The state is kept beside the block's memory; in the 8 bytes of shared
 * memory is a mark, so that writing over a barrier is found out. */
#include "block.h"
#include "attention/cuda/ptx.h"

#include <string.h>

namespace emu
{

static const uint64_t barrier_mark = 0x72656972726162a5;
static const int64_t most_bytes = (1 << 20) - 1; /* of tx-count */
static const int most_count = (1 << 20) - 1;

void mbarrier_reset(block &b)
{
    for (const mbarrier &barrier : b.barriers) b.barrier_at[barrier.address / 8] = 0;
    b.barriers.clear();
}

const mbarrier *mbarrier_find(const block &b, uint32_t address)
{
    const uint16_t place = address / 8 < b.barrier_at.size() ? b.barrier_at[address / 8] : 0;
    return place ? &b.barriers[place - 1u] : nullptr;
}

static mbarrier &barrier_of(uint32_t address, const char *doing, site at)
{
    const unsigned char *const p = shared_at(address, 8, 8, doing, at);
    const mbarrier *const barrier = mbarrier_find(*self_block, address);
    if (!barrier) fault(at, "%s: there is no mbarrier at 0x%x", doing, address);
    if (memcmp(p, &barrier_mark, 8) != 0)
        fault(at, "%s: the mbarrier at 0x%x was written over", doing, address);
    if (self_block->inits_pending)
        fault(at, "%s: mbarriers were made, and barrier_init_done was not called", doing);
    return const_cast<mbarrier &>(*barrier);
}

bool mbarrier_wanted(const block &b, uint32_t address)
{
    for (uint32_t i = 0; i < b.count; i++)
        if (b.fibers[i].waits == waiting::mbarrier && b.fibers[i].what == address) return true;
    return false;
}

static void end_phase_if_complete(mbarrier &barrier)
{
    block &b = *self_block;
    if (barrier.pending || barrier.bytes) return;
    barrier.phase++;
    barrier.pending = barrier.count;
    for (uint32_t i = 0; i < b.count; i++) {
        fiber &f = b.fibers[i];
        if (f.waits == waiting::mbarrier && f.what == barrier.address) wake(f);
    }
}

static void arrive(mbarrier &barrier, site at)
{
    if (!barrier.pending)
        fault(at,
              "mbarrier 0x%x: more than its %d arrivals in phase %u, which still misses %lld "
              "bytes",
              barrier.address, barrier.count, barrier.phase, (long long)barrier.bytes);
    barrier.pending--;
    end_phase_if_complete(barrier);
}

void mbarrier_bytes(uint32_t address, int bytes, site at)
{
    mbarrier &barrier = barrier_of(address, "a bulk copy arrives", at);
    barrier.bytes -= bytes;
    if (barrier.bytes < -most_bytes)
        fault(at, "mbarrier 0x%x: %lld bytes more than announced", address,
              (long long)-barrier.bytes);
    end_phase_if_complete(barrier);
}

void mbarrier_end(block &b)
{
    for (const mbarrier &barrier : b.barriers)
        if (barrier.bytes)
            fault({nullptr, 0},
                  "mbarrier 0x%x at the end of its block: %lld bytes %s (phase %u)",
                  barrier.address,
                  (long long)(barrier.bytes > 0 ? barrier.bytes : -barrier.bytes),
                  barrier.bytes > 0 ? "were announced and never came"
                                    : "came and were never announced",
                  barrier.phase);
}

} // namespace emu

using namespace emu;

void emu_barrier_init(uint32_t address, int count, const char *file, int line)
{
    block &b = *self_block;
    const site at = {file, line};
    unsigned char *const p = shared_at(address, 8, 8, "barrier_init", at);
    if (count < 1 || count > most_count)
        fault(at, "barrier_init: a count of %d is not in 1 .. %d", count, most_count);
    if (mbarrier_find(b, address))
        fault(at, "barrier_init: 0x%x is an mbarrier already", address);
    memcpy(p, &barrier_mark, 8);
    b.barriers.push_back({address, count, count, 0, 0});
    b.barrier_at[address / 8] = (uint16_t)b.barriers.size();
    b.inits_pending = true;
}

void emu_barrier_init_done()
{
    self_block->inits_pending = false;
}

void emu_barrier_arrive(uint32_t address, const char *file, int line)
{
    arrive(barrier_of(address, "barrier_arrive", {file, line}), {file, line});
}

void emu_barrier_expect(uint32_t address, int bytes, const char *file, int line)
{
    const site at = {file, line};
    mbarrier &barrier = barrier_of(address, "barrier_expect", at);
    if (bytes < 0 || barrier.bytes + bytes > most_bytes)
        fault(at, "barrier_expect: %d bytes, of at most %lld a phase", bytes,
              (long long)most_bytes);
    barrier.bytes += bytes;
    arrive(barrier, at);
}

/* A phase has parity phase % 2; that of parity p has ended when the one under way has the
 * other. A thread that was woken and finds the next phase ended as well would have missed it on
 * a device. */
void emu_barrier_wait(uint32_t address, int parity, const char *file, int line)
{
    const site at = {file, line};
    if (parity != 0 && parity != 1) fault(at, "barrier_wait: a parity of %d", parity);
    if ((barrier_of(address, "barrier_wait", at).phase & 1) != (uint32_t)parity) return;
    wait_for(waiting::mbarrier, address, (uint32_t)parity, at);
    const mbarrier &barrier = barrier_of(address, "barrier_wait", at);
    if ((barrier.phase & 1) == (uint32_t)parity)
        fault(
            at,
            "mbarrier 0x%x ran two phases ahead of a thread that waits for parity %d (it is in "
            "phase %u)",
            address, parity, barrier.phase);
}
