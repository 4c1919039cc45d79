/* SPDX-License-Identifier: Apache-2.0 */
/* A rank's index: which blocks it saved, KV head by KV head, and where they lie; and sums. See
 * snapshot.h. */
#include "dist/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[16] = "banyan index\n";
enum { VERSION = 2, GROUP_BYTES = 48, OLD_GROUP_BYTES = 32, FILE_BYTES = 16, SUM_BYTES = 24 };
static const int64_t most_bytes = INT64_C(1) << 54; /* of an index */

void banyan_index_free(banyan_index *index)
{
    free(index->file);
    free(index->group);
    index->file = NULL;
    index->group = NULL;
}

/* ---- writing ----------------------------------------------------------------------------- */

static void put_entry(banyan_bytes *to, const banyan_saved_block *b)
{
    banyan_put64(to, (uint64_t)b->block);
    banyan_put64(to, b->id);
    banyan_put64(to, b->offset);
    banyan_put64(to, b->checksum);
    banyan_put32(to, (uint32_t)b->file);
    banyan_put32(to, (uint32_t)b->rows);
}

static void put_sum(banyan_bytes *to, const banyan_saved_sum *s)
{
    banyan_put64(to, (uint64_t)s->sequence);
    banyan_put64(to, (uint64_t)s->first);
    banyan_put64(to, (uint64_t)s->end);
    for (int32_t i = 0; i < s->numbers; i++) {
        uint64_t bits;
        memcpy(&bits, &s->sum[i], sizeof bits);
        banyan_put64(to, bits);
    }
}

/* In the head, at byte `at`, the checksum of what was written from byte `from` on. */
static uint64_t put_checksum(banyan_bytes *out, size_t at, size_t from)
{
    if (out->has_failed) return 0;
    const uint64_t checksum = banyan_checksum(out->data + from, out->used - from);
    banyan_store64(out->data + at, checksum);
    return checksum;
}

/* The head has the checksums of what follows it: that is written first, behind it. */
void banyan_index_write(banyan_index *index, const banyan_saved_block *entry,
                        const banyan_saved_sum *sum, banyan_bytes *out)
{
    banyan_put(out, magic, sizeof magic);
    banyan_put32(out, VERSION);
    banyan_put32(out, (uint32_t)index->rank);
    banyan_put64(out, index->id);
    banyan_put32(out, (uint32_t)index->files);
    for (int32_t i = 0; i < index->files; i++) {
        banyan_put64(out, index->file[i].id);
        banyan_put64(out, index->file[i].bytes);
    }
    banyan_put32(out, (uint32_t)index->groups);
    const size_t groups_at = out->used;
    for (int32_t g = 0; g < index->groups; g++) {
        banyan_put32(out, (uint32_t)index->group[g].layer);
        banyan_put32(out, (uint32_t)index->group[g].kv_head);
        banyan_put64(out, (uint64_t)index->group[g].first);
        banyan_put64(out, (uint64_t)index->group[g].count);
        banyan_put64(out, 0);
        banyan_put64(out, (uint64_t)index->group[g].sums);
        banyan_put64(out, 0);
    }
    index->head_bytes = out->used;
    for (int32_t g = 0; g < index->groups; g++) {
        banyan_saved_group *group = &index->group[g];
        const size_t at = out->used, to = groups_at + (size_t)g * GROUP_BYTES + 24;
        for (int64_t i = 0; i < group->count; i++) put_entry(out, &entry[group->first + i]);
        group->checksum = put_checksum(out, to, at);
    }
    for (int32_t g = 0; g < index->groups; g++) {
        banyan_saved_group *group = &index->group[g];
        const size_t at = out->used, to = groups_at + (size_t)g * GROUP_BYTES + 40;
        for (int64_t i = 0; i < group->sums; i++) put_sum(out, sum++);
        group->sums_checksum = put_checksum(out, to, at);
    }
}

/* ---- reading ----------------------------------------------------------------------------- */

