/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of the public API in any order, with good and bad values: a plan, a cache of it, and
 * then one call a byte or some. What is refused says why, writes nothing, and leaves the cache
 * as it was; what is done agrees with the float64 oracle. A snapshot is refused exactly when a
 * layer lacks something, and opens as what was saved. */
#include "dist/plan.h"
#include "tests/fuzz/calls.h"

#include <stdlib.h>
#include <string.h>

enum { CALLS = 48, UNTOUCHED = 0x5a };

/* The arrays of a call, each as long as it has to be. */
typedef struct arrays {
    char *q, *k, *v, *out;
    float *lse, *mass;
    int64_t *strongest;
    size_t out_bytes, lse_bytes;
} arrays;

static void *room(size_t bytes)
{
    void *memory = malloc(bytes + !bytes);
    if (!memory) abort();
    memset(memory, UNTOUCHED, bytes);
    return memory;
}

static int is_untouched(const void *data, size_t bytes)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != UNTOUCHED) return 0;
    return 1;
}

/* ---- attending and appending ------------------------------------------------------------- */

/* A part of some life, here and there of none or with numbers that cannot be. */
static banyan_rows draw_part(world *w, int32_t layer, int is_old, int *of)
{
    life *l = &w->life[ *of = draw_below(&w->in, LIVES)];
    banyan_rows part = {.sequence = l->sequence};
    const int64_t length = l->is_there ? banyan_sequence_length(l->sequence, layer) : 0;
    const int32_t most = w->plan->spec.max_rows;
    part.rows =
        draw_one_in(&w->in, 3) ? 1 + draw_below(&w->in, most) : 1 + draw_below(&w->in, 3);
    part.at = is_old ? length - part.rows : length;
    switch (draw_below(&w->in, 16)) {
    case 0: part.at = draw_number(&w->in); break;
    case 1: part.rows = (int32_t)draw_number(&w->in); break;
    case 2:
    case 3: part.at -= draw_below(&w->in, 24); break;
    case 4: part.rows = 0; break;
    default: break;
    }
    return part;
}

static int is_sound(const world *w, const banyan_rows *part, int of)
{
    return w->life[of].is_there && part->at >= 0 && part->rows > 0 && part->rows <= ROWS &&
           part->at <= TOKENS - part->rows;
}

static void fill(const world *w, int32_t layer, int64_t rows, const banyan_rows *part,
                 const int *of, int32_t count, arrays *a)
{
    const banyan_spec *spec = &w->plan->spec;
    const banyan_shape *shape = &banyan_plan_kind(w->plan, layer)->shape;
    const int32_t q = spec->heads * shape->key_dim, k = shape->kv_heads * shape->key_dim;
    const int32_t v = shape->kv_heads * shape->value_dim, o = spec->heads * shape->value_dim;
    const size_t in = banyan_dtype_bytes(spec->in_dtype), n = (size_t)rows;
    float row[HEADS * DIM];
    a->out_bytes = n * (size_t)o * banyan_dtype_bytes(spec->out_dtype);
    a->lse_bytes = n * (size_t)spec->heads * sizeof *a->lse;
    a->q = room(n * (size_t)q * in), a->k = room(n * (size_t)k * in);
    a->v = room(n * (size_t)v * in), a->out = room(a->out_bytes);
    a->lse = room(a->lse_bytes), a->mass = room(2 * a->lse_bytes);
    a->strongest = room(2 * a->lse_bytes);
    size_t at = 0;
    for (int32_t p = 0; p < count; p++) {
        if (!is_sound(w, &part[p], of[p])) continue;
        for (int64_t r = 0; r < part[p].rows && at < n; r++, at++) {
            const int32_t source = w->sources + 1 + p;
            calls_row(source, 0, layer, part[p].at + r, q, row);
            banyan_from_float(a->q + at * (size_t)q * in, spec->in_dtype, row, q);
            calls_row(source, 1, layer, part[p].at + r, k, row);
            banyan_from_float(a->k + at * (size_t)k * in, spec->in_dtype, row, k);
            calls_row(source, 2, layer, part[p].at + r, v, row);
            banyan_from_float(a->v + at * (size_t)v * in, spec->in_dtype, row, v);
        }
    }
}

