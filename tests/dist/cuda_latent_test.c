/* SPDX-License-Identifier: Apache-2.0 */
/* DeepSeek's latent attention (arXiv 2405.04434, section 2.1, absorbed) on a device: keys of
 * 576 numbers, of which the first 512 are the value, read by more query heads than a strip has
 * bits. With the CUDA kernels, on the emulator or on a GPU, beside the same calls on the CPU,
 * which latent_test holds against the oracle: decoded rows of two sequences in one call, a few
 * rows at once, rows of two blocks, ranges of tokens, sinks, and a graph of a step; on one
 * rank, in blocks of two slots, and on three, in blocks of half a record. And a graph of as
 * many sequences, rows and heads as a step may have. In fp16, as cuda_parts_test.c. */
#include "emulator.h"
#include "tests/comm/local.h"
#include "tests/dist/device_arrays.h"

enum { HEADS = 70, KEY = 576, VALUE = 512, TOKENS = 150, ROWS = 120 };
enum { MOST = 9, CALLS = 6 }; /* rows that attend in a call; calls that do */

static float sinks[HEADS];

/* Rows of all calls, as drawn, and results of each call. */
typedef struct numbers {
    uint16_t q[MOST * HEADS * KEY], k[ROWS * KEY];
} numbers;
typedef struct results {
    float out[CALLS][MOST * HEADS * VALUE], lse[CALLS][MOST * HEADS];
} results;

static banyan_plan *plan_of(banyan_comm *comm, const char *device)
{
    static const banyan_layer_shape shape = {0, -1, 1, KEY, VALUE, 0.0722f, 1};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = HEADS;
    spec.kv_heads = 1;
    spec.key_dim = KEY;
    spec.value_dim = VALUE;
    spec.shapes = &shape;
    spec.shape_count = 1;
    spec.sinks = sinks;
    spec.max_tokens = TOKENS;
    spec.max_rows = ROWS;
    spec.rollback_tokens = MOST;
    spec.sequences = 2;
    spec.pool_tokens = 2 * TOKENS;
    spec.cache_dtype = spec.in_dtype = BANYAN_F16;
    spec.placement = "spread";
    spec.block_tokens = comm->size == 1 ? 128 : 32;
    spec.threads = 1;
    spec.device = device;
    return sequence_plan(&spec, comm);
}

/* A rank's cache, and the arrays of its calls where that is. */
typedef struct scene {
    banyan_cache *cache;
    banyan_sequence *of[2];
    uint16_t *q, *k;
    float *out, *lse;
    cudaStream_t stream; /* NULL: the CPU */
    results *results;
} scene;

static void attend(const scene *s, const banyan_rows *part, int32_t parts, int has_q, int has_k)
{
    CHECK_MSG(banyan_attend(s->cache, 0, part, parts, has_q ? s->q : NULL, has_k ? s->k : NULL,
                            NULL, s->out, s->lse) == BANYAN_OK,
              "%s", banyan_error_message());
}

static void keep(const scene *s, int call)
{
    arrays_down(s->cache, s->results->out[call], s->out, sizeof s->results->out[call]);
    arrays_down(s->cache, s->results->lse[call], s->lse, sizeof s->results->lse[call]);
}

/* A step of the two sequences, and the same after it: on a device a graph, replayed. */
static void play_steps(const scene *s)
{
    const banyan_rows captured[2] = {{.rows = 1}, {.rows = 2}};
    cudaGraphExec_t exec = NULL;
    if (s->stream) {
        arrays_capture(s->stream);
        CHECK(banyan_cache_step(s->cache, captured, 2) == BANYAN_OK);
        attend(s, captured, 2, 1, 1);
        exec = arrays_captured(s->stream);
    }
    for (int i = 0; i < 2; i++) { /* the second one ends a block of sequence 1 and begins one */
        const banyan_rows step[2] = {{.sequence = s->of[0], .at = 132 + i, .rows = 1},
                                     {.sequence = s->of[1], .at = 61 + 2 * i, .rows = 2}};
        CHECK_MSG(banyan_cache_step(s->cache, step, 2) == BANYAN_OK, "%s",
                  banyan_error_message());
        if (s->stream)
            CHECK(cudaGraphLaunch(exec, s->stream) == cudaSuccess);
        else
            attend(s, step, 2, 1, 1);
        keep(s, 4 + i);
    }
    if (exec) cudaGraphExecDestroy(exec);
}

