/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences: made, forked, let go, and asked about. */
#include "dist/device_cache.h"
#include "dist/plan.h"

#include <stdlib.h>
#include <string.h>

/* Turns that a list may have beyond those it begins with: see join in turns.c. */
static int32_t turns_more(const banyan_plan *plan)
{
    return plan->spec.sequences + 4;
}

static size_t compensation_bytes(const banyan_cache *c, int32_t layer)
{
    const banyan_shape *shape = &banyan_plan_kind(c->plan, layer)->shape;
    return (size_t)(shape->key_dim + shape->value_dim) * sizeof(double);
}

static void clear_compensation(const banyan_cache *c, banyan_layer *layer, int32_t i)
{
    const int32_t count = layer->compensation ? banyan_cache_part(c, i)->mine_count : 0;
    for (int32_t j = 0; j < count; j++) {
        layer->compensation[j].end = 0;
        if (layer->compensation[j].sum)
            memset(layer->compensation[j].sum, 0, compensation_bytes(c, i));
    }
}

static void copy_compensation(const banyan_cache *c, banyan_layer *to, const banyan_layer *from,
                              int32_t i)
{
    const int32_t count = to->compensation ? banyan_cache_part(c, i)->mine_count : 0;
    for (int32_t j = 0; j < count; j++) {
        to->compensation[j].end = from->compensation[j].end;
        if (to->compensation[j].sum)
            memcpy(to->compensation[j].sum, from->compensation[j].sum,
                   compensation_bytes(c, i));
    }
}

banyan_status banyan_sequence_take(banyan_cache *c, int32_t turns, banyan_sequence **out)
{
    const banyan_spec *spec = &c->plan->spec;
    banyan_sequence *s = NULL;
    for (int32_t i = 0; i < spec->sequences && !s; i++)
        if (!c->sequence[i].is_live) s = &c->sequence[i];
    if (!s)
        return banyan_fail(
            BANYAN_ERR_MEMORY,
            "sequence: the cache has %d of them, as many as spec.sequences says: "
            "destroy one, or plan for more",
            (int)c->live);
    turns += turns_more(c->plan);
    s->turns = calloc((size_t)spec->layers * (size_t)turns, sizeof *s->turns);
    if (!s->turns) return banyan_fail(BANYAN_ERR_MEMORY, "sequence: no memory for its turns");
    s->cache = c;
    s->call = s->step = 0;
    for (int32_t k = 0; k < c->plan->kinds; k++)
        for (int32_t f = 0; f < c->plan->kind[k].followers; f++) s->followed[k][f].at = -1;
    for (int32_t i = 0; i < spec->layers; i++) {
        banyan_layer *layer = &s->layer[i];
        layer->length = layer->longest = layer->floor = layer->clean = 0;
        layer->written = layer->replayed = 0;
        layer->turns = s->turns + (int64_t)i * turns;
        layer->turn_count = 0;
        clear_compensation(c, layer, i);
    }
    *out = s;
    return BANYAN_OK;
}

static void give_place(banyan_sequence *s)
{
    free(s->turns);
    s->turns = NULL;
    s->is_live = 0;
}

banyan_status banyan_sequence_create(banyan_cache *cache, uint64_t turn, banyan_sequence **out)
{
    banyan_sequence *s;
    if (!cache || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "sequence_create: %s is NULL",
                           cache ? "out" : "cache");
    const banyan_status status = banyan_sequence_take(cache, 1, &s);
    if (status) return status;
    s->turn = turn;
    s->family = ++cache->next_id;
    for (int32_t i = 0; i < cache->plan->spec.layers; i++) {
        s->layer[i].turns[0] = (banyan_turn){0, turn, s->family};
        s->layer[i].turn_count = 1;
    }
    s->is_live = 1;
    cache->live++;
    *out = s;
    return BANYAN_OK;
}

/* ---- forks ------------------------------------------------------------------------------- */

static int64_t forked(const banyan_sequence *s, int32_t layer, int64_t tokens)
{
    return banyan_smaller(tokens, s->layer[layer].length);
}

