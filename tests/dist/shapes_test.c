/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of different shapes in one plan, layers that read what another one keeps, values that
 * are a part of their keys, and sinks: against the float64 oracle, for every merge, on any
 * number of ranks.
 *
 * Two uses that models make of it: YOCO (arXiv 2405.05254), whose upper layers all read one
 * layer, and cross-layer attention (arXiv 2405.12981), in which every second layer reads the
 * one below. */
#include "dist/plan.h"
#include "tests/oracle.h"
#include "tests/world.h"

#include <math.h>

enum { HEADS = 8, LAYERS = 6, TOKENS = 230, BLOCK = 16, MOST_ROWS = 40, DECODED = 5 };

typedef struct shape_case {
    const char *name;
    banyan_layer_shape shapes[4];
    int32_t shape_count;
    int32_t cache_layer[LAYERS];
    banyan_rule rules[4];
    int32_t rule_count;
} shape_case;

static const shape_case cases[] = {
    {"three shapes, two layers on one cache layer",
     {{1, 2, 8, 16, 24, 0, 0}, {3, 3, 1, 64, 48, 0.2f, 1}, {5, 5, 0, 0, 0, 0.1f, 0}},
     3,
     {0, 1, 1, 3, 4, 4},
     {{1, 1, 0, -1, "sink_window sink=1 window=40t"},
      {2, 2, 0, -1, "s2 stride=4 local=2"},
      {5, 5, 2, 5, "sink_window sink=5t window=3"}},
     3},
    {"YOCO: a windowed lower half, an upper half that reads one layer",
     {{0}},
     0,
     {0, 1, 2, 2, 2, 2},
     {{0, 1, 0, -1, "sink_window sink=0 window=50t"}, {4, 4, 0, 3, "s2 stride=3 local=2"}},
     2},
    {"cross-layer attention: pairs of layers",
     {{2, 3, 4, 0, 0, 0, 0}},
     1,
     {0, 0, 2, 2, 4, 4},
     {{0, 0, 0, -1, "sink_window sink=1 window=2"}, {3, 3, 0, -1, "s2 stride=5 local=1"}},
     2},
    {"latent attention: one KV head of all query heads, its values in its keys",
     {{0, -1, 1, 72, 64, 0.11f, 1}},
     1,
     {0, 1, 2, 3, 4, 5},
     {{0}},
     0},
};
enum { CASES = (int)(sizeof cases / sizeof *cases) };

/* One way to ask for it. */
typedef struct way {
    const char *placement, *merge;
    banyan_home home;
    banyan_out out;
    int reproducible;
    int32_t threads;
    banyan_dtype dtype;
} way;

static const way ways[] = {
    {"line", "direct", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0, 1, BANYAN_F32},
    {"line", "tree", BANYAN_HOME_DEALT, BANYAN_OUT_ALL, 0, 2, BANYAN_BF16},
    {"spread", "butterfly", BANYAN_HOME_FIRST, BANYAN_OUT_HOME, 0, 1, BANYAN_F16},
    {"spread", "gather", BANYAN_HOME_DEALT, BANYAN_OUT_HOME, 0, 2, BANYAN_F32},
    {"heads", "allreduce", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 0, 1, BANYAN_F32},
    {"spread", "tree", BANYAN_HOME_FIRST, BANYAN_OUT_ALL, 1, 2, BANYAN_BF16},
};
enum { WAYS = (int)(sizeof ways / sizeof *ways) };

/* The rows of one layer. */
typedef struct layer {
    banyan_layer_shape shape;
    float *q, *k, *v; /* [TOKENS][heads or KV heads][dim]; k and v are the cache layer's */
    float *out, *lse; /* [TOKENS][HEADS][value_dim], [TOKENS][HEADS] */
} layer;

typedef struct scene {
    banyan_plan *plan;
    const banyan_spec *spec;
    layer layers[LAYERS];
    float sinks[LAYERS][HEADS];
} scene;

static float *take(int64_t count)
{
    float *p = calloc((size_t)count, sizeof *p);
    if (!p) abort();
    return p;
}

static float *draw(uint64_t *seed, int64_t heads, int64_t dim)
{
    float *x = take(TOKENS * heads * dim);
    for (int64_t i = 0; i < TOKENS * heads * dim; i++) x[i] = test_normal(seed);
    return x;
}

