/* SPDX-License-Identifier: Apache-2.0 */
/* Writing safetensors, row by row: what is written never lies in memory at once. A full
 * disk or a killed job leaves no half file that looks whole (file.h). */
#include "launch/file.h"
#include "launch/model/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static uint16_t to_bf16(float x) /* finite, to nearest even */
{
    uint32_t u = float_bits(x);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Finite, to nearest even. Adding a power of two whose last place is fp16's last place at this
 * exponent lets the fp32 addition do the rounding. */
static uint16_t to_f16(float x)
{
    uint32_t sign = float_bits(x) >> 16 & 0x8000, u = float_bits(x) & 0x7fffffff;
    float magnitude;
    memcpy(&magnitude, &u, sizeof magnitude);
    if (magnitude >= 65520.0f) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x1p-14f) return (uint16_t)(sign | (float_bits(magnitude + 0.5f) & 0x7ff));
    return (uint16_t)(sign | ((u + 0xfff + (u >> 13 & 1) - (112u << 23)) >> 13));
}

static void narrow_floats(const float *in, int64_t count, banyan_dtype dtype, void *out)
{
    uint16_t *half = out;
    if (dtype == BANYAN_F32)
        memcpy(out, in, (size_t)count * sizeof *in);
    else if (dtype == BANYAN_BF16)
        for (int64_t i = 0; i < count; i++) half[i] = to_bf16(in[i]);
    else
        for (int64_t i = 0; i < count; i++) half[i] = to_f16(in[i]);
}

static int64_t elements(const tensor_source *t)
{
    return t->rows * (t->cols ? t->cols : 1);
}

