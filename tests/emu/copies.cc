/* SPDX-License-Identifier: Apache-2.0 */
/* Asynchronous copies. From its issue on, where a copy goes is unknown: it is filled with NaNs.
 * It happens
 *
 *     eager    at once
 *     lazy     a bulk copy when all threads wait, and one for its mbarrier; a cp.async when its
 *              thread waits for its group; a bulk store when its thread waits
 *     random   as lazy, or at any hand-over before
 *
 * Sources are read when it happens, so that a buffer that is written again too early is found
 * out. */
#include "block.h"
#include "attention/cuda/ptx.h"
#include "memory.h"
#include "settings.h"

#include <string.h>

namespace emu
{

static void happen(const copy &c)
{
    if (c.kind == copy::bulk_store) {
        memcpy(c.global, shared_async_read(c.shared, c.bytes, "bulk_store", c.at),
               (size_t)c.bytes);
        return;
    }
    memcpy(shared_at(c.shared, c.bytes, 16, "a copy", c.at), c.global, (size_t)c.bytes);
    if (c.kind == copy::small) return;
    shared_async_written(c.shared, c.bytes);
    mbarrier_bytes(c.barrier, c.bytes, c.at);
}

static void happen_at(block &b, size_t place)
{
    const copy c = b.copies[place];
    b.copies.erase(b.copies.begin() + (ptrdiff_t)place);
    happen(c);
}

bool copies_progress(block &b, bool any)
{
    const size_t n = b.copies.size(),
                 first = n && b.mode == EMULATOR_RANDOM ? random_below((uint32_t)n) : 0;
    for (size_t i = 0; i < n; i++) {
        const size_t place = (first + i) % n;
        const copy &c = b.copies[place];
        if (!any && (c.kind != copy::bulk_load || !mbarrier_wanted(b, c.barrier))) continue;
        happen_at(b, place);
        return true;
    }
    return false;
}

void copies_end(block &b)
{
    for (const copy &c : b.copies)
        if (c.kind == copy::bulk_load)
            fault(c.at, "a bulk copy to 0x%x of thread %u is under way at the end of its block",
                  c.shared, c.thread);
        else
            fault(c.at, "thread %u never waited for this copy", c.thread);
}

static void issue(const copy &c)
{
    block &b = *self_block;
    void *const to =
        c.kind == copy::bulk_store ? c.global : b.shared + (c.shared - SHARED_BASE);
    memset(to, 0xff, (size_t)c.bytes); /* NaN in each of our types */
    if (happens_at_issue())
        happen(c);
    else
        b.copies.push_back(c);
}

/* Copies of this thread of groups before `group`, in the order of their issue. */
static void wait_groups(bool small, uint32_t group)
{
    block &b = *self_block;
    size_t kept = 0;
    for (size_t i = 0; i < b.copies.size(); i++) {
        const copy c = b.copies[i];
        const bool mine = c.thread == self->index && c.group < group;
        if (mine && (small ? c.kind == copy::small : c.kind == copy::bulk_store))
            happen(c);
        else
            b.copies[kept++] = c;
    }
    b.copies.resize(kept);
}

static void check_global(const void *p, int bytes, const char *doing, site at)
{
    if ((uintptr_t)p % 16) fault(at, "%s: global address %p is not 16-byte aligned", doing, p);
    if (!memory_reaches(p, (size_t)bytes))
        fault(at, "%s: %d bytes at %p are not in device or page-locked memory", doing, bytes,
              p);
}

static void needs_hopper(const char *what, site at)
{
    if (get_settings().capability < 90) fault(at, "%s needs compute capability 9.0", what);
}

} // namespace emu

using namespace emu;

void emu_bulk_load(uint32_t to, const void *from, int bytes, uint32_t barrier, const char *file,
                   int line)
{
    const site at = {file, line};
    needs_hopper("bulk_load", at);
    if (bytes <= 0 || bytes % 16) fault(at, "bulk_load: %d bytes are no multiple of 16", bytes);
    shared_at(to, bytes, 16, "bulk_load", at);
    shared_at(barrier, 8, 8, "bulk_load", at);
    if (!mbarrier_find(*self_block, barrier))
        fault(at, "bulk_load: there is no mbarrier at 0x%x", barrier);
    check_global(from, bytes, "bulk_load", at);
    issue({copy::bulk_load, const_cast<void *>(from), to, barrier, bytes, self->index, 0, at});
}

void emu_bulk_store(void *to, uint32_t from, int bytes, const char *file, int line)
{
    const site at = {file, line};
    needs_hopper("bulk_store", at);
    if (bytes <= 0 || bytes % 16)
        fault(at, "bulk_store: %d bytes are no multiple of 16", bytes);
    shared_async_read(from, bytes, "bulk_store", at);
    check_global(to, bytes, "bulk_store", at);
    issue({copy::bulk_store, to, from, 0, bytes, self->index, 0, at});
}

void emu_bulk_store_done(const char *, int)
{
    wait_groups(false, 1);
}

void emu_async_copy16(uint32_t to, const void *from, const char *file, int line)
{
    const site at = {file, line};
    shared_at(to, 16, 16, "async_copy16", at);
    check_global(from, 16, "async_copy16", at);
    issue({copy::small, const_cast<void *>(from), to, 0, 16, self->index, self->copies, at});
}

void emu_async_commit()
{
    self->copies++;
}

void emu_async_wait(int pending)
{
    if (self->copies > (uint32_t)pending) wait_groups(true, self->copies - (uint32_t)pending);
}
