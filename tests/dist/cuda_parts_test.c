/* SPDX-License-Identifier: Apache-2.0 */
/* What may be asked of parts, with the CUDA kernels, on the emulator or on a GPU, beside the
 * same calls on the CPU, which other tests hold against the oracle: sinks, ranges of tokens and
 * their combination, and layers of two shapes, one of which reads what another keeps; on one
 * rank and on three. In fp16, where the kernels round but the weights (2^-11 of each), and all
 * else is fp32. */
#include "emulator.h"
#include "tests/comm/local.h"
#include "tests/dist/device_arrays.h"

enum { LAYERS = 3, HEADS = 4, MOST_DIM = 256, TOKENS = 150, ROWS = 140, PARTS = 3, CALLS = 5 };
enum { FLOATS = ROWS * HEADS * MOST_DIM };

static const float sinks[LAYERS * HEADS] = {-INFINITY, 0, 5,         -10,       3, 1,
                                            -INFINITY, 2, -INFINITY, -INFINITY, 4, -INFINITY};

/* Rows of all calls, as drawn, and results of each call. */
typedef struct numbers {
    uint16_t q[FLOATS], k[FLOATS], v[FLOATS];
} numbers;
typedef struct results {
    float out[CALLS][LAYERS][FLOATS], lse[CALLS][LAYERS][ROWS * HEADS];
} results;

static banyan_plan *plan_of(banyan_comm *comm, const char *device)
{
    static const banyan_layer_shape wide = {
        .first_layer = 1, .last_layer = 1, .kv_heads = 1, .key_dim = 256, .value_dim = 256};
    static const int32_t cache_layer[LAYERS] = {0, 1, 0};
    static const banyan_rule rules[2] = {{0, 1, 2, 3, "sink_window sink=3t window=70t"},
                                         {2, 2, 0, 1, "s2 stride=2 local=1 per=query"}};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = LAYERS;
    spec.heads = HEADS;
    spec.kv_heads = 2;
    spec.key_dim = 64;
    spec.shapes = &wide;
    spec.shape_count = 1;
    spec.cache_layer = cache_layer;
    spec.sinks = sinks;
    spec.rules = rules;
    spec.rule_count = 2;
    spec.max_tokens = TOKENS;
    spec.max_rows = ROWS;
    spec.sequences = 3;
    spec.pool_tokens = 4 * TOKENS;
    spec.rollback_tokens = TOKENS;
    spec.evict = 0;
    spec.cache_dtype = spec.in_dtype = BANYAN_F16;
    spec.placement = "spread";
    spec.threads = 1;
    spec.device = device;
    return sequence_plan(&spec, comm);
}

/* The arrays of a rank's calls, where its cache is. */
typedef struct arrays {
    banyan_cache *cache;
    void *q, *k, *v, *out[PARTS + 1];
    float *lse[PARTS + 1];
} arrays;

static void keep(const arrays *a, int32_t from, results *r, int call, int32_t layer)
{
    arrays_down(a->cache, r->out[call][layer], a->out[from], sizeof r->out[call][layer]);
    arrays_down(a->cache, r->lse[call][layer], a->lse[from], sizeof r->lse[call][layer]);
}

static void attend(const arrays *a, int32_t layer, const banyan_rows *part, int32_t parts,
                   int appends, int32_t to)
{
    const int has_k = appends && layer != 2;
    CHECK_MSG(banyan_attend(a->cache, layer, part, parts, a->q, has_k ? a->k : NULL,
                            has_k ? a->v : NULL, a->out[to], a->lse[to]) == BANYAN_OK,
              "%s", banyan_error_message());
}

/* Parts of one query each that attend to a third of the tokens each, combined; in place,
 * too. */
static void combine(const arrays *a, banyan_sequence *of, results *r, int32_t layer,
                    int in_place)
{
    static const banyan_range third[PARTS] = {{0, 40}, {40, 101}, {101, TOKENS}};
    const void *const outs[PARTS] = {a->out[0], a->out[1], a->out[2]};
    const float *const lses[PARTS] = {a->lse[0], a->lse[1], a->lse[2]};
    const int to = in_place ? 1 : PARTS;
    for (int32_t i = 0; i < PARTS; i++) {
        const banyan_rows part = {
            .sequence = of, .at = 90, .rows = 30, .first = third[i].first, .end = third[i].end};
        attend(a, layer, &part, 1, 0, i);
    }
    CHECK_MSG(banyan_combine(a->cache, layer, 30, PARTS, outs, lses, a->out[to], a->lse[to]) ==
                  BANYAN_OK,
              "%s", banyan_error_message());
    keep(a, to, r, 3 + in_place, layer);
}

