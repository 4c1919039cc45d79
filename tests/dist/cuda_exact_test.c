/* SPDX-License-Identifier: Apache-2.0 */
/* Reproducible results on a device, with the CUDA kernels, on the emulator or on a GPU: out,
 * lse and probed mass have the bits that one rank has alone, whatever the number of ranks,
 * placement and merge, and however many multiprocessors lists are cut for; and they are within
 * the oracle's bounds. Ranks are threads that share the device. Data: usual, scores of +-200
 * and values of all sizes, NaN and inf in some keys and values, and sums of as many blocks of
 * the largest terms as a bin that were 2^16 times too small could not hold. */
#define DEVICE_DECODES 3
#define DEVICE_PARTS 0 /* integers are added, not rounded */
#define DEVICE_ROUNDS(dtype) bound_rounds("cuda", dtype)
#include "emulator.h"
#include "tests/dist/device_sequence.h"

#define BF16 BANYAN_BF16
#define F16 BANYAN_F16
#define F32 BANYAN_F32

enum { USUAL, ANY_SIZE, ODD, FULL };

typedef struct exact_case {
    int data;
    int32_t ranks,
        multiprocessors; /* of the run that is compared with one rank's, on 132 of them */
    const char *placement, *merge;
    banyan_out where;
    device_case is;
} exact_case;

#define ALONE "line", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0
/* clang-format off */
static const exact_case cases[] = {
    {USUAL, 2, 7, "line", "direct", BANYAN_OUT_HOME,
     {"long lists", 4, 1, 64, 64, 700, 20, 0, BF16, BF16, BF16, {0}, ALONE}},
    {ANY_SIZE, 3, 1, "spread", "tree", BANYAN_OUT_HOME,
     {"patterns", 8, 2, 64, 64, 330, 70, 3, F16, F32, F32,
      {"0-3:s2 stride=2 local=1 per=query", "4-7:sink_window sink=5t window=70t"}, ALONE}},
    {USUAL, 7, 132, "spread", "butterfly", BANYAN_OUT_ALL,
     {"many ranks", 4, 2, 96, 64, 520, 12, 0, F16, F16, F32, {0}, ALONE}},
    {ODD, 4, 7, "spread", "gather", BANYAN_OUT_HOME,
     {"odd numbers", 4, 2, 128, 64, 300, 30, 0, BF16, F32, F32,
      {"0-1:s2 stride=2 local=80t"}, ALONE}},
    {USUAL, 2, 1, "spread", "direct", BANYAN_OUT_ALL,
     {"e4m3", 4, 2, 128, 64, 300, 20, 2, BANYAN_E4M3, BF16, F32, {0}, ALONE}},
    {ANY_SIZE, 3, 7, "spread", "tree", BANYAN_OUT_HOME,
     {"two slots a block", 4, 2, 64, 128, 400, 30, 0, BANYAN_E4M3, F32, F32,
      {"0-1:sink_window sink=5t window=200t"}, ALONE}},
    {USUAL, 3, 7, "line", "tree", BANYAN_OUT_HOME,
     {"wide heads", 2, 1, 256, 64, 260, 6, 0, BF16, BF16, F32, {0}, ALONE}},
    {FULL, 2, 7, "line", "tree", BANYAN_OUT_HOME,
     {"full bins", 1, 1, 64, 64, 9000, 48, 0, BF16, F32, F32, {0}, ALONE}},
};
/* clang-format on */
enum { CASES = (int)(sizeof cases / sizeof *cases), MOST_RANKS = 7 };

/* Rewrites numbers of fp32, of both layers. Odd ones are in keys of layer 0 and in values of
 * layer 1, so that there rows are numbers but for some dims. */
static void spoil(float *in, int64_t count, int data, int is_value, uint64_t seed)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (int64_t i = 0; i < count; i++) {
        const uint64_t draw = test_random(&seed);
        const int is_second = i >= count / LAYERS;
        if (data == ANY_SIZE)
            in[i] = is_value ? ldexpf(in[i], (int)(draw % 24) - 12) : 6 * in[i];
        if (data == FULL) in[i] = is_value ? ldexpf(1.96875f, (int)(i % 9)) : 0;
        if (data == ODD && is_value == is_second && draw % 4000 == 0)
            in[i] = odd[draw / 4000 % 4];
    }
}

/* As a cache has it. Of e4m3 a row has a factor, by which its largest number becomes 448. */
static void round_rows(float *x, int64_t count, int32_t dim, banyan_dtype dtype)
{
    if (dtype != BANYAN_E4M3) {
        oracle_round(x, count, dtype);
        return;
    }
    for (float *row = x; row < x + count; row += dim) {
        float most = 0;
        for (int32_t d = 0; d < dim; d++) most = fmaxf(fabsf(row[d]), most);
        for (int32_t d = 0; d < dim; d++) row[d] /= most / 448;
        oracle_round(row, dim, dtype);
        for (int32_t d = 0; d < dim; d++) row[d] *= most / 448;
    }
}

