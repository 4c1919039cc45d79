/* SPDX-License-Identifier: Apache-2.0 */
/* pack: every format of the cache and of the call, whole blocks and parts of them, fresh and
 * not, number by number: where record.h says it is, and rounded as dtype.c rounds. */
#include "attention/cuda/record.h"
#include "tests/attention/cuda_calls.h"

#include <math.h>

enum { KV_HEADS = 3, ROWS = 150, BLOCKS = 3, RECORDS = BLOCKS * KV_HEADS, MOST_DIM = 576 };

struct trial {
    banyan_block_shape shape;
    banyan_dtype in_dtype;
    int first_token; /* where in its block row 0 is */
    int rows;
    int fresh_first; /* is the first block's record fresh? */
    int wild;        /* numbers of all sizes, NaN and inf among them */
};

static size_t record_bytes(const banyan_block_shape *s)
{
    const uint32_t k = (uint32_t)s->key_dim, v = (uint32_t)s->value_dim;
    const uint32_t n = (uint32_t)s->block_tokens;
    return s->dtype == BANYAN_E4M3 ? record8_bytes(n, k, v)
                                   : record16_bytes(n, k, v, s->value_in_key);
}

static float draw(uint64_t *random, int wild)
{
    if (wild && test_below(random, 300) == 0) return NAN;
    if (wild && test_below(random, 300) == 0)
        return test_below(random, 2) ? INFINITY : -INFINITY;
    const int exponent = wild ? (int)test_below(random, 60) - 40 : 0;
    return (float)ldexp(test_normal(random), exponent);
}

static int same(float a, float b)
{
    return (isnan(a) && isnan(b)) || (a == b && !signbit(a) == !signbit(b));
}

/* The number in a record, and (e4m3) the factor of its token. */
static float stored(const banyan_block_shape *s, const unsigned char *record, int is_v,
                    int token, int d, float *scale)
{
    const uint32_t k = (uint32_t)s->key_dim, v = (uint32_t)s->value_dim;
    const uint32_t t = (uint32_t)token, at = (uint32_t)d, n = (uint32_t)s->block_tokens;
    *scale = 1;
    if (s->dtype == BANYAN_E4M3) {
        memcpy(scale,
               record + (is_v ? record8_v_scales(n, k, v) : record8_k_scales(n, k, v)) + 4 * t,
               4);
        return banyan_e4m3_to_float(record[is_v ? record8_v_tile(n, k) + record8_v_at(n, t, at)
                                                : record8_k_at(n, k, t, at)]);
    }
    uint16_t bits;
    float x;
    memcpy(&bits,
           record + (is_v ? record16_tile_bytes(n, k) : 0) +
               record16_at(n, is_v ? v : k, t, at),
           2);
    banyan_to_float(&x, &bits, s->dtype, 1);
    return x;
}

/* One row of a record against the numbers that it was made of; x NULL: zeros. */
static void check_row(const banyan_block_shape *s, const unsigned char *record, int is_v,
                      int token, const float *x)
{
    const int dim = is_v ? s->value_dim : s->key_dim;
    float largest = 0, scale;
    int wrong = 0, is_finite = 1;
    for (int d = 0; x && d < dim; d++) {
        largest = fmaxf(largest, fabsf(x[d]));
        if (!isfinite(x[d])) is_finite = 0;
    }
    for (int d = 0; d < dim; d++) {
        const float got = stored(s, record, is_v, token, d, &scale);
        float expect = 0;
        if (s->dtype == BANYAN_E4M3) {
            const float factor = largest / 448;
            if (!is_finite)
                wrong += !isnan(scale);
            else
                wrong += scale != factor;
            if (is_finite && factor > 0)
                expect = banyan_e4m3_to_float(banyan_e4m3_from_float(x[d] / factor));
            wrong += is_finite ? !same(got, expect) : !isnan(got * scale);
        } else {
            uint16_t bits = 0;
            if (x) banyan_from_float(&bits, s->dtype, &x[d], 1);
            banyan_to_float(&expect, &bits, s->dtype, 1);
            wrong += !same(got, expect);
        }
    }
    CHECK_MSG(wrong == 0, "%s %s token %d: %d numbers are wrong", banyan_dtype_name(s->dtype),
              is_v ? "v" : "k", token, wrong);
}

/* What the call's rows are on the device, and in fp32 after they were rounded to in_dtype. */
static void *make_rows(banyan_queue *queue, const trial *t, int dim, uint64_t *random, float *x)
{
    const int64_t count = (int64_t)ROWS * KV_HEADS * dim;
    void *given = malloc((size_t)count * 4);
    for (int64_t i = 0; i < count; i++) x[i] = draw(random, t->wild);
    banyan_from_float(given, t->in_dtype, x, count);
    banyan_to_float(x, given, t->in_dtype, count);
    void *device = calls_up(queue, given, (size_t)count * banyan_dtype_bytes(t->in_dtype));
    free(given);
    return device;
}

