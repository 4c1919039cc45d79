/* SPDX-License-Identifier: Apache-2.0 */
/* Tree Attention as its authors publish it (Shyam et al., arXiv 2408.04093), to
 * compare with: the values of all ranks are reduced as a whole, in a few all-reduces one after
 * the other (of the maxima, of the numerators, of the denominators), each over all heads and
 * rows at once. Every rank takes part with every value, whether it holds anything of it or not,
 * and every rank has the result.
 *
 * Such a merge is no schedule of items: what is reduced changes from pass to pass, and the next
 * needs the result of the last. The joiner describes the passes; what they mean stays its
 * business. The all-reduces are those of reduce.c, whose messages are counted and priced here
 * as they are sent. */
#include "comm/reduce.h"

#include <math.h>
#include <stdlib.h>

extern const banyan_merge banyan_merge_allreduce;

/* On the device the transport reduces as it likes; counted is what reduce.c would have sent. */
static banyan_status reduce_queued(banyan_comm *comm, const banyan_pass *pass,
                                   const banyan_pass_room *room, int64_t *messages,
                                   int64_t *bytes)
{
    reduce_round round[reduce_most_rounds];
    const banyan_memory *memory = room->memory;
    const int rounds = banyan_reduce_lay_out(comm->size, comm->rank, pass->floats, round);
    for (int i = 0; i < rounds; i++) {
        *messages += round[i].send_count > 0;
        *bytes += round[i].send_count * (int64_t)sizeof(float);
    }
    return banyan_comm_device_allreduce(comm, room->values, pass->floats, pass->op,
                                        banyan_memory_stream(memory));
}

static banyan_status reduce_staged(banyan_comm *comm, const banyan_pass *pass,
                                   const banyan_pass_room *room, int64_t *messages,
                                   int64_t *bytes)
{
    const banyan_memory *memory = room->memory;
    const size_t count = (size_t)pass->floats * sizeof(float);
    banyan_status status = banyan_device_refuse_capture(comm, memory);
    if (status) return status;
    status =
        banyan_device_status(banyan_memory_copy(memory, room->staged, room->values, count));
    if (!status) status = banyan_device_status(banyan_memory_wait(memory));
    if (!status)
        status = banyan_reduce_floats(comm, room->staged, pass->floats, pass->op,
                                      room->staged + pass->floats, messages, bytes);
    return status ? status
                  : banyan_device_status(
                        banyan_memory_copy(memory, room->values, room->staged, count));
}

static banyan_status reduce_pass(banyan_comm *comm, const banyan_pass *pass,
                                 const banyan_pass_room *room, int64_t *messages,
                                 int64_t *bytes)
{
    if (!room->memory)
        return banyan_reduce_floats(comm, room->values, pass->floats, pass->op,
                                    room->values + pass->floats, messages, bytes);
    return room->memory->is_staged ? reduce_staged(comm, pass, room, messages, bytes)
                                   : reduce_queued(comm, pass, room, messages, bytes);
}

static banyan_status allreduce_reduce(banyan_comm *comm, const banyan_pass *pass, int passes,
                                      void *ctx, const banyan_pass_room *room,
                                      int64_t *messages, int64_t *bytes)
{
    banyan_status status = room->memory ? banyan_comm_device_poll(comm) : BANYAN_OK;
    for (int i = 0; i < passes && !status; i++) {
        pass[i].give(ctx, room->values);
        status = reduce_pass(comm, &pass[i], room, messages, bytes);
        if (!status) pass[i].take(ctx, room->values);
    }
    return status;
}

/* The rounds of all ranks: seconds of each, the slowest rank's. */
static void add_cost(const banyan_topology *topology, int64_t floats, int rank, double *seconds,
                     banyan_traffic *out, int64_t *sent)
{
    reduce_round round[reduce_most_rounds];
    for (int i = 0; i <= reduce_most_rounds; i++) seconds[i] = 0;
    for (int32_t r = 0; r < topology->ranks; r++) {
        const int rounds = banyan_reduce_lay_out(topology->ranks, r, floats, round);
        for (int i = 0; i < rounds; i++) {
            const reduce_round *one = &round[i];
            const int is_between = topology->node[r] != topology->node[one->peer];
            const banyan_link *link = is_between ? &topology->between : &topology->inside;
            const int64_t bytes = one->send_count * (int64_t)sizeof(float);
            if (!bytes) continue;
            seconds[one->number] =
                fmax(seconds[one->number], link->alpha + link->beta * (double)bytes);
            sent[2 * r]++;
            sent[2 * r + 1] += bytes;
            if (rank >= 0 && rank != r) continue;
            out->messages++;
            out->bytes += bytes;
            out->between_messages += is_between;
            out->between_bytes += is_between ? bytes : 0;
        }
    }
    for (int i = 0; i <= reduce_most_rounds; i++) {
        out->seconds += seconds[i];
        out->rounds += seconds[i] > 0;
    }
}

static void allreduce_cost(const banyan_topology *topology, const int64_t *floats, int passes,
                           int rank, banyan_traffic *out)
{
    double seconds[reduce_most_rounds + 1];
    *out = (banyan_traffic){0};
    int64_t *sent = calloc(2 * (size_t)topology->ranks, sizeof *sent);
    if (!sent) {
        out->seconds = INFINITY; /* never the cheapest */
        return;
    }
    for (int i = 0; i < passes; i++) add_cost(topology, floats[i], rank, seconds, out, sent);
    for (int32_t r = 0; r < topology->ranks; r++) {
        if (sent[2 * r] > out->max_messages) out->max_messages = sent[2 * r];
        if (sent[2 * r + 1] > out->max_bytes) out->max_bytes = sent[2 * r + 1];
    }
    free(sent);
}

const banyan_merge banyan_merge_allreduce = {
    .name = "allreduce",
    .reduce = allreduce_reduce,
    .reduce_cost = allreduce_cost,
};
