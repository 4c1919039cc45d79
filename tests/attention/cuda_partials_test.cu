/* SPDX-License-Identifier: Apache-2.0 */
/* Folds and shares on the device: the laws of partials, and what the host's functions say. The
 * device's expf and logf are within 2 units in the last place (CUDA's guide), the host's within
 * 1: so a factor differs by 3 of them, a combined number by that, its product, its sum and the
 * other side's: 8 units of the larger of the two terms' sizes. */
#include "tests/attention/cuda_calls.h"

#include <math.h>

enum { ROWS = 37, DIM = 128, FLOATS = DIM + 2, COUNT = ROWS * FLOATS };

/* Rows of all sorts: near and far maxima, empty ones, a NaN now and then. */
static void draw(uint64_t *random, float *p, int with_nan)
{
    for (int row = 0; row < ROWS; row++, p += FLOATS) {
        const int sort = (int)test_below(random, 8);
        banyan_partial_clear(p, DIM, 1);
        if (sort == 0) continue;
        for (int d = 0; d < DIM; d++) p[d] = test_normal(random);
        p[DIM] = test_normal(random) * (sort == 1 ? 200.0f : 2.0f);
        p[DIM + 1] = 1 + (float)test_uniform(random) * 1000;
        if (with_nan && sort == 2) p[DIM + 1] = NAN;
        if (with_nan && sort == 3) p[test_below(random, DIM)] = NAN;
        if (with_nan && sort == 4) p[DIM] = NAN;
        if (with_nan && sort == 5)
            p[DIM + 1] = 0; /* something was seen, yet nothing is left of it */
    }
}

/* out = lo + hi, row by row. */
static const char *add(banyan_queue *queue, float *out, const float *lo, const float *hi)
{
    const void *const value[] = {lo, hi};
    const banyan_folding folding = {value, out, 2, -1};
    banyan_fold_batch batch = {};
    batch.fold = &folding;
    batch.folds = 1;
    batch.value_dim = DIM;
    batch.rows = ROWS;
    return banyan_cuda_fold(queue, &batch);
}

static int is_empty(const float *p)
{
    return p[DIM] == -INFINITY && p[DIM + 1] == 0;
}

static int is_close(float a, float b, float size)
{
    return (isnan(a) && isnan(b)) || a == b || fabsf(a - b) <= 8 * 0x1p-23f * size;
}

static void check_combined(const float *got, const float *lo, const float *hi)
{
    float expect[COUNT];
    banyan_partial_combine(expect, lo, hi, DIM, ROWS);
    for (int row = 0; row < ROWS; row++) {
        const float *x = lo + row * FLOATS, *y = hi + row * FLOATS, *e = expect + row * FLOATS;
        const float *g = got + row * FLOATS;
        const int copied = is_empty(x) || is_empty(y);
        if (copied) CHECK_MSG(!memcmp(g, e, FLOATS * 4), "row %d is not a copy", row);
        CHECK(is_close(g[DIM], e[DIM], 0));
        for (int d = 0; !copied && d < FLOATS; d++)
            if (d != DIM)
                CHECK_MSG(is_close(g[d], e[d], fabsf(x[d]) + fabsf(y[d])),
                          "row %d number %d: %g, expected %g", row, d, g[d], e[d]);
    }
}

