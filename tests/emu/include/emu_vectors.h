/* SPDX-License-Identifier: Apache-2.0 */
/* Qualifiers and vector types of CUDA C. __shared__ is missing on purpose: kernels ask
 * dynamic_shared. */
#ifndef BANYAN_EMU_VECTORS_H
#define BANYAN_EMU_VECTORS_H

#include <stddef.h>
#include <stdint.h>

#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_align__(bytes) __attribute__((aligned(bytes)))

#define EMU_VECTOR(base, scalar, align2, align4)                                               \
    struct base##1                                                                             \
    {                                                                                          \
        scalar x;                                                                              \
    };                                                                                         \
    struct __align__(align2) base##2                                                           \
    {                                                                                          \
        scalar x, y;                                                                           \
    };                                                                                         \
    struct base##3                                                                             \
    {                                                                                          \
        scalar x, y, z;                                                                        \
    };                                                                                         \
    struct __align__(align4) base##4                                                           \
    {                                                                                          \
        scalar x, y, z, w;                                                                     \
    };                                                                                         \
    static inline base##1 make_##base##1(scalar x)                                             \
    {                                                                                          \
        return {x};                                                                            \
    }                                                                                          \
    static inline base##2 make_##base##2(scalar x, scalar y)                                   \
    {                                                                                          \
        return {x, y};                                                                         \
    }                                                                                          \
    static inline base##3 make_##base##3(scalar x, scalar y, scalar z)                         \
    {                                                                                          \
        return {x, y, z};                                                                      \
    }                                                                                          \
    static inline base##4 make_##base##4(scalar x, scalar y, scalar z, scalar w)               \
    {                                                                                          \
        return {x, y, z, w};                                                                   \
    }
EMU_VECTOR(char, signed char, 2, 4)
EMU_VECTOR(uchar, unsigned char, 2, 4)
EMU_VECTOR(short, short, 4, 8)
EMU_VECTOR(ushort, unsigned short, 4, 8)
EMU_VECTOR(int, int, 8, 16)
EMU_VECTOR(uint, unsigned, 8, 16)
EMU_VECTOR(longlong, long long, 16, 16)
EMU_VECTOR(ulonglong, unsigned long long, 16, 16)
EMU_VECTOR(float, float, 8, 16)
EMU_VECTOR(double, double, 16, 16)
#undef EMU_VECTOR

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
};

#endif
