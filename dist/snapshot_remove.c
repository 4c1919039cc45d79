/* SPDX-License-Identifier: Apache-2.0 */
/* What is removed from a snapshot's folder: what only the snapshot before needed, when the new
 * one is in place; and before a save begins what others left that died, since it may be what
 * fills the disk. Nothing that is not exactly a name of ours is touched, and nothing while
 * somebody opens. */
#include "dist/plan.h"
#include "dist/snapshot_save.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int by_id(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Of which save is a file? 0: it is none of a save. */
static uint64_t save_of(const char *name, int *is_blocks)
{
    static const char *const kinds[] = {"blocks", "index", "note", "manifest"};
    char expected[64];
    for (int i = 0; i < 4; i++) {
        const size_t length = strlen(kinds[i]);
        uint64_t id;
        int rank = 0;
        if (strncmp(name, kinds[i], length) || name[length] != '-' ||
            sscanf(name + length + 1, "%16" SCNx64 "-%9d", &id, &rank) < 1)
            continue;
        if (i < 2)
            snprintf(expected, sizeof expected, "%s-%016" PRIx64 "-%d", kinds[i], id, rank);
        else
            snprintf(expected, sizeof expected, "%s-%016" PRIx64, kinds[i], id);
        *is_blocks = i == 0;
        return strcmp(name, expected) ? 0 : id;
    }
    return 0;
}

/* The next file of a save that is not `kept`, with its path; 0: there is no more. */
static uint64_t next_other(DIR *folder, const char *in, uint64_t kept, char path[BANYAN_PATH],
                           int *is_blocks)
{
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        const uint64_t of = save_of(entry->d_name, is_blocks);
        const int n = snprintf(path, BANYAN_PATH, "%s/%s", in, entry->d_name);
        if (of && of != kept && n > 0 && n < BANYAN_PATH) return of;
    }
    return 0;
}

/* All files of saves but `kept`, and but blocks of those among id[0 .. count-1]. */
static void remove_others(const char *in, uint64_t kept, uint64_t *id, size_t count)
{
    int lock, is_blocks;
    char path[BANYAN_PATH];
    if (!banyan_folder_lock(in, BANYAN_LOCK_REMOVE, &lock)) return; /* next time */
    DIR *folder = opendir(in);
    qsort(id, count, sizeof *id, by_id);
    for (uint64_t of; (of = next_other(folder, in, kept, path, &is_blocks));)
        if (!is_blocks || !bsearch(&of, id, count, sizeof *id, by_id)) (void)unlink(path);
    if (folder) closedir(folder);
    banyan_folder_unlock(lock);
}

/* ---- before a save ----------------------------------------------------------------------- */

/* One that died left at least its manifest, its index, or its note. */
static int is_left(const banyan_saving *x)
{
    char path[BANYAN_PATH];
    int is_blocks;
    uint64_t of;
    DIR *folder = opendir(x->folder);
    do {
        of = next_other(folder, x->folder, x->old.id, path, &is_blocks);
    } while (of && is_blocks);
    if (folder) closedir(folder);
    return of != 0;
}

/* Which saves wrote the blocks of the snapshot that is there; -1: it cannot be said. */
static int64_t list_old(const banyan_saving *x, uint64_t **out)
{
    int64_t count = 0;
    *out = calloc(1, sizeof **out);
    for (int32_t r = 0; *out && x->old.id && r < x->old.ranks; r++) {
        banyan_index index = {0};
        if (banyan_index_read(x->folder, &x->old, r, &index)) return -1;
        uint64_t *more = realloc(*out, (size_t)(count + index.files + 1) * sizeof *more);
        for (int32_t i = 0; more && i < index.files; i++) more[count++] = index.file[i].id;
        banyan_index_free(&index);
        if (!more) return -1;
        *out = more;
    }
    return *out ? count : -1;
}

void banyan_save_remove_left(const banyan_saving *x)
{
    uint64_t *id = NULL;
    if (x->lock < 0 || !is_left(x)) return; /* without a lock, others may be saving */
    const int64_t count = list_old(x, &id);
    if (count >= 0) remove_others(x->folder, x->old.id, id, (size_t)count);
    free(id);
}

/* ---- behind it --------------------------------------------------------------------------- */

/* Rank 0 hears from each rank whose blocks its index names. Collective. */
banyan_status banyan_save_remove_old(banyan_saving *x)
{
    banyan_comm *comm = x->c->plan->comm;
    const int32_t ranks = x->c->plan->ranks;
    uint64_t own = (uint64_t)x->index.files, all = 0;
    uint64_t *counts = calloc((size_t)ranks, sizeof *counts);
    uint64_t *mine = calloc((size_t)own + 1, sizeof *mine);
    banyan_message *recv = calloc((size_t)ranks, sizeof *recv);
    for (uint64_t i = 0; mine && i < own; i++) mine[i] = x->index.file[i].id;
    banyan_status status =
        counts && mine && recv ? BANYAN_OK : banyan_fail(BANYAN_ERR_MEMORY, "save: no memory");
    status = banyan_comm_agree(comm, status);
    if (!status) status = banyan_comm_allgather(comm, &own, sizeof own, counts);
    for (int32_t r = 0; !status && r < ranks; r++) all += counts[r];
    uint64_t *id = NULL;
    if (!status && comm->rank == 0) id = calloc((size_t)all + 1, sizeof *id);
    if (!status)
        status = banyan_comm_agree(comm, comm->rank || id ? BANYAN_OK : BANYAN_ERR_MEMORY);
    uint64_t *at = id;
    for (int32_t r = 0; id && r < ranks; at += counts[r++])
        recv[r] = (banyan_message){r, at, (size_t)counts[r] * sizeof *at};
    const banyan_message send = {0, mine, (size_t)own * sizeof *mine};
    if (!status)
        status = banyan_comm_exchange(comm, &send, 1, recv, comm->rank == 0 ? ranks : 0);
    if (!status && comm->rank == 0) remove_others(x->folder, x->numbers.id, id, (size_t)all);
    free(counts);
    free(mine);
    free(recv);
    free(id);
    return status;
}
