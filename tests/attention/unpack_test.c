/* SPDX-License-Identifier: Apache-2.0 */
/* unpack and restore of every kernel: rows come out of a record as they were packed, in the
 * record's format, and a record that is made of them has the same bytes. Records of the CUDA
 * kernels are made and read by the host alone here; that a device makes the same is
 * tests/attention/cuda_pack_test.cu's. */
#include "attention/cuda/plain.h"
#include "attention/cuda/record.h"
#include "tests/test.h"

enum { MOST_TOKENS = 256, TRIALS = 60 };

static float wide[MOST_TOKENS * BANYAN_MAX_DIM];
static char k_in[sizeof wide], v_in[sizeof wide], k_out[sizeof wide], v_out[sizeof wide];
static _Alignas(64) char record[2 * sizeof wide + 4096], other[sizeof record];

static int32_t draw_dim(uint64_t *seed)
{
    static const int32_t usual[] = {1, 2, 3, 8, 16, 33, 64, 80, 128, 192, 576};
    return usual[test_below(seed, (int64_t)(sizeof usual / sizeof *usual))];
}

static void draw_rows(banyan_dtype dtype, int64_t count, void *rows, uint64_t *seed)
{
    for (int64_t i = 0; i < count; i++) wide[i] = test_normal(seed);
    if (test_below(seed, 4) == 0) wide[test_below(seed, count)] = 1e38f * 10; /* inf */
    banyan_from_float(rows, dtype, wide, count);
}

static void test_shape(const banyan_kernel *kernel, const banyan_block_shape *shape,
                       int32_t rows, uint64_t *seed)
{
    const size_t element = banyan_dtype_bytes(shape->dtype);
    const size_t bytes = kernel->record_bytes(shape);
    const size_t k_bytes = (size_t)rows * (size_t)shape->key_dim * element;
    const size_t v_bytes = (size_t)rows * (size_t)shape->value_dim * element;
    const banyan_plain in = {.k = k_in, .v = v_in}, out = {.k = k_out, .v = v_out};
    draw_rows(shape->dtype, (int64_t)rows * shape->key_dim, k_in, seed);
    draw_rows(shape->dtype, (int64_t)rows * shape->value_dim, v_in, seed);
    memset(record, 0x5a, sizeof record);
    memset(other, 0x5a, sizeof other);
    banyan_kernel_restore(kernel, shape, record, rows, &in);
    memset(k_out, 1, sizeof k_out);
    memset(v_out, 1, sizeof v_out);
    kernel->unpack(shape, record, rows, &out);
    CHECK_MSG(!memcmp(k_in, k_out, k_bytes) && k_out[k_bytes] == 1, "%s, %s, key_dim %d",
              kernel->name, banyan_dtype_name(shape->dtype), (int)shape->key_dim);
    if (!shape->value_in_key)
        CHECK_MSG(!memcmp(v_in, v_out, v_bytes) && v_out[v_bytes] == 1, "%s, %s, value_dim %d",
                  kernel->name, banyan_dtype_name(shape->dtype), (int)shape->value_dim);
    banyan_kernel_restore(kernel, shape, other, rows, &out);
    CHECK_MSG(!memcmp(record, other, kernel->device ? bytes : sizeof record),
              "%s: another record", kernel->name);
}

static void test_kernel(const banyan_kernel *kernel, uint64_t *seed)
{
    static const int32_t blocks[] = {16, 32, 64, 128, 256};
    for (int i = 0; i < TRIALS; i++) {
        const banyan_block_shape shape = {.block_tokens = blocks[test_below(seed, 5)],
                                          .key_dim = draw_dim(seed),
                                          .value_dim = draw_dim(seed),
                                          .dtype = (banyan_dtype)(i % 3),
                                          .value_in_key = 0};
        banyan_block_shape in_key = shape;
        in_key.value_in_key = 1;
        in_key.value_dim = 1 + (int32_t)test_below(seed, in_key.key_dim);
        const int32_t rows = 1 + (int32_t)test_below(seed, shape.block_tokens);
        if (kernel->supports(&shape)) test_shape(kernel, &shape, rows, seed);
        if (kernel->supports(&in_key)) test_shape(kernel, &in_key, rows, seed);
    }
}

