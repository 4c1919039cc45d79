/* SPDX-License-Identifier: Apache-2.0 */
/* Each broken rule ends the process with its words: kernels that break one each, in processes
 * of their own. What depends on the order of events is asked only where the mode makes it
 * happen. */
#include "attention/cuda/wgmma.h"
#include "emulator.h"
#include "tests/emu/trial.h"

#include <sys/wait.h>
#include <unistd.h>

/* ---- mbarriers and copies; one warp --------------------------------------------------- */

enum broken {
    DEADLOCK,
    BULK_ALIGNMENT,
    BULK_BYTES,
    BULK_HOST,
    BULK_OUTSIDE,
    BULK_LEFT,
    BYTES_MISSING,
    COUNT_EXCEEDED,
    TWO_AHEAD,
    WRITTEN_OVER,
    INIT_NOT_DONE,
    COPY_LEFT,
    STORE_UNFENCED,
    SHARED_BEHIND,
    LDMATRIX_ALIGNMENT,
    DIVERGENT,
    SHUFFLE_ABSENT,
    WILD_STORE,
    MEMORY_BEHIND
};

static __global__ void warp_kernel(int which, char *memory, char *host)
{
    unsigned char *const shared = dynamic_shared();
    const uint32_t barrier = shared_address(shared), at = barrier + 64;
    const int lane = (int)threadIdx.x;
    uint32_t r[4];
    if (lane == 0) {
        barrier_init(barrier, 1);
        if (which != INIT_NOT_DONE) barrier_init_done();
    }
    __syncwarp();
    if (which == LDMATRIX_ALIGNMENT) ldmatrix4(r, at + 8);
    if (which == DIVERGENT && lane < 7) (void)__shfl_sync(0xffffffff, lane, 0);
    if (which == DIVERGENT && lane >= 7) (void)__ballot_sync(0xffffffff, lane);
    if (which == SHUFFLE_ABSENT && lane < 4) (void)__shfl_sync(0x0000000f, lane, 9);
    if (which == COPY_LEFT) async_copy16(at, memory);
    if (which == DEADLOCK && lane == 3) barrier_wait(barrier, 0);
    if (which == TWO_AHEAD) { /* lane 0 runs first, and waits */
        if (lane == 0) barrier_wait(barrier, 0);
        if (lane == 1 || lane == 2) barrier_arrive(barrier);
    }
    if (lane) return;
    if (which == BULK_ALIGNMENT) bulk_load(at, memory + 8, 16, barrier);
    if (which == BULK_BYTES) bulk_load(at, memory, 24, barrier);
    if (which == BULK_HOST) bulk_load(at, host, 16, barrier);
    if (which == BULK_OUTSIDE) bulk_load(barrier + 1000 / 16 * 16, memory, 64, barrier);
    if (which == BULK_LEFT) bulk_load(at, memory, 64, barrier);
    if (which == BYTES_MISSING) barrier_expect(barrier, 64);
    if (which == COUNT_EXCEEDED) {
        barrier_expect(barrier, 64);
        barrier_arrive(barrier);
    }
    if (which == WRITTEN_OVER) shared[3] = 1;
    if (which == WRITTEN_OVER || which == INIT_NOT_DONE) barrier_arrive(barrier);
    if (which == STORE_UNFENCED) {
        shared_written();
        shared[70] = 1;
        bulk_store(memory, at, 16);
        bulk_store_done();
    }
    if (which == SHARED_BEHIND) shared[1005] = 1;
    if (which == WILD_STORE) *(volatile int *)0x1234 = 1;
    if (which == MEMORY_BEHIND) memory[1025] = 1;
}

/* ---- warpgroups ----------------------------------------------------------------------- */

enum broken_group {
    NO_FENCE,
    NOT_WRITTEN,
    TOUCHED,
    UNALIGNED,
    NOT_WAITED,
    REGISTERS,
    NAMED_COUNTS,
    NAMED_TWICE,
    NO_LAUNCH_WAIT
};

