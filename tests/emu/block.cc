/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks one after another, and the threads of a block in turn. */
#include "block.h"
#include "fiber.h"

#include <algorithm>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu
{

__thread block *self_block;
__thread fiber *self;

static const size_t stack_bytes = 128 << 10;
static const uint64_t stack_mark =
    0x6261726e79616e21; /* at a stack's end: it was large enough */

/* What a block needs, kept by each thread of the host for its next one. */
struct kept_block : block {
    kept_block()
    {
        fibers.resize(MOST_THREADS);
        ready.resize(MOST_THREADS);
        barrier_at.resize((SHARED_BASE + SHARED_MOST) / 8);
        fenced_shared.reset(new unsigned char[SHARED_MOST]);
        grain_fence.resize((SHARED_MOST + SHARED_GRAIN - 1) / SHARED_GRAIN);
        stacks =
            (unsigned char *)mmap(nullptr, MOST_THREADS * stack_bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        const size_t pages = (SHARED_MOST + page - 1) / page * page;
        shared_pages = (unsigned char *)mmap(nullptr, pages + 2 * page, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stacks == MAP_FAILED || shared_pages == MAP_FAILED)
            fault({nullptr, 0}, "no memory for the stacks of a block");
        mprotect(shared_pages, page, PROT_NONE);
        mprotect(shared_pages + page + pages, page, PROT_NONE);
        shared_pages += page;
    }
    ~kept_block()
    {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        munmap(stacks, MOST_THREADS * stack_bytes);
        munmap(shared_pages - page, (SHARED_MOST + page - 1) / page * page + 2 * page);
    }
};

thread_local std::function<void()> before_kernel;
static thread_local std::vector<std::unique_ptr<kept_block>> kept;
static thread_local size_t
    depth; /* kernels that are under way, each begun by the one before it */

static block *thread_block()
{
    if (depth == kept.size()) kept.emplace_back(new kept_block);
    return kept[depth].get();
}

/* What a kernel reads before it calls launch_wait, it reads before the kernel ahead of it has
 * run. */
void run_before(block &b)
{
    if (!b.before) return;
    const std::function<void()> before = std::move(b.before);
    fiber *const thread = self;
    const uint3 indices[4] = {threadIdx, blockIdx, blockDim, gridDim};
    b.before = nullptr;
    self_block = nullptr, self = nullptr;
    before();
    self_block = &b, self = thread;
    threadIdx = indices[0], blockIdx = indices[1], blockDim = indices[2], gridDim = indices[3];
}

uint32_t random_below(uint32_t n)
{
    uint64_t &x = self_block->random; /* xorshift64* */
    x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
    return (uint32_t)((x * 0x2545f4914f6cdd1d >> 32) * n >> 32);
}

/* ---- who runs next ----------------------------------------------------------------------- */

static void become(fiber &f)
{
    block &b = *self_block;
    self = &f;
    threadIdx = {f.index % b.threads.x, f.index / b.threads.x % b.threads.y,
                 f.index / b.threads.x / b.threads.y};
}

static void append_ready(uint32_t index)
{
    block &b = *self_block;
    b.ready[(b.ready_first + b.ready_count++) % MOST_THREADS] = index;
}

void wake(fiber &f)
{
    f.waits = waiting::nothing;
    append_ready(f.index);
}

/* A block in which copies are slow finds other faults than one in which they are fast. */
static void draw_habits(block &b)
{
    static const uint32_t progress[] = {4, 32, 512, UINT32_MAX}, issue[] = {2, 8, UINT32_MAX};
    b.progress_odds = progress[random_below(4)];
    b.issue_odds = issue[random_below(3)];
    b.turn = decltype(b.turn)(random_below(b.kinds_of_turn));
    b.starved = random_below(2) ? random_below(b.count / WARP + 1) : UINT32_MAX;
}

bool happens_at_issue()
{
    const block &b = *self_block;
    if (b.mode == EMULATOR_RANDOM) return random_below(b.issue_odds) == 0;
    return b.mode == EMULATOR_EAGER;
}

/* Brings a fiber of the random mode's choice to the front of those that can run. */
static void choose(block &b)
{
    uint32_t &first = b.ready[b.ready_first];
    const uint32_t tries = 4;
    if (b.turn == b.newest)
        std::swap(first, b.ready[(b.ready_first + b.ready_count - 1) % MOST_THREADS]);
    for (uint32_t i = 0; i < tries && (i == 0 ? b.turn == b.any : first / WARP == b.starved);
         i++)
        std::swap(first, b.ready[(b.ready_first + random_below(b.ready_count)) % MOST_THREADS]);
}

/* The next fiber to run. When all wait, operations under way are made to happen, until one
 * can. */
static fiber &next_ready()
{
    block &b = *self_block;
    if (b.mode == EMULATOR_RANDOM && !b.copies.empty() && random_below(b.progress_odds) == 0)
        copies_progress(b, true);
    while (!b.ready_count)
        if (!copies_progress(b, false)) fault_blocked();
    if (b.mode == EMULATOR_RANDOM) choose(b);
    const uint32_t index = b.ready[b.ready_first];
    b.ready_first = (b.ready_first + 1) % MOST_THREADS;
    b.ready_count--;
    return b.fibers[index];
}

static void hand_over()
{
    fiber &from = *self, &to = next_ready();
    if (&from == &to) return;
    become(to);
    emu_switch(&from.stack, to.stack);
}

void wait_for(waiting waits, uint32_t what, uint32_t mask, site at)
{
    fiber &f = *self;
    f.waits = waits;
    f.what = what;
    f.mask = mask;
    f.at = at;
    hand_over();
}

/* ---- threads and blocks ------------------------------------------------------------------ */

static uint64_t *mark_of(const block &b, uint32_t index)
{
    return (uint64_t *)(void *)(b.stacks + index * stack_bytes);
}

static void thread_runs()
{
    block &b = *self_block;
    (*b.body)();
    fiber &f = *self;
    if (*mark_of(b, f.index) != stack_mark)
        fault({nullptr, 0}, "a thread needs more than %zu bytes of stack", stack_bytes);
    f.waits = waiting::exited;
    b.live--;
    named_exit();
    if (b.live)
        hand_over();
    else
        emu_switch(&f.stack, b.host_stack);
    __builtin_unreachable();
}

/* Stacks begin a different number of bytes below multiples of their size: else all would use
 * the same few lines of the cache. */
static void prepare_threads(block &b)
{
    b.ready_first = b.ready_count = 0;
    for (uint32_t i = 0; i < b.count; i++) {
        fiber &f = b.fibers[i];
        f = fiber();
        f.index = i;
        *mark_of(b, i) = stack_mark;
        unsigned char *const top = b.stacks + (i + 1) * stack_bytes - i * 37 % 64 * 64;
        f.stack = fiber_prepare(top, thread_runs);
        append_ready(i);
    }
}

static void run_block(block &b)
{
    b.live = b.count;
    b.has_waited_launch = false;
    memset(b.met, 0, sizeof b.met);
    memset(b.groups_met, 0, sizeof b.groups_met);
    b.inits_pending = false;
    shared_reset(b);
    named_reset(b);
    mbarrier_reset(b);
    if (b.mode == EMULATOR_RANDOM) draw_habits(b);
    prepare_threads(b);
    fiber &first = next_ready();
    become(first);
    emu_switch(&b.host_stack, first.stack);
    self = nullptr;
    copies_end(b);
    products_end(b);
    mbarrier_end(b);
    shared_end(b);
    if (b.must_wait_launch && !b.has_waited_launch)
        fault({nullptr, 0},
              "a kernel that may overlap the one before it never called launch_wait");
}

/* Number of the i-th block that runs. */
static std::vector<uint64_t> block_order(const block &b, uint64_t blocks)
{
    std::vector<uint64_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++)
        order[i] = b.mode == EMULATOR_LAZY ? blocks - 1 - i : i;
    if (b.mode == EMULATOR_RANDOM)
        for (uint64_t i = blocks; i > 1; i--)
            std::swap(order[i - 1], order[random_below((uint32_t)i)]);
    return order;
}

void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, bool overlaps, emulator_mode mode,
              uint64_t seed, const std::function<void()> &body)
{
    block &b = *thread_block();
    if (self_block) fault({nullptr, 0}, "a kernel is launched by a kernel");
    self_block = &b;
    depth++;
    b.before = std::move(before_kernel);
    before_kernel = nullptr;
    b.grid = {grid.x, grid.y, grid.z};
    b.threads = {threads.x, threads.y, threads.z};
    b.count = threads.x * threads.y * threads.z;
    b.body = &body;
    b.mode = mode;
    b.random = seed * 0x9e3779b97f4a7c15 + 0x853c49e6748fea9b;
    b.shared_bytes = (uint32_t)shared_bytes;
    b.must_wait_launch = overlaps;
    blockDim = b.threads;
    gridDim = b.grid;
    for (const uint64_t i : block_order(b, (uint64_t)grid.x * grid.y * grid.z)) {
        b.index = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y),
                   (unsigned)(i / grid.x / grid.y)};
        blockIdx = b.index;
        run_block(b);
    }
    run_before(b);
    depth--;
    self_block = nullptr;
}

} // namespace emu
