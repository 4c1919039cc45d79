/* SPDX-License-Identifier: Apache-2.0 */
/* The ranks' way through a save, and the folder's files: one folder that all ranks see, one
 * save at a time, nothing left of one that failed, nor of snapshots before. */
#include "dist/device_cache.h"
#include "dist/plan.h"
#include "dist/snapshot_save.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- may it be saved? -------------------------------------------------------------------- */

/* Keys and values of a step come after it. */
static banyan_status check_written(const banyan_layer *layer, int32_t index, int is_owed)
{
    int64_t written = layer->written;
    if (!is_owed && layer->replayed > written) written = layer->replayed;
    if (written >= layer->length) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_ARGUMENT,
                       "save: layer %d has %lld tokens, and keys and values of %lld: expected "
                       "all %lld, which calls of banyan_attend (or a graph's replay) bring "
                       "after banyan_cache_step",
                       (int)index, (long long)layer->length, (long long)written,
                       (long long)layer->length);
}

static banyan_status check_lengths(banyan_cache *c)
{
    int is_owed = 0;
    banyan_status status = c->device ? banyan_device_is_owed(c, &is_owed) : BANYAN_OK;
    for (int32_t i = 0; i < c->plan->spec.sequences; i++) {
        const banyan_sequence *s = &c->sequence[i];
        int32_t first = -1;
        for (int32_t l = 0; l < c->plan->spec.layers && s->is_live && !status; l++) {
            if (!banyan_keeps_own(c->plan, l)) continue;
            if (first < 0) first = l;
            if (s->layer[l].length != s->layer[first].length)
                return banyan_fail(BANYAN_ERR_ARGUMENT,
                                   "save: layer %d has %lld tokens and layer %d has %lld: "
                                   "expected as many in every layer",
                                   (int)first, (long long)s->layer[first].length, (int)l,
                                   (long long)s->layer[l].length);
            status = check_written(&s->layer[l], l, is_owed);
        }
    }
    return status;
}

banyan_status banyan_snapshot_possible(const banyan_plan *plan)
{
#ifndef BANYAN_HAS_XXHASH
    return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                       "this build has no snapshots: xxhash.h was not there");
#endif
    if (plan->comm->broken) return banyan_comm_is_broken(plan->comm);
    return BANYAN_OK;
}

static banyan_status check_save(banyan_cache *c, const char *folder, const void *note,
                                size_t bytes)
{
    if (!folder || !*folder)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "save: folder is %s",
                           folder ? "empty" : "NULL");
    if (bytes && !note)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "save: a note of %zu bytes at NULL", bytes);
    if (c->device && banyan_memory_is_captured(&c->device->memory))
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "save: the stream is captured in a graph just now");
    const banyan_status status = banyan_snapshot_possible(c->plan);
    return status ? status : check_lengths(c);
}

/* ---- beginning --------------------------------------------------------------------------- */

/* What was there before, if it is a snapshot. */
static banyan_status read_old(banyan_saving *x)
{
    char path[BANYAN_PATH];
    struct stat is;
    banyan_status status = banyan_snapshot_path(path, x->folder, "manifest", 0, -1);
    if (status) return status;
    if (!stat(path, &is)) return banyan_snapshot_read(x->folder, &x->old);
    return errno == ENOENT ? BANYAN_OK : banyan_file_failed(path, "cannot be looked at");
}

/* Rank 0: the folder, the right to save there, and a manifest without content. */
static banyan_status begin_save(banyan_saving *x)
{
    char parent[BANYAN_PATH];
    const int is_new = !mkdir(x->folder, 0777);
    if (!is_new && errno != EEXIST) return banyan_file_failed(x->folder, "cannot be made");
    if (is_new && !banyan_snapshot_path(parent, x->folder, "..", 0, -1))
        (void)banyan_folder_sync(parent); /* which not everybody may read */
    if (!banyan_folder_lock(x->folder, BANYAN_LOCK_SAVE, &x->lock))
        return banyan_fail(BANYAN_ERR_FILE, "\"%s\": another job is saving there", x->folder);
    banyan_status status = read_old(x);
    if (status) return status;
    banyan_save_remove_left(x);
    while (!x->numbers.id)
        if (getrandom(&x->numbers.id, sizeof x->numbers.id, 0) != sizeof x->numbers.id)
            return banyan_file_failed(x->folder, "no random number for its files");
    x->numbers.number = x->old.number + 1;
    status = banyan_snapshot_path(x->manifest_path, x->folder, "manifest", x->numbers.id, -1);
    if (!status) status = banyan_file_create(x->manifest_path, &x->manifest_fd);
    x->has_manifest = !status;
    return status;
}

/* Every rank: is that the folder that rank 0 sees? And names of files. */
static banyan_status join_save(banyan_saving *x)
{
    const banyan_plan *plan = x->c->plan;
    const uint64_t id = x->numbers.id;
    x->index.id = id;
    x->index.rank = plan->rank;
    banyan_status status =
        banyan_snapshot_path(x->manifest_path, x->folder, "manifest", id, -1);
    if (!status) status = banyan_snapshot_path(x->note_path, x->folder, "note", id, -1);
    if (!status)
        status = banyan_snapshot_path(x->blocks_path, x->folder, "blocks", id, plan->rank);
    if (!status)
        status = banyan_snapshot_path(x->index.path, x->folder, "index", id, plan->rank);
    if (!status && access(x->manifest_path, F_OK))
        return banyan_fail(BANYAN_ERR_FILE,
                           "\"%s\" is not the folder that rank 0 sees: expected one that all "
                           "ranks share",
                           x->folder);
    return status;
}

