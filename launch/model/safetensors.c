/* SPDX-License-Identifier: Apache-2.0 */
/* Reading safetensors: map, parse, and believe nothing. Every length and offset is compared
 * with what the file really has before it is used; sums are arranged so that they cannot
 * overflow. */
#include "launch/mapped.h"
#include "launch/model/folder.h"
#include "launch/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_HEADER = 100000000 };

typedef struct mapped_file {
    char *path; /* as opened */
    const unsigned char *data;
    size_t bytes, header_bytes;
    struct stat opened; /* what the file was like */
    json_t *header;     /* owns the names of its tensors */
} mapped_file;

struct safetensors {
    mapped_file *file;
    int64_t files;
    tensor *tensor; /* ascending by name */
    bool *is_used;  /* [count] */
    int64_t count;
};

/* The dtypes that are read, and the sizes of others. A dtype that is not here may still
 * stand in the file: then only its place is known. */
static const struct {
    const char *name;
    int bits, readable;
    banyan_dtype dtype;
} dtypes[] = {
    {"BF16", 16, 1, BANYAN_BF16},  {"F16", 16, 1, BANYAN_F16},    {"F32", 32, 1, BANYAN_F32},
    {"F64", 64, 0, BANYAN_F32},    {"F8_E4M3", 8, 0, BANYAN_F32}, {"F8_E5M2", 8, 0, BANYAN_F32},
    {"F8_E8M0", 8, 0, BANYAN_F32}, {"F4", 4, 0, BANYAN_F32},      {"I64", 64, 0, BANYAN_F32},
    {"I32", 32, 0, BANYAN_F32},    {"I16", 16, 0, BANYAN_F32},    {"I8", 8, 0, BANYAN_F32},
    {"U64", 64, 0, BANYAN_F32},    {"U32", 32, 0, BANYAN_F32},    {"U16", 16, 0, BANYAN_F32},
    {"U8", 8, 0, BANYAN_F32},      {"BOOL", 8, 0, BANYAN_F32},    {"C64", 64, 0, BANYAN_F32},
};

static bool map_file(const char *path, mapped_file *out, char *why, size_t why_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return false;
    }
    if (!S_ISREG(st.st_mode) || st.st_size < 8) {
        snprintf(
            why, why_bytes,
            "%s: %s; a safetensors file begins with 8 bytes that say how long its header is",
            path, S_ISREG(st.st_mode) ? "shorter than 8 bytes" : "not a file");
        close(fd);
        return false;
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) {
        snprintf(why, why_bytes, "%s: cannot be mapped: %s", path, strerror(errno));
        return false;
    }
    out->data = map;
    out->bytes = (size_t)st.st_size;
    out->opened = st;
    mapped_watch(map, out->bytes, path);
    return !folder_is_pointer(path, map, out->bytes, why, why_bytes);
}

/* The header as a JSON object, and where the buffer begins. */
static bool parse_header(mapped_file *file, size_t *begin, char *why, size_t why_bytes)
{
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)file->data[i] << (8 * i);
    if (length > MAX_HEADER) {
        snprintf(why, why_bytes,
                 "%s: says that its header has %" PRIu64 " bytes; at most %d are allowed",
                 file->path, length, MAX_HEADER);
        return false;
    }
    if (length > file->bytes - 8) {
        snprintf(why, why_bytes,
                 "%s: says that its header has %" PRIu64
                 " bytes, but only %zu follow: truncated, "
                 "or no safetensors file",
                 file->path, length, file->bytes - 8);
        return false;
    }
    json_error_t error;
    file->header = json_loadb((const char *)file->data + 8, (size_t)length,
                              JSON_REJECT_DUPLICATES, &error);
    if (!file->header) {
        snprintf(why, why_bytes, "%s: header is no valid JSON: %s (column %d)", file->path,
                 error.text, error.column);
        return false;
    }
    if (!json_is_object(file->header)) {
        snprintf(why, why_bytes, "%s: header is no JSON object", file->path);
        return false;
    }
    file->header_bytes = (size_t)length;
    *begin = 8 + file->header_bytes;
    return true;
}

