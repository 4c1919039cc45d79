/* SPDX-License-Identifier: Apache-2.0 */
/* The rows `cuda` and `hopper`: which of them a device can run, and that a row's functions
 * belong together: what it packs, it attends to, with few query vectors and with many. With q =
 * 0 all weights are equal, so that a row is the mean of the values that it sees, and its lse is
 * ln n. Values are such that every format holds them and every sum of them exactly: what
 * remains is a division (or two roundings for one) and the log, within 4 units in the last
 * place. */
#include "attention/attention.h"
#include "emulator.h"
#include "tests/test.h"

#include <math.h>

enum { TOKENS = 128, HEADS = 4, DIM = 256, BLOCK = 64 }; /* DIM: the most */

#define RUNS(call)                                                                             \
    do {                                                                                       \
        const char *const failed_ = (call);                                                    \
        CHECK_MSG(!failed_, "%s", failed_ ? failed_ : "");                                     \
    } while (0)

static void *up(const banyan_device *d, banyan_queue *queue, const void *from, size_t bytes)
{
    void *device = NULL, *host = NULL;
    RUNS(d->memory->allocate(queue, 0, bytes, &device));
    RUNS(d->memory->allocate(queue, 1, bytes, &host));
    memcpy(host, from, bytes);
    RUNS(d->memory->copy(queue, device, host, bytes));
    RUNS(d->memory->wait(queue));
    d->memory->release(queue, 1, host);
    return device;
}

static void down(const banyan_device *d, banyan_queue *queue, float *to, const void *from,
                 int64_t count)
{
    void *host = NULL;
    RUNS(d->memory->allocate(queue, 1, (size_t)count * 4, &host));
    RUNS(d->memory->copy(queue, host, from, (size_t)count * 4));
    RUNS(d->memory->wait(queue));
    memcpy(to, host, (size_t)count * 4);
    d->memory->release(queue, 1, host);
}

/* The largest is first: the scale of its e4m3 row is then 2^-6. */
static float value_of(int64_t token, int d)
{
    static const float sizes[] = {7, 3.5f, 1.75f, 0.875f};
    const uint64_t mixed = (uint64_t)(token * DIM + d + 1) * 0x9e3779b97f4a7c15u;
    return d == 0 ? (token % 3 ? 7 : -7) : sizes[mixed >> 60 & 3] * (mixed >> 63 ? 1 : -1);
}

static void check(const float *out, const float *lse, int64_t at, int32_t rows, int32_t dim)
{
    int wrong = 0;
    for (int32_t row = 0; row < rows; row++)
        for (int d = 0; d < dim; d++) {
            double sum = 0, n = (double)(at + row + 1);
            for (int64_t token = 0; token <= at + row; token++) sum += value_of(token, d);
            for (int h = 0; h < HEADS; h++) {
                const float got = out[((int64_t)row * HEADS + h) * dim + d];
                wrong += !(fabs(got - sum / n) <= 4 * 0x1p-23 * fabs(sum / n));
                wrong += !(fabs(lse[row * HEADS + h] - log(n)) <= 4 * 0x1p-23 * log(n));
            }
        }
    CHECK_MSG(wrong == 0, "dim %d, %d rows at %d: %d numbers are wrong", (int)dim, (int)rows,
              (int)at, wrong);
}

static void attend(const banyan_kernel *kernel, banyan_queue *queue, const banyan_batch *given,
                   int64_t at, int32_t rows)
{
    const banyan_device *device = kernel->device;
    const int32_t dim = given->shape.key_dim;
    const size_t floats = (size_t)rows * HEADS * (size_t)dim;
    float *zeros = calloc(floats, 4), *out = malloc(floats * 4);
    float *lse = malloc((size_t)rows * HEADS * 4), *no_partial[HEADS] = {NULL};
    banyan_span span[2] = {{0, 1, 1, 0}, {1, 1, 1, 1}};
    const banyan_batch_part part = {.at = at, .end_token = INT64_MAX};
    banyan_strip strip = {.heads = 0xf, .rows = rows, .spans = 2, .blocks = 2, .edge = -1};
    banyan_batch batch = *given;
    void *q = up(device, queue, zeros, floats * 4);
    batch.part = &part;
    batch.parts = 1;
    batch.rows = rows;
    batch.q = q;
    batch.strip = &strip;
    batch.span = span;
    batch.strips = 1;
    batch.spans = 2;
    batch.partial = no_partial;
    batch.out = up(device, queue, zeros, floats * 4);
    batch.lse = up(device, queue, zeros, (size_t)rows * HEADS * 4);
    RUNS(device->attend(queue, &batch));
    down(device, queue, out, batch.out, (int64_t)floats);
    down(device, queue, lse, batch.lse, rows * HEADS);
    check(out, lse, at, rows, dim);
    device->memory->release(queue, 0, q);
    device->memory->release(queue, 0, batch.out);
    device->memory->release(queue, 0, batch.lse);
    free(zeros), free(out), free(lse);
}