static bool write_header(FILE *f, const tensor_source *list, int count, banyan_dtype dtype)
{
    static const char *const names[] = {
        [BANYAN_F32] = "F32", [BANYAN_BF16] = "BF16", [BANYAN_F16] = "F16"};
    char *text = NULL;
    size_t bytes = 0;
    int64_t at = 0;
    FILE *memory = open_memstream(&text, &bytes);
    if (!memory) return false;
    fprintf(memory, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < count; i++) {
        int64_t end = at + elements(&list[i]) * (int64_t)banyan_dtype_bytes(dtype);
        fprintf(memory, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRId64, list[i].name,
                names[dtype], list[i].rows);
        if (list[i].cols) fprintf(memory, ",%" PRId64, list[i].cols);
        fprintf(memory, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", at, end);
        at = end;
    }
    fputc('}', memory);
    bool good = fclose(memory) == 0;
    size_t padded = (bytes + 7) / 8 * 8; /* so that the data is aligned */
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    good = good && fwrite(length, 1, 8, f) == 8 && fwrite(text, 1, bytes, f) == bytes;
    for (size_t i = bytes; good && i < padded; i++) good = fputc(' ', f) != EOF;
    free(text);
    return good;
}

static bool write_tensor(FILE *f, const tensor_source *t, banyan_dtype dtype)
{
    int64_t rows = t->cols ? t->rows : 1, cols = t->cols ? t->cols : t->rows;
    size_t bytes = (size_t)cols * banyan_dtype_bytes(dtype);
    float *row = malloc((size_t)cols * sizeof *row);
    void *out = malloc(bytes);
    bool good = row && out;
    for (int64_t i = 0; good && i < rows; i++) {
        memset(row, 0, (size_t)cols * sizeof *row);
        t->fill(t->arg, i, row);
        narrow_floats(row, cols, dtype, out);
        good = fwrite(out, 1, bytes, f) == bytes;
    }
    free(row);
    free(out);
    return good;
}

static bool write_file(const char *path, const tensor_source *list, int count,
                       banyan_dtype dtype, char *why, size_t why_bytes)
{
    whole_file *f = whole_begin(path, why, why_bytes);
    if (!f) return false;
    FILE *stream = whole_stream(f);
    bool good = write_header(stream, list, count, dtype);
    for (int i = 0; good && i < count; i++) good = write_tensor(stream, &list[i], dtype);
    if (!good && !ferror(stream)) {
        snprintf(why, why_bytes, "%s: out of memory", path);
        whole_end(f, false, why, why_bytes);
        return false;
    }
    return whole_end(f, true, why, why_bytes);
}

bool text_write(const char *dir, const char *name, const char *text, char *why,
                size_t why_bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    whole_file *f = whole_begin(path, why, why_bytes);
    if (!f) return false;
    fputs(text, whole_stream(f)); /* whole_end sees whether that went well */
    return whole_end(f, true, why, why_bytes);
}

/* The first tensor of shard `shard`: cuts at equal bytes, but no shard is empty. */
static int shard_first(const tensor_source *list, int count, int shard, int shards)
{
    int64_t all = 0, before = 0;
    for (int i = 0; i < count; i++) all += elements(&list[i]);
    int first = 0;
    while (first < count && before < all / shards * shard) before += elements(&list[first++]);
    if (first < shard) first = shard;
    return first > count - (shards - shard) ? count - (shards - shard) : first;
}

static bool write_index(const char *dir, const tensor_source *list, int count, int shards,
                        banyan_dtype dtype, char *why, size_t why_bytes)
{
    char *text = NULL;
    size_t bytes = 0;
    int64_t all = 0;
    FILE *memory = open_memstream(&text, &bytes);
    if (!memory) {
        snprintf(why, why_bytes, "out of memory");
        return false;
    }
    for (int i = 0; i < count; i++) all += elements(&list[i]);
    fprintf(memory, "{\"metadata\": {\"total_size\": %" PRId64 "},\n \"weight_map\": {\n",
            all * (int64_t)banyan_dtype_bytes(dtype));
    for (int shard = 0; shard < shards; shard++)
        for (int i = shard_first(list, count, shard, shards);
             i < shard_first(list, count, shard + 1, shards); i++)
            fprintf(memory, "  \"%s\": \"model-%05d-of-%05d.safetensors\"%s\n", list[i].name,
                    shard + 1, shards, i + 1 < count ? "," : "");
    fprintf(memory, " }}\n");
    bool good = fclose(memory) == 0 &&
                text_write(dir, "model.safetensors.index.json", text, why, why_bytes);
    free(text);
    return good;
}

static void shard_path(const char *dir, int shard, int shards, char *path, size_t bytes)
{
    if (shards == 1)
        snprintf(path, bytes, "%s/model.safetensors", dir);
    else
        snprintf(path, bytes, "%s/model-%05d-of-%05d.safetensors", dir, shard + 1, shards);
}

static void remove_shards(const char *dir, int count, int shards)
{
    char path[4096];
    for (int i = 0; i < count; i++) {
        shard_path(dir, i, shards, path, sizeof path);
        unlink(path);
    }
}

void safetensors_remove(const char *dir, int shards)
{
    char path[4096];
    remove_shards(dir, shards, shards);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    unlink(path);
}

bool safetensors_write(const char *dir, const tensor_source *sources, int count,
                       banyan_dtype dtype, int shards, char *why, size_t why_bytes)
{
    char path[4096];
    if (shards < 1 || shards > count) {
        snprintf(why, why_bytes, "shards is %d, expected 1..%d (the number of tensors)", shards,
                 count);
        return false;
    }
    for (int i = 0; i < shards; i++) {
        int first = shard_first(sources, count, i, shards);
        int end = shard_first(sources, count, i + 1, shards);
        shard_path(dir, i, shards, path, sizeof path);
        if (!write_file(path, sources + first, end - first, dtype, why, why_bytes)) {
            remove_shards(dir, i, shards);
            return false;
        }
    }
    /* A reader prefers the one file: of the two forms, only the new one may stay. */
    snprintf(path, sizeof path, "%s/%s", dir,
             shards == 1 ? "model.safetensors.index.json" : "model.safetensors");
    unlink(path);
    if (shards == 1 || write_index(dir, sources, count, shards, dtype, why, why_bytes))
        return true;
    safetensors_remove(dir, shards);
    return false;
}
