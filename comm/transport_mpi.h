/* SPDX-License-Identifier: Apache-2.0 */
/* transport_mpi.h - what transport_mpi.c and transport_mpi_watch.c share, and nobody else. */
#ifndef BANYAN_COMM_TRANSPORT_MPI_H
#define BANYAN_COMM_TRANSPORT_MPI_H

#include "comm/comm.h"

#include <mpi.h>

enum { tag_data = 0, tag_sign = 1 };
enum {
    banyan_mpi_eager_polls = 32, /* before the first yield: about 5 us */
    banyan_mpi_clock_polls =
        4 /* yields between looks at the clock; each may last a time slice */
};

typedef struct mpi_job {
    int users;
    int finalise; /* we initialised MPI, so we finalise it */
    int broken;
} mpi_job;

/* A message of the round. A receive is first of all only wanted; MPI learns of it when its
 * message was matched and has been found to fit. */
typedef struct posted {
    int recv, peer,
        after; /* after: the receive from this peer that was posted before it, or -1 */
    enum { is_wanted, is_moving, is_done } stage;
    void *data;
    size_t bytes;
    size_t got;   /* a receive: the size of the message that came for it */
    void *excess; /* all of it, when it is longer than `bytes` */
} posted;

typedef struct mpi_state {
    MPI_Comm comm;
    mpi_job *job;
    int count, capacity; /* of the round's messages, in the arrays below */
    int left, wanted;    /* of these, not done; only wanted */
    MPI_Request *request;
    posted *posted;
    int *last;    /* [ranks]: the receive from it that was posted last in this round, or -1 */
    int32_t sign; /* of life, when the time limit is over: for whom this rank waits */
} mpi_state;

/* ERR_COMM with MPI's own words for its error. */
banyan_status banyan_mpi_fail(mpi_state *state, const char *call, int error);
/* Room for so many messages in a round; 0: out of memory. */
int banyan_mpi_reserve(mpi_state *state, int capacity);

/* transport_mpi_messages.c: the transport's start, wait_all and test. */
banyan_status banyan_mpi_start(banyan_comm *comm, int recv, int peer, void *data, size_t bytes);
banyan_status banyan_mpi_wait_all(banyan_comm *comm);
banyan_status banyan_mpi_test(banyan_comm *comm, int *done);

/* transport_mpi_watch.c. The time limit is over: lets go of what is under way, and says who is
 * missing. */
banyan_status banyan_mpi_give_up(const banyan_comm *comm, mpi_state *state);
/* The transport's signs. */
void banyan_mpi_signs(banyan_comm *comm, char *text, size_t bytes);

#endif
