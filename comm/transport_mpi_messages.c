/* SPDX-License-Identifier: Apache-2.0 */
/* Two-sided MPI: every message is one Isend with tag 0 on a communicator of our own, so
 * messages between a pair match in posting order. A message larger than an int can count is
 * still one message, of a derived type: pieces and a rest,
 *
 *     | piece | piece | ... | piece | rest |
 *
 * A receive waits for a matched probe (MPI 3.1, section 3.8.2), which tells the size of what
 * came before a byte of it goes anywhere. Ranks whose calls are out of step send other sizes
 * than expected, and MPI does not protect the buffer of a receive that was posted with too
 * small a size: with single copies through shared memory Open MPI writes all of the message,
 * and then reports MPI_ERR_TRUNCATE; through libfabric its sender never ends. What is longer
 * goes to a buffer of its own size, and as much of it as fits to where it was expected, so that
 * a header can still say what differs.
 *
 * wait_all polls instead of blocking, for two reasons: it can give up after the time limit and
 * say who is missing; and it yields, so that more ranks than cores do not starve each other. */
#include "comm/transport_mpi.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

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

static banyan_status fail_transfer(mpi_state *state, const posted *message, int error)
{
    char what[48];
    snprintf(what, sizeof what, "%s rank %d", message->recv ? "receiving from" : "sending to",
             message->peer);
    return banyan_mpi_fail(state, what, error);
}

/* Hands a message to MPI; `matched` is that of a receive, NULL for a send. */
static banyan_status post_message(const banyan_comm *comm, mpi_state *state, int i, void *data,
                                  size_t bytes, MPI_Message *matched)
{
    const int is_big = bytes > comm->piece, peer = state->posted[i].peer;
    MPI_Datatype type = MPI_BYTE;
    int error = is_big ? make_big_type(bytes, comm->piece, &type) : MPI_SUCCESS;
    if (error) return banyan_mpi_fail(state, "describing a large message", error);
    const int count = is_big ? 1 : (int)bytes;
    MPI_Request *request = &state->request[i];
    if (!state->posted[i].recv)
        error = MPI_Isend(data, count, type, peer, tag_data, state->comm, request);
    else if (matched)
        error = MPI_Imrecv(data, count, type, matched, request);
    else
        error = MPI_Irecv(data, count, type, peer, tag_data, state->comm, request);
    if (is_big) MPI_Type_free(&type); /* when the transfer is done */
    if (error) return fail_transfer(state, &state->posted[i], error);
    state->posted[i].stage = is_moving;
    return BANYAN_OK;
}

banyan_status banyan_mpi_start(banyan_comm *comm, int recv, int peer, void *data, size_t bytes)
{
    mpi_state *state = comm->state;
    if (state->count == state->capacity && !banyan_mpi_reserve(state, 2 * state->capacity))
        return banyan_fail(BANYAN_ERR_COMM, "out of memory for %d messages", state->count + 1);
    const int i = state->count;
    state->request[i] = MPI_REQUEST_NULL;
    state->posted[i] = (posted){
        .recv = recv, .peer = peer, .after = -1, .data = data, .bytes = bytes, .got = bytes};
    if (recv) {
        state->posted[i].after = state->last[peer];
        state->last[peer] = i;
    }
#ifdef BANYAN_MPI_POSTED /* an MPI without matched probes: SimGrid's, whose ranks agree */
    const int is_posted = 1;
#else
    const int is_posted = !recv;
#endif
    const banyan_status status =
        is_posted ? post_message(comm, state, i, data, bytes, NULL) : BANYAN_OK;
    if (status) return status;
    state->wanted += !is_posted;
    state->count++;
    state->left++;
    return BANYAN_OK;
}

/* ---- receiving --------------------------------------------------------------------------- */

static banyan_status fail_size(const banyan_comm *comm, mpi_state *state, const posted *message)
{
    state->job->broken = 1;
    return banyan_fail(BANYAN_ERR_COMM, "rank %d sent %zu bytes, but rank %d expected %zu",
                       message->peer, message->got, (int)comm->rank, message->bytes);
}

/* Receives the message that is matched with a wanted one, where it has room. */
static banyan_status receive_matched(const banyan_comm *comm, mpi_state *state, int i,
                                     MPI_Message *matched, MPI_Status *size)
{
    posted *message = &state->posted[i];
    MPI_Count got = 0;
    MPI_Get_elements_x(size, MPI_BYTE, &got);
    message->got = (size_t)got;
    if (message->got > message->bytes && !(message->excess = malloc(message->got)))
        return fail_size(comm, state, message); /* and is never received */
    return post_message(comm, state, i, message->excess ? message->excess : message->data,
                        message->got, matched);
}

