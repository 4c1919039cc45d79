/* SPDX-License-Identifier: Apache-2.0 */
/* Byte pair encoding (Sennrich, Haddow, Birch 2016): of all neighbouring pairs that have a rank
 * the lowest is merged, the leftmost of equals, until none has one.
 *
 * Most pieces are words that came before: short ones are remembered with their ids. Short
 * pieces are searched anew after every merge; long ones keep their pairs in a heap, n log n for
 * any text.
 *
 * Vocabularies without a splitter (Llama-2's) take the whole text as one piece. It is cut where
 * no merge reaches across: between two characters that stand together in no merged token. */
#include "launch/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { SHORT = 32 };

static size_t join_hash(uint32_t a, uint32_t b)
{
    return (size_t)((((uint64_t)a << 21 | b) * 0x9E3779B97F4A7C15u) >> 24);
}

/* A bitmap of hashes: what is not in it surely joins nothing. */
static bool find_joins(bpe *b)
{
    size_t bits = 1 << 16;
    while (bits < 8 * b->merges.buckets) bits *= 2;
    b->join_mask = bits - 1;
    b->joins = calloc(bits / 64, sizeof *b->joins);
    if (!b->joins) return false;
    b->cuts = true;
    for (size_t s = 0; s < b->merges.buckets; s++) {
        const merge *m = &b->merges.bucket[s];
        if (m->rank < 0) continue;
        const token *left = &b->vocab.token[m->left], *right = &b->vocab.token[m->right];
        if (left->byte >= 0 || right->byte >= 0 || b->vocab.token[m->id].byte >= 0) {
            b->cuts = false; /* byte tokens that merge are no characters */
            return true;
        }
        size_t last = left->bytes - 1, width;
        while ((left->data[last] & 0xC0) == 0x80) last--;
        size_t bit =
            join_hash(utf8_read(left->data + last, &width), utf8_read(right->data, &width)) &
            b->join_mask;
        b->joins[bit / 64] |= 1ull << bit % 64;
    }
    return true;
}

bool bpe_make(bpe *b)
{
    b->kept = calloc(KEPT, sizeof *b->kept);
    return b->kept && (b->is_byte_level || !b->has_byte_tokens || find_joins(b));
}

void bpe_free(bpe *b)
{
    free(b->vocab.token);
    free(b->vocab.bucket);
    free(b->merges.bucket);
    free(b->joins);
    free(b->kept);
    free(b->symbol);
    free(b->heap);
}

/* ---- a piece as symbols: [count] ids in a row -------------------------------------------- */

static bool reserve(bpe *b, size_t bytes)
{
    if ((int64_t)bytes <= b->symbols) return true;
    int64_t room = (int64_t)bytes + b->symbols + 256;
    symbol *grown = realloc(b->symbol, (size_t)room * sizeof *grown);
    if (!grown) return false;
    b->symbol = grown;
    b->symbols = room;
    return true;
}

/* What no symbol stands for is the unknown token, one for a run of it if they fuse; and nothing
 * where the vocabulary has none. */
static size_t to_symbols(bpe *b, const char *data, size_t bytes)
{
    size_t count = 0, width = 1;
    bool was_unknown = false;
    for (size_t i = 0; i < bytes; i += width) {
        int64_t id;
        if (b->is_byte_level) {
            id = b->of_byte[(unsigned char)data[i]];
        } else {
            utf8_read(data + i, &width);
            id = vocab_find(&b->vocab, data + i, width);
        }
        if (id < 0 && b->has_byte_tokens) {
            for (size_t k = 0; k < width; k++)
                b->symbol[count++].id = b->of_byte[(unsigned char)data[i + k]];
            continue;
        }
        bool unknown = id < 0;
        if (unknown) id = b->unknown;
        if (id >= 0 && !(unknown && was_unknown && b->fuses_unknown))
            b->symbol[count++].id = id;
        was_unknown = unknown;
    }
    return count;
}

/* ---- few symbols ------------------------------------------------------------------------- */

static const merge *merge_of(const bpe *b, const symbol *s)
{
    return merges_find(&b->merges, (uint32_t)s[0].id, (uint32_t)s[1].id);
}

static size_t merge_few(bpe *b, size_t count)
{
    const merge *of[SHORT]; /* of symbols i and i + 1 */
    symbol *s = b->symbol;
    for (size_t i = 0; i + 1 < count; i++) of[i] = merge_of(b, s + i);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < count; i++)
            if (of[i] && (best == SIZE_MAX || of[i]->rank < of[best]->rank)) best = i;
        if (best == SIZE_MAX) return count;
        s[best].id = of[best]->id;
        for (size_t i = best + 1; i + 1 < count; i++) {
            s[i].id = s[i + 1].id;
            of[i - 1] = of[i];
        }
        count--;
        if (best > 0) of[best - 1] = merge_of(b, s + best - 1);
        if (best + 1 < count) of[best] = merge_of(b, s + best);
    }
}

