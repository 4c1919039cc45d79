/* SPDX-License-Identifier: Apache-2.0 */
/* One rank. It has nobody to send to (a message to oneself is copied by comm_exchange and never
 * reaches a transport), so this file is also the shortest example of a transport. */
#include "comm/comm.h"

extern const banyan_transport banyan_transport_self;

static banyan_status self_open(banyan_comm *comm, void *native)
{
    if (native)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "transport \"self\" takes no native handle; "
                                                "expected NULL");
    const int32_t node = 0;
    comm->rank = 0;
    comm->size = 1;
    return banyan_topology_make(&node, 1, &comm->topology);
}

static void self_close(banyan_comm *comm)
{
    (void)comm;
}

static banyan_status self_start(banyan_comm *comm, int recv, int peer, void *data, size_t bytes)
{
    (void)comm, (void)data, (void)bytes;
    return banyan_fail(BANYAN_ERR_ARGUMENT, "%s rank %d; transport \"self\" has rank 0 only",
                       recv ? "receiving from" : "sending to", peer);
}

static banyan_status self_wait_all(banyan_comm *comm)
{
    (void)comm;
    return BANYAN_OK;
}

static banyan_status self_split(banyan_comm *comm, int color, int key, banyan_comm *out)
{
    (void)comm, (void)color, (void)key, (void)out;
    return BANYAN_OK;
}

const banyan_transport banyan_transport_self = {
    .name = "self",
    .open = self_open,
    .close = self_close,
    .start = self_start,
    .wait_all = self_wait_all,
    .split = self_split,
};
