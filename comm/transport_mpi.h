/* SPDX-License-Identifier: Apache-2.0 */
/* transport_mpi.h - what transport_mpi.c and transport_mpi_watch.c share, and nobody else. */
#ifndef BANYAN_COMM_TRANSPORT_MPI_H
#define BANYAN_COMM_TRANSPORT_MPI_H

#include "comm/comm.h"

#include <mpi.h>

enum { tag_data = 0, tag_sign = 1 };

typedef struct mpi_job {
    int users;
    int finalise; /* we initialised MPI, so we finalise it */
    int broken;
} mpi_job;

typedef struct posted {
    int recv, peer;
    size_t bytes;
} posted;

typedef struct mpi_state {
    MPI_Comm comm;
    mpi_job *job;
    int count, capacity; /* of the round's messages, in the four arrays below */
    int left;            /* of these, not through */
    MPI_Request *request;
    MPI_Status *status;
    int *index;
    posted *posted;
    int32_t sign; /* of life, when the time limit is over: for whom this rank waits */
} mpi_state;

/* The time limit is over: lets go of what is under way, and says who is missing. */
banyan_status banyan_mpi_give_up(const banyan_comm *comm, mpi_state *state);
/* The transport's signs. */
void banyan_mpi_signs(banyan_comm *comm, char *text, size_t bytes);

#endif
