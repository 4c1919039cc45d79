/* SPDX-License-Identifier: Apache-2.0 */
/* Meetings: instructions that the lanes of a warp, or the threads of a warpgroup, execute
 * together. Who arrives last does it for all. Between two meetings the lanes of a warp run one
 * after another, each as far as it can: what one lane tells another without a meeting is found
 * out. */
#include "block.h"
#include "emu_device.h"

#include <stdio.h>

namespace emu
{

const char *meeting_name(uint32_t kind)
{
    static const char *const name[] = {
        "__syncwarp", "__shfl_sync", "__ballot_sync", "ldmatrix",
        "mma",        "wgmma",       "wgmma_wait",    "registers (setmaxnreg)"};
    return name[kind];
}

/* Another lane of a meeting must have come to the same one. */
static void check_same(const fiber &f, meeting kind, uint32_t mask, site at)
{
    if (f.waits != waiting::warp && f.waits != waiting::warpgroup) return;
    if (f.what == kind && (f.waits == waiting::warpgroup || f.mask == mask)) return;
    fault(
        at,
        "divergent: this thread is in %s with lanes 0x%08x, thread %u in %s with lanes 0x%08x "
        "(line %d)",
        meeting_name(kind), mask, f.index, meeting_name(f.what), f.mask, f.at.line);
}

/* Have all lanes of mask come? Waiting ones are counted, so that a full warp costs no loop. */
static bool last_of_warp(fiber *first, meeting kind, uint32_t mask, site at)
{
    uint32_t &met = self_block->met[first->index / WARP];
    const uint32_t lane = self->index % WARP;
    if (!(mask >> lane & 1)) fault(at, "lane %u is not in its mask 0x%08x", lane, mask);
    if (mask == 0xffffffff && met) check_same(first[__builtin_ctz(met)], kind, mask, at);
    if (mask != 0xffffffff)
        for (uint32_t i = 0; i < WARP; i++)
            if (mask >> i & met >> i & 1) check_same(first[i], kind, mask, at);
    met |= 1u << lane;
    return (met & mask) == mask;
}

void meet_warp(meeting kind, uint32_t mask, void *argument,
               void (*all)(void *const *lane, uint32_t mask), site at)
{
    block &b = *self_block;
    fiber *const first = self - self->index % WARP;
    self->argument = argument;
    if (!last_of_warp(first, kind, mask, at)) {
        wait_for(waiting::warp, kind, mask, at);
        return;
    }
    void *lanes[WARP] = {};
    for (uint32_t i = 0; i < WARP; i++)
        if (mask >> i & 1) {
            if (&first[i] != self) check_same(first[i], kind, mask, at);
            lanes[i] = first[i].argument;
        }
    self->at = at;
    if (all) all(lanes, mask);
    b.met[first->index / WARP] &= ~mask;
    for (uint32_t i = 0; i < WARP; i++)
        if (mask >> i & 1 && &first[i] != self) wake(first[i]);
}

void meet_warpgroup(meeting kind, void *argument, void (*all)(fiber *first), site at)
{
    block &b = *self_block;
    fiber *const first = self - self->index % WARPGROUP;
    uint32_t &met = b.groups_met[first->index / WARPGROUP];
    if (first->index + WARPGROUP > b.count)
        fault(at, "%s needs a whole warpgroup: %u threads are no multiple of 128",
              meeting_name(kind), b.count);
    self->argument = argument;
    self->at = at;
    if (++met < WARPGROUP) {
        wait_for(waiting::warpgroup, kind, 0xffffffff, at);
        return;
    }
    for (int i = 0; i < WARPGROUP; i++)
        if (&first[i] != self) check_same(first[i], kind, 0xffffffff, at);
    met = 0;
    if (all) all(first);
    for (int i = 0; i < WARPGROUP; i++)
        if (&first[i] != self) wake(first[i]);
}

/* ---- shuffles and votes ------------------------------------------------------------------ */

namespace
{
struct shuffle {
    emu_shuffle how;
    uint64_t bits, got;
    int lane, width;
};
struct ballot {
    int predicate;
    uint32_t got;
};
} // namespace

/* 9.7.9.6: lanes are in segments of `width`; out of its segment, a lane gets its own. */
static void shuffle_all(void *const *lane, uint32_t mask)
{
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1)) continue;
        shuffle &s = *(shuffle *)lane[i];
        const int first = i & ~(s.width - 1), end = first + s.width;
        int from = i;
        switch (s.how) {
        case EMU_SHUFFLE_INDEX: from = first + (s.lane & (s.width - 1)); break;
        case EMU_SHUFFLE_XOR: from = i ^ s.lane; break;
        case EMU_SHUFFLE_UP: from = i - s.lane; break;
        case EMU_SHUFFLE_DOWN: from = i + s.lane; break;
        }
        if (from >= end || (s.how == EMU_SHUFFLE_UP && from < first)) from = i;
        if (!(mask >> from & 1))
            fault(self->at, "lane %d shuffles from lane %d, which is not in mask 0x%08x", i,
                  from, mask);
        s.got = ((shuffle *)lane[from])->bits;
    }
}

static void ballot_all(void *const *lane, uint32_t mask)
{
    uint32_t votes = 0;
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1 && ((ballot *)lane[i])->predicate) votes |= 1u << i;
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) ((ballot *)lane[i])->got = votes;
}

} // namespace emu

using namespace emu;

void emu_sync_warp(uint32_t mask, const char *file, int line)
{
    meet_warp(MEET_SYNC, mask, nullptr, nullptr, {file, line});
}

uint64_t emu_shuffle_bits(emu_shuffle how, uint32_t mask, uint64_t bits, int lane, int width,
                          const char *file, int line)
{
    if (width < 1 || width > WARP || (width & (width - 1)))
        fault({file, line}, "a shuffle's width is %d, not a power of two up to 32", width);
    shuffle mine = {how, bits, 0, lane, width};
    meet_warp(MEET_SHUFFLE, mask, &mine, shuffle_all, {file, line});
    return mine.got;
}

uint32_t emu_ballot(uint32_t mask, int predicate, const char *file, int line)
{
    ballot mine = {predicate, 0};
    meet_warp(MEET_BALLOT, mask, &mine, ballot_all, {file, line});
    return mine.got;
}
