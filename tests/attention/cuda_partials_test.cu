/* SPDX-License-Identifier: Apache-2.0 */
/* combine, finish and share on the device: the laws of partials, and what the host's functions say. The
 * device's expf and logf are within 2 units in the last place (CUDA's guide), the host's within 1: so
 * a factor differs by 3 of them, a combined number by that, its product, its sum and the other side's: 8
 * units of the larger of the two terms' sizes. */
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
        RUNS(banyan_cuda_combine(queue, z, x, y, DIM, ROWS));
        calls_down(queue, got, z, sizeof got);
        check_combined(got, lo, hi);
        RUNS(banyan_cuda_combine(queue, z, y, x, DIM, ROWS)); /* it commutes, bit for bit .. */
        calls_down(queue, again, z, sizeof got);
        CHECK(trial % 2 || !memcmp(got, again, sizeof got));
        RUNS(banyan_cuda_combine(queue, y, x, y, DIM, ROWS)); /* .. and may be in place */
        calls_down(queue, again, y, sizeof got);
        CHECK(!memcmp(got, again, sizeof got));
        calls_copy(queue, y, hi, sizeof hi, 1);
        RUNS(banyan_cuda_combine(queue, x, x, y, DIM, ROWS));
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
    RUNS(banyan_cuda_combine(queue, x, d[0], d[1], DIM, ROWS));
    RUNS(banyan_cuda_combine(queue, x, x, d[2], DIM, ROWS));
    calls_down(queue, left, x, sizeof left);
    RUNS(banyan_cuda_combine(queue, x, d[1], d[2], DIM, ROWS));
    RUNS(banyan_cuda_combine(queue, x, d[0], x, DIM, ROWS));
    calls_down(queue, right, x, sizeof right);
    for (int i = 0; i < COUNT; i++) {
        const float size =
            i % FLOATS == DIM ? 0 : fabsf(p[0][i]) + fabsf(p[1][i]) + fabsf(p[2][i]);
        CHECK_MSG(is_close(left[i], right[i], 2 * size), "%d: %g and %g", i, left[i], right[i]);
    }
    for (int i = 0; i < 3; i++) banyan_cuda_release(queue, 0, d[i]);
    banyan_cuda_release(queue, 0, x);
}

/* Three heads, the middle one of which is somebody else's; out in each format, to the bit. */
static void test_finish(banyan_queue *queue, banyan_dtype dtype)
{
    enum { HEADS = 3, VALUES = ROWS * HEADS * DIM };
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
    RUNS(banyan_cuda_finish(queue, partial, NULL, HEADS, DIM, ROWS, out, dtype, out_lse));
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
    RUNS(banyan_cuda_finish(queue, partial, NULL, HEADS, DIM, ROWS, out, dtype, NULL));
    RUNS(banyan_cuda_wait(queue));
    for (int h = 0; h < HEADS; h++) banyan_cuda_release(queue, 0, partial[h]);
    banyan_cuda_release(queue, 0, out), banyan_cuda_release(queue, 0, out_lse);
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
    test_share(queue);
    banyan_cuda_close(queue);
    return test_end();
}
