/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.h - a cache on disk; for the files of dist/ that write and read one.
 *
 *     FOLDER/manifest             what is in it; renamed into place last, so that it is the
 *                                 snapshot
 *            index-ID-RANK        of each rank that saved: its blocks, where they lie, their
 *                                 checksums; and its sums of what is read as one token
 *            blocks-ID-RANK       blocks that it wrote: rows in the cache's dtype
 *            note-ID              the caller's bytes
 *            lock
 *
 * ID, 16 hexadecimal digits, is drawn anew for each save: no save writes to a file of another.
 * An index may name blocks that an earlier save wrote. Numbers are little endian; checksums are
 * XXH3 of 64 bits.
 *
 *     manifest   "banyan snapshot\n" u32 version, u64 bytes of all of it
 *                u64 id, number of saves, plan hash; u32 ranks that saved
 *                u32 layers, heads, block_tokens, dtype
 *                u32 kinds; each: u32 kv_heads, key_dim, value_dim, value_in_key,
 *                      and of each head the rule: u32 bytes, text
 *                of each layer: u32 kind, u32 cache layer
 *                u64 bytes of the note, u64 its checksum
 *                u64 next id, u32 sequences; each: u64 turn, u64 family, of each layer with
 *                keys of its own
 *                      i64 length, longest, floor, u32 turns; each: i64 first, u64 turn, u64 id
 *                of each rank: u64 bytes of its index's head, its checksum, blocks, their bytes
 *                u64 checksum of all before
 *     index      head: "banyan index\n\0\0\0" u32 version, u32 rank, u64 id
 *                      u32 files; each: u64 id, u64 bytes
 *                      u32 groups; each: u32 layer, u32 kv_head, u64 first entry, u64 count,
 *                          u64 checksum of these entries, u64 sums, u64 checksum of these sums
 *                entries, 40 bytes: u64 block, id, offset, checksum; u32 file, u32 rows
 *                sums, behind the entries of all groups: u64 sequence, first, end,
 *                      fp64 [key_dim + value_dim]: of the keys and values of its tokens first
 *                      .. end-1
 *     block      k [block_tokens][key_dim], v [block_tokens][value_dim] (not with
 *                value_in_key); with e4m3 also factors fp32, of k and of v [block_tokens];
 *                zeros behind its rows
 *
 * This is version 2. Version 1 is read as well: it has no sums, nor their two numbers in a
 * group. */
#ifndef BANYAN_DIST_SNAPSHOT_H
#define BANYAN_DIST_SNAPSHOT_H

#include "dist/cache.h"

/* ---- bytes (snapshot_bytes.c) ------------------------------------------------------------ */

uint64_t banyan_checksum(const void *data, size_t bytes);

/* Grows at the end; has_failed: there was no memory. */
typedef struct banyan_bytes {
    unsigned char *data;
    size_t used, room;
    int has_failed;
} banyan_bytes;
void banyan_put(banyan_bytes *to, const void *data, size_t bytes);
void banyan_put32(banyan_bytes *to, uint32_t x);
void banyan_put64(banyan_bytes *to, uint64_t x);
void banyan_store32(unsigned char *to, uint32_t x);
void banyan_store64(unsigned char *to, uint64_t x);

/* Reads from front to back; beyond the end everything is 0 and has_failed. */
typedef struct banyan_cursor {
    const unsigned char *data;
    size_t at, bytes;
    int has_failed;
} banyan_cursor;
const void *banyan_get(banyan_cursor *from, size_t bytes); /* NULL beyond the end */
uint32_t banyan_get32(banyan_cursor *from);
uint64_t banyan_get64(banyan_cursor *from);
/* A count of things of at least `bytes` bytes each, at most what is left and `most`. */
int64_t banyan_get_count(banyan_cursor *from, size_t bytes, int64_t most);

/* ---- files (snapshot_file.c) ------------------------------------------------------------- */

