/* SPDX-License-Identifier: Apache-2.0 */
/* Records of the CUDA kernels: every number has a place of its own inside its tile, the parts
 * of a record do not overlap, and the orders that the kernels count on hold. */
#include "attention/cuda/record.h"
#include "tests/test.h"

enum { MOST = 64 * 576 * 2 };

/* Places as a mask of bytes; each byte is taken once. */
static void take(unsigned char *taken, uint32_t bytes, uint32_t at, uint32_t count)
{
    for (uint32_t i = at; i < at + count; i++) {
        CHECK_MSG(i < bytes && !taken[i], "byte %u of %u is out of it or taken", i, bytes);
        if (i < MOST) taken[i] = 1;
    }
}

static void test_16(uint32_t tokens, uint32_t dim)
{
    unsigned char taken[MOST] = {0};
    const uint32_t bytes = record16_tile_bytes(tokens, dim);
    CHECK(bytes == tokens * dim * 2 && bytes % 1024 == 0);
    for (uint32_t token = 0; token < tokens; token++)
        for (uint32_t d = 0; d < dim; d++)
            take(taken, bytes, record16_at(tokens, dim, token, d), 2);
}

static void test_8(uint32_t tokens, uint32_t dim)
{
    unsigned char taken[2][MOST] = {{0}};
    const uint32_t bytes = record8_tile_bytes(tokens, dim);
    CHECK(bytes == tokens * dim && bytes % 1024 == 0);
    for (uint32_t token = 0; token < tokens; token++) {
        for (uint32_t d = 0; d < dim; d++) {
            take(taken[0], bytes, record8_k_at(tokens, dim, token, d), 1);
            take(taken[1], bytes, record8_v_at(tokens, token, d), 1);
        }
    }
    CHECK(record8_v_tile(tokens, dim) == bytes);
    CHECK(record8_k_scales(tokens, dim, dim) == 2 * bytes);
    CHECK(record8_v_scales(tokens, dim, dim) == 2 * bytes + 4 * tokens);
    CHECK(record8_bytes(tokens, dim, dim) == 2 * tokens * dim + 8 * tokens &&
          record8_bytes(tokens, dim, dim) % 64 == 0);
}

/* Which bytes a lane gets of the eight rows whose 16-byte chunks begin at at(row): those of row
 * lane / 4 from 4 (lane % 4) on. As b of m16n8k16 they must be the numbers that a's columns
 * stand for. */
static void test_fragments(uint32_t tokens, uint32_t dim)
{
    for (uint32_t lane = 0; lane < 32; lane++) {
        const uint32_t n = lane / 4, c = lane % 4;
        for (uint32_t chunk = 0; chunk < dim / 16; chunk++)
            for (uint32_t e = 0; e < 4; e++)
                CHECK(record8_k_at(tokens, dim, 8 + n, 16 * chunk + 4 * c + e) ==
                      record8_k_at(tokens, dim, 8 + n, 16 * chunk) / 16 * 16 + 4 * c + e);
        for (uint32_t chunk = 0; chunk < tokens / 16; chunk++) {
            for (uint32_t e = 0; e < 4; e++) {
                const uint32_t token = 16 * chunk + 2 * c + e % 2 + e / 2 * 8;
                CHECK(record8_v_at(tokens, token, 24 + n) ==
                      record8_v_at(tokens, 16 * chunk, 24 + n) / 16 * 16 + 4 * c + e);
            }
        }
    }
}

/* ldmatrix and stores of 16 bytes go through in one pass when eight rows lie in different
 * banks. */
static void test_banks(uint32_t tokens)
{
    for (uint32_t chunk = 0; chunk < 8; chunk++) {
        unsigned panel = 0, panel96 = 0, k128 = 0, k64 = 0, k96 = 0, k256 = 0, v = 0;
        for (uint32_t row = 0; row < 8; row++) {
            panel |= 1u << (record16_at(tokens, 128, row, chunk * 8) / 16 % 8);
            panel96 |= 1u << (record16_at(tokens, 96, row, chunk * 8) / 16 % 8);
            k128 |= 1u << (record8_k_at(tokens, 128, row, chunk * 16) / 16 % 8);
            k256 |= 1u << (record8_k_at(tokens, 256, row, chunk * 16 + 128) / 16 % 8);
            k64 |= 1u << (record8_k_at(tokens, 64, row, chunk % 4 * 16) / 16 % 8);
            k96 |= 1u << (record8_k_at(tokens, 96, row, chunk % 6 * 16) / 16 % 8);
            v |= 1u << (record8_v_at(tokens, chunk % (tokens / 16) * 16, row) / 16 % 8);
        }
        CHECK(panel == 0xff && panel96 == 0xff && k128 == 0xff && k64 == 0xff && k96 == 0xff &&
              k256 == 0xff && v == 0xff);
    }
}

/* Head dims and blocks that there are kernels for, and how large a record of each is. */
static void test_dims(void)
{
    for (int32_t dim = 0; dim <= 640; dim++) {
        CHECK_MSG(record_has_dim(dim) == (dim == 64 || dim == 96 || dim == 128), "%d", dim);
        CHECK_MSG(record_is_wide(dim) == (dim == 256 || dim == 576), "%d", dim);
    }
    for (int32_t block = 16; block <= 256; block *= 2)
        CHECK_MSG(record_has_block(block) == (block > 16), "%d", block);
    /* rows of 128 bytes, of 64 where those do not fit: what loads and wgmma's descriptors count
     * on */
    CHECK(record16_at(64, 64, 8, 0) == 8 * 128 && record16_at(32, 576, 8, 0) == 8 * 128 &&
          record16_at(32, 96, 8, 0) == 8 * 64);
    CHECK(record16_bytes(64, 128, 64, 0) == 64 * (128 + 64) * 2);
    CHECK(record16_bytes(32, 576, 512, 1) == 32 * 576 * 2);
    CHECK(record8_k_scales(64, 96, 64) == 64 * (96 + 64));
}

int main(void)
{
    test_dims();
    for (uint32_t tokens = 32; tokens <= RECORD_TOKENS; tokens *= 2) {
        test_16(tokens, 576);
        for (uint32_t dim = 64; dim <= 256; dim += dim < 128 ? 32 : 128) {
            test_16(tokens, dim);
            test_8(tokens, dim);
            test_fragments(tokens, dim);
        }
        test_banks(tokens);
    }
    return test_end();
}