static void play_calls(const scene *s)
{
    const banyan_rows first[2] = {{.sequence = s->of[0], .rows = 70},
                                  {.sequence = s->of[1], .rows = 50}};
    const banyan_rows more[2] = {{.sequence = s->of[0], .at = 70, .rows = 50},
                                 {.sequence = s->of[1], .at = 50, .rows = 10}};
    const banyan_rows decode[2] = {{.sequence = s->of[0], .at = 120, .rows = 3},
                                   {.sequence = s->of[1], .at = 60, .rows = 1}};
    const banyan_rows both = {.sequence = s->of[0], .at = 123, .rows = MOST};
    const banyan_rows ranges[2] = {
        {.sequence = s->of[0], .at = 130, .rows = 2, .end = 65},
        {.sequence = s->of[1], .at = 59, .rows = 2, .first = 9, .end = 58}};
    const banyan_rows one = {.sequence = s->of[0], .at = 131, .rows = 1};
    attend(s, first, 2, 0, 1);
    attend(s, more, 2, 0, 1);
    attend(s, decode, 2, 1, 1), keep(s, 0);
    attend(s, &both, 1, 1, 1), keep(s, 1);
    attend(s, ranges, 2, 1, 0), keep(s, 2);
    attend(s, &one, 1, 1, 0), keep(s, 3);
}

static void play(banyan_plan *plan, const numbers *n, results *r)
{
    scene s = {.results = r};
    memset(r, 0, sizeof *r);
    s.cache = arrays_cache(plan, &s.stream);
    s.q = arrays_up(s.cache, n->q, sizeof n->q);
    s.k = arrays_up(s.cache, n->k, sizeof n->k);
    s.out = arrays_up(s.cache, r->out[0], sizeof r->out[0]);
    s.lse = arrays_up(s.cache, r->lse[0], sizeof r->lse[0]);
    for (int i = 0; i < 2; i++)
        CHECK(banyan_sequence_create(s.cache, (uint64_t)i, &s.of[i]) == BANYAN_OK);
    play_calls(&s);
    /* messages through the host are not captured */
    if (plan->ranks == 1) play_steps(&s);
    arrays_release(s.cache, s.q), arrays_release(s.cache, s.k);
    arrays_release(s.cache, s.out), arrays_release(s.cache, s.lse);
    banyan_cache_destroy(s.cache);
    if (s.stream) cudaStreamDestroy(s.stream);
}

/* Weights are rounded to fp16: 2^-11 of the largest value, below 6; q as well here, which the
 * CPU's kernels do not: its numbers are fp16. lse comes from sums before the first. */
static void compare(const results *got, const results *expect, int rank)
{
    for (int c = 0; c < CALLS; c++) {
        const double out = arrays_differ(got->out[c], expect->out[c], MOST * HEADS * VALUE);
        const double lse = arrays_differ(got->lse[c], expect->lse[c], MOST * HEADS);
        CHECK_MSG(out <= 2 * 6 * 0x1p-11 && lse <= 1e-5,
                  "rank %d call %d: out differs by %g, lse by %g", rank, c, out, lse);
    }
}

