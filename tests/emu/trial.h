/* SPDX-License-Identifier: Apache-2.0 */
/* trial.h - arrays on the emulated device, for the emulator's own tests. */
#ifndef BANYAN_TESTS_EMU_TRIAL_H
#define BANYAN_TESTS_EMU_TRIAL_H

#include "attention/cuda/launch.h"
#include "attention/cuda/ptx.h"
#include "tests/test.h"

#include <vector>

template <typename T> struct device_array {
    T *at = nullptr;
    size_t count;
    explicit device_array(size_t n) : count(n)
    {
        CHECK(cudaMalloc(&at, n * sizeof(T)) == cudaSuccess);
    }
    explicit device_array(const std::vector<T> &from) : device_array(from.size())
    {
        CHECK(cudaMemcpy(at, from.data(), count * sizeof(T), cudaMemcpyHostToDevice) ==
              cudaSuccess);
        CHECK(cudaDeviceSynchronize() == cudaSuccess);
    }
    device_array(const device_array &) = delete;
    ~device_array()
    {
        cudaFree(at);
    }
    std::vector<T> read() const
    {
        std::vector<T> to(count);
        CHECK(cudaMemcpy(to.data(), at, count * sizeof(T), cudaMemcpyDeviceToHost) ==
              cudaSuccess);
        return to;
    }
};

/* One block on the default stream, until it is done. */
template <typename... Params, typename... Args>
static void run_block(unsigned threads, size_t shared_bytes, void (*kernel)(Params...),
                      Args... args)
{
    const cuda_shape shape = {dim3(1), dim3(threads), shared_bytes, nullptr, false};
    CHECK(cuda_prepare(kernel, shared_bytes) == cudaSuccess);
    CHECK(cuda_launch(shape, kernel, args...) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

/* Numbers that are exact in bf16 and fp16, and whose products' sums are exact in fp32. */
static inline float small_number(uint64_t *seed)
{
    return (float)(test_below(seed, 33) - 16) / 8;
}
static inline uint16_t bits_of(float x, __nv_bfloat16)
{
    return __bfloat16_as_ushort(__float2bfloat16(x));
}
static inline uint16_t bits_of(float x, __half)
{
    return __half_as_ushort(__float2half(x));
}

#endif
