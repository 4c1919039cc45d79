/* SPDX-License-Identifier: Apache-2.0 */
/* A time limit for what has none: MPI_Init and MPI_Finalize wait for every rank, whatever
 * became of it. They cannot be interrupted, so the process says what it waits for, and ends;
 * mpirun then ends the others. */
#include "launch/command.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static char last_words[256]; /* made before they are needed: a handler may do little */

const char *launched_rank(void)
{
    static const char *const told[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                       "MV2_COMM_WORLD_RANK"};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        const char *rank = getenv(told[i]);
        if (rank) return rank;
    }
    return "0";
}

static void end(int signal)
{
    (void)signal;
    if (write(2, last_words, strlen(last_words)) < 0) _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

static void set_timer(double seconds)
{
    const double whole = floor(seconds);
    const struct itimerval timer = {
        .it_value = {(time_t)whole, (suseconds_t)((seconds - whole) * 1e6)}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

void watch_begin(const char *what, double seconds)
{
    if (!(seconds > 0) || seconds > 1e9) return;
    snprintf(last_words, sizeof last_words,
             "banyan: rank %s waited %g s for %s: another rank did not get so far\n",
             launched_rank(), seconds, what);
    const struct sigaction action = {.sa_handler = end};
    sigaction(SIGALRM, &action, NULL);
    set_timer(seconds);
}

void watch_end(void)
{
    set_timer(0);
}
