/* SPDX-License-Identifier: Apache-2.0 */
/* block.h - one block of threads that runs on one thread of the host: what its parts (block.cc,
 * collective.cc, named.cc, mbarrier.cc, copies.cc, proxy.cc, wgmma.cc) know of each other.
 *
 * Each CUDA thread is a fiber. It runs until it must wait, and then hands over to the next that
 * can run. When none can, what is under way is made to happen (progress), and if there is
 * nothing, the block hangs for ever: a fault, as is every broken rule. A fault ends the process
 * with words, since a device would give wrong numbers at best. */
#ifndef BANYAN_TESTS_EMU_BLOCK_H
#define BANYAN_TESTS_EMU_BLOCK_H

#include "emu_vectors.h"
#include "emulator.h"

#include <functional>
#include <memory>
#include <vector>

namespace emu
{

enum {
    WARP = 32,
    WARPGROUP = 128,
    MOST_THREADS = 1024,
    SHARED_BASE = 1024,       /* the address of dynamic shared memory, as on a device: not 0 */
    SHARED_MOST = 227 * 1024, /* bytes that a block may ask for, compute capability 9.0 */
    SHARED_GRAIN = 1024,      /* proxy.cc */
    MOST_REGISTERS = 65536
};

struct site {
    const char *file;
    int line;
};

enum class waiting : uint8_t { nothing, warp, warpgroup, named, mbarrier, exited };

struct fiber {
    void *stack; /* its stack pointer while another runs */
    uint32_t index;
    waiting waits;
    uint32_t what; /* kind of meeting; id of a named barrier; address of an mbarrier */
    uint32_t mask; /* lanes that meet; parity */
    site at;
    void *argument;            /* of a meeting, for who arrives last */
    uint32_t copies, products; /* groups of cp.async and of wgmma that it committed */
    bool fenced;               /* wgmma_fence since the last wgmma_wait */
    int registers;             /* setmaxnreg; 0: as launched */
};

struct named_barrier {
    int threads, arrived;
    uint64_t who[MOST_THREADS / 64];
};
struct mbarrier {
    uint32_t address;
    int count, pending; /* arrivals: of a phase, and of this one those still missing */
    int64_t bytes;      /* announced and not arrived; below 0: arrived and not yet announced */
    uint32_t phase;
};
/* A copy that has been issued and has not happened. */
struct copy {
    enum { bulk_load, bulk_store, small } kind;
    void *global;
    uint32_t shared, barrier; /* bulk_load: the mbarrier */
    int bytes;
    uint32_t thread, group;
    site at;
};
/* A product of a warpgroup that has been issued and not waited for. */
struct product {
    float *d[WARPGROUP];
    uint32_t a_registers[WARPGROUP][4];
    bool has_registers;
    uint64_t a, b;
    int columns, accumulate, type;
    uint32_t warpgroup, group;
    bool done;               /* d is written when it is waited for, but computed at issue */
    std::vector<float> sums; /* [64][columns] */
    site at;
};

struct block {
    uint3 index, threads, grid;
    uint32_t count, live; /* threads, and those that have not exited */
    const std::function<void()> *body;
    emulator_mode mode;
    uint64_t random; /* state of the generator */
    /* In the random mode, drawn for each block: in how many hand-overs, and in how many issues,
     * a copy or product happens once; who goes next; and a warp that goes last. */
    uint32_t progress_odds, issue_odds;
    enum { any, oldest, newest, kinds_of_turn } turn;
    uint32_t starved;
    std::vector<fiber> fibers;
    std::vector<uint32_t> ready; /* ring of those that can run: next, waiting */
    uint32_t ready_first, ready_count;
    void *host_stack;
    unsigned char *stacks;

    unsigned char *shared,
        *shared_pages; /* SHARED_MOST at shared_pages; ends at a guard page */
    uint32_t shared_bytes;

    /* Lanes that have arrived at their warp's full meeting. */
    uint32_t met[MOST_THREADS / WARP];
    uint32_t groups_met[MOST_THREADS / WARPGROUP];
    named_barrier named[16];
    std::vector<mbarrier> barriers;
    std::vector<uint16_t> barrier_at; /* by address / 8: 1 + index into barriers */
    bool inits_pending;               /* barrier_init without barrier_init_done */
    std::vector<copy> copies;
    std::unique_ptr<unsigned char[]> fenced_shared; /* as bulk copies and wgmma see it */
    std::vector<int64_t> grain_fence;
    int64_t fences;
    std::vector<product> products;
    bool must_wait_launch, has_waited_launch;
    std::function<void()> before; /* the kernel ahead, if it has not run: launch_wait runs it */
};

extern __thread block *self_block;
extern __thread fiber *self;

/* ---- block.cc ---- */
void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, bool overlaps, emulator_mode mode,
              uint64_t seed, const std::function<void()> &body);
extern thread_local std::function<void()>
    before_kernel;         /* `before` of the next one that runs */
void run_before(block &b); /* on the stack of one of b's threads, or after them */
void wait_for(waiting waits, uint32_t what, uint32_t mask, site at); /* returns when woken */
void wake(fiber &f);
uint32_t random_below(uint32_t n);
bool happens_at_issue();
[[noreturn]] void fault(site at, const char *format, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] void fault_blocked();           /* fault.cc: who waits for what */
void fault_kernel(char *text, size_t bytes); /* for a signal: which block and thread runs */

/* ---- collective.cc ---- */
enum meeting : uint32_t {
    MEET_SYNC,
    MEET_SHUFFLE,
    MEET_BALLOT,
    MEET_LDMATRIX,
    MEET_MMA,
    MEET_WGMMA,
    MEET_WGMMA_WAIT,
    MEET_REGISTERS
};
const char *meeting_name(uint32_t kind);
/* Lanes of `mask` meet; the last one calls all(lanes, mask) with each one's argument; NULL
 * elsewhere. */
void meet_warp(meeting kind, uint32_t mask, void *argument,
               void (*all)(void *const *lane, uint32_t mask), site at);
void meet_warpgroup(meeting kind, void *argument, void (*all)(fiber *first), site at);

/* ---- named.cc, mbarrier.cc ---- */
void named_exit(); /* a thread exits: barrier 0 may be complete without it */
void named_reset(block &b);
void mbarrier_reset(block &b);
void mbarrier_bytes(uint32_t barrier, int bytes, site at); /* have arrived */
void mbarrier_end(block &b);
bool mbarrier_wanted(const block &b, uint32_t barrier); /* does a thread wait for it? */
const mbarrier *mbarrier_find(const block &b, uint32_t address);

/* ---- copies.cc ---- */
bool copies_progress(block &b,
                     bool any); /* something happened; any: even what nobody waits for */
void copies_end(block &b);

/* ---- proxy.cc: shared memory ---- */
unsigned char *shared_at(uint32_t address, int bytes, int alignment, const char *doing,
                         site at);
const unsigned char *shared_async_read(uint32_t address, int bytes, const char *doing, site at);
void shared_async_written(uint32_t address, int bytes);
void shared_reset(block &b);
void shared_end(block &b);

/* ---- wgmma.cc ---- */
void products_end(block &b);

} // namespace emu
#endif
