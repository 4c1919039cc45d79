/* SPDX-License-Identifier: Apache-2.0 */
/* line_set.h - what lines.c and follow.c keep in a cache. Included by cache.h. */
#ifndef BANYAN_DIST_LINE_SET_H
#define BANYAN_DIST_LINE_SET_H

#include "attention/attention.h"

/* Columns and diagonals that a query head's rows read. */
typedef struct banyan_line_set {
    int64_t *column; /* ascending; NULL: not chosen here */
    int64_t columns;
    int is_all;     /* or: all, since the part is too short for this head */
    uint64_t *band; /* bit d: blocks at the distance d */
    char *records;  /* the columns' keys and values, in this order */
    /* Columns that nobody has counted before: a block's words, bit by bit .. */
    uint64_t *seen;  /* [blocks][words of a block] */
    int is_in_place; /* .. and they are too many to gather: `columns` is 0 */
    /* Or blocks, of each piece of a panel: bit b is block b. */
    uint64_t *only; /* [pieces][words of blocks] */
    int is_pooled;
} banyan_line_set;

/* Tokens that a follower's decoded row chose (follow.c). */
typedef struct banyan_followed {
    int64_t at;    /* the row; -1: there is none .. */
    int32_t layer; /* .. and the layer that chose */
    int64_t count;
    int64_t *token; /* [count] ascending; NULL: the KV head is not held here */
} banyan_followed;

/* What choosing columns and diagonals takes. */
enum {
    BANYAN_SCORED = 8, /* blocks that are observed at a time */
    BANYAN_POOLED = 4  /* pieces whose blocks are scored at a time */
};
typedef struct banyan_observing {
    banyan_observed sums;
    float *q;                /* [BANYAN_LINE_ROWS][key_dim] */
    float *column;           /* [BANYAN_SCORED][block_tokens] */
    banyan_pick *pick;       /* [sizes.lines]: the best columns, then the best diagonals */
    double *mass;            /* [blocks]: sums of p .. */
    double *pooled;          /* [BANYAN_POOLED][blocks]: .. and pooled softmax */
    void *plain_k, *plain_v; /* a block of gathered rows */
} banyan_observing;

#endif
