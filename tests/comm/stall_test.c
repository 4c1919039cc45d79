/* SPDX-License-Identifier: Apache-2.0 */
/* stall_test stopped MERGE | killed MERGE | ended: rank 2 stands still or dies in the middle of
 * a series of merges, or after it. Every other rank ends within the time limit, the moment in
 * which ranks listen for each other, and a little; its message names rank 2, whomever it waited
 * for itself, and the merge that did not come to its end. Some MPIs say at once that nothing
 * can be sent to a process that died. The job ends with exit code 7 when all checks passed. */
#include "comm/comm.h"
#include "tests/world.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { victim = 2, when = 40, items = 5, floats = 32 };

static const double limit =
    1; /* seconds; as long again to listen, and more for a busy machine */

static banyan_comm *comm;
static int rank, size;
static float value[items][floats], room[2 * items * floats];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void add(void *ctx, void *out, const void *lo, const void *hi, size_t bytes)
{
    (void)ctx;
    for (size_t i = 0; i < bytes / sizeof(float); i++)
        ((float *)out)[i] = ((const float *)lo)[i] + ((const float *)hi)[i];
}

static void give(void *ctx, float *out)
{
    memcpy(out, ctx, sizeof value);
}

static void take(void *ctx, const float *in)
{
    memcpy(ctx, in, sizeof value);
}

/* One merge after another, for all ranks: nobody can run ahead. */
static banyan_status merge(const banyan_merge *row, banyan_exchange *x, int64_t number)
{
    int64_t messages = 0, bytes = 0;
    void *data[items];
    for (int i = 0; i < items; i++) data[i] = value[i];
    const banyan_exchange_args p = {.data = data,
                                    .item_bytes = sizeof value[0],
                                    .combine = add,
                                    .mark = {{"merge", number}}};
    const banyan_pass pass = {BANYAN_SUM, items * floats, give, take};
    const banyan_pass_room where = {.values = room};
    if (row->build) return banyan_exchange_run(x, comm, &p, &messages, &bytes);
    const banyan_status status = row->reduce(comm, &pass, 1, value, &where, &messages, &bytes);
    return status ? banyan_fail_at(status, p.mark, 1) : status;
}

static void check_words(banyan_status status, double took, int sign)
{
    const char *words = banyan_error_message(), *at_once = "sending to rank 2: ";
    char begin[64], end[64];
    snprintf(begin, sizeof begin, "rank %d waited 1 s: rank", rank);
    snprintf(end, sizeof end, "(merge %d", when);
    CHECK(status == BANYAN_ERR_COMM);
    CHECK_MSG(took < limit + 5, "%g s", took);
    CHECK_MSG(strstr(words, end), "%s", words);
    if (sign == SIGKILL && !strncmp(words, at_once, strlen(at_once))) return;
    CHECK_MSG(took >= limit, "%g s", took);
    CHECK_MSG(!strncmp(words, begin, strlen(begin)), "%s", words);
    const char *blamed = strstr(words, "no sign of rank 2");
    CHECK_MSG(blamed || strstr(words, ": rank 2 did not arrive"), "%s", words);
    fprintf(stderr, "%s\n", words);
}

static void test_merges(const banyan_merge *row, int sign)
{
    int32_t everyone[64];
    banyan_item item[items];
    banyan_schedule s = {0};
    banyan_exchange *x = NULL;
    for (int r = 0; r < size; r++) everyone[r] = r;
    for (int i = 0; i < items; i++) item[i] = (banyan_item){everyone, size, 0};
    if (row->build) row->build(&comm->topology, item, items, 1, &s);
    banyan_schedule_sort(&s);
    CHECK(banyan_exchange_create(&s, rank, sizeof value[0], 1, NULL, &x) == BANYAN_OK);
    banyan_status status = BANYAN_OK;
    double begin = 0;
    for (int n = 0; n < 2 * when && !status; n++) {
        if (n == when && rank == victim) {
            raise(sign);
            _exit(7); /* mpirun wakes it to end it: what it says then is no survivor's word */
        }
        begin = now();
        status = merge(row, x, n);
    }
    check_words(status, now() - begin, sign);
    banyan_exchange_destroy(x);
    banyan_schedule_free(&s);
}

int main(int argc, char **argv)
{
    const char *fault = argc > 1 ? argv[1] : "";
    comm = test_comm("mpi");
    rank = banyan_comm_rank(comm);
    size = banyan_comm_size(comm);
    CHECK(size > victim && size <= 64);
    banyan_comm_timeout(comm, limit);
    if (argc > 2)
        test_merges(banyan_merge_find(argv[2]), !strcmp(fault, "killed") ? SIGKILL : SIGSTOP);
    else if (rank == victim)
        raise(SIGSTOP);
    const double begin = now();
    banyan_comm_destroy(comm); /* would wait in MPI_Finalize */
    CHECK_MSG(now() - begin < limit + 3, "%g s", now() - begin);
    const int failures = test_end();
    if (!failures) sleep(1); /* so that an earlier rank's failure is the job's */
    return failures ? failures : 7;
}
