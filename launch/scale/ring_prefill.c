/* SPDX-License-Identifier: Apache-2.0 */
/* Ring attention for a causal prefill, balanced in the way that its users found (zigzag:
 * Brandon and others, "Striped Attention", 2023, discuss the imbalance; ring-flash-attention
 * made this deal): the context is cut into 2 P chunks, and rank r has chunks r and 2P-1-r, rows
 * and keys alike. At hop h it sees the chunks of rank s = r - h:
 *
 *     keys of a chunk before the rows' own    all of them     the same work for every rank, two
 *     the rows' own chunk (hop 0 only)        causally        chunk pairs a hop
 *     a chunk behind it                       none
 *
 * while the keys go on to the next rank. The causal pairs are prefills of a cache of their own,
 * whose packing is not timed (the travelling copy's is). In the full pairs every row sees the
 * whole chunk: they are decoded rows of a plan with as many query heads as there are rows times
 * heads, so that the kernel reads each block once for many of them. */
#include "launch/scale/ring.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { wide_rows = 64 }; /* rows of one call on a full pair */

typedef struct ring_side { /* one of a rank's two chunks */
    ring_span span;
    ring_shard causal, own; /* of plans `causal` and `wide` */
    float *q;               /* [kv_heads][rows][group][key_dim]: rows of a KV head together */
    float *out, *lse;       /* the same order */
} ring_side;

typedef struct ring_prefill {
    banyan_comm *self;
    banyan_plan *wide;
    ring_side side[2];
    ring_shard pass[2][2]; /* [which of two][chunk] */
    ring_list send, recv;
    scale_aside *aside;
    int64_t room; /* tokens of the longest chunk */
    float *wide_q, *wide_out, *wide_lse, *rows_out, *rows_lse;
    scale_count count;
    /* what the other thread computes */
    const ring_shard *held[2];
    ring_span held_span[2];
    bool is_own;
    int32_t layer;
} ring_prefill;

static bool always(const scale_case *c, int32_t layer, int32_t head)
{
    (void)c, (void)layer, (void)head;
    return true;
}

static ring_span chunk_of(const scale_case *c, int32_t rank, int which)
{
    const int32_t ranks = c->line->ranks;
    return ring_part(c, c->tokens, which ? 2 * ranks - 1 - rank : rank, 2 * ranks);
}

static int64_t longest_chunk(const scale_case *c)
{
    int64_t most = 0;
    for (int32_t r = 0; r < c->line->ranks; r++)
        for (int w = 0; w < 2; w++) {
            int64_t count = chunk_of(c, r, w).count;
            most = count > most ? count : most;
        }
    return most;
}

static void close_ring_side(ring_side *s)
{
    banyan_cache_destroy(s->causal.cache);
    banyan_cache_destroy(s->own.cache);
    free(s->q);
    free(s->out);
    free(s->lse);
}

static void ring_prefill_close(scale_case *c)
{
    ring_prefill *r = c->own;
    if (!r) return;
    scale_aside_destroy(r->aside);
    close_ring_side(&r->side[0]);
    close_ring_side(&r->side[1]);
    for (int i = 0; i < 4; i++) banyan_cache_destroy(r->pass[i / 2][i % 2].cache);
    banyan_plan_destroy(r->wide);
    banyan_plan_destroy(c->plan);
    banyan_comm_destroy(r->self);
    ring_list_free(c, &r->send);
    ring_list_free(c, &r->recv);
    free(r->wide_q);
    free(r->wide_out);
    free(r->wide_lse);
    free(r->rows_out);
    free(r->rows_lse);
    free(r);
}

/* q of a chunk in the order in which wide calls take it. */
static void gather_q(const scale_case *c, ring_side *s)
{
    const banyan_spec *spec = c->spec;
    const int32_t group = spec->heads / spec->kv_heads;
    for (int32_t g = 0; g < spec->kv_heads; g++)
        for (int64_t i = 0; i < s->span.count; i++) {
            const float *from =
                c->q + (scale_row(s->span.first + i) * spec->heads + g * group) * spec->key_dim;
            memcpy(s->q + ((g * s->span.count + i) * group) * spec->key_dim, from,
                   (size_t)(group * spec->key_dim) * sizeof *from);
        }
}

