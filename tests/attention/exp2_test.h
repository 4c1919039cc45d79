/* SPDX-License-Identifier: Apache-2.0 */
/* x[i] = 2^x[i] for x <= 0, -inf and NaN; count is a multiple of 16. */
#ifndef BANYAN_EXP2_TEST_H
#define BANYAN_EXP2_TEST_H

void exp2_avx2(float *x, int count);
void exp2_avx512(float *x, int count);
void exp2_neon(float *x, int count);

#endif