static void test_combine(banyan_queue *queue)
{
    uint64_t random = 3;
    for (int trial = 0; trial < 6; trial++) {
        float lo[COUNT], hi[COUNT], got[COUNT], again[COUNT];
        draw(&random, lo, trial % 2), draw(&random, hi, trial % 2);
        float *x = (float *)calls_up(queue, lo, sizeof lo);
        float *y = (float *)calls_up(queue, hi, sizeof hi);
        float *z = (float *)calls_device(queue, sizeof lo);
        RUNS(add(queue, z, x, y));
        calls_down(queue, got, z, sizeof got);
        check_combined(got, lo, hi);
        RUNS(add(queue, z, y, x)); /* it commutes, bit for bit .. */
        calls_down(queue, again, z, sizeof got);
        CHECK(trial % 2 || !memcmp(got, again, sizeof got));
        RUNS(add(queue, y, x, y)); /* .. and may be in place */
        calls_down(queue, again, y, sizeof got);
        CHECK(!memcmp(got, again, sizeof got));
        calls_copy(queue, y, hi, sizeof hi, 1);
        RUNS(add(queue, x, x, y));
        calls_down(queue, again, x, sizeof got);
        CHECK(!memcmp(got, again, sizeof got));
        banyan_cuda_release(queue, 0, x), banyan_cuda_release(queue, 0, y);
        banyan_cuda_release(queue, 0, z);
    }
}

/* (a + b) + c and a + (b + c): twice what one combine may be off, of the sizes of all three. */
static void test_associative(banyan_queue *queue)
{
    uint64_t random = 4;
    float p[3][COUNT], left[COUNT], right[COUNT];
    float *d[3], *x = (float *)calls_device(queue, sizeof p[0]);
    for (int i = 0; i < 3; i++) {
        draw(&random, p[i], 0);
        d[i] = (float *)calls_up(queue, p[i], sizeof p[i]);
    }
    RUNS(add(queue, x, d[0], d[1]));
    RUNS(add(queue, x, x, d[2]));
    calls_down(queue, left, x, sizeof left);
    RUNS(add(queue, x, d[1], d[2]));
    RUNS(add(queue, x, d[0], x));
    calls_down(queue, right, x, sizeof right);
    for (int i = 0; i < COUNT; i++) {
        const float size =
            i % FLOATS == DIM ? 0 : fabsf(p[0][i]) + fabsf(p[1][i]) + fabsf(p[2][i]);
        CHECK_MSG(is_close(left[i], right[i], 2 * size), "%d: %g and %g", i, left[i], right[i]);
    }
    for (int i = 0; i < 3; i++) banyan_cuda_release(queue, 0, d[i]);
    banyan_cuda_release(queue, 0, x);
}

/* The same with sinks, of heads 0 and 2. What the sum is shrunk by, and the sink's share, are
 * each off by 3 units, their sum by as many and the products' and its own rounding: 8, a
 * quotient of both 16; and lse by what its logarithm's argument is off by, beside its own. */
static void check_sinks(banyan_queue *queue, banyan_fold_batch *batch, const float *first,
                        const float *last)
{
    enum { HEADS = 3 };
    static float out[ROWS * HEADS * DIM], want[ROWS * DIM];
    const float sinks[HEADS] = {0.5f, NAN, -3};
    float lse[ROWS * HEADS], sum[COUNT], want_lse[ROWS];
    batch->sinks = sinks;
    RUNS(banyan_cuda_fold(queue, batch));
    calls_down(queue, out, batch->out, sizeof out);
    calls_down(queue, lse, batch->lse, sizeof lse);
    batch->sinks = NULL;
    for (int h = 0; h < HEADS; h += 2) {
        memcpy(sum, h ? last : first, sizeof sum);
        banyan_partial_sink(sum, sinks[h], DIM, ROWS);
        banyan_partial_finish(sum, DIM, ROWS, want, BANYAN_F32, DIM, want_lse, 1);
        for (int row = 0; row < ROWS; row++) {
            const float m = sum[row * FLOATS + DIM], l = sum[row * FLOATS + DIM + 1];
            for (int d = 0; d < DIM; d++) {
                const float x = out[(row * HEADS + h) * DIM + d], y = want[row * DIM + d];
                CHECK_MSG(is_close(x, y, 2 * fabsf(y) + 1e-30f), "row %d: %g, expected %g", row,
                          x, y);
            }
            CHECK_MSG(
                is_close(lse[row * HEADS + h], want_lse[row], fabsf(m) + fabsf(logf(l)) + 1),
                "row %d: lse %g, expected %g", row, lse[row * HEADS + h], want_lse[row]);
        }
    }
}

