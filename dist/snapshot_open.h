/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_open.h - one snapshot that is opened, on one rank. */
#ifndef BANYAN_DIST_SNAPSHOT_OPEN_H
#define BANYAN_DIST_SNAPSHOT_OPEN_H

#include "dist/snapshot.h"

typedef struct banyan_opening {
    const banyan_plan *plan;
    const char *folder;
    banyan_snapshot s;
    banyan_cache *c;
    banyan_index *index; /* [s.ranks] */
    banyan_saved_block *saved;
    banyan_move *move;
    int64_t moves, room;
    banyan_held *held;          /* of one table */
    banyan_block_reader reader; /* of blocks that are only added up, one at a time: */
    void *block;
} banyan_opening;

/* What a rank saved of a KV head. */
typedef struct banyan_entries {
    const banyan_index *index;
    const banyan_saved_group *group;
    banyan_saved_block *entry; /* [group->count] */
    banyan_saved_sum *sum;     /* [group->sums]; NULL: nobody adds them up here */
} banyan_entries;

/* The block of a sequence among the entries of[0 .. count-1], and where it was found. CONFIG:
 * it is not there; FILE: it is, and cannot be the sequence's. */
banyan_status banyan_open_find(const banyan_opening *o, const banyan_sequence *s, int32_t layer,
                               int32_t kv_head, int64_t block, const banyan_entries *of,
                               int32_t count, const banyan_entries **where,
                               const banyan_saved_block **out);
/* Block tables, records for their blocks, and where these are to be read. */
banyan_status banyan_open_tables(banyan_opening *o);
/* Sums of a KV head's compensation token, where it has one: of sequence number `index`. */
banyan_status banyan_open_sums(banyan_opening *o, int32_t index, int32_t layer, int32_t j,
                               const banyan_entries *of, int32_t count);

#endif
