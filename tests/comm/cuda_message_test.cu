/* SPDX-License-Identifier: Apache-2.0 */
/* What CUDA does for messages: headers and items that are put together, headers that are
 * checked, partials as arrays for all-reduces, and whole exchanges between ranks that are
 * threads, queued and staged, against those of the host. */
#include "attention/attention.h"
#include "attention/cuda/launch.h"
#include "attention/cuda/ptx.h"
#include "attention/cuda/entry.h"
#include "attention/cuda/queue.h"
#include "comm/comm.h"
#include "tests/comm/local_cuda.h"
#include "tests/test.h"

#include <math.h>

#define CHECK_DONE(call)                                                                       \
    do {                                                                                       \
        const char *failed_ = (call);                                                          \
        CHECK_MSG(!failed_, "%s", failed_);                                                    \
    } while (0)

enum { heads = 5, rows = 3, dim = 64, items = 6, item_words = 24, most_ranks = 4 };

static banyan_queue *open_queue()
{
    banyan_device_limits limits = {};
    limits.shape.block_tokens = 64;
    limits.shape.key_dim = limits.shape.value_dim = dim;
    limits.heads = limits.kv_heads = heads;
    limits.rows = rows;
    limits.tables = limits.strips = limits.spans = limits.packings = 8;
    banyan_queue *queue = NULL;
    CHECK_DONE(banyan_cuda_open(&limits, NULL, &queue));
    return queue;
}

static void *new_host(banyan_queue *queue, size_t bytes)
{
    void *memory = NULL;
    CHECK_DONE(banyan_cuda_allocate(queue, 1, bytes, &memory));
    memset(memory, 0, bytes);
    return memory;
}

static void *new_device(banyan_queue *queue, size_t bytes)
{
    void *memory = NULL;
    CHECK_DONE(banyan_cuda_allocate(queue, 0, bytes, &memory));
    return memory;
}

/* ---- headers ----------------------------------------------------------------------------- */

enum { headers = 140 }; /* more than one launch checks */

static void check_headers(banyan_queue *queue, const banyan_check *check, int count,
                          banyan_fault *fault)
{
    banyan_fold_batch batch = {};
    batch.check = check;
    batch.checks = count;
    batch.fault = fault;
    CHECK_DONE(banyan_cuda_fold(queue, &batch));
}

/* All are as expected but some, whose words the host finds: in its memory itself, or
 * (is_copied) after a copy of what the device found in its own. */
static void test_headers(int is_copied)
{
    banyan_queue *queue = open_queue();
    static unsigned char header[headers][64], other[headers][64];
    char *device = (char *)new_device(queue, sizeof header);
    banyan_fault *fault = (banyan_fault *)new_host(queue, headers * sizeof *fault);
    banyan_check check[headers];
    banyan_gathered move[headers];
    if (is_copied) queue->is_mapped = false;
    for (int i = 0; i < headers; i++) {
        for (int n = 0; n < 64; n++) header[i][n] = (unsigned char)(3 * i + n + 1);
        memcpy(other[i], header[i], 64);
        if (i % 9 == 5) other[i][i % 64] ^= 4;
        check[i] = {device + 64 * i, other[i]};
        move[i] = {device + 64 * i, header[i], 64, 1};
    }
    CHECK_DONE(banyan_cuda_gather(queue, move, headers));
    check_headers(queue, check, headers, fault);
    CHECK_DONE(banyan_cuda_wait(queue));
    for (int i = 0; i < headers; i++) {
        CHECK(fault[i].is_set == (i % 9 == 5));
        if (i % 9 != 5) continue;
        CHECK(!memcmp(fault[i].got, header[i], 64));
        CHECK(!memcmp(fault[i].expected, other[i], 64));
    }
    for (int i = 0; i < headers; i++) other[i][0]++; /* the first one stays */
    check_headers(queue, check, headers, fault);
    memset(other, 0, sizeof other); /* it was read */
    CHECK_DONE(banyan_cuda_wait(queue));
    for (int i = 0; i < headers; i++) {
        CHECK(fault[i].is_set == 1 && !memcmp(fault[i].got, header[i], 64));
        CHECK(fault[i].expected[0] == header[i][0] + (i % 9 != 5) + (i == 0 && i % 9 == 5));
    }
    banyan_cuda_release(queue, 1, fault);
    banyan_cuda_release(queue, 0, device);
    banyan_cuda_close(queue);
}