/* Of a whole layer, one pattern for each value of a list that is worth a try. */
static void draw_sinks(scene *s)
{
    static const float worth[] = {-INFINITY, -10, 0, 5, 30};
    for (int i = 0; i < LAYERS; i++)
        for (int h = 0; h < HEADS; h++) s->sinks[i][h] = worth[(3 * i + h) % 5];
}

static void set_spec(const shape_case *c, const way *w, banyan_spec *spec)
{
    banyan_spec_init(spec);
    spec->layers = LAYERS;
    spec->heads = HEADS;
    spec->kv_heads = 2;
    spec->key_dim = 32;
    spec->value_dim = 32;
    spec->shapes = c->shapes;
    spec->shape_count = c->shape_count;
    spec->cache_layer = c->cache_layer;
    spec->rules = c->rules;
    spec->rule_count = c->rule_count;
    spec->max_tokens = TOKENS;
    spec->max_rows = MOST_ROWS;
    spec->block_tokens = BLOCK;
    spec->cache_dtype = w->dtype;
    spec->placement = w->placement;
    spec->merge = w->merge;
    spec->home = w->home;
    spec->out = w->out;
    spec->threads = w->threads;
    spec->reproducible = w->reproducible;
}

/* The shape that a layer is to have, found from the list once more. */
static banyan_layer_shape shape_of(const shape_case *c, int32_t i)
{
    banyan_layer_shape out = {i, i, 2, 32, 32, 0, 0};
    for (int32_t j = 0; j < c->shape_count; j++) {
        const banyan_layer_shape *s = &c->shapes[j];
        if (i < s->first_layer || (s->last_layer >= 0 && i > s->last_layer)) continue;
        out = (banyan_layer_shape){i,
                                   i,
                                   s->kv_heads ? s->kv_heads : 2,
                                   s->key_dim ? s->key_dim : 32,
                                   s->value_dim ? s->value_dim : 32,
                                   s->scale,
                                   s->value_in_key};
    }
    if (!(out.scale > 0)) out.scale = 1 / sqrtf((float)out.key_dim);
    return out;
}

static void make_layers(scene *s, const shape_case *c)
{
    uint64_t seed = 77;
    for (int32_t i = 0; i < LAYERS; i++) {
        layer *l = &s->layers[i];
        l->shape = shape_of(c, i);
        const int64_t kv = l->shape.kv_heads, key = l->shape.key_dim,
                      value = l->shape.value_dim;
        l->q = draw(&seed, HEADS, key);
        if (c->cache_layer[i] != i) {
            l->k = s->layers[c->cache_layer[i]].k;
            l->v = s->layers[c->cache_layer[i]].v;
        } else {
            l->k = draw(&seed, kv, key);
            l->v = draw(&seed, kv, value);
        }
        for (int64_t t = 0; l->shape.value_in_key && t < TOKENS * kv; t++)
            memcpy(l->v + t * value, l->k + t * key, (size_t)value * sizeof(float));
        l->out = take(TOKENS * HEADS * value);
        l->lse = take(TOKENS * HEADS);
    }
}

static void free_layers(scene *s)
{
    for (int32_t i = 0; i < LAYERS; i++) {
        layer *l = &s->layers[i];
        if (banyan_keeps_own(s->plan, i)) free(l->k), free(l->v);
        free(l->q), free(l->out), free(l->lse);
    }
}

static void call(scene *s, banyan_cache *cache, banyan_sequence *sequence, int64_t at,
                 int32_t rows)
{
    const banyan_rows part = {.sequence = sequence, .at = at, .rows = rows};
    for (int32_t i = 0; i < LAYERS; i++) {
        const layer *l = &s->layers[i];
        const banyan_layer_shape *h = &l->shape;
        const int own = banyan_keeps_own(s->plan, i);
        const float *k = own ? l->k + at * h->kv_heads * h->key_dim : NULL;
        const float *v =
            own && !h->value_in_key ? l->v + at * h->kv_heads * h->value_dim : NULL;
        CHECK_MSG(banyan_attend(cache, i, &part, 1, l->q + at * HEADS * h->key_dim, k, v,
                                l->out + at * HEADS * h->value_dim,
                                l->lse + at * HEADS) == BANYAN_OK,
                  "%s", banyan_error_message());
    }
}

