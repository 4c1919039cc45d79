/* SPDX-License-Identifier: Apache-2.0 */
/* The results file: one JSON object per line, a cell each, on disk as soon as the cell is done. The
 * first line says what was run; a second run with the same settings skips the cells that are there.
 * A new file appears with its first cell, so that a run which is refused leaves none.
 * A run that was killed may leave half a line at the end: it is cut off and measured again. */
#include "launch/needle/needle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct results {
    FILE *file;
    char *path;
    json_t *all;    /* array of records */
    json_t *cells;  /* object: cell -> true */
    json_t *header; /* not yet written; NULL: it is */
    int64_t cut;
    off_t good; /* bytes of whole lines */
    bool is_new;
};

void results_close(results *r)
{
    if (!r) return;
    if (r->file) fclose(r->file);
    json_decref(r->all);
    json_decref(r->cells);
    json_decref(r->header);
    free(r->path);
    free(r);
}

/* After a failure nothing of the line remains, and of a new file nothing at all. */
static void drop_line(results *r)
{
    struct stat about;
    bool regular = fstat(fileno(r->file), &about) == 0 && S_ISREG(about.st_mode);
    fclose(r->file); /* which may write what is left in its buffer */
    r->file = NULL;
    bool empty = r->is_new && r->good == 0;
    int left = regular ? empty ? unlink(r->path) : truncate(r->path, r->good) : 0;
    (void)left; /* the next run cuts what is left */
}

static bool write_line(results *r, json_t *record, char *why, size_t why_bytes)
{
    char *text =
        json_dumps(record, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    bool ok = text && fputs(text, r->file) >= 0 && fputc('\n', r->file) != EOF &&
              fflush(r->file) == 0;
    if (ok) {
        r->good += (off_t)strlen(text) + 1;
    } else {
        snprintf(why, why_bytes, "cannot write %s: %s", r->path,
                 text ? strerror(errno) : "out of memory");
        drop_line(r);
    }
    free(text);
    return ok;
}

/* What differs first between the file's header and this run's, in words. */
static bool same_header(const results *r, const json_t *old, const json_t *now, char *why,
                        size_t why_bytes)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)now, name, value)
    {
        const json_t *was = json_object_get(old, name);
        if (was && json_equal(was, value)) continue;
        char *a = was ? json_dumps(was, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
        char *b = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        snprintf(why, why_bytes,
                 "%s holds results of another configuration: %s was %s, now it is %s; name "
                 "another file or remove this one",
                 r->path, name, a ? a : "not given", b ? b : "?");
        free(a);
        free(b);
        return false;
    }
    return true;
}

/* Line `number` (from 1) of an existing file. */
static bool take_line(results *r, const char *line, size_t bytes, int number,
                      const json_t *header, char *why, size_t why_bytes)
{
    json_error_t error;
    json_t *record = json_loadb(line, bytes, 0, &error);
    const json_t *old = json_object_get(record, "banyan_needle");
    const char *cell = json_string_value(json_object_get(record, "cell"));
    bool ok = true;
    if (number == 1 && !old) {
        snprintf(why, why_bytes, "%s is not a results file of banyan needle", r->path);
        ok = false;
    } else if (number == 1) {
        ok = same_header(r, old, header, why, why_bytes);
    } else if (!cell) {
        snprintf(why, why_bytes, "%s: line %d is no result: %s", r->path, number,
                 record ? "it names no cell" : error.text);
        ok = false;
    } else if (!json_object_get(r->cells, cell)) {
        json_object_set_new(r->cells, cell, json_true());
        json_array_append(r->all, record);
    }
    json_decref(record);
    return ok;
}

static banyan_status read_lines(results *r, const json_t *header, int *lines, char *why,
                                size_t why_bytes)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t got;
    off_t good = 0;
    banyan_status status = BANYAN_OK;
    while (status == BANYAN_OK && (got = getline(&line, &room, r->file)) > 0) {
        if (line[got - 1] != '\n') {
            r->cut = got;
            break;
        }
        if (!take_line(r, line, (size_t)got, ++*lines, header, why, why_bytes))
            status = BANYAN_ERR_CONFIG;
        good += got;
    }
    r->good = good;
    free(line);
    if (status == BANYAN_OK && (fseeko(r->file, good, SEEK_SET) != 0 ||
                                (r->cut && ftruncate(fileno(r->file), good) != 0))) {
        snprintf(why, why_bytes, "cannot cut %s at byte %lld: %s", r->path, (long long)good,
                 strerror(errno));
        status = BANYAN_ERR_COMM;
    }
    return status;
}

/* What is there, or the directory where it will be. */
static bool can_be_written(const char *path)
{
    if (access(path, F_OK) == 0) return access(path, W_OK) == 0;
    const char *slash = strrchr(path, '/');
    if (!slash) return access(".", W_OK) == 0;
    char *dir = strndup(path, (size_t)(slash - path) + 1);
    bool good = dir && access(dir, W_OK) == 0;
    free(dir);
    return good;
}

banyan_status results_open(const char *path, json_t *header, results **out, char *why,
                           size_t why_bytes)
{
    results *r = calloc(1, sizeof *r);
    banyan_status status = BANYAN_ERR_MEMORY;
    snprintf(why, why_bytes, "out of memory");
    if (!r || !(r->path = strdup(path)) || !(r->all = json_array()) ||
        !(r->cells = json_object()))
        goto failed;
    struct stat about;
    status = BANYAN_ERR_CONFIG;
    if (stat(path, &about) == 0 && S_ISREG(about.st_mode)) {
        int lines = 0;
        r->file = fopen(path, "r+");
        if (!r->file) goto unwritable;
        status = read_lines(r, header, &lines, why, why_bytes);
        if (status != BANYAN_OK) goto failed;
        if (lines == 0) r->header = json_incref(header);
    } else {
        if (!can_be_written(path)) goto unwritable;
        r->header = json_incref(header);
    }
    *out = r;
    return BANYAN_OK;
unwritable:
    snprintf(why, why_bytes, "cannot write results to %s: %s", path, strerror(errno));
failed:
    results_close(r);
    return status;
}

static bool write_header(results *r, char *why, size_t why_bytes)
{
    if (!r->file) {
        r->is_new = true;
        r->file = fopen(r->path, "w");
    }
    if (!r->file) {
        snprintf(why, why_bytes, "cannot write results to %s: %s", r->path, strerror(errno));
        return false;
    }
    json_t *first = json_pack("{s:O}", "banyan_needle", r->header);
    bool ok = first && write_line(r, first, why, why_bytes);
    json_decref(first);
    if (ok) {
        json_decref(r->header);
        r->header = NULL;
    }
    return ok;
}

bool results_has(const results *r, const char *cell)
{
    return json_object_get(r->cells, cell) != NULL;
}

bool results_add(results *r, json_t *record, char *why, size_t why_bytes)
{
    const char *cell = json_string_value(json_object_get(record, "cell"));
    snprintf(why, why_bytes, cell ? "%s: an earlier write failed" : "%s: out of memory",
             r->path);
    bool ok = cell && (r->header ? write_header(r, why, why_bytes) : r->file != NULL) &&
              write_line(r, record, why, why_bytes);
    if (ok) {
        json_object_set_new(r->cells, cell, json_true());
        json_array_append(r->all, record);
    }
    json_decref(record);
    return ok;
}

json_t *results_all(const results *r)
{
    return r->all;
}

int64_t results_cut(const results *r)
{
    return r->cut;
}
