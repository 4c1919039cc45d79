/* SPDX-License-Identifier: Apache-2.0 */
/* The programs' device: arrays on two sides, products, clocks and words. On the CPU, where
 * nothing is copied, and, linked to the emulated GPU, with launch/cuda.c. */
#include "launch/device.h"

#include "launch/data.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static device *open_one(const char *name)
{
    char why[256] = "";
    device *d = NULL;
    const device_row *row = device_find(name, why, sizeof why);
    CHECK_MSG(row && row->count() > 0, "%s", why);
    if (row) CHECK_MSG(!device_open(row, row->count() - 1, &d, why, sizeof why), "%s", why);
    return d;
}

/* What the host sent is what the host gets back; on the CPU there is one memory, on a GPU
 * two. */
static void arrays(device *d)
{
    device_array a = {0}, b = {0};
    const size_t bytes = 1000;
    CHECK(!device_array_make(d, bytes, DEVICE_NAN, &a));
    CHECK(!device_array_make(d, bytes, 0, &b));
    unsigned char *host = a.host;
    CHECK((a.there == a.host) == !d->row->memory->is_apart && a.bytes == bytes);
    CHECK(host[0] == 0xff && host[bytes - 1] == 0xff &&
          ((unsigned char *)b.host)[bytes - 1] == 0);
    for (size_t i = 0; i < bytes; i++) host[i] = (unsigned char)(i * 7);
    CHECK(!device_send(d, &a, bytes) && !device_wait(d));
    if (d->row->memory->is_apart) memset(host, 1, bytes);
    CHECK(!device_fetch(d, &a, bytes));
    for (size_t i = 0; i < bytes; i++) CHECK(host[i] == (unsigned char)(i * 7));
    if (d->row->memory->is_apart) { /* what was not sent stays what it was made as */
        memset(b.host, 3, bytes);
        CHECK(!device_send(d, &b, 10) && !device_fetch(d, &b, bytes));
        CHECK(((unsigned char *)b.host)[9] == 3 && ((unsigned char *)b.host)[10] == 0);
    }
    device_array_free(d, &a);
    device_array_free(d, &b);
    CHECK(!a.host && !a.there);
}

/* What malloc gave moves to where the device works, and is read from there. */
static void kept(device *d)
{
    enum { COUNT = 33 };
    int got[COUNT] = {0};
    int *mine = malloc(sizeof got), *const before = mine;
    void *zero = NULL, *none = NULL;
    for (int i = 0; mine && i < COUNT; i++) mine[i] = 7 * i;
    CHECK(!device_keep(d, (void **)&mine, sizeof got));
    CHECK((mine == before) == !d->row->memory->is_apart);
    CHECK(!device_read(d, got, mine, sizeof got) && got[1] == 7 && got[COUNT - 1] == 224);
    CHECK(!device_memory_make(d, sizeof got, 0, &zero));
    CHECK(!device_read(d, got, zero, sizeof got) && got[1] == 0 && got[COUNT - 1] == 0);
    CHECK(!device_keep(d, &none, 0) && !none);
    device_memory_free(d, mine);
    device_memory_free(d, zero);
    device_memory_free(d, NULL);
}

/* What fp32 numbers are in bf16, cut off: the numbers themselves change. */
static void *cut_to_bf16(float *x, int64_t count)
{
    uint16_t *half = malloc((size_t)count * sizeof *half);
    for (int64_t i = 0; half && i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        half[i] = (uint16_t)(bits >> 16);
        bits &= 0xffff0000;
        memcpy(&x[i], &bits, sizeof bits);
    }
    return half;
}

/* To the device, where that is apart; `bytes` of it. */
static void *put(device *d, void *host, size_t bytes)
{
    void *there = host;
    if (!d->row->memory->is_apart) return host;
    CHECK(!device_memory_make(d, bytes, DEVICE_NAN, &there));
    CHECK(!d->row->memory->copy(d->own, there, host, bytes));
    return there;
}

/* Against sums in double: each of `width` products and sums rounds once, each of them at most
 * to u = 2^-24 of the sum of magnitudes. */
