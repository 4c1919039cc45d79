/* SPDX-License-Identifier: Apache-2.0 */
/* Ring attention (Liu, Zaharia, Abbeel, "Ring Attention with Blockwise Transformers", 2023) for
 * one decoded row, as Tree Attention's authors compare with it: rank 0 has the query, every
 * rank holds an equal shard of keys and values, and all shards rotate past the query,
 *
 *     hop 0   rank r holds shard r                 rank 0 computes shard 0
 *     hop h   rank r holds shard r - h (mod P)     rank 0 computes shard P - h
 *
 * P - 1 hops in which every rank sends a shard to the next and takes one from the one before.
 * The next shard is on its way while this one is computed: a rank has its own shard, which
 * stays, and two others, one to compute and send, one to receive. Only rank 0 computes; in the
 * published code the others compute on padding.
 *
 * On a device records pass through the host's memory from rank to rank, and a shard's result is
 * added to the others' there.
 *
 * ring-q is kinder: each rank computes its own shard at once, and the partial result goes
 * round, from rank P-1 down to 0. */
#include "launch/scale/ring.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct ring {
    banyan_comm *self;
    ring_shard own, pass[2];
    ring_list send, recv;
    scale_aside *aside;
    device_array out, lse; /* of one shard */
    float *packet;         /* ring-q: out and lse as they travel */
    scale_count count;
    /* what the other thread computes */
    const ring_shard *held;
    int64_t tokens;
    int32_t layer;
} ring;

static bool on_first(const scale_case *c, int32_t layer, int32_t head)
{
    (void)layer, (void)head;
    return c->rank == 0;
}

static ring_span span_of(const scale_case *c, int32_t rank)
{
    return ring_part(c, c->tokens, rank, c->line->ranks);
}

static int64_t longest_shard(const scale_case *c)
{
    int64_t most = 0;
    for (int32_t r = 0; r < c->line->ranks; r++) {
        int64_t count = span_of(c, r).count;
        most = count > most ? count : most;
    }
    return most;
}

static void ring_close(scale_case *c)
{
    ring *r = c->own;
    if (!r) return;
    scale_aside_destroy(r->aside);
    banyan_cache_destroy(r->own.cache);
    banyan_cache_destroy(r->pass[0].cache);
    banyan_cache_destroy(r->pass[1].cache);
    banyan_plan_destroy(c->plan);
    banyan_comm_destroy(r->self);
    ring_list_free(c, &r->send);
    ring_list_free(c, &r->recv);
    device_array_free(c->t->j->device, &r->out);
    device_array_free(c->t->j->device, &r->lse);
    free(r->packet);
    free(r);
}

static banyan_status make_ring_room(scale_case *c, ring *r)
{
    const banyan_spec *s = c->spec;
    const size_t outs = (size_t)s->heads * (size_t)s->value_dim, lses = (size_t)s->heads;
    device *d = c->t->j->device;
    r->packet = malloc(2 * (outs + lses) * sizeof *r->packet);
    r->aside = c->line->ranks > 1 ? scale_aside_create() : NULL;
    banyan_status status = ring_list_make(c, longest_shard(c), 1, &r->send);
    if (!status) status = ring_list_make(c, longest_shard(c), 1, &r->recv);
    if (!status) status = device_array_make(d, outs * sizeof(float), DEVICE_NAN, &r->out);
    if (!status) status = device_array_make(d, lses * sizeof(float), DEVICE_NAN, &r->lse);
    if (!status && (!r->packet || (c->line->ranks > 1 && !r->aside)))
        status = BANYAN_ERR_MEMORY;
    return status;
}

