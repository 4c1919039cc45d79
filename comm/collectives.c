/* SPDX-License-Identifier: Apache-2.0 */
/* What programs send besides partials. Every collective is flat: a rank talks to every other
 * one directly, all messages in one round. That is the lowest latency there is for the short
 * messages of set-up, the optimal number of bytes for an all-gather, and when a rank is
 * missing, each of the others knows exactly which: in a tree it would blame its neighbour, who
 * waits as well.
 *
 * allreduce folds rank 0 first, then 1, 2, ..: one order for every count, so one result. Few
 * values are gathered and folded everywhere; many are cut into one slice per rank, which folds
 * it and hands the result around: 2 (P-1)/P of the bytes per rank instead of P-1 times. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What all ranks' values take of the scratch; what is gathered, not cut; of a message. */
enum {
    scratch_values = BANYAN_SCRATCH_BYTES / sizeof(double),
    few_values = 1024,
    message_bytes = 1024
};

void banyan_comm_break(banyan_comm *comm)
{
    if (!comm->broken) snprintf(comm->cause, sizeof comm->cause, "%s", banyan_error_message());
    comm->broken = 1;
}

banyan_status banyan_comm_is_broken(const banyan_comm *comm)
{
    return banyan_fail(BANYAN_ERR_COMM, "this comm is broken: an earlier transfer failed%s%s",
                       *comm->cause ? ": " : "", comm->cause);
}

banyan_status banyan_comm_start(banyan_comm *comm, int recv, int peer, void *data, size_t bytes)
{
    if (comm->broken) return banyan_comm_is_broken(comm);
    if (comm->is_started)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "an exchange was started on this comm; expected "
                           "exchange_wait before anything else");
    const banyan_status status = comm->transport->start(comm, recv, peer, data, bytes);
    if (status == BANYAN_ERR_COMM) banyan_comm_break(comm);
    return status;
}

banyan_status banyan_comm_wait(banyan_comm *comm)
{
    if (comm->broken) return banyan_comm_is_broken(comm);
    const banyan_status status = comm->transport->wait_all(comm);
    if (status == BANYAN_ERR_COMM) banyan_comm_break(comm);
    return status;
}

/* Peers in the order rank+1, rank+2, .., so that not all ranks begin with rank 0. */
static int nth_peer(const banyan_comm *comm, int i)
{
    return (comm->rank + i) % comm->size;
}

/* ---- exchange ---------------------------------------------------------------------------- */

static banyan_status check_messages(const banyan_comm *comm, const char *what,
                                    const banyan_message *list, int count)
{
    if (count < 0 || (count > 0 && !list))
        return banyan_fail(BANYAN_ERR_ARGUMENT, "comm_exchange: %d %ss in %s", count, what,
                           list ? "a list" : "no list");
    for (int i = 0; i < count; i++) {
        if (list[i].peer < 0 || list[i].peer >= comm->size)
            return banyan_fail(BANYAN_ERR_ARGUMENT,
                               "comm_exchange: %s %d has peer %d; expected a rank of 0..%d",
                               what, i, list[i].peer, (int)comm->size - 1);
        if (list[i].bytes && !list[i].data)
            return banyan_fail(BANYAN_ERR_ARGUMENT,
                               "comm_exchange: %s %d has %zu bytes at NULL", what, i,
                               list[i].bytes);
    }
    return BANYAN_OK;
}

/* The next message to or from this rank itself, at or after `from`; count when there is
 * none. */
static int next_own(const banyan_comm *comm, const banyan_message *list, int count, int from)
{
    while (from < count && list[from].peer != comm->rank) from++;
    return from;
}

/* Messages to oneself, matched in listing order like all others. Checks first, then (with
 * `copy`) copies. */
static banyan_status pass_own(const banyan_comm *comm, const banyan_message *sends,
                              int send_count, const banyan_message *recvs, int recv_count,
                              int copy)
{
    int s = next_own(comm, sends, send_count, 0), r = next_own(comm, recvs, recv_count, 0);
    while (s < send_count && r < recv_count) {
        if (sends[s].bytes != recvs[r].bytes)
            return banyan_fail(BANYAN_ERR_ARGUMENT,
                               "comm_exchange: rank %d sends itself %zu bytes, but expects %zu",
                               (int)comm->rank, sends[s].bytes, recvs[r].bytes);
        if (copy && sends[s].bytes) memmove(recvs[r].data, sends[s].data, sends[s].bytes);
        s = next_own(comm, sends, send_count, s + 1);
        r = next_own(comm, recvs, recv_count, r + 1);
    }
    if (s < send_count || r < recv_count)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "comm_exchange: rank %d %s itself a message that it does not %s",
                           (int)comm->rank, s < send_count ? "sends" : "expects from",
                           s < send_count ? "expect" : "send");
    return BANYAN_OK;
}

