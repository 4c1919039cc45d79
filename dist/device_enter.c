/* SPDX-License-Identifier: Apache-2.0 */
/* A cache's device, of the calling thread: its own for the time of a call, and waited for. */
#include "dist/device_cache.h"
#include "dist/plan.h"

int banyan_device_enter(const banyan_cache *c)
{
    const banyan_device_cache *d = c->device;
    return d && d->queue ? d->device->enter(d->queue) : -1;
}

void banyan_device_leave(const banyan_cache *c, int device)
{
    if (device >= 0) c->device->device->leave(device);
}

/* What a rank that does not come leaves undone is seen by the transport alone. */
banyan_status banyan_device_wait(banyan_cache *c)
{
    banyan_device_cache *d = c->device;
    banyan_comm *comm = c->plan->comm;
    const banyan_status status =
        comm->transport->device
            ? banyan_comm_device_wait(comm, banyan_memory_stream(&d->memory))
            : BANYAN_OK;
    return status ? status : banyan_device_said(banyan_memory_wait(&d->memory));
}
