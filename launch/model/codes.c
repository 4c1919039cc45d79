/* SPDX-License-Identifier: Apache-2.0 */
/* The code of a token: 128 signs, so different from every other code that a sharp softmax can
 * tell 32768 tokens apart by the worst pair, not the average one.
 *
 * A codeword of the Reed-Muller code RM(2,5) is a quadratic form over GF(2), sum of x_i b_i +
 * x_i x_j b_ij, evaluated on the 32 points of GF(2)^5: 5 + 10 = 15 coefficients, the bits of an
 * id. Two words agree in all but d >= 8 places, so their signs' inner product is at most 16 of
 * 32 (MacWilliams and Sloane, The Theory of Error-Correcting Codes, chapter 13). The first 32
 * signs of a code, which keys and queries use, are this word; the other 96 are the words of M_1
 * id, M_2 id, M_3 id, for three invertible 15 x 15 matrices that were drawn at random until no
 * difference of ids is bad under all four at once: inner products of whole codes are at most 40
 * of 128. The code is linear, so trying all 32767 differences proves it, which a test does. */
#include "launch/model/model.h"

#include <string.h>

enum { ID_BITS = 15, POINTS = 32 };

/* Columns of M_1, M_2, M_3. */
static const uint16_t maps[3][ID_BITS] = {
    {0x38aa, 0x2738, 0x6e49, 0x3f47, 0x01f4, 0x661a, 0x4c22, 0x106a, 0x0612, 0x4d6d, 0x4603,
     0x7d47, 0x1399, 0x43ee, 0x3fa1},
    {0x63cd, 0x0105, 0x36e9, 0x32b9, 0x5dc9, 0x65ba, 0x3b6c, 0x01c4, 0x3d9c, 0x2e9a, 0x2e14,
     0x7142, 0x1ab9, 0x2125, 0x2da8},
    {0x27d4, 0x77a9, 0x0b81, 0x226a, 0x2e79, 0x1bee, 0x65ad, 0x7e8a, 0x2d5c, 0x2636, 0x4c3c,
     0x162c, 0x7ac0, 0x1a3c, 0x64b9}};

static uint32_t apply_map(const uint16_t map[ID_BITS], uint32_t id)
{
    uint32_t out = 0;
    for (int i = 0; i < ID_BITS; i++)
        if (id >> i & 1) out ^= map[i];
    return out;
}

/* Bit p: the form with coefficients `id` at point p. */
static uint32_t evaluate(uint32_t id)
{
    static const uint32_t x[5] = {0xaaaaaaaau, 0xccccccccu, 0xf0f0f0f0u, 0xff00ff00u,
                                  0xffff0000u};
    uint32_t word = 0;
    int bit = 5;
    for (int i = 0; i < 5; i++) {
        if (id >> i & 1) word ^= x[i];
        for (int j = i + 1; j < 5; j++, bit++)
            if (id >> bit & 1) word ^= x[i] & x[j];
    }
    return word;
}

void constructed_code(uint32_t id, int8_t code[CONSTRUCTED_CODE])
{
    if (id < CONSTRUCTED_NULLS) {
        memset(code, 0, CONSTRUCTED_CODE);
        return;
    }
    for (int block = 0; block < CONSTRUCTED_CODE / POINTS; block++) {
        uint32_t word = evaluate(block == 0 ? id : apply_map(maps[block - 1], id));
        for (int p = 0; p < POINTS; p++) code[block * POINTS + p] = word >> p & 1 ? -1 : 1;
    }
}