static banyan_status open_ring_side(scale_case *c, ring_prefill *r, int which)
{
    ring_side *s = &r->side[which];
    const banyan_spec *spec = c->spec;
    s->span = chunk_of(c, c->rank, which);
    const size_t vectors = (size_t)(s->span.count * spec->heads) + 1;
    s->q = malloc(vectors * (size_t)spec->key_dim * sizeof *s->q);
    s->out = malloc(vectors * (size_t)spec->value_dim * sizeof *s->out);
    s->lse = malloc(vectors * sizeof *s->lse);
    if (!s->q || !s->out || !s->lse) return BANYAN_ERR_MEMORY;
    gather_q(c, s);
    return ring_cache(c, c->plan, s->span, r->room, &s->causal);
}

/* The plan of full pairs: a row's heads are heads of their own. */
static banyan_status open_wide(scale_case *c, ring_prefill *r, banyan_spec s)
{
    const size_t vectors = (size_t)wide_rows * (size_t)s.heads;
    s.heads *= wide_rows;
    banyan_status status = banyan_plan_create(&s, r->self, &r->wide);
    if (status) return status;
    status = ring_list_make(c, r->room, 2, &r->send);
    if (!status) status = ring_list_make(c, r->room, 2, &r->recv);
    r->wide_q = calloc(vectors, (size_t)c->spec->key_dim * sizeof *r->wide_q);
    r->wide_out = malloc(vectors * (size_t)c->spec->value_dim * sizeof *r->wide_out);
    r->wide_lse = malloc(vectors * sizeof *r->wide_lse);
    const size_t rows = (size_t)c->spec->max_rows * (size_t)c->spec->heads;
    r->rows_out = malloc(rows * (size_t)c->spec->value_dim * sizeof *r->rows_out);
    r->rows_lse = malloc(rows * sizeof *r->rows_lse);
    r->aside = c->line->ranks > 1 ? scale_aside_create() : NULL;
    if (status || !r->wide_q || !r->wide_out || !r->wide_lse || !r->rows_out || !r->rows_lse ||
        (c->line->ranks > 1 && !r->aside))
        return BANYAN_ERR_MEMORY;
    for (int i = 0; i < 4 && c->line->ranks > 1 && !status; i++)
        status = ring_cache(c, r->wide, (ring_span){0, 0}, r->room, &r->pass[i / 2][i % 2]);
    return status;
}

static banyan_status ring_prefill_open_here(scale_case *c)
{
    ring_prefill *r = c->own = calloc(1, sizeof *r);
    if (!r) return BANYAN_ERR_MEMORY;
    banyan_spec s = scale_spec(c->t, c->line);
    r->room = longest_chunk(c);
    s.max_tokens = s.planned_tokens = r->room;
    if (s.max_rows > r->room) s.max_rows = (int32_t)r->room;
    s.evict = 0;
    s.rollback_tokens = (int32_t)r->room;
    s.out = BANYAN_OUT_HOME;
    s.lost_rank = -1;
    s.bandwidth = NULL;
    s.merge = NULL;
    s.placement = "line";
    s.memory_limit = INT64_MAX / 4; /* of one of several caches: no use to check */
    banyan_status status = banyan_comm_create("self", NULL, &r->self);
    if (!status) status = banyan_plan_create(&s, r->self, &c->plan);
    if (status) return status;
    c->spec = banyan_plan_spec(c->plan);
    status = scale_fill(c, ring_all_heads);
    for (int w = 0; w < 2 && !status; w++) status = open_ring_side(c, r, w);
    return status ? status : open_wide(c, r, s);
}

static banyan_status ring_prefill_open(scale_case *c)
{
    return banyan_comm_agree(c->comm, ring_prefill_open_here(c));
}

/* ---- a step ---- */

