/* SPDX-License-Identifier: Apache-2.0 */
/* Named barriers (9.7.13.1): a phase ends when `threads` threads have come, of which those that
 * only arrive go on at once. Barrier 0 is __syncthreads: all threads that have not exited. And
 * setmaxnreg. */
#include "block.h"
#include "settings.h"
#include "attention/cuda/ptx.h"

#include <string.h>

namespace emu
{

void named_reset(block &b)
{
    memset(b.named, 0, sizeof b.named);
}

static void end_phase(uint32_t id)
{
    block &b = *self_block;
    b.named[id] = named_barrier();
    for (uint32_t i = 0; i < b.count; i++) {
        fiber &f = b.fibers[i];
        if (f.waits == waiting::named && f.what == id) wake(f);
    }
}

void named_exit()
{
    block &b = *self_block;
    if (b.live && b.named[0].arrived == (int)b.live) end_phase(0);
}

static void arrive(uint32_t id, int threads, bool waits, site at)
{
    block &b = *self_block;
    named_barrier &barrier = b.named[id];
    uint64_t &who = barrier.who[self->index / 64];
    const uint64_t bit = (uint64_t)1 << self->index % 64;
    if (barrier.arrived && barrier.threads != threads && id)
        fault(at, "named barrier %u is used for %d threads, and for %d by who came before", id,
              threads, barrier.threads);
    if (who & bit)
        fault(at,
              "a thread comes to named barrier %u twice before the others: it is a phase ahead",
              id);
    who |= bit;
    barrier.threads = threads;
    if (++barrier.arrived == (id ? threads : (int)b.live)) {
        end_phase(id);
        return;
    }
    if (waits) wait_for(waiting::named, id, 0, at);
}

} // namespace emu

using namespace emu;

void emu_sync_threads(const char *file, int line)
{
    arrive(0, 0, true, {file, line});
}

void emu_named(int id, int threads, bool waits, const char *file, int line)
{
    const site at = {file, line};
    if (id < 1 || id > 15)
        fault(at, "named barrier %d: 1 .. 15 may be used, 0 is __syncthreads'", id);
    if (threads <= 0 || threads % WARP || threads > (int)self_block->count)
        fault(at, "named barrier %d for %d threads: whole warps of the block's %u are counted",
              id, threads, self_block->count);
    arrive((uint32_t)id, threads, waits, at);
}

/* ---- setmaxnreg (9.7.19.5) --------------------------------------------------------------- */

static void registers_all(fiber *first)
{
    const int count = *(int *)first->argument;
    int sum = 0, threads = 0;
    for (int i = 0; i < WARPGROUP; i++) {
        if (*(int *)first[i].argument != count)
            fault(self->at, "registers: threads of one warpgroup ask for %d and %d", count,
                  *(int *)first[i].argument);
        first[i].registers = count;
    }
    for (uint32_t i = 0; i < self_block->count; i++)
        if (self_block->fibers[i].registers) {
            sum += self_block->fibers[i].registers;
            threads++;
        }
    if (sum > MOST_REGISTERS)
        fault(self->at, "registers: %d threads of the block have %d, more than %d", threads,
              sum, MOST_REGISTERS);
}

void emu_registers(int count, bool, const char *file, int line)
{
    if (count < 24 || count > 256 || count % 8)
        fault({file, line}, "registers: %d is no multiple of 8 between 24 and 256", count);
    meet_warpgroup(MEET_REGISTERS, &count, registers_all, {file, line});
}

void emu_launch_wait()
{
    self_block->has_waited_launch = true;
    if (get_settings().code >= 90) run_before(*self_block);
}
