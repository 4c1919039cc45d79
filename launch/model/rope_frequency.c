/* SPDX-License-Identifier: Apache-2.0 */
/* The angle per token of a pair of dims, before a kind of scaling changes it (RoFormer, section
 * 3.2.2). */
#include "launch/model/rope.h"

#include <math.h>

double rope_frequency(double theta, int32_t dims, int32_t pair)
{
    return pow(theta, -2.0 * pair / dims);
}
