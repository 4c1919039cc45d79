/* SPDX-License-Identifier: Apache-2.0 */
/* A machine that is only described, "node:8 rank:8": this process is rank 0 of it and makes
 * plans for all its ranks. There is nobody to talk to, so every transfer is refused. */
#include "comm/comm.h"

extern const banyan_transport banyan_transport_imaginary;

static banyan_status imaginary_open(banyan_comm *comm, void *native)
{
    if (!native)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "transport \"imaginary\" needs a description; "
                                                "expected text like \"node:4 rank:8\"");
    const banyan_status status = banyan_topology_parse(native, &comm->topology);
    if (status) return status;
    comm->rank = 0;
    comm->size = comm->topology.ranks;
    return BANYAN_OK;
}

static void imaginary_close(banyan_comm *comm)
{
    (void)comm;
}

static banyan_status imaginary_refuse(banyan_comm *comm)
{
    return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                       "the %d ranks of this comm are imaginary: it serves plans, and moves no "
                       "bytes",
                       (int)comm->size);
}

static banyan_status imaginary_start(banyan_comm *comm, int recv, int peer, void *data,
                                     size_t bytes)
{
    (void)recv, (void)peer, (void)data, (void)bytes;
    return imaginary_refuse(comm);
}

static banyan_status imaginary_split(banyan_comm *comm, int color, int key, banyan_comm *out)
{
    (void)color, (void)key, (void)out;
    return imaginary_refuse(comm);
}

const banyan_transport banyan_transport_imaginary = {
    .name = "imaginary",
    .is_imaginary = 1,
    .open = imaginary_open,
    .close = imaginary_close,
    .start = imaginary_start,
    .wait_all = imaginary_refuse,
    .split = imaginary_split,
};