static void run(const banyan_kernel *kernel, banyan_dtype dtype, int32_t dim)
{
    const banyan_device *device = kernel->device;
    const banyan_block_shape shape = {BLOCK, dim, dim, dtype, 0};
    const banyan_device_limits limits = {.shape = shape,
                                         .heads = HEADS,
                                         .kv_heads = 1,
                                         .rows = BLOCK,
                                         .parts = 1,
                                         .tables = 1,
                                         .strips = 4,
                                         .spans = 8,
                                         .packings = 2};
    static float k[TOKENS * DIM], v[TOKENS * DIM];
    banyan_queue *queue = NULL;
    uint64_t random = 1;
    for (int i = 0; i < TOKENS * dim; i++) {
        k[i] = test_normal(&random);
        v[i] = value_of(i / dim, i % dim);
    }
    RUNS(device->open(&limits, NULL, &queue));
    if (!queue) return;
    const size_t bytes = kernel->record_bytes(&shape);
    void *records = NULL, *device_k = up(device, queue, k, sizeof k);
    void *device_v = up(device, queue, v, sizeof v);
    RUNS(device->memory->allocate(queue, 0, 2 * bytes, &records));
    const banyan_packing packing[2] = {{(char *)records + bytes, 0, 0, 0, BLOCK, 1},
                                       {records, 0, BLOCK, 0, BLOCK, 1}};
    RUNS(device->pack(queue, &shape, 1, device_k, device_v, BANYAN_F32, packing, 2));
    const banyan_slot slots[2] = {{0, 1}, {1, 0}};
    const banyan_table_of_blocks table = {records, up(device, queue, slots, sizeof slots)};
    banyan_batch batch = {.shape = shape,
                          .scale = 0.5f,
                          .heads = HEADS,
                          .in_dtype = BANYAN_F32,
                          .out_dtype = BANYAN_F32,
                          .table = &table,
                          .tables = 1};
    attend(kernel, queue, &batch, 100, 1); /* 4 vectors */
    attend(kernel, queue, &batch, 80, 8);  /* 32: the most that decode takes */
    attend(kernel, queue, &batch, 64, 40); /* 160 */
    device->memory->release(queue, 0, records);
    device->memory->release(queue, 0, device_k);
    device->memory->release(queue, 0, device_v);
    device->memory->release(queue, 0, (void *)(uintptr_t)table.slot);
    device->close(queue);
}

static void test_choice(void)
{
    const banyan_block_shape shape = {BLOCK, 128, 128, BANYAN_BF16, 0};
    const banyan_block_shape large = {256, 128, 128, BANYAN_F16, 0};
    const banyan_block_shape small = {16, 128, 128, BANYAN_BF16, 0},
                             half = {32, 128, 128, BANYAN_BF16, 0},
                             odd = {BLOCK, 112, 112, BANYAN_BF16, 0},
                             narrow = {BLOCK, 96, 96, BANYAN_BF16, 0},
                             wide = {BLOCK, 256, 256, BANYAN_F16, 0},
                             exact = {BLOCK, 128, 128, BANYAN_F32, 0};
    const banyan_kernel *found = banyan_kernel_find("cuda", 0, NULL, &shape, NULL, 0);
    char why[256] = "";
    CHECK(found && found->device && found->record_bytes(&shape) == 32768);
    CHECK(!found->supports(&small) && !found->supports(&odd) && !found->supports(&exact));
    CHECK(found->supports(&large) && found->record_bytes(&large) == 4 * 32768);
    CHECK(found->supports(&half) && found->record_bytes(&half) == 32768 / 2);
    CHECK(found->supports(&wide) && found->record_bytes(&wide) == 64 * 256 * 2 * 2);
    CHECK(found->supports(&narrow) && found->record_bytes(&narrow) == 64 * 96 * 2 * 2);
    emulator_set_capability(80);
    found = banyan_kernel_find("cuda", 0, NULL, &shape, NULL, 0);
    if (found && !strcmp(found->name, "cuda")) { /* on the emulator, or a GPU of another kind */
        CHECK(!banyan_kernel_find("cuda", 0, "hopper", &shape, why, sizeof why));
        CHECK_MSG(strstr(why, "cannot run on this device"), "%s", why);
        emulator_set_capability(90);
    }
    CHECK(!banyan_kernel_find("cpu", 0, "cuda", &shape, why, sizeof why));
    CHECK_MSG(!strcmp(why, "kernel: kernel \"cuda\" is for device cuda, not cpu"), "%s", why);
    CHECK(!banyan_kernel_find("cpu", 0, NULL, &shape, why, sizeof why)->device);
}

int main(void)
{
    unsetenv("BANYAN_KERNEL");
    emulator_set_multiprocessors(3);
    test_choice();
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_kernel *kernel = banyan_kernel_row(i);
        if (!kernel->device || !kernel->usable()) continue;
        for (int dtype = BANYAN_BF16; dtype <= BANYAN_E4M3; dtype++)
            for (int32_t dim = 64; dim <= DIM; dim += dim < 128 ? 32 : 128)
                run(kernel, (banyan_dtype)dtype, dim);
    }
    return test_end();
}