static banyan_status post(banyan_comm *comm, const banyan_message *sends, int send_count,
                          const banyan_message *recvs, int recv_count)
{
    banyan_status status = check_messages(comm, "send", sends, send_count);
    if (!status) status = check_messages(comm, "receive", recvs, recv_count);
    if (!status) status = pass_own(comm, sends, send_count, recvs, recv_count, 0);
    for (int i = 0; i < recv_count && !status; i++)
        if (recvs[i].peer != comm->rank)
            status = banyan_comm_start(comm, 1, recvs[i].peer, recvs[i].data, recvs[i].bytes);
    for (int i = 0; i < send_count && !status; i++)
        if (sends[i].peer != comm->rank)
            status = banyan_comm_start(comm, 0, sends[i].peer, sends[i].data, sends[i].bytes);
    if (!status) pass_own(comm, sends, send_count, recvs, recv_count, 1);
    return status;
}

banyan_status banyan_comm_exchange(banyan_comm *comm, const banyan_message *sends,
                                   int send_count, const banyan_message *recvs, int recv_count)
{
    const banyan_status status = post(comm, sends, send_count, recvs, recv_count);
    return status ? status : banyan_comm_wait(comm);
}

banyan_status banyan_comm_exchange_start(banyan_comm *comm, const banyan_message *sends,
                                         int send_count, const banyan_message *recvs,
                                         int recv_count)
{
    if (comm->is_started)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "comm_exchange_start: an exchange was started "
                                                "before; expected exchange_wait");
    const banyan_status status = post(comm, sends, send_count, recvs, recv_count);
    if (!status) comm->is_started = 1;
    return status;
}

static banyan_status check_started(const banyan_comm *comm, const char *call)
{
    if (comm->is_started) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_ARGUMENT, "%s: no exchange was started", call);
}

banyan_status banyan_comm_exchange_test(banyan_comm *comm, int *done)
{
    banyan_status status = check_started(comm, "comm_exchange_test");
    if (status) return status;
    if (!comm->transport->test || comm->broken) {
        status = banyan_comm_exchange_wait(comm);
        if (!status) *done = 1;
        return status;
    }
    int is_done = 0;
    status = comm->transport->test(comm, &is_done);
    if (status == BANYAN_ERR_COMM) banyan_comm_break(comm);
    if (status || is_done) comm->is_started = 0;
    if (!status) *done = is_done;
    return status;
}

banyan_status banyan_comm_exchange_wait(banyan_comm *comm)
{
    const banyan_status status = check_started(comm, "comm_exchange_wait");
    if (status) return status;
    comm->is_started = 0;
    return banyan_comm_wait(comm);
}

/* ---- collectives ------------------------------------------------------------------------- */

banyan_status banyan_comm_broadcast(banyan_comm *comm, void *data, size_t bytes, int root)
{
    if (root < 0 || root >= comm->size || (bytes && !data))
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "comm_broadcast: root %d, %zu bytes at %s; expected a rank of 0..%d",
                           root, bytes, data ? "data" : "NULL", (int)comm->size - 1);
    if (comm->transport->broadcast && !comm->broken)
        return comm->transport->broadcast(comm, data, bytes, root);
    banyan_status status = BANYAN_OK;
    if (comm->rank != root) status = banyan_comm_start(comm, 1, root, data, bytes);
    for (int i = 1; i < comm->size && comm->rank == root && !status; i++)
        status = banyan_comm_start(comm, 0, nth_peer(comm, i), data, bytes);
    return status ? status : banyan_comm_wait(comm);
}

banyan_status banyan_comm_allgather(banyan_comm *comm, const void *mine, size_t bytes,
                                    void *all)
{
    if (bytes && (!mine || !all))
        return banyan_fail(BANYAN_ERR_ARGUMENT, "comm_allgather: %zu bytes at NULL", bytes);
    if (comm->transport->allgather && !comm->broken)
        return comm->transport->allgather(comm, mine, bytes, all);
    char *const place = all;
    char *const own = bytes ? place + (size_t)comm->rank * bytes : NULL;
    if (bytes && own != mine) memmove(own, mine, bytes);
    banyan_status status = BANYAN_OK;
    for (int i = 1; i < comm->size && !status; i++) {
        const int peer = nth_peer(comm, comm->size - i);
        status = banyan_comm_start(comm, 1, peer, bytes ? place + (size_t)peer * bytes : NULL,
                                   bytes);
    }
    for (int i = 1; i < comm->size && !status; i++)
        status = banyan_comm_start(comm, 0, nth_peer(comm, i), own, bytes);
    return status ? status : banyan_comm_wait(comm);
}

/* into op= from; a NaN in either stays a NaN. */
static void fold_values(double *into, const double *from, size_t count, banyan_op op)
{
    if (op == BANYAN_SUM)
        for (size_t i = 0; i < count; i++) into[i] += from[i];
    else
        for (size_t i = 0; i < count; i++)
            if (from[i] > into[i] || from[i] != from[i]) into[i] = from[i];
}