/* Are all files there, and as long as they were, from which blocks are to be a part of this
 * snapshot? */
static int has_files(const banyan_saving *x)
{
    char path[BANYAN_PATH];
    struct stat is;
    for (int32_t i = 0; i < x->previous.files; i++) {
        const banyan_saved_file *file = &x->previous.file[i];
        if (banyan_snapshot_path(path, x->folder, "blocks", file->id, x->previous.rank) ||
            stat(path, &is) || (uint64_t)is.st_size != file->bytes)
            return 0;
    }
    return 1;
}

/* May blocks of the snapshot that is there be a part of this one? */
static void find_previous(banyan_saving *x)
{
    const banyan_plan *plan = x->c->plan;
    if (!x->c->saved_id) return;
    if (plan->rank > 0 && read_old(x)) return;
    if (x->old.id != x->c->saved_id || x->old.plan_hash != plan->hash ||
        x->old.ranks != plan->ranks)
        return;
    x->has_previous =
        !banyan_index_read(x->folder, &x->old, plan->rank, &x->previous) && has_files(x);
}

/* ---- the whole way ----------------------------------------------------------------------- */

static banyan_status write_all(banyan_saving *x)
{
    banyan_comm *comm = x->c->plan->comm;
    banyan_status status = banyan_comm_broadcast(comm, &x->numbers.id, sizeof x->numbers.id, 0);
    if (status) return status;
    status = join_save(x);
    if (!status) find_previous(x);
    if (!status) status = banyan_save_list(x);
    status = banyan_comm_agree(comm, status);
    if (status) return status;
    status = banyan_save_blocks(x);
    if (!status) status = banyan_save_index(x);
    status = banyan_comm_agree(comm, status);
    if (!status)
        status = banyan_comm_allgather(comm, &x->mine, sizeof x->mine, x->numbers.rank);
    if (status) return status;
    if (comm->rank == 0) status = banyan_save_manifest(x);
    status = banyan_comm_agree(comm, status);
    /* It may be in place though it could not be synced: then files stay. */
    if (status && status != BANYAN_ERR_COMM &&
        banyan_comm_broadcast(comm, &x->is_done, sizeof x->is_done, 0))
        x->is_done = 1;
    return status;
}

/* Files of a save that failed go; those of one that is in place belong to the snapshot. */
static void drop_files(banyan_saving *x, banyan_status status)
{
    if (x->manifest_fd >= 0) close(x->manifest_fd);
    x->manifest_fd = -1;
    /* Ranks whose rank 0 is not heard of any more do not know whether it is in place. */
    if (!status || x->is_done || status == BANYAN_ERR_COMM) return;
    if (x->has_blocks) (void)unlink(x->blocks_path);
    if (x->has_index) (void)unlink(x->index.path);
    if (x->has_note) (void)unlink(x->note_path);
    if (x->has_manifest) (void)unlink(x->manifest_path);
}

static void remember_saved(banyan_saving *x)
{
    banyan_cache *c = x->c;
    c->saved_id = x->numbers.id;
    for (int32_t i = 0; i < c->plan->spec.sequences; i++)
        for (int32_t l = 0; l < c->plan->spec.layers && c->sequence[i].is_live; l++)
            c->sequence[i].layer[l].clean =
                banyan_clean_blocks(c->plan, c->sequence[i].layer[l].length);
}

banyan_status banyan_cache_save(banyan_cache *cache, const char *folder, const void *note,
                                size_t bytes)
{
    if (!cache) return banyan_fail(BANYAN_ERR_ARGUMENT, "save: cache is NULL");
    banyan_comm *comm = cache->plan->comm;
    banyan_saving x = {
        .c = cache, .folder = folder, .note = note, .manifest_fd = -1, .lock = -1};
    x.numbers.note_bytes = bytes;
    const int device = banyan_device_enter(cache);
    banyan_status status = check_save(cache, folder, note, bytes);
    if (!status) x.numbers.rank = calloc((size_t)cache->plan->ranks, sizeof *x.numbers.rank);
    if (!status && !x.numbers.rank) status = banyan_fail(BANYAN_ERR_MEMORY, "save: no memory");
    if (!status && comm->rank == 0) status = begin_save(&x);
    status = banyan_comm_agree(comm, status);
    if (!status) status = write_all(&x);
    drop_files(&x, status);
    if (!status) remember_saved(&x);
    if (!status) status = banyan_save_remove_old(&x);
    banyan_folder_unlock(x.lock);
    banyan_device_leave(cache, device);
    banyan_snapshot_free(&x.old);
    banyan_index_free(&x.index);
    banyan_index_free(&x.previous);
    free(x.numbers.rank);
    free(x.entry);
    free(x.sum);
    free(x.move);
    return status;
}
