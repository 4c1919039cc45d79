/* SPDX-License-Identifier: Apache-2.0 */
/* A config file, read once: by rank 0, which gives the bytes (or the error) to all ranks, so that a
 * file that only one machine has, or that changes while ranks start, means the same everywhere. */
#include "launch/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { largest_config = 1 << 20, why_bytes = 1024 };

/* What rank 0 broadcasts before the bytes: the wire format, or, on failure, words. */
typedef struct verdict {
    int64_t bytes; /* -1: it failed */
    char why[why_bytes];
} verdict;

static char *read_text(const char *path, size_t *bytes, char *why)
{
    FILE *f = fopen(path, "rb");
    char *text = f ? malloc(largest_config + 1) : NULL;
    if (!text) {
        snprintf(why, why_bytes, "cannot read config \"%s\": %s", path, strerror(errno));
        if (f) fclose(f);
        return NULL;
    }
    *bytes = fread(text, 1, largest_config + 1, f);
    if (ferror(f)) {
        snprintf(why, why_bytes, "cannot read config \"%s\": %s", path, strerror(errno));
    } else if (*bytes > largest_config) {
        snprintf(why, why_bytes, "config \"%s\" is longer than %d bytes", path, largest_config);
    } else {
        fclose(f);
        return text;
    }
    fclose(f);
    free(text);
    return NULL;
}

static unsigned char *read_config(const char *path, verdict *v)
{
    size_t text_bytes, bytes;
    v->bytes = -1;
    char *text = read_text(path, &text_bytes, v->why), why[why_bytes - 256];
    if (!text) return NULL;
    unsigned char *wire = NULL;
    if (textformat_parse(text, text_bytes, &wire, &bytes, why, sizeof why))
        v->bytes = (int64_t)bytes;
    else
        snprintf(v->why, why_bytes, "%.200s:%s", path, why);
    free(text);
    return wire;
}

int config_load(const job *j, const char *path, Banyan__Config **out)
{
    verdict v = {0};
    unsigned char *wire = NULL;
    if (path && j->rank == 0) wire = read_config(path, &v);
    banyan_status status = path ? banyan_comm_broadcast(j->comm, &v, sizeof v, 0) : BANYAN_OK;
    if (!status && v.bytes > 0) {
        if (j->rank != 0) wire = malloc((size_t)v.bytes);
        status = banyan_comm_agree(j->comm, wire ? BANYAN_OK : BANYAN_ERR_MEMORY);
        if (!status) status = banyan_comm_broadcast(j->comm, wire, (size_t)v.bytes, 0);
    }
    int code = EXIT_OK;
    if (status) {
        code = job_failed(j, status, "sharing the config");
    } else if (v.bytes < 0) {
        say_error(j, "%s", v.why);
        code = EXIT_USAGE;
    } else {
        *out = banyan__config__unpack(NULL, (size_t)v.bytes, wire);
        if (!*out) {
            say_error(j, "config \"%s\" cannot be unpacked", path ? path : "");
            code = EXIT_FAILED;
        }
    }
    free(wire);
    return code;
}