static void make(sequence *s, banyan_plan *plan, const exact_case *c)
{
    const banyan_spec *spec = &plan->spec;
    const int64_t keys = LAYERS * (int64_t)c->is.tokens * spec->kv_heads * c->is.dim;
    sequence_make(s, plan, c->is.tokens, 1234);
    if (spec->in_dtype == F32) {
        spoil((float *)(void *)s->k_in, keys, c->data, 0, 2);
        spoil((float *)(void *)s->v_in, keys, c->data, 1, 3);
        spoil(s->k, keys, c->data, 0, 2);
        spoil(s->v, keys, c->data, 1, 3);
    }
    round_rows(s->k, keys, c->is.dim, spec->cache_dtype);
    round_rows(s->v, keys, c->is.dim, spec->cache_dtype);
    sequence_mark_results(s);
}

/* Most tokens are appended alone; then come a few rows in one call, with others taken back
 * where that is possible, and the last one by one. */
static void run_calls(sequence *on, banyan_cache *cache, const exact_case *c)
{
    const int64_t decode = c->is.tokens - DEVICE_DECODES, prefill = decode - c->is.rows;
    for (int64_t at = 0, rows; at < prefill; at += rows) {
        rows = prefill - at < c->is.rows ? prefill - at : c->is.rows;
        call(on, cache, at, (int32_t)rows, APPEND);
    }
    if (c->is.rollback)
        CHECK(sequence_attend(cache, 0, prefill, c->is.rollback, NULL, on->k_in, on->v_in, NULL,
                              NULL) == BANYAN_OK);
    call(on, cache, prefill, c->is.rows, APPEND | ATTEND);
    on->probe = (banyan_range){c->is.tokens / 3, c->is.tokens - 9};
    for (int64_t at = decode; at < c->is.tokens; at++)
        call(on, cache, at, 1, APPEND | ATTEND | PROBE);
}

/* Dim d of the values of a KV head in layer 1, of which all tokens are read: what they add up
 * to, if that is no number; else 0. */
static float odd_sum(const sequence *s, int32_t kv_head, int32_t d)
{
    const banyan_spec *spec = s->spec;
    float sum = 0;
    for (int64_t token = 0; token < s->tokens; token++) {
        const float x =
            s->v[((s->tokens + token) * spec->kv_heads + kv_head) * spec->value_dim + d];
        if (!isfinite(x)) sum += x;
    }
    return sum;
}

/* The last row of dense heads (the last ones). */
static void check_odd(const sequence *s)
{
    const banyan_spec *spec = s->spec;
    int found[3] = {0};
    for (int32_t h = spec->heads / 2; h < spec->heads; h++) {
        if (!sequence_is_written(s, h, 1)) continue;
        const float *out = (const float *)(void *)sequence_out(s, 1, s->tokens - 1, h);
        for (int32_t d = 0; d < spec->value_dim; d++) {
            const float expect = odd_sum(s, h / (spec->heads / spec->kv_heads), d);
            found[isnan(expect) ? 0 : isinf(expect) ? 1 : 2]++;
            CHECK_MSG(isnan(expect)   ? isnan(out[d])
                      : isinf(expect) ? out[d] == expect
                                      : isfinite(out[d]),
                      "head %d dim %d: %g, expected %g (0: any number)", (int)h, (int)d, out[d],
                      expect);
        }
    }
    CHECK(s->plan->ranks > 1 || (found[0] && found[1] && found[2]));
}

/* Results of the case, against the oracle where numbers are usual. */
static void run(sequence *s, banyan_plan *plan, const exact_case *c)
{
    banyan_cache *cache = sequence_cache(plan);
    if (!cache) exit(1);
    make(s, plan, c);
    sequence on = sequence_board(s, cache);
    run_calls(&on, cache, c);
    sequence_fetch(s, &on, cache, 0);
    const int is_judged = c->data == USUAL || c->data == FULL;
    for (int32_t layer = 0; is_judged && layer < LAYERS; layer++)
        for (int64_t row = s->tokens - 1; row >= s->tokens - DEVICE_DECODES - c->is.rows;
             row -= 7)
            check_row(s, layer, row, c->is.name);
    if (c->data == ODD) check_odd(s);
    if (c->data == USUAL) check_mass(s, &on, cache, s->tokens - 90, 47, c->is.name);
    sequence_leave(&on, cache);
    banyan_cache_destroy(cache);
}

