/* SPDX-License-Identifier: Apache-2.0 */
/* Rank 1 sends more than rank 0 expects: a byte more, up to 64 MiB more. What rank 0 receives
 * into ends at a page that nobody may touch, and what lies before it is looked at; rank 0 says
 * both ranks and both sizes, or what differs; and both come to their ends in time. As messages
 * of a caller's (in host memory), and as items of an exchange in host memory and in a device's.
 * The job ends with exit code 7 when all checks passed: after a failure, MPI is not
 * finalised. */
#include "comm/comm.h"
#include "tests/comm/stream.h"
#include "tests/world.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { page = 4096, fill = 0x5a, item_bytes = 520 };
static const double limit = 10; /* seconds */
static const size_t more[] = {1, 8, 3000, 5000, 70000, 1 << 20, 64 << 20};
enum { cases = sizeof more / sizeof *more };

static banyan_comm *world;
static int rank;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- memory with a guard ----------------------------------------------------------------- */

/* | guard | fill .. memory | guard |: the memory ends where the second guard begins. */
typedef struct guarded {
    char *map, *memory;
    size_t map_bytes, bytes;
} guarded;

enum { most_guarded = 16 };
static guarded list[most_guarded];

static guarded *find(const void *memory)
{
    for (int i = 0; i < most_guarded; i++)
        if (list[i].memory == memory) return &list[i];
    fprintf(stderr, "no room among %d guarded memories\n", most_guarded);
    exit(99);
}

static char *guard(size_t bytes)
{
    const size_t inner = (bytes + page - 1) / page * page;
    guarded *g = find(NULL);
    char *map = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + page, inner, PROT_READ | PROT_WRITE)) exit(99);
    memset(map + page, fill, inner);
    *g = (guarded){map, map + page + inner - bytes, inner + 2 * page, bytes};
    return g->memory;
}

static void release_guarded(void *memory)
{
    guarded *g = find(memory);
    for (const char *p = g->map + page; p < g->memory; p++)
        if (*p != fill) {
            CHECK_MSG(*p == fill, "written %td bytes before the buffer", g->memory - p);
            break;
        }
    munmap(g->map, g->map_bytes);
    *g = (guarded){0};
}

/* A device's memory. */
static const char *allocate(void *ctx, int on_host, size_t bytes, void **out)
{
    (void)ctx, (void)on_host;
    *out = guard(bytes);
    return NULL;
}

static void release(void *ctx, int on_host, void *memory)
{
    (void)on_host;
    stream_wait(ctx);
    release_guarded(memory);
}

/* ---- the ways in which it is sent -------------------------------------------------------- */

/* As a caller's message. */
static banyan_status send_plain(banyan_comm *comm, size_t expected, size_t sent)
{
    char *data = guard(rank ? sent : expected);
    memset(data, rank ? 7 : fill, rank ? sent : expected);
    const banyan_message message = {1 - rank, data, rank ? sent : expected};
    const banyan_status status = rank ? banyan_comm_exchange(comm, &message, 1, NULL, 0)
                                      : banyan_comm_exchange(comm, NULL, 0, &message, 1);
    for (size_t i = 0; i < expected && !rank; i++)
        if (data[i] != 7) {
            CHECK_MSG(data[i] == 7, "byte %zu of %zu is not what was sent", i, expected);
            break;
        }
    release_guarded(data);
    return status;
}

static void no_sum(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    (void)ctx, (void)out, (void)lo, (void)hi, (void)bytes;
}

static void no_fold(void *ctx, const banyan_arrivals *arrivals)
{
    (void)ctx, (void)arrivals;
}

/* As an item, which is larger on rank 1; memory NULL: the host's. */
static banyan_status send_item(banyan_comm *comm, const banyan_memory *memory, size_t bytes)
{
    void *data[1] = {guard(bytes)};
    memset(data[0], 7, bytes);
    banyan_schedule s = {0};
    banyan_exchange *x = NULL;
    int64_t messages = 0, moved = 0;
    const banyan_exchange_args p = {.data = data,
                                    .item_bytes = bytes,
                                    .dtype = BANYAN_F32,
                                    .combine = no_sum,
                                    .fold = no_fold,
                                    .mark = {{"merge", 7}, {"layer", 3}}};
    banyan_schedule_add(&s, 0, 1, 0, 0, 1);
    banyan_schedule_sort(&s);
    CHECK(banyan_exchange_create(&s, rank, bytes, 1, memory, &x) == BANYAN_OK);
    const banyan_status status = banyan_exchange_run(x, comm, &p, &messages, &moved);
    banyan_exchange_destroy(x);
    banyan_schedule_free(&s);
    release_guarded(data[0]);
    return status;
}

/* ---- the checks -------------------------------------------------------------------------- */

enum { plain, host, device, ways };

static void check(int way, size_t expected, size_t sent, stream *device_stream)
{
    banyan_comm *comm = NULL;
    char words[256];
    CHECK(banyan_comm_split(world, 0, 0, &comm) == BANYAN_OK);
    banyan_comm_timeout(comm, limit);
    banyan_memory memory = stream_memory(device_stream, 1);
    banyan_memory_row guarded = *memory.row;
    guarded.allocate = allocate;
    guarded.release = release;
    memory.row = &guarded;
    const double begin = now();
    const banyan_status status =
        way == plain ? send_plain(comm, expected, sent)
                     : send_item(comm, way == device ? &memory : NULL, rank ? sent : expected);
    const double took = now() - begin;
    CHECK_MSG(took < limit + 5, "rank %d: %g s", rank, took);
    if (!rank) {
        if (way == plain)
            snprintf(words, sizeof words, "rank 1 sent %zu bytes, but rank 0 expected %zu",
                     sent, expected);
        else
            snprintf(words, sizeof words,
                     "rank 1 sends item size %zu, but rank 0 expects %zu (merge 7, layer 3, "
                     "round 0)",
                     sent, expected);
        CHECK(status == BANYAN_ERR_COMM && comm->broken);
        CHECK_MSG(!strcmp(banyan_error_message(), words), "\n    got      %s\n    expected %s",
                  banyan_error_message(), words);
    }
    banyan_comm_destroy(comm);
}

int main(void)
{
    world = test_comm("mpi");
    rank = banyan_comm_rank(world);
    CHECK(banyan_comm_size(world) == 2);
    stream *s = stream_open((uint64_t)rank);
    for (int i = 0; i < cases; i++) {
        check(plain, 0, more[i], s);
        check(plain, 1000, 1000 + more[i], s);
        check(plain, 100000, 100000 + more[i], s);
        for (int way = host; way <= device; way++)
            check(way, item_bytes, item_bytes + more[i], s);
    }
    stream_close(s);
    banyan_comm_destroy(world);
    const int failures = test_end();
    if (!failures) sleep(1); /* so that an earlier rank's failure is the job's */
    return failures ? failures : 7;
}