/* ---- moves ------------------------------------------------------------------------------- */

/* Of all sizes and places, headers among them, more than one launch takes; nothing beside them
 * is touched. */
static void test_moves()
{
    enum { moves = 500, room = 1 << 19, slot = 1000 };
    banyan_queue *queue = open_queue();
    unsigned char *host = (unsigned char *)new_host(queue, room),
                  *back = (unsigned char *)new_host(queue, room),
                  *expect = (unsigned char *)malloc(room);
    char *from = (char *)new_device(queue, room), *to = (char *)new_device(queue, room);
    static banyan_gathered move[moves];
    static unsigned char header[moves][64];
    uint64_t seed = 9;
    for (int i = 0; i < room; i++) host[i] = (unsigned char)test_random(&seed);
    CHECK_DONE(banyan_cuda_copy(queue, from, host, room));
    CHECK_DONE(banyan_cuda_fill(queue, to, 0x5a, room));
    memset(expect, 0x5a, room);
    for (int i = 0; i < moves; i++) {
        const int is_put = test_below(&seed, 3) == 0, is_even = test_below(&seed, 2) == 0;
        const size_t at =
            (size_t)i * slot + (is_even ? 8 * test_below(&seed, 8) : test_below(&seed, 60));
        const size_t source =
            is_even ? 8 * test_below(&seed, 60000) : test_below(&seed, 500000);
        const size_t most = is_put ? 64 : slot - 64;
        const size_t bytes =
            is_even ? 8 * test_below(&seed, most / 8 + 1) : test_below(&seed, most + 1);
        for (int n = 0; n < 64; n++) header[i][n] = (unsigned char)test_random(&seed);
        move[i] = {to + at, is_put ? (const void *)header[i] : from + source, bytes, is_put};
        memcpy(expect + at, is_put ? header[i] : host + source, bytes);
    }
    CHECK_DONE(banyan_cuda_gather(queue, move, moves));
    memset(header, 0, sizeof header); /* they were read */
    CHECK_DONE(banyan_cuda_copy(queue, back, to, room));
    CHECK_DONE(banyan_cuda_wait(queue));
    CHECK(!memcmp(back, expect, room));
    for (int odd = 0; odd < 2; odd++) { /* of several thread blocks */
        move[0] = {to, from + 8, room - 16 - (size_t)odd, 0};
        CHECK_DONE(banyan_cuda_fill(queue, to, 0x5a, room));
        CHECK_DONE(banyan_cuda_gather(queue, move, 1));
        CHECK_DONE(banyan_cuda_copy(queue, back, to, room));
        CHECK_DONE(banyan_cuda_wait(queue));
        CHECK(!memcmp(back, host + 8, move[0].bytes) && back[move[0].bytes] == 0x5a);
    }
    /* What a kernel just ahead of it moves there, it moves on: it waits for it. */
    const banyan_gathered there = {to, from, 4096, 0}, onward = {to + 8192, to, 4096, 0};
    CHECK_DONE(banyan_cuda_fill(queue, to, 0x5a, room));
    CHECK_DONE(banyan_cuda_gather(queue, &there, 1));
    CHECK_DONE(banyan_cuda_gather(queue, &onward, 1));
    CHECK_DONE(banyan_cuda_copy(queue, back, to, room));
    CHECK_DONE(banyan_cuda_wait(queue));
    CHECK(!memcmp(back + 8192, host, 4096));
    CHECK_DONE(banyan_cuda_put(queue, to + 3, host, 11));
    CHECK_DONE(banyan_cuda_copy(queue, back, to, 64));
    CHECK_DONE(banyan_cuda_wait(queue));
    CHECK(!memcmp(back + 3, host, 11));
    CHECK(banyan_cuda_put(queue, to, host, 65) != NULL);
    banyan_cuda_release(queue, 1, host);
    banyan_cuda_release(queue, 1, back);
    banyan_cuda_release(queue, 0, from);
    banyan_cuda_release(queue, 0, to);
    banyan_cuda_close(queue);
    free(expect);
}