static banyan_status get_files(banyan_cursor *from, banyan_index *x)
{
    x->files = (int32_t)banyan_get_count(from, FILE_BYTES, INT32_MAX);
    x->file = calloc((size_t)x->files + 1, sizeof *x->file);
    if (!x->file) return banyan_fail(BANYAN_ERR_MEMORY, "\"%s\": no memory", x->path);
    for (int32_t i = 0; i < x->files; i++) {
        x->file[i].id = banyan_get64(from);
        x->file[i].bytes = banyan_get64(from);
    }
    return BANYAN_OK;
}

static int32_t layer_numbers(const banyan_snapshot *s, int32_t layer)
{
    const banyan_saved_kind *kind = &s->kind[s->kind_of_layer[layer]];
    return kind->key_dim + kind->value_dim;
}

static size_t sum_bytes(const banyan_snapshot *s, int32_t layer)
{
    return SUM_BYTES + (size_t)layer_numbers(s, layer) * sizeof(double);
}

/* Groups ascend by layer and KV head, and their entries follow one another. */
static void get_group(banyan_cursor *from, const banyan_snapshot *s, banyan_saved_group *group,
                      const banyan_saved_group *last)
{
    const uint32_t layer = banyan_get32(from), kv_head = banyan_get32(from);
    const uint64_t at = banyan_get64(from), count = banyan_get64(from);
    const uint64_t checksum = banyan_get64(from);
    const uint64_t sums = s->version < VERSION ? 0 : banyan_get64(from);
    const uint64_t sums_checksum = s->version < VERSION ? 0 : banyan_get64(from);
    const uint64_t first = last ? (uint64_t)(last->first + last->count) : 0;
    if (layer >= (uint32_t)s->layers || s->cache_layer[layer] != (int32_t)layer ||
        kv_head >= (uint32_t)s->kind[s->kind_of_layer[layer]].kv_heads || at != first ||
        count > (uint64_t)1 << 40 || first > (uint64_t)1 << 48 || sums > (uint64_t)s->sequences)
        from->has_failed = 1;
    if (from->has_failed) return;
    *group = (banyan_saved_group){.layer = (int32_t)layer,
                                  .kv_head = (int32_t)kv_head,
                                  .first = (int64_t)first,
                                  .count = (int64_t)count,
                                  .checksum = checksum,
                                  .sums = (int64_t)sums,
                                  .sums_checksum = sums_checksum};
    if (last && (last->layer > group->layer ||
                 (last->layer == group->layer && last->kv_head >= group->kv_head)))
        from->has_failed = 1;
}

static banyan_status get_groups(banyan_cursor *from, const banyan_snapshot *s, banyan_index *x)
{
    x->groups = (int32_t)banyan_get_count(
        from, s->version < VERSION ? OLD_GROUP_BYTES : GROUP_BYTES, INT32_MAX);
    x->group = calloc((size_t)x->groups + 1, sizeof *x->group);
    if (!x->group) return banyan_fail(BANYAN_ERR_MEMORY, "\"%s\": no memory", x->path);
    int64_t at = (int64_t)x->head_bytes;
    for (int32_t i = 0; i < x->groups && !from->has_failed; i++) {
        banyan_saved_group *group = &x->group[i];
        get_group(from, s, group, i ? group - 1 : NULL);
        at += group->count * BANYAN_ENTRY_BYTES;
    }
    for (int32_t i = 0; i < x->groups && !from->has_failed; i++) {
        banyan_saved_group *group = &x->group[i];
        group->sums_at = at;
        at += group->sums * (int64_t)sum_bytes(s, group->layer);
        if (at > most_bytes) from->has_failed = 1;
    }
    return BANYAN_OK;
}

banyan_status banyan_index_parse(const char *path, const unsigned char *data, size_t bytes,
                                 const banyan_snapshot *s, banyan_index *out)
{
    banyan_index x = {.head_bytes = bytes};
    banyan_cursor from = {data, 0, bytes, 0};
    snprintf(x.path, sizeof x.path, "%s", path);
    const void *first = banyan_get(&from, sizeof magic);
    if (!first || memcmp(first, magic, sizeof magic))
        return banyan_fail(BANYAN_ERR_FILE, "\"%s\" is no index of a banyan snapshot", path);
    const uint32_t version = banyan_get32(&from);
    x.rank = (int32_t)banyan_get32(&from);
    x.id = banyan_get64(&from);
    banyan_status status = get_files(&from, &x);
    if (!status) status = get_groups(&from, s, &x);
    if (!status &&
        (from.has_failed || from.at != bytes || version != s->version || x.id != s->id))
        status = banyan_fail(BANYAN_ERR_FILE, "\"%s\": what it says at byte %zu cannot be",
                             path, from.at);
    if (status)
        banyan_index_free(&x);
    else
        *out = x;
    return status;
}