static void release(arrays *a)
{
    free(a->q), free(a->k), free(a->v), free(a->out);
    free(a->lse), free(a->mass), free(a->strongest);
}

/* What was appended, and a row of each part's results. */
static void take(world *w, int32_t layer, const banyan_rows *part, const int *of, int32_t count,
                 const arrays *a, int appends, int attends)
{
    const banyan_spec *spec = &w->plan->spec;
    const int32_t o = spec->heads * banyan_plan_kind(w->plan, layer)->shape.value_dim;
    const size_t out = (size_t)o * banyan_dtype_bytes(spec->out_dtype);
    size_t first = 0;
    for (int32_t p = 0; p < count && appends; p++)
        for (int64_t r = 0; r < part[p].rows; r++)
            w->life[of[p]].source[layer][part[p].at + r] = w->sources + 1 + p;
    for (int32_t p = 0; p < count; first += (size_t)part[p++].rows) {
        if (!part[p].rows) continue;
        FUZZ_CHECK(is_sound(w, &part[p], of[p]));
        const int64_t end = part[p].at + part[p].rows;
        const int64_t length = banyan_sequence_length(part[p].sequence, layer);
        FUZZ_CHECK(appends ? length == end : length >= end);
        if (!attends) continue;
        const size_t row = first + (size_t)draw_below(&w->in, part[p].rows);
        const int64_t token = part[p].at + (int64_t)(row - first);
        calls_check_row(w, &w->life[of[p]], layer, token, w->sources + 1 + p,
                        (banyan_range){part[p].first, part[p].end}, !part[p].end,
                        a->out + row * out, a->lse + row * (size_t)spec->heads);
        for (int32_t h = 0; h < spec->heads && part[p].mass; h++) {
            const float mass = part[p].mass[(row - first) * (size_t)spec->heads + (size_t)h];
            FUZZ_CHECK(mass >= 0 && mass <= 1.001f);
        }
    }
    w->sources += PARTS;
}

/* A range, a probe, the strongest token: of parts that are sound, and of memory that is
 * there. */
static void draw_looks(world *w, banyan_rows *part, const arrays *a, banyan_range *probe)
{
    if (draw_one_in(&w->in, 4)) {
        part->first = draw_one_in(&w->in, 8) ? draw_number(&w->in) : draw_below(&w->in, TOKENS);
        part->end = part->first / 2 + 1 + draw_below(&w->in, 96);
        if (draw_one_in(&w->in, 8)) part->end = draw_number(&w->in);
    }
    if (draw_one_in(&w->in, 6)) {
        *probe = (banyan_range){draw_below(&w->in, 64), 64};
        if (draw_one_in(&w->in, 8)) probe->end = draw_number(&w->in);
        part->probes = draw_one_in(&w->in, 16) ? NULL : probe;
        part->probe_count = draw_one_in(&w->in, 8) ? 0 : 1;
        part->mass = a->mass;
    }
    if (draw_one_in(&w->in, 8)) part->strongest = a->strongest;
}

static void call(world *w, int32_t layer, banyan_rows *part, const int *of, int32_t count,
                 int appends, int attends, int is_plain)
{
    const banyan_spec *spec = &w->plan->spec;
    const banyan_shape *shape =
        &banyan_plan_kind(w->plan, layer < 0 || layer >= spec->layers ? 0 : layer)->shape;
    banyan_range probe;
    arrays a;
    int64_t rows = 0;
    for (int32_t p = 0; p < count; p++)
        rows += part[p].rows > 0 && part[p].rows <= ROWS ? part[p].rows : 0;
    const int32_t place = layer < 0 || layer >= spec->layers ? 0 : layer;
    fill(w, place, rows, part, of, count, &a);
    if (!is_plain && attends) draw_looks(w, &part[draw_below(&w->in, count)], &a, &probe);
    int has_v = appends && !shape->block.value_in_key, has_k = appends, has_out = attends;
    if (!is_plain && draw_one_in(&w->in, 24)) has_v = !has_v;
    if (!is_plain && draw_one_in(&w->in, 32)) has_out = 0;
    const uint64_t before = calls_state(w->cache, 1);
    const banyan_status status =
        banyan_attend(w->cache, layer, part, count, attends ? a.q : NULL, has_k ? a.k : NULL,
                      has_v ? a.v : NULL, has_out ? a.out : NULL, attends ? a.lse : NULL);
    if (status) {
        calls_refused(status);
        FUZZ_CHECK(calls_state(w->cache, 1) == before);
        FUZZ_CHECK(is_untouched(a.out, a.out_bytes) && is_untouched(a.lse, a.lse_bytes));
    } else {
        take(w, layer, part, of, count, &a, appends, attends && has_out);
    }
    release(&a);
}

