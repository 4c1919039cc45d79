/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed-point sums: the bits of a sum do not depend on the order of its blocks, nor on how they
 * were put into sums of their own first; and the sum is right, within the error that fixed.c
 * derives. */
#include "attention/fixed.h"
#include "tests/test.h"

#include <math.h>

enum { MOST_BLOCKS = 150, MOST_DIM = 150, PARTS = 7 };

/* Partials of one row, relative to exp(base). */
typedef struct blocks {
    int32_t count, value_dim;
    double base[MOST_BLOCKS];
    float l[MOST_BLOCKS], o[MOST_BLOCKS][MOST_DIM];
} blocks;

/* What the scores and values are like. */
enum { USUAL, FAR_APART, HUGE_SCORES, ANY_SIZE, SPARSE, ODD, KINDS };

static void draw(blocks *b, int kind, uint64_t *random)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0};
    static const int32_t dims[] = {0, 1, 15, 16, 17, 63, 64, 65, 128, 150};
    b->count = 1 + (int32_t)test_below(random, MOST_BLOCKS);
    b->value_dim = dims[test_below(random, 10)];
    for (int32_t i = 0; i < b->count; i++) {
        double spread = kind == USUAL ? 4 : 200, size = 1;
        if (kind == HUGE_SCORES) spread = pow(10, 30 * test_uniform(random));
        b->base[i] = (2 * test_uniform(random) - 1) * spread;
        if (test_below(random, 4) == 0) b->base[i] = b->base[test_below(random, i + 1)];
        b->l[i] = (float)(1 + 63 * test_uniform(random));
        if (kind == ANY_SIZE) size = ldexp(1, (int)test_below(random, 260) - 140);
        for (int32_t d = 0; d < b->value_dim; d++) {
            b->o[i][d] = (float)(test_normal(random) * size) * b->l[i];
            if (kind == SPARSE && test_below(random, 8)) b->o[i][d] = 0;
            if (kind == ODD && test_below(random, 300) == 0)
                b->o[i][d] = odd[test_below(random, 4)];
        }
        if (kind == SPARSE && test_below(random, 5) == 0) b->l[i] = 0;
        if (kind == ODD && test_below(random, 500) == 0) b->l[i] = NAN;
    }
}

static void add(void *sum, const blocks *b, int32_t i)
{
    banyan_fixed_add(sum, b->base[i], b->l[i], b->o[i], b->value_dim);
}

static void *take(const blocks *b, int64_t rows)
{
    void *sums = aligned_alloc(64, (size_t)rows * banyan_fixed_bytes(b->value_dim));
    if (!sums) abort();
    banyan_fixed_clear(sums, b->value_dim, rows);
    return sums;
}

