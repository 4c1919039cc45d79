/* SPDX-License-Identifier: Apache-2.0 */
#include "dist/plan.h"
#include "dist/snapshot.h"
#include "tests/fuzz/calls.h"
#include "tests/oracle.h"
#include "tests/test.h"

#include <math.h>

/* ---- numbers ----------------------------------------------------------------------------- */

int draw_byte(draw *in)
{
    if (!in->size) return 0;
    in->size--;
    return *in->data++;
}

int32_t draw_below(draw *in, int n)
{
    return draw_byte(in) % n;
}

int draw_one_in(draw *in, int n)
{
    return draw_byte(in) % n == n - 1;
}

int64_t draw_number(draw *in)
{
    static const int64_t numbers[] = {0,
                                      1,
                                      -1,
                                      2,
                                      3,
                                      7,
                                      15,
                                      16,
                                      17,
                                      64,
                                      100,
                                      -16,
                                      INT32_MAX,
                                      INT32_MIN,
                                      INT64_MAX,
                                      INT64_MIN,
                                      1 << 16,
                                      1 << 24,
                                      (int64_t)1 << 32,
                                      (int64_t)1 << 40,
                                      INT64_MAX - 1,
                                      INT64_MAX / 2,
                                      -2,
                                      577};
    return numbers[draw_below(in, sizeof numbers / sizeof *numbers)];
}

void calls_row(int32_t source, int what, int32_t layer, int64_t token, int32_t count, float *to)
{
    uint64_t seed = (uint64_t)((source * 3 + what) * LAYERS + layer) * 100003 + (uint64_t)token;
    for (int32_t i = 0; i < count; i++) to[i] = (float)(test_below(&seed, 256) - 128) / 64;
}

/* ---- plans ------------------------------------------------------------------------------- */

/* What a spec borrows. */
typedef struct borrowed {
    banyan_rule rule[3];
    banyan_layer_shape shape[2];
    int32_t cache_layer[LAYERS];
    float sinks[LAYERS * HEADS];
    double bandwidth;
} borrowed;

static void draw_rules(draw *in, banyan_spec *spec, borrowed *of)
{
    static const char *const uses[] = {"dense",
                                       "sink_window sink=1 window=40t",
                                       "sink_window sink=3t window=2",
                                       "s2 stride=3 local=2 per=query",
                                       "s2 stride=2 local=1 per=kv",
                                       "span span=32t rate=0.25",
                                       "razor sink=16t recent=32t part=0",
                                       "a_shape prompt=70 sink=16t window=40t",
                                       "tri_shape prompt=70t sink=16t window=40t",
                                       "strided local=1 stride1=2 range1=4 stride2=3 range2=0",
                                       "sink_window sink=-1",
                                       "s3"};
    spec->rules = of->rule;
    spec->rule_count = draw_below(in, 4);
    for (int i = 0; i < spec->rule_count; i++) {
        of->rule[i] = (banyan_rule){0, -1, 0, -1, uses[draw_below(in, 12)]};
        if (draw_one_in(in, 2)) of->rule[i].first_layer = draw_below(in, 3);
        if (draw_one_in(in, 2)) of->rule[i].first_head = draw_below(in, 4);
        if (draw_one_in(in, 16)) of->rule[i].last_layer = (int32_t)draw_number(in);
        if (draw_one_in(in, 16)) of->rule[i].last_head = (int32_t)draw_number(in);
        if (draw_one_in(in, 32)) of->rule[i].use = NULL;
    }
}

static void draw_layers(draw *in, banyan_spec *spec, borrowed *of)
{
    static const int32_t dims[] = {0, 8, 16, 24};
    if (draw_one_in(in, 4)) {
        spec->shapes = of->shape;
        spec->shape_count = 1 + draw_below(in, 2);
        for (int i = 0; i < spec->shape_count; i++) {
            of->shape[i] = (banyan_layer_shape){.first_layer = draw_below(in, 3),
                                                .last_layer = -1,
                                                .kv_heads = draw_below(in, 3),
                                                .key_dim = dims[draw_below(in, 4)],
                                                .value_dim = dims[draw_below(in, 4)],
                                                .value_in_key = draw_one_in(in, 3)};
            if (draw_one_in(in, 16)) of->shape[i].key_dim = (int32_t)draw_number(in);
            if (draw_one_in(in, 16)) of->shape[i].last_layer = (int32_t)draw_number(in);
        }
    }
    if (draw_one_in(in, 4)) {
        spec->cache_layer = of->cache_layer;
        for (int i = 0; i < LAYERS; i++)
            of->cache_layer[i] = draw_one_in(in, 2) ? i : draw_below(in, i + 1);
        if (draw_one_in(in, 8)) of->cache_layer[1] = (int32_t)draw_number(in);
    }
    if (draw_one_in(in, 3)) {
        spec->sinks = of->sinks;
        for (int i = 0; i < LAYERS * HEADS; i++)
            of->sinks[i] = i % 3 ? (float)(i - 4) / 2 : -INFINITY;
    }
}