static banyan_status check_fork(banyan_sequence *s, int64_t tokens)
{
    banyan_cache *c = s->cache;
    const int64_t length = banyan_sequence_length(s, -1);
    const int32_t block = c->plan->spec.block_tokens;
    if (tokens < 0 || tokens > length)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "fork at %lld tokens: expected 0..%lld, which the sequence has",
                           (long long)tokens, (long long)length);
    banyan_count_begin(c);
    for (int32_t i = 0; i < c->plan->spec.layers; i++) {
        const int64_t at = forked(s, i, tokens);
        if (at < s->layer[i].floor)
            return banyan_fail(
                BANYAN_ERR_ARGUMENT,
                "fork at %lld tokens: blocks that only rows before %lld read are "
                "gone from layer %d",
                (long long)tokens, (long long)s->layer[i].floor, (int)i);
        if (at % block) {
            const uint64_t turn = banyan_turn_of(&s->layer[i], at / block)->turn;
            banyan_count_takes(s, i, turn, at / block, at / block + 1);
        }
    }
    return banyan_count_check(c);
}

/* The tables of one layer: what is whole is shared, the rest copied. */
static banyan_status fork_tables(banyan_sequence *s, const banyan_sequence *from, int32_t layer)
{
    banyan_cache *c = s->cache;
    const int64_t length = s->layer[layer].length, block = c->plan->spec.block_tokens;
    const int64_t whole = length / block;
    for (int32_t j = 0; j < banyan_cache_part(c, layer)->mine_count; j++) {
        banyan_kept *to = &s->layer[layer].kept[j];
        const banyan_kept *kept = &from->layer[layer].kept[j];
        const int64_t count = banyan_kept_find(kept, whole);
        banyan_kept_share(to, kept, count);
        if (c->device) banyan_device_note(c, s, layer, j, 0);
        if (length % block == 0 || count == kept->count) continue;
        const banyan_held half = banyan_kept_at(kept, count);
        if (half.block != whole) continue;
        void *record = banyan_record_take(c, layer, j);
        if (!record)
            return banyan_fail(BANYAN_ERR_MEMORY, "fork: a record is missing that was counted");
        banyan_status status =
            c->backend->copy(c, record, half.record, banyan_cache_pool(c, layer)->record_bytes);
        if (!status) status = banyan_kept_add(c, to, (banyan_held){whole, record});
        if (status) return status;
    }
    return BANYAN_OK;
}

banyan_status banyan_sequence_fork(banyan_sequence *sequence, int64_t tokens, uint64_t turn,
                                   banyan_sequence **out)
{
    banyan_sequence *s;
    if (!sequence || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "sequence_fork: %s is NULL",
                           sequence ? "out" : "sequence");
    if (!sequence->is_live)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "sequence_fork: the sequence was destroyed: expected one that is "
                           "there");
    banyan_cache *c = sequence->cache;
    banyan_status status = check_fork(sequence, tokens);
    int32_t turns = 0;
    for (int32_t i = 0; i < c->plan->spec.layers; i++)
        if (sequence->layer[i].turn_count > turns) turns = sequence->layer[i].turn_count;
    if (!status) status = banyan_sequence_take(c, turns, &s);
    if (status) return status;
    banyan_count_end(c);

    /* Its blocks are shared now: a call that names its last step's rows goes back. */
    sequence->step = 0;
    const int device = banyan_device_enter(c);
    const int32_t block = c->plan->spec.block_tokens;
    s->turn = turn;
    s->family = sequence->family;
    s->is_live = 1;
    c->live++;
    for (int32_t i = 0; i < c->plan->spec.layers && !status; i++) {
        banyan_layer *layer = &s->layer[i];
        const banyan_layer *from = &sequence->layer[i];
        layer->length = layer->longest = forked(sequence, i, tokens);
        layer->floor = from->floor;
        layer->written = banyan_smaller(from->written, layer->length);
        layer->replayed = banyan_smaller(from->replayed, layer->length);
        layer->clean = banyan_smaller(from->clean, layer->length / block);
        layer->turn_count = from->turn_count;
        memcpy(layer->turns, from->turns, (size_t)from->turn_count * sizeof *from->turns);
        banyan_turns_branch(s, i, layer->length / block, layer->length % block != 0);
        copy_compensation(c, layer, from, i);
        status = fork_tables(s, sequence, i);
    }
    banyan_device_leave(c, device);
    if (status) {
        banyan_sequence_destroy(s);
        return status;
    }
    *out = s;
    return BANYAN_OK;
}