/* Rows first_token .. of consecutive blocks, a record for each block and KV head. */
static int list(const trial *t, unsigned char *records, size_t bytes, banyan_packing *packing)
{
    const int tokens = t->shape.block_tokens;
    int count = 0;
    for (int row = 0, block = 0; row < t->rows; block++) {
        const int first = block ? 0 : t->first_token;
        const int rows = t->rows - row < tokens - first ? t->rows - row : tokens - first;
        for (int h = 0; h < KV_HEADS; h++)
            packing[count++] = {records + (size_t)(block * KV_HEADS + h) * bytes,
                                h,
                                row,
                                first,
                                rows,
                                block > 0 || t->fresh_first};
        row += rows;
    }
    return count;
}

static void check_records(const trial *t, const unsigned char *before,
                          const unsigned char *after, const float *k, const float *v)
{
    const banyan_block_shape *s = &t->shape;
    const size_t bytes = record_bytes(s);
    for (int i = 0; i < RECORDS; i++) {
        const int block = i / KV_HEADS, head = i % KV_HEADS;
        const unsigned char *record = after + (size_t)i * bytes;
        const int begin = block * s->block_tokens - t->first_token; /* row of its token 0 */
        if (begin >= t->rows) {                                     /* not in the call */
            CHECK(!memcmp(record, before + (size_t)i * bytes, bytes));
            continue;
        }
        for (int token = 0; token < s->block_tokens; token++) {
            const int row = begin + token, is_new = row >= 0 && row < t->rows;
            if (row < 0 && !t->fresh_first) {
                for (int is_v = 0; is_v < (s->value_in_key ? 1 : 2); is_v++)
                    for (int d = 0; d < (is_v ? s->value_dim : s->key_dim); d++) {
                        float f, g;
                        float x = stored(s, record, is_v, token, d, &f);
                        float y = stored(s, before + (size_t)i * bytes, is_v, token, d, &g);
                        CHECK(same(x, y) && same(f, g));
                    }
                continue;
            }
            const int64_t at = (int64_t)row * KV_HEADS + head;
            check_row(s, record, 0, token, is_new ? k + at * s->key_dim : NULL);
            if (!s->value_in_key)
                check_row(s, record, 1, token, is_new ? v + at * s->value_dim : NULL);
        }
    }
}

static void run(const trial *t, uint64_t seed)
{
    const banyan_block_shape *s = &t->shape;
    const size_t bytes = record_bytes(s), all = bytes * RECORDS;
    banyan_device_limits limits = {};
    limits.shape = *s;
    limits.packings = RECORDS;
    banyan_queue *queue = calls_open(&limits);
    float *k = (float *)malloc(ROWS * KV_HEADS * MOST_DIM * 4);
    float *v = (float *)malloc(ROWS * KV_HEADS * MOST_DIM * 4);
    void *device_k = make_rows(queue, t, s->key_dim, &seed, k);
    void *device_v = make_rows(queue, t, s->value_dim, &seed, v);

    unsigned char *before = (unsigned char *)malloc(all), *after = (unsigned char *)malloc(all);
    for (size_t i = 0; i < all; i++) before[i] = (unsigned char)test_random(&seed);
    unsigned char *records = (unsigned char *)calls_up(queue, before, all);
    banyan_packing packing[RECORDS];
    const int count = list(t, records, bytes, packing);
    RUNS(banyan_cuda_pack(queue, s, KV_HEADS, device_k, s->value_in_key ? NULL : device_v,
                          t->in_dtype, packing, count));
    memset(packing, 0xee, sizeof packing); /* the call has read them */
    calls_down(queue, after, records, all);
    check_records(t, before, after, k, v);
    CHECK(banyan_cuda_pack(queue, s, KV_HEADS, (char *)device_k + 8, device_v, t->in_dtype,
                           packing, 1));

    banyan_cuda_release(queue, 0, records);
    banyan_cuda_release(queue, 0, device_k);
    banyan_cuda_release(queue, 0, device_v);
    banyan_cuda_close(queue);
    free(before), free(after), free(k), free(v);
}

int main(void)
{
    static const banyan_dtype formats[] = {BANYAN_BF16, BANYAN_F16, BANYAN_E4M3};
    uint64_t random = 11;
    for (int f = 0; f < 3; f++)
        for (int in = BANYAN_F32; in <= BANYAN_F16; in++)
            for (int way = 0; way < 8; way++) {
                const int tokens = way < 4 ? 64 : 32;
                static const int dims[] = {64, 96, 128, 256};
                const int dim = dims[(f + in + way + way / 4) % 4];
                trial t = {{tokens, dim, dim, formats[f]}, (banyan_dtype)in};
                if (in == way % 4 && formats[f] != BANYAN_E4M3)
                    t.shape = {tokens, 576, 512, formats[f], 1};
                t.first_token = (int)test_below(&random, tokens);
                t.rows = 1 + (int)test_below(&random, 2 * tokens);
                if (way % 4 == 0) t.first_token = 0, t.rows = tokens; /* a whole block */
                if (way % 4 == 1) t.rows = 1;                         /* a decoded token */
                t.fresh_first = way % 2 == 0;
                t.wild = way % 4 == 3;
                run(&t, 100 + (uint64_t)(f * 32 + in * 8 + way));
            }
    return test_end();
}
