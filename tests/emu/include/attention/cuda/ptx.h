/* SPDX-License-Identifier: Apache-2.0 */
/* ptx.h - the vocabulary of the product's attention/cuda/ptx.h, in plain C++: what each
 * function means is said there, and where it is done here in tests/emu. Section numbers: PTX
 * ISA 9.0. */
#ifndef BANYAN_ATTENTION_CUDA_PTX_H
#define BANYAN_ATTENTION_CUDA_PTX_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define PTX_FN static __device__ __forceinline__

unsigned char *emu_dynamic_shared();
uint32_t emu_shared_address(const void *p, const char *file, int line);
void emu_shared_store(uint32_t to, const void *from, int bytes, const char *file, int line);
void emu_shared_load(void *to, uint32_t from, int bytes, const char *file, int line);
void emu_barrier_init(uint32_t barrier, int count, const char *file, int line);
void emu_barrier_init_done();
void emu_barrier_arrive(uint32_t barrier, const char *file, int line);
void emu_barrier_expect(uint32_t barrier, int bytes, const char *file, int line);
void emu_barrier_wait(uint32_t barrier, int parity, const char *file, int line);
void emu_bulk_load(uint32_t to, const void *from, int bytes, uint32_t barrier, const char *file,
                   int line);
void emu_bulk_store(void *to, uint32_t from, int bytes, const char *file, int line);
void emu_bulk_store_done(const char *file, int line);
void emu_shared_written();
void emu_async_copy16(uint32_t to, const void *from, const char *file, int line);
void emu_async_commit();
void emu_async_wait(int pending);
void emu_ldmatrix4(uint32_t *r, uint32_t row, bool transposed, const char *file, int line);
enum emu_type { EMU_BF16, EMU_FP16 };
void emu_mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1, emu_type type,
             const char *file, int line);
void emu_registers(int count, bool more, const char *file, int line);
void emu_named(int id, int threads, bool waits, const char *file, int line);
void emu_launch_wait();

/* ---- shared memory ----------------------------------------------------------------------- */

PTX_FN unsigned char *dynamic_shared()
{
    return emu_dynamic_shared();
}
PTX_FN uint32_t shared_address(const void *p, EMU_SITE)
{
    return emu_shared_address(p, file, line);
}
PTX_FN void shared_store(uint32_t to, uint32_t x, EMU_SITE)
{
    emu_shared_store(to, &x, 4, file, line);
}
PTX_FN uint32_t shared_load(uint32_t from, EMU_SITE)
{
    uint32_t x;
    emu_shared_load(&x, from, 4, file, line);
    return x;
}
PTX_FN void shared_store4(uint32_t to, const uint32_t (&x)[4], EMU_SITE)
{
    emu_shared_store(to, x, 16, file, line);
}
PTX_FN void shared_load4(uint32_t (&x)[4], uint32_t from, EMU_SITE)
{
    emu_shared_load(x, from, 16, file, line);
}

/* ---- mbarriers: mbarrier.cc -------------------------------------------------------------- */

PTX_FN void barrier_init(uint32_t barrier, int count, EMU_SITE)
{
    emu_barrier_init(barrier, count, file, line);
}
PTX_FN void barrier_init_done()
{
    emu_barrier_init_done();
}
PTX_FN void barrier_arrive(uint32_t barrier, EMU_SITE)
{
    emu_barrier_arrive(barrier, file, line);
}
PTX_FN void barrier_expect(uint32_t barrier, int bytes, EMU_SITE)
{
    emu_barrier_expect(barrier, bytes, file, line);
}
PTX_FN void barrier_wait(uint32_t barrier, int parity, EMU_SITE)
{
    emu_barrier_wait(barrier, parity, file, line);
}

/* ---- copies: copies.cc ------------------------------------------------------------------- */

PTX_FN void bulk_load(uint32_t to, const void *from, int bytes, uint32_t barrier, EMU_SITE)
{
    emu_bulk_load(to, from, bytes, barrier, file, line);
}
PTX_FN void bulk_store(void *to, uint32_t from, int bytes, EMU_SITE)
{
    emu_bulk_store(to, from, bytes, file, line);
}
PTX_FN void bulk_store_done(EMU_SITE)
{
    emu_bulk_store_done(file, line);
}
PTX_FN void shared_written()
{
    emu_shared_written();
}
PTX_FN void async_copy16(uint32_t to, const void *from, EMU_SITE)
{
    emu_async_copy16(to, from, file, line);
}
PTX_FN void async_commit()
{
    emu_async_commit();
}
template <int PENDING> PTX_FN void async_wait()
{
    emu_async_wait(PENDING);
}

/* ---- matrix fragments: mma.cc ------------------------------------------------------------ */

PTX_FN void ldmatrix4(uint32_t (&r)[4], uint32_t row, EMU_SITE)
{
    emu_ldmatrix4(r, row, false, file, line);
}
PTX_FN void ldmatrix4_transposed(uint32_t (&r)[4], uint32_t row, EMU_SITE)
{
    emu_ldmatrix4(r, row, true, file, line);
}
PTX_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __nv_bfloat16,
                EMU_SITE)
{
    emu_mma(c, a, b0, b1, EMU_BF16, file, line);
}
PTX_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half,
                EMU_SITE)
{
    emu_mma(c, a, b0, b1, EMU_FP16, file, line);
}

/* ---- numbers ----------------------------------------------------------------------------- */

/* .ftz: subnormal x is 0, and a subnormal result is 0. */
PTX_FN float exp2_fast(float x)
{
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}
PTX_FN uint32_t pack2(float lo, float hi, __nv_bfloat16)
{
    return (uint32_t)emu_bf16_from_float(hi) << 16 | emu_bf16_from_float(lo);
}
PTX_FN uint32_t pack2(float lo, float hi, __half)
{
    return (uint32_t)emu_half_from_float(hi) << 16 | emu_half_from_float(lo);
}
PTX_FN uint32_t half2_from_e4m3(uint16_t x)
{
    const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(x, __NV_E4M3);
    return (uint32_t)h.x | (uint32_t)h.y << 16;
}
PTX_FN uint16_t e4m3_from_floats(float lo, float hi)
{
    return __nv_cvt_float2_to_fp8x2(make_float2(lo, hi), __NV_SATFINITE, __NV_E4M3);
}

/* ---- warps and blocks: named.cc ---------------------------------------------------------- */

template <int COUNT> PTX_FN void registers_more(EMU_SITE)
{
    emu_registers(COUNT, true, file, line);
}
template <int COUNT> PTX_FN void registers_fewer(EMU_SITE)
{
    emu_registers(COUNT, false, file, line);
}
template <int THREADS> PTX_FN void named_sync(int id, EMU_SITE)
{
    emu_named(id, THREADS, true, file, line);
}
template <int THREADS> PTX_FN void named_arrive(int id, EMU_SITE)
{
    emu_named(id, THREADS, false, file, line);
}
PTX_FN void launch_wait()
{
    emu_launch_wait();
}
PTX_FN void launch_next()
{
}

#endif
