/* SPDX-License-Identifier: Apache-2.0 */
/* Caches on a device with the CUDA kernels, on the emulator or on a GPU, against the float64
 * oracle. What device_cache_test.c does for many ranks and patterns, here for the shapes that
 * the kernels have, and few ranks: threads that share the device, with messages staged on the
 * host. */

/* The kernels cut long lists for the multiprocessors of the device; parts are combined once
 * more. */
#define DEVICE_DECODES 4
#define DEVICE_PARTS 256
#define DEVICE_ROUNDS(dtype) bound_rounds("cuda", dtype)
#include "emulator.h"
#include "tests/dist/device_sequence.h"

#include <cuda_runtime_api.h>

#define BF16 BANYAN_BF16
#define F16 BANYAN_F16
#define F32 BANYAN_F32

/* clang-format off */
static const device_case cases[] = {
    {"dense", 2, 2, 64, 64, 140, 130, 5, BF16, BF16, BF16, {0}, "line", "direct",
     BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"mixed", 8, 2, 64, 64, 200, 130, 0, F16, F16, F32,
     {"0-3:s2 stride=2 local=1 per=query", "4-7:sink_window sink=5t window=70t"},
     "spread", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"of the prompt", 4, 2, 64, 64, 150, 120, 0, BF16, BF16, F32,
     {"0-1:a_shape prompt=90 sink=5t window=40t",
      "2-3:tri_shape prompt=110 last=30 sink=1 window=1"},
     "spread", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"spans and strides", 4, 2, 64, 64, 330, 130, 0, BF16, BF16, F32,
     {"0-1:span alpha=-40 beta=0.3 sink=20t",
      "2-3:strided local=1 stride1=2 range1=2 stride2=3"},
     "line", "direct", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"everywhere", 4, 1, 128, 64, 134, 100, 0, BF16, F32, F32, {"0-1:s2 stride=2 local=80t"},
     "spread", "butterfly", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 1},
    {"tree attention", 4, 2, 64, 64, 150, 120, 4, BF16, F32, F32, {"0-1:s2 stride=2 local=1"},
     "spread", "allreduce", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 0},
    {"wide heads", 4, 2, 256, 128, 150, 120, 0, F16, F16, F32,
     {"0-1:sink_window sink=5t window=70t"}, "spread", "tree",
     BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 1},
    {"two slots a block", 4, 2, 64, 128, 420, 130, 5, BF16, BF16, F32,
     {"0-1:s2 stride=2 local=1 per=query", "2-3:sink_window sink=5t window=70t"},
     "spread", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"small blocks", 8, 2, 64, 32, 200, 130, 5, F16, F16, F32,
     {"0-3:s2 stride=2 local=1 per=query", "4-7:sink_window sink=5t window=70t"},
     "spread", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0},
    {"small blocks, a head each", 2, 2, 128, 32, 150, 120, 0, BF16, BF16, F32,
     {"0-0:sink_window sink=5t window=70t"}, "spread", "direct",
     BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"small blocks, wide heads", 4, 1, 256, 32, 150, 120, 0, BF16, BF16, BF16,
     {"0-1:s2 stride=2 local=2"}, "line", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0},
    {"reduced to homes", 4, 2, 64, 64, 150, 120, 0, BF16, BF16, F32, {0}, "line", "allreduce",
     BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 1},
};
/* clang-format on */
enum { CASES = (int)(sizeof cases / sizeof *cases) };

static void test_one(banyan_comm *comm, void *arg)
{
    const device_case *c = arg;
    test_case(c, comm);
    if (c->rows >= 93) test_device_batches(c, comm);
}

static void with_ranks(int32_t ranks, const device_case *c)
{
    device_case one = *c;
    local_with(ranks, NULL, test_one, &one);
}

/* A thread that has gone on to another device: calls go to the cache's, and it is left as it
 * was. */
static void test_two_devices(void)
{
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_cache *cache = NULL;
    banyan_spec spec;
    void *kv = NULL;
    int current = 0;
    emulator_set_devices(2);
    if (cudaSetDevice(1) != cudaSuccess || cudaSetDevice(0) != cudaSuccess) {
        cudaGetLastError(); /* a machine with one */
        return;
    }
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = spec.kv_heads = 1;
    spec.key_dim = 64;
    spec.max_tokens = 200;
    spec.max_rows = 100;
    spec.cache_dtype = spec.in_dtype = spec.out_dtype = BANYAN_BF16;
    spec.device = "cuda";
    CHECK(banyan_comm_create("self", NULL, &comm) == BANYAN_OK);
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK);
    cache = sequence_cache(plan);
    CHECK(cudaMalloc(&kv, 100 * 64 * 2) == cudaSuccess);
    CHECK(cudaMemset(kv, 0, 100 * 64 * 2) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(cudaSetDevice(1) == cudaSuccess);
    for (int i = 0; i < 2; i++)
        CHECK_MSG(sequence_attend(cache, 0, 100 * i, 100, kv, kv, kv, kv, NULL) == BANYAN_OK,
                  "%s", banyan_error_message());
    CHECK_MSG(banyan_cache_wait(cache) == BANYAN_OK, "%s", banyan_error_message());
    CHECK(cudaGetDevice(&current) == cudaSuccess && current == 1);
    banyan_cache_destroy(cache);
    CHECK(cudaGetDevice(&current) == cudaSuccess && current == 1);
    CHECK(cudaSetDevice(0) == cudaSuccess && cudaFree(kv) == cudaSuccess);
    emulator_set_devices(1);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
}

int main(void)
{
    test_two_devices();
    for (int i = 0; i < CASES; i++) {
        with_ranks(i == 0 ? 1 : i == 1 || i == 4 ? 3 : 2, &cases[i]);
    }
    return test_end();
}
