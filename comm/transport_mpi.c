/* SPDX-License-Identifier: Apache-2.0 */
/* Two-sided MPI: how a comm of it begins and ends. What moves is in transport_mpi_messages.c,
 * who is missing in transport_mpi_watch.c.
 *
 * After a failure some rank may never call MPI again, so everything that waits for all ranks
 * (MPI_Comm_free may, MPI_Finalize does) is left out; mpirun then ends the job as soon as one
 * process exits. `job` remembers this for all comms that were split from one. */
#include "comm/transport_mpi.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>

extern const banyan_transport banyan_transport_mpi;

/* ---- open and close ---------------------------------------------------------------------- */

static void free_mpi_state(mpi_state *state)
{
    free(state->request);
    free(state->posted);
    free(state->last);
    free(state);
}

/* A state with room for a message to and from everyone, so that a round of a merge allocates
 * nothing; for more, start grows it. */
static mpi_state *new_mpi_state(mpi_job *job, int ranks)
{
    mpi_state *state = calloc(1, sizeof *state);
    if (state) state->last = malloc((size_t)ranks * sizeof *state->last);
    if (state && state->last && banyan_mpi_reserve(state, 2 * ranks)) {
        for (int r = 0; r < ranks; r++) state->last[r] = -1;
        state->job = job;
        job->users++;
        return state;
    }
    if (state) free_mpi_state(state);
    banyan_fail(BANYAN_ERR_MEMORY, "out of memory for the messages of %d ranks", ranks);
    return NULL;
}

/* MPI is running when this returns OK; *finalise tells whether we started it. */
static banyan_status initialise(const void *native, int *finalise)
{
    int is_up = 0, is_down = 0, level = MPI_THREAD_SINGLE;
    MPI_Initialized(&is_up);
    MPI_Finalized(&is_down);
    *finalise = 0;
    if (is_down)
        return banyan_fail(BANYAN_ERR_COMM, "MPI has been finalised in this process and cannot "
                                            "start again; keep one \"mpi\" comm and split it");
    if (is_up) return BANYAN_OK;
    if (native)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "an MPI_Comm was given, but MPI is not "
                                                "initialised");
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
        return banyan_fail(BANYAN_ERR_COMM, "MPI_Init_thread failed");
    if (level < MPI_THREAD_FUNNELED)
        banyan_log(BANYAN_LOG_WARN, "this MPI expects one thread per process; compute with "
                                    "threads 1 if it misbehaves");
    /* Some errors belong to no communicator of ours; MPI 4 gives them to MPI_COMM_SELF's. */
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
    *finalise = 1;
    return BANYAN_OK;
}

/* Before there is a comm to agree on: PEER where another rank's status is not OK, with that
 * rank's words: a launcher may end a rank before it has said them. By MPI's collectives: ours
 * send a message between every two ranks, and who needs few of these links would have all. */
static banyan_status agree_early(MPI_Comm base, int rank, banyan_status mine)
{
    char why[256] = "";
    int first = mine ? rank : INT_MAX;
    int error = MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, base);
    if (!error && first == INT_MAX) return BANYAN_OK;
    if (mine) snprintf(why, sizeof why, "%s", banyan_error_message());
    if (!error) error = MPI_Bcast(why, sizeof why, MPI_CHAR, first, base);
    if (mine) return mine;
    if (error) return banyan_fail(BANYAN_ERR_COMM, "MPI_Allreduce failed at the start");
    return banyan_fail(BANYAN_ERR_PEER, "rank %d could not make its comm: %s", first, why);
}

/* The ranks that can share memory are a node. */
static banyan_status discover_nodes(banyan_comm *comm, mpi_state *state)
{
    MPI_Comm near = MPI_COMM_NULL;
    int lowest = comm->rank;
    int32_t *node = comm->scratch;
    int error = MPI_Comm_split_type(state->comm, MPI_COMM_TYPE_SHARED, comm->rank,
                                    MPI_INFO_NULL, &near);
    if (!error) error = MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT, MPI_MIN, near);
    const int32_t own = lowest;
    if (!error) error = MPI_Allgather(&own, 1, MPI_INT32_T, node, 1, MPI_INT32_T, state->comm);
    if (near != MPI_COMM_NULL) MPI_Comm_free(&near);
    if (error) return banyan_mpi_fail(state, "finding the ranks of this node", error);
    const banyan_status status = agree_early(
        state->comm, comm->rank, banyan_topology_make(node, comm->size, &comm->topology));
    if (status == BANYAN_ERR_COMM) state->job->broken = 1;
    return status;
}