static banyan_plan *plan_of(const exact_case *c, banyan_comm *comm, int alone,
                            banyan_rule *rules)
{
    banyan_spec spec;
    set_spec(&c->is, comm->size, &spec, rules);
    spec.reproducible = 1;
    if (!alone) {
        spec.placement = c->placement;
        spec.merge = c->merge;
        spec.out = c->where;
    }
    banyan_plan *plan = sequence_plan(&spec, comm);
    if (!plan) exit(1);
    return plan;
}

static void compare(const exact_case *c, const sequence *s, const sequence *alone)
{
    const size_t bytes = (size_t)c->is.dim * banyan_dtype_bytes(c->is.out);
    for (int32_t layer = 0; layer < LAYERS; layer++)
        for (int64_t row = 0; row < c->is.tokens; row++)
            for (int32_t h = 0; h < c->is.heads; h++) {
                if (!sequence_is_written(s, h, layer)) continue;
                const int same = !memcmp(sequence_out(s, layer, row, h),
                                         sequence_out(alone, layer, row, h), bytes) &&
                                 !memcmp(sequence_lse(s, layer, row, h),
                                         sequence_lse(alone, layer, row, h), sizeof(float)) &&
                                 !memcmp(sequence_mass(s, layer, row, h),
                                         sequence_mass(alone, layer, row, h), sizeof(float));
                CHECK_MSG(same, "%s: rank %d of %d: layer %d row %lld head %d: other bits",
                          c->is.name, s->plan->rank, s->plan->ranks, (int)layer, (long long)row,
                          (int)h);
                if (!same) return;
            }
}

typedef struct comparison {
    const exact_case *c;
    const sequence *alone;
} comparison;

static void run_beside(banyan_comm *comm, void *arg)
{
    const comparison *with = arg;
    banyan_rule rules[2];
    banyan_plan *plan = plan_of(with->c, comm, 0, rules);
    sequence s;
    run(&s, plan, with->c);
    compare(with->c, &s, with->alone);
    sequence_free(&s);
    banyan_plan_destroy(plan);
}

static void test_exact(const exact_case *c)
{
    banyan_comm *one = NULL, *comm[MOST_RANKS] = {NULL};
    banyan_rule rules[2];
    sequence alone;
    comparison with = {c, &alone};
    CHECK(local_create(1, NULL, NULL, &one) == BANYAN_OK);
    emulator_set_multiprocessors(132);
    banyan_plan *plan = plan_of(c, one, 1, rules);
    run(&alone, plan, c);
    emulator_set_multiprocessors(c->multiprocessors);
    CHECK(local_create(c->ranks, NULL, NULL, comm) == BANYAN_OK);
    local_run(comm, c->ranks, run_beside, &with);
    for (int32_t r = 0; r < c->ranks; r++) banyan_comm_destroy(comm[r]);
    sequence_free(&alone);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(one);
}

/* What cannot be is said at once. */
static void test_words(void)
{
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    static const banyan_layer_shape latent = {
        .last_layer = -1, .kv_heads = 1, .key_dim = 576, .value_dim = 512, .value_in_key = 1};
    banyan_spec spec;
    CHECK(local_create(1, NULL, NULL, &comm) == BANYAN_OK);
    banyan_spec_init(&spec);
    spec.layers = spec.heads = spec.kv_heads = 1;
    spec.key_dim = 64;
    spec.shapes = &latent;
    spec.shape_count = 1;
    spec.max_tokens = 100;
    spec.max_rows = 10;
    spec.device = "cuda";
    spec.cache_dtype = BF16;
    spec.reproducible = 1;
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_UNSUPPORTED);
    CHECK_MSG(strstr(banyan_error_message(),
                     "no fixed-point sums of block_tokens 64, key_dim 576 and value_dim "
                     "512 in the key, expected device cpu"),
              "%s", banyan_error_message());
    spec.shape_count = 0;
    spec.block_tokens = 32;
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_UNSUPPORTED);
    CHECK_MSG(strstr(banyan_error_message(), "or blocks of 64 tokens or more"), "%s",
              banyan_error_message());
    spec.block_tokens = 128;
    spec.max_tokens = (INT64_C(64) << 22) + 1;
    CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_ERR_CONFIG);
    CHECK_MSG(
        strstr(banyan_error_message(), "max_tokens is 268435457: expected at most 268435456"),
        "%s", banyan_error_message());
    banyan_comm_destroy(comm);
}

int main(int argc, char **argv)
{
    const int only = argc > 1 ? atoi(argv[1]) : -1;
    test_words();
    for (int i = 0; i < CASES; i++)
        if (only < 0 || only == i) test_exact(&cases[i]);
    return test_end();
}
