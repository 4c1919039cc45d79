/* SPDX-License-Identifier: Apache-2.0 */
/* test.h - what every test program uses. A test prints nothing when all is well, and its exit
 * code is the number of failed checks (at most 100). */
#ifndef BANYAN_TEST_H
#define BANYAN_TEST_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_failures;

#define CHECK(condition)                                                                       \
    ((condition) ? (void)0 : (void)(test_failures++, test_say(__FILE__, __LINE__, #condition)))

/* CHECK with what was seen: CHECK_MSG(a == b, "a %d, b %d", a, b). */
#define CHECK_MSG(condition, ...)                                                              \
    ((condition) ? (void)0                                                                     \
                 : (void)(test_failures++, test_say(__FILE__, __LINE__, #condition),           \
                          fprintf(stderr, "    " __VA_ARGS__), fputc('\n', stderr)))

static inline void test_say(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
}

static inline int test_end(void)
{
    if (test_failures) fprintf(stderr, "%d checks failed\n", test_failures);
    return test_failures > 100 ? 100 : test_failures;
}

/* SplitMix64 (Steele, Lea, Flood 2014): a seed gives the same data on every machine. */
static inline uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline double test_uniform(uint64_t *state) /* [0, 1) */
{
    return (double)(test_random(state) >> 11) * 0x1p-53;
}
static inline int64_t test_below(uint64_t *state, int64_t n) /* 0 .. n-1 */
{
    return (int64_t)(test_random(state) % (uint64_t)n);
}
/* Roughly normal: mean 0, variance 1. */
static inline float test_normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += test_uniform(state);
    return (float)(sum - 6);
}

#endif
