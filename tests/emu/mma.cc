/* SPDX-License-Identifier: Apache-2.0 */
/* ldmatrix and mma.sync: a warp's matrices, whose numbers are spread over its lanes. Layouts
 * from PTX ISA 9.0: ldmatrix 9.7.14.5.15, the fragments of mma.m16n8k16 9.7.14.5.8. */
#include "block.h"
#include "attention/cuda/ptx.h"

#include <string.h>

namespace emu
{

namespace
{
struct load_matrix {
    uint32_t *r;
    uint32_t row;
    bool transposed;
    site at;
};
struct multiply {
    float *c;
    const uint32_t *a;
    uint32_t b0, b1;
    emu_type type;
};
} // namespace

/* Matrix i: rows at the addresses of lanes 8 i .. 8 i + 7. Lane l gets elements (l / 4, 2 (l %
 * 4)) and the next of it, or of its transpose, lower column in the low half. */
static void load_all(void *const *lane, uint32_t)
{
    for (int i = 0; i < 4; i++) {
        uint16_t matrix[8][8];
        for (int row = 0; row < 8; row++) {
            const load_matrix &from = *(const load_matrix *)lane[8 * i + row];
            memcpy(matrix[row], shared_at(from.row, 16, 16, "ldmatrix", from.at), 16);
        }
        for (int l = 0; l < WARP; l++) {
            const load_matrix &to = *(const load_matrix *)lane[l];
            const int row = l / 4, column = l % 4 * 2;
            const uint32_t lo = to.transposed ? matrix[column][row] : matrix[row][column];
            const uint32_t hi =
                to.transposed ? matrix[column + 1][row] : matrix[row][column + 1];
            to.r[i] = lo | hi << 16;
        }
    }
}

static float number(uint32_t bits, emu_type type)
{
    return type == EMU_BF16 ? __uint_as_float(bits << 16)
                            : emu_float_from_half((unsigned short)bits);
}

static void multiply_all(void *const *lane, uint32_t)
{
    float a[16][16], b[16][8];
    for (int l = 0; l < WARP; l++) {
        const multiply &from = *(const multiply *)lane[l];
        const int group = l / 4, pair = l % 4 * 2;
        for (int half = 0; half < 2; half++) {
            const int shift = 16 * half;
            for (int i = 0; i < 4;
                 i++) /* a0, a2: row group; a1, a3: + 8; a2, a3: columns + 8 */
                a[group + i % 2 * 8][pair + half + i / 2 * 8] =
                    number(from.a[i] >> shift & 0xffff, from.type);
            b[pair + half][group] = number(from.b0 >> shift & 0xffff, from.type);
            b[pair + half + 8][group] = number(from.b1 >> shift & 0xffff, from.type);
        }
    }
    float sum[16][8] = {};
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) sum[i][j] += a[i][k] * b[k][j];
    for (int l = 0; l < WARP; l++) {
        float *const c = ((const multiply *)lane[l])->c;
        for (int i = 0; i < 4; i++) c[i] += sum[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
    }
}

} // namespace emu

using namespace emu;

void emu_ldmatrix4(uint32_t *r, uint32_t row, bool transposed, const char *file, int line)
{
    load_matrix mine = {r, row, transposed, {file, line}};
    shared_at(row, 16, 16, "ldmatrix", mine.at);
    meet_warp(MEET_LDMATRIX, 0xffffffff, &mine, load_all, mine.at);
}

void emu_mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1, emu_type type,
             const char *file, int line)
{
    multiply mine = {c, a, b0, b1, type};
    meet_warp(MEET_MMA, 0xffffffff, &mine, multiply_all, {file, line});
}