/* ---- passes ------------------------------------------------------------------------------ */

/* exp(m - M) times a number, in fp32: the rounded difference is off by |m - M| 2^-24, which is
 * relative in what comes of it; expf by 2 ulp (CUDA C++ Programming Guide, mathematical
 * functions), each at most 2^-23; the product by half of one. */
static int is_near(float got, double expected, double difference)
{
    if (isnan(expected)) return isnan(got);
    const double off = 2 * 0x1p-23 + 0x1p-24;
    const double bound = isfinite(difference) ? off + fabs(difference) * 0x1p-24 : off;
    return fabs(got - expected) <= bound * fabs(expected);
}

static void test_passes(int value_dim)
{
    banyan_queue *queue = open_queue();
    const int width = value_dim + 2, vectors = heads * rows,
              numbers = vectors * (value_dim + 2);
    const size_t bytes = (size_t)numbers * sizeof(float);
    float *host = (float *)new_host(queue, bytes), *back = (float *)new_host(queue, bytes),
          *device = (float *)new_device(queue, bytes), *partial[heads];
    float *maxima = (float *)new_host(queue, vectors * sizeof(float)),
          *m = (float *)new_device(queue, vectors * sizeof(float)),
          *values = (float *)new_device(queue, bytes);
    uint64_t seed = 4;
    for (int i = 0; i < numbers; i++) host[i] = test_normal(&seed);
    for (int r = 0; r < rows; r++) host[width * rows + r * width + value_dim] = -INFINITY;
    host[2 * width * rows + value_dim] = NAN;
    for (int h = 0; h < heads; h++) partial[h] = h == 3 ? NULL : device + h * rows * width;
    for (int v = 0; v < vectors; v++) {
        const float own = host[v * width + value_dim];
        maxima[v] = v % 2 ? own : own + 1.5f; /* this rank's, or another's */
        if (v / rows == 1) maxima[v] = 2;
        if (v == 4) maxima[v] = -INFINITY; /* nobody saw anything */
    }
    CHECK_DONE(banyan_cuda_copy(queue, device, host, bytes));
    CHECK_DONE(banyan_cuda_copy(queue, m, maxima, vectors * sizeof(float)));
    for (int pass = 0; pass < 3; pass++) {
        const int n = pass == 1 ? value_dim : 1;
        CHECK_DONE(banyan_cuda_give(queue, pass, partial, heads, value_dim, rows, m, values));
        CHECK_DONE(banyan_cuda_copy(queue, back, values, (size_t)vectors * n * sizeof(float)));
        CHECK_DONE(banyan_cuda_wait(queue));
        for (int i = 0; i < vectors * n; i++) {
            const int v = i / n, d = i % n;
            const float own = host[v * width + value_dim];
            const double factor = own == -INFINITY ? 0 : exp((double)own - maxima[v]);
            double expected = pass == 0   ? own
                              : pass == 1 ? host[v * width + d] * factor
                                          : host[v * width + value_dim + 1] * factor;
            if (v / rows == 3) expected = pass ? 0 : -INFINITY;
            if (pass == 0)
                CHECK(back[i] == (float)expected || (isnan(back[i]) && isnan(expected)));
            else
                CHECK_MSG(is_near(back[i], expected, (double)own - maxima[v]),
                          "pass %d, value %d: %g, expected %g", pass, i, (double)back[i],
                          expected);
        }
    }
    /* What comes back: values that tell where they belong. */
    for (int pass = 1; pass < 3; pass++) {
        const int n = pass == 1 ? value_dim : 1;
        for (int i = 0; i < vectors * n; i++) back[i] = (float)(1000 * pass + i);
        CHECK_DONE(banyan_cuda_copy(queue, values, back, (size_t)vectors * n * sizeof(float)));
        CHECK_DONE(banyan_cuda_take(queue, pass, partial, heads, value_dim, rows, m, values));
        CHECK_DONE(banyan_cuda_wait(queue));
    }
    CHECK_DONE(banyan_cuda_copy(queue, back, device, bytes));
    CHECK_DONE(banyan_cuda_wait(queue));
    for (int v = 0; v < vectors; v++) {
        const float *now = back + v * width, *was = host + v * width;
        if (v / rows == 3) {
            CHECK(!memcmp(now, was, (size_t)width * sizeof *now));
            continue;
        }
        for (int d = 0; d < value_dim; d++) CHECK(now[d] == (float)(1000 + v * value_dim + d));
        CHECK(!memcmp(&now[value_dim], &maxima[v], sizeof(float)));
        CHECK(now[value_dim + 1] == (float)(2000 + v));
    }
    banyan_cuda_release(queue, 1, host);
    banyan_cuda_release(queue, 1, back);
    banyan_cuda_release(queue, 1, maxima);
    banyan_cuda_release(queue, 0, device);
    banyan_cuda_release(queue, 0, m);
    banyan_cuda_release(queue, 0, values);
    banyan_cuda_close(queue);
}