/* The shape, and the number of elements; false when it is no list of small enough integers. */
static bool parse_shape(const json_t *list, tensor *out, int64_t *elements)
{
    if (!json_is_array(list) || json_array_size(list) > TENSOR_DIMS) return false;
    *elements = 1;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *extent = json_array_get(list, i);
        json_int_t n = json_integer_value(extent);
        if (!json_is_integer(extent) || n < 0 || n > INT64_C(1) << 40) return false;
        if (n > 0 && *elements > (INT64_C(1) << 50) / n) return false;
        *elements *= n;
        out->shape[i] = n;
    }
    out->dims = (int32_t)json_array_size(list);
    return true;
}

static bool parse_tensor(const mapped_file *file, size_t begin, const char *name,
                         const json_t *value, tensor *out, char *why, size_t why_bytes)
{
    const char *type = json_string_value(json_object_get(value, "dtype"));
    const json_t *offsets = json_object_get(value, "data_offsets");
    int64_t elements = 0;
    *out = (tensor){.name = name, .file = file->path, .dtype_name = type};
    if (!type || !parse_shape(json_object_get(value, "shape"), out, &elements) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !json_is_integer(json_array_get(offsets, 0)) ||
        !json_is_integer(json_array_get(offsets, 1))) {
        snprintf(why, why_bytes,
                 "%s: tensor '%s' needs \"dtype\", \"shape\" (at most %d extents) and "
                 "\"data_offsets\" [begin, end)",
                 file->path, name, TENSOR_DIMS);
        return false;
    }
    size_t row = 0;
    while (row < sizeof dtypes / sizeof *dtypes && strcmp(dtypes[row].name, type) != 0) row++;
    const bool known = row < sizeof dtypes / sizeof *dtypes;
    json_int_t first = json_integer_value(json_array_get(offsets, 0));
    json_int_t end = json_integer_value(json_array_get(offsets, 1));
    size_t buffer = file->bytes - begin;
    if (first < 0 || end < first || (uint64_t)end > buffer) {
        snprintf(why, why_bytes,
                 "%s: tensor '%s' has data_offsets [%" JSON_INTEGER_FORMAT
                 ", %" JSON_INTEGER_FORMAT
                 "), out of range: the file has %zu bytes of data (truncated?)",
                 file->path, name, first, end, buffer);
        return false;
    }
    int64_t bytes = known ? elements * dtypes[row].bits / 8 : end - first;
    if (end - first != bytes) {
        snprintf(why, why_bytes,
                 "%s: tensor '%s' has %" JSON_INTEGER_FORMAT
                 " bytes, but its shape and dtype %s "
                 "need %" PRId64,
                 file->path, name, end - first, type, bytes);
        return false;
    }
    out->readable = known && dtypes[row].readable;
    out->dtype = known ? dtypes[row].dtype : BANYAN_F32;
    out->data = file->data + begin + first;
    out->bytes = (size_t)bytes;
    return true;
}

