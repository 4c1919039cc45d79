/* SPDX-License-Identifier: Apache-2.0 */
/* Added tokens are found wherever they stand in a text: the longest that begins at a place,
 * places from left to right. They are sorted by their bytes, so that those which agree with the
 * text so far are a range that each further byte narrows. */
#include "launch/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *a, const void *b)
{
    const added_token *x = a, *y = b;
    size_t common = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->data, y->data, common);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

void added_sort(added_set *set)
{
    if (set->count) qsort(set->token, (size_t)set->count, sizeof *set->token, by_bytes);
    for (int32_t i = 0; i < set->count; i++)
        if (set->token[i].bytes) set->begins[(unsigned char)set->token[i].data[0]] = true;
}

/* The first of low .. high-1, all longer than `depth`, whose byte at `depth` is at least
 * `byte`. */
static int32_t lower(const added_set *set, int32_t low, int32_t high, size_t depth, int byte)
{
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if ((unsigned char)set->token[middle].data[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const added_token *added_match(const added_set *set, const char *s, size_t n)
{
    const added_token *best = NULL;
    int32_t low = 0, high = set->count;
    if (!n || !set->begins[(unsigned char)s[0]]) return NULL;
    for (size_t depth = 0; low < high; depth++) {
        if (set->token[low].bytes == depth)
            best = &set->token[low++]; /* the shortest comes first */
        if (depth == n) break;
        int byte = (unsigned char)s[depth];
        low = lower(set, low, high, depth, byte);
        high = lower(set, low, high, depth, byte + 1);
    }
    return best && best->bytes ? best : NULL;
}
