/* SPDX-License-Identifier: Apache-2.0 */
/* A comm: which transport, how many ranks, who is near whom. What moves is in collectives.c and
 * exchange.c; how it moves is in transport_<name>.c. */
#include "comm/comm.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

static const double default_timeout = 600; /* seconds */

banyan_comm *banyan_comm_new(const banyan_transport *row)
{
    banyan_comm *comm = calloc(1, sizeof *comm);
    if (!comm) {
        banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a comm");
        return NULL;
    }
    comm->transport = row;
    comm->timeout = default_timeout;
    comm->piece = INT_MAX;
    return comm;
}

void banyan_comm_free(banyan_comm *comm)
{
    banyan_topology_free(&comm->topology);
    free(comm->scratch);
    free(comm);
}

void banyan_comm_destroy(banyan_comm *comm)
{
    if (!comm) return;
    comm->transport->close(comm);
    banyan_comm_free(comm);
}

void *banyan_comm_scratch(banyan_comm *comm)
{
    if (!comm->scratch) comm->scratch = malloc((size_t)comm->size * BANYAN_SCRATCH_BYTES);
    if (!comm->scratch)
        banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d ranks", (int)comm->size);
    return comm->scratch;
}

int banyan_comm_rank(const banyan_comm *comm)
{
    return comm->rank;
}

int banyan_comm_size(const banyan_comm *comm)
{
    return comm->size;
}

int banyan_comm_node(const banyan_comm *comm, int rank)
{
    return rank >= 0 && rank < comm->size ? comm->topology.node[rank] : -1;
}

int banyan_comm_nodes(const banyan_comm *comm)
{
    return comm->topology.nodes;
}

void banyan_comm_timeout(banyan_comm *comm, double seconds)
{
    comm->timeout = seconds > 0 ? seconds : 0;
}

void banyan_comm_checksums(banyan_comm *comm, int on)
{
    comm->has_checksums = on != 0;
}

static banyan_status check_link(const banyan_link *link, const char *where)
{
    if (!link ||
        (link->alpha >= 0 && link->beta >= 0 && isfinite(link->alpha) && isfinite(link->beta)))
        return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_ARGUMENT,
                       "comm_links: %s nodes %g s and %g s/byte; expected finite numbers, 0 or "
                       "more",
                       where, link->alpha, link->beta);
}

banyan_status banyan_comm_links(banyan_comm *comm, const banyan_link *inside,
                                const banyan_link *between)
{
    banyan_status status = check_link(inside, "inside");
    if (!status) status = check_link(between, "between");
    if (status) return status;
    if (inside) comm->topology.inside = *inside;
    if (between) comm->topology.between = *between;
    return BANYAN_OK;
}
