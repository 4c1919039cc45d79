/* SPDX-License-Identifier: Apache-2.0 */
/* merge_bench [bytes [calls]]: what a merge costs beside an MPI_Allreduce of as many bytes. Not
 * a test:
 *
 *     launch/mpirun-here 2 build/tests/merge_bench 16384
 *
 * 32 heads, one row of partials each, held by all ranks. Methods take turns, so that whatever
 * else the machine does hits all of them; a call's time is its slowest rank's, from a barrier
 * on. The median, and the spread from the 10th to the 90th percentile. */
#include "attention/attention.h"
#include "comm/comm.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { heads = 32, methods = 6, most_floats = 1 << 22 };

static const char *const names[methods] = {"MPI_Allreduce",  "direct, home", "direct, all",
                                           "butterfly, all", "gather, all",  "allreduce"};

static banyan_comm *comm;
static banyan_exchange *exchange[methods];
static float values[most_floats], room[2 * most_floats];
static void *item[heads];
static int32_t value_dim;

static void combine(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    (void)ctx, (void)bytes;
    banyan_partial_combine(out, lo, hi, value_dim, 1);
}

/* A plain sum in place of partials, to tell arithmetic from moving. */
static void give(void *ctx, float *out)
{
    memcpy(out, values, (size_t) * (int64_t *)ctx * sizeof *out);
}

static void take(void *ctx, const float *in)
{
    memcpy(values, in, (size_t) * (int64_t *)ctx * sizeof *in);
}

static int call(int method, int64_t number)
{
    int64_t messages = 0, bytes = 0, floats = heads * (int64_t)(value_dim + 2);
    const banyan_exchange_args p = {.data = item,
                                    .item_bytes = (size_t)(value_dim + 2) * sizeof(float),
                                    .combine = combine,
                                    .mark = {{"call", number}}};
    const banyan_pass pass = {BANYAN_SUM, floats, give, take};
    const banyan_pass_room where = {.values = room};
    if (method == 0)
        return MPI_Allreduce(MPI_IN_PLACE, values, (int)floats, MPI_FLOAT, MPI_SUM,
                             MPI_COMM_WORLD);
    if (method == methods - 1)
        return (int)banyan_merge_find("allreduce")
            ->reduce(comm, &pass, 1, &floats, &where, &messages, &bytes);
    return (int)banyan_exchange_run(exchange[method], comm, &p, &messages, &bytes);
}

static int make_exchange(int method, const char *merge, int all)
{
    int32_t everyone[256];
    banyan_item items[heads];
    banyan_schedule s = {0};
    for (int32_t r = 0; r < comm->size; r++) everyone[r] = r;
    for (int i = 0; i < heads; i++) items[i] = (banyan_item){everyone, comm->size, 0};
    banyan_merge_find(merge)->build(&comm->topology, items, heads, all, &s);
    banyan_schedule_sort(&s);
    const banyan_status status = banyan_exchange_create(
        &s, comm->rank, (size_t)(value_dim + 2) * sizeof(float), 1, NULL, &exchange[method]);
    banyan_schedule_free(&s);
    return status == BANYAN_OK;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void reset(void)
{
    for (int h = 0; h < heads; h++)
        for (int32_t d = 0; d < value_dim + 2; d++)
            values[h * (value_dim + 2) + d] = 0.5f + (float)((h + d + comm->rank) % 7);
}

static void report(double *time, int calls)
{
    double base = 0;
    for (int m = 0; m < methods; m++) {
        double *t = time + (size_t)m * (size_t)calls;
        qsort(t, (size_t)calls, sizeof *t, compare);
        if (!m) base = t[calls / 2];
        printf("%d ranks, %d bytes  %-15s  %8.2f us  (%.2f to %.2f)  %.2f of MPI_Allreduce\n",
               comm->size, heads * (value_dim + 2) * 4, names[m], t[calls / 2] * 1e6,
               t[calls / 10] * 1e6, t[calls * 9 / 10] * 1e6, t[calls / 2] / base);
    }
}

int main(int argc, char **argv)
{
    const int bytes = argc > 1 ? atoi(argv[1]) : 16384, calls = argc > 2 ? atoi(argv[2]) : 2000;
    value_dim = bytes / heads / 4 - 2;
    if (value_dim < 1 || bytes > most_floats * 4 || calls < 10 ||
        banyan_comm_create("mpi", NULL, &comm) || comm->size > 256)
        return 1;
    for (int h = 0; h < heads; h++) item[h] = values + h * (value_dim + 2);
    double *time = calloc((size_t)calls * methods, sizeof *time);
    if (!time || !make_exchange(1, "direct", 0) || !make_exchange(2, "direct", 1) ||
        !make_exchange(3, "butterfly", 1) || !make_exchange(4, "gather", 1))
        return 1;
    for (int n = -20; n < calls; n++) /* the first ones warm up */
        for (int m = 0; m < methods; m++) {
            reset();
            MPI_Barrier(MPI_COMM_WORLD);
            double took = MPI_Wtime();
            if (call(m, n)) return 1;
            took = MPI_Wtime() - took;
            MPI_Allreduce(MPI_IN_PLACE, &took, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
            if (n >= 0) time[(size_t)m * (size_t)calls + (size_t)n] = took;
        }
    if (comm->rank == 0) report(time, calls);
    for (int m = 0; m < methods; m++) banyan_exchange_destroy(exchange[m]);
    free(time);
    banyan_comm_destroy(comm);
    return 0;
}