enum { BANYAN_PATH = 4096 };
/* FOLDER/NAME-ID-RANK; rank < 0: without it; id 0: FOLDER/NAME. ARGUMENT when it is too
 * long. */
banyan_status banyan_snapshot_path(char path[BANYAN_PATH], const char *folder, const char *name,
                                   uint64_t id, int rank);
/* FILE, with the path and why. */
banyan_status banyan_file_failed(const char *path, const char *what);
banyan_status banyan_file_create(const char *path, int *fd); /* a new one */
banyan_status banyan_file_write(int fd, const char *path, const void *data, size_t bytes,
                                int64_t at);
banyan_status banyan_file_read(int fd, const char *path, void *data, size_t bytes, int64_t at);
banyan_status banyan_file_open(const char *path, int *fd); /* to read; a file, not a pipe */
/* All of a file, at most `most` bytes; for free(). */
banyan_status banyan_file_all(const char *path, size_t most, unsigned char **data,
                              size_t *bytes);
banyan_status banyan_file_sync(int fd, const char *path); /* to disk; and closes it */
banyan_status banyan_folder_sync(const char *folder);

/* Who may do what in a folder at the same time: one saves; any number open; nobody removes
 * files while somebody opens. -1 where the system has no such locks, or there is none to hold:
 * goes on without. */
typedef enum banyan_lock { BANYAN_LOCK_SAVE, BANYAN_LOCK_REMOVE, BANYAN_LOCK_OPEN } banyan_lock;
/* 0: somebody else has it (OPEN waits). */
int banyan_folder_lock(const char *folder, banyan_lock lock, int *fd);
void banyan_folder_unlock(int fd);

/* ---- manifest and index (snapshot_format.c) ---------------------------------------------- */

typedef struct banyan_saved_kind {
    int32_t kv_heads, key_dim, value_dim, value_in_key;
    const char **use; /* [heads] */
} banyan_saved_kind;

typedef struct banyan_saved_sequence {
    uint64_t turn, family;
    banyan_layer *layer; /* [layers], without kept; of those that read others, nothing */
} banyan_saved_sequence;

typedef struct banyan_saved_rank {
    uint64_t head_bytes, head_checksum; /* of its index */
    uint64_t blocks, block_bytes;
} banyan_saved_rank;

typedef struct banyan_snapshot {
    uint32_t version;
    uint64_t id, number, plan_hash, next_id, note_bytes, note_checksum, checksum;
    int32_t ranks, layers, heads, block_tokens, kinds, sequences;
    banyan_dtype dtype;
    banyan_saved_kind *kind;
    int32_t *kind_of_layer, *cache_layer;
    banyan_saved_sequence *sequence;
    banyan_saved_rank *rank;
    struct banyan_owned *owned; /* what snapshot_free frees */
} banyan_snapshot;

/* Reads a manifest's bytes. FILE: what is wrong with it, and at which byte. */
banyan_status banyan_snapshot_parse(const char *path, const unsigned char *data, size_t bytes,
                                    banyan_snapshot *out);
/* .. of the folder. */
banyan_status banyan_snapshot_read(const char *folder, banyan_snapshot *out);
void banyan_snapshot_free(banyan_snapshot *s);
/* What a live cache's manifest says; rank [ranks]. */
void banyan_snapshot_write(const banyan_cache *c, const banyan_snapshot *numbers,
                           banyan_bytes *out);

typedef struct banyan_saved_block {
    int64_t block;
    uint64_t id, offset, checksum;
    int32_t file, rows;
} banyan_saved_block;
enum { BANYAN_ENTRY_BYTES = 40 };

typedef struct banyan_saved_group {
    int32_t layer, kv_head;
    int64_t first, count;
    uint64_t checksum;
    int64_t sums, sums_at; /* how many, and the byte of the first */
    uint64_t sums_checksum;
} banyan_saved_group;

/* Of a sequence, the how manieth of the snapshot, over its tokens first .. end-1. */
typedef struct banyan_saved_sum {
    int32_t sequence, numbers;
    int64_t first, end;
    double *sum; /* [numbers]: keys and values, as banyan_compensation has them */
} banyan_saved_sum;

