/* SPDX-License-Identifier: Apache-2.0 */
/* The random data of `run`: any value can be made on its own, moments are those of a normal
 * distribution, rows are not related, and rounding agrees with the library's conversions. */
#include "attention/attention.h"
#include "launch/data.h"
#include "tests/test.h"

#include <math.h>

enum { dim = 96, rows = 4096 };

static void check_moments(void)
{
    double sum = 0, squares = 0, products = 0;
    float row[dim], next[dim], part[dim];
    for (int64_t token = 0; token < rows; token++) {
        data_row(row, 3, DATA_K, 0, token, 5, dim);
        data_row(next, 3, DATA_K, 0, token, 6, dim);
        data_row(part, 3, DATA_K, 0, token, 5, 17); /* a value does not depend on dim */
        CHECK(!memcmp(row, part, 17 * sizeof(float)));
        for (int d = 0; d < dim; d++) {
            sum += row[d];
            squares += (double)row[d] * row[d];
            products += (double)row[d] * next[d];
        }
    }
    /* n = 393,216 values: deviations of the means are 1/sqrt(n) = 0.0016, sqrt(1.7/n) = 0.0021
     * and 0.0016; 5 of them. */
    double n = (double)dim * rows;
    CHECK_MSG(fabs(sum / n) < 0.008, "mean %g", sum / n);
    CHECK_MSG(fabs(squares / n - 1) < 0.0105, "variance %g", squares / n);
    CHECK_MSG(fabs(products / n) < 0.008, "covariance %g", products / n);
}

static void check_distinct(void)
{
    float a[dim], b[dim];
    data_row(a, 1, DATA_K, 1, 7, 2, dim);
    data_row(b, 1, DATA_V, 1, 7, 2, dim);
    CHECK(memcmp(a, b, sizeof a));
    data_row(b, 2, DATA_K, 1, 7, 2, dim);
    CHECK(memcmp(a, b, sizeof a));
    data_row(b, 1, DATA_K, 2, 7, 2, dim);
    CHECK(memcmp(a, b, sizeof a));
    data_row(b, 1, DATA_K, 1, 7, 2, dim);
    CHECK(!memcmp(a, b, sizeof a));
}

static void check_rounding(void)
{
    int bad = 0;
    for (uint32_t bits = 0; bits < 0x477fe000u; bits += 977) { /* up to 65504 */
        for (uint32_t sign = 0; sign < 2; sign++) {
            uint32_t signed_bits = bits | sign << 31;
            float x, bf16, f16;
            memcpy(&x, &signed_bits, sizeof x);
            bf16 = f16 = x;
            data_round_bf16(&bf16, 1);
            data_round_f16(&f16, 1);
            bad += bf16 != banyan_bf16_to_float(banyan_bf16_from_float(x));
            bad += f16 != banyan_f16_to_float(banyan_f16_from_float(x));
        }
    }
    CHECK_MSG(bad == 0, "%d values are rounded otherwise", bad);
}

/* Rows of one large number and one of every size below it, against the library's format. */
static void check_row_rounding(void)
{
    uint64_t random = 5;
    for (int trial = 0; trial < 2000; trial++) {
        float row[16], largest = 0, factor;
        for (int i = 0; i < 16; i++) {
            row[i] = (float)ldexp(test_normal(&random), -(int)test_below(&random, 20));
            largest = fmaxf(largest, fabsf(row[i]));
        }
        if (trial % 10 == 0) memset(row, 0, sizeof row), largest = 0;
        float expect[16];
        factor = largest / 448;
        for (int i = 0; i < 16; i++)
            expect[i] =
                factor > 0
                    ? factor * banyan_e4m3_to_float(banyan_e4m3_from_float(row[i] / factor))
                    : 0;
        data_round_e4m3(row, 16);
        for (int i = 0; i < 16; i++)
            CHECK_MSG(row[i] == expect[i], "trial %d: %a, expected %a", trial, row[i],
                      expect[i]);
    }
}

int main(void)
{
    check_moments();
    check_distinct();
    check_rounding();
    check_row_rounding();
    return test_end();
}
