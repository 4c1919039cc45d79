/* SPDX-License-Identifier: Apache-2.0 */
/* ring.h - what ring attention's files share: shards that travel, and partial results that add
 * up. */
#ifndef BANYAN_SCALE_RING_H
#define BANYAN_SCALE_RING_H

#include "launch/scale/scale.h"

/* Whose tokens a shard holds: first .. first+count-1 of the context. */
typedef struct ring_span {
    int64_t first, count;
} ring_span;

/* Part `i` of `parts` equal ones, in whole blocks; may be empty. */
ring_span ring_part(const scale_case *c, int64_t tokens, int32_t i, int32_t parts);

/* out and lse of `vectors` heads so far, and another part of the same softmax:
 *
 *     M = max(a, b)   out = (out_a e^(a-M) + out_b e^(b-M)) / (e^(a-M) + e^(b-M))
 *                     lse = M + ln(..) */
void ring_add(float *out, float *lse, const float *more, const float *more_lse, int64_t vectors,
              int32_t dim);

/* A cache with one sequence in it. */
typedef struct ring_shard {
    banyan_cache *cache;
    banyan_sequence *sequence;
} ring_shard;

/* Messages of a hop: one for each stretch of records that lie one behind the other. Those of a
 * device travel in `stage`, memory of the host, since messages do. */
typedef struct ring_list {
    banyan_message *message;
    int count;
    void **there; /* where records lie on the device */
    char *stage;
    size_t stage_bytes;
} ring_list;

/* Room for the messages of `shards` shards of `tokens` tokens. */
banyan_status ring_list_make(const scale_case *c, int64_t tokens, int shards, ring_list *list);
/* Adds those that carry the first `tokens` tokens of a shard, all heads of one layer, and their
 * bytes to *bytes. Shards that were filled by the same calls have the same stretches. */
void ring_messages(const scale_case *c, const ring_shard *shard, int32_t layer, int64_t tokens,
                   int peer, ring_list *list, double *bytes);

void ring_list_free(const scale_case *c, ring_list *list);
/* Of records on a device: messages get places on the host, and with `copies` what is to be sent
 * is there when it returns. On the CPU nothing is to be done. */
banyan_status ring_lift(const scale_case *c, ring_list *list, bool copies);
/* What was received goes to the device, before all that is asked of the device from now on. */
banyan_status ring_land(const scale_case *c, const ring_list *list);

/* A cache of the ring's plan with `span` of the context in it, padded to `room` tokens, so that
 * all caches of a ring have their records at the same places. */
banyan_status ring_cache(const scale_case *c, const banyan_plan *plan, ring_span span,
                         int64_t room, ring_shard *out);

/* Only the filling; s: the spec of the cache's plan. */
banyan_status ring_fill(const scale_case *c, const ring_shard *shard, const banyan_spec *s,
                        ring_span span, int64_t room);

/* Wait for the exchange that was started on comm, and for `work`, which runs meanwhile: in the
 * other thread when there is one and somebody to exchange with. work NULL: nothing to compute.
 * Adds to *compute the seconds that it took. */
typedef struct ring_work {
    banyan_status (*run)(void *);
    void *arg;
    double seconds;
} ring_work;
banyan_status ring_overlap(banyan_comm *comm, bool started, scale_aside *aside,
                           banyan_status (*run)(void *), void *arg, double *compute);

/* For scale_fill: a shard has every KV head. */
bool ring_all_heads(const scale_case *c, int32_t kv_head);

/* Seconds of a hop: messages and bytes over the dearest link between neighbours. */
double ring_hop(const scale_case *c, double messages, double bytes);

#endif
