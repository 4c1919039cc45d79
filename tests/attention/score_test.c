/* SPDX-License-Identifier: Apache-2.0 */
/* score of every kernel that can run here: q . k of one query head's rows and all tokens of the
 * tile's blocks, against float64, within what launch/bounds.h derives for a score (1.). Tokens
 * that were never written may be anything; what lies behind the numbers is not touched. */
#include "attention/attention.h"
#include "launch/bounds.h"
#include "tests/oracle.h"
#include "tests/test.h"

#include <math.h>

enum { MOST_BLOCKS = 4, MOST_TOKENS = 256, ROWS = 9, GUARD_FLOATS = 16, TRIALS = 80 };

static float q[ROWS * BANYAN_MAX_DIM], k[MOST_BLOCKS * MOST_TOKENS * BANYAN_MAX_DIM];
static _Alignas(64) float out[MOST_BLOCKS * ROWS * MOST_TOKENS + GUARD_FLOATS];
static _Alignas(
    64) char records[MOST_BLOCKS][2 * sizeof(float) * MOST_TOKENS * BANYAN_MAX_DIM + 4096];

static int32_t draw_dim(uint64_t *seed)
{
    static const int32_t usual[] = {1, 2, 5, 16, 31, 32, 64, 80, 96, 128, 192, 256, 576};
    return usual[test_below(seed, (int64_t)(sizeof usual / sizeof *usual))];
}

/* Rows of a block, and zeros as values; k becomes what the record holds. */
static void pack_block(const banyan_kernel *kernel, const banyan_block_shape *shape,
                       int32_t block, int32_t rows, uint64_t *seed)
{
    static float v[MOST_TOKENS * BANYAN_MAX_DIM];
    float *keys = k + (int64_t)block * shape->block_tokens * shape->key_dim;
    const int64_t count = (int64_t)rows * shape->key_dim;
    for (int64_t i = 0; i < count; i++) keys[i] = test_normal(seed);
    memset(records[block], 0x5a, sizeof records[block]);
    kernel->pack(shape, records[block], 1, 0, rows, keys, shape->key_dim, v, shape->value_dim,
                 BANYAN_F32);
    oracle_round(keys, count, shape->dtype);
}

static void check_score(const banyan_kernel *kernel, const banyan_block_shape *shape,
                        float scale, int32_t block, int32_t row, int32_t token, float have)
{
    const float *query = q + (int64_t)row * shape->key_dim;
    const float *key = k + ((int64_t)block * shape->block_tokens + token) * shape->key_dim;
    double sum = 0, size = 0;
    for (int32_t d = 0; d < shape->key_dim; d++) {
        sum += (double)query[d] * (double)key[d];
        size += fabs((double)query[d] * (double)key[d]);
    }
    if (scale < 0) sum = -sum;
    const double most =
        size * (bound_gamma(shape->key_dim + 4) + bound_rounds(kernel->name, shape->dtype));
    CHECK_MSG(fabs((double)have - sum) <= most,
              "%s, %s, key_dim %d, scale %g: block %d, row %d, token %d: %.9g, expected %.9g",
              kernel->name, banyan_dtype_name(shape->dtype), (int)shape->key_dim, (double)scale,
              (int)block, (int)row, (int)token, (double)have, sum);
}

static void test_tile(const banyan_kernel *kernel, const banyan_block_shape *shape,
                      uint64_t *seed)
{
    static const float scales[] = {0.125f, -0.125f, 1};
    const int32_t blocks = 1 + (int32_t)test_below(seed, MOST_BLOCKS);
    const int32_t rows = 1 + (int32_t)test_below(seed, ROWS), tokens = shape->block_tokens;
    const int32_t last = 1 + (int32_t)test_below(seed, tokens); /* rows of the last block */
    const float scale = scales[test_below(seed, 3)];
    banyan_entry entry[MOST_BLOCKS];
    void *workspace = NULL;
    const size_t bytes = (kernel->workspace_bytes(shape, 1, rows) + 127) / 64 * 64;
    CHECK((workspace = aligned_alloc(64, bytes)) != NULL);
    memset(workspace, 0x5a, bytes);
    for (int32_t i = 0; i < rows * shape->key_dim; i++) q[i] = test_normal(seed);
    for (int32_t b = 0; b < blocks; b++) {
        pack_block(kernel, shape, b, b == blocks - 1 ? last : tokens, seed);
        entry[b] = (banyan_entry){.record = records[b], .block = 2 * b, .heads = 1, .edge = -1};
    }
    const banyan_tile tile = {.shape = *shape,
                              .scale = scale,
                              .heads = 1,
                              .rows = rows,
                              .at = (int64_t)2 * (blocks - 1) * tokens + last - 1,
                              .q = q,
                              .entry = entry,
                              .entries = blocks,
                              .end_token = INT64_MAX,
                              .workspace = workspace};
    const int64_t count = (int64_t)blocks * rows * tokens;
    for (int64_t i = 0; i < count + GUARD_FLOATS; i++) out[i] = 7;
    kernel->score(&tile, out);
    for (int i = 0; i < GUARD_FLOATS; i++) CHECK(out[count + i] == 7);
    for (int32_t b = 0; b < blocks; b++)
        for (int32_t row = 0; row < rows; row++)
            for (int32_t t = 0; t < (b == blocks - 1 ? last : tokens); t++)
                check_score(kernel, shape, scale, b, row, t,
                            out[((int64_t)b * rows + row) * tokens + t]);
    free(workspace);
}

int main(void)
{
    static const int32_t blocks[] = {16, 32, 64, 128, 256};
    const banyan_kernel *kernel;
    uint64_t seed = 3;
    int tried = 0;
    for (int i = 0; (kernel = banyan_kernel_row(i)); i++) {
        if (kernel->device || !kernel->attend || !kernel->usable()) continue;
        CHECK_MSG(kernel->score, "%s has no score", kernel->name);
        for (int n = 0; n < TRIALS && kernel->score; n++) {
            banyan_block_shape shape = {.block_tokens = blocks[test_below(&seed, 5)],
                                        .key_dim = draw_dim(&seed),
                                        .value_dim = draw_dim(&seed),
                                        .dtype = (banyan_dtype)(n % 3)};
            if (n % 7 == 0) {
                shape.value_in_key = 1;
                shape.value_dim = 1 + (int32_t)test_below(&seed, shape.key_dim);
            }
            if (!kernel->supports(&shape)) continue;
            test_tile(kernel, &shape, &seed);
            tried++;
        }
    }
    CHECK(tried > TRIALS / 2);
    return test_end();
}
