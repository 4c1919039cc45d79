/* SPDX-License-Identifier: Apache-2.0 */
/* Result files that are whole or absent: written beside their name, renamed when complete. What is
 * not a regular file (/dev/stdout, a pipe) is written in place. */
#include "launch/launch.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct output_file {
    FILE *stream;
    char *path, *partial; /* partial NULL: written in place */
};

/* One rank's verdict is everybody's. */
static bool agreed(const job *j, bool good)
{
    double bad = !good;
    if (j->comm && j->ranks > 1 && banyan_comm_allreduce(j->comm, &bad, 1, BANYAN_MAX))
        return false;
    return bad == 0;
}

static void output_free(output_file *f)
{
    if (!f) return;
    if (f->stream) fclose(f->stream);
    free(f->path);
    free(f->partial);
    free(f);
}

static output_file *open_here(const char *path)
{
    output_file *f = calloc(1, sizeof *f);
    struct stat info;
    if (!f || !(f->path = strdup(path))) return output_free(f), NULL;
    bool in_place = !stat(path, &info) && !S_ISREG(info.st_mode);
    if (!in_place) {
        size_t bytes = strlen(path) + sizeof ".partial";
        f->partial = malloc(bytes);
        if (!f->partial) return output_free(f), NULL;
        snprintf(f->partial, bytes, "%s.partial", path);
    }
    f->stream = fopen(in_place ? path : f->partial, "w");
    if (f->stream) return f;
    int error = errno;
    output_free(f);
    errno = error;
    return NULL;
}

output_file *output_open(const job *j, const char *path)
{
    output_file *f = open_here(j->rank == 0 ? path : "/dev/null");
    if (!f) say_error(j, "cannot write \"%s\": %s", path, strerror(errno));
    if (agreed(j, f != NULL)) return f;
    output_close(f, &(job){.ranks = 1}, false); /* somebody else failed */
    return NULL;
}

FILE *output_stream(output_file *f)
{
    return f->stream;
}

/* Why a write failed is forgotten by the time of closing; one byte more fails alike. */
static int write_error(FILE *stream)
{
    clearerr(stream);
    errno = 0;
    if (fputc('\n', stream) != EOF) fflush(stream);
    return errno;
}

int output_close(output_file *f, const job *j, bool keep)
{
    if (!f) return EXIT_OK;
    bool good = !ferror(f->stream);
    int error = good ? 0 : write_error(f->stream);
    if (fclose(f->stream) && good) {
        good = false;
        error = errno;
    }
    f->stream = NULL;
    if (good && keep && f->partial && rename(f->partial, f->path)) {
        good = false;
        error = errno;
    }
    if (f->partial && (!good || !keep)) remove(f->partial);
    if (!good && keep)
        say_error(j, "cannot write \"%s\": %s", f->path, strerror(error ? error : EIO));
    output_free(f);
    return agreed(j, good || !keep) ? EXIT_OK : EXIT_FAILED;
}

void output_line(FILE *out, json_t *line)
{
    if (!line) return;
    json_dumpf(line, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(line);
}
