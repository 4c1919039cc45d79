/* SPDX-License-Identifier: Apache-2.0 */
/* The nccl transport over an NCCL that is not one (tests/emu/nccl) and streams that are threads
 * (stream.h). What goes through device memory equals what goes through host memory, which other
 * tests prove; in graphs, and on comms that were split off. And what is said when something
 * goes wrong:
 *
 *     nccl_test [RANKS]       all is well, and refusals that leave MPI whole
 *     nccl_test missing       rank 1 takes no part in the first round
 *     nccl_test late          rank 1 takes no part in the second
 *     nccl_test error         NCCL reports an error later on
 *
 * The last three end with exit code 7 when they are right: MPI is not finalised after a
 * failure. */
#include "tests/comm/stream.h"
#include "tests/test.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <mpi.h>
#include <nccl.h>
#include <time.h>
#include <unistd.h>

extern const banyan_transport banyan_transport_nccl;

enum { items = 6, words = 5, most_ranks = 8 };

static int rank, size;

/* The row need not be in this build's table. */
static banyan_status create(banyan_comm **out)
{
    MPI_Comm world = MPI_COMM_WORLD;
    const banyan_status status = banyan_comm_open(&banyan_transport_nccl, &world, out);
    if (!status) banyan_comm_timeout(*out, 60);
    return status;
}

/* ---- exchanges --------------------------------------------------------------------------- */

static void combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    (void)ctx;
    uint64_t *sum = out;
    const uint64_t *low = lo, *high = hi;
    for (size_t i = 0; i < bytes / sizeof *sum; i++) {
        const uint64_t a = low[i] * 0x9e3779b97f4a7c15u;
        sum[i] = (a << 23 | a >> 41) ^ (high[i] + 0x94d049bb133111ebu) * 0xbf58476d1ce4e5b9u;
    }
}

/* Where a fold's items lie, and on which stream. */
typedef struct folder {
    stream *stream;
    void *data[items];
} folder;

static void fold(void *ctx, const banyan_arrivals *arrivals)
{
    const folder *f = ctx;
    stream_fold(f->stream, arrivals, f->data, words * sizeof(uint64_t), combine);
}

static void build(const banyan_comm *comm, const banyan_merge *merge, uint64_t seed,
                  banyan_schedule *s)
{
    int32_t holder[items][most_ranks];
    banyan_item item[items];
    for (int i = 0; i < items; i++) {
        int32_t holders = 0;
        for (int32_t r = 0; r < comm->size; r++)
            if (test_below(&seed, 4)) holder[i][holders++] = r;
        if (!holders) holder[i][holders++] = 0;
        item[i] = (banyan_item){holder[i], holders, (int32_t)test_below(&seed, comm->size)};
    }
    merge->build(banyan_comm_topology(comm), item, items, (int)test_below(&seed, 2), s);
    banyan_schedule_sort(s);
}

static void fill(uint64_t value[items][words], uint64_t seed)
{
    seed += (uint64_t)rank * 1000003;
    for (int i = 0; i < items; i++)
        for (int w = 0; w < words; w++) value[i][w] = test_random(&seed);
}

static banyan_exchange_args exchange_args(folder *f, uint64_t value[items][words], int64_t n)
{
    for (int i = 0; i < items; i++) f->data[i] = value[i];
    return (banyan_exchange_args){.data = f->data,
                                  .item_bytes = words * sizeof(uint64_t),
                                  .combine = combine,
                                  .fold = fold,
                                  .ctx = f,
                                  .mark = {{"merge", n}}};
}

/* `times` exchanges one after another, on the host and on the device; in a graph: captured
 * once. */
