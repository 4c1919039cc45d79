/* SPDX-License-Identifier: Apache-2.0 */
/* Which ranks share a machine. Nodes do not tell: containers and namespaces on one machine have
 * names of their own, and yet its cores and its memory in common. */
#include "launch/machine/machine.h"

#include "launch/data.h"

#include <stdlib.h>
#include <unistd.h>

/* A kernel's boot has a number of its own. */
uint64_t hosts_number(void)
{
    char text[64] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!f || !fgets(text, sizeof text, f)) gethostname(text, sizeof text - 1);
    if (f) fclose(f);
    uint64_t h = 0;
    for (const char *c = text; *c; c++) h = data_mix(h ^ (unsigned char)*c);
    return h;
}

banyan_status hosts_find(banyan_comm *comm, uint64_t **numbers)
{
    const uint64_t mine = hosts_number();
    uint64_t *all = calloc((size_t)banyan_comm_size(comm), sizeof *all);
    banyan_status status = banyan_comm_agree(comm, all ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status) status = banyan_comm_allgather(comm, &mine, sizeof mine, all);
    if (status) {
        free(all);
        return status;
    }
    *numbers = all;
    return BANYAN_OK;
}