/* Looks for what is wanted. A message belongs to the first receive from its sender. */
static banyan_status look_for_wanted(const banyan_comm *comm, mpi_state *state)
{
    for (int i = 0; i < state->count && state->wanted > 0; i++) {
        const posted *message = &state->posted[i];
        int is_there = 0;
        MPI_Message matched;
        MPI_Status size;
        if (message->stage != is_wanted) continue;
        if (message->after >= 0 && state->posted[message->after].stage == is_wanted) continue;
        const int error =
            MPI_Improbe(message->peer, tag_data, state->comm, &is_there, &matched, &size);
        if (error) return banyan_mpi_fail(state, "MPI_Improbe", error);
        if (!is_there) continue;
        const banyan_status status = receive_matched(comm, state, i, &matched, &size);
        if (status) return status;
        state->wanted--;
    }
    return BANYAN_OK;
}

/* A message that is done: did it bring what was expected? */
static banyan_status check_done(const banyan_comm *comm, mpi_state *state, posted *message,
                                int error)
{
    message->stage = is_done;
    if (error) return fail_transfer(state, message, error);
    if (message->excess && message->bytes)
        memcpy(message->data, message->excess, message->bytes);
    free(message->excess);
    message->excess = NULL;
    if (!message->recv || message->got == message->bytes) return BANYAN_OK;
    return fail_size(comm, state, message);
}

/* One test of all: how many messages came through in *done, the first fault among them in
 * *status. Not OK: MPI itself failed. One by one: MPI_Testsome looks at each request's
 * communicator, which MPI_Imrecv leaves out over UCX in Open MPI 5.0.0 to 5.0.9
 * (open-mpi/ompi#13620). */
static banyan_status test_requests(banyan_comm *comm, mpi_state *state, int *done,
                                   banyan_status *status)
{
    const banyan_status failed = look_for_wanted(comm, state);
    for (int i = 0; i < state->count && !failed; i++) {
        int is_through = 0;
        if (state->posted[i].stage != is_moving) continue;
        const int error = MPI_Test(&state->request[i], &is_through, MPI_STATUS_IGNORE);
        if (!error && !is_through) continue;
        const banyan_status one = check_done(comm, state, &state->posted[i], error);
        if (!*status) *status = one;
        *done += 1;
    }
    state->left -= *done;
    return failed;
}

/* ---- the end of a round ------------------------------------------------------------------ */

static void forget_posted(mpi_state *state)
{
    for (int i = 0; i < state->count; i++)
        if (state->posted[i].recv) state->last[state->posted[i].peer] = -1;
    state->count = 0;
}

banyan_status banyan_mpi_wait_all(banyan_comm *comm)
{
    mpi_state *state = comm->state;
    banyan_status status = BANYAN_OK;
    double begun = 0;
    for (int64_t idle = 0; state->left > 0;) {
        int done = 0;
        const banyan_status failed = test_requests(comm, state, &done, &status);
        if (failed) return failed;
        if (done || ++idle < banyan_mpi_eager_polls) continue;
        sched_yield();
        if (comm->timeout <= 0 || idle % banyan_mpi_clock_polls) continue;
        const double now = MPI_Wtime();
        if (!begun) begun = now;
        if (now - begun > comm->timeout)
            return status ? status : banyan_mpi_give_up(comm, state);
    }
    forget_posted(state);
    return status;
}

banyan_status banyan_mpi_test(banyan_comm *comm, int *done)
{
    mpi_state *state = comm->state;
    banyan_status status = BANYAN_OK;
    int through = 0;
    if (state->left > 0) {
        const banyan_status failed = test_requests(comm, state, &through, &status);
        if (failed || status) return failed ? failed : status;
    }
    *done = state->left == 0;
    if (*done) forget_posted(state);
    return BANYAN_OK;
}

banyan_status banyan_mpi_fail(mpi_state *state, const char *call, int error)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(error, text, &length);
    state->job->broken = 1;
    return banyan_fail(BANYAN_ERR_COMM, "%s: %s", call, text);
}

int banyan_mpi_reserve(mpi_state *state, int capacity)
{
    if (capacity <= state->capacity) return 1;
    const size_t n = (size_t)capacity;
    void *request = realloc(state->request, n * sizeof *state->request);
    if (request) state->request = request;
    void *list = realloc(state->posted, n * sizeof *state->posted);
    if (list) state->posted = list;
    if (!request || !list) return 0;
    state->capacity = capacity;
    return 1;
}
