/* SPDX-License-Identifier: Apache-2.0 */
/* What programs are given to read: whole inputs, and token ids in them, as 32-bit little endian
 * numbers or as decimal text ("1 15 7", "[1, 15, 7]", one a line). The two cannot be taken for
 * each other: four digits or blanks are a number beyond every vocabulary. */
#include "launch/launch.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

char *input_read(const char *path, size_t *bytes, char *why, size_t why_bytes)
{
    bool standard = !strcmp(path, "-");
    FILE *f = standard ? stdin : fopen(path, "rb");
    size_t count = 0, room = 0, got;
    char *data = NULL, *grown;
    if (!f) {
        snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
        return NULL;
    }
    do { /* one byte is kept for a 0 behind all */
        room = room ? 2 * room : 1 << 16;
        grown = realloc(data, room);
        if (!grown) break;
        data = grown;
        got = fread(data + count, 1, room - 1 - count, f);
        count += got;
    } while (count == room - 1);
    if (!grown)
        snprintf(why, why_bytes, "%s: out of memory after %zu bytes", path, count);
    else if (ferror(f))
        snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
    bool good = grown && !ferror(f);
    if (!standard) fclose(f);
    if (!good) {
        free(data);
        return NULL;
    }
    data[count] = 0;
    *bytes = count;
    return data;
}

static bool is_between(char c)
{
    return isspace((unsigned char)c) || c == ',' || c == '[' || c == ']';
}

static bool is_decimal(const char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!is_between(data[i]) && !isdigit((unsigned char)data[i])) return false;
    return true;
}

static int64_t read_decimal(const char *data, uint32_t *ids, char *why, size_t why_bytes)
{
    int64_t count = 0;
    for (;;) {
        while (*data && is_between(*data)) data++;
        if (!*data) break;
        int digits = (int)strspn(data, "0123456789");
        errno = 0;
        unsigned long long value = strtoull(data, NULL, 10);
        if (errno || value > UINT32_MAX) {
            snprintf(why, why_bytes, "id %.*s at position %" PRId64 " is beyond 32 bits",
                     digits, data, count);
            return 0;
        }
        ids[count++] = (uint32_t)value;
        data += digits;
    }
    if (!count) snprintf(why, why_bytes, "no token id in it; expected one at least");
    return count;
}

/* Every second number 0, and the others not: ids as NumPy and torch write them by default. */
static bool has_8_bytes(const uint32_t *ids, int64_t count)
{
    bool low = false;
    for (int64_t i = 0; i + 1 < count; i += 2) {
        low = low || ids[i];
        if (ids[i + 1]) return false;
    }
    return low && count % 2 == 0;
}

static int64_t read_binary(const char *data, size_t bytes, uint32_t *ids, char *why,
                           size_t why_bytes)
{
    const unsigned char *u = (const unsigned char *)data;
    int64_t count = (int64_t)(bytes / 4);
    for (int64_t i = 0; i < count; i++, u += 4)
        ids[i] = u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
    if (bytes >= 6 && !memcmp(data, "\x93NUMPY", 6))
        snprintf(why, why_bytes,
                 "a NumPy file; expected bare numbers: ids.astype(\"<u4\").tofile");
    else if (bytes % 4)
        snprintf(why, why_bytes, "%zu bytes after the last id; ids have 4 bytes each",
                 bytes % 4);
    else if (has_8_bytes(ids, count))
        snprintf(why, why_bytes,
                 "every second number is 0: these are %" PRId64
                 " ids of 8 bytes; expected 4 bytes each, or decimal text",
                 count / 2);
    else
        return count;
    return 0;
}

uint32_t *ids_read(const char *path, int64_t room, int64_t *count, char *why, size_t why_bytes)
{
    size_t bytes;
    char *data = input_read(path, &bytes, why, why_bytes), reason[256] = "";
    if (!data) return NULL;
    /* decimal text has at most one id in two bytes */
    uint32_t *ids = malloc((bytes / 2 + 1 + (size_t)room) * sizeof *ids);
    int64_t got = 0;
    if (!ids)
        snprintf(reason, sizeof reason, "out of memory for %zu bytes of ids", bytes);
    else if (bytes == 0)
        snprintf(reason, sizeof reason, "empty; expected at least one token id");
    else if (is_decimal(data, bytes))
        got = read_decimal(data, ids, reason, sizeof reason);
    else
        got = read_binary(data, bytes, ids, reason, sizeof reason);
    free(data);
    if (got) return *count = got, ids;
    snprintf(why, why_bytes, "%s: %s", path, reason);
    free(ids);
    return NULL;
}

int ids_share(const job *j, const char *path, int64_t room, uint32_t **ids, int64_t *count)
{
    int64_t n = 0;
    uint32_t *list = NULL;
    char why[1024];
    if (j->rank == 0) list = ids_read(path, room, &n, why, sizeof why);
    if (j->rank == 0 && !list) say_error(j, "%s", why);
    banyan_status status = banyan_comm_broadcast(j->comm, &n, sizeof n, 0);
    if (status) {
        free(list);
        return job_failed(j, status, "sharing token ids");
    }
    if (n == 0) return EXIT_USAGE;
    if (j->rank != 0) list = malloc((size_t)(n + room) * sizeof *list);
    status = banyan_comm_agree(j->comm, list ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status) status = banyan_comm_broadcast(j->comm, list, (size_t)n * sizeof *list, 0);
    if (status) {
        free(list);
        return job_failed(j, status, "sharing token ids");
    }
    *ids = list;
    *count = n;
    return EXIT_OK;
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