/* Three heads, the middle one of which is somebody else's; out in each format, to the bit. */
static void test_finish(banyan_queue *queue, banyan_dtype dtype)
{
    enum { HEADS = 3, VALUES = ROWS * HEADS * DIM };
    const void *whole[HEADS];
    banyan_folding folding[2] = {};
    banyan_fold_batch batch = {};
    uint64_t random = 5;
    float p[HEADS][COUNT], lse[ROWS * HEADS];
    float *partial[HEADS];
    static unsigned char got[VALUES * 4], expect[VALUES * 4];
    const size_t bytes = VALUES * banyan_dtype_bytes(dtype), row = HEADS * DIM;
    memset(got, 0x5a, sizeof got), memset(expect, 0x5a, sizeof expect);
    for (int i = 0; i < ROWS * HEADS; i++) lse[i] = 77;
    void *out = calls_up(queue, got, bytes);
    float *out_lse = (float *)calls_up(queue, lse, sizeof lse);
    for (int h = 0; h < HEADS; h++) {
        draw(&random, p[h], 1);
        partial[h] = h == 1 ? NULL : (float *)calls_up(queue, p[h], sizeof p[h]);
        if (partial[h])
            banyan_partial_finish(p[h], DIM, ROWS,
                                  expect + (size_t)h * DIM * banyan_dtype_bytes(dtype), dtype,
                                  (int64_t)row, NULL, 0);
    }
    for (int i = 0; i < 2; i++) {
        whole[i] = partial[2 * i];
        folding[i] = {whole + i, NULL, 1, 2 * i};
    }
    batch.fold = folding;
    batch.folds = 2;
    batch.value_dim = DIM;
    batch.rows = ROWS;
    batch.heads = HEADS;
    batch.out_dtype = dtype;
    batch.out = out;
    batch.lse = out_lse;
    RUNS(banyan_cuda_fold(queue, &batch));
    calls_down(queue, got, out, bytes);
    calls_down(queue, lse, out_lse, sizeof lse);
    for (int64_t i = 0; i < VALUES; i++) {
        float x, y;
        const size_t size = banyan_dtype_bytes(dtype);
        banyan_to_float(&x, got + (size_t)i * size, dtype, 1);
        banyan_to_float(&y, expect + (size_t)i * size, dtype, 1);
        if (!(isnan(x) && isnan(y)))
            CHECK_MSG(!memcmp(&x, &y, 4), "number %d: %g, expected %g", (int)i, x, y);
    }
    for (int i = 0; i < ROWS * HEADS; i++) {
        const float *q = p[i % HEADS] + i / HEADS * FLOATS;
        const float m = q[DIM], l = q[DIM + 1];
        const float want = i % HEADS == 1 ? 77 : is_empty(q) ? -INFINITY : m + logf(l);
        CHECK_MSG(is_close(lse[i], want, isfinite(want) ? fabsf(m) + logf(l) : 0),
                  "lse %d: %g, expected %g", i, lse[i], want);
    }
    if (dtype == BANYAN_F32) check_sinks(queue, &batch, p[0], p[2]);
    batch.lse = NULL;
    RUNS(banyan_cuda_fold(queue, &batch));
    RUNS(banyan_cuda_wait(queue));
    for (int h = 0; h < HEADS; h += 2) { /* partials are what they were */
        float now[COUNT];
        calls_down(queue, now, partial[h], sizeof now);
        CHECK(!memcmp(now, p[h], sizeof now));
    }
    for (int h = 0; h < HEADS; h++) banyan_cuda_release(queue, 0, partial[h]);
    banyan_cuda_release(queue, 0, out), banyan_cuda_release(queue, 0, out_lse);
}

/* Values of many ranks, one head of which is to stay a partial and the others to be results:
 * the same bits as one fold after another, and as a fold without values that is finished
 * then. */
