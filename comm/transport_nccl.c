/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL for device memory, beside another transport for host memory: what plans and programs
 * send goes over MPI (a process that MPI has not launched is alone, and needs none).
 *
 *     comm "nccl" -- host: a comm "mpi" or "self"   start, wait_all, and what is built on them
 *                 -- ncclComm_t                     a round is one group of sends and receives
 *
 * NCCL's calls queue their work and return, but for the first time that two ranks meet: then it
 * connects them, and waits for the other one as long as it takes. Ranks that are new to each
 * other therefore send each other an empty message over MPI first, which knows a time limit,
 * and who is missing. The communicator is a blocking one, since a non-blocking one starts a
 * thread for every group.
 *
 * What was queued and does not come to its end is seen by whoever waits: device_wait polls the
 * stream, NCCL's own errors and the clock, and aborts the communicator, after which the stream
 * goes on. */
#include "comm/comm.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern const banyan_transport banyan_transport_nccl;

enum {
    clock_polls = 64,
    multi_rank_version = 23000 /* from then on ranks may share a device */
};

typedef struct move {
    int recv, peer;
    void *data;
    size_t bytes;
} move;

typedef struct nccl_state {
    banyan_comm *host;
    ncclComm_t comm; /* NULL after an abort */
    move *posted;
    int count, capacity;
    unsigned char *met; /* [size]: NCCL has connected this rank with it */
} nccl_state;

/* The comm for host memory, with the settings that this one has now. */
static banyan_comm *host_of(const banyan_comm *comm)
{
    banyan_comm *host = ((nccl_state *)comm->state)->host;
    host->timeout = comm->timeout;
    host->piece = comm->piece;
    return host;
}

/* ---- errors ------------------------------------------------------------------------------ */

static void abort_nccl(nccl_state *state)
{
    if (state->comm) ncclCommAbort(state->comm);
    state->comm = NULL;
}

/* NCCL's result in words, and its own, which name the rank or the device where it knows. */
static banyan_status fail_nccl(nccl_state *state, const char *call, ncclResult_t result)
{
    const char *last = ncclGetLastError(state->comm);
    const int has_more = last && *last;
    const banyan_status status =
        result == ncclUnhandledCudaError ? BANYAN_ERR_DEVICE : BANYAN_ERR_COMM;
    banyan_fail(status, "%s: %s%s%s%s", call, ncclGetErrorString(result), has_more ? " (" : "",
                has_more ? last : "", has_more ? ")" : "");
    abort_nccl(state);
    return status;
}

static banyan_status fail_cuda(const char *doing, cudaError_t error)
{
    cudaGetLastError(); /* reported here */
    return banyan_fail(BANYAN_ERR_DEVICE, "transport \"nccl\": %s: %s (%s)", doing,
                       cudaGetErrorName(error), cudaGetErrorString(error));
}

static banyan_status fail_aborted(void)
{
    return banyan_fail(BANYAN_ERR_COMM, "this comm is broken: NCCL was aborted");
}

/* ---- open and close ---------------------------------------------------------------------- */

/* Who a rank is, for the others. */
typedef struct identity {
    int32_t version; /* NCCL's */
    char bus[28];    /* of its device */
} identity;

