/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest of a snapshot: see snapshot.h for its bytes. What is read is believed only as
 * far as it has been looked at: counts are bounded by the bytes that are left. */
#include "dist/plan.h"
#include "dist/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char magic[16] = "banyan snapshot\n";
enum { OLDEST = 1, VERSION = 2 };
static const int64_t most_layers = 1 << 16, most_heads = 1 << 16, most_ranks = 1 << 22;

/* ---- memory ------------------------------------------------------------------------------ */

typedef struct banyan_owned {
    struct banyan_owned *next;
    int64_t memory[];
} owned;

/* Zeroed; NULL: there is none. */
static void *allocate_zeroed(banyan_snapshot *s, int64_t count, size_t bytes)
{
    owned *o = calloc(1, sizeof *o + (size_t)count * bytes + 1);
    if (!o) return NULL;
    o->next = s->owned;
    s->owned = o;
    return o->memory;
}

void banyan_snapshot_free(banyan_snapshot *s)
{
    for (owned *o = s->owned, *next; o; o = next) {
        next = o->next;
        free(o);
    }
    s->owned = NULL;
}

/* ---- writing ----------------------------------------------------------------------------- */

static void put_text(banyan_bytes *to, const char *text)
{
    banyan_put32(to, (uint32_t)strlen(text));
    banyan_put(to, text, strlen(text));
}

static void put_shape(banyan_bytes *to, const banyan_plan *plan)
{
    const banyan_spec *spec = &plan->spec;
    banyan_put32(to, (uint32_t)spec->layers);
    banyan_put32(to, (uint32_t)spec->heads);
    banyan_put32(to, (uint32_t)spec->block_tokens);
    banyan_put32(to, (uint32_t)spec->cache_dtype);
    banyan_put32(to, (uint32_t)plan->kinds);
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_shape *shape = &plan->kind[k].shape;
        banyan_put32(to, (uint32_t)shape->kv_heads);
        banyan_put32(to, (uint32_t)shape->key_dim);
        banyan_put32(to, (uint32_t)shape->value_dim);
        banyan_put32(to, (uint32_t)shape->block.value_in_key);
        for (int32_t h = 0; h < spec->heads; h++) put_text(to, plan->kind[k].use[h]);
    }
    for (int32_t layer = 0; layer < spec->layers; layer++) {
        banyan_put32(to, (uint32_t)plan->kind_of_layer[layer]);
        banyan_put32(to, (uint32_t)spec->cache_layer[layer]);
    }
}

static void put_sequence(banyan_bytes *to, const banyan_sequence *s)
{
    const banyan_plan *plan = s->cache->plan;
    banyan_put64(to, s->turn);
    banyan_put64(to, s->family);
    for (int32_t i = 0; i < plan->spec.layers; i++) {
        const banyan_layer *layer = &s->layer[i];
        if (!banyan_keeps_own(plan, i)) continue;
        banyan_put64(to, (uint64_t)layer->length);
        banyan_put64(to, (uint64_t)layer->longest);
        banyan_put64(to, (uint64_t)layer->floor);
        banyan_put32(to, (uint32_t)layer->turn_count);
        for (int32_t t = 0; t < layer->turn_count; t++) {
            banyan_put64(to, (uint64_t)layer->turns[t].first);
            banyan_put64(to, layer->turns[t].turn);
            banyan_put64(to, layer->turns[t].id);
        }
    }
}

void banyan_snapshot_write(const banyan_cache *c, const banyan_snapshot *numbers,
                           banyan_bytes *out)
{
    banyan_put(out, magic, sizeof magic);
    banyan_put32(out, VERSION);
    const size_t length_at = out->used;
    banyan_put64(out, 0);
    banyan_put64(out, numbers->id);
    banyan_put64(out, numbers->number);
    banyan_put64(out, c->plan->hash);
    banyan_put32(out, (uint32_t)c->plan->ranks);
    put_shape(out, c->plan);
    banyan_put64(out, numbers->note_bytes);
    banyan_put64(out, numbers->note_checksum);
    banyan_put64(out, c->next_id);
    banyan_put32(out, (uint32_t)c->live);
    for (int32_t i = 0; i < c->plan->spec.sequences; i++)
        if (c->sequence[i].is_live) put_sequence(out, &c->sequence[i]);
    for (int32_t r = 0; r < c->plan->ranks; r++) {
        const banyan_saved_rank *rank = &numbers->rank[r];
        banyan_put64(out, rank->head_bytes);
        banyan_put64(out, rank->head_checksum);
        banyan_put64(out, rank->blocks);
        banyan_put64(out, rank->block_bytes);
    }
    if (out->has_failed) return;
    banyan_store64(out->data + length_at, out->used + 8);
    banyan_put64(out, banyan_checksum(out->data, out->used));
}