static void check_merge(banyan_comm *comm, const banyan_merge *merge, uint64_t seed, int times,
                        int in_graph)
{
    static uint64_t host[items][words], device[items][words];
    int64_t messages[2] = {0}, bytes[2] = {0};
    banyan_schedule steps = {0};
    banyan_exchange *x[2] = {NULL};
    stream *s = stream_open(seed + (uint64_t)rank);
    folder f = {.stream = s};
    const banyan_memory there = stream_memory(s, 0);
    build(comm, merge, seed, &steps);
    fill(host, seed);
    fill(device, seed);
    CHECK(!banyan_exchange_create(&steps, comm->rank, sizeof host[0], 9, NULL, &x[0]));
    CHECK(!banyan_exchange_create(&steps, comm->rank, sizeof host[0], 9, &there, &x[1]));
    for (int i = 0; i < times; i++) {
        const banyan_exchange_args p = exchange_args(&f, host, i);
        CHECK(!banyan_exchange_run(x[0], comm, &p, &messages[0], &bytes[0]));
    }
    if (in_graph) stream_begin_capture(s);
    for (int i = 0; i < (in_graph ? 1 : times); i++) {
        const banyan_exchange_args p = exchange_args(&f, device, i);
        const banyan_status status =
            banyan_exchange_run(x[1], comm, &p, &messages[1], &bytes[1]);
        CHECK_MSG(!status, "%s", banyan_error_message());
    }
    if (in_graph) {
        stream_graph *graph = stream_end_capture(s);
        for (int i = 0; i < times; i++) stream_replay(s, graph);
        CHECK(banyan_comm_device_wait(comm, s) == BANYAN_OK);
        stream_forget(graph);
    }
    CHECK(banyan_comm_device_wait(comm, s) == BANYAN_OK);
    CHECK(banyan_exchange_look(x[1], comm) == BANYAN_OK);
    CHECK_MSG(!memcmp(host, device, sizeof host), "%s, seed %d, rank %d of %d%s", merge->name,
              (int)seed, rank, size, in_graph ? ", in a graph" : "");
    if (!in_graph) CHECK(messages[0] == messages[1] && bytes[0] == bytes[1]);
    for (int i = 0; i < 2; i++) banyan_exchange_destroy(x[i]);
    banyan_schedule_free(&steps);
    stream_close(s);
}

static void check_merges(banyan_comm *comm, uint64_t seeds)
{
    for (int i = 0; banyan_merge_row(i); i++)
        for (uint64_t seed = 0; banyan_merge_row(i)->build && seed < seeds; seed++) {
            check_merge(comm, banyan_merge_row(i), seed, 3, 0);
            check_merge(comm, banyan_merge_row(i), seed, 3, 1);
        }
}

/* ---- reductions -------------------------------------------------------------------------- */

static void test_allreduce(banyan_comm *comm)
{
    float values[50];
    stream *s = stream_open((uint64_t)rank);
    for (int op = 0; op < 2; op++) {
        for (int i = 0; i < 50; i++) values[i] = (float)((i * 7 + rank * 13) % 31);
        CHECK(!banyan_comm_device_allreduce(comm, values, 50, op ? BANYAN_MAX : BANYAN_SUM, s));
        CHECK(banyan_comm_device_wait(comm, s) == BANYAN_OK);
        for (int i = 0; i < 50; i++) {
            float expected = 0;
            for (int r = 0; r < size; r++) {
                const float one = (float)((i * 7 + r * 13) % 31);
                expected = op ? fmaxf(expected, one) : expected + one;
            }
            CHECK(values[i] == expected);
        }
    }
    stream_close(s);
}

/* ---- host memory and parts --------------------------------------------------------------- */

