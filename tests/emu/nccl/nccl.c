/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL over MPI, with those of its ways that can go wrong with a caller:
 *
 *   - a group is queued on the stream as one piece of work, and done when the stream gets
 *     there;
 *   - the first time that two ranks meet, the call waits for the other one, without limit;
 *   - errors come later, and are asked for; an abort lets the stream go on;
 *   - two ranks on one device are refused, before 2.30.
 *
 * Work on a stream may run on another thread: then MPI must be initialised with
 * MPI_THREAD_MULTIPLE. */
#include "nccl.h"

#include <cuda_runtime_api.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* tests/emu/emulator.h, or what a test has in its place. */
extern cudaError_t emulator_enqueue(cudaStream_t stream, void (*run)(void *argument),
                                    void *argument, void (*free)(void *argument));

enum { tag_round = 1, tag_meet = 2, tag_join = 20000, most_moves = 4096 };

/* Work on a stream may outlive the communicator: both hold it. */
struct ncclComm {
    MPI_Comm comm;
    int rank, ranks;
    int is_aborted, users;
    unsigned char *met;
};

typedef struct move {
    int recv, peer;
    void *data;
    size_t bytes;
} move;

typedef struct round {
    ncclComm_t comm;
    int count;
    move move[];
} round;

int fake_nccl_version = 22809;
static ncclResult_t injected;
static char last_error[256], injected_words[256];
static int groups, live, depth;

static ncclComm_t group_comm;
static cudaStream_t group_stream;
static int group_count;
static move group_move[most_moves];

void fake_nccl_inject(ncclResult_t error, const char *words)
{
    injected = error;
    snprintf(injected_words, sizeof injected_words, "%s", words);
}

int fake_nccl_groups(void)
{
    return groups;
}

int fake_nccl_live(void)
{
    return live;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = fake_nccl_version;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
    default: return "internal error";
    }
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}

static ncclResult_t fail(ncclResult_t result, const char *words)
{
    snprintf(last_error, sizeof last_error, "%s", words);
    return result;
}

/* ---- communicators ----------------------------------------------------------------------- */

/* Who joins: told to the rank that made the id, and by it to all. */
typedef struct member {
    int world;
    char bus[32], host[MPI_MAX_PROCESSOR_NAME];
} member;

typedef struct identity {
    int world, serial;
} identity;

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int serial;
    identity who = {0, serial++};
    MPI_Comm_rank(MPI_COMM_WORLD, &who.world);
    memcpy(id->internal, &who, sizeof who);
    return ncclSuccess;
}

