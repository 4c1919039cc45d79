/* SPDX-License-Identifier: Apache-2.0 */
/* Result files of a job: whole or absent (file.c), written by rank 0, agreed on by all. */
#include "launch/command.h"
#include "launch/file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { reason_bytes = 4608 }; /* a path and some words */

struct output_file {
    whole_file *file;
    const char *path;  /* of one that waits to be asked for .. */
    output_file *next; /* .. in the job's list */
};

static output_file *open_new(const job *j, const char *path)
{
    char why[reason_bytes] = "out of memory";
    output_file *f = calloc(1, sizeof *f);
    if (f) f->file = whole_begin(j->rank == 0 ? path : "/dev/null", why, sizeof why);
    const bool good = f && f->file;
    if (!good) say_error(j, "%s", why);
    if (!good) free(f);
    if (job_all_good(j, good)) return f; /* rank 0 says what another had to say */
    if (good) output_close(f, &(job){.ranks = 1}, false); /* somebody else failed */
    return NULL;
}

output_file *output_open(const job *j, const char *path)
{
    for (output_file **at = j->early; at && *at; at = &(*at)->next) {
        output_file *f = *at;
        if (strcmp(f->path, path)) continue;
        *at = f->next;
        return f;
    }
    return open_new(j, path);
}

static bool open_early(job *j, const flag *f, const char *value)
{
    const char *path = f->field ? config_text(j->config, f->field) : value;
    if (!path || !f->arg || strcmp(f->arg, "OUTPUT")) return true;
    output_file *opened = open_new(j, path);
    if (!opened) return false;
    opened->path = path;
    opened->next = *j->early;
    *j->early = opened;
    return true;
}

int output_open_early(job *j)
{
    int i = 0;
    bool good = true;
    for (const flag *f = j->verb->flags; good && f && f->name; f++)
        good = open_early(j, f, j->value[i++]);
    for (const flag *f = common_flags; good && f->name; f++)
        good = open_early(j, f, j->value[i++]);
    return good ? EXIT_OK : EXIT_FAILED;
}

void output_drop_early(job *j)
{
    while (*j->early) {
        output_file *f = *j->early;
        *j->early = f->next;
        output_close(f, &(job){.ranks = 1}, false);
    }
}

FILE *output_stream(output_file *f)
{
    return whole_stream(f->file);
}

int output_close(output_file *f, const job *j, bool keep)
{
    if (!f) return EXIT_OK;
    char why[reason_bytes];
    const bool good = whole_end(f->file, keep, why, sizeof why);
    if (!good) say_error(j, "%s", why);
    free(f);
    return job_all_good(j, good) ? EXIT_OK : EXIT_FAILED;
}

void output_line(FILE *out, json_t *line)
{
    if (!line) return;
    json_dumpf(line, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(line);
}