static int by_data(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

/* Tensors of one file must cover its buffer exactly. Sorts them by place. */
static bool check_cover(const mapped_file *file, size_t begin, tensor *list, int64_t count,
                        char *why, size_t why_bytes)
{
    const unsigned char *next = file->data + begin;
    if (count > 0) qsort(list, (size_t)count, sizeof *list, by_data);
    for (int64_t i = 0; i < count; i++) {
        if (list[i].data < next) {
            snprintf(why, why_bytes, "%s: tensors '%s' and '%s' overlap", file->path,
                     list[i - 1].name, list[i].name);
            return false;
        }
        if (list[i].data > next) {
            snprintf(why, why_bytes, "%s: a hole of %td bytes before tensor '%s'", file->path,
                     list[i].data - next, list[i].name);
            return false;
        }
        next += list[i].bytes;
    }
    if (next != file->data + file->bytes) {
        snprintf(why, why_bytes, "%s: %td bytes after the last tensor", file->path,
                 file->data + file->bytes - next);
        return false;
    }
    return true;
}

static bool read_tensor_file(safetensors *s, mapped_file *file, char *why, size_t why_bytes)
{
    size_t begin = 0;
    if (!map_file(file->path, file, why, why_bytes)) return false;
    if (!parse_header(file, &begin, why, why_bytes)) return false;
    int64_t first = s->count, room = s->count + (int64_t)json_object_size(file->header);
    tensor *grown = realloc(s->tensor, (size_t)(room + 1) * sizeof *grown);
    if (!grown) {
        snprintf(why, why_bytes, "%s: out of memory", file->path);
        return false;
    }
    s->tensor = grown;
    const char *name;
    json_t *value;
    json_object_foreach(file->header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        if (!parse_tensor(file, begin, name, value, &s->tensor[s->count], why, why_bytes))
            return false;
        s->count++;
    }
    return check_cover(file, begin, s->tensor + first, s->count - first, why, why_bytes);
}

/* The distinct file names of an index, in s->file. */
static bool add_index_files(safetensors *s, const char *dir, const json_t *map, char *why,
                            size_t why_bytes)
{
    const char *name;
    json_t *value;
    s->file = calloc(json_object_size(map) + 1, sizeof *s->file);
    if (!s->file) return false;
    json_object_foreach((json_t *)map, name, value)
    {
        const char *base = json_string_value(value);
        if (!base || strchr(base, '/')) {
            snprintf(why, why_bytes,
                     "%s/model.safetensors.index.json: weight_map of '%s' is no file name", dir,
                     name);
            return false;
        }
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", dir, base);
        int64_t i = 0;
        while (i < s->files && strcmp(s->file[i].path, path) != 0) i++;
        if (i < s->files) continue;
        s->file[i].path = strdup(path);
        if (!s->file[i].path) return false;
        s->files++;
    }
    return true;
}

static bool sort_names(safetensors *s, char *why, size_t why_bytes)
{
    s->is_used = calloc((size_t)s->count + 1, sizeof *s->is_used);
    if (!s->is_used) return false;
    if (s->count > 0) qsort(s->tensor, (size_t)s->count, sizeof *s->tensor, by_name);
    for (int64_t i = 1; i < s->count; i++) {
        if (strcmp(s->tensor[i - 1].name, s->tensor[i].name) != 0) continue;
        snprintf(why, why_bytes, "tensor '%s' is in both %s and %s", s->tensor[i].name,
                 s->tensor[i - 1].file, s->tensor[i].file);
        return false;
    }
    return true;
}

static bool open_single(safetensors *s, const char *path, char *why, size_t why_bytes)
{
    s->file = calloc(1, sizeof *s->file);
    if (!s->file) return false;
    s->files = 1;
    s->file->path = strdup(path);
    return s->file->path && read_tensor_file(s, s->file, why, why_bytes) &&
           sort_names(s, why, why_bytes);
}

static bool open_index(safetensors *s, const char *dir, const char *path, char *why,
                       size_t why_bytes)
{
    json_error_t error;
    json_t *index = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    const json_t *map = json_object_get(index, "weight_map");
    bool good = false;
    if (!index)
        snprintf(why, why_bytes, "%s: line %d: %s", path, error.line, error.text);
    else if (!json_is_object(map))
        snprintf(why, why_bytes, "%s: needs an object \"weight_map\" of tensor names and files",
                 path);
    else
        good = add_index_files(s, dir, map, why, why_bytes);
    for (int64_t i = 0; good && i < s->files; i++)
        good = read_tensor_file(s, &s->file[i], why, why_bytes);
    good = good && sort_names(s, why, why_bytes);
    json_decref(index);
    return good;
}

safetensors *safetensors_open(const char *dir, char *why, size_t why_bytes)
{
    char path[4096], index[4096];
    struct stat st;
    safetensors *s = calloc(1, sizeof *s);
    snprintf(why, why_bytes, "out of memory");
    if (!s) return NULL;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir);
    bool good = false;
    if (stat(path, &st) == 0)
        good = open_single(s, path, why, why_bytes);
    else if (stat(index, &st) == 0)
        good = open_index(s, dir, index, why, why_bytes);
    else if (!folder_explain(dir, why, why_bytes))
        snprintf(why, why_bytes,
                 "%s: holds neither model.safetensors nor model.safetensors.index.json", dir);
    if (good) return s;
    safetensors_close(s);
    return NULL;
}

