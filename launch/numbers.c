/* SPDX-License-Identifier: Apache-2.0 */
/* Orders of measured numbers. */
#include "launch/launch.h"

#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void numbers_sort(double *values, int count)
{
    if (count > 0) qsort(values, (size_t)count, sizeof *values, compare);
}

double numbers_median(double *values, int count)
{
    numbers_sort(values, count);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}
