/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that have no part in a measurement. Waiting in a collective polls, and on a machine with fewer
 * cores than ranks that is what would be measured. */
#include "launch/scale/scale.h"

#include <stdlib.h>
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
    const int ranks = banyan_comm_size(comm);
    banyan_message *list = calloc((size_t)ranks, sizeof *list);
    if (!list) return BANYAN_ERR_MEMORY;
    int count = 0;
    for (int r = 0; r < ranks; r++)
        if (waits[r]) list[count++] = (banyan_message){r, &byte, 1};
    banyan_status status = banyan_comm_exchange(comm, list, count, NULL, 0);
    free(list);
    return status;
}
