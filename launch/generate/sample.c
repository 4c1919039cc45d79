/* SPDX-License-Identifier: Apache-2.0 */
/* The next id, drawn: temperature, then the top_k most probable, then the fewest of them that
 * have top_p of the mass (Holtzman et al. 2020), in that order, as elsewhere. Equal logits: the
 * lower id first. The random number is a function of seed and position, so that nothing else
 * moves it. */
#include "launch/generate/generate.h"

#include <math.h>
#include <stdlib.h>

/* Below exp(-40) of the largest an id has no part in double sums. */
static const double far = 40;

static int by_logit(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* SplitMix64 (Steele, Lea, Flood 2014), of two numbers; [0, 1). */
static double uniform(uint64_t seed, int64_t position)
{
    uint64_t z = seed;
    for (int turn = 0; turn < 2; turn++) {
        z += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        if (turn == 0) z ^= (uint64_t)position;
    }
    return (double)(z >> 11) * 0x1p-53;
}

uint32_t sample(const sampling *s, const float *logits, int32_t vocab, int64_t position,
                scored *work)
{
    float top = logits[0];
    int64_t count = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > top) top = logits[i];
    double least = (double)top - far * s->temperature;
    for (int32_t i = 0; i < vocab; i++)
        if ((double)logits[i] >= least) work[count++] = (scored){logits[i], (uint32_t)i};
    qsort(work, (size_t)count, sizeof *work, by_logit);
    if (s->top_k > 0 && s->top_k < count) count = s->top_k;
    double sum = 0, kept = 0, seen = 0;
    for (int64_t i = 0; i < count; i++)
        sum += exp(((double)work[i].logit - top) / s->temperature);
    int64_t few = 0;
    while (few < count && (few == 0 || kept < s->top_p * sum))
        kept += exp(((double)work[few++].logit - top) / s->temperature);
    double drawn = uniform(s->seed, position) * kept;
    for (int64_t i = 0; i < few; i++) {
        seen += exp(((double)work[i].logit - top) / s->temperature);
        if (drawn < seen) return work[i].id;
    }
    return work[few - 1].id;
}
