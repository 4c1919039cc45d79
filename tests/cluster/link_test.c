/* SPDX-License-Identifier: Apache-2.0 */
/* link_test USEC MBIT: between rank 0 and the last, frames take USEC longer one way and MBIT
 * Mbit/s is all that passes (0: no limit). The shortest of several tries counts, so that a busy
 * machine matters little: it can only add. Lower bounds are exact:
 *
 *     round trip   >= 2 delays
 *     bulk         >= (bytes - what a token bucket lets through at once, 256 KiB) / rate
 *
 * upper ones leave room for a few time slices and for TCP's start. */
#include "banyan.h"
#include "tests/test.h"

#include <time.h>

enum { tries = 20, bulk_tries = 3, bulk = 2 << 20, burst = 256 << 10 };

static banyan_comm *comm;
static int rank, last;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds until rank 0 has the last rank's answer of one byte to a message of so many. */
static double ask(char *data, size_t bytes)
{
    char answer = 0;
    const int peer = rank ? 0 : last;
    const banyan_message there = {peer, data, bytes}, back = {peer, &answer, 1};
    const double begin = now();
    if (rank == 0) {
        CHECK(banyan_comm_exchange(comm, &there, 1, NULL, 0) == BANYAN_OK);
        CHECK(banyan_comm_exchange(comm, NULL, 0, &back, 1) == BANYAN_OK);
    } else if (rank == last) {
        CHECK(banyan_comm_exchange(comm, NULL, 0, &there, 1) == BANYAN_OK);
        CHECK(banyan_comm_exchange(comm, &back, 1, NULL, 0) == BANYAN_OK);
    }
    return now() - begin;
}

static double shortest(int count, char *data, size_t bytes)
{
    double least = 1e9;
    for (int i = 0; i < count; i++) {
        const double took = ask(data, bytes);
        if (took < least) least = took;
    }
    return least;
}

int main(int argc, char **argv)
{
    const double delay = argc > 1 ? 1e-6 * atof(argv[1]) : 0;
    const double rate = argc > 2 ? atof(argv[2]) * 1e6 / 8 : 0; /* bytes/s */
    char *data = calloc(1, bulk);
    if (!data || banyan_comm_create("mpi", NULL, &comm)) {
        fprintf(stderr, "%s\n", banyan_error_message());
        return 99;
    }
    rank = banyan_comm_rank(comm);
    last = banyan_comm_size(comm) - 1;
    CHECK(banyan_comm_nodes(comm) > 1);
    const double trip = shortest(tries, data, 1), long_trip = shortest(bulk_tries, data, bulk);
    if (rank == 0) {
        printf("round trip %.3f ms, %d MiB and back %.1f ms\n", 1e3 * trip, bulk >> 20,
               1e3 * long_trip);
        CHECK_MSG(trip >= 2 * delay && trip <= 2 * delay + 0.01, "%g s for 2 x %g s", trip,
                  delay);
        if (rate > 0) {
            const double least = (bulk - burst) / rate, most = 3 * bulk / rate + 20 * delay;
            CHECK_MSG(long_trip >= least && long_trip <= most, "%g s, expected %g .. %g",
                      long_trip, least, most);
        }
    }
    banyan_comm_destroy(comm);
    free(data);
    return test_end();
}