/* One field is what it should not be. */
static void spoil(draw *in, banyan_spec *spec, borrowed *of)
{
    static const char *const names[] = {"",     "lime",   "spread", "heads",
                                        "tree", "scalar", "cuda"};
    const int64_t x = draw_number(in);
    const char *name = names[draw_below(in, 7)];
    switch (draw_below(in, 30)) {
    case 0: spec->size = x >= 0 && x < (int64_t)sizeof *spec ? (size_t)x : 8; break;
    case 1: spec->layers = (int32_t)x, spec->sinks = NULL, spec->cache_layer = NULL; break;
    case 2: spec->heads = (int32_t)x, spec->sinks = NULL; break;
    case 3: spec->kv_heads = (int32_t)x; break;
    case 4: spec->key_dim = (int32_t)x; break;
    case 5: spec->value_dim = (int32_t)x; break;
    case 6: spec->max_tokens = x; break;
    case 7: spec->planned_tokens = x; break;
    case 8: spec->sequences = (int32_t)x; break;
    case 9: spec->pool_tokens = x; break;
    case 10: spec->max_rows = (int32_t)x; break;
    case 11: spec->block_tokens = (int32_t)x; break;
    case 12: spec->rollback_tokens = (int32_t)x; break;
    case 13: spec->cache_dtype = (banyan_dtype)draw_below(in, 5); break;
    case 14: spec->in_dtype = (banyan_dtype)draw_below(in, 5); break;
    case 15: spec->out_dtype = (banyan_dtype)draw_below(in, 5); break;
    case 16: spec->placement = name; break;
    case 17: spec->merge = name; break;
    case 18: spec->kernel = name; break;
    case 19: spec->device = name; break;
    case 20: spec->lost_rank = (int32_t)x; break;
    case 21: spec->lost_layer = (int32_t)x; break;
    case 22: spec->threads = (int32_t)(x < 4 ? x : 4); break;
    case 23: spec->memory_limit = x < (1 << 26) ? x : 1 << 26; break;
    case 24: spec->rules = NULL; break;
    case 25: spec->rule_count = -1; break;
    case 26: spec->scale = x == 3 ? NAN : x == 7 ? INFINITY : (float)x; break;
    case 27: of->sinks[5] = x == 3 ? NAN : INFINITY; break;
    case 28: spec->shape_count = x == 3 ? 1 : -1, spec->shapes = NULL; break;
    default:
        of->bandwidth = x == 3 ? NAN : x == 7 ? INFINITY : (double)x;
        spec->bandwidth = &of->bandwidth;
    }
}

