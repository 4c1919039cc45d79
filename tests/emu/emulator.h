/* SPDX-License-Identifier: Apache-2.0 */
/* emulator.h - what a test may ask of the emulated device beyond CUDA's own functions; C and
 * C++. The same can be set from outside: see README.md here. All of it is for all threads of
 * the process. */
#ifndef BANYAN_TESTS_EMU_EMULATOR_H
#define BANYAN_TESTS_EMU_EMULATOR_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* When asynchronous operations happen, and in which order threads, blocks and streams go on. */
enum emulator_mode {
    EMULATOR_EAGER, /* at issue; threads and blocks ascending; a stream's work at the call */
    EMULATOR_LAZY,  /* as late as the rules allow; blocks descending; streams when waited for */
    EMULATOR_RANDOM /* either, and in any order, by a seed */
};
/* For work that is queued or begun from now on. The default is EMULATOR_LAZY. */
void emulator_set_mode(enum emulator_mode mode, uint32_t seed);
enum emulator_mode emulator_get_mode(void);

/* Devices that there are (1; 0: cudaErrorNoDevice). Each has its compute capability (90, 80,
 * ..: 90), its multiprocessors (132; few make small tests) and its bytes of memory (80 GiB). */
void emulator_set_devices(int count);
void emulator_set_capability(int capability);
void emulator_set_multiprocessors(int count);
int emulator_get_multiprocessors(void); /* on a GPU (tests/gpu/include): what it has */
/* What kernels were compiled for (90). Below 90 launch_wait is no instruction: a kernel that
 * overlaps runs to its end before the one ahead of it. */
void emulator_set_code(int capability);
void emulator_set_memory(size_t bytes);
/* 0: device memory may be touched by the host as well (debuggers). */
void emulator_set_guard(int on);

/* 1: what is queued is counted and never done, and fresh memory of the device is not filled, so
 * that what the host does can be looked at, and timed, with a million tokens. */
void emulator_set_idle(int on);
struct emulator_counts {
    int64_t kernels, copies, events; /* launched; copied or cleared; recorded */
    int64_t to_device, to_host;      /* of the copies: from the host's memory, and to it */
};
struct emulator_counts emulator_count(void); /* since the process began */
/* From now on see(kernel, ctx) of all that is launched, captured or not, when it is: a kernel's
 * address, or NULL for a copy and all other work of the device. see NULL: no more. One thread
 * launches then. */
void emulator_watch(void (*see)(const void *kernel, void *ctx), void *ctx);
/* As a debugger names it (binutils' addr2line, which is slow), or "?". */
void emulator_kernel_name(const void *kernel, char *name, size_t bytes);

/* run(argument) in stream order, as device work that may touch device memory, once for each
 * replay where the stream is being captured. Then release(argument), unless NULL, when it
 * cannot run again. */
cudaError_t emulator_enqueue(cudaStream_t stream, void (*run)(void *argument), void *argument,
                             void (*release)(void *argument));

#ifdef __cplusplus
}
#endif
#endif
