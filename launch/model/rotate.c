/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding (Su et al., RoFormer, arXiv 2104.09864, section 3.2), in the
 * "rotate half" order of Hugging Face: pair i of a head is (x_i, x_{i+d/2}), turned by the
 * angle
 *
 *     p theta^(-2i/d)       at token p
 *
 * At a million tokens an angle in fp32 is off by 0.06 radians, so angles are fp64. sin and
 * cos of every (row, pair) would still cost more than the rest of a layer's element-wise
 * work; instead each 64 rows take one exact step (cos, sin of the first row), from which the
 * rows follow by one complex product in fp64:
 *
 *     e^{i (p + j) w} = e^{i p w} e^{i j w}      j < 64, the second factor from a fixed table
 *
 * whose error, a few 2^-53, vanishes in the rounding to fp32. */
#include "launch/isa.h"
#include "launch/model/rope.h"

#include <math.h>
#include <stdlib.h>

banyan_status rope_make(rope *r, const rope_params *p, double tokens)
{
    r->pairs = p->dims / 2;
    r->frequency = malloc((size_t)r->pairs * sizeof *r->frequency);
    r->step = malloc((size_t)ROPE_STEPS * 2 * (size_t)r->pairs * sizeof *r->step);
    if (!r->frequency || !r->step) return BANYAN_ERR_MEMORY;
    r->factor = p->row->make(p, tokens, r->frequency);
    for (int32_t j = 0; j < ROPE_STEPS; j++) {
        double *step = r->step + (int64_t)j * 2 * r->pairs;
        for (int32_t i = 0; i < r->pairs; i++) {
            step[i] = cos(j * r->frequency[i]);
            step[r->pairs + i] = sin(j * r->frequency[i]);
        }
    }
    return BANYAN_OK;
}

void rope_free(rope *r)
{
    free(r->frequency);
    free(r->step);
    *r = (rope){0};
}

EACH_ISA static void turn_row(const double *base, const double *step, int32_t pairs,
                              float *turn)
{
    for (int32_t i = 0; i < pairs; i++) {
        double c = base[i], s = base[pairs + i], dc = step[i], ds = step[pairs + i];
        turn[i] = (float)(c * dc - s * ds);
        turn[pairs + i] = (float)(s * dc + c * ds);
    }
}

void rope_table(const rope *r, int64_t at, int32_t rows, float *turn)
{
    double base[2 * ROPE_PAIRS];
    for (int32_t row = 0; row < rows; row++) {
        int32_t j = row % ROPE_STEPS;
        for (int32_t i = 0; j == 0 && i < r->pairs; i++) {
            double angle = (double)(at + row) * r->frequency[i];
            base[i] = r->factor * cos(angle);
            base[r->pairs + i] = r->factor * sin(angle);
        }
        turn_row(base, r->step + (int64_t)j * 2 * r->pairs, r->pairs,
                 turn + (int64_t)row * 2 * r->pairs);
    }
}

EACH_ISA void rope_turn(float *restrict x, int32_t heads, int32_t dim, int32_t pairs,
                        const float *restrict turn)
{
    for (int32_t h = 0; h < heads; h++, x += dim)
        for (int32_t i = 0; i < pairs; i++) {
            float a = x[i], b = x[pairs + i], c = turn[i], s = turn[pairs + i];
            x[i] = a * c - b * s;
            x[pairs + i] = b * c + a * s;
        }
}
