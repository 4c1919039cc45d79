/* SPDX-License-Identifier: Apache-2.0 */
/* Shared memory, and the two ways to it. Ordinary loads and stores go by the generic proxy,
 * bulk copies and wgmma by the async proxy; what one wrote the other sees after
 * fence.proxy.async, shared_written.
 *
 * The generic side is the memory itself, which kernels address directly. Beside it lies what
 * the async side sees: bulk copies write to both, and shared_written copies the first to the
 * second. An asynchronous read of bytes that differ is a fault. Copying everything at each
 * fence would cost too much where most of the memory is a ring that bulk copies fill: grains of
 * 1024 bytes that one filled whole are not copied; if they differ when they are read, some
 * fence since then must have been there. */
#include "block.h"
#include "attention/cuda/ptx.h"

#include <algorithm>
#include <string.h>
#include <unistd.h>

namespace emu
{

enum { GRAIN_COPIED = -1, NEVER_WRITTEN = 0xff /* fp32, bf16, fp16 and e4m3: NaN */ };

static const unsigned char after_end =
    0xa7; /* behind the bytes asked for, up to the page's end */

static size_t bytes_after(const block &b)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (b.shared_bytes + page - 1) / page * page - b.shared_bytes;
}

void shared_reset(block &b)
{
    b.shared = b.shared_pages;
    memset(b.shared, NEVER_WRITTEN, b.shared_bytes);
    memset(b.shared + b.shared_bytes, after_end, bytes_after(b));
    memset(b.fenced_shared.get(), NEVER_WRITTEN, b.shared_bytes);
    std::fill(b.grain_fence.begin(), b.grain_fence.end(), GRAIN_COPIED);
    b.fences = 0;
}

void shared_end(block &b)
{
    const size_t n = bytes_after(b);
    for (size_t i = 0; i < n; i++)
        if (b.shared[b.shared_bytes + i] != after_end)
            fault({nullptr, 0},
                  "byte %zu behind the block's %u bytes of shared memory was written", i,
                  b.shared_bytes);
}

unsigned char *shared_at(uint32_t address, int bytes, int alignment, const char *doing, site at)
{
    const block &b = *self_block;
    if (address % (uint32_t)alignment)
        fault(at, "%s: shared address 0x%x is not %d-byte aligned", doing, address, alignment);
    if (address < SHARED_BASE || bytes < 0 ||
        (uint64_t)address + (uint64_t)bytes > SHARED_BASE + (uint64_t)b.shared_bytes)
        fault(
            at,
            "%s: %d bytes at shared address 0x%x, outside of the block's %u bytes from 0x%x on",
            doing, bytes, address, b.shared_bytes, (unsigned)SHARED_BASE);
    return b.shared + (address - SHARED_BASE);
}

const unsigned char *shared_async_read(uint32_t address, int bytes, const char *doing, site at)
{
    block &b = *self_block;
    const unsigned char *const now = shared_at(address, bytes, 16, doing, at);
    const uint32_t begin = address - SHARED_BASE, end = begin + (uint32_t)bytes;
    if (!memcmp(now, b.fenced_shared.get() + begin, (size_t)bytes)) return now;
    for (uint32_t i = begin; i < end; i += 16) {
        int64_t &fence = b.grain_fence[i / SHARED_GRAIN];
        if (!memcmp(b.shared + i, b.fenced_shared.get() + i, 16)) continue;
        if (fence == GRAIN_COPIED || fence == b.fences)
            fault(at,
                  "%s reads shared address 0x%x, which was stored to without shared_written "
                  "since, or while it was being read",
                  doing, i + SHARED_BASE);
        const uint32_t first = i / SHARED_GRAIN * SHARED_GRAIN;
        memcpy(b.fenced_shared.get() + first, b.shared + first,
               std::min<size_t>(SHARED_GRAIN, b.shared_bytes - first));
        fence = GRAIN_COPIED;
    }
    return now;
}

void shared_async_written(uint32_t address, int bytes)
{
    block &b = *self_block;
    const uint32_t begin = address - SHARED_BASE, end = begin + (uint32_t)bytes;
    memcpy(b.fenced_shared.get() + begin, b.shared + begin, (size_t)bytes);
    for (uint32_t grain = (begin + SHARED_GRAIN - 1) / SHARED_GRAIN;
         (grain + 1) * SHARED_GRAIN <= end; grain++)
        b.grain_fence[grain] = b.fences;
}

} // namespace emu

using namespace emu;

void emu_shared_written()
{
    block &b = *self_block;
    b.fences++;
    for (uint32_t first = 0, grain = 0; first < b.shared_bytes; first += SHARED_GRAIN, grain++)
        if (b.grain_fence[grain] == GRAIN_COPIED)
            memcpy(b.fenced_shared.get() + first, b.shared + first,
                   std::min<size_t>(SHARED_GRAIN, b.shared_bytes - first));
}

unsigned char *emu_dynamic_shared()
{
    return self_block->shared;
}

uint32_t emu_shared_address(const void *p, const char *file, int line)
{
    const block &b = *self_block;
    const unsigned char *const at = (const unsigned char *)p;
    if (at < b.shared || at > b.shared + b.shared_bytes)
        fault({file, line}, "shared_address of %p, which is not in the block's shared memory",
              p);
    return SHARED_BASE + (uint32_t)(at - b.shared);
}

void emu_shared_store(uint32_t to, const void *from, int bytes, const char *file, int line)
{
    memcpy(shared_at(to, bytes, bytes, "a store", {file, line}), from, (size_t)bytes);
}

void emu_shared_load(void *to, uint32_t from, int bytes, const char *file, int line)
{
    memcpy(to, shared_at(from, bytes, bytes, "a load", {file, line}), (size_t)bytes);
}
