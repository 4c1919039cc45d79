/* SPDX-License-Identifier: Apache-2.0 */
/* device_cache.h - what a cache has on a device, and beside it on the host.
 *
 *     device   records [blocks]  tables [blocks]  items [heads][rows]  the queue's, exchanges'
 *     host     held blocks (cache.h), a copy of the tables, a ring for what changed in them,
 *              and one batch under construction
 *
 * The host decides everything and the device follows in the order of its queue, later: what the
 * host writes for it stays as it is until the queue got there. Arrays of a call are copied by
 * the queue before its functions return; changed places of tables go through the ring. */
#ifndef BANYAN_DIST_DEVICE_CACHE_H
#define BANYAN_DIST_DEVICE_CACHE_H

#include "dist/cache.h"

/* A table on the device, and what is in it once the queue got there. */
typedef struct banyan_mirror {
    banyan_slot *slot; /* device */
    banyan_slot *copy; /* [capacity], in slots as all of it */
    int64_t count;     /* places that were ever written */
    int64_t changed;   /* the first place that may differ from `held` */
} banyan_mirror;

/* Where a query head's partials go on this rank. */
enum {
    BANYAN_ITEM_HERE = 1, /* held or wanted here */
    BANYAN_ITEM_MOVES = 2 /* and merged with other ranks' */
};

/* A call of a step's graph. */
typedef struct banyan_recorded {
    int32_t layer;
    const void *q, *k, *v;
    void *out;
    float *lse;
} banyan_recorded;

/* The last graph of a step: its parts' rows, and its calls, whose arguments lie on the device's
 * tape. */
typedef struct banyan_device_graph {
    int is_open;      /* calls that are captured now are the graph's */
    int is_rewritten; /* its calls are made again, to write the tape */
    int32_t parts, all_rows, calls;
    int32_t *rows;         /* [sequences] */
    banyan_recorded *call; /* [layers] */
} banyan_device_graph;

typedef struct banyan_device_cache {
    const banyan_device *device;
    banyan_queue *queue;
    banyan_memory memory; /* the same, as exchanges see it */
    const char *failed;   /* why a fold could not be queued */

    char *records, *items, *probed; /* device */
    banyan_slot *tables;            /* device */
    banyan_mirror **mirror;         /* [sequences][layers][KV heads held here] */
    banyan_slot *ring;              /* [ring_slots], of allocate(on_host) */
    int64_t ring_slots, ring_used;

    /* Of a merge that reduces; else NULL. */
    float *maxima, *pass_values; /* device: [heads][rows], the longest pass */
    float *pass_staged; /* of allocate(on_host), where messages are staged: twice that */

    uint8_t **role; /* [kinds][heads] */
    /* A batch. */
    banyan_batch_part *part;       /* [max_parts] */
    banyan_table_of_blocks *table; /* [max_parts][KV heads held here] */
    banyan_strip *strip;
    banyan_edge *edge; /* one for each strip at most */
    banyan_span *span;
    banyan_packing *packing;
    float **partial, **probe; /* [heads] */
    banyan_folding *folding;  /* [heads] */
    const void **whole;       /* [heads]: partials that are folded with none */
    uint8_t *is_mine;         /* [heads] */
    int64_t max_parts, max_strips, max_spans;

    banyan_device_graph graph;
    int64_t *owed; /* device: not 0 from a step of the graph's parts on until a replay */
} banyan_device_cache;

/* device_layout.c: how much of everything a rank needs. Bytes are those besides records and
 * arena. */
typedef struct banyan_device_need {
    banyan_device_limits limits;
    int64_t slots, ring_slots;
    int64_t items_bytes, probed_bytes; /* of device memory */
    int64_t maxima_bytes, pass_bytes;  /* likewise; of a merge that reduces */
    int64_t device, host;
    int64_t exchanges; /* of both */
} banyan_device_need;
banyan_device_need banyan_device_needs(const banyan_plan *plan, int rank);
void banyan_device_lay(const banyan_plan *plan, int rank, banyan_arena *arena,
                       banyan_device_cache *d);
/* Takes the memory and places records and tables; c is laid out. Adds what it took, but for
 * records and exchanges. close waits for the device; exchanges are gone then. */
banyan_status banyan_device_open(banyan_cache *c, void *stream, size_t *bytes);
void banyan_device_close(banyan_cache *c);

banyan_status banyan_device_wait(banyan_cache *c);

/* Work on the cache's queue goes between these two, since a thread may use several devices:
 * enter makes the cache's device the current one, and leave, given what enter returned, the one
 * that was. Nothing on the CPU. */
