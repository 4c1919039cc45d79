/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_save.h - one save of a cache, on one rank. */
#ifndef BANYAN_DIST_SNAPSHOT_SAVE_H
#define BANYAN_DIST_SNAPSHOT_SAVE_H

#include "dist/snapshot.h"

typedef struct banyan_saving {
    banyan_cache *c;
    const char *folder;
    const void *note;
    banyan_snapshot old; /* what is there; id 0: nothing */
    banyan_snapshot numbers;
    banyan_index index, previous; /* this rank's; previous: of the old snapshot */
    int has_previous;
    banyan_saved_block *entry;
    banyan_saved_sum *sum;
    banyan_move *move; /* of those that are written now */
    int64_t entries, sums, moves, live_bytes, new_bytes;
    banyan_saved_rank mine;
    char blocks_path[BANYAN_PATH], note_path[BANYAN_PATH], manifest_path[BANYAN_PATH];
    int manifest_fd, lock;                             /* rank 0 */
    int has_blocks, has_index, has_note, has_manifest; /* files that are this save's */
    int is_done;                                       /* the manifest is in place */
} banyan_saving;

/* Which blocks there are, and which are written. */
banyan_status banyan_save_list(banyan_saving *x);
banyan_status banyan_save_blocks(banyan_saving *x); /* collective; does not end in agreement */
banyan_status banyan_save_index(banyan_saving *x);
banyan_status banyan_save_manifest(banyan_saving *x); /* rank 0 */

/* snapshot_remove.c: files of saves that died; rank 0. */
void banyan_save_remove_left(const banyan_saving *x);
/* Files that only the snapshot before needed. Collective. */
banyan_status banyan_save_remove_old(banyan_saving *x);

#endif
