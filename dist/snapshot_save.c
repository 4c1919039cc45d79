/* SPDX-License-Identifier: Apache-2.0 */
/* Saving a cache. Every rank writes what it keeps to files of its own that nobody else knows of
 * yet, and syncs them; then rank 0 writes the manifest beside the old one, syncs it, and
 * renames it into place: at every moment before that the old snapshot is whole, and after it
 * the new one. What only the old one needed is removed last.
 *
 * A whole block never changes. So a rank that saves again where it saved (or opened) before
 * writes only what came since: each layer knows below which block it is as it was then
 * (`clean`). When more than half of the files' bytes are of blocks that are gone, all are
 * written anew. */
#include "dist/snapshot_save.h"

#include "dist/device_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int64_t step_bytes = INT64_C(1) << 30, slack_bytes = INT64_C(64) << 20;

/* ---- which blocks ------------------------------------------------------------------------ */

typedef struct kept_block {
    banyan_saved_block saved;
    void *record;
    int is_clean;
} kept_block;

static int by_block(const void *a, const void *b)
{
    const banyan_saved_block *x = &((const kept_block *)a)->saved;
    const banyan_saved_block *y = &((const kept_block *)b)->saved;
    if (x->block != y->block) return x->block < y->block ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Blocks of a KV head that this rank keeps, each once. */
static int64_t list_blocks(const banyan_cache *c, int32_t layer, int32_t j, kept_block *out)
{
    const int32_t tokens = c->plan->spec.block_tokens;
    const int32_t kv_head = banyan_cache_part(c, layer)->mine[j].kv_head;
    int64_t count = 0;
    for (int32_t i = 0; i < c->plan->spec.sequences; i++) {
        const banyan_sequence *s = &c->sequence[i];
        if (!s->is_live) continue;
        const banyan_layer *l = &s->layer[layer];
        for (int64_t n = 0; n < l->kept[j].count; n++) {
            const banyan_held held = banyan_kept_at(&l->kept[j], n);
            if (banyan_is_shared_before(s, layer, kv_head, held.block)) continue;
            if (out) {
                const int64_t rows = l->length - held.block * tokens;
                out[count] =
                    (kept_block){.saved = {.block = held.block,
                                           .id = banyan_turn_of(l, held.block)->id,
                                           .rows = (int32_t)(rows < tokens ? rows : tokens)},
                                 .record = held.record,
                                 .is_clean = held.block < l->clean};
            }
            count++;
        }
    }
    if (out) qsort(out, (size_t)count, sizeof *out, by_block);
    return count;
}

/* The index's number of a file; -1: no memory. */
static int32_t file_of(banyan_index *index, uint64_t id, uint64_t bytes)
{
    for (int32_t i = index->files - 1; i >= 0; i--)
        if (index->file[i].id == id) return i;
    banyan_saved_file *more =
        realloc(index->file, ((size_t)index->files + 1) * sizeof *index->file);
    if (!more) return -1;
    index->file = more;
    index->file[index->files] = (banyan_saved_file){id, bytes};
    return index->files++;
}

/* Where an earlier save wrote the block, or else behind those that are written now. */
static banyan_status place_block(banyan_saving *x, const kept_block *b, int32_t layer,
                                 int32_t kv_head, const banyan_saved_block *earlier,
                                 int64_t earlier_count)
{
    const banyan_shape *shape = &banyan_plan_kind(x->c->plan, layer)->shape;
    const size_t bytes = banyan_plain_bytes(&shape->block);
    banyan_saved_block *saved = &x->entry[x->entries++];
    *saved = b->saved;
    x->live_bytes += (int64_t)bytes;
    const banyan_saved_block *old =
        b->is_clean ? banyan_entry_find(earlier, earlier_count, saved->block, saved->id) : NULL;
    if (old && old->rows == saved->rows) {
        const banyan_saved_file *file = &x->previous.file[old->file];
        *saved = *old;
        saved->file = file_of(&x->index, file->id, file->bytes);
    } else {
        saved->file = file_of(&x->index, x->numbers.id, 0);
        saved->offset = (uint64_t)x->new_bytes;
        x->new_bytes += (int64_t)bytes;
        x->move[x->moves++] = (banyan_move){.shape = &shape->block,
                                            .record = b->record,
                                            .saved = saved,
                                            .layer = layer,
                                            .kv_head = kv_head,
                                            .path = x->blocks_path};
    }
    return saved->file < 0 ? banyan_fail(BANYAN_ERR_MEMORY, "save: no memory") : BANYAN_OK;
}

/* Of a KV head, of each sequence that has some. */
static int64_t list_sums(const banyan_cache *c, int32_t layer, int32_t j, banyan_saved_sum *out)
{
    const banyan_shape *shape = &banyan_plan_kind(c->plan, layer)->shape;
    int64_t count = 0, end;
    int32_t live = 0;
    for (int32_t i = 0; i < c->plan->spec.sequences; i++) {
        const banyan_layer *l = &c->sequence[i].layer[layer];
        if (!c->sequence[i].is_live) continue;
        banyan_saved_sum one = {.sequence = live++,
                                .numbers = shape->key_dim + shape->value_dim};
        if (!banyan_compensation_range(c, layer, j, l->floor, &one.first, &end)) continue;
        one.end = l->compensation[j].end;
        one.sum = l->compensation[j].sum;
        if (one.end > one.first) out[count++] = one;
    }
    return count;
}

static banyan_status place_group(banyan_saving *x, int32_t layer, int32_t j, kept_block *room)
{
    const int32_t kv_head = banyan_cache_part(x->c, layer)->mine[j].kv_head;
    const int64_t count = list_blocks(x->c, layer, j, room);
    const banyan_saved_group *old =
        x->has_previous ? banyan_index_find(&x->previous, layer, kv_head) : NULL;
    banyan_saved_block *earlier = NULL;
    banyan_status status =
        old ? banyan_index_entries(&x->previous, &x->old, old, &earlier) : BANYAN_OK;
    const int64_t sums = list_sums(x->c, layer, j, x->sum + x->sums);
    x->sums += sums;
    x->index.group[x->index.groups++] = (banyan_saved_group){
        .layer = layer, .kv_head = kv_head, .first = x->entries, .count = count, .sums = sums};
    for (int64_t i = 0; i < count && !status; i++)
        status = place_block(x, &room[i], layer, kv_head, earlier, old ? old->count : 0);
    free(earlier);
    return status;
}

static banyan_status place_all(banyan_saving *x, kept_block *room)
{
    banyan_status status = BANYAN_OK;
    x->entries = x->sums = x->moves = x->live_bytes = x->new_bytes = 0;
    x->index.files = x->index.groups = 0;
    for (int32_t layer = 0; layer < x->c->plan->spec.layers; layer++)
        for (int32_t j = 0; j < banyan_kept_count(x->c, layer) && !status; j++)
            status = place_group(x, layer, j, room);
    return status;
}

/* Bytes of all files that the index names. */
static int64_t named_bytes(const banyan_saving *x)
{
    int64_t bytes = x->new_bytes;
    for (int32_t i = 0; i < x->index.files; i++) bytes += (int64_t)x->index.file[i].bytes;
    return bytes;
}

banyan_status banyan_save_list(banyan_saving *x)
{
    int64_t all = 0, most = 0, groups = 0;
    for (int32_t layer = 0; layer < x->c->plan->spec.layers; layer++)
        for (int32_t j = 0; j < banyan_kept_count(x->c, layer); j++, groups++) {
            const int64_t count = list_blocks(x->c, layer, j, NULL);
            all += count;
            if (count > most) most = count;
        }
    kept_block *room = calloc((size_t)most + 1, sizeof *room);
    x->entry = calloc((size_t)all + 1, sizeof *x->entry);
    x->move = calloc((size_t)all + 1, sizeof *x->move);
    x->sum = calloc((size_t)(groups * x->c->live) + 1, sizeof *x->sum);
    x->index.group = calloc((size_t)groups + 1, sizeof *x->index.group);
    banyan_status status = BANYAN_OK;
    if (!room || !x->entry || !x->move || !x->sum || !x->index.group)
        status = banyan_fail(BANYAN_ERR_MEMORY, "save: no memory to list %lld blocks",
                             (long long)all);
    if (!status) status = place_all(x, room);
    if (!status && x->has_previous && named_bytes(x) > 2 * x->live_bytes + slack_bytes) {
        x->has_previous = 0;
        status = place_all(x, room);
    }
    for (int32_t i = 0; i < x->index.files; i++)
        if (x->index.file[i].id == x->numbers.id)
            x->index.file[i].bytes = (uint64_t)x->new_bytes;
    free(room);
    return status;
}

/* ---- writing ----------------------------------------------------------------------------- */

/* The next of them, about a GiB. */
static banyan_status write_step(banyan_saving *x, int fd, int64_t *done)
{
    int64_t end = *done;
    for (int64_t bytes = 0; end < x->moves && bytes < step_bytes; end++) {
        x->move[end].fd = fd;
        bytes += (int64_t)banyan_plain_bytes(x->move[end].shape);
    }
    const banyan_status status = banyan_blocks_save(x->c, x->move + *done, end - *done);
    *done = end;
    return status;
}

/* Ranks agree now and then: none waits long for another, and a full disk is noticed by all. */
banyan_status banyan_save_blocks(banyan_saving *x)
{
    banyan_comm *comm = x->c->plan->comm;
    double steps = (double)((x->new_bytes + step_bytes - 1) / step_bytes);
    banyan_status status = banyan_comm_allreduce(comm, &steps, 1, BANYAN_MAX);
    if (status) return status;
    int fd = -1;
    if (x->moves) {
        status = banyan_file_create(x->blocks_path, &fd);
        x->has_blocks = !status;
    }
    int64_t done = 0;
    for (int64_t i = 0; i < (int64_t)steps; i++) {
        if (!status) status = write_step(x, fd, &done);
        status = banyan_comm_agree(comm, status);
        if (status) break;
    }
    if (fd >= 0 && status)
        close(fd);
    else if (fd >= 0)
        status = banyan_file_sync(fd, x->blocks_path);
    return status;
}

static banyan_status write_synced(const char *path, const void *data, size_t bytes,
                                  int *is_there)
{
    int fd;
    banyan_status status = banyan_file_create(path, &fd);
    if (status) return status;
    *is_there = 1;
    status = banyan_file_write(fd, path, data, bytes, 0);
    if (!status) return banyan_file_sync(fd, path);
    close(fd);
    return status;
}

banyan_status banyan_save_index(banyan_saving *x)
{
    banyan_bytes bytes = {0};
    banyan_index_write(&x->index, x->entry, x->sum, &bytes);
    banyan_status status =
        bytes.has_failed ? banyan_fail(BANYAN_ERR_MEMORY, "save: no memory") : BANYAN_OK;
    if (!status)
        x->mine = (banyan_saved_rank){x->index.head_bytes,
                                      banyan_checksum(bytes.data, x->index.head_bytes),
                                      (uint64_t)x->entries, (uint64_t)x->live_bytes};
    if (!status) status = write_synced(x->index.path, bytes.data, bytes.used, &x->has_index);
    free(bytes.data);
    return status;
}

/* Rank 0: the note, and the manifest, which was made empty when the save began. */
banyan_status banyan_save_manifest(banyan_saving *x)
{
    banyan_bytes bytes = {0};
    char to[BANYAN_PATH];
    banyan_status status = banyan_snapshot_path(to, x->folder, "manifest", 0, -1);
    if (!status && x->numbers.note_bytes) {
        x->numbers.note_checksum = banyan_checksum(x->note, (size_t)x->numbers.note_bytes);
        status =
            write_synced(x->note_path, x->note, (size_t)x->numbers.note_bytes, &x->has_note);
    }
    if (!status) banyan_snapshot_write(x->c, &x->numbers, &bytes);
    if (bytes.has_failed) status = banyan_fail(BANYAN_ERR_MEMORY, "save: no memory");
    if (!status)
        status = banyan_file_write(x->manifest_fd, x->manifest_path, bytes.data, bytes.used, 0);
    free(bytes.data);
    if (status) return status;
    status = banyan_file_sync(x->manifest_fd, x->manifest_path);
    x->manifest_fd = -1;
    if (!status) status = banyan_folder_sync(x->folder); /* files before the name of theirs */
    if (!status && rename(x->manifest_path, to))
        status = banyan_file_failed(to, "cannot be renamed into place");
    if (status) return status;
    x->is_done = 1;
    return banyan_folder_sync(x->folder);
}
