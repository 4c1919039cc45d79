/* SPDX-License-Identifier: Apache-2.0 */
/* Two-sided MPI: every message is one Isend and one Irecv with tag 0 on a communicator of our own,
 * so messages between a pair match in posting order. A message larger than an int can count is
 * still one message, of a derived type: pieces and a rest,
 *
 *     | piece | piece | ... | piece | rest |
 *
 * wait_all polls instead of blocking, for three reasons: it can give up after the time limit and
 * say who is missing; it yields, so that more ranks than cores do not starve each other; and every
 * received size is compared with the expected one.
 *
 * After a failure some rank may never call MPI again, so everything that waits for all ranks
 * (MPI_Comm_free may, MPI_Finalize does) is left out; mpirun then ends the job as soon as one
 * process exits. `job` remembers this for all comms that were split from one. */
#include "comm/transport_mpi.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

extern const banyan_transport banyan_transport_mpi;

enum {
    eager_polls = 32, /* before the first yield: about 5 us */
    clock_polls = 64  /* yields between looks at the clock */
};

static banyan_status fail_mpi(mpi_state *state, const char *call, int error)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(error, text, &length);
    state->job->broken = 1;
    return banyan_fail(BANYAN_ERR_COMM, "%s: %s", call, text);
}

/* ---- open and close ------------------------------------------------------------------------ */

static int reserve(mpi_state *state, int capacity)
{
    if (capacity <= state->capacity) return 1;
    const size_t n = (size_t)capacity;
    void *request = realloc(state->request, n * sizeof *state->request);
    if (request) state->request = request;
    void *status = realloc(state->status, n * sizeof *state->status);
    if (status) state->status = status;
    void *index = realloc(state->index, n * sizeof *state->index);
    if (index) state->index = index;
    void *list = realloc(state->posted, n * sizeof *state->posted);
    if (list) state->posted = list;
    if (!request || !status || !index || !list) return 0;
    state->capacity = capacity;
    return 1;
}

static void free_state(mpi_state *state)
{
    free(state->request);
    free(state->status);
    free(state->index);
    free(state->posted);
    free(state);
}

/* A state with room for a message to and from everyone, so that a round of a merge allocates
 * nothing; for more, start grows it. */
static mpi_state *new_state(mpi_job *job, int ranks)
{
    mpi_state *state = calloc(1, sizeof *state);
    if (state && reserve(state, 2 * ranks)) {
        state->job = job;
        job->users++;
        return state;
    }
    if (state) free_state(state);
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
    *finalise = 1;
    return BANYAN_OK;
}

/* The ranks that can share memory are a node. */
static banyan_status discover_nodes(banyan_comm *comm, mpi_state *state)
{
    MPI_Comm near = MPI_COMM_NULL;
    int lowest = comm->rank;
    int32_t *node = malloc((size_t)comm->size * sizeof *node);
    if (!node)
        return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d ranks", (int)comm->size);
    int error = MPI_Comm_split_type(state->comm, MPI_COMM_TYPE_SHARED, comm->rank,
                                    MPI_INFO_NULL, &near);
    if (!error) error = MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT, MPI_MIN, near);
    const int32_t own = lowest;
    if (!error) error = MPI_Allgather(&own, 1, MPI_INT32_T, node, 1, MPI_INT32_T, state->comm);
    if (near != MPI_COMM_NULL) MPI_Comm_free(&near);
    const banyan_status status = error
                                     ? fail_mpi(state, "finding the ranks of this node", error)
                                     : banyan_topology_make(node, comm->size, &comm->topology);
    free(node);
    return status;
}