banyan_plan *calls_plan(draw *in, banyan_comm *comm)
{
    static const int32_t dims[] = {8, 16, 24, 4}, groups[] = {0, 1, 2, 4};
    static const banyan_dtype dtypes[] = {BANYAN_F32, BANYAN_BF16, BANYAN_F16};
    static const char *const kernels[] = {NULL, "scalar", NULL, NULL};
    borrowed of = {0};
    banyan_spec spec;
    banyan_plan *plan = NULL;
    banyan_spec_init(&spec);
    spec.layers = 1 + draw_below(in, LAYERS);
    spec.heads = draw_one_in(in, 4) ? 3 : 1 << draw_below(in, 3);
    spec.kv_heads = groups[draw_below(in, 4)];
    if (spec.kv_heads && spec.heads % spec.kv_heads && !draw_one_in(in, 8)) spec.kv_heads = 1;
    spec.key_dim = dims[draw_below(in, 4)];
    spec.value_dim = draw_one_in(in, 3) ? dims[draw_below(in, 4)] : 0;
    spec.max_tokens = TOKENS - draw_below(in, 100);
    spec.planned_tokens = draw_one_in(in, 4) ? 1 + draw_below(in, 60) : 0;
    spec.sequences = 1 + draw_below(in, LIVES);
    spec.pool_tokens = draw_one_in(in, 2) ? 0 : 2 * draw_below(in, 255);
    spec.max_rows = 1 + draw_below(in, ROWS);
    spec.block_tokens = 16 << draw_below(in, 3);
    spec.rollback_tokens = draw_below(in, 24);
    spec.cache_dtype = dtypes[draw_below(in, 3)];
    spec.in_dtype = dtypes[draw_below(in, 3)];
    spec.out_dtype = dtypes[draw_below(in, 3)];
    spec.kernel = kernels[draw_below(in, 4)];
    spec.evict = !draw_one_in(in, 4);
    spec.reproducible = draw_one_in(in, 4);
    spec.out = draw_one_in(in, 2) ? BANYAN_OUT_ALL : BANYAN_OUT_HOME;
    spec.home = draw_one_in(in, 2) ? BANYAN_HOME_DEALT : BANYAN_HOME_FIRST;
    spec.balance = draw_one_in(in, 2) ? BANYAN_BALANCE_PREFILL : BANYAN_BALANCE_DECODE;
    spec.threads = 1;
    spec.memory_limit = 1 << 26;
    draw_rules(in, &spec, &of);
    draw_layers(in, &spec, &of);
    if (draw_one_in(in, 4)) spoil(in, &spec, &of);
    const banyan_status status = banyan_plan_create(&spec, comm, &plan);
    FUZZ_CHECK(!status == !!plan && (!status || *banyan_error_message()));
    return plan;
}

int calls_fits(const banyan_plan *plan)
{
    const banyan_spec *spec = banyan_plan_spec(plan);
    for (int32_t k = 0; k < plan->kinds; k++)
        if (plan->kind[k].shape.key_dim > DIM || plan->kind[k].shape.value_dim > DIM) return 0;
    return spec->layers <= LAYERS && spec->heads <= HEADS && spec->max_tokens <= TOKENS &&
           spec->max_rows <= ROWS && spec->lost_rank < 0;
}

/* ---- what can be seen -------------------------------------------------------------------- */

static uint64_t mix(uint64_t hash, const void *data, size_t bytes)
{
    return (hash ^ banyan_checksum(data, bytes)) * 0x100000001b3u;
}

uint64_t calls_state(const banyan_cache *cache, int has_bytes)
{
    banyan_stats stats;
    uint64_t hash = 0xcbf29ce484222325u;
    banyan_cache_stats(cache, &stats);
    stats.append_seconds = stats.attend_seconds = stats.merge_seconds = stats.choice_seconds =
        0;
    if (has_bytes) hash = mix(hash, &stats, sizeof stats);
    for (int32_t i = 0; i < cache->plan->spec.sequences; i++) {
        banyan_sequence *s = &cache->sequence[i];
        if (!s->is_live) continue;
        for (int32_t l = 0; l < cache->plan->spec.layers; l++) {
            const int64_t length = banyan_sequence_length(s, l);
            hash = mix(hash, &length, sizeof length);
            for (int32_t g = 0; g < HEADS; g++) {
                int64_t block;
                void *record;
                size_t bytes;
                for (int64_t n = 0; banyan_sequence_record(s, l, g, n, &block, &record, &bytes);
                     n++) {
                    hash = mix(hash, &block, sizeof block);
                    if (has_bytes) hash = mix(hash, record, bytes);
                }
            }
        }
    }
    return hash;
}

/* ---- the oracle -------------------------------------------------------------------------- */

typedef struct reader {
    const world *w;
    int32_t layer;
    banyan_range range;
} reader;

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    int64_t first, end;
    if (r->range.end && (token < r->range.first || token >= r->range.end)) return 0;
    return banyan_plan_reads(r->w->plan, r->layer, head, row, token) ||
           (!r->range.end &&
            banyan_plan_compensates(r->w->plan, r->layer, head, row, &first, &end) &&
            token >= first && token < end);
}

/* Tokens that count by their means are as many tokens with these for keys or values, of which x
 * [tokens] is the head's, a row every `stride` numbers. */
