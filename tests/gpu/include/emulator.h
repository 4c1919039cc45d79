/* SPDX-License-Identifier: Apache-2.0 */
/* emulator.h - for tests that were written for the emulator and run on a GPU: what they ask of
 * the emulator is not to be had here, and they are right without it. */
#ifndef BANYAN_TESTS_GPU_EMULATOR_H
#define BANYAN_TESTS_GPU_EMULATOR_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

enum emulator_mode { EMULATOR_EAGER, EMULATOR_LAZY, EMULATOR_RANDOM };

static inline void emulator_set_mode(enum emulator_mode mode, uint32_t seed)
{
    (void)mode, (void)seed;
}
static inline enum emulator_mode emulator_get_mode(void)
{
    return EMULATOR_EAGER;
}
static inline void emulator_set_devices(int count)
{
    (void)count;
}
static inline void emulator_set_capability(int capability)
{
    (void)capability;
}
static inline void emulator_set_multiprocessors(int count)
{
    (void)count;
}
static inline int emulator_get_multiprocessors(void)
{
    int count = 0, device = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
}
static inline void emulator_set_code(int capability)
{
    (void)capability;
}
static inline void emulator_set_memory(size_t bytes)
{
    (void)bytes;
}
static inline void emulator_set_guard(int on)
{
    (void)on;
}

#endif