/* ---- exchanges --------------------------------------------------------------------------- */

static inline __host__ __device__ uint32_t mix(uint32_t lo, uint32_t hi)
{
    lo *= 0x9e3779b9u;
    return (lo << 13 | lo >> 19) ^ (hi + 0x94d049bbu) * 0xbf58476du;
}

static __global__ void mix_kernel(uint32_t *out, const uint32_t *lo, const uint32_t *hi,
                                  int count)
{
    for (int i = (int)threadIdx.x; i < count; i += 32) out[i] = mix(lo[i], hi[i]);
}

static void combine(void *, void *out, const void *lo, const void *hi, size_t bytes)
{
    uint32_t *const o = (uint32_t *)out;
    const uint32_t *const a = (const uint32_t *)lo, *const b = (const uint32_t *)hi;
    for (size_t i = 0; i < bytes / sizeof *o; i++) o[i] = mix(a[i], b[i]);
}

struct folder {
    banyan_queue *queue;
    void **data;
    uint32_t *room; /* device: an item */
};

/* Headers by the kernel that folds partials; items of another sort by one here, one after
 * another. */
static void fold(void *ctx, const banyan_arrivals *a)
{
    const folder *const f = (const folder *)ctx;
    const size_t bytes = item_words * sizeof *f->room;
    const cuda_shape shape = {dim3(1), dim3(32), 0, (cudaStream_t)banyan_cuda_stream(f->queue),
                              false};
    if (a->checks) check_headers(f->queue, a->check, a->checks, a->fault);
    for (int i = 0; i < a->folds; i++) {
        CHECK_DONE(banyan_cuda_copy(f->queue, f->room, a->fold[i].value[0], bytes));
        for (int v = 1; v < a->fold[i].values; v++)
            CHECK(cuda_launch(shape, mix_kernel, f->room, f->room,
                              (const uint32_t *)a->fold[i].value[v],
                              (int)item_words) == cudaSuccess);
        CHECK_DONE(banyan_cuda_copy(f->queue, f->data[a->fold[i].item], f->room, bytes));
    }
}

typedef struct trial {
    const banyan_schedule *s;
    int way; /* 0: on the host, 1: queued, 2: staged */
    uint32_t result[3][most_ranks][items][item_words];
} trial;

