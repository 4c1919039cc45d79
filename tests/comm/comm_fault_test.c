/* SPDX-License-Identifier: Apache-2.0 */
/* What the others see when a rank does something else. Each fault ends in ERR_COMM with the
 * right words on the ranks that notice; the comm is broken from then on, destroy does not hang,
 * and the job ends with the exit code that the ranks chose: 7 when all checks passed. */
#include "comm/comm.h"
#include "tests/world.h"

#include <time.h>
#include <unistd.h>

static banyan_comm *comm;
static int rank, size;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check_error(banyan_status status, const char *words)
{
    CHECK_MSG(status == BANYAN_ERR_COMM, "status %s", banyan_status_name(status));
    CHECK_MSG(!strcmp(banyan_error_message(), words),
              "rank %d\n    got      %s\n    expected %s", rank, banyan_error_message(), words);
}

/* Every further call says what the last message says: the cause. */
static void check_broken(void)
{
    char words[512];
    snprintf(words, sizeof words, "this comm is broken: an earlier transfer failed: %s",
             banyan_error_message());
    char byte = 0;
    CHECK(comm->broken);
    const banyan_message send = {(rank + 1) % size, &byte, 1};
    check_error(banyan_comm_exchange(comm, &send, 1, NULL, 0), words);
    check_error(banyan_comm_agree(comm, BANYAN_OK), words);
    banyan_fail(BANYAN_ERR_CONFIG, "mine");
    CHECK(banyan_comm_agree(comm, BANYAN_ERR_CONFIG) == BANYAN_ERR_CONFIG);
    CHECK(!strcmp(banyan_error_message(), "mine"));
}

/* Rank 1 sends `sent` bytes to rank 0, which expects `expected`. */
static void test_mismatch(size_t sent, size_t expected)
{
    char *data = calloc(1, sent + expected + 1), words[128];
    const banyan_message send = {0, data, sent}, recv = {1, data, expected};
    if (rank == 1) { /* it may not notice */
        (void)banyan_comm_exchange(comm, &send, 1, NULL, 0);
    } else if (rank == 0) {
        const banyan_status status = banyan_comm_exchange(comm, NULL, 0, &recv, 1);
        snprintf(words, sizeof words, "rank 1 sent %zu bytes, but rank 0 expected %zu", sent,
                 expected);
        check_error(status, words);
        check_broken();
    }
    free(data);
}

/* The highest ranks stay away for good; everybody else gathers, and knows who is missing. */
static void test_missing(int missing)
{
    if (rank >= size - missing) sleep(60);
    char words[128];
    int all[64];
    banyan_comm_timeout(comm, 0.5);
    const double begin = now();
    const banyan_status status = banyan_comm_allgather(comm, &rank, sizeof rank, all);
    const double took = now() - begin;
    if (missing == 1)
        snprintf(words, sizeof words, "rank %d waited 0.5 s: rank %d did not arrive", rank,
                 size - 1);
    else
        snprintf(words, sizeof words, "rank %d waited 0.5 s: ranks %d, %d did not arrive", rank,
                 size - 2, size - 1);
    check_error(status, words);
    CHECK_MSG(took >= 0.5 && took < 10, "%g s", took);
    check_broken();
}

/* Nobody takes a message that is too long to be stored on the way. */
static void test_not_taken(void)
{
    if (rank) sleep(60);
    char *data = calloc(1, 8 << 20);
    const banyan_message send = {1, data, 8 << 20};
    banyan_comm_timeout(comm, 0.5);
    check_error(banyan_comm_exchange(comm, &send, 1, NULL, 0),
                "rank 0 waited 0.5 s: rank 1 did not arrive to receive");
    check_broken();
    free(data);
}

/* A comm that was split off breaks; the one it came from must not wait for everybody either. */
static void test_split(void)
{
    banyan_comm *part = NULL, *whole = comm;
    CHECK(banyan_comm_split(comm, 0, 0, &part) == BANYAN_OK);
    if (rank == size - 1) sleep(60);
    char words[128], data[8] = "";
    banyan_comm_timeout(part, 0.5);
    comm = part;
    snprintf(words, sizeof words, "rank %d waited 0.5 s: rank %d did not arrive", rank,
             size - 1);
    check_error(banyan_comm_broadcast(comm, data, sizeof data, size - 1), words);
    check_broken();
    comm = whole;
    banyan_comm_destroy(part);
}

int main(int argc, char **argv)
{
    const char *fault = argc > 1 ? argv[1] : "";
    comm = test_comm("mpi");
    rank = banyan_comm_rank(comm);
    size = banyan_comm_size(comm);
    if (!strcmp(fault, "longer")) test_mismatch(300, 200);
    if (!strcmp(fault, "shorter")) test_mismatch(200, 300);
    if (!strcmp(fault, "much_longer")) test_mismatch(3 << 20, 100);
    if (!strcmp(fault, "much_shorter")) test_mismatch(0, 3 << 20);
    if (!strcmp(fault, "missing")) test_missing(1);
    if (!strcmp(fault, "two_missing")) test_missing(2);
    if (!strcmp(fault, "not_taken")) test_not_taken();
    if (!strcmp(fault, "split")) test_split();
    banyan_comm_destroy(comm);
    const int failures = test_end();
    if (!failures) sleep(1); /* so that an earlier rank's failure is the job's */
    return failures ? failures : 7;
}