static uint64_t hash_of(uint64_t hash, const float *x, int64_t count)
{
    const unsigned char *p = (const unsigned char *)x;
    for (size_t i = 0; i < (size_t)count * sizeof *x; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

/* Prefill by chunks of any size, then decode; returns a hash of the results. */
static uint64_t run(scene *s, banyan_cache *cache)
{
    banyan_sequence *sequence = NULL;
    CHECK(banyan_sequence_create(cache, 0, &sequence) == BANYAN_OK);
    uint64_t seed = 5, hash = 0xcbf29ce484222325u;
    for (int64_t at = 0; at < TOKENS;) {
        const int64_t left = TOKENS - DECODED - at;
        int32_t rows = left > 0 ? (int32_t)test_below(&seed, MOST_ROWS) + 1 : 1;
        if (left > 0 && rows > left) rows = (int32_t)left;
        call(s, cache, sequence, at, rows);
        at += rows;
    }
    for (int32_t i = 0; i < LAYERS; i++) {
        const layer *l = &s->layers[i];
        hash = hash_of(hash, l->out, (int64_t)TOKENS * HEADS * l->shape.value_dim);
        hash = hash_of(hash, l->lse, (int64_t)TOKENS * HEADS);
    }
    return hash;
}

typedef struct reader {
    const scene *s;
    int32_t layer;
} reader;

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    return banyan_plan_reads(r->s->plan, r->layer, head, row, token);
}

static void check_row(const scene *s, const oracle *o, int32_t i, int64_t row, const char *name)
{
    const layer *l = &s->layers[i];
    const int32_t key = l->shape.key_dim, value = l->shape.value_dim;
    double expect[BANYAN_MAX_DIM], lse;
    bound b = {.block_tokens = BLOCK,
               .combines = s->plan->ranks + s->spec->threads + 1,
               .rounds = bound_rounds(s->plan->kernel->name, s->spec->cache_dtype)};
    for (int32_t h = 0; h < HEADS; h++) {
        const int64_t at = row * HEADS + h;
        if (s->spec->out != BANYAN_OUT_ALL && banyan_plan_home(s->plan, i, h) != s->plan->rank)
            continue;
        oracle_row(o, l->q + at * key, h, row, expect, &lse, &b);
        const double error = oracle_compare(expect, lse, &b, value, l->out + at * value,
                                            BANYAN_F32, l->lse + at);
        CHECK_MSG(error <= 1, "%s: layer %d row %lld head %d: %g times the bound", name, i,
                  (long long)row, h, error);
    }
}

static void check_results(const scene *s, const char *name)
{
    uint64_t seed = 99;
    for (int32_t i = 0; i < LAYERS; i++) {
        const layer *l = &s->layers[i];
        reader r = {s, i};
        oracle o = {.heads = HEADS,
                    .kv_heads = l->shape.kv_heads,
                    .key_dim = l->shape.key_dim,
                    .value_dim = l->shape.value_dim,
                    .tokens = TOKENS,
                    .scale = (double)l->shape.scale,
                    .k = l->k,
                    .v = l->v,
                    .reads = reads,
                    .ctx = &r,
                    .sinks = s->spec->sinks ? s->sinks[i] : NULL};
        for (int n = 0; n < 5; n++) check_row(s, &o, i, test_below(&seed, TOKENS), name);
        check_row(s, &o, i, 0, name);
        check_row(s, &o, i, TOKENS - 1, name);
    }
}

/* What is kept, from what is read: a block of a KV head stays if the last row, or a later one,
 * of any query head of its group in any layer on its cache layer reads a token of it. */
static int64_t blocks_to_keep(const scene *s, int32_t i, int32_t kv_head)
{
    const int32_t group = HEADS / s->layers[i].shape.kv_heads;
    int64_t count = 0;
    for (int64_t b = 0; b < banyan_blocks(TOKENS, BLOCK); b++) {
        int stays = 0;
        for (int32_t j = i; j < LAYERS && !stays; j++)
            for (int32_t h = 0; s->spec->cache_layer[j] == i && h < group && !stays; h++)
                for (int64_t t = 0; t < BLOCK && !stays; t++)
                    for (int64_t row = TOKENS - 1; row < TOKENS + BLOCK && !stays; row++)
                        stays = banyan_plan_reads(s->plan, j, kv_head * group + h, row,
                                                  b * BLOCK + t);
        count += stays;
    }
    return count;
}

static void check_kept(const scene *s, const banyan_cache *cache, const char *name)
{
    banyan_stats stats;
    banyan_share share;
    double bytes = 0, expect = 0;
    banyan_cache_stats(cache, &stats);
    CHECK(banyan_plan_share(s->plan, s->plan->rank, 1, TOKENS, &share) == BANYAN_OK);
    CHECK_MSG(stats.bytes == share.kept_bytes && stats.blocks == share.kept_blocks,
              "%s: keeps %lld bytes, planned %lld", name, (long long)stats.bytes,
              (long long)share.kept_bytes);
    CHECK(stats.capacity_bytes == share.capacity_bytes);
    bytes = (double)stats.bytes;
    CHECK(banyan_comm_allreduce(s->plan->comm, &bytes, 1, BANYAN_SUM) == BANYAN_OK);
    for (int32_t i = 0; i < LAYERS; i++)
        for (int32_t g = 0; g < s->layers[i].shape.kv_heads && banyan_keeps_own(s->plan, i);
             g++)
            expect += (double)blocks_to_keep(s, i, g) *
                      (double)banyan_plan_kind(s->plan, i)->shape.record_bytes;
    CHECK_MSG(bytes == expect, "%s: all ranks keep %.0f bytes, expected %.0f", name, bytes,
              expect);
}

static void test_way(const shape_case *c, const way *w, banyan_comm *comm, int has_sinks)
{
    scene s = {0};
    banyan_spec spec;
    banyan_cache *cache = NULL;
    char name[160];
    snprintf(name, sizeof name, "%s, %s, %s, %s%s", c->name, w->placement, w->merge,
             banyan_dtype_name(w->dtype), has_sinks ? ", sinks" : "");
    set_spec(c, w, &spec);
    draw_sinks(&s);
    if (has_sinks) spec.sinks = s.sinks[0];
    CHECK_MSG(banyan_plan_create(&spec, comm, &s.plan) == BANYAN_OK, "%s: %s", name,
              banyan_error_message());
    if (!s.plan) return;
    s.spec = banyan_plan_spec(s.plan);
    make_layers(&s, c);
    for (int32_t i = 0; i < LAYERS; i++) {
        const layer *l = &s.layers[i];
        if (!banyan_keeps_own(s.plan, i)) continue;
        oracle_round(l->k, (int64_t)TOKENS * l->shape.kv_heads * l->shape.key_dim, w->dtype);
        oracle_round(l->v, (int64_t)TOKENS * l->shape.kv_heads * l->shape.value_dim, w->dtype);
    }
    CHECK_MSG(banyan_cache_create(s.plan, NULL, &cache) == BANYAN_OK, "%s: %s", name,
              banyan_error_message());
    if (cache) {
        run(&s, cache);
        check_results(&s, name);
        check_kept(&s, cache, name);
    }
    banyan_cache_destroy(cache);
    free_layers(&s);
    banyan_plan_destroy(s.plan);
}

/* Results of a case with these sinks (NULL: none), as a hash; lost: rank 0's blocks are. */
static uint64_t hash_with(banyan_comm *comm, const float *sinks, int32_t lost, scene *s)
{
    banyan_spec spec;
    banyan_cache *cache = NULL;
    uint64_t hash = 0;
    set_spec(&cases[1], &ways[0], &spec);
    spec.sinks = sinks;
    spec.lost_rank = lost;
    CHECK(banyan_plan_create(&spec, comm, &s->plan) == BANYAN_OK);
    s->spec = banyan_plan_spec(s->plan);
    make_layers(s, &cases[1]);
    CHECK(banyan_cache_create(s->plan, NULL, &cache) == BANYAN_OK);
    if (cache) hash = run(s, cache);
    banyan_cache_destroy(cache);
    return hash;
}

/* -inf is no sink, to the bit; and a row that sees nothing has zeros, and its sink as lse. */
static void test_sinks(banyan_comm *comm)
{
    scene s = {0};
    float none[LAYERS][HEADS];
    for (int i = 0; i < LAYERS; i++)
        for (int h = 0; h < HEADS; h++) none[i][h] = -INFINITY;
    const uint64_t without = hash_with(comm, NULL, -1, &s);
    free_layers(&s);
    banyan_plan_destroy(s.plan);
    CHECK(hash_with(comm, none[0], -1, &s) == without);
    free_layers(&s);
    banyan_plan_destroy(s.plan);

    draw_sinks(&s);
    (void)hash_with(comm, s.sinks[0], 0, &s);
    for (int32_t i = 0; i < LAYERS && s.plan->ranks == 1; i++)
        for (int64_t n = 0; n < TOKENS * HEADS; n++) {
            const layer *l = &s.layers[i];
            CHECK(l->lse[n] == s.sinks[i][n % HEADS]);
            for (int32_t d = 0; d < l->shape.value_dim; d++)
                CHECK(l->out[n * l->shape.value_dim + d] == 0);
        }
    free_layers(&s);
    banyan_plan_destroy(s.plan);
}

/* Pairs of layers on one cache layer take half the memory of layers of their own. */
static void test_capacity(banyan_comm *comm)
{
    const int32_t pairs[LAYERS] = {0, 0, 2, 2, 4, 4};
    banyan_share share[2];
    for (int i = 0; i < 2; i++) {
        banyan_spec spec;
        banyan_plan *plan = NULL;
        set_spec(&cases[1], &ways[0], &spec);
        spec.rule_count = 0;
        spec.cache_layer = i ? pairs : NULL;
        CHECK(banyan_plan_create(&spec, comm, &plan) == BANYAN_OK);
        CHECK(banyan_plan_share(plan, plan->rank, 1, TOKENS, &share[i]) == BANYAN_OK);
        banyan_plan_destroy(plan);
    }
    CHECK(share[0].capacity_bytes == 2 * share[1].capacity_bytes);
    CHECK(share[0].kept_bytes == 2 * share[1].kept_bytes);
    CHECK(share[0].read_blocks == share[1].read_blocks);
}

/* ---- refusals ---------------------------------------------------------------------------- */

static void refused(banyan_comm *comm, const banyan_spec *spec, const char *words)
{
    banyan_plan *plan = NULL;
    const banyan_status status = banyan_plan_create(spec, comm, &plan);
    CHECK_MSG(status == BANYAN_ERR_CONFIG && strstr(banyan_error_message(), words), "%d: %s",
              status, banyan_error_message());
}

static void test_refusals(banyan_comm *comm)
{
    banyan_spec spec;
    set_spec(&cases[0], &ways[0], &spec);
    const int32_t later[LAYERS] = {0, 2, 2, 3, 4, 5}, chained[LAYERS] = {0, 1, 1, 2, 4, 5},
                  unlike[LAYERS] = {0, 1, 0, 3, 4, 5};
    spec.cache_layer = later;
    refused(comm, &spec,
            "cache_layer of layer 1 is 2: expected 0..1, itself or a layer before");
    spec.cache_layer = chained;
    refused(comm, &spec, "cache_layer of layer 3 is 2, which reads layer 1: expected a layer");
    spec.cache_layer = unlike;
    refused(comm, &spec, "layer 2 reads layer 0: expected its shape, 2 KV heads of key_dim 32");
    spec.cache_layer = NULL;
    banyan_layer_shape shape = {1, 2, 3, 0, 0, 0, 0};
    spec.shapes = &shape;
    spec.shape_count = 1;
    refused(comm, &spec, "shape 0: kv_heads is 3: expected a divisor of heads, 8");
    shape = (banyan_layer_shape){1, 6, 2, 0, 0, 0, 0};
    refused(comm, &spec, "shape 0: last_layer is 6: expected 1..5, or -1 for the last");
    shape = (banyan_layer_shape){1, 2, 2, 577, 0, 0, 0};
    refused(comm, &spec, "shape 0: key_dim is 577: expected 0..576");
    shape = (banyan_layer_shape){1, 2, 2, 16, 0, 0, 1};
    refused(comm, &spec, "value_dim is 32: expected at most key_dim, 16, with value_in_key");
    shape = (banyan_layer_shape){1, 2, 2, 16, 0, NAN, 0};
    refused(comm, &spec, "shape 0: scale is nan: expected a positive number, or 0");
    spec.shapes = NULL;
    refused(comm, &spec, "shapes is not set: expected 1 of them");
    spec.shape_count = 0;
    float sinks[LAYERS][HEADS] = {{0}};
    sinks[2][3] = INFINITY;
    spec.sinks = sinks[0];
    refused(comm, &spec, "sink of layer 2, query head 3 is inf: expected a number, or -inf");
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL);
    test_refusals(comm);
    test_sinks(comm);
    test_capacity(comm);
    for (int i = 0; i < CASES; i++)
        for (int w = 0; w < WAYS; w++) test_way(&cases[i], &ways[w], comm, (i + w) % 2);
    banyan_comm_destroy(comm);
    return test_end();
}
