/* SPDX-License-Identifier: Apache-2.0 */
/* Who is missing, when the time limit is over? In a tree every rank waits for its neighbour,
 * and only one of them for the rank that is to blame:
 *
 *     5 --waits for--> 4 --> 0 --> 2 (stands still)        3 --waits for--> 2
 *
 * All that wait give up at about the same time. So each tells all others that it is alive and
 * for whom it waits, listens for as much from them for a moment, and then says what it knows:
 *
 *     rank 5 waited 3 s: rank 4 did not arrive; rank 4 is there and waits for rank 0; no sign
 *     of rank 2
 *
 * No sign comes from a rank that stands still or is cut off, but neither from one that is
 * merely busy or has come to its end: these are the facts, the verdict is the reader's. */
#include "comm/transport_mpi.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

static const double listen_seconds = 1; /* and no longer than the limit */

/* One for each rank. */
enum { unknown = -2, nobody = -1 }; /* otherwise the rank that it waits for */

typedef struct rank_words {
    char text[160];
    int count;
} rank_words;

static void add_rank(rank_words *w, int rank)
{
    const size_t used = strlen(w->text);
    if (used < sizeof w->text - 24) /* a few names are enough */
        snprintf(w->text + used, sizeof w->text - used, "%s%d", w->count ? ", " : "", rank);
    else if (w->text[used - 1] != '.')
        snprintf(w->text + used, sizeof w->text - used, ", ..");
    w->count++;
}

/* Is anything still under way from (recv) or to the peer? */
static int waits_for(const mpi_state *state, int peer, int recv)
{
    for (int i = 0; i < state->count; i++)
        if (state->posted[i].stage != is_done && state->posted[i].peer == peer &&
            state->posted[i].recv == recv)
            return 1;
    return 0;
}

/* What MPI may still write to (posted.excess) stays as it is. */
static void abandon_requests(mpi_state *state)
{
    for (int i = 0; i < state->count; i++) {
        int done = 0;
        if (state->request[i] == MPI_REQUEST_NULL) continue;
        if (state->posted[i].recv) MPI_Cancel(&state->request[i]);
        MPI_Test(&state->request[i], &done, MPI_STATUS_IGNORE);
        if (!done) MPI_Request_free(&state->request[i]);
    }
    state->count = state->left = state->wanted = 0;
    state->job->broken = 1;
}

/* Tells everyone, and fills heard [size]. The signs that nobody takes are MPI's to forget: it
 * is not finalised after this. */
static void exchange_signs(const banyan_comm *comm, mpi_state *state, int32_t *heard)
{
    const double begin = MPI_Wtime();
    int missing = comm->size - 1;
    state->sign = heard[comm->rank];
    for (int i = 1; i < comm->size; i++) {
        MPI_Request request;
        if (!MPI_Isend(&state->sign, 1, MPI_INT32_T, (comm->rank + i) % comm->size, tag_sign,
                       state->comm, &request))
            MPI_Request_free(&request);
    }
    while (missing > 0 && MPI_Wtime() - begin < listen_seconds &&
           MPI_Wtime() - begin < comm->timeout) {
        int is_there = 0;
        int32_t theirs;
        MPI_Status status;
        if (MPI_Iprobe(MPI_ANY_SOURCE, tag_sign, state->comm, &is_there, &status)) return;
        if (!is_there) {
            sched_yield();
            continue;
        }
        if (MPI_Recv(&theirs, 1, MPI_INT32_T, status.MPI_SOURCE, tag_sign, state->comm,
                     MPI_STATUS_IGNORE))
            return;
        missing -= heard[status.MPI_SOURCE] == unknown;
        heard[status.MPI_SOURCE] = theirs;
    }
}

/* What the signs add to the list of ranks that did not arrive. */
static void explain(const banyan_comm *comm, const int32_t *heard, const char *waited_for,
                    char *text, size_t bytes)
{
    rank_words silent = {"", 0};
    int first = nobody;
    *text = 0;
    for (int32_t r = 0; r < comm->size; r++) {
        if (waited_for[r] && heard[r] >= 0 && first == nobody) first = r;
        if (heard[r] == unknown) add_rank(&silent, (int)r);
    }
    if (first == nobody) return; /* the silent ones are those that were waited for */
    snprintf(text, bytes, "; rank %d is there and waits for rank %d", first, (int)heard[first]);
    const size_t used = strlen(text);
    if (silent.count)
        snprintf(text + used, bytes - used, "; no sign of rank%s %s",
                 silent.count > 1 ? "s" : "", silent.text);
}

banyan_status banyan_mpi_give_up(const banyan_comm *comm, mpi_state *state)
{
    rank_words names = {"", 0};
    char more[320] = "";
    int receives = 0, first = nobody;
    for (int i = 0; i < state->count; i++)
        receives |= state->posted[i].stage != is_done && state->posted[i].recv;
    int32_t *heard = malloc((size_t)comm->size * sizeof *heard);
    char *waited_for = calloc((size_t)comm->size, 1);
    for (int r = 0; r < comm->size; r++) {
        if (heard) heard[r] = unknown;
        if (!waits_for(state, r, receives)) continue;
        if (waited_for) waited_for[r] = 1;
        if (first == nobody) first = r;
        add_rank(&names, r);
    }
    abandon_requests(state);
    if (heard && waited_for) {
        heard[comm->rank] = first;
        exchange_signs(comm, state, heard);
        explain(comm, heard, waited_for, more, sizeof more);
    }
    free(heard);
    free(waited_for);
    return banyan_fail(BANYAN_ERR_COMM, "rank %d waited %g s: rank%s %s did not arrive%s%s",
                       (int)comm->rank, comm->timeout, names.count > 1 ? "s" : "", names.text,
                       receives ? "" : " to receive", more);
}

void banyan_mpi_signs(banyan_comm *comm, char *text, size_t bytes)
{
    rank_words silent = {"", 0};
    mpi_state *state = comm->state;
    int32_t *heard = malloc((size_t)comm->size * sizeof *heard);
    *text = 0;
    state->job->broken = 1;
    if (!heard) return;
    for (int r = 0; r < comm->size; r++) heard[r] = unknown;
    heard[comm->rank] = nobody;
    exchange_signs(comm, state, heard);
    for (int r = 0; r < comm->size; r++)
        if (heard[r] == unknown) add_rank(&silent, r);
    free(heard);
    if (silent.count)
        snprintf(text, bytes, "no sign of rank%s %s", silent.count > 1 ? "s" : "", silent.text);
    else
        snprintf(text, bytes, "all ranks are there");
}