/* By the table of record.h: each number where it says. */
static void test_cuda(int32_t tokens, int32_t dim, banyan_dtype dtype, int32_t rows,
                      uint64_t *seed)
{
    const int in_key = dim == 576; /* value_in_key: the first 512 */
    const banyan_block_shape shape = {.block_tokens = tokens,
                                      .key_dim = dim,
                                      .value_dim = in_key ? 512 : dim,
                                      .dtype = dtype,
                                      .value_in_key = in_key};
    static float k_factor[64], v_factor[64], k_back[64], v_back[64];
    const banyan_plain in = {k_in, v_in, k_factor, v_factor};
    const banyan_plain out = {k_out, v_out, k_back, v_back};
    const uint32_t d32 = (uint32_t)dim, n = (uint32_t)tokens;
    const size_t row = (size_t)dim * banyan_dtype_bytes(dtype);
    for (size_t i = 0; i < 64 * row; i++) k_in[i] = (char)test_random(seed);
    for (size_t i = 0; i < 64 * row; i++) v_in[i] = (char)test_random(seed);
    for (int i = 0; i < 64; i++) k_factor[i] = test_normal(seed), v_factor[i] = -k_factor[i];
    memset(record, 0x5a, sizeof record);
    banyan_cuda_restore(&shape, record, rows, &in);
    banyan_cuda_unpack(&shape, record, rows, &out);
    CHECK(!memcmp(k_in, k_out, (size_t)rows * row));
    CHECK(in_key || !memcmp(v_in, v_out, (size_t)rows * row));
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t d = 0; d < d32; d++) {
            const int is_there = t < (uint32_t)rows;
            if (dtype == BANYAN_E4M3) {
                const size_t at = t * row + d;
                CHECK(record[record8_k_at(n, d32, t, d)] == (is_there ? k_in[at] : 0));
                CHECK(record[record8_v_tile(n, d32) + record8_v_at(n, t, d)] ==
                      (is_there ? v_in[at] : 0));
            } else {
                const char *k = record + record16_at(n, d32, t, d);
                const char *v = k + record16_tile_bytes(n, d32), zero[2] = {0, 0};
                CHECK(!memcmp(k, is_there ? k_in + t * row + 2 * d : zero, 2));
                CHECK(in_key || !memcmp(v, is_there ? v_in + t * row + 2 * d : zero, 2));
            }
        }
    if (dtype == BANYAN_E4M3)
        CHECK(!memcmp(k_factor, k_back, (size_t)rows * 4) &&
              !memcmp(v_factor, v_back, (size_t)rows * 4));
}

/* A block of 128 tokens: two records, one behind the other, of the first 64 and of the
 * others. */
static void test_cuda_slots(banyan_dtype dtype, int32_t rows, uint64_t *seed)
{
    enum { DIM = 96, SLOT = 64 };
    const banyan_block_shape two = {2 * SLOT, DIM, DIM, dtype, 0},
                             one = {SLOT, DIM, DIM, dtype, 0};
    static float k_factor[2 * SLOT], v_factor[2 * SLOT], k_back[2 * SLOT], v_back[2 * SLOT];
    const size_t row = DIM * banyan_dtype_bytes(dtype), bytes = banyan_cuda_slot_bytes(&one);
    const banyan_plain in = {k_in, v_in, k_factor, v_factor};
    const banyan_plain out = {k_out, v_out, k_back, v_back};
    for (size_t i = 0; i < 2 * SLOT * row; i++) k_in[i] = (char)test_random(seed);
    for (size_t i = 0; i < 2 * SLOT * row; i++) v_in[i] = (char)test_random(seed);
    for (int i = 0; i < 2 * SLOT; i++)
        k_factor[i] = test_normal(seed), v_factor[i] = -k_factor[i];
    memset(record, 0x5a, sizeof record);
    memset(other, 0x5a, sizeof other);
    banyan_cuda_restore(&two, record, rows, &in);
    for (int32_t first = 0; first < 2 * SLOT; first += SLOT) {
        const banyan_plain half = {k_in + (size_t)first * row, v_in + (size_t)first * row,
                                   k_factor + first, v_factor + first};
        const int32_t left = rows < first ? 0 : rows - first;
        banyan_cuda_restore(&one, other + (first ? bytes : 0), left < SLOT ? left : SLOT,
                            &half);
    }
    CHECK(!memcmp(record, other, sizeof record));
    banyan_cuda_unpack(&two, record, rows, &out);
    CHECK(!memcmp(k_in, k_out, (size_t)rows * row) && !memcmp(v_in, v_out, (size_t)rows * row));
    if (dtype == BANYAN_E4M3)
        CHECK(!memcmp(k_factor, k_back, (size_t)rows * 4) &&
              !memcmp(v_factor, v_back, (size_t)rows * 4));
}

int main(void)
{
    uint64_t seed = 5;
    const banyan_kernel *kernel;
    for (int i = 0; (kernel = banyan_kernel_row(i)); i++) {
        const int is_built = kernel->attend || kernel->device;
        CHECK_MSG(!is_built || kernel->unpack, "%s has no unpack", kernel->name);
        if (kernel->attend && kernel->usable() && kernel->unpack) test_kernel(kernel, &seed);
    }
    for (int dim = 64; dim <= 256; dim += dim < 128 ? 32 : 128)
        for (int rows = 1; rows <= 64; rows += 21) {
            for (int tokens = 32; tokens <= 64; tokens += 32) {
                const int some = rows < tokens ? rows : tokens;
                test_cuda(tokens, dim, BANYAN_BF16, some, &seed);
                test_cuda(tokens, dim, BANYAN_E4M3, some, &seed);
                test_cuda(tokens, 576, BANYAN_BF16, some, &seed);
            }
            test_cuda_slots(BANYAN_F16, 2 * rows, &seed);
            test_cuda_slots(BANYAN_E4M3, 2 * rows, &seed);
        }
    return test_end();
}
