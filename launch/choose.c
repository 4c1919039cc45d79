/* SPDX-License-Identifier: Apache-2.0 */
/* Where a verb runs: on which device each rank computes, and by which transport ranks speak.
 *
 * A rank takes the device of its number among the ranks of its node (modulo the devices there
 * are). Where every rank has a GPU of its own, "nccl" carries what GPUs hold; else it is staged
 * through host memory and carried as everything else. */
#include "launch/command.h"
#include "launch/device.h"

#include <string.h>

/* Ranks of this rank's node, and how many of them come before it. */
static int ranks_of_node(const job *j, int *before)
{
    const int node = banyan_comm_node(j->comm, j->rank);
    int here = 0;
    *before = 0;
    for (int r = 0; r < j->ranks; r++) {
        if (banyan_comm_node(j->comm, r) != node) continue;
        here++;
        *before += r < j->rank;
    }
    return here;
}

static int choose_device(job *j)
{
    const Banyan__Execution *e = j->config->execution;
    char why[1024] = "";
    const device_row *row = device_find(e ? e->device : NULL, why, sizeof why);
    banyan_status status = row ? BANYAN_OK : BANYAN_ERR_UNSUPPORTED;
    status = agree_words(j->comm, status, why, sizeof why);
    if (!status && row->memory->is_apart) {
        int place;
        ranks_of_node(j, &place);
        status = device_open(row, place % row->count(), &j->device, why, sizeof why);
        status = agree_words(j->comm, status, why, sizeof why);
    }
    if (!status) return EXIT_OK;
    say_error(j, "%s", why);
    return status == BANYAN_ERR_DEVICE || status == BANYAN_ERR_COMM ? EXIT_FAILED : EXIT_USAGE;
}

bool row_is_available(banyan_table table, const char *row)
{
    const char *name;
    int available;
    for (int i = 0; banyan_list(table, i, &name, NULL, &available, NULL); i++)
        if (!strcmp(name, row)) return available;
    return false;
}

/* "nccl" when the device wants it and every rank can; else NULL: as launched. The same on
 * all. */
static int default_transport(const job *j, const char **out)
{
    *out = NULL;
    if (!j->device->row->memory->is_apart || j->ranks == 1) return EXIT_OK;
    int place;
    double lacks = !row_is_available(BANYAN_TRANSPORTS, "nccl") ||
                   ranks_of_node(j, &place) > j->device->row->count();
    banyan_status status = banyan_comm_allreduce(j->comm, &lacks, 1, BANYAN_MAX);
    if (status) return job_failed(j, status, "choosing a transport");
    if (lacks <= 0) *out = "nccl";
    return EXIT_OK;
}

/* The verb's own comm: the one that the launcher gave, unless the config or the device asks for
 * another. */
static int choose_comm(job *j)
{
    const Banyan__Execution *e = j->config->execution;
    const char *transport = e ? e->transport : NULL;
    int code = transport ? EXIT_OK : default_transport(j, &transport);
    if (code || !transport) return code;
    if (!strcmp(transport, "self") && j->ranks > 1) {
        say_error(j, "execution.transport: \"self\" is one rank; this job has %d", j->ranks);
        return EXIT_USAGE;
    }
    if (j->ranks > 1 && !strcmp(transport, "mpi")) return EXIT_OK;
    if (!strcmp(transport, "imaginary")) {
        say_error(j, "execution.transport: \"imaginary\" serves \"banyan plan\" only");
        return EXIT_USAGE;
    }
    banyan_comm *other;
    banyan_status status = banyan_comm_create(transport, NULL, &other);
    if (status) return job_failed(j, status, "execution.transport");
    banyan_comm_destroy(j->comm);
    j->comm = other;
    if (e && e->has_timeout) banyan_comm_timeout(j->comm, e->timeout);
    banyan_comm_checksums(j->comm, e && e->checksums);
    return EXIT_OK;
}

int choose_place(job *j)
{
    const Banyan__Execution *e = j->config->execution;
    if (e && e->n_bandwidth && e->n_bandwidth != (size_t)j->ranks) {
        say_error(j, "execution.bandwidth has %zu values; this job has %d ranks",
                  e->n_bandwidth, j->ranks);
        return EXIT_USAGE;
    }
    if (e && e->has_timeout && !(e->timeout >= 0)) {
        say_error(j, "execution.timeout %g: expected seconds, or 0 for no limit", e->timeout);
        return EXIT_USAGE;
    }
    if (e && e->has_timeout) banyan_comm_timeout(j->comm, e->timeout);
    banyan_comm_checksums(j->comm, e && e->checksums);
    int code = choose_device(j);
    return code ? code : choose_comm(j);
}
