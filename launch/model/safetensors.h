/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - tensors of a checkpoint directory, read and written.
 *
 * A safetensors file is
 *
 *     u64 little endian   n, the length of the header (at most 100 MB)
 *     n bytes             JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end)}, ..}
 *     the rest            the buffer that the offsets count in, without holes or overlaps
 *
 * and a directory holds either one `model.safetensors`, or several files that
 * `model.safetensors.index.json` ("weight_map": name -> file) lists. Files are mapped, so
 * that a process reads only the bytes that it touches. */
#ifndef BANYAN_SAFETENSORS_H
#define BANYAN_SAFETENSORS_H

#include "banyan.h"

#include <stdbool.h>

enum { TENSOR_DIMS = 8 };
enum {
    MX_BLOCK = 32,
    MX_NAN = 255
}; /* numbers of mxfp4 that share a scale; a scale that is none */

/* Row by row; input first, rows apart by one number; blocks of 4-bit numbers (views.c). */
typedef enum tensor_layout { TENSOR_ROWS, TENSOR_COLUMNS, TENSOR_MXFP4 } tensor_layout;

typedef struct tensor {
    const char *name, *file;
    const char *dtype_name; /* as the file says: "BF16" */
    int readable;           /* the dtype is one that banyan reads: BF16, F16, F32 */
    banyan_dtype dtype;
    int32_t dims;
    int64_t shape[TENSOR_DIMS];
    const unsigned char *data; /* in the map; possibly unaligned */
    size_t bytes;
    tensor_layout layout;        /* of a view; files have rows */
    const unsigned char *scales; /* MXFP4: one for each block */
} tensor;

typedef struct safetensors safetensors;

/* Everything is checked here but the values; NULL: why says what is wrong, and in which
 * file. */
safetensors *safetensors_open(const char *dir, char *why, size_t why_bytes);
void safetensors_close(safetensors *s);
/* Have the files stayed as they were when they were opened? false: why names the first that has
 * not. */
bool safetensors_unchanged(const safetensors *s, char *why, size_t why_bytes);
int64_t safetensors_count(const safetensors *s);
const tensor *safetensors_row(const safetensors *s, int64_t index); /* ascending by name */
const tensor *safetensors_find(const safetensors *s,
                               const char *name); /* NULL: there is none */

/* The header of file `index`, its bytes and those of the whole file; NULL past the last. */
const void *safetensors_header(const safetensors *s, int64_t index, size_t *bytes,
                               size_t *whole);

/* The tensor `name` as a matrix [rows][cols] (cols 0: a vector), readable, or NULL with why.
 * From then on it counts as used. */
const tensor *safetensors_matrix(const safetensors *s, const char *name, int64_t rows,
                                 int64_t cols, char *why, size_t why_bytes);

/* Likewise, of any shape and of the dtype of that name (NULL: a readable one). */
const tensor *safetensors_shaped(const safetensors *s, const char *name, const int64_t *shape,
                                 int32_t dims, const char *dtype, char *why, size_t why_bytes);

/* One expert's matrix [rows][in] of a tensor (or of two, mxfp4) that has all of them:
 * views.c. */
typedef struct view_wish {
    int64_t experts, expert, rows, in;
    bool is_mxfp4;
} view_wish;
bool tensor_view(const safetensors *s, const char *name, const view_wish *w, tensor *out,
                 char *why, size_t why_bytes);
/* What `count` numbers of it take in the file. */
int64_t tensor_room(const tensor *t, int64_t count);

/* The first tensor that was never asked for, tables of rotary embeddings apart (which older
 * files carry and config.json implies); NULL: none. */
const tensor *safetensors_unused(const safetensors *s);

/* `count` values from element `first` as fp32. */
void tensor_read(const tensor *t, int64_t first, int64_t count, float *out);
/* Likewise; returns the index of the first one that is not finite, or -1. */
int64_t tensor_to_float(const tensor *t, int64_t first, int64_t count, float *out);
/* out [count] = rows row, row + step, .. of t, each of `in` values, times x [in]. */
void tensor_multiply(const tensor *t, int64_t row, int64_t step, int64_t count, int64_t in,
                     const float *x, float *out);
/* Does any of them hold a NaN or an infinity? Index or -1. */
int64_t tensor_find_bad(const tensor *t, int64_t first, int64_t count);

/* ---- writing ----------------------------------------------------------------------------- */

/* A tensor that is written row by row: `fill` gives row `row` as fp32. */
typedef struct tensor_source {
    char name[96];
    int64_t rows, cols; /* cols 0: a vector of `rows` entries, given as one row */
    void (*fill)(const void *arg, int64_t row, float *out);
    const void *arg;
} tensor_source;

/* Write them into `dir`, over `shards` files and an index when shards > 1. Each file appears
 * under its name only when it is complete; what was there before goes. False: why. */
bool safetensors_write(const char *dir, const tensor_source *sources, int count,
                       banyan_dtype dtype, int shards, char *why, size_t why_bytes);
/* Take away what it wrote; when it fails, it does so itself. */
void safetensors_remove(const char *dir, int shards);
/* A small text file, likewise. */
bool text_write(const char *dir, const char *name, const char *text, char *why,
                size_t why_bytes);

#endif