static void test_rank(banyan_comm *comm, void *arg)
{
    uint64_t seed = 5;
    (void)arg;
    numbers *n = malloc(sizeof *n);
    results *on_device = malloc(sizeof *on_device), *on_host = malloc(sizeof *on_host);
    banyan_plan *device = plan_of(comm, "cuda"), *host = plan_of(comm, "cpu");
    if (device && host) {
        arrays_draw(n->q, MOST * HEADS * KEY, &seed);
        arrays_draw(n->k, ROWS * KEY, &seed);
        play(host, n, on_host);
        play(device, n, on_device);
        compare(on_device, on_host, banyan_comm_rank(comm));
        if (comm->size == 1) CHECK(on_host->out[5][0] != 0);
    }
    banyan_plan_destroy(device);
    banyan_plan_destroy(host);
    free(n), free(on_device), free(on_host);
}

/* A shape that is nearly this one is refused by what there is. */
static void test_refusal(void)
{
    const banyan_layer_shape shape = {0, -1, 1, KEY, 256, 0, 1};
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = spec.heads = spec.kv_heads = 1;
    spec.key_dim = KEY;
    spec.value_dim = 256;
    spec.shapes = &shape;
    spec.shape_count = 1;
    spec.max_tokens = spec.max_rows = TOKENS;
    spec.cache_dtype = BANYAN_BF16;
    spec.device = "cuda";
    CHECK(banyan_comm_create("self", NULL, &comm) == BANYAN_OK);
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_CONFIG);
    CHECK_MSG(
        strstr(banyan_error_message(),
               "no kernel for block_tokens 64, key_dim 576, value_dim 256 in the key, "
               "cache_dtype bf16: expected block_tokens 32, 64, 128, 256, (key_dim, value_dim) "
               "(64, 64), (96, 96), (128, 128), (256, 256), (576, 512 in the key), "
               "cache_dtype bf16, fp16, fp8"),
        "%s", banyan_error_message());
    banyan_comm_destroy(comm);
}

/* ---- steps of many sequences ------------------------------------------------------------- */

enum { MANY = 64, MANY_HEADS = 128, MANY_ROWS = 4 };

static banyan_plan *plan_of_many(banyan_comm *comm, const char *device)
{
    static const banyan_layer_shape shape = {.last_layer = -1, .value_in_key = 1};
    banyan_spec spec;
    banyan_plan *plan = NULL;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = MANY_HEADS;
    spec.kv_heads = 1;
    spec.key_dim = KEY;
    spec.value_dim = VALUE;
    spec.shapes = &shape;
    spec.shape_count = 1;
    spec.max_tokens = 2048;
    spec.max_rows = MANY * MANY_ROWS;
    spec.sequences = MANY;
    spec.pool_tokens = MANY * 64;
    spec.block_tokens = 32;
    spec.cache_dtype = spec.in_dtype = BANYAN_F16;
    spec.threads = 1;
    spec.device = device;
    CHECK_MSG(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK, "%s",
              banyan_error_message());
    return plan;
}

static cudaGraphExec_t capture_many(const scene *s, int32_t parts)
{
    banyan_rows part[MANY] = {{0}};
    for (int32_t i = 0; i < parts; i++) part[i].rows = MANY_ROWS;
    arrays_capture(s->stream);
    CHECK_MSG(banyan_cache_step(s->cache, part, parts) == BANYAN_OK, "%s",
              banyan_error_message());
    attend(s, part, parts, 1, 1);
    return arrays_captured(s->stream);
}

/* A graph of nine sequences, replayed with three, of which two are in its second launch and its
 * third; and one of all, captured. */