/* Every rank's own plan is of the longest shard, so that all caches are alike. */
static banyan_status ring_open_here(scale_case *c, int passing)
{
    ring *r = c->own = calloc(1, sizeof *r);
    if (!r) return BANYAN_ERR_MEMORY;
    banyan_spec s = scale_spec(c->t, c->line);
    const int64_t room = longest_shard(c);
    s.max_tokens = s.planned_tokens = room;
    if (s.max_rows > room) s.max_rows = (int32_t)room;
    s.evict = 0;
    s.rollback_tokens = 2 * s.block_tokens; /* shards may be a block shorter than the longest */
    s.out = BANYAN_OUT_HOME;
    s.lost_rank = -1;
    s.bandwidth = NULL;
    s.merge = NULL;
    s.placement = "line";
    banyan_status status = banyan_comm_create("self", NULL, &r->self);
    if (!status) status = banyan_plan_create(&s, r->self, &c->plan);
    if (status) return status;
    c->spec = banyan_plan_spec(c->plan);
    status = make_ring_room(c, r);
    if (!status) status = scale_fill(c, ring_all_heads);
    if (status) return status;
    c->kv_bytes = (double)span_of(c, c->rank).count * (double)s.layers * c->spec->kv_heads *
                  (double)((c->spec->key_dim + c->spec->value_dim) *
                           (int64_t)banyan_dtype_bytes(c->spec->cache_dtype));
    status = ring_cache(c, c->plan, span_of(c, c->rank), room, &r->own);
    for (int i = 0; i < passing && !status; i++)
        status = ring_cache(c, c->plan, (ring_span){0, 0}, room, &r->pass[i]);
    return status;
}

static banyan_status open_ring(scale_case *c)
{
    return banyan_comm_agree(c->comm,
                             ring_open_here(c, c->line->ranks > 2 ? 2 : c->line->ranks - 1));
}

static banyan_status open_ring_q(scale_case *c)
{
    return banyan_comm_agree(c->comm, ring_open_here(c, 0));
}

static banyan_status ring_compute(void *arg)
{
    scale_case *c = arg;
    ring *r = c->own;
    banyan_status status =
        single_attend(r->held->cache, r->held->sequence, r->layer, r->tokens - 1, 1,
                      c->on[SCALE_Q].there, NULL, NULL, r->out.there, r->lse.there);
    if (!status) status = device_fetch(c->t->j->device, &r->out, r->out.bytes);
    if (!status) status = device_fetch(c->t->j->device, &r->lse, r->lse.bytes);
    if (status) return status;
    ring_add(c->out, c->lse, r->out.host, r->lse.host, c->spec->heads, c->spec->value_dim);
    r->count.pairs +=
        (double)((r->tokens + c->spec->block_tokens - 1) / c->spec->block_tokens) *
        c->spec->heads;
    return BANYAN_OK;
}

static void clear(scale_case *c)
{
    const banyan_spec *s = c->spec;
    memset(c->out, 0, (size_t)s->heads * (size_t)s->value_dim * sizeof *c->out);
    for (int32_t h = 0; h < s->heads; h++) c->lse[h] = -INFINITY;
}

/* Send what is held to the next rank, and take what the one before holds into `into`. */
static banyan_status rotate_shard(scale_case *c, ring *r, int32_t hop, const ring_shard *into)
{
    const int32_t ranks = c->line->ranks, next = (c->rank + 1) % ranks,
                  before = (c->rank + ranks - 1) % ranks;
    const int64_t mine = span_of(c, (c->rank - hop + ranks) % ranks).count,
                  theirs = span_of(c, (before - hop + ranks) % ranks).count;
    double received = 0;
    r->send.count = r->recv.count = 0;
    ring_messages(c, r->held, r->layer, mine, next, &r->send, &r->count.bytes);
    ring_messages(c, into, r->layer, theirs, before, &r->recv, &received);
    r->count.messages += r->send.count;
    banyan_status status = ring_lift(c, &r->send, true);
    if (!status) status = ring_lift(c, &r->recv, false);
    if (status) return status;
    return banyan_comm_exchange_start(c->comm, r->send.message, r->send.count, r->recv.message,
                                      r->recv.count);
}

static banyan_status ring_layer(scale_case *c, ring *r, double *seconds)
{
    const int32_t ranks = c->line->ranks;
    banyan_status status = BANYAN_OK;
    clear(c);
    r->held = &r->own;
    for (int32_t hop = 0; hop < ranks && !status; hop++) {
        const ring_shard *into = hop < ranks - 1 ? &r->pass[hop % 2] : NULL;
        if (into) status = rotate_shard(c, r, hop, into);
        if (status) return status;
        r->tokens = span_of(c, (c->rank - hop + ranks) % ranks).count;
        const bool computes = c->rank == 0 && r->tokens > 0;
        status = ring_overlap(c->comm, into != NULL, r->aside, computes ? ring_compute : NULL,
                              c, seconds);
        if (into && !status) status = ring_land(c, &r->recv);
        r->held = into;
    }
    return status;
}

