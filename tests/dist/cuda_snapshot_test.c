/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of caches on a device, on the emulator or on a GPU: saved and opened there, in
 * bf16, fp16 and e4m3 (codes and factors), they go on with the same bits; and one in 16-bit
 * numbers is opened on the CPU, where it answers as a cache that was filled there. Two ranks
 * are threads that share the device. */
#include "emulator.h"
#include "tests/comm/local.h"
#include "tests/dist/sequence.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

enum { HEADS = 4, KV_HEADS = 2, DIM = 64, TOKENS = 100, MORE = 30, ROWS = 100 };

typedef struct arrays {
    void *q, *k, *v, *out;
    float *lse;
} arrays;

static char folder[256];

static void *device(const void *from, size_t bytes)
{
    void *p = NULL;
    CHECK(cudaMalloc(&p, bytes) == cudaSuccess);
    CHECK(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() ==
          cudaSuccess); /* the cache's stream is ordered with no other */
    return p;
}

/* Rows of a token: multiples of 1/64 below 2, in bf16. */
static void fill(uint16_t *to, int what, int64_t at, int32_t rows, int32_t heads)
{
    for (int32_t r = 0; r < rows; r++) {
        uint64_t seed = (uint64_t)((at + r) * 3 + what);
        for (int32_t i = 0; i < heads * DIM; i++)
            to[r * heads * DIM + i] =
                banyan_bf16_from_float((float)(test_below(&seed, 256) - 128) / 64);
    }
}

/* Rows at .. of the cache's first sequence; their results, of heads whose home this is. */
static uint64_t call(banyan_cache *cache, int64_t at, int32_t rows, int on_device)
{
    static _Thread_local uint16_t q[ROWS * HEADS * DIM], k[ROWS * KV_HEADS * DIM],
        v[ROWS * KV_HEADS * DIM], out[ROWS * HEADS * DIM];
    banyan_rows part = {.at = at, .rows = rows};
    CHECK(banyan_sequence_open(cache, 0, &part.sequence) == BANYAN_OK);
    fill(q, 0, at, rows, HEADS);
    fill(k, 1, at, rows, KV_HEADS);
    fill(v, 2, at, rows, KV_HEADS);
    memset(out, 0, sizeof out);
    arrays a = {q, k, v, out, NULL};
    if (on_device)
        a = (arrays){device(q, sizeof q), device(k, sizeof k), device(v, sizeof v),
                     device(out, sizeof out), NULL};
    CHECK_MSG(banyan_attend(cache, 0, &part, 1, a.q, a.k, a.v, a.out, NULL) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK_MSG(banyan_cache_wait(cache) == BANYAN_OK, "%s", banyan_error_message());
    if (on_device) {
        CHECK(cudaMemcpy(out, a.out, sizeof out, cudaMemcpyDeviceToHost) == cudaSuccess);
        CHECK(cudaFree(a.q) == cudaSuccess && cudaFree(a.k) == cudaSuccess);
        CHECK(cudaFree(a.v) == cudaSuccess && cudaFree(a.out) == cudaSuccess);
    }
    return sequence_hash(out, sizeof *out * (size_t)(rows * HEADS * DIM), 1);
}

static void set_spec(banyan_spec *spec, banyan_dtype dtype, const char *on)
{
    static const banyan_rule window = {0, -1, 2, 3, "sink_window sink=1 window=40t"};
    banyan_spec_init(spec);
    spec->layers = 1;
    spec->heads = HEADS;
    spec->kv_heads = KV_HEADS;
    spec->key_dim = DIM;
    spec->rules = &window;
    spec->rule_count = 1;
    spec->max_tokens = 256;
    spec->max_rows = ROWS;
    spec->cache_dtype = dtype;
    spec->in_dtype = spec->out_dtype = BANYAN_BF16;
    spec->device = on;
    spec->placement = "spread";
    spec->threads = 1;
}

static uint64_t go_on(banyan_cache *cache, int on_device)
{
    uint64_t hash = call(cache, TOKENS, MORE - 1, on_device);
    return hash * 31 + call(cache, TOKENS + MORE - 1, 1, on_device);
}

static void test_dtype(banyan_comm *comm, void *arg)
{
    const banyan_dtype dtype = *(const banyan_dtype *)arg;
    banyan_spec spec;
    set_spec(&spec, dtype, "cuda");
    banyan_plan *plan = sequence_plan(&spec, comm), *host = NULL;
    banyan_cache *cache = sequence_cache(plan), *again = NULL, *there = NULL, *filled = NULL;
    for (int64_t at = 0; at < TOKENS; at += TOKENS / 2) call(cache, at, TOKENS / 2, 1);
    CHECK_MSG(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK_MSG(banyan_cache_open(plan, NULL, folder, &again) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK_MSG(go_on(cache, 1) == go_on(again, 1), "rank %d: other bits in %s", plan->rank,
              banyan_dtype_name(dtype));
    set_spec(&spec, dtype, "cpu");
    if (dtype != BANYAN_E4M3) {
        host = sequence_plan(&spec, comm);
        filled = sequence_cache(host);
        for (int64_t at = 0; at < TOKENS; at += TOKENS / 2) call(filled, at, TOKENS / 2, 0);
        CHECK_MSG(banyan_cache_open(host, NULL, folder, &there) == BANYAN_OK, "%s",
                  banyan_error_message());
        CHECK_MSG(go_on(filled, 0) == go_on(there, 0), "rank %d: other bits on the CPU in %s",
                  plan->rank, banyan_dtype_name(dtype));
    }
    banyan_cache_destroy(cache), banyan_cache_destroy(again);
    banyan_cache_destroy(there), banyan_cache_destroy(filled);
    banyan_plan_destroy(plan), banyan_plan_destroy(host);
}

int main(void)
{
    static const banyan_dtype dtypes[] = {BANYAN_BF16, BANYAN_F16, BANYAN_E4M3};
    char command[512];
    const char *fast = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(folder, sizeof folder, "%s/cuda_snapshot_test.%ld", fast, (long)getpid());
    for (int i = 0; i < 3; i++) {
        banyan_dtype dtype = dtypes[i];
        local_with(i == 1 ? 1 : 2, NULL, test_dtype, &dtype);
    }
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(system(command) == 0);
    return test_end();
}