static void take_means(const reader *r, int32_t head, int64_t row, float *x, int64_t stride,
                       int32_t dim)
{
    int64_t first, end;
    if (r->range.end || !banyan_plan_compensates(r->w->plan, r->layer, head, row, &first, &end))
        return;
    for (int32_t d = 0; d < dim; d++) {
        double sum = 0;
        for (int64_t t = first; t < end; t++) sum += (double)x[t * stride + d];
        for (int64_t t = first; t < end; t++)
            x[t * stride + d] = (float)(sum / (double)(end - first));
    }
}

/* Are all tokens that a head's row reads written? */
static int is_known(reader *r, const life *l, int32_t head, int64_t row, int32_t layer)
{
    for (int64_t t = 0; t <= row; t++)
        if (!l->source[layer][t] && reads(r, head, row, t)) return 0;
    return 1;
}

/* Keys and values of all KV heads, of the tokens to `token`. */
static void make_rows(const world *w, const life *l, int32_t layer, int64_t token, float *k,
                      float *v)
{
    const banyan_shape *shape = &banyan_plan_kind(w->plan, layer)->shape;
    const int32_t from = w->plan->spec.cache_layer[layer], g = shape->kv_heads;
    const int32_t key_dim = shape->key_dim, value_dim = shape->value_dim;
    for (int64_t t = 0; t <= token; t++) {
        const int32_t s = l->source[from][t];
        calls_row(s, 1, from, t, g * key_dim, k + t * g * key_dim);
        calls_row(s, 2, from, t, g * value_dim, v + t * g * value_dim);
        for (int32_t h = 0; shape->block.value_in_key && h < g; h++)
            memcpy(v + (t * g + h) * value_dim, k + (t * g + h) * key_dim,
                   (size_t)value_dim * sizeof *v);
    }
}

void calls_check_row(const world *w, const life *l, int32_t layer, int64_t token,
                     int32_t source, banyan_range range, int has_sinks, const char *out,
                     const float *lse)
{
    static float k[TOKENS * HEADS * DIM], v[TOKENS * HEADS * DIM];
    const banyan_spec *spec = &w->plan->spec;
    const banyan_shape *shape = &banyan_plan_kind(w->plan, layer)->shape;
    const int32_t from = spec->cache_layer[layer], g = shape->kv_heads;
    const int32_t key_dim = shape->key_dim, value_dim = shape->value_dim;
    float q[HEADS * DIM];
    calls_row(source, 0, layer, token, spec->heads * key_dim, q);
    reader r = {w, layer, range};
    const oracle o = {.heads = spec->heads,
                      .kv_heads = g,
                      .key_dim = key_dim,
                      .value_dim = value_dim,
                      .tokens = token + 1,
                      .scale = (double)shape->scale,
                      .k = k,
                      .v = v,
                      .reads = reads,
                      .ctx = &r,
                      .sinks =
                          has_sinks && spec->sinks ? spec->sinks + layer * spec->heads : NULL};
    const size_t bytes = banyan_dtype_bytes(spec->out_dtype);
    for (int32_t h = 0; h < spec->heads; h++) {
        double expect[DIM], expect_lse;
        bound b = {.block_tokens = spec->block_tokens, .combines = 8};
        if (!is_known(&r, l, h, token, from)) continue;
        const int32_t kv_head = h / shape->group;
        make_rows(w, l, layer, token, k, v);
        take_means(&r, h, token, k + kv_head * key_dim, g * key_dim, key_dim);
        take_means(&r, h, token, v + kv_head * value_dim, g * value_dim, value_dim);
        b.rounds = bound_rounds(w->plan->kernel->name, spec->cache_dtype);
        oracle_row(&o, q + h * key_dim, h, token, expect, &expect_lse, &b);
        b.spread = 1;
        FUZZ_CHECK(oracle_compare(expect, expect_lse, &b, value_dim,
                                  out + (size_t)(h * value_dim) * bytes, spec->out_dtype,
                                  lse + h) <= 1);
    }
}

int calls_is_whole(const world *w)
{
    const banyan_spec *spec = &w->plan->spec;
    for (int i = 0; i < LIVES; i++) {
        const life *l = &w->life[i];
        if (!l->is_there) continue;
        const int64_t length = banyan_sequence_length(l->sequence, -1);
        for (int32_t layer = 0; layer < spec->layers; layer++) {
            if (spec->cache_layer[layer] != layer) continue;
            if (banyan_sequence_length(l->sequence, layer) != length) return 0;
            for (int64_t t = 0; t < length; t++)
                if (!l->source[layer][t]) return 0;
        }
    }
    return 1;
}