static void test_many(banyan_queue *queue, int dim, int values, int rows, int is_in_place)
{
    enum { HEADS = 3 };
    const int floats = dim + 2, count = rows * floats, all = HEADS * rows * dim;
    const float sinks[HEADS] = {0.5f, 1, -INFINITY};
    uint64_t random = (uint64_t)(dim + values);
    float *host = (float *)malloc((size_t)(values * HEADS * count) * sizeof *host);
    float *got = (float *)malloc((size_t)all * sizeof *got),
          *expect = (float *)malloc((size_t)all * sizeof *expect);
    float lse[2][64 * HEADS], *sum[HEADS], *out[2], *out_lse[2];
    const void **value = (const void **)malloc((size_t)(values * HEADS) * sizeof *value);
    const void *whole[HEADS];
    banyan_folding folding[HEADS];
    banyan_fold_batch batch = {};
    for (int i = 0; i < values * HEADS * count; i++) {
        const int at = i % floats;
        host[i] = at == dim + 1 ? 1 + (float)test_uniform(&random) : test_normal(&random);
    }
    for (int i = 0; i < values * HEADS; i += 3) /* of rank 0 all, and some of the others' */
        for (int row = i ? i % rows : 0; row < rows; row += i ? rows : 1)
            banyan_partial_clear(host + i * count + row * floats, dim, 1);
    float *there = (float *)calls_up(queue, host, (size_t)(values * HEADS * count) * 4);
    for (int i = 0; i < 2; i++) {
        out[i] = (float *)calls_device(queue, (size_t)all * 4);
        out_lse[i] = (float *)calls_device(queue, sizeof lse[i]);
        RUNS(banyan_cuda_fill(queue, out[i], 0x5a, (size_t)all * 4));
        RUNS(banyan_cuda_fill(queue, out_lse[i], 0x5a, sizeof lse[i]));
    }
    batch.fold = folding;
    batch.value_dim = dim;
    batch.rows = rows;
    batch.heads = HEADS;
    batch.sinks = sinks;
    batch.out_dtype = BANYAN_F32;
    for (int h = 0; h < HEADS; h++) {
        sum[h] = (float *)calls_device(queue, (size_t)count * 4);
        for (int v = 0; v < values; v++)
            value[h * values + v] = there + (v * HEADS + h) * count;
    }
    for (int v = 0; v < values; v++) { /* one after another */
        batch.folds = 1;
        for (int h = 0; h < HEADS; h++) {
            whole[h] = sum[h];
            const void *const both[] = {sum[h], value[h * values + v]};
            folding[0] = {v ? both : both + 1, sum[h], v ? 2 : 1, -1};
            RUNS(banyan_cuda_fold(queue, &batch));
        }
    }
    for (int h = 0; h < HEADS; h++) folding[h] = {whole + h, NULL, 1, h};
    batch.folds = HEADS;
    batch.out = out[0];
    batch.lse = out_lse[0];
    RUNS(banyan_cuda_fold(queue, &batch));
    for (int h = 0; h < HEADS; h++) /* at once */
        folding[h] = {value + h * values,
                      is_in_place ? (float *)(uintptr_t)value[h * values + values / 2] : NULL,
                      values, h};
    batch.out = out[1];
    batch.lse = out_lse[1];
    RUNS(banyan_cuda_fold(queue, &batch));
    calls_down(queue, expect, out[0], (size_t)all * 4);
    calls_down(queue, got, out[1], (size_t)all * 4);
    for (int i = 0; i < 2; i++) calls_down(queue, lse[i], out_lse[i], sizeof lse[i]);
    CHECK_MSG(!memcmp(got, expect, (size_t)all * 4), "dim %d, %d values: other bits", dim,
              values);
    CHECK(!memcmp(lse[0], lse[1], sizeof lse[0]));
    for (int h = 0; is_in_place && h < HEADS; h++) {
        calls_down(queue, host, value[h * values + values / 2], (size_t)count * 4);
        calls_down(queue, host + count, sum[h], (size_t)count * 4);
        CHECK(!memcmp(host, host + count, (size_t)count * 4));
    }
    for (int h = 0; h < HEADS; h++) banyan_cuda_release(queue, 0, sum[h]);
    for (int i = 0; i < 2; i++)
        banyan_cuda_release(queue, 0, out[i]), banyan_cuda_release(queue, 0, out_lse[i]);
    banyan_cuda_release(queue, 0, there);
    free(host), free(got), free(expect), free(value);
}

