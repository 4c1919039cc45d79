/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that have no part in a measurement. Waiting in a collective polls, and on a machine
 * with fewer cores than ranks that is what would be measured. */
#include "launch/machine/machine.h"

#include <time.h>

banyan_status quiet_wait(banyan_comm *comm, int leader)
{
    char byte;
    const banyan_message message = {leader, &byte, 1};
    const struct timespec nap = {0, 2000000};
    int done = 0;
    banyan_status status = banyan_comm_exchange_start(comm, NULL, 0, &message, 1);
    while (!status && !done) {
        status = banyan_comm_exchange_test(comm, &done);
        if (!status && !done) nanosleep(&nap, NULL);
    }
    return status;
}

banyan_status quiet_release(banyan_comm *comm, const bool *waits)
{
    char byte = 1;
    banyan_status status = BANYAN_OK;
    /* One after the other: a list of them might not fit, and they would wait for ever. */
    for (int r = 0; r < banyan_comm_size(comm) && !status; r++) {
        const banyan_message message = {r, &byte, 1};
        if (waits[r]) status = banyan_comm_exchange(comm, &message, 1, NULL, 0);
    }
    return status;
}
