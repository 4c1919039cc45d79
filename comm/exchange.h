/* SPDX-License-Identifier: Apache-2.0 */
/* exchange.h - a schedule as one rank runs it: what exchange.c makes, and exchange_run.c runs.
 * Private to these two. */
#ifndef BANYAN_COMM_EXCHANGE_H
#define BANYAN_COMM_EXCHANGE_H

#include "comm/comm.h"

typedef struct message {
    int32_t peer;
    int32_t first_item, items; /* in exchange.item */
    int32_t before, offset;    /* messages and items before it in the round's buffer */
} message;

/* A value that is folded: item `index` of a received message, or (message < 0) this rank's own. */
typedef struct source {
    int32_t message, index, item;
    int32_t lowest, rank; /* in the value; whose value */
} source;

typedef struct fold {
    int32_t item, first_source, sources;
} fold;

typedef struct round_part {
    int32_t first_message, sends, recvs; /* sends first, then receives */
    int32_t first_fold, folds;
    int32_t number; /* of the round, in the schedule */
} round_part;

struct banyan_exchange {
    size_t max_item_bytes, held_bytes;
    uint64_t plan;
    int32_t rounds, messages, items, folds, sources; /* used in the arrays below */
    round_part *round;
    message *message;
    int32_t *item;
    fold *fold;
    source *source;
    int32_t send_items, recv_items; /* the largest round's */
    int32_t send_messages, recv_messages;
    char *send_buffer, *recv_buffer;
};

#endif