/* What cannot be: more values than there is room for, and rows that are too wide. */
static void test_refused(banyan_queue *queue)
{
    enum { MANY = 1 << 20 };
    static const void *value[MANY];
    const banyan_folding folding = {value, NULL, MANY, -1};
    banyan_fold_batch batch = {};
    batch.fold = &folding;
    batch.folds = 1;
    batch.rows = 1;
    batch.value_dim = 64;
    const char *words = banyan_cuda_fold(queue, &batch);
    CHECK(words && strstr(words, "a fold of 1048576 partials; at most "));
    batch.value_dim = 513;
    words = banyan_cuda_fold(queue, &batch);
    CHECK(words && strstr(words, "513 numbers"));
    batch.rows = 0;
    batch.value_dim = 64;
    RUNS(banyan_cuda_fold(queue, &batch)); /* nothing to do */
}

static void test_share(banyan_queue *queue)
{
    enum { HEADS = 2 };
    uint64_t random = 6;
    float all[COUNT], part[COUNT], rest[COUNT], mass[ROWS * HEADS];
    draw(&random, part, 0), draw(&random, rest, 0);
    banyan_partial_combine(all, part, rest, DIM, ROWS);
    float *a[HEADS] = {NULL, (float *)calls_up(queue, all, sizeof all)};
    float *p[HEADS] = {NULL, (float *)calls_up(queue, part, sizeof part)};
    for (int i = 0; i < ROWS * HEADS; i++) mass[i] = 77;
    float *out = (float *)calls_up(queue, mass, sizeof mass);
    RUNS(banyan_cuda_share(queue, a, p, HEADS, DIM, ROWS, out));
    calls_down(queue, mass, out, sizeof mass);
    for (int row = 0; row < ROWS; row++) {
        const float *x = part + row * FLOATS + DIM, *y = all + row * FLOATS + DIM;
        const double want = x[1] == 0 ? 0 : x[1] * exp((double)x[0] - y[0]) / y[1];
        CHECK(mass[row * HEADS] == 77);
        /* the difference of the maxima is rounded, and exp makes that relative */
        const double maxima = want > 0 ? fabs((double)x[0]) + fabs((double)y[0]) : 0;
        const double limit = (8 + maxima) * 0x1p-23 * want;
        CHECK_MSG(fabs(mass[row * HEADS + 1] - want) <= limit + 0x1p-126,
                  "row %d: %g, expected %g", row, mass[row * HEADS + 1], want);
    }
    banyan_cuda_release(queue, 0, a[1]), banyan_cuda_release(queue, 0, p[1]);
    banyan_cuda_release(queue, 0, out);
}

int main(void)
{
    banyan_device_limits limits = {};
    limits.shape = {64, DIM, DIM, BANYAN_BF16};
    limits.heads = 8;
    banyan_queue *queue = calls_open(&limits);
    test_combine(queue);
    test_associative(queue);
    test_finish(queue, BANYAN_F32);
    test_finish(queue, BANYAN_BF16);
    test_finish(queue, BANYAN_F16);
    test_many(queue, 64, 7, ROWS, 1);
    test_many(queue, 96, 2, 3, 0);
    test_many(queue, 256, 3, 5, 1);
    test_many(queue, 512, 4, 2, 0);
    test_many(queue, 64, 400, 1, 1);  /* a launch for each head */
    test_many(queue, 64, 1100, 1, 0); /* more than a kernel's parameters have room for */
    test_refused(queue);
    test_share(queue);
    banyan_cuda_close(queue);
    return test_end();
}