static void some_call(world *w)
{
    const banyan_spec *spec = &w->plan->spec;
    banyan_rows part[PARTS];
    int of[PARTS];
    const int what = draw_below(&w->in, 4), count = 1 + draw_below(&w->in, PARTS);
    int32_t layer = draw_below(&w->in, spec->layers);
    for (int p = 0; p < count; p++) part[p] = draw_part(w, layer, what == 2, &of[p]);
    if (draw_one_in(&w->in, 24)) layer = (int32_t)draw_number(&w->in);
    call(w, layer, part, of, count, what != 2, what != 3, 0);
}

/* The same rows in all layers, as models do. */
static void all_layers(world *w)
{
    const banyan_spec *spec = &w->plan->spec;
    banyan_rows part[PARTS];
    int of[PARTS];
    const int count = 1 + draw_below(&w->in, PARTS);
    for (int p = 0; p < count; p++) part[p] = draw_part(w, 0, 0, &of[p]);
    for (int32_t layer = 0; layer < spec->layers; layer++)
        call(w, layer, part, of, count, spec->cache_layer[layer] == layer, 1, 1);
}

/* ---- steps ------------------------------------------------------------------------------- */

static void step(world *w)
{
    const banyan_spec *spec = &w->plan->spec;
    banyan_rows part[PARTS];
    int of[PARTS];
    const int32_t count = 1 + draw_below(&w->in, PARTS);
    for (int p = 0; p < count; p++) part[p] = draw_part(w, 0, 0, &of[p]);
    const uint64_t before = calls_state(w->cache, 1);
    const banyan_status status =
        banyan_cache_step(w->cache, part, draw_one_in(&w->in, 24) ? -count : count);
    if (status) {
        calls_refused(status);
        FUZZ_CHECK(calls_state(w->cache, 1) == before);
        return;
    }
    w->steps = count;
    memcpy(w->stepped, part, sizeof part);
    memcpy(w->of, of, sizeof of);
    for (int p = 0; p < count; p++)
        for (int32_t layer = 0; layer < spec->layers && part[p].rows; layer++) {
            if (spec->cache_layer[layer] != layer) continue;
            FUZZ_CHECK(banyan_sequence_length(part[p].sequence, layer) ==
                       part[p].at + part[p].rows);
            memset(w->life[of[p]].source[layer] + part[p].at, 0,
                   (size_t)part[p].rows * sizeof(int32_t));
        }
}

/* The last step's calls: of all layers, or of one. */
static void calls_of_step(world *w)
{
    const banyan_spec *spec = &w->plan->spec;
    const int32_t one = draw_one_in(&w->in, 3) ? draw_below(&w->in, spec->layers) : -1;
    for (int p = 0; p < w->steps; p++)
        if (w->stepped[p].rows && (!w->life[w->of[p]].is_there ||
                                   w->life[w->of[p]].sequence != w->stepped[p].sequence))
            return; /* it has ended, and another may have its place */
    for (int32_t layer = 0; w->steps && layer < spec->layers; layer++)
        if (one < 0 || one == layer)
            call(w, layer, w->stepped, w->of, w->steps, spec->cache_layer[layer] == layer, 1,
                 1);
}

/* ---- sequences --------------------------------------------------------------------------- */

