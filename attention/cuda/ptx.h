/* SPDX-License-Identifier: Apache-2.0 */
/* ptx.h - the vocabulary of the CUDA kernels: every instruction that CUDA C has no word for, by
 * name.
 *
 * Kernels use nothing else of PTX, so that this file (and wgmma.h) can be replaced: tests/emu
 * has the same functions in plain C++, with which the kernels run, thread by thread, on a
 * machine without a GPU. What is needed to run there as well: shared memory is asked of
 * dynamic_shared() alone, kernels are started with cuda_launch (launch.h), and nothing is
 * assumed about what an asynchronous operation has done before it is waited for.
 *
 * Addresses of shared memory are 32-bit numbers (shared_address). Section numbers are those of
 * the PTX ISA 9.0. */
#ifndef BANYAN_ATTENTION_CUDA_PTX_H
#define BANYAN_ATTENTION_CUDA_PTX_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define PTX_FN static __device__ __forceinline__

/* ---- shared memory ----------------------------------------------------------------------- */

/* The block's shared memory, as many bytes as the launch asked for; 1024-byte aligned. */
PTX_FN unsigned char *dynamic_shared()
{
    extern __shared__ __align__(1024) unsigned char banyan_shared[];
    return banyan_shared;
}
PTX_FN uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}
PTX_FN void shared_store(uint32_t to, uint32_t x)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}
PTX_FN uint32_t shared_load(uint32_t from)
{
    uint32_t x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(from) : "memory");
    return x;
}
PTX_FN void shared_store4(uint32_t to, const uint32_t (&x)[4])
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x[0]), "r"(x[1]),
                 "r"(x[2]), "r"(x[3])
                 : "memory");
}
PTX_FN void shared_load4(uint32_t (&x)[4], uint32_t from)
{
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(from)
                 : "memory");
}

/* ---- mbarriers (9.7.13.15): a phase ends when `count` threads and all announced bytes arrived
 * ---- */

PTX_FN void barrier_init(uint32_t barrier, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count)
                 : "memory");
}
/* After the inits, before anybody else uses them: then __syncthreads. */
PTX_FN void barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
PTX_FN void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* Arrive, and announce `bytes` that bulk copies will bring in this phase. */
PTX_FN void barrier_expect(uint32_t barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}
/* Until the phase of this parity has ended: the first phase has parity 0, and the one before it
 * counts as ended, so that who waits for parity 1 at first passes. */
PTX_FN void barrier_wait(uint32_t barrier, int parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* ---- copies ------------------------------------------------------------------------------ */

/* Bulk (9.7.9.25): 16-byte aligned, bytes a multiple of 16; arrives at `barrier` with its
 * bytes. sm_90. */
PTX_FN void bulk_load(uint32_t to, const void *from, int bytes, uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}
/* From shared memory that this thread may read, after shared_written; one thread commits and
 * waits. */
PTX_FN void bulk_store(void *to, uint32_t from, int bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
                 "r"(from), "r"(bytes)
                 : "memory");
}
PTX_FN void bulk_store_done() /* commits and waits until all of them have been read */
{
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
}
/* What this thread stored to shared memory, bulk copies and warpgroup instructions see after
 * it. */
PTX_FN void shared_written()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* cp.async (9.7.9.25.3): 16 bytes, by each thread for itself; sm_80. */
PTX_FN void async_copy16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
PTX_FN void async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int PENDING> PTX_FN void async_wait() /* all but the last PENDING groups are done */
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* ---- matrix fragments (9.7.14.5) ------------------------------------------------------------
 * Of an 8 x 8 matrix of 16-bit
 * numbers, lane l has row l / 4, columns 2 (l % 4) and the next. ldmatrix reads four: lanes 0-7
 * give the addresses of the rows of the first, 8-15 of the second, .. */

PTX_FN void ldmatrix4(uint32_t (&r)[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
PTX_FN void ldmatrix4_transposed(uint32_t (&r)[4], uint32_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
/* c [16][8] += a [16][16] b [16][8]: m16n8k16. c: rows l / 4 (c0, c1) and l / 4 + 8 (c2, c3),
 * columns 2 (l % 4) and the next. a: a0, a1 are rows l / 4 and + 8 of columns 2 (l % 4) .., a2,
 * a3 those of columns + 8. b: b0 rows 2 (l % 4) .., b1 rows + 8, of column l / 4. */
PTX_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __nv_bfloat16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
PTX_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- numbers ----------------------------------------------------------------------------- */

/* 2^x, relative error 2^-22.5; exp2_fast(-inf) = 0. */
PTX_FN float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* Two numbers, lo in the low half, rounded to nearest even. The last argument only names the
 * type. */
PTX_FN uint32_t pack2(float lo, float hi, __nv_bfloat16)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
PTX_FN uint32_t pack2(float lo, float hi, __half)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
/* e4m3: two bytes to two fp16 (exact), and two fp32 to two bytes (to nearest even, saturating
 * at 448; the low byte from lo). sm_89 and later convert in one instruction. */
PTX_FN uint32_t half2_from_e4m3(uint16_t x)
{
#if __CUDA_ARCH__ >= 890
    uint32_t r;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(x));
    return r;
#else
    const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(x, __NV_E4M3);
    return (uint32_t)h.x | (uint32_t)h.y << 16;
#endif
}
PTX_FN uint16_t e4m3_from_floats(float lo, float hi)
{
    return __nv_cvt_float2_to_fp8x2(make_float2(lo, hi), __NV_SATFINITE, __NV_E4M3);
}

/* ---- warps and blocks -------------------------------------------------------------------- */

/* Registers of each thread of this warpgroup, from now on (9.7.19.5); sm_90a. */
template <int COUNT> PTX_FN void registers_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> PTX_FN void registers_fewer()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
/* Named barriers 1 .. 15 (0 is __syncthreads'): THREADS in all, of which some only arrive. */
template <int THREADS> PTX_FN void named_sync(int id)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory");
}
template <int THREADS> PTX_FN void named_arrive(int id)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(THREADS) : "memory");
}
/* Programmatic dependent launch (9.7.13.13): what the kernel before it wrote is there after
 * launch_wait; launch_next lets the kernel after it begin. sm_90; nothing before it. */
PTX_FN void launch_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
PTX_FN void launch_next()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
