/* SPDX-License-Identifier: Apache-2.0 */
/* Block tables and records.
 *
 * A table is made of chunks of 64 blocks. A fork takes its parent's chunks and counts itself
 * among their holders; whoever then writes to a chunk that has other holders copies it first.
 * So a table costs a fork what it changes, and a sequence what it holds. */
#include "dist/cache.h"

#include <string.h>

/* ---- records ----------------------------------------------------------------------------- */

static int64_t take_from(const banyan_pool *pool, banyan_region *region)
{
    if (region->spare) {
        const int64_t record = (int64_t)region->spare - 1;
        region->spare = pool->next[record];
        return record;
    }
    return region->touched < region->capacity ? region->first + region->touched++ : -1;
}

/* The heads' regions are together as large as the pool: when one is used up, another has
 * room. */
static int64_t take_elsewhere(const banyan_cache *c, const banyan_pool *pool)
{
    for (int32_t layer = 0; layer < c->plan->spec.layers; layer++) {
        if (banyan_cache_pool(c, layer) != pool) continue;
        for (int32_t j = 0; j < banyan_kept_count(c, layer); j++) {
            const int64_t record = take_from(pool, &c->region[layer][j]);
            if (record >= 0) return record;
        }
    }
    return -1;
}

void *banyan_record_take(banyan_cache *c, int32_t layer, int32_t j)
{
    banyan_pool *pool = banyan_cache_pool(c, layer);
    int64_t record = take_from(pool, &c->region[layer][j]);
    if (record < 0) record = take_elsewhere(c, pool);
    if (record < 0) return NULL;
    pool->held++;
    return pool->records + (size_t)record * pool->record_bytes;
}

void banyan_record_give(banyan_cache *c, int32_t layer, int32_t j, void *record)
{
    banyan_pool *pool = banyan_cache_pool(c, layer);
    banyan_region *region = &c->region[layer][j];
    const size_t index = (size_t)((char *)record - pool->records) / pool->record_bytes;
    pool->next[index] = region->spare;
    region->spare = (uint32_t)index + 1;
    pool->held--;
}

/* ---- chunks ------------------------------------------------------------------------------ */

/* A chunk begins with its blocks. */
static banyan_chunk *chunk_with(banyan_held *held)
{
    void *chunk = held;
    return chunk;
}

static banyan_chunk *chunk_take(banyan_cache *c)
{
    banyan_chunk *chunk = c->spare_chunk;
    if (chunk)
        c->spare_chunk = chunk->next;
    else if (c->touched_chunks < c->sizes.chunks)
        chunk = &c->chunks[c->touched_chunks++];
    if (chunk) chunk->holders = 1;
    return chunk;
}

static void chunk_give(banyan_cache *c, banyan_chunk *chunk)
{
    if (--chunk->holders) return;
    chunk->next = c->spare_chunk;
    c->spare_chunk = chunk;
}

static banyan_status no_chunk(const banyan_cache *c)
{
    return banyan_fail(BANYAN_ERR_MEMORY,
                       "cache: block tables take more than the %lld chunks that were planned",
                       (long long)c->sizes.chunks);
}

/* ---- tables ------------------------------------------------------------------------------ */

int64_t banyan_kept_find(const banyan_kept *kept, int64_t block)
{
    int64_t lo = 0, hi = kept->count;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (banyan_kept_at(kept, mid).block < block)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

banyan_status banyan_kept_put(banyan_cache *c, banyan_kept *kept, int64_t i, banyan_held held)
{
    banyan_held **at = &kept->chunk[i / BANYAN_HELD_CHUNK];
    banyan_chunk *chunk = chunk_with(*at);
    if (chunk->holders > 1) {
        banyan_chunk *own = chunk_take(c);
        if (!own) return no_chunk(c);
        memcpy(own->held, chunk->held, sizeof own->held);
        chunk_give(c, chunk);
        *at = own->held;
    }
    (*at)[i % BANYAN_HELD_CHUNK] = held;
    return BANYAN_OK;
}

banyan_status banyan_kept_add(banyan_cache *c, banyan_kept *kept, banyan_held held)
{
    if (kept->count % BANYAN_HELD_CHUNK == 0) {
        banyan_chunk *chunk = chunk_take(c);
        if (!chunk) return no_chunk(c);
        kept->chunk[kept->count / BANYAN_HELD_CHUNK] = chunk->held;
    }
    return banyan_kept_put(c, kept, kept->count++, held);
}

static int64_t chunks_for(int64_t count)
{
    return (count + BANYAN_HELD_CHUNK - 1) / BANYAN_HELD_CHUNK;
}

void banyan_kept_cut(banyan_cache *c, banyan_kept *kept, int64_t count)
{
    for (int64_t i = chunks_for(count); i < chunks_for(kept->count); i++)
        chunk_give(c, chunk_with(kept->chunk[i]));
    kept->count = count;
}

void banyan_kept_share(banyan_kept *to, const banyan_kept *from, int64_t count)
{
    for (int64_t i = 0; i < chunks_for(count); i++) {
        to->chunk[i] = from->chunk[i];
        chunk_with(to->chunk[i])->holders++;
    }
    to->count = count;
}

void banyan_pools_place(banyan_cache *c, char *records)
{
    for (int32_t i = 0; i < c->plan->pools; i++) {
        c->pool[i].records = records;
        records += (size_t)c->pool[i].capacity * c->pool[i].record_bytes;
    }
}