static void create(world *w)
{
    life *l = &w->life[draw_below(&w->in, LIVES)];
    banyan_sequence *s = NULL;
    if (l->is_there) return;
    const banyan_status status =
        banyan_sequence_create(w->cache, (uint64_t)draw_number(&w->in), &s);
    FUZZ_CHECK(!status == !!s);
    if (status) {
        calls_refused(status);
        return;
    }
    *l = (life){.sequence = s, .is_there = 1};
    for (int i = 0; i < LIVES; i++) /* no handle but this one means the place any more */
        if (&w->life[i] != l && w->life[i].sequence == s) w->life[i].sequence = NULL;
}

static void fork_one(world *w)
{
    life *from = &w->life[draw_below(&w->in, LIVES)], *to = &w->life[draw_below(&w->in, LIVES)];
    banyan_sequence *s = NULL;
    if (to->is_there) return;
    int64_t tokens = banyan_sequence_length(from->sequence, -1) - draw_below(&w->in, 32);
    if (draw_one_in(&w->in, 8)) tokens = draw_number(&w->in);
    const uint64_t before = calls_state(w->cache, 1);
    const banyan_status status = banyan_sequence_fork(from->sequence, tokens, 3, &s);
    FUZZ_CHECK(!status == !!s);
    if (status) {
        calls_refused(status);
        FUZZ_CHECK(calls_state(w->cache, 1) == before);
        return;
    }
    FUZZ_CHECK(from->is_there && tokens >= 0);
    *to = *from;
    to->sequence = s;
    for (int32_t l = 0; l < w->plan->spec.layers; l++) {
        const int64_t length = banyan_sequence_length(from->sequence, l);
        FUZZ_CHECK(banyan_sequence_length(s, l) == (tokens < length ? tokens : length));
    }
    for (int i = 0; i < LIVES; i++)
        if (&w->life[i] != to && w->life[i].sequence == s) w->life[i].sequence = NULL;
}

static void end(world *w)
{
    life *l = &w->life[draw_below(&w->in, LIVES)];
    banyan_sequence_destroy(l->sequence); /* of one that has ended: nothing */
    l->is_there = 0;
}

/* ---- results joined ---------------------------------------------------------------------- */

/* One row, attended to in two ranges of tokens. */
static void combine(world *w)
{
    const banyan_spec *spec = &w->plan->spec;
    const int of = draw_below(&w->in, LIVES);
    const life *l = &w->life[of];
    const int32_t layer = draw_below(&w->in, spec->layers);
    const int64_t length = l->is_there ? banyan_sequence_length(l->sequence, layer) : 0;
    arrays a;
    if (length < 2 || spec->max_rows < 2) return;
    const int64_t cut = 1 + draw_below(&w->in, (int)length - 1);
    banyan_rows part[2] = {
        {.sequence = l->sequence, .at = length - 1, .rows = 1, .first = 0, .end = cut},
        {.sequence = l->sequence, .at = length - 1, .rows = 1, .first = cut, .end = length}};
    fill(w, layer, 2, part, (int[]){of, of}, 2, &a);
    const size_t out = a.out_bytes / 2, lse = a.lse_bytes / 2,
                 q = (size_t)spec->heads *
                     (size_t)banyan_plan_kind(w->plan, layer)->shape.key_dim *
                     banyan_dtype_bytes(spec->in_dtype);
    memcpy(a.q + q, a.q, q);
    const banyan_status status =
        banyan_attend(w->cache, layer, part, 2, a.q, NULL, NULL, a.out, a.lse);
    const void *outs[] = {a.out, a.out + out};
    const float *lses[] = {a.lse, a.lse + spec->heads};
    int64_t rows = 1;
    int32_t count = 2, where = layer;
    switch (draw_below(&w->in, 16)) {
    case 0: rows = -1; break;
    case 1: count = -draw_below(&w->in, 3); break;
    case 2: lses[1] = NULL; break;
    case 3: where = spec->layers; break;
    default: break;
    }
    char *const to = room(out);
    float *const to_lse = room(lse);
    const banyan_status joined =
        banyan_combine(w->cache, where, rows, count, outs, lses, to, to_lse);
    if (joined) {
        calls_refused(joined);
        FUZZ_CHECK(is_untouched(to, out) && is_untouched(to_lse, lse));
    } else if (!status && spec->out_dtype == BANYAN_F32) { /* others are rounded twice */
        calls_check_row(w, l, layer, length - 1, w->sources + 1, (banyan_range){0, length}, 1,
                        to, to_lse);
    }
    w->sources += PARTS;
    release(&a);
    free(to), free(to_lse);
}