/* MPI_Finalize waits for everyone and knows no time limit: do they all come to the end? */
static int all_arrive(const banyan_comm *comm, mpi_state *state)
{
    MPI_Request all = MPI_REQUEST_NULL;
    int done = 0, idle = 0;
    double begin = 0;
    if (MPI_Ibarrier(state->comm, &all)) return 0;
    while (!MPI_Test(&all, &done, MPI_STATUS_IGNORE) && !done) {
        if (++idle < eager_polls) continue;
        sched_yield();
        if (comm->timeout <= 0 || idle % clock_polls) continue;
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
    free_state(state);
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
    mpi_state *state = new_state(job, size);
    if (!state) {
        status = BANYAN_ERR_MEMORY;
        goto free_job;
    }
    comm->rank = rank;
    comm->size = size;
    const int error = MPI_Comm_dup(base, &state->comm);
    if (error) {
        status = fail_mpi(state, "MPI_Comm_dup", error);
        free_state(state);
        goto free_job;
    }
    MPI_Comm_set_errhandler(state->comm, MPI_ERRORS_RETURN);
    comm->state = state;
    status = discover_nodes(comm, state);
    if (status) mpi_close(comm);
    return status;
free_job:
    free(job);
    return status;
}

static banyan_status mpi_split(banyan_comm *comm, int color, int key, banyan_comm *out)
{
    mpi_state *parent = comm->state, *state = NULL;
    if (out) state = new_state(parent->job, out->size);
    /* Agree before the call that waits for all. */
    banyan_status status =
        banyan_comm_agree(comm, out && !state ? BANYAN_ERR_MEMORY : BANYAN_OK);
    MPI_Comm made = MPI_COMM_NULL;
    if (!status) {
        const int error = MPI_Comm_split(parent->comm, out ? color : MPI_UNDEFINED, key, &made);
        if (error) status = fail_mpi(parent, "MPI_Comm_split", error);
    }
    if (status && state) {
        state->job->users--;
        free_state(state);
    }
    if (status || !out) return status;
    state->comm = made;
    out->state = state;
    return BANYAN_OK;
}

/* ---- messages ------------------------------------------------------------------------------ */

/* `bytes` as one element: pieces of the largest size that an int counts, and the rest. */
static int make_big_type(size_t bytes, size_t piece, MPI_Datatype *type)
{
    MPI_Datatype block, parts[2] = {MPI_BYTE, MPI_BYTE};
    int lengths[2] = {(int)(bytes / piece), (int)(bytes % piece)};
    const MPI_Aint places[2] = {0, (MPI_Aint)(bytes - bytes % piece)};
    int error = MPI_Type_contiguous((int)piece, MPI_BYTE, &block);
    if (error) return error;
    parts[0] = block;
    error = MPI_Type_create_struct(2, lengths, places, parts, type);
    MPI_Type_free(&block);
    return error ? error : MPI_Type_commit(type);
}

static banyan_status mpi_start(banyan_comm *comm, int recv, int peer, void *data, size_t bytes)
{
    mpi_state *state = comm->state;
    if (state->count == state->capacity && !reserve(state, 2 * state->capacity))
        return banyan_fail(BANYAN_ERR_COMM, "out of memory for %d messages", state->count + 1);
    const int is_big = bytes > comm->piece;
    MPI_Datatype type = MPI_BYTE;
    int error = is_big ? make_big_type(bytes, comm->piece, &type) : MPI_SUCCESS;
    if (error) return fail_mpi(state, "describing a large message", error);
    const int count = is_big ? 1 : (int)bytes;
    MPI_Request *request = &state->request[state->count];
    error = recv ? MPI_Irecv(data, count, type, peer, tag_data, state->comm, request)
                 : MPI_Isend(data, count, type, peer, tag_data, state->comm, request);
    if (is_big) MPI_Type_free(&type); /* when the transfer is done */
    if (error) return fail_mpi(state, recv ? "MPI_Irecv" : "MPI_Isend", error);
    state->posted[state->count++] = (posted){recv, peer, bytes};
    state->left++;
    return BANYAN_OK;
}

/* A message that is done: did it bring what was expected? */
static banyan_status check_done(const banyan_comm *comm, mpi_state *state,
                                const posted *message, MPI_Status *status, int error)
{
    if (!message->recv && !error) return BANYAN_OK;
    int class = MPI_SUCCESS;
    if (error) MPI_Error_class(error, &class);
    if (error && class != MPI_ERR_TRUNCATE)
        return fail_mpi(state, message->recv ? "receiving" : "sending", error);
    MPI_Count got = 0;
    MPI_Get_elements_x(status, MPI_BYTE, &got);
    if (!error && got >= 0 && (size_t)got == message->bytes) return BANYAN_OK;
    state->job->broken = 1;
    if (error && (got < 0 || (size_t)got <= message->bytes)) /* MPI need not tell */
        return banyan_fail(BANYAN_ERR_COMM,
                           "rank %d sent more than the %zu bytes that rank %d expected",
                           message->peer, message->bytes, (int)comm->rank);
    return banyan_fail(BANYAN_ERR_COMM, "rank %d sent %lld bytes, but rank %d expected %zu",
                       message->peer, (long long)got, (int)comm->rank, message->bytes);
}

/* One look: how many messages came through in *done, the first fault among them in *status. Not OK:
 * MPI itself failed. */
static banyan_status look(banyan_comm *comm, mpi_state *state, int *done, banyan_status *status)
{
    const int error =
        MPI_Testsome(state->count, state->request, done, state->index, state->status);
    if (error && error != MPI_ERR_IN_STATUS) return fail_mpi(state, "MPI_Testsome", error);
    for (int i = 0; i < *done; i++) {
        const banyan_status one =
            check_done(comm, state, &state->posted[state->index[i]], &state->status[i],
                       error ? state->status[i].MPI_ERROR : MPI_SUCCESS);
        if (!*status) *status = one;
    }
    state->left -= *done;
    return BANYAN_OK;
}

static banyan_status mpi_wait_all(banyan_comm *comm)
{
    mpi_state *state = comm->state;
    banyan_status status = BANYAN_OK;
    double begin = 0;
    for (int64_t idle = 0; state->left > 0;) {
        int done = 0;
        const banyan_status failed = look(comm, state, &done, &status);
        if (failed) return failed;
        if (done || ++idle < eager_polls) continue;
        sched_yield();
        if (comm->timeout <= 0 || idle % clock_polls) continue;
        const double now = MPI_Wtime();
        if (!begin) begin = now;
        if (now - begin > comm->timeout)
            return status ? status : banyan_mpi_give_up(comm, state);
    }
    state->count = 0;
    return status;
}

static banyan_status mpi_test(banyan_comm *comm, int *done)
{
    mpi_state *state = comm->state;
    banyan_status status = BANYAN_OK;
    int through = 0;
    if (state->left > 0) {
        const banyan_status failed = look(comm, state, &through, &status);
        if (failed || status) return failed ? failed : status;
    }
    *done = state->left == 0;
    if (*done) state->count = 0;
    return BANYAN_OK;
}

const banyan_transport banyan_transport_mpi = {
    .name = "mpi",
    .doc = "two-sided MPI",
    .open = mpi_open,
    .close = mpi_close,
    .start = mpi_start,
    .wait_all = mpi_wait_all,
    .test = mpi_test,
    .split = mpi_split,
    .signs = banyan_mpi_signs,
};