static void play(banyan_plan *plan, const numbers *n, results *r)
{
    cudaStream_t stream;
    arrays a = {.cache = arrays_cache(plan, &stream)};
    banyan_sequence *of[2] = {NULL};
    memset(r, 0, sizeof *r);
    a.q = arrays_up(a.cache, n->q, sizeof n->q);
    a.k = arrays_up(a.cache, n->k, sizeof n->k);
    a.v = arrays_up(a.cache, n->v, sizeof n->v);
    for (int i = 0; i <= PARTS; i++) {
        a.out[i] = arrays_up(a.cache, r->out[0][0], sizeof r->out[0][0]);
        a.lse[i] = arrays_up(a.cache, r->lse[0][0], sizeof r->lse[0][0]);
    }
    for (int i = 0; i < 2; i++)
        CHECK(banyan_sequence_create(a.cache, (uint64_t)i, &of[i]) == BANYAN_OK);
    const banyan_rows first[2] = {{.sequence = of[0], .rows = 120},
                                  {.sequence = of[1], .rows = 20}};
    const banyan_rows decode[2] = {{.sequence = of[0], .at = 120, .rows = 1},
                                   {.sequence = of[1], .at = 20, .rows = 2}};
    const banyan_rows ranges[3] = {
        {.sequence = of[0], .at = 118, .rows = 2, .end = 64},
        {.sequence = of[0], .at = 118, .rows = 2},
        {.sequence = of[1], .at = 3, .rows = 1, .first = 9, .end = 70}};
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        attend(&a, layer, first, 2, 1, PARTS);
        keep(&a, PARTS, r, 0, layer);
    }
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        attend(&a, layer, decode, 2, 1, PARTS);
        keep(&a, PARTS, r, 1, layer);
        attend(&a, layer, ranges, 3, 0, PARTS);
        keep(&a, PARTS, r, 2, layer);
        combine(&a, of[0], r, layer, 0);
        combine(&a, of[0], r, layer, 1);
    }
    arrays_release(a.cache, a.q), arrays_release(a.cache, a.k), arrays_release(a.cache, a.v);
    for (int i = 0; i <= PARTS; i++)
        arrays_release(a.cache, a.out[i]), arrays_release(a.cache, a.lse[i]);
    banyan_cache_destroy(a.cache);
    if (stream) cudaStreamDestroy(stream);
}

/* Weights are rounded to fp16: 2^-11 of the largest value, below 6, twice with a combination; a
 * share of the sink's makes it less. lse comes from sums before that rounding. */
static void compare(const results *got, const results *expect, int rank)
{
    for (int c = 0; c < CALLS; c++)
        for (int32_t l = 0; l < LAYERS; l++) {
            const double out = arrays_differ(got->out[c][l], expect->out[c][l], FLOATS);
            const double lse = arrays_differ(got->lse[c][l], expect->lse[c][l], ROWS * HEADS);
            CHECK_MSG(out <= 2 * 6 * 0x1p-11 && lse <= 1e-5,
                      "rank %d call %d layer %d: out differs by %g, lse by %g", rank, c, (int)l,
                      out, lse);
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
        arrays_draw(n->q, FLOATS, &seed);
        arrays_draw(n->k, FLOATS, &seed);
        arrays_draw(n->v, FLOATS, &seed);
        play(host, n, on_host);
        play(device, n, on_device);
        compare(on_device, on_host, banyan_comm_rank(comm));
    }
    banyan_plan_destroy(device);
    banyan_plan_destroy(host);
    free(n), free(on_device), free(on_host);
}

int main(void)
{
    for (int32_t ranks = 1; ranks <= 3; ranks += 2) local_with(ranks, NULL, test_rank, NULL);
    return test_end();
}