void safetensors_close(safetensors *s)
{
    if (!s) return;
    for (int64_t i = 0; i < s->files; i++) {
        if (s->file[i].data) {
            mapped_forget(s->file[i].data);
            munmap((void *)(uintptr_t)s->file[i].data, s->file[i].bytes);
        }
        json_decref(s->file[i].header);
        free(s->file[i].path);
    }
    free(s->file);
    free(s->tensor);
    free(s->is_used);
    free(s);
}

/* A file that was replaced is another one: the map keeps the old. */
bool safetensors_unchanged(const safetensors *s, char *why, size_t why_bytes)
{
    for (int64_t i = 0; i < s->files; i++) {
        struct stat now;
        const struct stat *then = &s->file[i].opened;
        if (stat(s->file[i].path, &now) || now.st_ino != then->st_ino ||
            now.st_dev != then->st_dev ||
            (now.st_size == then->st_size && now.st_mtim.tv_sec == then->st_mtim.tv_sec &&
             now.st_mtim.tv_nsec == then->st_mtim.tv_nsec))
            continue;
        snprintf(why, why_bytes, "%s: was written to while this job used it", s->file[i].path);
        return false;
    }
    return true;
}

int64_t safetensors_count(const safetensors *s)
{
    return s->count;
}

const tensor *safetensors_row(const safetensors *s, int64_t index)
{
    return index >= 0 && index < s->count ? &s->tensor[index] : NULL;
}

const tensor *safetensors_find(const safetensors *s, const char *name)
{
    tensor key = {.name = name};
    if (s->count == 0) return NULL;
    return bsearch(&key, s->tensor, (size_t)s->count, sizeof key, by_name);
}

/* "[3, 4]" */
static void shape_words(const int64_t *shape, int32_t dims, char *out, size_t bytes)
{
    size_t used = (size_t)snprintf(out, bytes, "[");
    for (int32_t i = 0; i < dims && used < bytes; i++)
        used +=
            (size_t)snprintf(out + used, bytes - used, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (used < bytes) snprintf(out + used, bytes - used, "]");
}

const tensor *safetensors_shaped(const safetensors *s, const char *name, const int64_t *shape,
                                 int32_t dims, const char *dtype, char *why, size_t why_bytes)
{
    const tensor *t = safetensors_find(s, name);
    char want[TENSOR_DIMS * 22 + 3], have[TENSOR_DIMS * 22 + 3];
    if (!t) {
        snprintf(why, why_bytes, "tensor '%s' is missing", name);
        return NULL;
    }
    s->is_used[t - s->tensor] = true;
    if (dtype ? strcmp(dtype, t->dtype_name) != 0 : !t->readable) {
        snprintf(why, why_bytes, "%s: tensor '%s' has dtype %s; %s", t->file, name,
                 t->dtype_name, dtype ? "U8 is read, of mxfp4" : "BF16, F16 and F32 are read");
        return NULL;
    }
    bool equal = t->dims == dims;
    for (int32_t i = 0; equal && i < dims; i++) equal = shape[i] == t->shape[i];
    if (equal) return t;
    shape_words(t->shape, t->dims, have, sizeof have);
    shape_words(shape, dims, want, sizeof want);
    snprintf(why, why_bytes, "%s: tensor '%s' has shape %s; config.json asks for %s", t->file,
             name, have, want);
    return NULL;
}

const tensor *safetensors_matrix(const safetensors *s, const char *name, int64_t rows,
                                 int64_t cols, char *why, size_t why_bytes)
{
    const int64_t shape[] = {rows, cols};
    return safetensors_shaped(s, name, shape, cols ? 2 : 1, NULL, why, why_bytes);
}

const tensor *safetensors_unused(const safetensors *s)
{
    static const char *const tables[] = {"inv_freq", "freqs_cis", "rope.freqs"};
    for (int64_t i = 0; i < s->count; i++) {
        bool is_table = s->is_used[i];
        for (int t = 0; t < 3; t++) is_table |= strstr(s->tensor[i].name, tables[t]) != NULL;
        if (!is_table) return &s->tensor[i];
    }
    return NULL;
}

const void *safetensors_header(const safetensors *s, int64_t index, size_t *bytes,
                               size_t *whole)
{
    if (index < 0 || index >= s->files) return NULL;
    const mapped_file *file = &s->file[index];
    *whole = file->bytes;
    *bytes = file->header_bytes;
    return file->data + 8;
}
