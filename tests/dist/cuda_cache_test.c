/* SPDX-License-Identifier: Apache-2.0 */
/* Caches on a device with the CUDA kernels, on the emulator or on a GPU, against the float64 oracle. What
 * device_cache_test.c does for many ranks and patterns, here for the shapes that the kernels have, and
 * few ranks: threads that share the device, with messages staged on the host. */

/* The kernels cut long lists for the multiprocessors of the device; parts are combined once more. */
#define DEVICE_DECODES 4
#define DEVICE_PARTS 256
#define DEVICE_ROUNDS(dtype) bound_rounds("cuda", dtype)
#include "tests/dist/device_sequence.h"

#define BF16 BANYAN_BF16
#define F16 BANYAN_F16
#define F32 BANYAN_F32

/* clang-format off */
static const device_case cases[] = {
    {"dense", 2, 2, 64, 64, 140, 130, 5, BF16, BF16, BF16, {0}, "line", "direct",
     BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"mixed", 8, 2, 64, 64, 200, 130, 0, F16, F16, F32,
     {"0-3:s2 stride=2 local=1 per=query", "4-7:sink_window sink=5t window=70t"}, "spread", "tree",
     BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"everywhere", 4, 1, 128, 64, 134, 100, 0, BF16, F32, F32, {"0-1:s2 stride=2 local=80t"},
     "spread", "butterfly", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 1},
    {"tree attention", 4, 2, 64, 64, 150, 120, 4, BF16, F32, F32, {"0-1:s2 stride=2 local=1"},
     "spread", "allreduce", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 0},
    {"reduced to homes", 4, 2, 64, 64, 150, 120, 0, BF16, BF16, F32, {0}, "line", "allreduce",
     BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 1},
};
/* clang-format on */
enum { CASES = (int)(sizeof cases / sizeof *cases), RANKS = 3 };

static void test_one(banyan_comm *comm, void *arg)
{
    test_case(arg, comm);
}

static void with_ranks(int32_t ranks, const device_case *c)
{
    banyan_comm *comm[RANKS] = {NULL};
    device_case one = *c;
    CHECK(local_create(ranks, NULL, NULL, comm) == BANYAN_OK);
    local_run(comm, ranks, test_one, &one);
    for (int32_t r = 0; r < ranks; r++) banyan_comm_destroy(comm[r]);
}

int main(void)
{
    for (int i = 0; i < CASES; i++) {
        with_ranks(i == 0 ? 1 : i == 1 || i == 4 ? RANKS : 2, &cases[i]);
    }
    return test_end();
}
