/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of a model's cache. The note says of which model it is and which tokens were read:
 *
 *     "banyan ids\n\0\0\0\0\0"   u64 digest   u64 count   u32 ids [count]        little endian
 *
 * so that a prompt is known to go on from it, and another model's keys are refused. There may
 * be one id more than the cache has tokens: the last one, which was made and not read. */
#include "launch/launch.h"
#include "launch/model/runner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[16] = "banyan ids\n";
enum { HEAD = 32 };

static void store(unsigned char *to, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(x >> 8 * i);
}

static uint64_t little_endian(const unsigned char *from, int bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++) x |= (uint64_t)from[i] << 8 * i;
    return x;
}

/* All ranks get the verdict and the words of the one that failed. */
static banyan_status share_verdict(model *m, banyan_status status)
{
    if (!status || status == BANYAN_ERR_COMM) return status;
    return agree_words(m->comm, status == BANYAN_ERR_PEER ? BANYAN_OK : status, m->why, WHY);
}

banyan_status model_save(model *m, const char *folder, const uint32_t *ids, int64_t count)
{
    const size_t bytes = m->rank ? 0 : HEAD + 4 * (size_t)count;
    unsigned char *note = m->rank ? NULL : malloc(bytes);
    banyan_status status = m->rank || note ? BANYAN_OK : BANYAN_ERR_MEMORY;
    snprintf(m->why, WHY, "out of memory for %" PRId64 " ids", count);
    status = agree_words(m->comm, status, m->why, WHY);
    if (!status) m->why[0] = 0;
    if (note) {
        memcpy(note, magic, sizeof magic);
        store(note + 16, m->digest, 8);
        store(note + 24, (uint64_t)count, 8);
        for (int64_t i = 0; i < count; i++) store(note + HEAD + 4 * i, ids[i], 4);
    }
    if (!status) status = banyan_cache_save(m->cache, folder, note, bytes);
    if (status && !m->why[0]) snprintf(m->why, WHY, "%s", banyan_error_message());
    free(note);
    return share_verdict(m, status);
}

int64_t model_length(const model *m)
{
    return banyan_sequence_length(m->sequence, -1);
}

uint32_t *snapshot_ids(const char *folder, int64_t room, int64_t *count, uint64_t *digest,
                       char *why, size_t why_bytes)
{
    size_t bytes = 0, room_bytes;
    unsigned char *note = NULL;
    banyan_status status = banyan_snapshot_note(folder, NULL, 0, &bytes);
    do { /* once more, when a longer one took its place in between */
        free(note);
        room_bytes = bytes;
        note = status ? NULL : malloc(bytes + 1);
        if (note) status = banyan_snapshot_note(folder, note, room_bytes, &bytes);
    } while (note && !status && bytes > room_bytes);
    snprintf(why, why_bytes, "%s", status ? banyan_error_message() : "out of memory");
    uint32_t *ids = NULL;
    if (!status && note) {
        snprintf(why, why_bytes, "the snapshot in \"%s\" is none of a model", folder);
        const bool good = bytes >= HEAD && !memcmp(note, magic, sizeof magic) &&
                          little_endian(note + 24, 8) == (bytes - HEAD) / 4;
        *count = good ? (int64_t)((bytes - HEAD) / 4) : 0;
        if (good) ids = malloc((size_t)(*count + room + 1) * sizeof *ids);
    }
    for (int64_t i = 0; ids && i < *count; i++)
        ids[i] = (uint32_t)little_endian(note + HEAD + 4 * i, 4);
    if (ids) *digest = little_endian(note + 16, 8);
    free(note);
    return ids;
}

/* Rank 0: is what was opened, of `tokens` tokens, still of the ids that the caller read
 * there? */
static banyan_status check_ids(model *m, const char *folder, const uint32_t *ids, int64_t count,
                               int64_t tokens)
{
    int64_t has = 0;
    uint64_t digest = 0;
    uint32_t *now = snapshot_ids(folder, 0, &has, &digest, m->why, WHY);
    if (!now) return BANYAN_ERR_CONFIG;
    const bool good = digest == m->digest && has <= count && tokens <= has &&
                      !memcmp(now, ids, (size_t)has * sizeof *ids);
    free(now);
    if (good) return BANYAN_OK;
    snprintf(m->why, WHY, "another snapshot took the place of that in \"%s\" just now", folder);
    return BANYAN_ERR_CONFIG;
}

banyan_status model_load(model *m, const char *folder, const uint32_t *ids, int64_t count)
{
    banyan_cache *cache = NULL;
    banyan_sequence *sequence = NULL;
    m->why[0] = 0;
    banyan_status status = banyan_cache_open(m->plan, device_stream(m->device), folder, &cache);
    if (!status) status = banyan_sequence_open(cache, 0, &sequence);
    if (status) snprintf(m->why, WHY, "%s", banyan_error_message());
    status = share_verdict(m, status);
    if (!status && m->rank == 0)
        status = check_ids(m, folder, ids, count, banyan_sequence_length(sequence, -1));
    if (cache) status = agree_words(m->comm, status, m->why, WHY);
    if (status) {
        banyan_cache_destroy(cache);
        return status;
    }
    graph_drop(m); /* of the cache that goes */
    banyan_cache_destroy(m->cache);
    m->cache = cache;
    m->sequence = sequence;
    m->parent = NULL;
    return BANYAN_OK;
}