/* ---- reading ----------------------------------------------------------------------------- */

static int32_t get_number(banyan_cursor *from, int64_t low, int64_t high)
{
    const uint32_t x = banyan_get32(from);
    if ((int64_t)x < low || (int64_t)x > high) from->has_failed = 1;
    return from->has_failed ? (int32_t)low : (int32_t)x;
}

static int64_t get_tokens(banyan_cursor *from)
{
    const uint64_t x = banyan_get64(from);
    if (x > INT64_MAX / 2) from->has_failed = 1;
    return from->has_failed ? 0 : (int64_t)x;
}

static const char *get_text(banyan_snapshot *s, banyan_cursor *from)
{
    const int64_t bytes = banyan_get_count(from, 1, 1 << 16);
    const char *text = banyan_get(from, (size_t)bytes);
    char *copy = text ? allocate_zeroed(s, bytes + 1, 1) : NULL;
    if (!copy) from->has_failed = 1;
    if (copy) memcpy(copy, text, (size_t)bytes);
    for (int64_t i = 0; copy && i < bytes; i++) /* it is shown on terminals */
        if ((unsigned char)copy[i] < ' ' || copy[i] == 127) copy[i] = '?';
    return copy ? copy : "";
}

static void get_kind(banyan_snapshot *s, banyan_cursor *from, banyan_saved_kind *kind)
{
    kind->kv_heads = get_number(from, 1, s->heads);
    kind->key_dim = get_number(from, 1, BANYAN_MAX_DIM);
    kind->value_dim = get_number(from, 1, BANYAN_MAX_DIM);
    kind->value_in_key = get_number(from, 0, 1);
    kind->use = allocate_zeroed(s, s->heads, sizeof *kind->use);
    if (!kind->use) from->has_failed = 1;
    for (int32_t h = 0; h < s->heads && !from->has_failed; h++)
        kind->use[h] = get_text(s, from);
}

static void get_shape(banyan_snapshot *s, banyan_cursor *from)
{
    s->layers = get_number(from, 1, most_layers);
    s->heads = get_number(from, 1, most_heads);
    s->block_tokens = get_number(from, 16, 256);
    s->dtype = (banyan_dtype)get_number(from, 0, BANYAN_E4M3);
    if (s->block_tokens & (s->block_tokens - 1)) from->has_failed = 1;
    s->kinds = (int32_t)banyan_get_count(from, 16 + 4 * (size_t)s->heads, s->layers);
    s->kind = allocate_zeroed(s, s->kinds, sizeof *s->kind);
    s->kind_of_layer = allocate_zeroed(s, s->layers, sizeof *s->kind_of_layer);
    s->cache_layer = allocate_zeroed(s, s->layers, sizeof *s->cache_layer);
    if (!s->kind || !s->kind_of_layer || !s->cache_layer || s->kinds < 1) from->has_failed = 1;
    for (int32_t k = 0; k < s->kinds && !from->has_failed; k++) get_kind(s, from, &s->kind[k]);
    for (int32_t l = 0; l < s->layers && !from->has_failed; l++) {
        s->kind_of_layer[l] = get_number(from, 0, s->kinds - 1);
        s->cache_layer[l] = get_number(from, 0, l);
        if (s->cache_layer[s->cache_layer[l]] != s->cache_layer[l]) from->has_failed = 1;
    }
}

static void get_layer(banyan_snapshot *s, banyan_cursor *from, banyan_layer *layer)
{
    layer->length = get_tokens(from);
    layer->longest = get_tokens(from);
    layer->floor = get_tokens(from);
    layer->turn_count = (int32_t)banyan_get_count(from, 24, 1 << 20);
    layer->turns = allocate_zeroed(s, layer->turn_count, sizeof *layer->turns);
    if (!layer->turns || layer->turn_count < 1 || layer->length > layer->longest ||
        layer->floor > layer->length)
        from->has_failed = 1;
    for (int32_t t = 0; t < layer->turn_count && !from->has_failed; t++) {
        const int64_t first = get_tokens(from);
        const uint64_t turn = banyan_get64(from);
        layer->turns[t] = (banyan_turn){first, turn, banyan_get64(from)};
        if (t ? first <= layer->turns[t - 1].first : first != 0) from->has_failed = 1;
        if (layer->turns[t].id > s->next_id) from->has_failed = 1;
    }
}

