/* SPDX-License-Identifier: Apache-2.0 */
/* Faults: what was broken, where, and by whom, on stderr; then abort. */
#include "block.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>

namespace emu
{

static const char *base_name(const char *file)
{
    const char *slash = nullptr;
    for (const char *p = file; *p; p++)
        if (*p == '/') slash = p;
    return slash ? slash + 1 : file;
}

void fault_kernel(char *text, size_t bytes)
{
    if (!self_block || !bytes) {
        if (bytes) text[0] = 0;
        return;
    }
    const block &b = *self_block;
    int n = snprintf(text, bytes, "  block (%u, %u, %u) of (%u, %u, %u)", b.index.x, b.index.y,
                     b.index.z, b.grid.x, b.grid.y, b.grid.z);
    if (self && n > 0 && (size_t)n < bytes)
        snprintf(text + n, bytes - (size_t)n, ", thread %u of %u (warp %u, lane %u)",
                 self->index, b.count, self->index / WARP, self->index % WARP);
}

void fault(site at, const char *format, ...)
{
    char text[1024], where[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fault_kernel(where, sizeof where);
    fprintf(stderr, "emulated device: %s\n", text);
    if (where[0]) fprintf(stderr, "%s\n", where);
    if (at.file) fprintf(stderr, "  at %s:%d\n", base_name(at.file), at.line);
    abort();
}

static std::string what_for(const block &b, const fiber &f)
{
    char text[256] = "";
    const mbarrier *barrier;
    switch (f.waits) {
    case waiting::nothing: return "nothing";
    case waiting::exited: return "nothing: exited";
    case waiting::warp:
        snprintf(text, sizeof text, "lanes 0x%08x of its warp in %s", f.mask,
                 meeting_name(f.what));
        break;
    case waiting::warpgroup:
        snprintf(text, sizeof text, "its warpgroup in %s", meeting_name(f.what));
        break;
    case waiting::named:
        if (f.what == 0)
            snprintf(text, sizeof text, "__syncthreads, where %d of %u threads are",
                     b.named[0].arrived, b.live);
        else
            snprintf(text, sizeof text, "named barrier %u, where %d of %d threads are", f.what,
                     b.named[f.what].arrived, b.named[f.what].threads);
        break;
    case waiting::mbarrier:
        barrier = mbarrier_find(b, f.what);
        snprintf(
            text, sizeof text,
            "mbarrier 0x%x, parity %u: it is in phase %u, %d of %d arrivals and %lld bytes "
            "missing",
            f.what, f.mask, barrier->phase, barrier->pending, barrier->count,
            (long long)barrier->bytes);
        break;
    }
    if (f.at.file) {
        const std::string said = text;
        snprintf(text, sizeof text, "%s (%s:%d)", said.c_str(), base_name(f.at.file),
                 f.at.line);
    }
    return text;
}

/* One line for neighbouring lanes of a warp that wait for the same. */
void fault_blocked()
{
    const block &b = *self_block;
    std::string all;
    for (uint32_t i = 0; i < b.count;) {
        const std::string what = what_for(b, b.fibers[i]);
        uint32_t end = i + 1;
        while (end < b.count && end % WARP && what_for(b, b.fibers[end]) == what) end++;
        all += "  warp " + std::to_string(i / WARP);
        if (end - i < WARP)
            all +=
                " lanes " + std::to_string(i % WARP) + "-" + std::to_string((end - 1) % WARP);
        all += ": " + what + "\n";
        i = end;
    }
    fprintf(stderr, "emulated device: deadlock, all threads wait:\n%s", all.c_str());
    self = nullptr;
    fault({nullptr, 0}, "deadlock");
}

} // namespace emu
