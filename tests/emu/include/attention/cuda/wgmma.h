/* SPDX-License-Identifier: Apache-2.0 */
/* wgmma.h - the vocabulary of the product's attention/cuda/wgmma.h, in plain C++: see wgmma.cc.
 * The descriptor is put together here once more, from PTX ISA 9.0, 9.7.15.5.1.2. */
#ifndef BANYAN_ATTENTION_CUDA_WGMMA_H
#define BANYAN_ATTENTION_CUDA_WGMMA_H

#include "attention/cuda/ptx.h"

struct emu_product {
    float *d;
    const uint32_t *a_registers; /* four, or NULL: a is in shared memory */
    uint64_t a, b;
    int columns, accumulate;
    emu_type type;
};
void emu_wgmma(const emu_product &product, const char *file, int line);
void emu_wgmma_fence();
void emu_wgmma_commit();
void emu_wgmma_wait(int pending, const char *file, int line);

/* Bits 0-13 start address / 16, 16-29 leading byte offset / 16, 32-45 stride byte offset / 16,
 * 49-51 base offset, 62-63 swizzle: 1 is 128 bytes. */
PTX_FN uint64_t wgmma_descriptor(uint32_t shared, uint32_t leading_bytes, uint32_t stride_bytes)
{
    const uint64_t start = shared >> 4 & 0x3fff, leading = leading_bytes >> 4 & 0x3fff;
    const uint64_t stride = stride_bytes >> 4 & 0x3fff, swizzle = 1;
    return start | leading << 16 | stride << 32 | swizzle << 62;
}
PTX_FN void wgmma_fence()
{
    emu_wgmma_fence();
}
PTX_FN void wgmma_commit()
{
    emu_wgmma_commit();
}
template <int PENDING> PTX_FN void wgmma_wait(EMU_SITE)
{
    emu_wgmma_wait(PENDING, file, line);
}

PTX_FN emu_type emu_type_of(__nv_bfloat16)
{
    return EMU_BF16;
}
PTX_FN emu_type emu_type_of(__half)
{
    return EMU_FP16;
}
template <int N, typename T>
PTX_FN void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate, EMU_SITE)
{
    static_assert(N == 64 || N == 128, "the product has these");
    emu_wgmma({d, nullptr, a, b, N, accumulate, emu_type_of(T())}, file, line);
}
template <int N, typename T>
PTX_FN void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate,
                     EMU_SITE)
{
    static_assert(N == 64 || N == 128, "the product has these");
    emu_wgmma({d, a, 0, b, N, accumulate, emu_type_of(T())}, file, line);
}

#endif