static void run_rank(banyan_comm *comm, void *arg)
{
    trial *const t = (trial *)arg;
    const int rank = banyan_comm_rank(comm);
    banyan_queue *queue = open_queue();
    const banyan_memory memory = {&banyan_cuda_memory, queue, t->way == 2};
    const size_t bytes = sizeof t->result[0][0];
    uint32_t *start = (uint32_t *)new_host(queue, bytes);
    char *place = t->way ? (char *)new_device(queue, bytes) : (char *)start;
    banyan_exchange_args p = {};
    banyan_exchange *x = NULL;
    void *data[items];
    int64_t messages = 0, sent = 0;
    folder f = {queue, data, (uint32_t *)new_device(queue, bytes)};
    uint64_t seed = (uint64_t)rank + 1;
    for (int i = 0; i < items * item_words; i++) start[i] = (uint32_t)test_random(&seed);
    for (int i = 0; i < items; i++) data[i] = place + (size_t)i * item_words * sizeof *start;
    if (t->way) CHECK_DONE(banyan_cuda_copy(queue, place, start, bytes));
    p.data = data;
    p.item_bytes = item_words * sizeof *start;
    p.combine = combine;
    p.fold = fold;
    p.ctx = &f;
    CHECK(!banyan_exchange_create(t->s, rank, p.item_bytes, 7, t->way ? &memory : NULL, &x));
    for (int i = 0; i < 3; i++) {
        p.mark[0].name = "merge";
        p.mark[0].value = i;
        const banyan_status status = banyan_exchange_run(x, comm, &p, &messages, &sent);
        CHECK_MSG(!status, "%s", banyan_error_message());
    }
    if (t->way) CHECK_DONE(banyan_cuda_copy(queue, start, place, bytes));
    CHECK_DONE(banyan_cuda_wait(queue));
    CHECK(t->way == 0 || banyan_exchange_look(x, comm) == BANYAN_OK);
    memcpy(t->result[t->way][rank], start, bytes);
    banyan_exchange_destroy(x);
    if (t->way) banyan_cuda_release(queue, 0, place);
    banyan_cuda_release(queue, 0, f.room);
    banyan_cuda_release(queue, 1, start);
    banyan_cuda_close(queue);
}

static void test_exchanges(int32_t ranks, const banyan_merge *merge, int all)
{
    banyan_comm *comm[most_ranks];
    int32_t everyone[most_ranks];
    banyan_item item[items];
    banyan_schedule s = {};
    trial *const t = (trial *)calloc(1, sizeof *t);
    CHECK(local_create(ranks, NULL, &local_cuda, comm) == BANYAN_OK);
    for (int32_t r = 0; r < ranks; r++) everyone[r] = r;
    for (int i = 0; i < items; i++) {
        item[i].holder = everyone;
        item[i].holders = ranks;
        item[i].home = i % ranks;
    }
    merge->build(banyan_comm_topology(comm[0]), item, items, all, &s);
    banyan_schedule_sort(&s);
    t->s = &s;
    for (t->way = 0; t->way < 3; t->way++) local_run(comm, ranks, run_rank, t);
    for (int way = 1; way < 3; way++)
        for (int32_t r = 0; r < ranks; r++)
            CHECK_MSG(!memcmp(t->result[way][r], t->result[0][r], sizeof t->result[0][r]),
                      "%s, %s, rank %d of %d", merge->name, way == 1 ? "queued" : "staged",
                      (int)r, (int)ranks);
    for (int32_t r = 0; r < ranks; r++) banyan_comm_destroy(comm[r]);
    banyan_schedule_free(&s);
    free(t);
}

int main()
{
    test_headers(0);
    test_headers(1);
    test_moves();
    test_passes(dim);
    test_passes(0);
    for (int i = 0; banyan_merge_row(i); i++)
        for (int32_t ranks = 3; banyan_merge_row(i)->build && ranks <= most_ranks; ranks++)
            test_exchanges(ranks, banyan_merge_row(i), ranks % 2);
    return test_end();
}
