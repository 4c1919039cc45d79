/* SPDX-License-Identifier: Apache-2.0 */
/* exchange.h - a schedule as one rank runs it: what exchange.c makes, and exchange_run.c (in
 * host memory) and exchange_round.c (in a device's) run. Private to the exchange*.c. */
#ifndef BANYAN_COMM_EXCHANGE_H
#define BANYAN_COMM_EXCHANGE_H

#include "comm/comm.h"

typedef struct message {
    int32_t peer;
    int32_t first_item, items; /* in exchange.item */
    int32_t before, offset;    /* messages and items before it in the round's buffer */
} message;

/* A value that is folded: item `index` of a received message, or (message < 0) this rank's
 * own. */
typedef struct fold_source {
    int32_t message, index, item;
    int32_t lowest, rank; /* in the value; whose value */
} fold_source;

typedef struct fold {
    int32_t item, first_source, sources;
} fold;

typedef struct round_part {
    int32_t first_message, sends, recvs; /* sends first, then receives */
    int32_t first_fold, folds;
    int32_t number;       /* of the round, in the schedule */
    int is_last, is_over; /* as in banyan_arrivals */
} round_part;

struct banyan_exchange {
    size_t max_item_bytes, held_bytes, device_bytes;
    uint64_t plan;
    int32_t rounds, messages, items, folds, sources; /* used in the arrays below */
    round_part *round;
    message *message;
    int32_t *item;
    fold *fold;
    fold_source *source;
    int32_t send_items, recv_items; /* the largest round's */
    int32_t send_messages, recv_messages;
    /* What a round of a device's does at once, as it is put together: of the largest. */
    struct message_header *header; /* of the messages that are sent, or of those that came */
    banyan_gathered *move;
    banyan_check *check;
    banyan_fold *folded;
    const void **value;
    char *send_buffer,
        *recv_buffer; /* where the items lie; staged: send_buffer is the host's */
    const banyan_memory *memory;
    char *arrivals; /* the receive buffer, in host memory; staged: one of its own; else NULL */
    banyan_fault *fault; /* then [messages]; a receive's own */
    const char *mark_name[BANYAN_MARKS];
};

enum { header_magic = 0x62616e79, header_version = 1 };

typedef struct message_header {
    uint32_t magic, version;
    uint64_t plan;
    uint64_t item_bytes;
    int64_t mark[BANYAN_MARKS];
    int32_t round, items;
    int32_t dtype;
    uint32_t checksum; /* of the items; 0: none was asked for */
} message_header;

_Static_assert(sizeof(message_header) == BANYAN_HEADER_BYTES, "a header is one cache line");

/* One call of run. */
typedef struct exchange_call {
    banyan_exchange *x;
    banyan_comm *comm;
    const banyan_exchange_args *p;
} exchange_call;

/* Where a message lies in the round's buffer, and its items after the header. */
static inline char *message_at(const exchange_call *run, char *buffer, const message *m)
{
    return buffer + (size_t)m->before * BANYAN_HEADER_BYTES +
           (size_t)m->offset * run->p->item_bytes;
}

static inline char *item_at(const exchange_call *run, char *buffer, const message *m,
                            int32_t index)
{
    return message_at(run, buffer, m) + BANYAN_HEADER_BYTES +
           (size_t)index * run->p->item_bytes;
}

static inline size_t message_bytes(const exchange_call *run, const message *m)
{
    return BANYAN_HEADER_BYTES + (size_t)m->items * run->p->item_bytes;
}

static inline message_header header_of(const exchange_call *run, const round_part *part,
                                       const message *m)
{
    message_header h = {.magic = header_magic,
                        .version = header_version,
                        .plan = run->x->plan,
                        .item_bytes = run->p->item_bytes,
                        .round = part->number,
                        .items = m->items,
                        .dtype = (int32_t)run->p->dtype};
    for (int i = 0; i < BANYAN_MARKS; i++) h.mark[i] = run->p->mark[i].value;
    return h;
}

/* exchange_header.c: of a message's items. */
uint32_t banyan_items_checksum(const void *items, size_t bytes);
/* A message's header, before its items, which are there. Host memory. */
void banyan_header_write(const exchange_call *run, const round_part *part, const message *m,
                         char *place);
/* Is what `peer` sent what this rank expects? Else ERR_COMM, with both values. */
banyan_status banyan_header_compare(int rank, int peer, const message_header *theirs,
                                    const message_header *mine, const char *const *mark_name);
/* The same for what the host received in a round. After a failed transfer, those headers that
 * are there at all tell more than a wrong size does. */
banyan_status banyan_headers_check(const exchange_call *run, const round_part *part,
                                   char *buffer, banyan_status transfer);

/* exchange_fold.c: an item's fold, in host memory; and all of a round's in a device's, with the
 * checks of the headers that came unless they were staged. */
banyan_status banyan_exchange_fold(const exchange_call *run, const fold *f);
void banyan_exchange_fold_round(const exchange_call *run, const round_part *part);

/* exchange_round.c: one round with a memory. */
banyan_status banyan_round_post(const exchange_call *run, const round_part *part);
banyan_status banyan_round_end(const exchange_call *run, const round_part *part);

#endif