static void join(const identity *who, int rank, int ranks, member *all)
{
    const int tag = tag_join + 2 * who->serial;
    int length = 0, device = 0;
    member mine = {0};
    MPI_Comm_rank(MPI_COMM_WORLD, &mine.world);
    MPI_Get_processor_name(mine.host, &length);
    cudaGetDevice(&device);
    cudaDeviceGetPCIBusId(mine.bus, sizeof mine.bus, device);
    all[rank] = mine;
    if (mine.world != who->world) {
        MPI_Send(&rank, 1, MPI_INT, who->world, tag, MPI_COMM_WORLD);
        MPI_Send(&mine, (int)sizeof mine, MPI_BYTE, who->world, tag, MPI_COMM_WORLD);
        MPI_Recv(all, (int)sizeof mine * ranks, MPI_BYTE, who->world, tag + 1, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        return;
    }
    for (int i = 1; i < ranks; i++) {
        int theirs = 0;
        MPI_Status status;
        MPI_Recv(&theirs, 1, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &status);
        MPI_Recv(&all[theirs], (int)sizeof mine, MPI_BYTE, status.MPI_SOURCE, tag,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    for (int r = 0; r < ranks; r++)
        if (r != rank)
            MPI_Send(all, (int)sizeof mine * ranks, MPI_BYTE, all[r].world, tag + 1,
                     MPI_COMM_WORLD);
}

static int find_shared(const member *all, int ranks)
{
    for (int a = 0; a < ranks; a++)
        for (int b = a + 1; b < ranks; b++)
            if (!strcmp(all[a].bus, all[b].bus) && !strcmp(all[a].host, all[b].host)) return 1;
    return 0;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    identity who;
    MPI_Group world, group;
    memcpy(&who, id.internal, sizeof who);
    if (config->size != sizeof *config || config->magic != 0xcafebeef)
        return fail(ncclInvalidArgument, "the config is not initialised");
    if (config->blocking != 1) return fail(ncclInvalidUsage, "this one is always blocking");
    member *all = calloc((size_t)ranks, sizeof *all);
    int *list = malloc((size_t)ranks * sizeof *list);
    join(&who, rank, ranks, all);
    for (int r = 0; r < ranks; r++) list[r] = all[r].world;
    const int is_shared = find_shared(all, ranks);
    free(all);
    if (is_shared && (fake_nccl_version < 23000 || !getenv("NCCL_MULTI_RANK_GPU_ENABLE"))) {
        free(list);
        return fail(ncclInvalidUsage, "Duplicate GPU detected");
    }
    ncclComm_t comm = calloc(1, sizeof *comm);
    *comm = (struct ncclComm){.rank = rank, .ranks = ranks, .users = 1};
    comm->met = calloc((size_t)ranks, 1);
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_incl(world, ranks, list, &group);
    MPI_Comm_create_group(MPI_COMM_WORLD, group, tag_join - 1, &comm->comm);
    MPI_Group_free(&group);
    MPI_Group_free(&world);
    free(list);
    live++;
    *out = comm;
    return ncclSuccess;
}

/* The MPI communicator stays: to free it takes all of its ranks. */
static void leave(ncclComm_t comm)
{
    if (__atomic_sub_fetch(&comm->users, 1, __ATOMIC_ACQ_REL)) return;
    free(comm->met);
    free(comm);
}

/* As NCCL's, it waits for all ranks. */
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    MPI_Barrier(comm->comm);
    live--;
    leave(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    __atomic_store_n(&comm->is_aborted, 1, __ATOMIC_RELEASE);
    live--;
    leave(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    (void)comm;
    *error = injected;
    if (injected) fail(injected, injected_words);
    return ncclSuccess;
}

/* ---- work on a stream -------------------------------------------------------------------- */

/* Until all are through, or the communicator is aborted. */
static void finish(ncclComm_t comm, MPI_Request *request, int count)
{
    int done = 0;
    while (MPI_Testall(count, request, &done, MPI_STATUSES_IGNORE) == MPI_SUCCESS && !done) {
        if (__atomic_load_n(&comm->is_aborted, __ATOMIC_ACQUIRE)) return;
        sched_yield();
    }
}

static void run_round(void *argument)
{
    const round *r = argument;
    MPI_Request *request = malloc((size_t)(r->count + 1) * sizeof *request);
    for (int i = 0; i < r->count; i++) {
        const move *m = &r->move[i];
        if (m->recv)
            MPI_Irecv(m->data, (int)m->bytes, MPI_BYTE, m->peer, tag_round, r->comm->comm,
                      &request[i]);
        else
            MPI_Isend(m->data, (int)m->bytes, MPI_BYTE, m->peer, tag_round, r->comm->comm,
                      &request[i]);
    }
    finish(r->comm, request, r->count);
    free(request);
}

static void free_round(void *argument)
{
    round *r = argument;
    leave(r->comm);
    free(r);
}

typedef struct reduction {
    ncclComm_t comm;
    const void *send;
    void *recv;
    int count;
    MPI_Op op;
} reduction;

static void run_reduction(void *argument)
{
    const reduction *r = argument;
    MPI_Request request;
    MPI_Iallreduce(r->send == r->recv ? MPI_IN_PLACE : r->send, r->recv, r->count, MPI_FLOAT,
                   r->op, r->comm->comm, &request);
    finish(r->comm, &request, 1);
}

static void free_reduction(void *argument)
{
    reduction *r = argument;
    leave(r->comm);
    free(r);
}

static void hold(ncclComm_t comm)
{
    __atomic_add_fetch(&comm->users, 1, __ATOMIC_ACQ_REL);
}

static void meet(ncclComm_t comm, int peer)
{
    int mine = 0, theirs = 0;
    if (comm->met[peer]) return;
    MPI_Sendrecv(&mine, 1, MPI_INT, peer, tag_meet, &theirs, 1, MPI_INT, peer, tag_meet,
                 comm->comm, MPI_STATUS_IGNORE);
    comm->met[peer] = 1;
}

/* ---- calls ------------------------------------------------------------------------------- */

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

static ncclResult_t add(int recv, void *data, size_t count, ncclDataType_t type, int peer,
                        ncclComm_t comm, cudaStream_t stream)
{
    if (!depth || type != ncclInt8)
        return fail(ncclInvalidUsage, "bytes are sent in groups only, here");
    if (peer < 0 || peer >= comm->ranks || group_count == most_moves)
        return fail(ncclInvalidArgument, "no such peer, or too many messages");
    if (group_count && (group_comm != comm || group_stream != stream))
        return fail(ncclInvalidUsage, "a group has one communicator and one stream, here");
    group_comm = comm;
    group_stream = stream;
    group_move[group_count++] = (move){recv, peer, data, count};
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    return add(0, (void *)(size_t)data, count, type, peer, comm, stream);
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return add(1, data, count, type, peer, comm, stream);
}

ncclResult_t ncclGroupEnd(void)
{
    if (--depth || !group_count) return ncclSuccess;
    const size_t moves = (size_t)group_count * sizeof(move);
    round *r = malloc(sizeof *r + moves);
    *r = (round){.comm = group_comm, .count = group_count};
    memcpy(r->move, group_move, moves);
    group_count = 0;
    groups++;
    hold(r->comm);
    for (int peer = 0; peer < r->comm->ranks;
         peer++) /* ascending, so that all can come together */
        for (int i = 0; i < r->count; i++)
            if (r->move[i].peer == peer) meet(r->comm, peer);
    if (emulator_enqueue(group_stream, run_round, r, free_round) != cudaSuccess)
        return fail(ncclUnhandledCudaError, "queueing a round");
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    if (type != ncclFloat32) return fail(ncclInvalidArgument, "floats are reduced, here");
    reduction *r = malloc(sizeof *r);
    *r = (reduction){comm, send, recv, (int)count, op == ncclSum ? MPI_SUM : MPI_MAX};
    hold(comm);
    if (emulator_enqueue(stream, run_reduction, r, free_reduction) != cudaSuccess)
        return fail(ncclUnhandledCudaError, "queueing a reduction");
    return ncclSuccess;
}