static banyan_status step_ring(scale_case *c, double *seconds)
{
    ring *r = c->own;
    banyan_status status = BANYAN_OK;
    for (r->layer = 0; !status && r->layer < c->spec->layers; r->layer++) {
        status = ring_layer(c, r, seconds);
        if (!status && c->watched)
            scale_watch(c, r->layer, c->tokens - 1, 1, c->out, c->lse, on_first);
    }
    return status;
}

/* The result of ranks r .. P-1 comes from rank r+1, and goes on to r-1. */
static banyan_status hand_down(scale_case *c, ring *r)
{
    const banyan_spec *s = c->spec;
    const int32_t last = c->line->ranks - 1;
    const size_t outs = (size_t)s->heads * (size_t)s->value_dim,
                 floats = outs + (size_t)s->heads;
    const banyan_message message = {c->rank + 1, r->packet, floats * sizeof(float)};
    banyan_status status = BANYAN_OK;
    if (c->rank < last) {
        status = banyan_comm_exchange(c->comm, NULL, 0, &message, 1);
        if (status) return status;
        ring_add(c->out, c->lse, r->packet, r->packet + outs, s->heads, s->value_dim);
    }
    if (c->rank == 0) return status;
    float *packet = r->packet + floats;
    memcpy(packet, c->out, outs * sizeof(float));
    memcpy(packet + outs, c->lse, (size_t)s->heads * sizeof(float));
    const banyan_message down = {c->rank - 1, packet, floats * sizeof(float)};
    r->count.messages++;
    r->count.bytes += (double)down.bytes;
    return banyan_comm_exchange(c->comm, &down, 1, NULL, 0);
}

static banyan_status step_ring_q(scale_case *c, double *seconds)
{
    ring *r = c->own;
    banyan_status status = BANYAN_OK;
    r->held = &r->own;
    r->tokens = span_of(c, c->rank).count;
    for (r->layer = 0; !status && r->layer < c->spec->layers; r->layer++) {
        clear(c);
        status =
            ring_overlap(c->comm, false, NULL, r->tokens > 0 ? ring_compute : NULL, c, seconds);
        if (!status) status = hand_down(c, r);
        if (!status && c->watched)
            scale_watch(c, r->layer, c->tokens - 1, 1, c->out, c->lse, on_first);
    }
    return status;
}

static void ring_count(const scale_case *c, scale_count *sum)
{
    *sum = ((const ring *)c->own)->count;
}

/* ---- prediction ---- */

static double shard_bytes(const scale_case *c)
{
    return (double)longest_shard(c) * c->spec->kv_heads *
           (double)((c->spec->key_dim + c->spec->value_dim) *
                    (int64_t)banyan_dtype_bytes(c->spec->cache_dtype));
}

static banyan_status predict_ring(scale_case *c, double *seconds)
{
    const double bytes = shard_bytes(c), hop = ring_hop(c, c->spec->kv_heads, bytes);
    const double read = predict_read(c->t->machine, c->spec, bytes, 1);
    *seconds = c->spec->layers * (fmax(read, hop) * (c->line->ranks - 1) + read);
    return BANYAN_OK;
}

static banyan_status predict_ring_q(scale_case *c, double *seconds)
{
    const double bytes = (double)c->spec->heads * (c->spec->value_dim + 1) * sizeof(float);
    const double read =
        predict_read(c->t->machine, c->spec, shard_bytes(c), scale_together(c->t, c->line));
    *seconds = c->spec->layers * (read + ring_hop(c, 1, bytes) * (c->line->ranks - 1));
    return BANYAN_OK;
}

const scale_runner scale_ring = {.open = open_ring,
                                 .step = step_ring,
                                 .count = ring_count,
                                 .predict = predict_ring,
                                 .close = ring_close};
const scale_runner scale_ring_q = {.open = open_ring_q,
                                   .step = step_ring_q,
                                   .count = ring_count,
                                   .predict = predict_ring_q,
                                   .close = ring_close};
