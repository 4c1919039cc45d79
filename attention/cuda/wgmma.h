/* SPDX-License-Identifier: Apache-2.0 */
/* wgmma.h - matrix products of a warpgroup (four warps, 128 threads), which the SM computes by
 * itself while the threads go on; PTX ISA 9.0, section 9.7.15. sm_90a. With ptx.h, the
 * vocabulary of the Hopper kernels; tests/emu has the same functions in plain C++.
 *
 * d [64][N] = a [64][16] b [16][N] (+ d): fp32 sums of 16-bit numbers. Of d, thread t of the
 * warpgroup (warp w = t / 32, lane l = t % 32) has, for column group j = 0 .. N / 8 - 1,
 *
 *     d[4 j], d[4 j + 1]        row 16 w + l / 4,       columns 8 j + 2 (l % 4) and the next
 *     d[4 j + 2], d[4 j + 3]    row 16 w + l / 4 + 8,   the same columns
 *
 * and of an a in registers: a[0], a[1] rows 16 w + l / 4 and + 8 of columns 2 (l % 4) and the
 * next, a[2], a[3] those of columns + 8, which is what four numbers of two neighbouring column
 * groups of a d are, rounded: the weights go from one product to the next without leaving their
 * threads.
 *
 * Order: a product is asynchronous from wgmma_ss or _rs to a wgmma_wait that covers its group.
 * Until then its d, its a in registers, and what its descriptors name may not be touched,
 * though another product may add to the same d. wgmma_fence comes before the first product, and
 * again whenever the threads have touched the registers of a product since. What threads stored
 * to shared memory needs shared_written. */
#ifndef BANYAN_ATTENTION_CUDA_WGMMA_H
#define BANYAN_ATTENTION_CUDA_WGMMA_H

#include "attention/cuda/ptx.h"

/* A matrix in shared memory, made of atoms of 8 rows of 128 bytes with the 128-byte swizzle
 * (record.h: a panel is 8 of them, one after the other), each 1024-byte aligned.
 *   K-major (a, and b of wgmma_ss): a row of an atom is one row of a, one column of b, with 64
 *     numbers along k. stride_bytes: from 8 rows to the next 8. leading_bytes is not used. 16
 *     numbers further along k is `shared` + 32.
 *   MN-major (b of wgmma_rs): a row of an atom is one k, with 64 columns. stride_bytes: from 8
 *     ks to the next 8; leading_bytes: from 64 columns to the next 64. */
PTX_FN uint64_t wgmma_descriptor(uint32_t shared, uint32_t leading_bytes, uint32_t stride_bytes)
{
    const uint64_t swizzle_128 = (uint64_t)1 << 62;
    return swizzle_128 | (uint64_t)(stride_bytes >> 4) << 32 |
           (uint64_t)(leading_bytes >> 4) << 16 | (shared & 0x3ffff) >> 4;
}

PTX_FN void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
PTX_FN void wgmma_commit() /* the products since the last commit are one group */
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int PENDING> PTX_FN void wgmma_wait() /* all but the last PENDING groups are done */
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Operands "%0, .., %31" and "%0, .., %63", and d[0] .. as what they stand for. */
#define WGMMA_FIVE(t, a, b, c, d, e) "%" t a ", %" t b ", %" t c ", %" t d ", %" t e ", "
#define WGMMA_TEN(t)                                                                           \
    WGMMA_FIVE(t, "0", "1", "2", "3", "4") WGMMA_FIVE(t, "5", "6", "7", "8", "9")
#define WGMMA_LIST_30 WGMMA_TEN("") WGMMA_TEN("1") WGMMA_TEN("2")
#define WGMMA_LIST_32 WGMMA_LIST_30 "%30, %31"
#define WGMMA_LIST_64                                                                          \
    WGMMA_LIST_30 WGMMA_TEN("3") WGMMA_TEN("4") WGMMA_TEN("5") "%60, %61, %62, %63"
#define WGMMA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_D16(i) WGMMA_D4(i), WGMMA_D4(i + 4), WGMMA_D4(i + 8), WGMMA_D4(i + 12)
#define WGMMA_D_32 WGMMA_D16(0), WGMMA_D16(16)
#define WGMMA_D_64 WGMMA_D_32, WGMMA_D16(32), WGMMA_D16(48)

/* For N columns and D = N / 2 sums a thread: the operands after d are %D and on. The zeros and
 * ones at the end say: a and b not negated; b (and a, of ss) K-major, or b MN-major (of rs). */
#define WGMMA_DEFINE(N, D, P0, P1, P2, P3, P4, P5, TYPE, NAME)                                 \
    PTX_FN void wgmma_ss_of(float(&d)[D], uint64_t a, uint64_t b, int accumulate, TYPE)        \
    {                                                                                          \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " P2 ", 0;\n"                       \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME           \
                     " {" WGMMA_LIST_##D "}, " P0 ", " P1 ", add, 1, 1, 0, 0;\n}"              \
                     : WGMMA_D_##D                                                             \
                     : "l"(a), "l"(b), "r"(accumulate)                                         \
                     : "memory");                                                              \
    }                                                                                          \
    PTX_FN void wgmma_rs_of(float(&d)[D], const uint32_t(&a)[4], uint64_t b, int accumulate,   \
                            TYPE)                                                              \
    {                                                                                          \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " P5 ", 0;\n"                       \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME           \
                     " {" WGMMA_LIST_##D "}, {" P0 ", " P1 ", " P2 ", " P3 "}, " P4            \
                                         ", add, 1, 1, 1;\n}"                                  \
                     : WGMMA_D_##D                                                             \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)     \
                     : "memory");                                                              \
    }
WGMMA_DEFINE(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", __nv_bfloat16, "bf16")
WGMMA_DEFINE(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", __half, "f16")
WGMMA_DEFINE(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", __nv_bfloat16, "bf16")
WGMMA_DEFINE(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", __half, "f16")
#undef WGMMA_DEFINE

/* accumulate: 0: d = a b; else d += a b. a and b in shared memory, both K-major. */
template <int N, typename T>
PTX_FN void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate)
{
    wgmma_ss_of(d, a, b, accumulate, T());
}
/* a in registers, b in shared memory, MN-major. */
template <int N, typename T>
PTX_FN void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate)
{
    wgmma_rs_of(d, a, b, accumulate, T());
}

#endif