typedef struct banyan_saved_file {
    uint64_t id, bytes;
} banyan_saved_file;

/* One rank's index. */
typedef struct banyan_index {
    int32_t rank, files, groups;
    uint64_t id;
    banyan_saved_file *file;
    banyan_saved_group *group; /* ascending by layer and KV head */
    size_t head_bytes;
    char path[BANYAN_PATH];
} banyan_index;

/* The head, and with it which entries there are. */
banyan_status banyan_index_read(const char *folder, const banyan_snapshot *s, int rank,
                                banyan_index *out);
banyan_status banyan_index_parse(const char *path, const unsigned char *data, size_t bytes,
                                 const banyan_snapshot *s, banyan_index *out);
void banyan_index_free(banyan_index *index);
const banyan_saved_group *banyan_index_find(const banyan_index *index, int32_t layer,
                                            int32_t kv_head);
/* The entries of a group, ascending by (block, id), for free(). */
banyan_status banyan_index_entries(const banyan_index *index, const banyan_snapshot *s,
                                   const banyan_saved_group *group, banyan_saved_block **out);
/* The sums of a group, ascending by sequence, for free(). */
banyan_status banyan_index_sums(const banyan_index *index, const banyan_snapshot *s,
                                const banyan_saved_group *group, banyan_saved_sum **out);
/* The bytes of an index; entries and sums of all groups, one behind the other. Fills in the
 * groups' checksums and head_bytes. */
void banyan_index_write(banyan_index *index, const banyan_saved_block *entry,
                        const banyan_saved_sum *sum, banyan_bytes *out);
const banyan_saved_block *banyan_entry_find(const banyan_saved_block *entry, int64_t count,
                                            int64_t block, uint64_t id);

/* ---- blocks (snapshot_blocks.c) ---------------------------------------------------------- */

/* Bytes of a block in a file. */
size_t banyan_plain_bytes(const banyan_block_shape *shape);
/* Where its parts lie. */
banyan_plain banyan_plain_at(const banyan_block_shape *shape, void *bytes);

/* Reads one block after another, each from its file, and compares its checksum. */
typedef struct banyan_block_reader {
    const char *folder;
    int fd; /* -1: no file is open */
    int32_t rank;
    uint64_t id; /* which save of that rank wrote it */
    char path[BANYAN_PATH];
} banyan_block_reader;
banyan_status banyan_block_read(banyan_block_reader *r, const banyan_index *index,
                                const banyan_saved_group *group,
                                const banyan_saved_block *saved, void *to, size_t bytes);
void banyan_block_reader_end(banyan_block_reader *r);

/* Blocks on their way between records and one file after another, in the order of the list:
 * some MiB at a time, which the threads pack or unpack while one of them reads or writes
 * others. */
typedef struct banyan_move {
    const banyan_block_shape *shape;
    void *record;
    banyan_saved_block *saved; /* its checksum is filled in, or compared */
    int32_t fd, layer, kv_head;
    int32_t rank; /* that saved it */
    const char *path;
} banyan_move;
/* Blocks of a saved sequence that are written no more, unless it goes back. On a device a graph
 * that is replayed may write rows of its last call again, which the host does not see. */
static inline int64_t banyan_clean_blocks(const banyan_plan *plan, int64_t length)
{
    const int64_t end = plan->kernel->device ? length - plan->spec.max_rows : length;
    return end > 0 ? end / plan->spec.block_tokens : 0;
}
banyan_status banyan_snapshot_possible(const banyan_plan *plan);
/* Of a buffer between records and files, at least; a block fits in any case. Tests make it
 * small. */
extern size_t banyan_batch_bytes;
banyan_status banyan_blocks_save(banyan_cache *c, const banyan_move *move, int64_t count);
banyan_status banyan_blocks_load(banyan_cache *c, const banyan_move *move, int64_t count);

#endif
