/* SPDX-License-Identifier: Apache-2.0 */
/* The exponential of the vector kernels against exp2 in double: within 2 ulp of the exact value
 * for every kind of argument that a softmax can have, x <= 0: sampled bit patterns from -0 to
 * below the smallest denormal result, both sides of every integer and half integer (where the
 * polynomial's argument jumps), denormal arguments, -inf and NaN; exact at 0 and at
 * integers. */
#include "tests/attention/exp2_test.h"
#include "attention/attention.h"
#include "tests/test.h"

#include <math.h>

enum { LANES = 16 };

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* distance of got from 2^x in ulp of fp32 at 2^x */
static double ulps(float got, float x)
{
    double exact = exp2((double)x); /* right to 2^-52 */
    int exponent;
    frexp(exact, &exponent);
    if (exact == 0 || exponent < -125) exponent = -125; /* denormal: steps of 2^-149 */
    return fabs(((double)got - exact) / ldexp(1, exponent - 24));
}

static void check_bits(const char *name, void (*exp2_of)(float *, int), const uint32_t *bits)
{
    float x[LANES];
    for (int i = 0; i < LANES; i++) x[i] = float_of(bits[i]);
    exp2_of(x, LANES);
    for (int i = 0; i < LANES; i++) {
        float argument = float_of(bits[i]);
        double error = ulps(x[i], argument);
        CHECK_MSG(error <= 2, "%s: 2^%a is %a, off by %.2f ulp", name, argument, x[i], error);
    }
}

static void test_range(const char *name, void (*exp2_of)(float *, int))
{
    const uint32_t from = 0x80000000u, to = 0xc3200000u; /* -0 .. -160 */
    uint32_t bits[LANES];
    uint64_t at = from;
    while (at <= to) {
        for (int i = 0; i < LANES; i++, at += 1009) bits[i] = at <= to ? (uint32_t)at : to;
        check_bits(name, exp2_of, bits);
    }
    for (int half = 1; half <= 320; half++) {
        float middle = -(float)half / 2;
        uint32_t center;
        memcpy(&center, &middle, sizeof(center));
        for (int i = 0; i < LANES; i++) bits[i] = center + (uint32_t)i - LANES / 2;
        check_bits(name, exp2_of, bits);
    }
}

static void test_exact(const char *name, void (*exp2_of)(float *, int))
{
    for (int n = 0; n <= 200; n++) {
        float x[LANES];
        for (int i = 0; i < LANES; i++) x[i] = -(float)n;
        exp2_of(x, LANES);
        CHECK_MSG(x[n % LANES] == ldexpf(1, -n), "%s: 2^-%d is %a", name, n, x[n % LANES]);
    }
}

static void test_special(const char *name, void (*exp2_of)(float *, int))
{
    const float given[LANES] = {-INFINITY,  NAN,        -0.0f,  0.0f,
                                -0x1p-149f, -0x1p-126f, -1e30f, -0x1.fffffep127f};
    float x[LANES];
    memcpy(x, given, sizeof(x));
    exp2_of(x, LANES);
    CHECK_MSG(x[0] == 0, "%s: 2^-inf is %a", name, x[0]);
    CHECK_MSG(x[1] != x[1], "%s: 2^NaN is %a", name, x[1]);
    for (int i = 2; i < 6; i++) CHECK_MSG(x[i] == 1, "%s: 2^%a is %a", name, given[i], x[i]);
    CHECK_MSG(x[6] == 0 && x[7] == 0, "%s: 2^-large is %a %a", name, x[6], x[7]);
}

static void test_exp2(const char *kernel, void (*exp2_of)(float *, int))
{
    char why[256];
    if (!banyan_kernel_find(NULL, 0, kernel, NULL, why, sizeof(why)))
        return; /* another processor */
    test_range(kernel, exp2_of);
    test_exact(kernel, exp2_of);
    test_special(kernel, exp2_of);
}

int main(void)
{
#ifdef EXP2_X86
    test_exp2("avx2", exp2_avx2);
    test_exp2("avx512", exp2_avx512);
#endif
#ifdef EXP2_NEON
    test_exp2("neon", exp2_neon);
#endif
    return test_end();
}