static __global__ void group_kernel(int which)
{
    const uint32_t tile = shared_address(dynamic_shared());
    const int thread = (int)threadIdx.x;
    float d[32];
    for (int i = 0; i < 32; i++) d[i] = 0;
    if (which == REGISTERS) registers_more<240>();
    if (which == NAMED_COUNTS && thread < 32) named_sync<128>(1);
    if (which == NAMED_COUNTS && thread >= 32) named_sync<256>(1);
    if (which == NAMED_TWICE) named_arrive<256>(1), named_arrive<256>(1);
    if (which > NOT_WAITED || thread >= 128) return;
    for (int i = thread; i < 8192 / 4; i += 128) shared_store(tile + (uint32_t)i * 4, 0);
    if (which != NOT_WRITTEN) shared_written();
    named_sync<128>(2);
    const uint64_t a = wgmma_descriptor(tile + (which == UNALIGNED ? 256 : 0), 0, 1024);
    if (which != NO_FENCE) wgmma_fence();
    wgmma_ss<64, __half>(d, a, wgmma_descriptor(tile, 0, 1024), 0);
    wgmma_commit();
    if (which == TOUCHED) d[5] = 1;
    if (which != NOT_WAITED) wgmma_wait<0>();
    shared_store(tile + (uint32_t)thread * 4, __float_as_uint(d[5]));
}

/* ---- in a process of its own ---------------------------------------------------------- */

template <typename F> static void check_dies(const char *what, const char *words, F run)
{
    int ends[2];
    char said[4096];
    size_t n = 0;
    CHECK(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        run();
        _exit(0);
    }
    close(ends[1]);
    while (n + 1 < sizeof said) {
        const ssize_t got = read(ends[0], said + n, sizeof said - 1 - n);
        if (got <= 0) break;
        n += (size_t)got;
    }
    said[n] = 0;
    close(ends[0]);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_MSG(WIFSIGNALED(status) && strstr(said, words), "%s: \"%s\" is not in \"%s\"", what,
              words, said);
}

static void check_warp(broken which, const char *words)
{
    check_dies("warp", words, [which] {
        static char host[64] __attribute__((aligned(16)));
        device_array<char> memory(1024 + 1);
        run_block(32, 1000, warp_kernel, (int)which, memory.at, host);
    });
}

static void check_group(broken_group which, const char *words)
{
    check_dies("group", words, [which] {
        const cuda_shape shape = {dim3(1), dim3(384), 8192, nullptr, which == NO_LAUNCH_WAIT};
        CHECK(cuda_launch(shape, group_kernel, (int)which) == cudaSuccess);
        cudaDeviceSynchronize();
    });
}

static void test_in_order() /* threads ascend */
{
    check_warp(TWO_AHEAD, "ran two phases ahead of a thread");
}

static void test_late()
{
    check_warp(BULK_LEFT, "is under way at the end of its block");
    check_warp(COPY_LEFT, "never waited for this copy");
}

int main()
{
    check_warp(DEADLOCK, "warp 0 lanes 3-3: mbarrier");
    check_warp(BULK_ALIGNMENT, "is not 16-byte aligned");
    check_warp(BULK_BYTES, "24 bytes are no multiple of 16");
    check_warp(BULK_HOST, "are not in device or page-locked memory");
    check_warp(BULK_OUTSIDE, "outside of the block's 1000 bytes");
    check_warp(BYTES_MISSING, "64 bytes were announced and never came");
    check_warp(COUNT_EXCEEDED, "more than its 1 arrivals in phase 0");
    check_warp(WRITTEN_OVER, "was written over");
    check_warp(INIT_NOT_DONE, "barrier_init_done was not called");
    check_warp(STORE_UNFENCED, "without shared_written");
    check_warp(SHARED_BEHIND, "byte 5 behind the block's 1000 bytes");
    check_warp(LDMATRIX_ALIGNMENT, "ldmatrix: shared address 0x448 is not 16-byte aligned");
    check_warp(DIVERGENT, "divergent");
    check_warp(SHUFFLE_ABSENT, "shuffles from lane 9, which is not in mask");
    check_warp(WILD_STORE, "a kernel touched 0x1234");
    check_warp(MEMORY_BEHIND, "byte 0 behind the 1025 bytes");
    check_group(NO_FENCE, "no wgmma_fence");
    check_group(NOT_WRITTEN, "without shared_written");
    check_group(TOUCHED, "d[5] of thread 0 of its warpgroup was written");
    check_group(UNALIGNED, "not in the first row of a 1024-byte piece");
    check_group(NOT_WAITED, "was never waited for");
    check_group(REGISTERS, "more than 65536");
    check_group(NAMED_COUNTS, "threads, and for");
    check_group(NAMED_TWICE, "twice before the others");
    check_group(NO_LAUNCH_WAIT, "never called launch_wait");
    check_dies("host", "host code touched device memory: byte 4 of 64", [] {
        device_array<int> x(16);
        ((volatile int *)x.at)[1] = 1;
    });
    if (emulator_get_mode() != EMULATOR_RANDOM) test_in_order();
    if (emulator_get_mode() == EMULATOR_LAZY) test_late();
    return test_end();
}
