/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA C's built-in variables and functions of device code. Those that wait for other threads
 * are in collective.cc and block.cc. */
#ifndef BANYAN_EMU_DEVICE_H
#define BANYAN_EMU_DEVICE_H

#include "emu_vectors.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* Of the thread that runs on this thread of the host; set at every switch. */
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
enum { warpSize = 32 };

/* Where in the kernel a thread is, for messages: the last two parameters of what may wait or
 * fail. */
#define EMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* ---- threads that meet ------------------------------------------------------------------- */

void emu_sync_threads(const char *file, int line);
void emu_sync_warp(uint32_t mask, const char *file, int line);
enum emu_shuffle { EMU_SHUFFLE_INDEX, EMU_SHUFFLE_XOR, EMU_SHUFFLE_UP, EMU_SHUFFLE_DOWN };
uint64_t emu_shuffle_bits(emu_shuffle how, uint32_t mask, uint64_t bits, int lane, int width,
                          const char *file, int line);
uint32_t emu_ballot(uint32_t mask, int predicate, const char *file, int line);
uint32_t emu_active(uint32_t mask, const char *file, int line);

static inline void __syncthreads(EMU_SITE)
{
    emu_sync_threads(file, line);
}
static inline void __syncwarp(uint32_t mask = 0xffffffff, EMU_SITE)
{
    emu_sync_warp(mask, file, line);
}
template <typename T>
static inline T emu_shuffle_of(emu_shuffle how, uint32_t mask, T x, int lane, int width,
                               const char *file, int line)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy((void *)&bits, (const void *)&x, sizeof x);
    bits = emu_shuffle_bits(how, mask, bits, lane, width, file, line);
    memcpy((void *)&x, (const void *)&bits, sizeof x);
    return x;
}
template <typename T>
static inline T __shfl_sync(uint32_t mask, T x, int lane, int width = 32, EMU_SITE)
{
    return emu_shuffle_of(EMU_SHUFFLE_INDEX, mask, x, lane, width, file, line);
}
template <typename T>
static inline T __shfl_xor_sync(uint32_t mask, T x, int lane, int width = 32, EMU_SITE)
{
    return emu_shuffle_of(EMU_SHUFFLE_XOR, mask, x, lane, width, file, line);
}
template <typename T>
static inline T __shfl_up_sync(uint32_t mask, T x, unsigned by, int width = 32, EMU_SITE)
{
    return emu_shuffle_of(EMU_SHUFFLE_UP, mask, x, (int)by, width, file, line);
}
template <typename T>
static inline T __shfl_down_sync(uint32_t mask, T x, unsigned by, int width = 32, EMU_SITE)
{
    return emu_shuffle_of(EMU_SHUFFLE_DOWN, mask, x, (int)by, width, file, line);
}
static inline uint32_t __ballot_sync(uint32_t mask, int predicate, EMU_SITE)
{
    return emu_ballot(mask, predicate, file, line);
}
static inline int __any_sync(uint32_t mask, int predicate, EMU_SITE)
{
    return emu_ballot(mask, predicate, file, line) != 0;
}
static inline int __all_sync(uint32_t mask, int predicate, EMU_SITE)
{
    return emu_ballot(mask, predicate, file, line) == mask;
}
static inline void __threadfence()
{
}
static inline void __threadfence_block()
{
}
static inline void __threadfence_system()
{
}
static inline void __nanosleep(unsigned)
{
}

/* ---- atomics: threads of a kernel run one at a time; kernels of several host threads at once
 * ---- */

template <typename T> static inline T atomicAdd(T *to, T x)
{
    const T old = *to;
    *to = old + x;
    return old;
}
static inline int atomicAdd(int *to, int x)
{
    return __atomic_fetch_add(to, x, __ATOMIC_SEQ_CST);
}
static inline unsigned atomicAdd(unsigned *to, unsigned x)
{
    return __atomic_fetch_add(to, x, __ATOMIC_SEQ_CST);
}
template <typename T> static inline T atomicMax(T *to, T x)
{
    const T old = *to;
    if (x > old) *to = x;
    return old;
}
template <typename T> static inline T atomicMin(T *to, T x)
{
    const T old = *to;
    if (x < old) *to = x;
    return old;
}
template <typename T> static inline T atomicExch(T *to, T x)
{
    const T old = *to;
    *to = x;
    return old;
}
template <typename T> static inline T atomicCAS(T *to, T compare, T x)
{
    const T old = *to;
    if (old == compare) *to = x;
    return old;
}
static inline unsigned atomicInc(unsigned *to, unsigned limit)
{
    const unsigned old = *to;
    *to = old >= limit ? 0 : old + 1;
    return old;
}
static inline int atomicOr(int *to, int x)
{
    const int old = *to;
    *to = old | x;
    return old;
}

/* ---- memory, bits, numbers --------------------------------------------------------------- */

template <typename T> static inline T __ldg(const T *from)
{
    return *from;
}
template <typename T> static inline T __ldcg(const T *from)
{
    return *from;
}
template <typename T> static inline T __ldcs(const T *from)
{
    return *from;
}
template <typename T> static inline void __stcs(T *to, T x)
{
    *to = x;
}
template <typename T> static inline void __stcg(T *to, T x)
{
    *to = x;
}
template <typename To, typename From> static inline To emu_bits(From x)
{
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    memcpy((void *)&to, (const void *)&x, sizeof to);
    return to;
}
static inline int __float_as_int(float x)
{
    return emu_bits<int>(x);
}
static inline unsigned __float_as_uint(float x)
{
    return emu_bits<unsigned>(x);
}
static inline float __int_as_float(int x)
{
    return emu_bits<float>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return emu_bits<float>(x);
}
static inline long long __double_as_longlong(double x)
{
    return emu_bits<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return emu_bits<double>(x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((unsigned long long)a * b >> 32);
}
/* Byte i of the result is byte (selector >> 4 i) & 7 of b:a. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    const unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}

/* Rounded by themselves, never contracted (-ffp-contract=off). */
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __frcp_rn(float a)
{
    return 1 / a;
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
/* The C library has private functions of these names. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}
static inline void sincospi(double x, double *sine, double *cosine)
{
    const double part = M_PI * (x - 2 * rint(x / 2)); /* exact but for the product */
    *sine = sin(part);
    *cosine = cos(part);
}
static inline float __int2float_rn(int x)
{
    return (float)x;
}
static inline int __float2int_rn(float x)
{
    return (int)nearbyintf(x);
}
static inline long long __float2ll_rn(float x)
{
    return (long long)nearbyintf(x);
}
static inline float __saturatef(float x)
{
    return x > 0 ? x < 1 ? x : 1 : 0; /* NaN gives 0 */
}

#define EMU_MIN_MAX(type)                                                                      \
    static inline type min(type a, type b)                                                     \
    {                                                                                          \
        return b < a ? b : a;                                                                  \
    }                                                                                          \
    static inline type max(type a, type b)                                                     \
    {                                                                                          \
        return a < b ? b : a;                                                                  \
    }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}

#endif
