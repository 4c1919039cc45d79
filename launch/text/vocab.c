/* SPDX-License-Identifier: Apache-2.0 */
/* Two hash tables with open addresses: bytes to an id, and a pair of ids to what it is merged
 * to. */
#include "launch/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

uint64_t hash_bytes(const char *data, size_t bytes)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ bytes;
    for (; bytes >= 8; data += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        h = (h ^ word) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    uint64_t rest = 0;
    memcpy(&rest, data, bytes);
    h = (h ^ rest) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

static size_t buckets_for(size_t count)
{
    size_t buckets = 16;
    while (buckets < 2 * count) buckets *= 2;
    return buckets;
}

bool vocab_index(vocab *v, size_t count)
{
    v->buckets = buckets_for(count);
    v->bucket = calloc(v->buckets, sizeof *v->bucket);
    return v->bucket != NULL;
}

void vocab_enter(vocab *v, uint32_t id)
{
    const token *t = &v->token[id];
    size_t s = hash_bytes(t->data, t->bytes) & (v->buckets - 1);
    while (v->bucket[s]) s = (s + 1) & (v->buckets - 1);
    v->bucket[s] = id + 1;
}

int64_t vocab_find(const vocab *v, const char *data, size_t bytes)
{
    for (size_t s = hash_bytes(data, bytes) & (v->buckets - 1); v->bucket[s];
         s = (s + 1) & (v->buckets - 1)) {
        const token *t = &v->token[v->bucket[s] - 1];
        if (t->bytes == bytes && !memcmp(t->data, data, bytes)) return v->bucket[s] - 1;
    }
    return -1;
}

bool merges_make(merges *m, size_t count)
{
    m->buckets = buckets_for(count);
    m->bucket = malloc(m->buckets * sizeof *m->bucket);
    for (size_t s = 0; m->bucket && s < m->buckets; s++) m->bucket[s].rank = -1;
    return m->bucket != NULL;
}

static size_t pair_hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h ^ h >> 29);
}

void merges_enter(merges *m, uint32_t left, uint32_t right, uint32_t id, int32_t rank)
{
    size_t s = pair_hash(left, right) & (m->buckets - 1);
    while (m->bucket[s].rank >= 0 && (m->bucket[s].left != left || m->bucket[s].right != right))
        s = (s + 1) & (m->buckets - 1);
    m->bucket[s] = (merge){left, right, id, rank};
}

const merge *merges_find(const merges *m, uint32_t left, uint32_t right)
{
    for (size_t s = pair_hash(left, right) & (m->buckets - 1); m->bucket[s].rank >= 0;
         s = (s + 1) & (m->buckets - 1))
        if (m->bucket[s].left == left && m->bucket[s].right == right) return &m->bucket[s];
    return NULL;
}