/* MPI_Finalize waits for everyone and knows no time limit: do they all come to the end? */
static int all_arrive(const banyan_comm *comm, mpi_state *state)
{
    MPI_Request all = MPI_REQUEST_NULL;
    int done = 0;
    int64_t idle = 0;
    double begin = 0;
    if (MPI_Ibarrier(state->comm, &all)) return 0;
    while (!MPI_Test(&all, &done, MPI_STATUS_IGNORE) && !done) {
        if (++idle < banyan_mpi_eager_polls) continue;
        sched_yield();
        if (comm->timeout <= 0 || idle % banyan_mpi_clock_polls) continue;
        const double now = MPI_Wtime();
        if (begin <= 0) begin = now;
        if (now - begin <= comm->timeout) continue;
        banyan_log(BANYAN_LOG_WARN,
                   "rank %d waited %g s for all ranks to end; MPI is left as it is",
                   (int)comm->rank, comm->timeout);
        return 0;
    }
    return done;
}

static void mpi_close(banyan_comm *comm)
{
    mpi_state *state = comm->state;
    mpi_job *job = state->job;
    int is_down = 0;
    MPI_Finalized(&is_down);
    job->broken |= comm->broken;
    const int is_last = job->users == 1;
    int may_wait = !is_down && !job->broken;
    if (may_wait && is_last && job->finalise) may_wait = all_arrive(comm, state);
    if (may_wait) MPI_Comm_free(&state->comm);
    free_mpi_state(state);
    job->users--;
    if (!is_last) return;
    if (may_wait && job->finalise) MPI_Finalize();
    free(job);
}

static banyan_status mpi_open(banyan_comm *comm, void *native)
{
    mpi_job *job = calloc(1, sizeof *job);
    if (!job) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for an mpi comm");
    banyan_status status = initialise(native, &job->finalise);
    if (status) goto free_job;
    MPI_Comm base = native ? *(MPI_Comm *)native : MPI_COMM_WORLD;
    if (base == MPI_COMM_NULL) {
        status = banyan_fail(BANYAN_ERR_ARGUMENT, "the MPI_Comm is MPI_COMM_NULL");
        goto free_job;
    }
    int rank = 0, size = 1;
    MPI_Comm_rank(base, &rank);
    MPI_Comm_size(base, &size);
    comm->rank = rank;
    comm->size = size;
    mpi_state *state = new_mpi_state(job, size);
    status = state && banyan_comm_scratch(comm) ? BANYAN_OK : BANYAN_ERR_MEMORY;
    status = agree_early(base, rank, status);
    if (status) {
        if (state) free_mpi_state(state);
        goto free_job;
    }
    const int error = MPI_Comm_dup(base, &state->comm);
    if (error) {
        status = banyan_mpi_fail(state, "MPI_Comm_dup", error);
        free_mpi_state(state);
        goto free_job;
    }
    MPI_Comm_set_errhandler(state->comm, MPI_ERRORS_RETURN);
    comm->state = state;
    status = discover_nodes(comm, state);
    if (status) mpi_close(comm);
    return status;
free_job:
    if (status && job->finalise && status != BANYAN_ERR_COMM)
        MPI_Finalize(); /* all come here */
    free(job);
    return status;
}

static banyan_status mpi_split(banyan_comm *comm, int color, int key, banyan_comm *out)
{
    mpi_state *parent = comm->state, *state = NULL;
    if (out) state = new_mpi_state(parent->job, out->size);
    /* Agree before the call that waits for all. */
    banyan_status status =
        banyan_comm_agree(comm, out && !state ? BANYAN_ERR_MEMORY : BANYAN_OK);
    MPI_Comm made = MPI_COMM_NULL;
    if (!status) {
        const int error = MPI_Comm_split(parent->comm, out ? color : MPI_UNDEFINED, key, &made);
        if (error) status = banyan_mpi_fail(parent, "MPI_Comm_split", error);
    }
    if (status && state) {
        state->job->users--;
        free_mpi_state(state);
    }
    if (status || !out) return status;
    state->comm = made;
    out->state = state;
    return BANYAN_OK;
}

/* May be asked before MPI_Init. */
static const char *mpi_library(size_t *handle_bytes)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    if (handle_bytes) *handle_bytes = sizeof(MPI_Comm);
    if (!text[0] && MPI_Get_library_version(text, &length)) return "";
    return text;
}

const banyan_transport banyan_transport_mpi = {
    .name = "mpi",
    .open = mpi_open,
    .close = mpi_close,
    .start = banyan_mpi_start,
    .wait_all = banyan_mpi_wait_all,
    .test = banyan_mpi_test,
    .split = mpi_split,
    .signs = banyan_mpi_signs,
    .library = mpi_library,
};