/* part [parts][count] folded from part 0 upwards into values [count]. */
static void fold_parts(double *values, const double *part, int parts, size_t count,
                       banyan_op op)
{
    memcpy(values, part, count * sizeof *values);
    for (int p = 1; p < parts; p++) fold_values(values, part + (size_t)p * count, count, op);
}

static banyan_status reduce_few(banyan_comm *comm, double *values, size_t count, double *all,
                                banyan_op op)
{
    const banyan_status status =
        banyan_comm_allgather(comm, values, count * sizeof *values, all);
    if (!status) fold_parts(values, all, comm->size, count, op);
    return status;
}

/* Rank r folds slice r: values slice_begin(r) .. slice_begin(r+1)-1. */
static size_t slice_begin(const banyan_comm *comm, size_t count, int rank)
{
    return count / (size_t)comm->size * (size_t)rank +
           count % (size_t)comm->size * (size_t)rank / (size_t)comm->size;
}

static banyan_status reduce_many(banyan_comm *comm, double *values, size_t count, double *parts,
                                 banyan_op op)
{
    const size_t begin = slice_begin(comm, count, comm->rank),
                 length = slice_begin(comm, count, comm->rank + 1) - begin;
    banyan_status status = BANYAN_OK;
    for (int r = 0; r < comm->size && !status; r++)
        if (r != comm->rank)
            status = banyan_comm_start(comm, 1, r, parts + (size_t)r * length,
                                       length * sizeof *parts);
    for (int i = 1; i < comm->size && !status; i++) {
        const int r = nth_peer(comm, i);
        const size_t first = slice_begin(comm, count, r),
                     past = slice_begin(comm, count, r + 1);
        status = banyan_comm_start(comm, 0, r, values + first, (past - first) * sizeof *values);
    }
    memcpy(parts + (size_t)comm->rank * length, values + begin, length * sizeof *parts);
    if (!status) status = banyan_comm_wait(comm);
    if (status) return status;
    fold_parts(values + begin, parts, comm->size, length, op);
    for (int r = 0; r < comm->size && !status; r++) {
        const size_t first = slice_begin(comm, count, r),
                     past = slice_begin(comm, count, r + 1);
        if (r != comm->rank)
            status =
                banyan_comm_start(comm, 1, r, values + first, (past - first) * sizeof *values);
    }
    for (int i = 1; i < comm->size && !status; i++)
        status = banyan_comm_start(comm, 0, nth_peer(comm, i), values + begin,
                                   length * sizeof *values);
    return status ? status : banyan_comm_wait(comm);
}

banyan_status banyan_comm_allreduce(banyan_comm *comm, double *values, int count, banyan_op op)
{
    if (count < 0 || (count && !values) || (op != BANYAN_SUM && op != BANYAN_MAX))
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "comm_allreduce: %d values at %s, op %d; expected sum or max", count,
                           values ? "data" : "NULL", (int)op);
    if (!count) return BANYAN_OK;
    const int is_few = count <= few_values, fits = count <= scratch_values;
    const size_t parts =
        is_few ? (size_t)count * (size_t)comm->size : (size_t)count + 2 * (size_t)comm->size;
    double *part = fits ? banyan_comm_scratch(comm) : malloc(parts * sizeof *part);
    banyan_status status = BANYAN_OK;
    if (!part)
        status = banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d values of %d ranks",
                             count, (int)comm->size);
    if (!fits) status = banyan_comm_agree(comm, status); /* or the others would wait */
    if (!status)
        status = is_few ? reduce_few(comm, values, (size_t)count, part, op)
                        : reduce_many(comm, values, (size_t)count, part, op);
    if (!fits) free(part);
    return status;
}

/* First everybody's status, and only when one of them is bad, the words of the first bad
 * one. */
banyan_status banyan_comm_agree(banyan_comm *comm, banyan_status mine)
{
    if (comm->transport->is_imaginary) return mine;
    char words[message_bytes];
    snprintf(words, sizeof words, "%s", banyan_error_message());
    if (mine == BANYAN_ERR_MEMORY && !*words) snprintf(words, sizeof words, "out of memory");
    const int32_t own = mine;
    int32_t *all = banyan_comm_scratch(comm);
    banyan_status status =
        all ? banyan_comm_allgather(comm, &own, sizeof own, all) : BANYAN_ERR_MEMORY;
    int first = 0;
    while (!status && first < comm->size && !all[first]) first++;
    if (!status && first < comm->size) {
        char theirs[message_bytes];
        memcpy(theirs, words, sizeof theirs);
        status = banyan_comm_broadcast(comm, theirs, sizeof theirs, first);
        theirs[sizeof theirs - 1] = 0;
        if (!status) status = banyan_fail(BANYAN_ERR_PEER, "rank %d: %s", first, theirs);
    }
    if (mine) return banyan_fail(mine, "%s", words);
    if (!status) banyan_fail(BANYAN_OK, "%s", ""); /* nobody's reason is a later failure's */
    return status;
}
