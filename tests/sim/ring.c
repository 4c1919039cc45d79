/* SPDX-License-Identifier: Apache-2.0 */
/* Ring attention (Liu, Zaharia, Abbeel, arXiv 2310.01889) as decode: the blocks of keys and
 * values go round, a rank computes on the one that it has while the next is on its way, and
 * after ranks - 1 hops it has seen everything.
 *
 *     hop      0        1        2
 *     rank 0   own 0 -> 1 ..     send block (rank - hop) to rank + 1,
 *     rank 1   own 1 -> 2 ..     receive block (rank - hop - 1) from rank - 1
 *
 * The blocks are as long as the plan's, but all ranks' lie at one address: nobody reads
 * them. */
#include "tests/sim/sim.h"

#include <smpi/smpi.h>

/* Bytes that rank r reads in a layer; those of all ranks, for it computes on all of them. */
static size_t bytes_of(const scene *s, int32_t rank)
{
    const banyan_kind *kind = &s->plan->kind[0];
    int64_t blocks = 0;
    for (int32_t g = 0; g < s->plan->spec.kv_heads; g++)
        blocks += banyan_plan_kept(s->plan, kind, g, rank, s->tokens);
    return (size_t)blocks * s->plan->kind[0].shape.record_bytes;
}

banyan_status ring_prepare(scene *s)
{
    size_t most = 0;
    for (int32_t r = 0; r < s->ranks; r++)
        if (bytes_of(s, r) > most) most = bytes_of(s, r);
    s->block[0] = SMPI_SHARED_MALLOC(most);
    s->block[1] = SMPI_SHARED_MALLOC(most);
    return BANYAN_OK;
}

banyan_status ring_layer(scene *s)
{
    const int32_t next = (s->rank + 1) % s->ranks, before = (s->rank + s->ranks - 1) % s->ranks;
    double computed = 0;
    const double start = MPI_Wtime();
    for (int32_t hop = 0; hop < s->ranks; hop++) {
        const int32_t have = (s->rank + s->ranks - hop) % s->ranks;
        const int32_t coming = (have + s->ranks - 1) % s->ranks;
        const size_t out = bytes_of(s, have), in = bytes_of(s, coming);
        banyan_status status = BANYAN_OK;
        if (hop + 1 < s->ranks) {
            const banyan_message send = {next, s->block[hop % 2], out};
            const banyan_message recv = {before, s->block[(hop + 1) % 2], in};
            status = banyan_comm_exchange_start(s->comm, &send, 1, &recv, 1);
            s->messages++;
            s->sent += (int64_t)out;
        }
        sim_compute((double)out / s->machine->memory);
        computed += (double)out / s->machine->memory;
        if (!status && hop + 1 < s->ranks) status = banyan_comm_exchange_wait(s->comm);
        if (status) return status;
    }
    s->computed = start + computed;
    return BANYAN_OK;
}
