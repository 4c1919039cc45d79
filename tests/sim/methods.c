/* SPDX-License-Identifier: Apache-2.0 */
/* The methods that merge partials. A rank's partial of a head of which it holds a part is o =
 * 1, m = 0, l = 1, so that the merged one must be o = l = the number of holders: a part that is
 * lost or counted twice shows. Folding takes no simulated time, for any method.
 *
 * Tree Attention (Shyam et al., arXiv 2408.04093) is here twice: as the library's merge
 * `allreduce`, and with three calls of MPI_Allreduce. */
#include "tests/sim/sim.h"

#include <math.h>
#include <stdlib.h>

/* ---- partials ---------------------------------------------------------------------------- */

static int32_t holders_of(const scene *s, int32_t head, int *held)
{
    const banyan_item *item = &s->plan->kind[0].item[head];
    *held = 0;
    for (int32_t i = 0; i < item->holders; i++) *held |= item->holder[i] == s->rank;
    return item->holders;
}

static void fill_items(scene *s)
{
    const int32_t dim = s->plan->spec.value_dim;
    for (int32_t h = 0; h < s->plan->spec.heads; h++) {
        int held;
        float *p = s->item[h];
        holders_of(s, h, &held);
        for (int32_t d = 0; d < dim; d++) p[d] = (float)held;
        p[dim] = held ? 0 : -INFINITY;
        p[dim + 1] = (float)held;
    }
}

/* Is every result there where it is wanted? */
static void check_items(scene *s, int everywhere)
{
    const int32_t dim = s->plan->spec.value_dim;
    for (int32_t h = 0; h < s->plan->spec.heads; h++) {
        int held;
        const float *p = s->item[h], holders = (float)holders_of(s, h, &held);
        if (!everywhere && s->plan->kind[0].home[h] != s->rank) continue;
        s->wrong +=
            p[0] != holders || p[dim - 1] != holders || p[dim] != 0 || p[dim + 1] != holders;
    }
}

static banyan_status prepare_items(scene *s)
{
    const size_t heads = (size_t)s->plan->spec.heads;
    const size_t floats = banyan_partial_floats(s->plan->spec.value_dim);
    s->item = malloc(heads * sizeof *s->item);
    s->room = malloc(5 * heads * floats * sizeof *s->room);
    if (!s->item || !s->room) return banyan_fail(BANYAN_ERR_MEMORY, "no memory for partials");
    for (size_t h = 0; h < heads; h++) s->item[h] = s->room + (4 * heads + h) * floats;
    return BANYAN_OK;
}

static void compute(scene *s)
{
    fill_items(s);
    sim_compute(s->bytes / s->machine->memory);
    s->computed = MPI_Wtime();
}

/* ---- merges that are schedules ----------------------------------------------------------- */

static void combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    (void)bytes;
    banyan_partial_combine(out, lo, hi, *(const int32_t *)ctx, 1);
}

static banyan_status scheduled_prepare(scene *s)
{
    const size_t bytes = banyan_partial_floats(s->plan->spec.value_dim) * sizeof(float);
    const banyan_status status = prepare_items(s);
    if (status) return status;
    return banyan_exchange_create(&s->plan->kind[0].schedule, s->rank, bytes, s->plan->hash,
                                  NULL, &s->exchange);
}

static banyan_status scheduled_layer(scene *s)
{
    int32_t dim = s->plan->spec.value_dim;
    const banyan_exchange_args p = {.data = s->item,
                                    .item_bytes = banyan_partial_floats(dim) * sizeof(float),
                                    .dtype = BANYAN_F32,
                                    .combine = combine,
                                    .ctx = &dim};
    compute(s);
    const banyan_status status =
        banyan_exchange_run(s->exchange, s->comm, &p, &s->messages, &s->sent);
    check_items(s, s->plan->spec.out == BANYAN_OUT_ALL);
    return status;
}

/* ---- all-reduces ------------------------------------------------------------------------- */

/* m is 0 on every rank that holds anything, so no factors are needed: what is summed is what is
 * there. Values first + 0 .. count-1 of each partial. */
static void pack(const scene *s, int32_t first, int32_t count, float *values)
{
    for (int32_t h = 0; h < s->plan->spec.heads; h++)
        for (int32_t i = 0; i < count; i++) *values++ = ((float *)s->item[h])[first + i];
}

