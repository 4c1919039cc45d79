/* SPDX-License-Identifier: Apache-2.0 */
/* Token ids, as a tokeniser writes them: a file (or a pipe) of 32-bit little endian numbers. */
#include "launch/launch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool grow(uint32_t **ids, int64_t *capacity, int64_t room)
{
    int64_t more = 2 * *capacity + room + 1024;
    uint32_t *grown = realloc(*ids, (size_t)more * sizeof *grown);
    if (!grown) return false;
    *ids = grown;
    *capacity = more;
    return true;
}

/* The bytes of an id that was cut off, 0 at a proper end, 4 when memory ran out. */
static size_t read_all(FILE *f, int64_t room, uint32_t **ids, int64_t *count)
{
    unsigned char four[4];
    int64_t capacity = 0;
    size_t got;
    while ((got = fread(four, 1, 4, f)) == 4) {
        if (*count + room >= capacity && !grow(ids, &capacity, room)) return got;
        (*ids)[(*count)++] = four[0] | (uint32_t)four[1] << 8 | (uint32_t)four[2] << 16 |
                             (uint32_t)four[3] << 24;
    }
    return got;
}

uint32_t *ids_read(const char *path, int64_t room, int64_t *count, char *why, size_t why_bytes)
{
    uint32_t *ids = NULL;
    int64_t n = 0;
    FILE *f = fopen(path, "rb");
    size_t got = f ? read_all(f, room, &ids, &n) : 0;
    bool good = false;
    if (!f || ferror(f))
        snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
    else if (got == 4)
        snprintf(why, why_bytes, "%s: out of memory after %" PRId64 " ids", path, n);
    else if (got)
        snprintf(why, why_bytes, "%s: %zu bytes after the last id; ids have 4 bytes each", path,
                 got);
    else if (n == 0)
        snprintf(why, why_bytes, "%s: empty; expected at least one token id", path);
    else
        good = true;
    if (f) fclose(f);
    if (good) {
        *count = n;
        return ids;
    }
    free(ids);
    return NULL;
}

bool ids_check(const uint32_t *ids, int64_t count, int32_t vocab, const char *path, char *why,
               size_t why_bytes)
{
    int64_t i = 0;
    while (i < count && ids[i] < (uint32_t)vocab) i++;
    if (i == count) return true;
    snprintf(why, why_bytes,
             "%s: id %" PRIu32 " at position %" PRId64 " is beyond the vocabulary of %d", path,
             ids[i], i, (int)vocab);
    return false;
}