static void get_sequences(banyan_snapshot *s, banyan_cursor *from)
{
    s->next_id = banyan_get64(from);
    if (s->next_id > UINT64_MAX / 2) from->has_failed = 1; /* more are to come */
    s->sequences = (int32_t)banyan_get_count(from, 16 + 52, 1 << 20);
    s->sequence = allocate_zeroed(s, s->sequences, sizeof *s->sequence);
    if (!s->sequence) from->has_failed = 1;
    for (int32_t i = 0; i < s->sequences && !from->has_failed; i++) {
        banyan_saved_sequence *one = &s->sequence[i];
        one->turn = banyan_get64(from);
        one->family = banyan_get64(from);
        one->layer = allocate_zeroed(s, s->layers, sizeof *one->layer);
        if (!one->layer || one->family > s->next_id) from->has_failed = 1;
        for (int32_t l = 0; l < s->layers && !from->has_failed; l++)
            if (s->cache_layer[l] == l) get_layer(s, from, &one->layer[l]);
    }
}

static void get_ranks(banyan_snapshot *s, banyan_cursor *from)
{
    if ((from->bytes - from->at) / 32 < (size_t)s->ranks) from->has_failed = 1;
    if (from->has_failed) return;
    s->rank = allocate_zeroed(s, s->ranks, sizeof *s->rank);
    if (!s->rank) from->has_failed = 1;
    for (int32_t r = 0; r < s->ranks && !from->has_failed; r++) {
        s->rank[r].head_bytes = banyan_get64(from);
        s->rank[r].head_checksum = banyan_get64(from);
        s->rank[r].blocks = banyan_get64(from);
        s->rank[r].block_bytes = banyan_get64(from);
    }
}

static banyan_status check_manifest(const char *path, const unsigned char *data, size_t bytes)
{
    if (bytes < sizeof magic || memcmp(data, magic, sizeof magic))
        return banyan_fail(BANYAN_ERR_FILE, "\"%s\" is no manifest of a banyan snapshot", path);
    banyan_cursor from = {data, sizeof magic, bytes, 0};
    const uint32_t version = banyan_get32(&from);
    const uint64_t length = banyan_get64(&from);
    if (!from.has_failed && (version < OLDEST || version > VERSION))
        return banyan_fail(BANYAN_ERR_FILE,
                           "\"%s\" has version %" PRIu32 ": expected one from %d to %d", path,
                           version, OLDEST, VERSION);
    if (from.has_failed || length != bytes)
        return banyan_fail(BANYAN_ERR_FILE, "\"%s\" has %zu bytes: expected %" PRIu64, path,
                           bytes, from.has_failed ? 28 : length);
    banyan_cursor end = {data, bytes - 8, bytes, 0};
    if (bytes < from.at + 8 || banyan_get64(&end) != banyan_checksum(data, bytes - 8))
        return banyan_fail(BANYAN_ERR_FILE, "\"%s\" was damaged: its checksum is another",
                           path);
    return BANYAN_OK;
}

banyan_status banyan_snapshot_parse(const char *path, const unsigned char *data, size_t bytes,
                                    banyan_snapshot *out)
{
    banyan_status status = check_manifest(path, data, bytes);
    if (status) return status;
    banyan_snapshot s = {0};
    banyan_cursor from = {data, sizeof magic, bytes - 8, 0};
    s.checksum = banyan_checksum(data, bytes);
    s.version = banyan_get32(&from);
    (void)banyan_get64(&from); /* its length */
    s.id = banyan_get64(&from);
    s.number = banyan_get64(&from);
    s.plan_hash = banyan_get64(&from);
    s.ranks = get_number(&from, 1, most_ranks);
    if (!from.has_failed) get_shape(&s, &from);
    s.note_bytes = banyan_get64(&from);
    s.note_checksum = banyan_get64(&from);
    if (!from.has_failed) get_sequences(&s, &from);
    if (!from.has_failed) get_ranks(&s, &from);
    if (from.has_failed || from.at != from.bytes || !s.id) {
        banyan_snapshot_free(&s);
        return banyan_fail(BANYAN_ERR_FILE,
                           "\"%s\": what it says at byte %zu cannot be (or no memory)", path,
                           from.at);
    }
    *out = s;
    return BANYAN_OK;
}

banyan_status banyan_snapshot_read(const char *folder, banyan_snapshot *out)
{
    char path[BANYAN_PATH];
    unsigned char *data = NULL;
    size_t bytes = 0;
    banyan_status status = banyan_snapshot_path(path, folder, "manifest", 0, -1);
    if (!status) status = banyan_file_all(path, (size_t)1 << 34, &data, &bytes);
    if (!status) status = banyan_snapshot_parse(path, data, bytes, out);
    free(data);
    return status;
}