static banyan_status read_open(int fd, const char *path, int64_t at, size_t bytes,
                               unsigned char **out)
{
    struct stat is;
    if (fstat(fd, &is)) return banyan_file_failed(path, "cannot be read");
    if (at < 0 || is.st_size < at || (uint64_t)(is.st_size - at) < bytes)
        return banyan_fail(BANYAN_ERR_FILE,
                           "\"%s\" ends at byte %" PRId64 ": expected %" PRIu64 " or more",
                           path, (int64_t)is.st_size, (uint64_t)at + bytes);
    unsigned char *data = malloc(bytes + 1);
    if (!data)
        return banyan_fail(BANYAN_ERR_MEMORY, "\"%s\": no memory for %zu bytes of it", path,
                           bytes);
    const banyan_status status = banyan_file_read(fd, path, data, bytes, at);
    if (status)
        free(data);
    else
        *out = data;
    return status;
}

/* `bytes` bytes of the file from `at` on, for free(); none, where it is not so long. */
static banyan_status read_part(const char *path, int64_t at, size_t bytes, unsigned char **out)
{
    int fd;
    banyan_status status = banyan_file_open(path, &fd);
    if (status) return status;
    status = read_open(fd, path, at, bytes, out);
    close(fd);
    return status;
}

static banyan_status damaged_index(const char *path, const char *what)
{
    return banyan_fail(BANYAN_ERR_FILE, "\"%s\" was damaged: the checksum of %s is another",
                       path, what);
}

banyan_status banyan_index_read(const char *folder, const banyan_snapshot *s, int rank,
                                banyan_index *out)
{
    char path[BANYAN_PATH];
    unsigned char *data = NULL;
    const banyan_saved_rank *is = &s->rank[rank];
    banyan_status status = banyan_snapshot_path(path, folder, "index", s->id, rank);
    if (!status && is->head_bytes > (uint64_t)1 << 34)
        status = banyan_fail(BANYAN_ERR_FILE, "\"%s\": a head of %" PRIu64 " bytes", path,
                             is->head_bytes);
    if (!status) status = read_part(path, 0, (size_t)is->head_bytes, &data);
    if (!status && banyan_checksum(data, (size_t)is->head_bytes) != is->head_checksum)
        status = damaged_index(path, "its head");
    if (!status) status = banyan_index_parse(path, data, (size_t)is->head_bytes, s, out);
    if (!status && out->rank != rank) {
        status = banyan_fail(BANYAN_ERR_FILE, "\"%s\" is of rank %d: expected %d", path,
                             (int)out->rank, rank);
        banyan_index_free(out);
        *out = (banyan_index){0};
    }
    free(data);
    return status;
}

