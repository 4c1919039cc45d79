/* SPDX-License-Identifier: Apache-2.0 */
/* reduce.h - an all-reduce of floats as rounds that one rank takes part in: what reduce.c lays
 * out and runs, and merge_allreduce.c prices. Private to these two. */
#ifndef BANYAN_COMM_REDUCE_H
#define BANYAN_COMM_REDUCE_H

#include "comm/comm.h"

/* One round: send and receive a range of the values (a count of 0: nothing). */
typedef struct reduce_round {
    int32_t number; /* of the round, on all ranks */
    int32_t peer;
    int64_t send_first, send_count, recv_first, recv_count; /* floats */
    int fold; /* what comes is folded into the range; otherwise it replaces it */
} reduce_round;

enum { reduce_most_rounds = 64 };

/* The rounds of `rank` among `ranks`, for `count` floats; returns how many. */
int banyan_reduce_lay_out(int32_t ranks, int32_t rank, int64_t count,
                          reduce_round round[reduce_most_rounds]);

/* values [count] of all ranks become their sum or maximum on all ranks, the same bits on each;
 * room [count] is scratch. */
banyan_status banyan_reduce_floats(banyan_comm *comm, float *values, int64_t count,
                                   banyan_op op, float *room, int64_t *messages,
                                   int64_t *bytes);

#endif