void banyan_sequence_destroy(banyan_sequence *s)
{
    if (!s || !s->is_live) return;
    banyan_cache *c = s->cache;
    banyan_count_begin(c);
    for (int32_t i = 0; i < c->plan->spec.layers; i++) {
        const banyan_part *part = banyan_cache_part(c, i);
        banyan_count_drops(s, i, 0, INT64_MAX, -1);
        for (int32_t j = 0; j < part->mine_count; j++) {
            banyan_kept *kept = &s->layer[i].kept[j];
            for (int64_t b = 0; b < kept->count; b++) {
                const banyan_held held = banyan_kept_at(kept, b);
                if (!banyan_is_shared(s, i, part->mine[j].kv_head, held.block))
                    banyan_record_give(c, i, j, held.record);
            }
            banyan_kept_cut(c, kept, 0);
        }
    }
    banyan_count_end(c);
    give_place(s);
    c->live--;
}

int32_t banyan_cache_sequences(const banyan_cache *cache)
{
    return cache ? cache->live : 0;
}

banyan_status banyan_sequence_open(banyan_cache *cache, int32_t index, banyan_sequence **out)
{
    if (!cache || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "sequence_open: %s is NULL",
                           cache ? "out" : "cache");
    int32_t n = 0;
    for (int32_t i = 0; i < cache->plan->spec.sequences && index >= 0; i++) {
        if (!cache->sequence[i].is_live || n++ != index) continue;
        *out = &cache->sequence[i];
        return BANYAN_OK;
    }
    return banyan_fail(BANYAN_ERR_ARGUMENT, "sequence_open: index %d: the cache has %d of them",
                       (int)index, (int)cache->live);
}

/* ---- questions --------------------------------------------------------------------------- */

/* Whose keys and values a layer of the plan reads. */
static int32_t layer_read_by(const banyan_sequence *s, int32_t layer)
{
    return s->cache->plan->spec.cache_layer[layer];
}

/* Of a sequence that is there. */
static int is_layer(const banyan_sequence *s, int32_t layer)
{
    return s && s->is_live && layer >= 0 && layer < s->cache->plan->spec.layers;
}

int64_t banyan_sequence_length(const banyan_sequence *s, int32_t layer)
{
    int64_t most = -1;
    if (!s || !s->is_live || layer < -1 || layer >= s->cache->plan->spec.layers) return -1;
    for (int32_t i = 0; i < s->cache->plan->spec.layers; i++)
        if ((layer < 0 || layer_read_by(s, layer) == i) && s->layer[i].length > most)
            most = s->layer[i].length;
    return most;
}

int banyan_sequence_owner(const banyan_sequence *s, int32_t layer, int32_t kv_head,
                          int64_t block)
{
    if (!is_layer(s, layer) || block < 0) return -1;
    const uint64_t turn = banyan_turn_of(&s->layer[layer_read_by(s, layer)], block)->turn;
    return banyan_plan_owner(s->cache->plan, turn, layer, kv_head, block);
}

int banyan_sequence_record(banyan_sequence *s, int32_t layer, int32_t kv_head, int64_t index,
                           int64_t *block, void **record, size_t *bytes)
{
    if (!is_layer(s, layer) || index < 0) return 0;
    const banyan_part *part = banyan_cache_part(s->cache, layer);
    for (int32_t j = 0; j < part->mine_count; j++) {
        const banyan_kept *kept = &s->layer[layer_read_by(s, layer)].kept[j];
        if (part->mine[j].kv_head != kv_head || index >= kept->count) continue;
        const banyan_held held = banyan_kept_at(kept, index);
        *block = held.block;
        *record = held.record;
        *bytes = banyan_cache_pool(s->cache, layer_read_by(s, layer))->record_bytes;
        return 1;
    }
    return 0;
}