static void shuffle(int32_t *order, int32_t count, uint64_t *random)
{
    for (int32_t i = 0; i < count; i++) {
        int32_t j = (int32_t)test_below(random, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
}

/* Blocks in random order into some of PARTS sums, those into one in random order. */
static void add_somehow(void *out, const blocks *b, uint64_t *random)
{
    const size_t bytes = banyan_fixed_bytes(b->value_dim);
    int32_t order[MOST_BLOCKS], parts[PARTS];
    char *part = take(b, PARTS);
    shuffle(order, b->count, random);
    for (int32_t i = 0; i < b->count; i++)
        add(part + (size_t)test_below(random, PARTS) * bytes, b, order[i]);
    shuffle(parts, PARTS, random);
    for (int32_t i = 1; i < PARTS; i++) {
        char *x = part + (size_t)parts[i - 1] * bytes, *y = part + (size_t)parts[i] * bytes;
        switch (test_below(random, 4)) {
        case 0: banyan_fixed_combine(y, x, y, b->value_dim, 1); break;
        case 1: banyan_fixed_combine(y, y, x, b->value_dim, 1); break;
        case 2:
            banyan_fixed_combine(x, x, y, b->value_dim, 1);
            memcpy(y, x, bytes);
            break;
        default: banyan_fixed_combine(out, x, y, b->value_dim, 1); memcpy(y, out, bytes);
        }
    }
    memcpy(out, part + (size_t)parts[PARTS - 1] * bytes, bytes);
    free(part);
}

static void check_order(const blocks *b, int kind, uint64_t seed, uint64_t *random)
{
    const size_t bytes = banyan_fixed_bytes(b->value_dim);
    char *expect = take(b, 1), *sum = take(b, 1);
    for (int32_t i = 0; i < b->count; i++) add(expect, b, i);
    for (int again = 0; again < 8; again++) {
        add_somehow(sum, b, random);
        CHECK_MSG(!memcmp(sum, expect, bytes), "kind %d, seed %llu: another order, other bits",
                  kind, (unsigned long long)seed);
    }
    free(expect);
    free(sum);
}

/* Error of column d, by fixed.c: of each block 2^-25 of its largest |o|, and, of o and of l,
 * |m| 2^-52 and m log2(e)'s rounding, of what is forgotten 2^-25 of the largest, the same of l,
 *   and 3 roundings to
 * fp32. */
static void check_value(const blocks *b, const float *p, int32_t d, double top)
{
    double l = 0, o = 0, sizes = 0, largest = 0;
    for (int32_t i = 0; i < b->count; i++) {
        const double weight = exp(b->base[i] - top);
        double size = 0;
        if (b->l[i] == 0) continue;
        l += weight * b->l[i];
        o += weight * b->o[i][d];
        for (int32_t e = 0; e < b->value_dim; e++) size = fmax(size, fabs(b->o[i][e]));
        sizes += weight * size;
        largest = fmax(largest, weight * size);
    }
    const double out = l > 0 ? o / l : 0;
    const double bound = (sizes + largest) / l * 0x1p-25 + 4 * sizes / l * fabs(top) * 0x1p-52 +
                         fabs(out) * (0x1p-24 + 3 * 0x1p-24) + 0x1p-149;
    CHECK_MSG(l > 0 ? fabs(p[d] / p[b->value_dim + 1] - out) <= bound
                    : p[b->value_dim + 1] == 0 && p[d] == 0,
              "column %d is %g, expected %g, bound %g", d, p[d] / p[b->value_dim + 1], out,
              bound);
}

static void check_values(const blocks *b)
{
    float p[MOST_DIM + 2];
    char *sum = take(b, 1);
    double top = -INFINITY, l = 0;
    for (int32_t i = 0; i < b->count; i++) {
        add(sum, b, i);
        if (b->l[i] > 0) top = fmax(top, b->base[i]);
    }
    for (int32_t i = 0; i < b->count; i++)
        l += b->l[i] > 0 ? exp(b->base[i] - top) * b->l[i] : 0;
    banyan_fixed_round(sum, p, b->value_dim, 1);
    for (int32_t d = 0; d < b->value_dim; d++) check_value(b, p, d, top);
    const float *m = p + b->value_dim;
    if (l > 0)
        CHECK_MSG(fabs(m[0] + log(m[1]) - (top + log(l))) <=
                      0x1p-23 + fabs(top) * (fabs(top) < 0x1p24 ? 0x1p-50 : 0x1p-24),
                  "lse %g, expected %g", m[0] + log(m[1]), top + log(l));
    else
        CHECK(m[0] == -INFINITY && m[1] == 0);
    CHECK(m[1] <= 1);
    free(sum);
}

static void test_drawn(void)
{
    blocks b;
    for (int kind = 0; kind < KINDS; kind++) {
        for (uint64_t seed = 1; seed <= 60; seed++) {
            uint64_t random = seed;
            draw(&b, kind, &random);
            check_order(&b, kind, seed, &random);
            if (kind != ODD) check_values(&b);
        }
    }
}

/* Flags, one by one, also of blocks so low that nothing else of them counts. */
static void test_odd(void)
{
    static const struct {
        float first, second;
        float expect;
    } cases[] = {{NAN, 1, NAN},
                 {INFINITY, 1, INFINITY},
                 {-INFINITY, 1, -INFINITY},
                 {INFINITY, INFINITY, INFINITY},
                 {INFINITY, -INFINITY, NAN}};
    for (int i = 0; i < 5; i++) {
        for (int swap = 0; swap < 2; swap++) {
            blocks b = {.count = 2, .value_dim = 70, .base = {-500, 500}, .l = {1, 1}};
            b.o[swap][65] = cases[i].first;
            b.o[!swap][65] = cases[i].second;
            b.o[1][64] = 3;
            float p[MOST_DIM + 2];
            char *sum = take(&b, 1);
            add(sum, &b, 0);
            add(sum, &b, 1);
            banyan_fixed_round(sum, p, b.value_dim, 1);
            CHECK_MSG(isnan(cases[i].expect) ? isnan(p[65]) : p[65] == cases[i].expect,
                      "case %d: %g", i, p[65]);
            CHECK(p[64] / p[71] == 3 && p[66] == 0 && p[70] == 500);
            free(sum);
        }
    }
    blocks b = {.count = 2, .value_dim = 3, .base = {-500, 500}, .l = {NAN, 1}};
    float p[5];
    char *sum = take(&b, 1), *stripped = take(&b, 1);
    for (int32_t i = 0; i < 2; i++) add(sum, &b, 1 - i);
    banyan_fixed_strip(sum, stripped, 3, 1);
    banyan_fixed_round(stripped, p, 0, 1);
    CHECK(isnan(p[0]) && isnan(p[1]));
    banyan_fixed_round(sum, (float *)(void *)sum, 3, 1);
    memcpy(p, sum, sizeof p);
    for (int d = 0; d < 5; d++) CHECK(isnan(p[d]));
    free(sum);
    free(stripped);
}

/* As many blocks as are allowed, all of the largest terms that there are, do not overflow:
 * their largest |o| is 2^8, and exp(base) 2^exponent, less a little. With 8 they fill a bin. */
static void test_most(int exponent)
{
    const float large = nextafterf(256, 0);
    blocks b = {
        .count = 1, .value_dim = 2, .base = {exponent * M_LN2 * (1 - 0x1p-40)}, .l = {large}};
    b.o[0][0] = large;
    b.o[0][1] = -large;
    float p[4];
    char *sum = take(&b, 1);
    add(sum, &b, 0);
    for (int64_t blocks = 1; blocks < BANYAN_FIXED_BLOCKS; blocks *= 2)
        banyan_fixed_combine(sum, sum, sum, 2, 1);
    banyan_fixed_round(sum, p, 2, 1);
    CHECK_MSG(p[0] / p[3] == 1 && p[1] / p[3] == -1, "%g and %g", p[0] / p[3], p[1] / p[3]);
    CHECK(fabs(p[2] + log(p[3]) - (30 + exponent) * M_LN2) < 0x1p-20);
    free(sum);
}

/* Powers of two with a fraction: within the 2^-38 that fixed.c counts on (and the 2^-52 of
 * exp2), whole ones exactly. */
static void test_power(void)
{
    for (int32_t i = 0; i <= 16 * 4096; i++) {
        const double x = i < 16 * 4096 ? i / 4096.0 : nextafter(16, 0), expect = exp2(x);
        const double worst = i % 4096 ? expect * (0x1p-38 + 0x1p-52) : 0;
        CHECK_MSG(fabs(fixed_power(x) - expect) <= worst, "2^%.17g is %.17g, expected %.17g", x,
                  fixed_power(x), expect);
    }
}

int main(void)
{
    test_power();
    test_drawn();
    test_odd();
    for (int exponent = 1; exponent <= 16; exponent++) test_most(exponent);
    return test_end();
}