/* The rows of a chunk against its own keys. */
static banyan_status causal(scale_case *c, ring_prefill *r, ring_side *s)
{
    const banyan_spec *spec = c->spec;
    const int32_t group = spec->heads / spec->kv_heads, dim = spec->value_dim;
    banyan_status status = BANYAN_OK;
    for (int64_t at = 0; at < s->span.count && !status; at += spec->max_rows) {
        int64_t left = s->span.count - at;
        int32_t rows = left < spec->max_rows ? (int32_t)left : spec->max_rows;
        const float *q = c->q + scale_row(s->span.first + at) * spec->heads * spec->key_dim;
        status = single_attend(s->causal.cache, s->causal.sequence, r->layer, at, rows, q, NULL,
                               NULL, r->rows_out, r->rows_lse);
        for (int32_t i = 0; i < rows && !status; i++)
            for (int32_t h = 0; h < spec->heads; h++) {
                int64_t from = (int64_t)i * spec->heads + h;
                int64_t to = (h / group * s->span.count + at + i) * group + h % group;
                memcpy(s->out + to * dim, r->rows_out + from * dim,
                       (size_t)dim * sizeof(float));
                s->lse[to] = r->rows_lse[from];
            }
    }
    return status;
}

/* Rows of a chunk against all keys of another that lies before it: `rows` rows at a time, the
 * last ones with some of the ones before them again, whose results are left out. */
static banyan_status full(scale_case *c, ring_prefill *r, ring_side *s, const ring_shard *keys,
                          int64_t tokens)
{
    const banyan_spec *spec = c->spec;
    const int64_t group = spec->heads / spec->kv_heads, key = spec->key_dim,
                  dim = spec->value_dim;
    for (int64_t first = 0; first < s->span.count; first += wide_rows) {
        const int64_t left = s->span.count - first, rows = left < wide_rows ? left : wide_rows;
        for (int64_t g = 0; g < spec->kv_heads; g++)
            memcpy(r->wide_q + g * wide_rows * group * key,
                   s->q + (g * s->span.count + first) * group * key,
                   (size_t)(rows * group * key) * sizeof(float));
        banyan_status status =
            single_attend(keys->cache, keys->sequence, r->layer, tokens - 1, 1, r->wide_q, NULL,
                          NULL, r->wide_out, r->wide_lse);
        if (status) return status;
        for (int64_t g = 0; g < spec->kv_heads; g++) {
            const int64_t to = (g * s->span.count + first) * group,
                          from = g * wide_rows * group;
            ring_add(s->out + to * dim, s->lse + to, r->wide_out + from * dim,
                     r->wide_lse + from, rows * group, (int32_t)dim);
        }
    }
    return BANYAN_OK;
}

static banyan_status ring_prefill_compute(void *arg)
{
    scale_case *c = arg;
    ring_prefill *r = c->own;
    const double block = c->spec->block_tokens, heads = c->spec->heads;
    banyan_status status = BANYAN_OK;
    for (int w = 0; w < 2 && !status; w++) {
        ring_side *s = &r->side[w];
        if (r->is_own) status = causal(c, r, s);
        const double own = ceil((double)s->span.count / block);
        if (r->is_own) r->count.pairs += (double)s->span.count * (own + 1) / 2 * heads;
        for (int k = 0; k < 2 && !status; k++) {
            const ring_span keys = r->held_span[k];
            if (!keys.count || keys.first >= s->span.first) continue;
            status = full(c, r, s, r->held[k], keys.count);
            r->count.pairs += (double)s->span.count * ceil((double)keys.count / block) * heads;
        }
    }
    return status;
}

static banyan_status rotate_chunks(scale_case *c, ring_prefill *r, int32_t hop,
                                   const ring_shard *into)
{
    const int32_t ranks = c->line->ranks, next = (c->rank + 1) % ranks,
                  before = (c->rank + ranks - 1) % ranks;
    double received = 0;
    r->send.count = r->recv.count = 0;
    for (int w = 0; w < 2; w++) {
        const ring_span theirs = chunk_of(c, (before - hop + 2 * ranks) % ranks, w);
        ring_messages(c, r->held[w], r->layer, r->held_span[w].count, next, &r->send,
                      &r->count.bytes);
        ring_messages(c, &into[w], r->layer, theirs.count, before, &r->recv, &received);
    }
    r->count.messages += r->send.count;
    return banyan_comm_exchange_start(c->comm, r->send.message, r->send.count, r->recv.message,
                                      r->recv.count);
}

