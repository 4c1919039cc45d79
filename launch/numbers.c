/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as people write them, and orders of measured ones. */
#include "launch/launch.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int number_suffix(char c)
{
    const char *suffixes = "kmg", *at = c ? strchr(suffixes, tolower((unsigned char)c)) : NULL;
    return at ? 10 * (int)(at - suffixes + 1) : 0;
}

bool number_read(const char *text, int64_t low, uint64_t high, int64_t *out)
{
    char *end;
    errno = 0;
    bool minus = text[0] == '-';
    if (!isdigit((unsigned char)text[minus])) return false;
    uint64_t size = strtoull(text + minus, &end, 10);
    int suffix = number_suffix(*end);
    if (suffix) {
        if (__builtin_mul_overflow(size, (uint64_t)1 << suffix, &size)) return false;
        end++;
    }
    if (errno || *end) return false;
    const uint64_t least =
        low < 0 ? 0 - (uint64_t)low : 0; /* its size; INT64_MIN has one, too */
    if (size > (minus ? least : high) || (low > 0 && size < (uint64_t)low)) return false;
    *out = (int64_t)(minus ? 0 - size : size);
    return true;
}

static int compare_numbers(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void numbers_sort(double *values, int count)
{
    if (count > 0) qsort(values, (size_t)count, sizeof *values, compare_numbers);
}

static double middle(const double *sorted, int count)
{
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

double numbers_median(double *values, int count)
{
    numbers_sort(values, count);
    return middle(values, count);
}

double numbers_spread(const double *sorted, int count)
{
    return (sorted[count * 3 / 4] - sorted[count / 4]) / 2 / middle(sorted, count);
}

double numbers_percentile(const double *sorted, int count, double share)
{
    const int at = (int)ceil(share * count) - 1;
    return sorted[at < 0 ? 0 : at];
}