static void product(device *d, banyan_dtype dtype, int64_t count, int64_t width, int32_t rows)
{
    const size_t bytes = banyan_dtype_bytes(dtype);
    float *weight = malloc((size_t)(count * width) * sizeof *weight);
    float *in = malloc((size_t)(rows * width) * sizeof *in);
    float *out = calloc((size_t)(rows * count), sizeof *out);
    CHECK(weight && in && out);
    for (int64_t i = 0; i < count; i++)
        data_row(weight + i * width, 1, DATA_K, 0, i, 0, (int32_t)width);
    for (int64_t i = 0; i < rows; i++)
        data_row(in + i * width, 2, DATA_Q, 0, i, 0, (int32_t)width);
    const bool is_half = dtype == BANYAN_BF16;
    void *w = is_half ? cut_to_bf16(weight, count * width) : weight;
    void *x = is_half ? cut_to_bf16(in, rows * width) : in;
    void *const there[] = {put(d, w, (size_t)(count * width) * bytes),
                           put(d, x, (size_t)(rows * width) * bytes),
                           put(d, out, (size_t)(rows * count) * sizeof *out)};
    CHECK(!d->row->product(d->own, dtype, there[0], count, width, there[1], rows, there[2]));
    if (d->row->memory->is_apart)
        CHECK(!device_read(d, out, there[2], (size_t)(rows * count) * sizeof *out));
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < count; i++) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < width; k++) {
                double x_k = in[row * width + k], w_k = weight[i * width + k];
                sum += x_k * w_k;
                size += fabs(x_k * w_k);
            }
            double error = fabs((double)out[row * count + i] - sum);
            CHECK_MSG(error <= 1.01 * (double)width * 0x1p-24 * size,
                      "row %d column %d: %g off", (int)row, (int)i, error);
        }
    for (int i = 0; i < 3 && d->row->memory->is_apart; i++) device_memory_free(d, there[i]);
    if (is_half) {
        free(w);
        free(x);
    }
    free(weight);
    free(in);
    free(out);
}

static void clocks(device *d)
{
    double seconds = -1;
    void *a = NULL, *graph = NULL;
    unsigned char got[64];
    CHECK(!d->row->memory->allocate(d->own, 0, sizeof got, &a) &&
          !d->row->memory->fill(d->own, a, 1, sizeof got));
    CHECK(!d->row->mark(d->own, 0) && !d->row->mark(d->own, 1));
    CHECK(!d->row->elapsed(d->own, &seconds) && seconds >= 0);
    CHECK(!d->row->capture(d->own) && !d->row->memory->fill(d->own, a, 5, sizeof got));
    CHECK(!d->row->captured(d->own, &graph));
    CHECK(!d->row->memory->copy(d->own, got, a, sizeof got) && !device_wait(d) && got[63] == 1);
    CHECK(!d->row->replay(d->own, graph));
    CHECK(!d->row->memory->copy(d->own, got, a, sizeof got) && !device_wait(d) && got[63] == 5);
    d->row->drop(d->own, graph);
    d->row->memory->release(d->own, 0, a);
}

static void words(void)
{
    char why[256] = "";
    CHECK(device_find(NULL, why, sizeof why) == &device_row_cpu);
    CHECK(!device_find("cudda", why, sizeof why));
    CHECK_MSG(strstr(why, "expected cpu or cuda (did you mean \"cuda\"?)"), "%s", why);
    CHECK(!device_said(&device_cpu, NULL) && device_cpu.why[0] == 0);
}

int main(int argc, char **argv)
{
    device *d = open_one(argc > 1 ? argv[1] : "cpu");
    words();
    if (!d) return test_end();
    arrays(d);
    kept(d);
    product(d, BANYAN_F32, 5, 64, 1);
    product(d, BANYAN_F32, 70, 33, 9);
    if (d->row->memory->is_apart) {
        product(d, BANYAN_BF16, 5, 64, 1);
        product(d, BANYAN_BF16, 70, 33, 9);
        clocks(d);
        CHECK(device_said(d, "gone") == BANYAN_ERR_DEVICE);
        CHECK_MSG(!strcmp(d->why, "device cuda: gone"), "%s", d->why);
    }
    device_close(d);
    return test_end();
}