static banyan_status identify(identity *out)
{
    int count = 0, device = 0, version = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    *out = (identity){0};
    if (error == cudaErrorInsufficientDriver) {
        cudaGetLastError();
        return banyan_fail(BANYAN_ERR_DEVICE,
                           "transport \"nccl\" needs a CUDA device: there is no driver, or it "
                           "is older than CUDA %d.%d",
                           CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (error == cudaErrorNoDevice || (!error && !count)) {
        cudaGetLastError();
        return banyan_fail(BANYAN_ERR_DEVICE,
                           "transport \"nccl\" needs a CUDA device: the driver has none to "
                           "offer");
    }
    if (!error) error = cudaGetDevice(&device);
    if (!error) error = cudaDeviceGetPCIBusId(out->bus, sizeof out->bus, device);
    if (error) return fail_cuda("asking for the device", error);
    if (ncclGetVersion(&version) != ncclSuccess)
        return banyan_fail(BANYAN_ERR_COMM, "NCCL does not tell its version");
    out->version = version;
    return BANYAN_OK;
}

/* Two ranks on one device: the first such pair in words, or "". */
static void find_shared(const banyan_comm *host, const identity *all, char *text, size_t bytes)
{
    *text = 0;
    for (int32_t a = 0; a < host->size; a++)
        for (int32_t b = a + 1; b < host->size; b++) {
            if (host->topology.node[a] != host->topology.node[b] ||
                strcmp(all[a].bus, all[b].bus) != 0)
                continue;
            snprintf(text, bytes, "ranks %d and %d share the CUDA device at %s", (int)a, (int)b,
                     all[a].bus);
            return;
        }
}

static void name_version(int version, char text[16])
{
    snprintf(text, 16, "%d.%d.%d", version / 10000, version % 10000 / 100, version % 100);
}

/* All ranks come to the same verdict, since all look at the same. */
static banyan_status check_identities(const banyan_comm *host, const identity *all,
                                      char *shared, size_t bytes)
{
    char mine[16], other[16];
    name_version(all[0].version, mine);
    for (int32_t r = 1; r < host->size; r++) {
        name_version(all[r].version, other);
        if (all[r].version != all[0].version)
            return banyan_fail(BANYAN_ERR_COMM,
                               "rank %d has NCCL %s, but rank 0 has %s; expected the same",
                               (int)r, other, mine);
    }
    find_shared(host, all, shared, bytes);
    if (!*shared || all[0].version >= multi_rank_version) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_DEVICE,
                       "%s, but NCCL %s takes one rank a device (2.30 and later take more with "
                       "NCCL_MULTI_RANK_GPU_ENABLE=1)",
                       shared, mine);
}

/* A communicator of all ranks of the host comm: of an id that rank 0 makes. */
static banyan_status join_nccl(banyan_comm *host, nccl_state *state, const char *shared)
{
    ncclUniqueId id = {{0}};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    banyan_status status = BANYAN_OK;
    if (host->rank == 0) {
        const ncclResult_t result = ncclGetUniqueId(&id);
        if (result) status = fail_nccl(state, "ncclGetUniqueId", result);
    }
    /* All are here when NCCL begins to wait for them. */
    status = banyan_comm_agree(host, status);
    if (!status) status = banyan_comm_broadcast(host, &id, sizeof id, 0);
    if (status) return status;
    config.blocking = 1;
    const ncclResult_t result =
        ncclCommInitRankConfig(&state->comm, host->size, id, host->rank, &config);
    if (result) {
        state->comm = NULL; /* nothing to abort */
        status = fail_nccl(state, "ncclCommInitRankConfig", result);
    }
    if (status && *shared)
        status = banyan_fail(status,
                             "%s; %s, which NCCL allows with "
                             "NCCL_MULTI_RANK_GPU_ENABLE=1",
                             banyan_error_message(), shared);
    return banyan_comm_agree(host, status);
}

static banyan_status connect(banyan_comm *host, nccl_state *state)
{
    char shared[96] = "";
    identity mine, *all = malloc((size_t)host->size * sizeof *all);
    state->met = calloc((size_t)host->size, 1);
    state->capacity = 2 * host->size;
    state->posted = malloc((size_t)state->capacity * sizeof *state->posted);
    banyan_status status =
        all && state->met && state->posted
            ? identify(&mine)
            : banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d ranks", (int)host->size);
    status = banyan_comm_agree(host, status);
    if (!status) status = banyan_comm_allgather(host, &mine, sizeof mine, all);
    if (!status) status = check_identities(host, all, shared, sizeof shared);
    if (!status) status = join_nccl(host, state, shared);
    free(all);
    return status;
}

static void free_nccl_state(nccl_state *state)
{
    abort_nccl(state);
    banyan_comm_destroy(state->host);
    free(state->posted);
    free(state->met);
    free(state);
}

/* Takes the host comm, also when it fails. */
static banyan_status new_nccl_state(banyan_comm *host, nccl_state **out)
{
    nccl_state *state = calloc(1, sizeof *state);
    if (state) state->host = host;
    banyan_status status =
        state ? BANYAN_OK : banyan_fail(BANYAN_ERR_MEMORY, "out of memory for an nccl comm");
    status = banyan_comm_agree(host, status);
    if (!status) status = connect(host, state);
    if (!status)
        *out = state;
    else if (state)
        free_nccl_state(state);
    else
        banyan_comm_destroy(host);
    return status;
}

static banyan_status nccl_open(banyan_comm *comm, void *native)
{
    banyan_comm *host = native;
    nccl_state *state = NULL;
    comm->rank = host->rank;
    comm->size = host->size;
    banyan_status status =
        banyan_topology_make(host->topology.node, host->size, &comm->topology);
    if (!status && !banyan_comm_scratch(comm)) status = BANYAN_ERR_MEMORY;
    status = banyan_comm_agree(host, status);
    if (status)
        banyan_comm_destroy(host);
    else
        status = new_nccl_state(host, &state);
    if (status) banyan_topology_free(&comm->topology);
    comm->state = state;
    return status;
}

/* NCCL waits at the end for all ranks, as it did at the beginning. */
static void nccl_close(banyan_comm *comm)
{
    nccl_state *state = comm->state;
    banyan_comm *host = host_of(comm);
    host->broken |= comm->broken;
    if (state->comm && !host->broken && !banyan_comm_agree(host, BANYAN_OK)) {
        ncclCommDestroy(state->comm);
        state->comm = NULL;
    }
    free_nccl_state(state);
}

static banyan_status nccl_split(banyan_comm *comm, int color, int key, banyan_comm *out)
{
    banyan_comm *whole = host_of(comm), *host = NULL;
    nccl_state *state = NULL;
    banyan_status status = banyan_comm_split(whole, color, key, &host);
    if (!status && host) status = new_nccl_state(host, &state);
    status = banyan_comm_agree(whole, status);
    if (status && state) free_nccl_state(state);
    if (!status && out) out->state = state;
    return status;
}

/* ---- host memory ------------------------------------------------------------------------- */

static banyan_status nccl_start(banyan_comm *comm, int recv, int peer, void *data, size_t bytes)
{
    banyan_comm *host = host_of(comm);
    return host->transport->start(host, recv, peer, data, bytes);
}

static banyan_status nccl_wait_all(banyan_comm *comm)
{
    banyan_comm *host = host_of(comm);
    return host->transport->wait_all(host);
}

static banyan_status nccl_test(banyan_comm *comm, int *done)
{
    banyan_comm *host = host_of(comm);
    if (host->transport->test) return host->transport->test(host, done);
    *done = 1;
    return host->transport->wait_all(host);
}

/* ---- device memory ----------------------------------------------------------------------- */

static banyan_status device_start(banyan_comm *comm, int recv, int peer, void *data,
                                  size_t bytes)
{
    nccl_state *state = comm->state;
    /* NCCL takes a message to oneself, if its receive is in the same round. */
    if (peer < 0 || peer >= comm->size)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "%s rank %d; expected 0..%d",
                           recv ? "receiving from" : "sending to", peer, (int)comm->size - 1);
    if (state->count == state->capacity) {
        const int capacity = 2 * state->capacity;
        move *more = realloc(state->posted, (size_t)capacity * sizeof *more);
        if (!more)
            return banyan_fail(BANYAN_ERR_COMM, "out of memory for %d messages", capacity);
        state->posted = more;
        state->capacity = capacity;
    }
    state->posted[state->count++] =
        (move){.recv = recv, .peer = peer, .data = data, .bytes = bytes};
    return BANYAN_OK;
}

