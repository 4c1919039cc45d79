/* SPDX-License-Identifier: Apache-2.0 */
/* The laws of partials: identity, commutativity, associativity, and agreement with one pass in
 * float64, for ordinary and for adversarial scores; empty parts; NaN. */
#include "attention/attention.h"
#include "tests/oracle.h"
#include "tests/test.h"

#include <math.h>

enum { DIM = 5, FLOATS = DIM + 2, TOKENS = 48 };

/* The partial of tokens [first, end), by the definition. */
static void make(float *p, const float *score, const float *value, int first, int end)
{
    float m = -INFINITY, l = 0, o[DIM] = {0};
    for (int i = first; i < end; i++)
        if (score[i] > m || isnan(score[i])) m = score[i];
    for (int i = first; i < end; i++) {
        float w = expf(score[i] - m);
        l += w;
        for (int d = 0; d < DIM; d++) o[d] += w * value[i * DIM + d];
    }
    memcpy(p, o, sizeof(o));
    p[DIM] = m;
    p[DIM + 1] = l;
}

static void draw(uint64_t *random, float size, float *score, float *value)
{
    for (int i = 0; i < TOKENS; i++) score[i] = size * test_normal(random);
    for (int i = 0; i < TOKENS * DIM; i++) value[i] = test_normal(random);
}

/* As an oracle's case: keys are the scores, the query is 1. */
static double against_oracle(const float *score, const float *value, const float *p,
                             int64_t combines)
{
    oracle o = {.heads = 1,
                .kv_heads = 1,
                .key_dim = 1,
                .value_dim = DIM,
                .tokens = TOKENS,
                .scale = 1,
                .k = score,
                .v = value};
    float one = 1, out[DIM], lse;
    double expect[DIM], expect_lse;
    bound b = {.block_tokens = 16, .combines = combines};
    oracle_row(&o, &one, 0, TOKENS - 1, expect, &expect_lse, &b);
    b.spread = 1;
    banyan_partial_finish(p, DIM, 1, out, BANYAN_F32, DIM, &lse, 1);
    return oracle_compare(expect, expect_lse, &b, DIM, out, BANYAN_F32, &lse);
}

/* Any way of cutting and of putting together gives one pass. */
static void test_against_one_pass(void)
{
    static const float sizes[] = {0, 1, 30, 200};
    uint64_t random = 1;
    for (int trial = 0; trial < 400; trial++) {
        float score[TOKENS], value[TOKENS * DIM], part[8][FLOATS];
        draw(&random, sizes[trial % 4], score, value);
        int parts = 1 + (int)test_below(&random, 8), begin = 0;
        for (int i = 0; i < parts; i++) {
            int end = begin + (int)test_below(&random, TOKENS - begin + 1);
            if (i == parts - 1) end = TOKENS;
            make(part[i], score, value, begin, end); /* now and then empty */
            begin = end;
        }
        for (int left = parts; left > 1; left--) { /* any two neighbours, in any order */
            int i = (int)test_below(&random, left - 1);
            banyan_partial_combine(part[i], part[i], part[i + 1], DIM, 1);
            memmove(part[i + 1], part[i + 2], (size_t)(left - i - 2) * sizeof(part[0]));
        }
        double worst = against_oracle(score, value, part[0], parts);
        CHECK_MSG(worst <= 1, "trial %d: error/bound %g", trial, worst);
    }
}

static void test_identity(void)
{
    uint64_t random = 2;
    float score[TOKENS], value[TOKENS * DIM], empty[FLOATS], p[FLOATS], out[FLOATS];
    banyan_partial_clear(empty, DIM, 1);
    CHECK(empty[DIM] == -INFINITY && empty[DIM + 1] == 0 && empty[0] == 0);
    for (int trial = 0; trial < 50; trial++) {
        draw(&random, 200, score, value);
        make(p, score, value, 0, TOKENS);
        banyan_partial_combine(out, p, empty, DIM, 1);
        CHECK(!memcmp(out, p, sizeof(p)));
        banyan_partial_combine(out, empty, p, DIM, 1);
        CHECK(!memcmp(out, p, sizeof(p)));
    }
    banyan_partial_combine(out, empty, empty, DIM, 1);
    CHECK(!memcmp(out, empty, sizeof(empty)));

    float lse = 3;
    banyan_partial_finish(empty, DIM, 1, out, BANYAN_F32, DIM, &lse, 1);
    for (int d = 0; d < DIM; d++) CHECK(out[d] == 0 && !signbit(out[d]));
    CHECK(lse == -INFINITY);
}

/* a + b and b + a are the same bits, wherever the result goes, and the factor of the side with
 * the maximum is exactly 1. */