/* ---- snapshots --------------------------------------------------------------------------- */

/* From now on with what was opened, its sequences in the same order. */
static void move_in(world *w, banyan_cache *opened)
{
    const int32_t count = banyan_cache_sequences(w->cache);
    for (int i = 0; i < LIVES; i++) {
        banyan_sequence *old = w->life[i].sequence, *s = NULL, *there = NULL;
        w->life[i].sequence = NULL;
        for (int32_t n = 0; n < count && w->life[i].is_there && !there; n++) {
            FUZZ_CHECK(!banyan_sequence_open(w->cache, n, &s));
            if (s == old) FUZZ_CHECK(!banyan_sequence_open(opened, n, &there));
        }
        w->life[i].sequence = there;
        FUZZ_CHECK(!w->life[i].is_there == !there);
    }
    w->steps = 0;
    banyan_cache_destroy(w->cache);
    w->cache = opened;
}

static void save(world *w)
{
    char note[4] = {0};
    size_t length = 0;
    banyan_cache *opened = NULL;
    const uint64_t before = calls_state(w->cache, 1), kept = calls_state(w->cache, 0);
    const banyan_status status = banyan_cache_save(w->cache, fuzz_folder(), "note", 4);
    FUZZ_CHECK(calls_state(w->cache, 1) == before);
    if (status) {
        calls_refused(status);
        FUZZ_CHECK(status == BANYAN_ERR_ARGUMENT && !calls_is_whole(w));
        return;
    }
    FUZZ_CHECK(calls_is_whole(w));
    FUZZ_CHECK(!banyan_snapshot_note(fuzz_folder(), note, sizeof note, &length));
    FUZZ_CHECK(length == 4 && !memcmp(note, "note", 4));
    FUZZ_CHECK(!banyan_snapshot_verify(fuzz_folder(), NULL));
    FUZZ_CHECK(!banyan_cache_open(w->plan, NULL, fuzz_folder(), &opened));
    FUZZ_CHECK(calls_state(opened, 0) == kept);
    if (draw_one_in(&w->in, 2))
        move_in(w, opened);
    else
        banyan_cache_destroy(opened);
}

/* ---- all of it --------------------------------------------------------------------------- */

static void one_call(world *w, banyan_comm *comm)
{
    switch (draw_below(&w->in, 24)) {
    case 0:
    case 1:
    case 2: create(w); break;
    case 3:
    case 4: fork_one(w); break;
    case 5: end(w); break;
    case 6:
    case 7:
    case 8: step(w); break;
    case 9:
    case 10:
    case 11: calls_of_step(w); break;
    case 12: save(w); break;
    case 13: combine(w); break;
    case 14: calls_ask_plan(w->plan, &w->in); break;
    case 15: calls_ask_sequence(w); break;
    case 16:
        draw_one_in(&w->in, 4) ? calls_ask_nothing(w) : calls_use_comm(comm, &w->in);
        break;
    case 17:
    case 18:
    case 19: some_call(w); break;
    default: all_layers(w);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static banyan_comm *comm;
    static world w;
    if (!comm) FUZZ_CHECK(!banyan_comm_create("self", NULL, &comm));
    w = (world){.in = {data, size}};
    w.plan = calls_plan(&w.in, comm);
    if (!w.plan) return 0;
    calls_ask_plan(w.plan, &w.in);
    if (!calls_fits(w.plan) || banyan_cache_create(w.plan, NULL, &w.cache)) {
        banyan_plan_destroy(w.plan);
        return 0;
    }
    for (int i = 0; i < CALLS && w.in.size; i++) one_call(&w, comm);
    for (int i = 0; i < LIVES; i++) banyan_sequence_destroy(w.life[i].sequence);
    banyan_stats stats;
    banyan_cache_stats(w.cache, &stats);
    FUZZ_CHECK(stats.blocks == 0 && stats.sequences == 0 && stats.tokens == 0);
    banyan_cache_destroy(w.cache);
    banyan_plan_destroy(w.plan);
    return 0;
}