/* Once for each peer: is it here, where NCCL will wait for it? Both ranks of a pair meet in the
 * same round. */
static banyan_status meet_peer(banyan_comm *comm, int peer)
{
    nccl_state *state = comm->state;
    banyan_comm *host = host_of(comm);
    static char nothing;
    if (peer == comm->rank || state->met[peer]) return BANYAN_OK;
    banyan_status status = banyan_comm_start(host, 1, peer, &nothing, 0);
    if (!status) status = banyan_comm_start(host, 0, peer, &nothing, 0);
    state->met[peer] = 1;
    return status;
}

static banyan_status device_poll(banyan_comm *comm)
{
    nccl_state *state = comm->state;
    ncclResult_t error = ncclSuccess;
    if (!state->comm) return fail_aborted();
    const ncclResult_t result = ncclCommGetAsyncError(state->comm, &error);
    if (result) return fail_nccl(state, "ncclCommGetAsyncError", result);
    return error && error != ncclInProgress ? fail_nccl(state, "NCCL reports", error)
                                            : BANYAN_OK;
}

static banyan_status device_flush(banyan_comm *comm, void *stream)
{
    nccl_state *state = comm->state;
    banyan_status status = device_poll(comm);
    const int count = state->count;
    state->count = 0;
    for (int i = 0; i < count && !status; i++) status = meet_peer(comm, state->posted[i].peer);
    if (!status) status = banyan_comm_wait(host_of(comm));
    if (status || !count) return status;
    ncclResult_t result = ncclGroupStart();
    for (int i = 0; i < count && !result; i++) {
        const move *m = &state->posted[i];
        result = m->recv ? ncclRecv(m->data, m->bytes, ncclInt8, m->peer, state->comm, stream)
                         : ncclSend(m->data, m->bytes, ncclInt8, m->peer, state->comm, stream);
    }
    const ncclResult_t end = ncclGroupEnd();
    if (!result) result = end;
    return result ? fail_nccl(state, "sending and receiving with NCCL", result) : BANYAN_OK;
}