const banyan_saved_group *banyan_index_find(const banyan_index *index, int32_t layer,
                                            int32_t kv_head)
{
    for (int32_t lo = 0, hi = index->groups; lo < hi;) {
        const int32_t mid = lo + (hi - lo) / 2;
        const banyan_saved_group *group = &index->group[mid];
        if (group->layer == layer && group->kv_head == kv_head) return group;
        if (group->layer < layer || (group->layer == layer && group->kv_head < kv_head))
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static int is_before(const banyan_saved_block *a, int64_t block, uint64_t id)
{
    return a->block < block || (a->block == block && a->id < id);
}

banyan_status banyan_index_entries(const banyan_index *index, const banyan_snapshot *s,
                                   const banyan_saved_group *group, banyan_saved_block **out)
{
    unsigned char *data = NULL;
    char what[64];
    const size_t bytes = (size_t)group->count * BANYAN_ENTRY_BYTES;
    const size_t at = index->head_bytes + (size_t)group->first * BANYAN_ENTRY_BYTES;
    snprintf(what, sizeof what, "layer %d, KV head %d", (int)group->layer, (int)group->kv_head);
    banyan_status status = read_part(index->path, (int64_t)at, bytes, &data);
    if (status) return status;
    if (banyan_checksum(data, bytes) != group->checksum)
        status = damaged_index(index->path, what);
    banyan_saved_block *entry = calloc((size_t)group->count + 1, sizeof *entry);
    if (!status && !entry)
        status = banyan_fail(BANYAN_ERR_MEMORY, "\"%s\": no memory", index->path);
    banyan_cursor from = {data, 0, bytes, 0};
    for (int64_t i = 0; !status && i < group->count; i++) {
        banyan_saved_block *b = &entry[i];
        b->block = (int64_t)banyan_get64(&from);
        b->id = banyan_get64(&from);
        b->offset = banyan_get64(&from);
        b->checksum = banyan_get64(&from);
        b->file = (int32_t)banyan_get32(&from);
        b->rows = (int32_t)banyan_get32(&from);
        if (b->block < 0 || b->file < 0 || b->file >= index->files || b->rows < 1 ||
            b->rows > s->block_tokens || b->offset > INT64_MAX / 2 ||
            (i && !is_before(&entry[i - 1], b->block, b->id)))
            status = banyan_fail(BANYAN_ERR_FILE, "\"%s\": entry %lld of %s cannot be",
                                 index->path, (long long)i, what);
    }
    free(data);
    if (status)
        free(entry);
    else
        *out = entry;
    return status;
}

static void get_sum(banyan_cursor *from, banyan_saved_sum *sum)
{
    const uint64_t sequence = banyan_get64(from), first = banyan_get64(from);
    const uint64_t end = banyan_get64(from);
    sum->sequence = sequence < INT32_MAX ? (int32_t)sequence : INT32_MAX;
    sum->first = first < INT64_MAX / 2 ? (int64_t)first : INT64_MAX;
    sum->end = end < INT64_MAX / 2 ? (int64_t)end : -1;
    for (int32_t i = 0; i < sum->numbers; i++) {
        const uint64_t bits = banyan_get64(from);
        memcpy(&sum->sum[i], &bits, sizeof bits);
    }
}

banyan_status banyan_index_sums(const banyan_index *index, const banyan_snapshot *s,
                                const banyan_saved_group *group, banyan_saved_sum **out)
{
    unsigned char *data = NULL;
    char what[80];
    const int32_t numbers = layer_numbers(s, group->layer);
    const size_t count = (size_t)group->sums, bytes = count * sum_bytes(s, group->layer);
    snprintf(what, sizeof what, "the sums of layer %d, KV head %d", (int)group->layer,
             (int)group->kv_head);
    *out = NULL;
    if (!count) return BANYAN_OK;
    banyan_status status = read_part(index->path, group->sums_at, bytes, &data);
    if (status) return status;
    if (banyan_checksum(data, bytes) != group->sums_checksum)
        status = damaged_index(index->path, what);
    const size_t each = sizeof(banyan_saved_sum) + (size_t)numbers * sizeof(double);
    banyan_saved_sum *sum = status ? NULL : calloc(count, each);
    if (!status && !sum)
        status = banyan_fail(BANYAN_ERR_MEMORY, "\"%s\": no memory", index->path);
    double *number = sum ? (double *)(void *)(sum + count) : NULL;
    banyan_cursor from = {data, 0, bytes, 0};
    for (size_t i = 0; !status && i < count; i++, number += numbers) {
        sum[i].numbers = numbers;
        sum[i].sum = number;
        get_sum(&from, &sum[i]);
        if (sum[i].sequence >= s->sequences || sum[i].first >= sum[i].end ||
            (i && sum[i].sequence <= sum[i - 1].sequence))
            status = banyan_fail(BANYAN_ERR_FILE, "\"%s\": number %zu of %s cannot be",
                                 index->path, i, what);
    }
    free(data);
    if (status)
        free(sum);
    else
        *out = sum;
    return status;
}

const banyan_saved_block *banyan_entry_find(const banyan_saved_block *entry, int64_t count,
                                            int64_t block, uint64_t id)
{
    int64_t lo = 0, hi = count;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (is_before(&entry[mid], block, id))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < count && entry[lo].block == block && entry[lo].id == id ? &entry[lo] : NULL;
}
