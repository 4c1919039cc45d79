/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of a comm: ranks of one color, in the order of their keys. */
#include "comm/comm.h"

#include <stdlib.h>

/* What every rank said, and who it is. */
typedef struct split_choice {
    int32_t color, key, rank;
} split_choice;

static int compare_choices(const void *a, const void *b)
{
    const split_choice *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* The new comm's rank, size and topology: its ranks keep the nodes and links that they have. */
static banyan_status describe_split(const banyan_comm *comm, int color, split_choice *all,
                                    banyan_comm *out)
{
    int32_t size = 0;
    for (int32_t r = 0; r < comm->size; r++)
        if (all[r].color == color) all[size++] = all[r];
    qsort(all, (size_t)size, sizeof *all, compare_choices);
    int32_t *node = malloc((size_t)size * sizeof *node);
    if (!node) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d ranks", (int)size);
    for (int32_t r = 0; r < size; r++) {
        node[r] = comm->topology.node[all[r].rank];
        if (all[r].rank == comm->rank) out->rank = r;
    }
    out->size = size;
    const banyan_status status = banyan_topology_make(node, size, &out->topology);
    free(node);
    if (status) return status;
    out->topology.inside = comm->topology.inside;
    out->topology.between = comm->topology.between;
    out->timeout = comm->timeout;
    out->piece = comm->piece;
    out->has_checksums = comm->has_checksums;
    return BANYAN_OK;
}

banyan_status banyan_comm_split(banyan_comm *comm, int color, int key, banyan_comm **out)
{
    if (!out) return banyan_fail(BANYAN_ERR_ARGUMENT, "comm_split: out is NULL");
    const split_choice mine = {color < 0 ? -1 : color, key, comm->rank};
    banyan_comm *made = NULL;
    _Static_assert(sizeof mine <= BANYAN_SCRATCH_BYTES, "choices fit in the scratch");
    split_choice *all = banyan_comm_scratch(comm);
    if (!all) return BANYAN_ERR_MEMORY;
    banyan_status status = banyan_comm_allgather(comm, &mine, sizeof mine, all);
    if (status) return status;
    if (color >= 0) {
        made = banyan_comm_new(comm->transport);
        status = made ? describe_split(comm, color, all, made) : BANYAN_ERR_MEMORY;
        if (!status && !banyan_comm_scratch(made)) status = BANYAN_ERR_MEMORY;
    }
    status = banyan_comm_agree(comm, status);
    if (!status) status = comm->transport->split(comm, mine.color, key, made);
    if (status && made) banyan_comm_free(made);
    if (!status) *out = made;
    return status;
}