static void play_many(banyan_plan *plan, const uint16_t *rows, float *out, size_t out_bytes)
{
    enum { PARTS = 9 };
    static const int32_t there[] = {1, 5, 8};
    scene s = {0};
    banyan_rows step[PARTS] = {{0}};
    cudaGraphExec_t exec = NULL;
    const size_t all = (size_t)MANY * MANY_ROWS * MANY_HEADS * KEY * 2;
    s.cache = arrays_cache(plan, &s.stream);
    s.q = arrays_up(s.cache, rows, all);
    s.k = arrays_up(s.cache, rows, all / MANY_HEADS);
    s.out = arrays_up(s.cache, out, out_bytes);
    s.lse = arrays_up(s.cache, out, (size_t)MANY * MANY_ROWS * MANY_HEADS * 4);
    for (int i = 0; i < 3; i++) {
        step[there[i]] = (banyan_rows){.at = 29, .rows = MANY_ROWS};
        CHECK(banyan_sequence_create(s.cache, 0, &step[there[i]].sequence) == BANYAN_OK);
        const banyan_rows begun = {.sequence = step[there[i]].sequence, .rows = 29};
        attend(&s, &begun, 1, 0, 1);
    }
    if (s.stream) {
        cudaGraphExecDestroy(capture_many(&s, MANY));
        exec = capture_many(&s, PARTS);
    }
    CHECK_MSG(banyan_cache_step(s.cache, step, PARTS) == BANYAN_OK, "%s",
              banyan_error_message());
    if (exec) {
        CHECK(cudaGraphLaunch(exec, s.stream) == cudaSuccess);
        cudaGraphExecDestroy(exec);
    } else {
        /* rows stand where the graph has them */
        for (int32_t i = 0; i < 3; i++) {
            scene one = s;
            const int32_t first = there[i] * MANY_ROWS;
            one.q += (size_t)first * MANY_HEADS * KEY;
            one.k += (size_t)first * KEY;
            one.out += (size_t)first * MANY_HEADS * VALUE;
            one.lse += (size_t)first * MANY_HEADS;
            attend(&one, &step[there[i]], 1, 1, 1);
        }
    }
    arrays_down(s.cache, out, s.out, out_bytes);
    arrays_release(s.cache, s.q), arrays_release(s.cache, s.k);
    arrays_release(s.cache, s.out), arrays_release(s.cache, s.lse);
    banyan_cache_destroy(s.cache);
    if (s.stream) cudaStreamDestroy(s.stream);
}

static void test_many(void)
{
    const size_t numbers = (size_t)MANY * MANY_ROWS * MANY_HEADS * VALUE;
    const size_t bytes = numbers * sizeof(float);
    uint16_t *rows = malloc((size_t)MANY * MANY_ROWS * MANY_HEADS * KEY * 2);
    float *on_device = calloc(1, bytes), *on_host = calloc(1, bytes);
    banyan_comm *comm = NULL;
    uint64_t seed = 7;
    double size = 0;
    const int processors = emulator_get_multiprocessors();
    emulator_set_multiprocessors(2);
    CHECK(banyan_comm_create("self", NULL, &comm) == BANYAN_OK);
    arrays_draw(rows, 36 * MANY_HEADS * KEY, &seed);
    memset(rows + (size_t)36 * MANY_HEADS * KEY, 0,
           (size_t)(MANY * MANY_ROWS - 36) * MANY_HEADS * KEY * 2);
    banyan_plan *device = plan_of_many(comm, "cuda"), *host = plan_of_many(comm, "cpu");
    if (device && host) {
        play_many(host, rows, on_host, bytes);
        play_many(device, rows, on_device, bytes);
    }
    for (size_t i = 0; i < numbers; i++) size = fmax(size, fabs(on_host[i]));
    const double off = arrays_differ(on_device, on_host, numbers);
    CHECK_MSG(size > 0 && off <= 2 * 6 * 0x1p-11, "a step of many: out differs by %g of %g",
              off, size);
    emulator_set_multiprocessors(processors);
    banyan_plan_destroy(device);
    banyan_plan_destroy(host);
    banyan_comm_destroy(comm);
    free(rows), free(on_device), free(on_host);
}

int main(void)
{
    for (int h = 0; h < HEADS; h++) sinks[h] = h % 3 ? (float)(h % 7) - 3 : -INFINITY;
    test_refusal();
    test_many();
    for (int32_t ranks = 1; ranks <= 3; ranks += 2) local_with(ranks, NULL, test_rank, NULL);
    return test_end();
}