static void test_parts(banyan_comm *comm)
{
    banyan_comm *part = NULL, *one = NULL, *none = NULL;
    const int live = fake_nccl_live();
    double sum = rank;
    CHECK(banyan_comm_allreduce(comm, &sum, 1, BANYAN_SUM) == BANYAN_OK);
    CHECK(sum == size * (size - 1) / 2);
    CHECK(banyan_comm_split(comm, rank % 2, -rank, &part) == BANYAN_OK);
    CHECK(banyan_comm_size(part) == (size + (rank % 2 == 0)) / 2 &&
          fake_nccl_live() == live + 1);
    CHECK(banyan_comm_rank(part) == banyan_comm_size(part) - 1 - rank / 2);
    check_merges(part, 2);
    CHECK(banyan_comm_split(comm, rank ? -1 : 0, 0, &one) == BANYAN_OK && !one == (rank != 0));
    CHECK(banyan_comm_split(comm, -1, 0, &none) == BANYAN_OK && !none);
    banyan_comm_destroy(one);
    banyan_comm_destroy(part);
    CHECK(fake_nccl_live() == live);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static void check_refused(banyan_status status, const char *expected)
{
    banyan_comm *comm = NULL;
    CHECK(create(&comm) == status);
    CHECK_MSG(!strncmp(banyan_error_message(), expected, strlen(expected)),
              "got      %s\n    expected %s", banyan_error_message(), expected);
    CHECK(!comm && !fake_nccl_live());
}

static void test_refusals(void)
{
    runtime_devices = cudaErrorInsufficientDriver;
    check_refused(BANYAN_ERR_DEVICE,
                  "transport \"nccl\" needs a CUDA device: there is no driver, "
                  "or it is older than CUDA 13.0");
    if (size == 1) goto end;
    runtime_devices = rank == 1 ? cudaErrorNoDevice : cudaSuccess;
    check_refused(rank == 1 ? BANYAN_ERR_DEVICE : BANYAN_ERR_PEER,
                  rank == 1 ? "transport \"nccl\" needs a CUDA device: the driver has none"
                            : "rank 1: transport \"nccl\" needs a CUDA device: the driver has");
    runtime_devices = cudaSuccess;
    runtime_bus = rank == 1 ? 0 : rank;
    check_refused(BANYAN_ERR_DEVICE,
                  "ranks 0 and 1 share the CUDA device at 0000:00:00.0, but NCCL 2.28.9 takes "
                  "one rank a device (2.30 and later take more with "
                  "NCCL_MULTI_RANK_GPU_ENABLE=1)");
    fake_nccl_version = 23003;
    check_refused(
        BANYAN_ERR_COMM,
        "ncclCommInitRankConfig: invalid usage (Duplicate GPU detected); ranks 0 and 1 "
        "share the CUDA device at 0000:00:00.0, which NCCL allows with "
        "NCCL_MULTI_RANK_GPU_ENABLE=1");
    runtime_bus = rank;
    fake_nccl_version = rank == 1 ? 22907 : 22809;
    check_refused(BANYAN_ERR_COMM,
                  "rank 1 has NCCL 2.29.7, but rank 0 has 2.28.9; expected the");
    fake_nccl_version = 22809;
end:
    runtime_devices = cudaSuccess;
}

/* ---- faults ------------------------------------------------------------------------------ */

/* Rank 1 stays away from round `when` of a ring; nobody knows its words. */
static void check_fault(const char *fault)
{
    banyan_comm *comm = NULL;
    const int when = strcmp(fault, "late") == 0 ? 1 : 0;
    const int is_error = !strcmp(fault, "error");
    static char from[1 << 20], to[1 << 20]; /* MPI keeps no copy of what is so large */
    char expected[160];
    banyan_status status = create(&comm);
    stream *s = stream_open(1);
    CHECK(status == BANYAN_OK && size == 3);
    banyan_comm_timeout(comm, 1);
    for (int i = 0; i < 2 && !status; i++) {
        if (!is_error && rank == 1 && i == when) {
            sleep(20);
            fprintf(stderr, "failed: the others wait for ever\n");
            _exit(1);
        }
        if (is_error && i) fake_nccl_inject(ncclRemoteError, "rank 2 closed its socket");
        status = banyan_comm_device_start(comm, 1, (rank + 2) % 3, from, sizeof from);
        if (!status) status = banyan_comm_device_start(comm, 0, (rank + 1) % 3, to, sizeof to);
        if (!status) status = banyan_comm_device_flush(comm, s);
        if (!status) status = banyan_comm_device_wait(comm, s);
    }
    if (is_error)
        snprintf(
            expected, sizeof expected,
            "NCCL reports: remote process exited or there was a network error (rank 2 closed "
            "its socket)");
    else if (when)
        snprintf(expected, sizeof expected,
                 "rank %d waited 1 s for what was queued on the device: no sign of rank 1",
                 rank);
    else
        snprintf(expected, sizeof expected, "rank %d waited 1 s: rank", rank);
    CHECK(status == BANYAN_ERR_COMM);
    CHECK_MSG(!strncmp(banyan_error_message(), expected, strlen(expected)),
              "got      %s\n    expected %s", banyan_error_message(), expected);
    if (!is_error)
        CHECK_MSG(strstr(banyan_error_message(), "rank 1"), "%s", banyan_error_message());
    CHECK(fake_nccl_live() == (!is_error && !when)); /* else it was aborted */
    CHECK(banyan_comm_device_flush(comm, s) == BANYAN_ERR_COMM);
    CHECK(strstr(banyan_error_message(), "this comm is broken"));
    banyan_comm_destroy(comm);
    CHECK(fake_nccl_live() == 0);
    stream_close(s); /* the stream goes on after an abort */
    fflush(stderr);
    if (!is_error && rank == 0) sleep(3); /* the end of one process ends the others */
    _exit(test_failures ? 1 : 7);
}

int main(int argc, char **argv)
{
    int level = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    CHECK(level == MPI_THREAD_MULTIPLE && size <= most_ranks);
    runtime_bus = rank;
    if (argc > 1 && !atoi(argv[1])) check_fault(argv[1]);
    CHECK(size == (argc > 1 ? atoi(argv[1]) : 1));
    test_refusals();
    banyan_comm *comm = NULL;
    const banyan_status status = create(&comm);
    CHECK_MSG(!status && fake_nccl_live() == 1, "%s", banyan_error_message());
    if (!status) {
        check_merges(comm, 6);
        test_allreduce(comm);
        test_parts(comm);
        CHECK(size == 1 || fake_nccl_groups() > 0);
        banyan_comm_destroy(comm);
    }
    CHECK(fake_nccl_live() == 0);
    MPI_Finalize();
    return test_end();
}
