/* SPDX-License-Identifier: Apache-2.0 */
/* Device memory: pages of their own for each piece, which end where the piece does (to 256
 * bytes), with a page before and behind that nobody may touch. The pages are closed while no
 * device work runs, so that host code which follows a device pointer dies where it does it. */
#include "memory.h"
#include "block.h"
#include "settings.h"

#include <atomic>
#include <map>
#include <mutex>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emu
{

enum { ALIGNMENT = 256 }; /* of cudaMalloc */
static const unsigned char after_end = 0xa7;

namespace
{
struct piece {
    memory kind;
    size_t bytes;
    unsigned char *pages; /* NULL: not ours (cudaHostRegister) */
    size_t page_bytes;
};
struct pieces {
    std::mutex mutex;
    std::map<uintptr_t, piece> at;
    size_t taken = 0;
    int open = 0;
    std::atomic<uint64_t> generation{1}; /* changes when a piece goes */
};
} // namespace

static pieces &all()
{
    static pieces *const p = new pieces; /* lives longer than every thread */
    return *p;
}

static size_t page_size()
{
    static const size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    return bytes;
}

/* ---- what is where ----------------------------------------------------------------------- */

/* The piece that p is in, or NULL; the caller holds the mutex. */
static const std::pair<const uintptr_t, piece> *find(const void *p)
{
    auto next = all().at.upper_bound((uintptr_t)p);
    if (next == all().at.begin()) return nullptr;
    --next;
    return (uintptr_t)p < next->first + next->second.bytes ? &*next : nullptr;
}

memory memory_kind(const void *p)
{
    std::lock_guard<std::mutex> lock(all().mutex);
    const auto *const found = find(p);
    return found ? found->second.kind : memory::pageable;
}

bool memory_holds(memory kind, const void *p, size_t bytes)
{
    std::lock_guard<std::mutex> lock(all().mutex);
    const auto *const found = find(p);
    return found && found->second.kind == kind &&
           (uintptr_t)p + bytes <= found->first + found->second.bytes;
}

/* Copies of 16 bytes ask this: the last piece is remembered. */
bool memory_reaches(const void *p, size_t bytes)
{
    static thread_local uintptr_t begin, end;
    static thread_local uint64_t generation;
    const uintptr_t at = (uintptr_t)p;
    if (generation == all().generation && at >= begin && at + bytes <= end) return true;
    std::lock_guard<std::mutex> lock(all().mutex);
    const auto *const found = find(p);
    if (!found) return false;
    begin = found->first;
    end = found->first + found->second.bytes;
    generation = all().generation;
    return at + bytes <= end;
}

/* ---- closed pages ------------------------------------------------------------------------ */

static void put(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0) abort();
}

/* Says whose pointer it was, and lets the process die of it. */
static void on_fault(int signal_number, siginfo_t *info, void *)
{
    char text[512], where[256];
    const void *const p = info->si_addr;
    const auto *found = find(p); /* no lock: this thread may hold it */
    signal(signal_number, SIG_DFL);
    fault_kernel(where, sizeof where);
    if (where[0])
        snprintf(text, sizeof text,
                 "emulated device: a kernel touched %p, which is no memory of the device\n%s\n",
                 p, where);
    else if (found)
        snprintf(text, sizeof text,
                 "emulated device: host code touched device memory: byte %zu of %zu at %p\n",
                 (size_t)((uintptr_t)p - found->first), found->second.bytes,
                 (void *)found->first);
    else
        snprintf(text, sizeof text, "emulated device: host code touched %p\n", p);
    put(text);
}

static void install_handler()
{
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &action, nullptr);
        sigaction(SIGBUS, &action, nullptr);
    });
}

static void protect(const piece &p, bool open)
{
    const size_t page = page_size();
    if (p.kind == memory::device)
        mprotect(p.pages + page, p.page_bytes - 2 * page,
                 open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static bool is_open() /* the caller holds the mutex */
{
    return all().open > 0 || !get_settings().guard;
}

void memory_open()
{
    std::lock_guard<std::mutex> lock(all().mutex);
    const bool was_open = is_open();
    all().open++;
    if (!was_open)
        for (const auto &p : all().at) protect(p.second, true);
}

void memory_close()
{
    std::lock_guard<std::mutex> lock(all().mutex);
    all().open--;
    if (!is_open())
        for (const auto &p : all().at) protect(p.second, false);
}

/* ---- taking and giving back -------------------------------------------------------------- */

static size_t slack(size_t bytes) /* from its end to that of its pages */
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT - bytes;
}

void *memory_take(memory kind, size_t bytes)
{
    pieces &a = all();
    const size_t page = page_size(), inside = (bytes + slack(bytes) + page - 1) / page * page;
    install_handler();
    std::lock_guard<std::mutex> lock(a.mutex);
    if (kind == memory::device && bytes > get_settings().memory - a.taken) return nullptr;
    void *const pages = mmap(nullptr, inside + 2 * page, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return nullptr;
    const piece p = {kind, bytes, (unsigned char *)pages, inside + 2 * page};
    unsigned char *const end = p.pages + page + inside, *const begin =
                                                            end - bytes - slack(bytes);
    mprotect(p.pages + page, inside, PROT_READ | PROT_WRITE);
    if (kind != memory::device || !get_settings().idle) memset(begin, 0xff, bytes);
    memset(begin + bytes, after_end, slack(bytes));
    if (!is_open()) protect(p, false);
    a.at[(uintptr_t)begin] = p;
    if (kind == memory::device) a.taken += bytes;
    return begin;
}

bool memory_give(memory kind, void *pointer)
{
    pieces &a = all();
    std::lock_guard<std::mutex> lock(a.mutex);
    const auto found = a.at.find((uintptr_t)pointer);
    if (found == a.at.end() || found->second.kind != kind) return false;
    const piece p = found->second;
    if (p.pages) {
        protect(p, true);
        const unsigned char *const end = (const unsigned char *)pointer + p.bytes;
        for (size_t i = 0; i < slack(p.bytes); i++)
            if (end[i] != after_end)
                fault({nullptr, 0}, "byte %zu behind the %zu bytes at %p was written", i,
                      p.bytes, pointer);
        munmap(p.pages, p.page_bytes);
    }
    if (kind == memory::device) a.taken -= p.bytes;
    a.at.erase(found);
    a.generation++;
    return true;
}

bool memory_lock(void *pointer, size_t bytes)
{
    std::lock_guard<std::mutex> lock(all().mutex);
    if (find(pointer)) return false;
    all().at[(uintptr_t)pointer] = {memory::locked, bytes, nullptr, 0};
    return true;
}

size_t memory_taken()
{
    std::lock_guard<std::mutex> lock(all().mutex);
    return all().taken;
}

} // namespace emu