/* A NaN may be lost in a maximum: NCCL's do not promise to keep it. */
static banyan_status device_allreduce(banyan_comm *comm, float *values, int64_t count,
                                      banyan_op op, void *stream)
{
    nccl_state *state = comm->state;
    banyan_status status = device_poll(comm);
    for (int r = 0; r < comm->size && !status; r++) status = meet_peer(comm, r);
    if (!status) status = banyan_comm_wait(host_of(comm));
    if (status) return status;
    const ncclResult_t result =
        ncclAllReduce(values, values, (size_t)count, ncclFloat32,
                      op == BANYAN_SUM ? ncclSum : ncclMax, state->comm, stream);
    return result ? fail_nccl(state, "ncclAllReduce", result) : BANYAN_OK;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static banyan_status give_up(banyan_comm *comm)
{
    char signs[256] = "";
    banyan_comm *host = host_of(comm);
    abort_nccl(comm->state);
    if (host->transport->signs) host->transport->signs(host, signs, sizeof signs);
    return banyan_fail(BANYAN_ERR_COMM,
                       "rank %d waited %g s for what was queued on the device%s%s",
                       (int)comm->rank, comm->timeout, *signs ? ": " : "", signs);
}

static banyan_status device_wait(banyan_comm *comm, void *stream)
{
    double begin = 0;
    for (int64_t idle = 0;; idle++) {
        const cudaError_t error = cudaStreamQuery(stream);
        if (error == cudaSuccess) return device_poll(comm);
        if (error != cudaErrorNotReady) return fail_cuda("waiting for the device", error);
        if (idle % clock_polls) continue;
        const banyan_status status = device_poll(comm);
        if (status) return status;
        sched_yield();
        if (comm->timeout <= 0) continue;
        if (begin <= 0) begin = seconds();
        if (seconds() - begin > comm->timeout) return give_up(comm);
    }
}

static const banyan_device_moves nccl_moves = {
    .start = device_start,
    .flush = device_flush,
    .allreduce = device_allreduce,
    .poll = device_poll,
    .wait = device_wait,
};

const banyan_transport banyan_transport_nccl = {
    .name = "nccl",
    .has_host = 1,
    .open = nccl_open,
    .close = nccl_close,
    .start = nccl_start,
    .wait_all = nccl_wait_all,
    .test = nccl_test,
    .split = nccl_split,
    .device = &nccl_moves,
};
