/* SPDX-License-Identifier: Apache-2.0 */
/* Result files of a job: whole or absent (file.c), written by rank 0, agreed on by all. */
#include "launch/file.h"
#include "launch/launch.h"

#include <jansson.h>
#include <stdlib.h>

enum { reason_bytes = 4608 }; /* a path and some words */

struct output_file {
    whole_file *file;
};

/* One rank's verdict is everybody's. */
static bool agreed(const job *j, bool good)
{
    double bad = !good;
    if (j->comm && j->ranks > 1 && banyan_comm_allreduce(j->comm, &bad, 1, BANYAN_MAX))
        return false;
    return bad == 0;
}

output_file *output_open(const job *j, const char *path)
{
    char why[reason_bytes] = "out of memory";
    output_file *f = calloc(1, sizeof *f);
    if (f) f->file = whole_begin(j->rank == 0 ? path : "/dev/null", why, sizeof why);
    const bool good = f && f->file;
    if (!good) say_error(j, "%s", why);
    if (!good) free(f);
    if (agreed(j, good)) return f;
    if (good) output_close(f, &(job){.ranks = 1}, false); /* somebody else failed */
    return NULL;
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
    return agreed(j, good) ? EXIT_OK : EXIT_FAILED;
}

void output_line(FILE *out, json_t *line)
{
    if (!line) return;
    json_dumpf(line, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(line);
}
