/* SPDX-License-Identifier: Apache-2.0 */
/* A config file, read once: by rank 0, which gives the bytes (or the error) to all ranks, so
 * that a file that only one machine has, or that changes while ranks start, means the same
 * everywhere. */
#include "launch/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

/* "--NAME VALUE" or "--NAME=VALUE" at *words: the value, and *words at its last word. */
static const char *take_value(char **words, int *at, const char *name)
{
    const char *word = words[*at];
    const size_t length = strlen(name);
    if (strncmp(word, "--", 2) || strncmp(word + 2, name, length)) return NULL;
    if (word[2 + length] == '=') return word + 3 + length;
    if (word[2 + length] || !words[*at + 1]) return NULL;
    return words[++*at];
}

/* The file as this rank sees it; what can be read only once (a pipe) is left for rank 0. */
static void read_limit(const char *path, double *seconds)
{
    verdict v = {0};
    struct stat about;
    if (stat(path, &about) || !S_ISREG(about.st_mode)) return;
    unsigned char *wire = read_config(path, &v);
    Banyan__Config *c =
        v.bytes >= 0 ? banyan__config__unpack(NULL, (size_t)v.bytes, wire) : NULL;
    if (c && c->execution && c->execution->has_timeout) *seconds = c->execution->timeout;
    if (c) banyan__config__free_unpacked(c, NULL);
    free(wire);
}

double config_time_limit(char **words)
{
    static const char field[] = "execution.timeout=";
    double seconds = -1;
    for (int i = 0; words[i]; i++) {
        const char *path = take_value(words, &i, "config");
        if (path) read_limit(path, &seconds);
    }
    for (int i = 0; words[i]; i++) {
        const char *set = take_value(words, &i, "set");
        if (set && !strncmp(set, field, sizeof field - 1))
            seconds = strtod(set + sizeof field - 1, NULL);
    }
    return seconds >= 0 ? seconds : -1; /* NaN: -1 */
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
        if (!*out) say_error(j, "out of memory for the config");
        if (!job_all_good(j, *out != NULL)) code = EXIT_USAGE;
    }
    free(wire);
    return code;
}