/* ---- many symbols ------------------------------------------------------------------------ */

static bool merges_before(const candidate *x, const candidate *y)
{
    return x->rank != y->rank ? x->rank < y->rank : x->at < y->at;
}

static bool heap_push(bpe *b, int64_t *count, int64_t left, int64_t right)
{
    const merge *m =
        merges_find(&b->merges, (uint32_t)b->symbol[left].id, (uint32_t)b->symbol[right].id);
    if (!m) return true;
    if (*count == b->heap_room) {
        int64_t room = 2 * b->heap_room + 256;
        candidate *grown = realloc(b->heap, (size_t)room * sizeof *grown);
        if (!grown) return false;
        b->heap = grown;
        b->heap_room = room;
    }
    candidate c = {m->rank, m->id, left};
    int64_t i = (*count)++;
    for (; i > 0 && merges_before(&c, &b->heap[(i - 1) / 2]); i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = c;
    return true;
}

static candidate heap_pop(bpe *b, int64_t *count)
{
    candidate top = b->heap[0], c = b->heap[--*count];
    int64_t i = 0, child;
    for (; (child = 2 * i + 1) < *count; i = child) {
        if (child + 1 < *count && merges_before(&b->heap[child + 1], &b->heap[child])) child++;
        if (!merges_before(&b->heap[child], &c)) break;
        b->heap[i] = b->heap[child];
    }
    b->heap[i] = c;
    return top;
}

static bool merge_many(bpe *b, size_t symbols, size_t *kept)
{
    symbol *s = b->symbol;
    int64_t n = (int64_t)symbols, waiting = 0;
    for (int64_t i = 0; i < n; i++) {
        s[i].previous = i - 1;
        s[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int64_t i = 0; i + 1 < n; i++)
        if (!heap_push(b, &waiting, i, i + 1)) return false;
    while (waiting > 0) {
        candidate c = heap_pop(b, &waiting);
        symbol *left = &s[c.at];
        if (left->id < 0 || left->next < 0) continue;
        symbol *right = &s[left->next];
        const merge *m = merges_find(&b->merges, (uint32_t)left->id, (uint32_t)right->id);
        if (!m || m->id != c.id) continue; /* one of the two has been merged since */
        left->id = m->id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0) s[left->next].previous = c.at;
        if (left->previous >= 0 && !heap_push(b, &waiting, left->previous, c.at)) return false;
        if (left->next >= 0 && !heap_push(b, &waiting, c.at, left->next)) return false;
    }
    *kept = 0;
    for (int64_t i = n ? 0 : -1, next; i >= 0; i = next) {
        next = s[i].next;
        s[(*kept)++].id = s[i].id;
    }
    return true;
}

/* ---- pieces ------------------------------------------------------------------------------ */

static bool copy_kept(const kept *k, token_ids *ids)
{
    for (int i = 0; i < k->count; i++)
        if (!ids_add(ids, k->id[i])) return false;
    return true;
}

static bool merge_stretch(bpe *b, const char *data, size_t bytes, token_ids *ids)
{
    kept *k = NULL;
    if (bytes <= KEPT_BYTES) {
        k = &b->kept[hash_bytes(data, bytes) >> 20 & (KEPT - 1)];
        if (k->bytes == bytes && !memcmp(k->data, data, bytes)) return copy_kept(k, ids);
    }
    if (!reserve(b, bytes)) return false;
    size_t count = to_symbols(b, data, bytes);
    if (count <= SHORT)
        count = merge_few(b, count);
    else if (!merge_many(b, count, &count))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!ids_add(ids, (uint32_t)b->symbol[i].id)) return false;
    if (!k || count > KEPT_IDS) return true;
    k->bytes = (uint8_t)bytes;
    k->count = (uint8_t)count;
    memcpy(k->data, data, bytes);
    for (size_t i = 0; i < count; i++) k->id[i] = (uint32_t)b->symbol[i].id;
    return true;
}

bool bpe_piece(bpe *b, const char *data, size_t bytes, token_ids *ids)
{
    if (bytes == 0) return true;
    int64_t whole = b->ignores_merges ? vocab_find(&b->vocab, data, bytes) : -1;
    if (whole >= 0) return ids_add(ids, (uint32_t)whole);
    if (!b->cuts) return merge_stretch(b, data, bytes, ids);
    size_t from = 0, width;
    uint32_t last = utf8_read(data, &width);
    for (size_t i = width; i < bytes; i += width) {
        uint32_t code = utf8_read(data + i, &width);
        size_t bit = join_hash(last, code) & b->join_mask;
        last = code;
        if (b->joins[bit / 64] >> bit % 64 & 1) continue;
        if (!merge_stretch(b, data + from, i - from, ids)) return false;
        from = i;
    }
    return merge_stretch(b, data + from, bytes - from, ids);
}
