/* SPDX-License-Identifier: Apache-2.0 */
/* vec_exp2 of the neon kernels, for exp2_test.c. */
#include "attention/attention.h"
#include "attention/vec_neon.h"

#include <string.h>

#include "attention/kernel_softmax.inc.h"
#include "tests/attention/exp2_test.h"

void exp2_neon(float *x, int count)
{
    for (int i = 0; i < count; i += VEC_LANES) vec_store(x + i, vec_exp2(vec_load(x + i)));
}