int banyan_device_enter(const banyan_cache *c);
void banyan_device_leave(const banyan_cache *c, int device);

/* May this call be made just now? (Is it captured in a graph, and can it be?) */
banyan_status banyan_device_check(banyan_cache *c, const banyan_call *call);
int banyan_device_is_captured(const banyan_cache *c);
/* A step that is captured: the calls that come now are recorded. */
banyan_status banyan_device_record_step(banyan_cache *c, const banyan_rows *batch,
                                        int32_t count);
/* A call of such a step; check_recorded says what cannot be, and fills in call->rows. */
int banyan_device_records(banyan_cache *c);
banyan_status banyan_device_check_recorded(banyan_cache *c, banyan_call *call);
/* Partials that other ranks get pass through host memory, in a call that is captured:
 * UNSUPPORTED. */
banyan_status banyan_device_check_staged(const banyan_cache *c, const banyan_call *call);
/* Blocks of the batch's parts have begun and gone: the device's tables follow, and the graph's
 * tape is written, where the parts are its parts. */
banyan_status banyan_device_step(banyan_cache *c, const banyan_rows *batch, int32_t count);
/* The last step was of the graph's parts, and no replay came after it. Waits for the device. */
banyan_status banyan_device_is_owed(banyan_cache *c, int *is_owed);
/* device_tape.c */
banyan_status banyan_device_tape(const banyan_cache *c, banyan_tape what);
/* The arguments of what is queued between these lie on the tape, if the call is recorded. */
banyan_status banyan_device_tape_begin(banyan_cache *c, const banyan_call *call);
banyan_status banyan_device_tape_end(banyan_cache *c, const banyan_call *call);
/* Own blocks of `rows` rows, at most, wherever they are. */
static inline int64_t banyan_most_pieces(const banyan_plan *plan, int64_t rows)
{
    return rows < 2 ? rows : (rows - 2 + plan->spec.block_tokens) / plan->spec.block_tokens + 1;
}
/* device_slots.c: slots of a block; those that rows are appended to, at most, wherever they
 * are. */
int32_t banyan_device_slots(const banyan_plan *plan);
int64_t banyan_device_pieces(const banyan_plan *plan, int64_t rows);
/* Spans of blocks, as places of `kept`, become spans of slots, without those behind the last
 * row's of its own block; list->blocks counts slots then. 0 when list->capacity is too
 * small. */
int banyan_device_spread(const banyan_plan *plan, const banyan_kept *kept, int64_t last_row,
                         banyan_span_list *list);
/* device_tables.c: held places from `place` on of a KV head of a layer have changed. */
void banyan_device_note(banyan_cache *c, const banyan_sequence *s, int32_t layer, int32_t index,
                        int64_t place);
banyan_mirror *banyan_device_mirror(const banyan_cache *c, const banyan_sequence *s,
                                    int32_t layer, int32_t index);
/* The device's tables of a sequence become what the host's are. */
banyan_status banyan_device_follow(banyan_cache *c, const banyan_sequence *s, int32_t layer);
/* device_append.c */
banyan_status banyan_device_copy(banyan_cache *c, void *to, const void *from, size_t bytes);
banyan_status banyan_device_write(banyan_cache *c, const banyan_call *call);
/* device_attend.c */
banyan_status banyan_device_compute(banyan_cache *c, const banyan_call *call,
                                    const banyan_panel *panel, int32_t from, int32_t to);
/* The most query heads of one pattern of a KV head that is held here. */
int32_t banyan_device_heads(const banyan_cache *c, int32_t layer);
/* device_merge.c: where the items of a panel lie, in part->data and part->mass. */
void banyan_device_place(banyan_cache *c, const banyan_call *call, int32_t rows);
banyan_status banyan_device_send(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel);
banyan_status banyan_device_merge(banyan_cache *c, const banyan_call *call,
                                  const banyan_panel *panel);
/* Pieces of one part, one behind the other, from piece i on; returns the next. */
int32_t banyan_device_rows(const banyan_panel *panel, int32_t i, int32_t *rows);

/* device_passes.c: merges the items of a panel by a merge that reduces; data [heads]. */
banyan_status banyan_device_reduce(banyan_cache *c, const banyan_kind *kind, void *const *data,
                                   int32_t rows);

/* What a device's function returned, as a status. */
static inline banyan_status banyan_device_said(const char *failed)
{
    return failed ? banyan_fail(BANYAN_ERR_DEVICE, "%s", failed) : BANYAN_OK;
}

#endif
