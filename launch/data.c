/* SPDX-License-Identifier: Apache-2.0 */
/* Values by hash. A row (one head of one token) has a 32-bit key from a 64-bit mix; value d of
 * it is
 *
 *     h = mix32(key + d * golden)          b0..b3 the bytes of h
 *     x = (b0 + b1 + b2 + b3 - 510) / sqrt(4 (256^2 - 1) / 12)
 *
 * the sum of four uniform numbers: mean 0, variance 1, exactly representable before one
 * division. The loop has no branch, table or 64-bit multiply, so a compiler turns it into
 * vector code. */
#include "launch/data.h"

#include "launch/isa.h"

#include <math.h>
#include <string.h>

/* With several versions of a function, the loader takes the best that the processor runs. */
static const float deviation_inverse = 1 / 147.80054f; /* sqrt(4 * 65535 / 12) */

/* SplitMix64's finaliser (Steele, Lea, Flood 2014). */
uint64_t data_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

EACH_ISA
static void fill_random(float *restrict out, uint32_t key, int32_t dim)
{
    for (int32_t d = 0; d < dim; d++) {
        uint32_t h = key + (uint32_t)d * 0x9e3779b9u;
        h = (h ^ (h >> 16)) * 0x85ebca6bu; /* the finaliser of MurmurHash3 (Appleby) */
        h = (h ^ (h >> 13)) * 0xc2b2ae35u;
        h ^= h >> 16;
        int32_t sum = (int32_t)((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24));
        out[d] = (float)(sum - 510) * deviation_inverse;
    }
}

void data_row(float *out, uint64_t seed, int what, int32_t layer, int64_t token, int32_t head,
              int32_t dim)
{
    uint64_t key = data_mix(seed ^ (uint64_t)what << 62 ^ (uint64_t)layer << 40);
    key = data_mix(key ^ (uint64_t)token);
    key = data_mix(key ^ (uint64_t)head);
    fill_random(out, (uint32_t)(key >> 32) ^ (uint32_t)key, dim);
}

EACH_ISA
static void round_bf16(float *restrict x, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
        memcpy(&x[i], &bits, sizeof bits);
    }
}

void data_round_bf16(float *x, int32_t count)
{
    round_bf16(x, count);
}

/* fp16 has 10 fraction bits down to 2^-14, and below that steps of 2^-24: there, adding a
 * number whose last bit is worth 2^-24 rounds for us. */
EACH_ISA
static void round_f16(float *restrict x, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const float step = 0x1.8p-1f;
        float shifted = x[i] + step; /* not simplified away: floats do not associate */
        float small = shifted - step, normal;
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        float size = x[i] < 0 ? -x[i] : x[i];
        bits = (bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000u;
        memcpy(&normal, &bits, sizeof normal);
        x[i] = size < 0x1p-14f ? small : normal;
    }
}

void data_round_f16(float *x, int32_t count)
{
    round_f16(x, count);
}

/* e4m3 has 3 fraction bits down to 2^-6, and below that steps of 2^-9. */
void data_round_e4m3(float *x, int32_t count)
{
    float largest = 0;
    for (int32_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(x[i]));
    const float factor = largest / 448;
    for (int32_t i = 0; factor > 0 && i < count; i++) {
        const float scaled = x[i] / factor, step = 0x1.8p14f;
        float small = scaled + step, normal;
        uint32_t bits;
        memcpy(&bits, &scaled, sizeof bits);
        bits = (bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff00000u;
        memcpy(&normal, &bits, sizeof normal);
        if (normal > 448) normal = 448; /* where the factor was rounded down */
        if (normal < -448) normal = -448;
        x[i] = factor * (fabsf(scaled) < 0x1p-6f ? small - step : normal);
    }
}

uint64_t data_hash_row(int32_t layer, int32_t head, int64_t token, const float *out,
                       int32_t dim)
{
    uint64_t h = data_mix((uint64_t)layer << 32 ^ (uint64_t)head) ^ (uint64_t)token;
    for (int32_t d = 0; d < dim; d++) {
        uint32_t bits;
        memcpy(&bits, &out[d], sizeof bits);
        h = (h ^ bits) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return data_mix(h);
}
