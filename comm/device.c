/* SPDX-License-Identifier: Apache-2.0 */
/* Device memory: the device half of a comm's transport, as everyone calls it. As for host
 * memory, a transfer that fails breaks the comm. */
#include "comm/comm.h"

static banyan_status refuse_host_transport(const banyan_comm *comm)
{
    if (comm->broken) return banyan_comm_is_broken(comm);
    if (comm->transport->device) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                       "transport \"%s\" takes host memory, but a device's was given",
                       comm->transport->name);
}

static banyan_status note(banyan_comm *comm, banyan_status status)
{
    if (status == BANYAN_ERR_COMM || status == BANYAN_ERR_DEVICE) banyan_comm_break(comm);
    return status;
}

banyan_status banyan_comm_device_start(banyan_comm *comm, int recv, int peer, void *data,
                                       size_t bytes)
{
    const banyan_status status = refuse_host_transport(comm);
    if (status) return status;
    return note(comm, comm->transport->device->start(comm, recv, peer, data, bytes));
}

banyan_status banyan_comm_device_flush(banyan_comm *comm, void *stream)
{
    const banyan_status status = refuse_host_transport(comm);
    return status ? status : note(comm, comm->transport->device->flush(comm, stream));
}

banyan_status banyan_comm_device_allreduce(banyan_comm *comm, float *values, int64_t count,
                                           banyan_op op, void *stream)
{
    const banyan_status status = refuse_host_transport(comm);
    if (status) return status;
    return note(comm, comm->transport->device->allreduce(comm, values, count, op, stream));
}

banyan_status banyan_comm_device_poll(banyan_comm *comm)
{
    if (!comm->transport->device) return BANYAN_OK;
    const banyan_status status = refuse_host_transport(comm);
    return status ? status : note(comm, comm->transport->device->poll(comm));
}

banyan_status banyan_comm_device_wait(banyan_comm *comm, void *stream)
{
    const banyan_status status = refuse_host_transport(comm);
    return status ? status : note(comm, comm->transport->device->wait(comm, stream));
}

banyan_status banyan_device_status(const char *failed)
{
    return failed ? banyan_fail(BANYAN_ERR_DEVICE, "%s", failed) : BANYAN_OK;
}

banyan_status banyan_device_refuse_capture(const banyan_comm *comm, const banyan_memory *memory)
{
    if (!banyan_memory_is_captured(memory)) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                       "transport \"%s\" moves host memory, so that a merge waits for the "
                       "device: it cannot be captured in a graph",
                       comm->transport->name);
}
