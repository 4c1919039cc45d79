/* SPDX-License-Identifier: Apache-2.0 */
/* An all-reduce of floats in the two ways that MPI and NCCL libraries take (Thakur,
 * Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", 2005).
 * With p = 2^k ranks and n bytes:
 *
 *     short   recursive doubling             k rounds of n            k (alpha + n beta)
 *     long    recursive halving, then        k rounds of n/2, n/4 ..  2 k alpha
 *             doubling the other way round   and back                 + 2 (p-1)/p n beta
 *
 * Halving begins with the nearest rank, so that the large messages stay inside nodes. When the
 * number of ranks is no power of two, the first few pair up: the odd ones give their values to
 * the even ones before, and get the result afterwards.
 *
 * Both partners fold the lower one's values first, so all ranks have the same bits. */
#include "comm/reduce.h"

#include <string.h>

/* From here on halving is faster: measured with 2 and 4 ranks on one node. */
static const int64_t long_bytes = 32768;

typedef struct reduce_layout {
    reduce_round *round;
    int count;
    int32_t number; /* of the next round */
} reduce_layout;

typedef struct float_range {
    int64_t first, count;
} float_range;

static void add_reduce_round(reduce_layout *l, int32_t peer, float_range send, float_range recv,
                             int fold)
{
    l->round[l->count++] = (reduce_round){.number = l->number,
                                          .peer = peer,
                                          .send_first = send.first,
                                          .send_count = send.count,
                                          .recv_first = recv.first,
                                          .recv_count = recv.count,
                                          .fold = fold};
}

static float_range half(float_range whole, int upper)
{
    const int64_t low = whole.count / 2;
    return upper ? (float_range){whole.first + low, whole.count - low}
                 : (float_range){whole.first, low};
}

/* Rounds of the groups: group g of `groups`, of which the first `pairs` are two ranks. */
static void add_groups(reduce_layout *l, int32_t g, int32_t groups, int32_t pairs,
                       int64_t count)
{
    float_range mine[32] = {{0, count}}; /* after each halving */
    int k = 0;
    const int is_long = count * (int64_t)sizeof(float) >= long_bytes;
    for (; 1 << k < groups; k++, l->number++) {
        const int32_t other = g ^ 1 << k;
        const int upper = g >> k & 1;
        mine[k + 1] = is_long ? half(mine[k], upper) : mine[k];
        add_reduce_round(l, other < pairs ? 2 * other : other + pairs,
                         is_long ? half(mine[k], !upper) : mine[k], mine[k + 1], 1);
    }
    while (is_long && k-- > 0) {
        const int32_t other = g ^ 1 << k;
        add_reduce_round(l, other < pairs ? 2 * other : other + pairs, mine[k + 1],
                         half(mine[k], !(g >> k & 1)), 0);
        l->number++;
    }
}

int banyan_reduce_lay_out(int32_t ranks, int32_t rank, int64_t count,
                          reduce_round round[reduce_most_rounds])
{
    reduce_layout l = {.round = round};
    int32_t groups = 1;
    while (2 * groups <= ranks) groups *= 2;
    const int32_t pairs = ranks - groups;
    const float_range all = {0, count}, none = {0, 0};
    const int is_paired = rank < 2 * pairs, is_odd = rank % 2;
    if (is_paired) add_reduce_round(&l, rank ^ 1, is_odd ? all : none, is_odd ? none : all, 1);
    l.number = pairs > 0;
    if (!is_paired)
        add_groups(&l, rank - pairs, groups, pairs, count);
    else if (!is_odd)
        add_groups(&l, rank / 2, groups, pairs, count);
    if (is_paired) {
        l.number = reduce_most_rounds;
        add_reduce_round(&l, rank ^ 1, is_odd ? none : all, is_odd ? all : none, 0);
    }
    return l.count;
}

/* A NaN in either is a NaN in the maximum. */
static void fold_floats(float *out, const float *lo, const float *hi, int64_t count,
                        banyan_op op)
{
    if (op == BANYAN_SUM)
        for (int64_t i = 0; i < count; i++) out[i] = lo[i] + hi[i];
    else
        for (int64_t i = 0; i < count; i++)
            out[i] = hi[i] > lo[i] || hi[i] != hi[i] ? hi[i] : lo[i];
}

static banyan_status run_round(banyan_comm *comm, const reduce_round *r, float *values,
                               float *room, banyan_op op)
{
    banyan_status status = BANYAN_OK;
    float *into = values + r->recv_first, *place = r->fold ? room : into;
    if (r->recv_count)
        status =
            banyan_comm_start(comm, 1, r->peer, place, (size_t)r->recv_count * sizeof *place);
    if (!status && r->send_count)
        status = banyan_comm_start(comm, 0, r->peer, values + r->send_first,
                                   (size_t)r->send_count * sizeof *values);
    if (!status) status = banyan_comm_wait(comm);
    if (status || !r->fold) return status;
    if (r->peer < comm->rank)
        fold_floats(into, room, into, r->recv_count, op);
    else
        fold_floats(into, into, room, r->recv_count, op);
    return BANYAN_OK;
}

banyan_status banyan_reduce_floats(banyan_comm *comm, float *values, int64_t count,
                                   banyan_op op, float *room, int64_t *messages, int64_t *bytes)
{
    reduce_round round[reduce_most_rounds];
    const int rounds = banyan_reduce_lay_out(comm->size, comm->rank, count, round);
    for (int i = 0; i < rounds; i++) {
        const banyan_status status = run_round(comm, &round[i], values, room, op);
        if (status) return status;
        *messages += round[i].send_count > 0;
        *bytes += round[i].send_count * (int64_t)sizeof(float);
    }
    return BANYAN_OK;
}
