/* SPDX-License-Identifier: Apache-2.0 */
/* Tree Attention as its authors publish it (Shyam et al., arXiv 2408.04093), to
 * compare with: the values of all ranks are reduced as a whole, in a few all-reduces one after the
 * other (of the maxima, of the numerators, of the denominators), each over all heads and rows at
 * once. Every rank takes part with every value, whether it holds anything of it or not, and every
 * rank has the result.
 *
 * Such a merge is no schedule of items: what is reduced changes from pass to pass, and the next needs
 * the result of the last. The joiner describes the passes; what they mean stays its business. The
 * all-reduces are those of reduce.c, whose messages are counted and priced here as they are sent. */
#include "comm/reduce.h"

#include <math.h>
#include <stdlib.h>

extern const banyan_merge banyan_merge_allreduce;

static banyan_status allreduce_reduce(banyan_comm *comm, const banyan_pass *pass, int passes,
                                      void *ctx, float *room, int64_t *messages, int64_t *bytes)
{
    for (int i = 0; i < passes; i++) {
        pass[i].give(ctx, room);
        const banyan_status status = banyan_reduce_floats(
            comm, room, pass[i].floats, pass[i].op, room + pass[i].floats, messages, bytes);
        if (status) return status;
        pass[i].take(ctx, room);
    }
    return BANYAN_OK;
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
    .doc = "Tree Attention's three all-reduces over all ranks, for comparison",
    .reduce = allreduce_reduce,
    .reduce_cost = allreduce_cost,
};