static void test_commutes_and_aliases(void)
{
    uint64_t random = 3;
    float score[TOKENS], value[TOKENS * DIM], a[FLOATS], b[FLOATS], ab[FLOATS], ba[FLOATS];
    for (int trial = 0; trial < 200; trial++) {
        draw(&random, trial % 2 ? 1 : 100, score, value);
        make(a, score, value, 0, 20);
        make(b, score, value, 20, TOKENS);
        banyan_partial_combine(ab, a, b, DIM, 1);
        banyan_partial_combine(ba, b, a, DIM, 1);
        CHECK(!memcmp(ab, ba, sizeof(ab)));
        float x[FLOATS], y[FLOATS];
        memcpy(x, a, sizeof(x));
        memcpy(y, b, sizeof(y));
        banyan_partial_combine(x, x, b, DIM, 1);
        banyan_partial_combine(y, a, y, DIM, 1);
        CHECK(!memcmp(x, ab, sizeof(x)) && !memcmp(y, ab, sizeof(y)));
        CHECK(ab[DIM] == (a[DIM] > b[DIM] ? a[DIM] : b[DIM]));
    }
    /* 200 below the maximum: nothing remains, not even a denormal */
    float high[FLOATS] = {1, 2, 3, 4, 5, 100, 1}, low[FLOATS] = {9, 9, 9, 9, 9, -100, 1};
    banyan_partial_combine(ab, high, low, DIM, 1);
    CHECK(!memcmp(ab, high, sizeof(ab)));
}

/* A row that read a NaN stays NaN, whatever it is combined with and on whichever side. */
static void test_nan_stays(void)
{
    static const float scores[] = {-INFINITY, -200, 0, 200};
    float good[FLOATS], empty[FLOATS], out[FLOATS], lse, finished[DIM];
    banyan_partial_clear(empty, DIM, 1);
    for (int where = 0; where < 3; where++) /* a NaN score, a swallowed one, only in l */
        for (int i = 0; i < 4; i++)
            for (int side = 0; side < 2; side++) {
                float bad[FLOATS] = {NAN, NAN, NAN, NAN, NAN, where == 0 ? NAN : scores[i],
                                     NAN};
                if (where == 2) memset(bad, 0, DIM * sizeof(float));
                float g[FLOATS] = {1, 2, 3, 4, 5, 10, 1};
                memcpy(good, i == 0 ? empty : g, sizeof(good));
                banyan_partial_combine(out, side ? bad : good, side ? good : bad, DIM, 1);
                banyan_partial_finish(out, DIM, 1, finished, BANYAN_F32, DIM, &lse, 1);
                CHECK_MSG(isnan(lse), "where %d score %g side %d", where, scores[i], side);
                CHECK(where > 0 || isnan(out[DIM]));
                for (int d = 0; d < DIM; d++) CHECK(isnan(finished[d]));
            }
    /* a NaN in one value stays in its component */
    float one[FLOATS] = {1, NAN, 3, 4, 5, 0, 2}, other[FLOATS] = {1, 1, 1, 1, 1, 300, 1};
    banyan_partial_combine(out, one, other, DIM, 1);
    CHECK(isnan(out[1]) && !isnan(out[0]) && !isnan(out[DIM]) && !isnan(out[DIM + 1]));
    /* two infinite maxima do not become something finite */
    float inf[FLOATS] = {NAN, NAN, NAN, NAN, NAN, INFINITY, NAN};
    banyan_partial_combine(out, inf, inf, DIM, 1);
    CHECK(isnan(out[DIM + 1]));
}

/* Rows are apart, strides are kept to, and each format is rounded to nearest. */
static void test_finish(void)
{
    enum { ROWS = 3, WIDE = 70 };
    float p[ROWS * (WIDE + 2)], out[ROWS * 100], lse[ROWS * 4];
    uint16_t half[ROWS * 100];
    banyan_partial_clear(p, WIDE, ROWS);
    for (int row = 0; row < ROWS; row++) {
        for (int d = 0; d < WIDE; d++) p[row * (WIDE + 2) + d] = (float)(row * 100 + d);
        p[row * (WIDE + 2) + WIDE] = (float)row;
        p[row * (WIDE + 2) + WIDE + 1] = 3;
    }
    for (int i = 0; i < ROWS * 100; i++) out[i] = -1;
    for (int i = 0; i < ROWS * 4; i++) lse[i] = -1;
    banyan_partial_finish(p, WIDE, ROWS, out, BANYAN_F32, 100, lse, 4);
    banyan_partial_finish(p, WIDE, ROWS, half, BANYAN_F16, 100, NULL, 0);
    for (int row = 0; row < ROWS; row++) {
        for (int d = 0; d < WIDE; d++) {
            CHECK(out[row * 100 + d] == (float)(row * 100 + d) / 3);
            CHECK(half[row * 100 + d] == banyan_f16_from_float((float)(row * 100 + d) / 3));
        }
        CHECK(row == ROWS - 1 || out[row * 100 + WIDE] == -1);
        CHECK(fabs(lse[row * 4] - (row + log(3))) < 1e-6 && lse[row * 4 + 1] == -1);
    }
}

int main(void)
{
    test_against_one_pass();
    test_identity();
    test_commutes_and_aliases();
    test_nan_stays();
    test_finish();
    return test_end();
}