static banyan_status one_layer(scale_case *c, ring_prefill *r, double *seconds)
{
    const int32_t ranks = c->line->ranks;
    banyan_status status = BANYAN_OK;
    for (int w = 0; w < 2; w++) r->held[w] = &r->side[w].own;
    for (int32_t hop = 0; hop < ranks && !status; hop++) {
        const ring_shard *into = hop < ranks - 1 ? r->pass[hop % 2] : NULL;
        for (int w = 0; w < 2; w++)
            r->held_span[w] = chunk_of(c, (c->rank - hop + ranks) % ranks, w);
        r->is_own = hop == 0;
        if (into) status = rotate_chunks(c, r, hop, into);
        if (status) return status;
        status =
            ring_overlap(c->comm, into != NULL, r->aside, ring_prefill_compute, c, seconds);
        for (int w = 0; w < 2 && into; w++) r->held[w] = &into[w];
    }
    return status;
}

/* Not timed: fresh caches. Their filling is a part of the step. */
static banyan_status ring_prefill_prepare(scale_case *c)
{
    ring_prefill *r = c->own;
    banyan_status status = BANYAN_OK;
    for (int w = 0; w < 2 && !status; w++) {
        ring_shard *own = &r->side[w].own;
        banyan_cache_destroy(own->cache);
        *own = (ring_shard){0};
        status = single_create(r->wide, NULL, &own->cache, &own->sequence);
    }
    return status;
}

/* Rows of a watched step, in the order in which everybody looks at them. */
static void ring_prefill_watch(scale_case *c, ring_prefill *r, const ring_side *s)
{
    const banyan_spec *spec = c->spec;
    const int32_t group = spec->heads / spec->kv_heads, dim = spec->value_dim;
    for (int64_t at = 0; at < s->span.count; at += spec->max_rows) {
        int64_t left = s->span.count - at;
        int32_t rows = left < spec->max_rows ? (int32_t)left : spec->max_rows;
        for (int32_t i = 0; i < rows; i++)
            for (int32_t h = 0; h < spec->heads; h++) {
                int64_t to = (int64_t)i * spec->heads + h;
                int64_t from = (h / group * s->span.count + at + i) * group + h % group;
                memcpy(r->rows_out + to * dim, s->out + from * dim,
                       (size_t)dim * sizeof(float));
                r->rows_lse[to] = s->lse[from];
            }
        scale_watch(c, r->layer, s->span.first + at, rows, r->rows_out, r->rows_lse, always);
    }
}

static banyan_status ring_prefill_step(scale_case *c, double *seconds)
{
    ring_prefill *r = c->own;
    banyan_status status = BANYAN_OK;
    double start = now_seconds();
    for (int w = 0; w < 2 && !status; w++)
        status =
            ring_fill(c, &r->side[w].own, banyan_plan_spec(r->wide), r->side[w].span, r->room);
    *seconds += now_seconds() - start;
    for (r->layer = 0; !status && r->layer < c->spec->layers; r->layer++) {
        status = one_layer(c, r, seconds);
        for (int w = 0; w < 2 && !status && c->watched; w++)
            ring_prefill_watch(c, r, &r->side[w]);
    }
    return status;
}

static void ring_prefill_count(const scale_case *c, scale_count *sum)
{
    *sum = ((const ring_prefill *)c->own)->count;
}

/* Equal work on all ranks, and a hop that hides behind it or does not. */
static banyan_status ring_prefill_predict(scale_case *c, double *seconds)
{
    const banyan_spec *s = c->spec;
    const Banyan__Machine *m = c->t->machine;
    const int32_t ranks = c->line->ranks;
    const double blocks = (double)c->tokens / s->block_tokens;
    const double pairs = (double)c->tokens * (blocks + 1) / 2 * s->heads / ranks;
    const double bytes =
        2 * (double)longest_chunk(c) * s->kv_heads *
        (double)((s->key_dim + s->value_dim) * (int64_t)banyan_dtype_bytes(s->cache_dtype));
    const double work = predict_pairs(m, s, pairs, scale_together(c->t, c->line)) / ranks;
    const double hop = ranks > 1 ? ring_hop(c, 2 * s->kv_heads, bytes) : 0;
    *seconds = s->layers * (fmax(work, hop) * (ranks - 1) + work) +
               s->layers * predict_append(m, s, bytes);
    return BANYAN_OK;
}

const scale_runner scale_ring_prefill = {.open = ring_prefill_open,
                                         .prepare = ring_prefill_prepare,
                                         .step = ring_prefill_step,
                                         .count = ring_prefill_count,
                                         .predict = ring_prefill_predict,
                                         .close = ring_prefill_close};
