/* SPDX-License-Identifier: Apache-2.0 */
/* The results file: one JSON object per line, a cell each, on disk as soon as the cell is done.
 * The first line says what was run; a second run with the same settings skips the cells that
 * are there, and one that runs at the same time adds its own (file.h): each sees the other's
 * before it asks, and before it writes. A new file gets its first line with its first cell, so
 * that a run which is refused leaves none. A run that was killed may leave half a line at the
 * end: it is cut off and measured again. */
#include "launch/file.h"
#include "launch/needle/needle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct results {
    append_file *file; /* NULL: there is none */
    char *path;
    json_t *all;    /* array of records */
    json_t *cells;  /* object: cell -> true */
    json_t *header; /* NULL until results_begin */
    int64_t read;   /* bytes whose lines are in `all` */
    int64_t cut;
    int lines;
};

void results_close(results *r)
{
    if (!r) return;
    if (r->file) append_close(r->file);
    json_decref(r->all);
    json_decref(r->cells);
    json_decref(r->header);
    free(r->path);
    free(r);
}

results *results_open(const char *path, char *why, size_t why_bytes)
{
    results *r = calloc(1, sizeof *r);
    snprintf(why, why_bytes, "out of memory");
    if (r && (r->path = strdup(path ? path : "results")) && (r->all = json_array()) &&
        (r->cells = json_object()) && (!path || (r->file = append_open(path, why, why_bytes))))
        return r;
    results_close(r);
    return NULL;
}

/* ---- what is there --------------------- */

/* What differs first between the file's header and this run's, in words. "folder" is for the
 * reader: a checkpoint may be moved. */
static bool same_header(const results *r, const json_t *old, char *why, size_t why_bytes)
{
    const char *name;
    json_t *value;
    json_object_foreach(r->header, name, value)
    {
        const json_t *was = json_object_get(old, name);
        if (!strcmp(name, "folder") || (was && json_equal(was, value))) continue;
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

static bool take_line(results *r, const char *line, size_t bytes, char *why, size_t why_bytes)
{
    json_error_t error;
    json_t *record = json_loadb(line, bytes, 0, &error);
    const json_t *old = json_object_get(record, "banyan_needle");
    const char *cell = json_string_value(json_object_get(record, "cell"));
    bool ok = true;
    int number = ++r->lines; /* from 1 */
    if (number == 1 && !old) {
        snprintf(why, why_bytes, "%s is not a results file of banyan needle", r->path);
        ok = false;
    } else if (number == 1) {
        ok = same_header(r, old, why, why_bytes);
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

static bool read_unread(const results *r, char *to, int64_t bytes)
{
    for (int64_t done = 0; done < bytes;) {
        ssize_t got = pread(append_descriptor(r->file), to + done, (size_t)(bytes - done),
                            (off_t)(r->read + done));
        if (got == 0) errno = EIO;
        if (got == 0 || (got < 0 && errno != EINTR)) return false;
        if (got > 0) done += got;
    }
    return true;
}

/* Lines that came since the last time; the file is locked, so that half a line is a dead
 * job's. */
static banyan_status take_lines(results *r, char *why, size_t why_bytes)
{
    int64_t bytes = append_size(r->file) - r->read;
    if (bytes <= 0) return BANYAN_OK;
    char *text = malloc((size_t)bytes);
    banyan_status status = BANYAN_OK;
    if (!text || !read_unread(r, text, bytes)) {
        snprintf(why, why_bytes, "cannot read %s: %s", r->path,
                 text ? strerror(errno) : "out of memory");
        status = BANYAN_ERR_COMM;
    }
    const char *line = text, *end = text ? text + bytes : NULL, *stop;
    while (!status && (stop = memchr(line, '\n', (size_t)(end - line)))) {
        if (!take_line(r, line, (size_t)(stop - line), why, why_bytes))
            status = BANYAN_ERR_CONFIG;
        r->read += stop + 1 - line;
        line = stop + 1;
    }
    static const char begins[] = "{\"banyan_needle\"";
    size_t left = status ? 0 : (size_t)(end - line);
    if (left && !r->lines && strncmp(line, begins, left < 16 ? left : 16)) {
        snprintf(why, why_bytes, "%s is not a results file of banyan needle", r->path);
        status = BANYAN_ERR_CONFIG;
    } else if (left) {
        r->cut += end - line;
        if (!append_cut(r->file, r->read, why, why_bytes)) status = BANYAN_ERR_COMM;
    }
    free(text);
    return status;
}

banyan_status results_refresh(results *r, char *why, size_t why_bytes)
{
    if (!r->file) return BANYAN_OK;
    if (!append_lock(r->file, why, why_bytes)) return BANYAN_ERR_COMM;
    banyan_status status = take_lines(r, why, why_bytes);
    append_unlock(r->file);
    return status;
}

banyan_status results_begin(results *r, json_t *header, char *why, size_t why_bytes)
{
    r->header = json_incref(header);
    return results_refresh(r, why, why_bytes);
}

/* ---- one more --------------------- */

static char *line_of(const json_t *value)
{
    return json_dumps(value, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
}

/* The record's line, and before it the header's in a file that is empty. */
static bool write_lines(results *r, const json_t *record, char *why, size_t why_bytes)
{
    json_t *first = r->lines ? NULL : json_pack("{s:O}", "banyan_needle", r->header);
    char *head = first ? line_of(first) : strdup(""), *line = line_of(record), *text = NULL;
    size_t bytes = head && line ? strlen(head) + strlen(line) + 3 : 0;
    snprintf(why, why_bytes, "%s: out of memory", r->path);
    bool ok = bytes && (text = malloc(bytes));
    if (ok) {
        bytes = (size_t)snprintf(text, bytes, "%s%s%s\n", head, first ? "\n" : "", line);
        ok = append_write(r->file, text, bytes, why, why_bytes);
    }
    if (ok) {
        r->read += (int64_t)bytes;
        r->lines += first ? 2 : 1;
    }
    json_decref(first);
    free(head);
    free(line);
    free(text);
    return ok;
}

bool results_has(const results *r, const char *cell)
{
    return json_object_get(r->cells, cell) != NULL;
}

static void keep_record(results *r, const char *cell, json_t *record)
{
    json_object_set_new(r->cells, cell, json_true());
    json_array_append(r->all, record);
}

bool results_add(results *r, json_t *record, char *why, size_t why_bytes)
{
    const char *cell = json_string_value(json_object_get(record, "cell"));
    snprintf(why, why_bytes, "%s: out of memory", r->path);
    bool ok = cell && (!r->file || append_lock(r->file, why, why_bytes));
    if (ok && !r->file) {
        keep_record(r, cell, record);
    } else if (ok) {
        ok = take_lines(r, why, why_bytes) == BANYAN_OK;
        if (ok && !results_has(r, cell)) {
            ok = write_lines(r, record, why, why_bytes);
            if (ok) keep_record(r, cell, record);
        }
        append_unlock(r->file);
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
