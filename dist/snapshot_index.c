/* SPDX-License-Identifier: Apache-2.0 */
/* A rank's index: which blocks it saved, KV head by KV head, and where they lie. See snapshot.h. */
#include "dist/snapshot.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[16] = "banyan index\n";
enum { VERSION = 1, GROUP_BYTES = 32, FILE_BYTES = 16 };

void banyan_index_free(banyan_index *index)
{
    free(index->file);
    free(index->group);
    index->file = NULL;
    index->group = NULL;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void put_entry(banyan_bytes *to, const banyan_saved_block *b)
{
    banyan_put64(to, (uint64_t)b->block);
    banyan_put64(to, b->id);
    banyan_put64(to, b->offset);
    banyan_put64(to, b->checksum);
    banyan_put32(to, (uint32_t)b->file);
    banyan_put32(to, (uint32_t)b->rows);
}

/* The head has the checksums of what follows it: the entries are written first, behind it. */
void banyan_index_write(banyan_index *index, const banyan_saved_block *entry, banyan_bytes *out)
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
    }
    index->head_bytes = out->used;
    for (int32_t g = 0; g < index->groups; g++) {
        banyan_saved_group *group = &index->group[g];
        const size_t at = out->used;
        for (int64_t i = 0; i < group->count; i++) put_entry(out, &entry[group->first + i]);
        if (out->has_failed) return;
        group->checksum = banyan_checksum(out->data + at, out->used - at);
        banyan_store64(out->data + groups_at + (size_t)g * GROUP_BYTES + 24, group->checksum);
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

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

static banyan_status get_groups(banyan_cursor *from, const banyan_snapshot *s, banyan_index *x)
{
    int64_t first = 0;
    x->groups = (int32_t)banyan_get_count(from, GROUP_BYTES, INT32_MAX);
    x->group = calloc((size_t)x->groups + 1, sizeof *x->group);
    if (!x->group) return banyan_fail(BANYAN_ERR_MEMORY, "\"%s\": no memory", x->path);
    for (int32_t i = 0; i < x->groups && !from->has_failed; i++) {
        const uint32_t layer = banyan_get32(from), kv_head = banyan_get32(from);
        const uint64_t at = banyan_get64(from), count = banyan_get64(from);
        if (layer >= (uint32_t)s->layers || s->cache_layer[layer] != (int32_t)layer ||
            kv_head >= (uint32_t)s->kind[s->kind_of_layer[layer]].kv_heads ||
            at != (uint64_t)first || count > (uint64_t)1 << 40)
            from->has_failed = 1;
        if (from->has_failed) break;
        banyan_saved_group *group = &x->group[i];
        *group = (banyan_saved_group){(int32_t)layer, (int32_t)kv_head, first, (int64_t)count,
                                      banyan_get64(from)};
        first += (int64_t)count;
        if (first > INT64_C(1) << 48) from->has_failed = 1;
        const banyan_saved_group *last = i ? group - 1 : NULL;
        if (last && (last->layer > group->layer ||
                     (last->layer == group->layer && last->kv_head >= group->kv_head)))
            from->has_failed = 1;
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
    if (!status && (from.has_failed || from.at != bytes || version != VERSION || x.id != s->id))
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
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return banyan_file_failed(path, "cannot be opened");
    const banyan_status status = read_open(fd, path, at, bytes, out);
    close(fd);
    return status;
}

static banyan_status damaged(const char *path, const char *what)
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
        status = damaged(path, "its head");
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
    if (banyan_checksum(data, bytes) != group->checksum) status = damaged(index->path, what);
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
