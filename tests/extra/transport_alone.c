/* SPDX-License-Identifier: Apache-2.0 */
/* One rank: the transport `self` once more. */
#include "comm/comm.h"

extern const banyan_transport banyan_transport_self, banyan_transport_alone;

static banyan_status alone_open(banyan_comm *comm, void *native)
{
    return banyan_transport_self.open(comm, native);
}

static void alone_close(banyan_comm *comm)
{
    banyan_transport_self.close(comm);
}

static banyan_status alone_start(banyan_comm *comm, int recv, int peer, void *data,
                                 size_t bytes)
{
    return banyan_transport_self.start(comm, recv, peer, data, bytes);
}

static banyan_status alone_wait_all(banyan_comm *comm)
{
    return banyan_transport_self.wait_all(comm);
}

static banyan_status alone_split(banyan_comm *comm, int color, int key, banyan_comm *out)
{
    return banyan_transport_self.split(comm, color, key, out);
}

const banyan_transport banyan_transport_alone = {
    .name = "alone",
    .open = alone_open,
    .close = alone_close,
    .start = alone_start,
    .wait_all = alone_wait_all,
    .split = alone_split,
};
