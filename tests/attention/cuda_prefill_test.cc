/* SPDX-License-Identifier: Apache-2.0 */
/* All prefills, Hopper's, the portable one and that of wide heads, on the emulator, in
 * whichever mode it is set to, against attention in float64.
 *
 *     cuda_prefill_test [FIRST [COUNT]]     trials by their seeds
 *
 * A trial draws a batch as it comes from a cache: rows of a few own blocks, tables with blocks
 * missing and records in any order, a list for each strip (whole blocks, blocks seen through a
 * mask, a range of tokens), heads that want partials and heads that want results, and few or
 * many multiprocessors, so that lists are cut or not. What is not to be seen is NaN wherever it
 * may be: records of other blocks, keys behind the last row, all memory that nobody wrote.
 *
 * q is drawn in the cache's format, so that it is not rounded. Then scores, sums and lse are
 * those of fp32 (launch/bounds.h with rounds = 0); l is summed up before weights are rounded to
 * the cache's format for the second product, which moves out by sum p_i d_i v_i / l with |d_i|
 * <= e_p, hence by
 *
 *     e_p min(V, 6 V S + |out|) + e_p |out|        e_p = 2^-8 (bf16), 2^-11 (fp16)
 *
 * as in bounds.h, 3 and 4; and for fp16 by n V 2^-40 more: weights are 2^15 times as large, and
 * below 2^-14 fp16 has steps of 2^-24. (Of wide heads over e4m3 2^14 times.) The portable one's
 * are as they are: n V 2^-25; so are they over e4m3, whose weights times scales are fp16. */
#include "attention/cuda/record.h"
#include "attention/cuda/tiles.h"
#include "tests/attention/cuda_trial.h"
extern "C" {
#include "tests/oracle.h"
}

#include <math.h>

static double weight_error(const trial *t, const bound *b, double out)
{
    const double e = t->shape.dtype == BANYAN_BF16 ? 0x1p-8 : 0x1p-11;
    const double walk = BOUND_LAMBDA * b->value * b->spread + fabs(out);
    const double wide = t->shape.dtype == BANYAN_E4M3 ? 0x1p-39 : 0x1p-40;
    const double step = t->way == PORTABLE ? 0x1p-25 : wide;
    const double lost = t->shape.dtype == BANYAN_BF16 ? 0 : (double)b->tokens * step;
    return e * (walk < b->value ? walk : b->value) + e * fabs(out) + lost * b->value;
}

/* One row of one head; got [dim] and lse, whichever way they came. */
static void check_row(const trial *t, const double *expect, double expect_lse, const bound *b,
                      const double *got, double lse, int row, int head)
{
    const int is_nan = isnan(expect_lse);
    CHECK_MSG(is_nan ? isnan(lse) : lse == expect_lse || fabs(lse - expect_lse) <= bound_lse(b),
              "trial %d row %d head %d: lse %.9g, not %.9g +- %.2g", (int)t->seed, row, head,
              lse, expect_lse, bound_lse(b));
    for (int d = 0; d < t->dim; d++) {
        const double limit =
            bound_out(b, expect[d], t->batch.out_dtype) + weight_error(t, b, expect[d]);
        const int right =
            is_nan || isnan(expect[d]) ? isnan(got[d]) : fabs(got[d] - expect[d]) <= limit;
        CHECK_MSG(right, "trial %d row %d head %d: out[%d] %.9g, not %.9g +- %.2g",
                  (int)t->seed, row, head, d, got[d], expect[d], limit);
        if (!right) return;
    }
}

/* What the batch wrote for a row, as out and lse. */
static double result_of(const trial *t, int row, int head, double *out)
{
    const int64_t at = (int64_t)row * t->heads + head;
    if (!t->wants_partial[head]) {
        for (int d = 0; d < t->dim; d++) {
            float x;
            banyan_to_float(&x,
                            t->got_out + (at * t->dim + d) *
                                             (int64_t)banyan_dtype_bytes(t->batch.out_dtype),
                            t->batch.out_dtype, 1);
            out[d] = x;
        }
        return t->got_lse[at];
    }
    const float *p = t->got_partial + ((int64_t)head * t->rows + row) * (t->dim + 2);
    const double l = p[t->dim + 1];
    for (int d = 0; d < t->dim; d++) out[d] = l == 0 ? 0 : p[d] / l;
    return l == 0 ? p[t->dim] : p[t->dim] + log(l);
}

static void check_trial(const trial *t, uint64_t *random)
{
    oracle o = {t->heads, t->kv_heads, t->dim, t->dim, t->tokens, t->batch.scale,
                t->k,     t->v,        NULL,   NULL,   NULL};
    double *expect = (double *)malloc(2 * (size_t)t->dim * sizeof(double)),
           *got = expect + t->dim;
    o.reads = trial_reads;
    o.ctx = (void *)t;
    for (int i = 0; i < 48; i++) {
        /* the first and the last of all, and any */
        const int row = i == 0 ? 0 : i == 1 ? t->rows - 1 : (int)test_below(random, t->rows);
        const int head = i == 0 ? 0 : i == 1 ? t->heads - 1 : (int)test_below(random, t->heads);
        if (trial_may_leak(t, head, t->part.at - t->base + row)) continue;
        const float *q = t->q + ((int64_t)row * t->heads + head) * t->dim;
        double expect_lse;
        bound b = {};
        oracle_row(&o, q, head, t->part.at - t->base + row, expect, &expect_lse, &b);
        b.block_tokens = t->block;
        b.combines = t->multiprocessors;
        if (t->kind != RANDOM) b.spread = 1;
        double lse = result_of(t, row, head, got);
        if (!t->has_lse && !t->wants_partial[head]) lse = expect_lse;
        check_row(t, expect, expect_lse, &b, got, lse, row, head);
    }
    free(expect);
}

/* Nothing but what was asked for: the others' places hold what was there before. */
static void check_untouched(const trial *t)
{
    const size_t element = banyan_dtype_bytes(t->batch.out_dtype);
    for (int64_t row = 0; row < t->rows; row++)
        for (int head = 0; head < t->heads; head++) {
            const int64_t at = row * t->heads + head;
            const unsigned char *out =
                (const unsigned char *)t->got_out + (size_t)(at * t->dim) * element;
            const float *p = t->got_partial + (head * (int64_t)t->rows + row) * (t->dim + 2);
            const unsigned char *partial = (const unsigned char *)p;
            int same_out = 1, same_partial = 1;
            for (size_t i = 0; i < (size_t)t->dim * element; i++) same_out &= out[i] == FILL;
            for (size_t i = 0; i < (size_t)(t->dim + 2) * 4; i++)
                same_partial &= partial[i] == FILL;
            CHECK(same_out == t->wants_partial[head] &&
                  same_partial == !t->wants_partial[head]);
        }
}

/* Returns how many lists were cut. */
static int run(int seed)
{
    uint64_t random = (uint64_t)seed;
    trial t;
    trial_draw(&t, seed, &random);
    const int cuts = trial_run(&t);
    check_trial(&t, &random);
    check_untouched(&t);
    trial_free(&t);
    return cuts;
}

int main(int argc, char **argv)
{
    const int first = argc > 1 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 60;
    int cuts = 0;
    for (int seed = first; seed < first + count; seed++) cuts += run(seed);
    for (int seed = WIDE_SEEDS; argc == 1 && seed < WIDE_SEEDS + 3; seed++) run(seed);
    for (int seed = SHORT_SEEDS; argc == 1 && seed < SHORT_SEEDS + 16; seed++) run(seed);
    CHECK(cuts > 0 || count < 60);
    return test_end();
}