static void unpack(const scene *s, int32_t first, int32_t count, const float *values)
{
    for (int32_t h = 0; h < s->plan->spec.heads; h++)
        for (int32_t i = 0; i < count; i++) ((float *)s->item[h])[first + i] = *values++;
}

static void give_m(void *ctx, float *values)
{
    const scene *s = ctx;
    pack(s, s->plan->spec.value_dim, 1, values);
}

static void take_m(void *ctx, const float *values)
{
    const scene *s = ctx;
    unpack(s, s->plan->spec.value_dim, 1, values);
}

static void give_o(void *ctx, float *values)
{
    const scene *s = ctx;
    pack(s, 0, s->plan->spec.value_dim, values);
}

static void take_o(void *ctx, const float *values)
{
    const scene *s = ctx;
    unpack(s, 0, s->plan->spec.value_dim, values);
}

static void give_l(void *ctx, float *values)
{
    const scene *s = ctx;
    pack(s, s->plan->spec.value_dim + 1, 1, values);
}

static void take_l(void *ctx, const float *values)
{
    const scene *s = ctx;
    unpack(s, s->plan->spec.value_dim + 1, 1, values);
}

static void lay_out(const scene *s, banyan_pass pass[BANYAN_PASSES])
{
    int64_t floats[BANYAN_PASSES];
    banyan_pass_floats(s->plan, s->plan->spec.value_dim, 1, floats);
    pass[0] = (banyan_pass){BANYAN_MAX, floats[0], give_m, take_m};
    pass[1] = (banyan_pass){BANYAN_SUM, floats[1], give_o, take_o};
    pass[2] = (banyan_pass){BANYAN_SUM, floats[2], give_l, take_l};
}

static banyan_status reduced_layer(scene *s)
{
    banyan_pass pass[BANYAN_PASSES];
    lay_out(s, pass);
    compute(s);
    const banyan_pass_room room = {.values = s->room};
    const banyan_status status =
        s->plan->merge->reduce(s->comm, pass, BANYAN_PASSES, s, &room, &s->messages, &s->sent);
    check_items(s, 1);
    return status;
}

/* Recursive doubling sends what the library's own all-reduces of short arrays send. */
static banyan_status mpi_layer(scene *s)
{
    banyan_pass pass[BANYAN_PASSES];
    lay_out(s, pass);
    compute(s);
    for (int i = 0; i < BANYAN_PASSES; i++) {
        float *in = s->room, *out = s->room + pass[i].floats;
        pass[i].give(s, in);
        if (MPI_Allreduce(in, out, (int)pass[i].floats, MPI_FLOAT,
                          pass[i].op == BANYAN_MAX ? MPI_MAX : MPI_SUM, s->mpi))
            return banyan_fail(BANYAN_ERR_COMM, "MPI_Allreduce failed");
        pass[i].take(s, out);
    }
    banyan_traffic traffic;
    banyan_kind_traffic(s->plan, s->plan->kind, 1, s->rank, &traffic);
    s->messages += traffic.messages;
    s->sent += traffic.bytes;
    check_items(s, 1);
    return BANYAN_OK;
}

#define FIRST BANYAN_HOME_FIRST

const sim_method sim_methods[] = {
    {"line", "line", NULL, BANYAN_OUT_HOME, FIRST, scheduled_prepare, scheduled_layer},
    {"line-all", "line", NULL, BANYAN_OUT_ALL, FIRST, scheduled_prepare, scheduled_layer},
    {"spread", "spread", NULL, BANYAN_OUT_HOME, FIRST, scheduled_prepare, scheduled_layer},
    {"dcp", "spread", "direct", BANYAN_OUT_HOME, BANYAN_HOME_DEALT, scheduled_prepare,
     scheduled_layer},
    {"tree-attention", "spread", "allreduce", BANYAN_OUT_ALL, FIRST, prepare_items,
     reduced_layer},
    {"mpi-allreduce", "spread", "allreduce", BANYAN_OUT_ALL, FIRST, prepare_items, mpi_layer},
    {"ring", "spread", "direct", BANYAN_OUT_HOME, FIRST, ring_prepare, ring_layer},
    {0},
};
