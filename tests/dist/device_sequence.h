/* SPDX-License-Identifier: Apache-2.0 */
/* device_sequence.h - attending on a device, for tests: the arrays of a sequence brought there
 * and back, a script of calls, and the oracle's word on what came of them. */
#ifndef BANYAN_TESTS_DEVICE_SEQUENCE_H
#define BANYAN_TESTS_DEVICE_SEQUENCE_H

#include "dist/device_cache.h"
#include "tests/comm/local.h"
#include "tests/dist/sequence.h"
#include "tests/oracle.h"

enum { LAYERS = 2 };

/* Before it is included: DEVICE_PARTS and DEVICE_ROUNDS, see bound_of; DEVICE_DECODES: so many
 * of the last rows come one by one. */

typedef struct device_case {
    const char *name;
    int32_t heads, kv_heads, dim, block, tokens, rows, rollback;
    banyan_dtype cache, in, out;
    const char *rule[2]; /* "FIRST-LAST:USE", query heads */
    const char *placement, *merge;
    banyan_home home;
    banyan_out where;
    int loses;
} device_case;

static inline void set_spec(const device_case *c, int ranks, banyan_spec *spec,
                            banyan_rule *rule)
{
    banyan_spec_init(spec);
    spec->layers = LAYERS;
    spec->heads = c->heads;
    spec->kv_heads = c->kv_heads;
    spec->key_dim = c->dim;
    spec->max_tokens = c->tokens;
    spec->max_rows = c->rows;
    spec->block_tokens = c->block;
    spec->rollback_tokens = c->rollback;
    spec->placement = c->placement;
    spec->merge = c->merge;
    spec->home = c->home;
    spec->out = c->where;
    spec->threads = 1;
    spec->cache_dtype = c->cache;
    spec->in_dtype = c->in;
    spec->out_dtype = c->out;
    spec->device = "cuda";
    spec->rules = rule;
    if (c->loses && ranks > 1) spec->lost_rank = 1;
    for (int i = 0; i < 2 && c->rule[i]; i++) {
        rule[i] = (banyan_rule){0, -1, 0, 0, strchr(c->rule[i], ':') + 1};
        CHECK(sscanf(c->rule[i], "%d-%d", &rule[i].first_head, &rule[i].last_head) == 2);
        spec->rule_count++;
    }
}

/* ---- there and back ---------------------------------------------------------------------- */

static inline void settle(const banyan_cache *cache)
{
    const banyan_status status = banyan_cache_wait((banyan_cache *)(uintptr_t)cache);
    CHECK_MSG(!status, "%s", banyan_error_message());
}

/* Between device memory and any of the host's, when the queue got there. */
static inline void device_copy(const banyan_cache *cache, void *device, void *host,
                               size_t bytes, int up)
{
    const banyan_device_cache *d = cache->device;
    void *stage = NULL;
    settle(cache);
    if (banyan_memory_allocate(&d->memory, 1, bytes, &stage)) abort();
    if (up) memcpy(stage, host, bytes);
    CHECK(!banyan_memory_copy(&d->memory, up ? device : stage, up ? stage : device, bytes));
    settle(cache);
    if (!up) memcpy(host, stage, bytes);
    banyan_memory_release(&d->memory, 1, stage);
}

typedef struct sequence_sizes {
    size_t q, k, v, out, lse;
} sequence_sizes;

static inline sequence_sizes sizes_of(const sequence *s)
{
    const banyan_spec *p = s->spec;
    const size_t rows = (size_t)(p->layers * s->tokens), in = banyan_dtype_bytes(p->in_dtype);
    const size_t heads = (size_t)p->heads, kv_heads = (size_t)p->kv_heads;
    return (sequence_sizes){
        rows * heads * (size_t)p->key_dim * in, rows * kv_heads * (size_t)p->key_dim * in,
        rows * kv_heads * (size_t)p->value_dim * in,
        rows * heads * (size_t)p->value_dim * banyan_dtype_bytes(p->out_dtype),
        rows * heads * sizeof(float)};
}

static inline void *device_take(const banyan_cache *cache, void *host, size_t bytes)
{
    const banyan_device_cache *d = cache->device;
    void *device = NULL;
    if (banyan_memory_allocate(&d->memory, 0, bytes, &device)) abort();
    device_copy(cache, device, host, bytes, 1);
    return device;
}

/* The same sequence, with its arrays on the cache's device. */
static inline sequence sequence_board(const sequence *s, const banyan_cache *cache)
{
    const sequence_sizes z = sizes_of(s);
    sequence on = *s;
    on.q_in = device_take(cache, s->q_in, z.q);
    on.k_in = device_take(cache, s->k_in, z.k);
    on.v_in = device_take(cache, s->v_in, z.v);
    on.out = device_take(cache, s->out, z.out);
    on.lse = device_take(cache, s->lse, z.lse);
    on.mass = device_take(cache, s->mass, z.lse);
    return on;
}

/* Results, from the device or (up) to it. */
static inline void sequence_fetch(const sequence *s, const sequence *on,
                                  const banyan_cache *cache, int up)
{
    const sequence_sizes z = sizes_of(s);
    device_copy(cache, on->out, s->out, z.out, up);
    device_copy(cache, on->lse, s->lse, z.lse, up);
    device_copy(cache, on->mass, s->mass, z.lse, up);
}

static inline void sequence_leave(const sequence *on, const banyan_cache *cache)
{
    const banyan_device_cache *d = cache->device;
    void *const array[] = {on->q_in, on->k_in, on->v_in, on->out, on->lse, on->mass};
    for (int i = 0; i < 6; i++) banyan_memory_release(&d->memory, 0, array[i]);
}

/* ---- running ----------------------------------------------------------------------------- */

static inline void call(sequence *s, banyan_cache *cache, int64_t at, int32_t rows, int what)
{
    for (int32_t layer = 0; layer < LAYERS; layer++)
        CHECK_MSG(sequence_call(s, cache, layer, at, rows, what) == BANYAN_OK, "%s",
                  banyan_error_message());
}

static inline void run_script(sequence *s, banyan_cache *cache, uint64_t seed)
{
    const int64_t decode = s->tokens - DEVICE_DECODES;
    for (int64_t at = 0; at < s->tokens;) {
        const int64_t left = at < decode ? decode - at : s->tokens - at;
        const int64_t most = at < decode ? s->spec->max_rows : 1;
        int32_t rows = (int32_t)test_below(&seed, most) + 1;
        if (rows > left) rows = (int32_t)left;
        switch (test_below(&seed, 4)) {
        case 0:
            call(s, cache, at, rows, APPEND);
            call(s, cache, at, rows, ATTEND);
            break;
        case 1: /* other keys at first, then the right ones */
            if (s->spec->rollback_tokens >= rows)
                CHECK(sequence_attend(cache, 0, at, rows, NULL, s->k_in, s->v_in, NULL, NULL) ==
                      BANYAN_OK);
            call(s, cache, at, rows, APPEND | ATTEND);
            break;
        default: call(s, cache, at, rows, APPEND | ATTEND);
        }
        at += rows;
    }
    settle(cache);
}

/* ---- checking ---------------------------------------------------------------------------- */

typedef struct reader {
    const sequence *s;
    int32_t layer;
    int64_t first, end; /* tokens */
} reader;

static inline int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    const banyan_spec *spec = r->s->spec;
    const int32_t kv_head = head / (spec->heads / spec->kv_heads);
    if (token < r->first || token >= r->end) return 0;
    if (spec->lost_rank >= 0 &&
        banyan_plan_owner(r->s->plan, 0, r->layer, kv_head, token / spec->block_tokens) ==
            spec->lost_rank)
        return 0;
    return banyan_plan_reads(r->s->plan, r->layer, head, row, token);
}

static inline oracle oracle_of(const sequence *s, reader *r)
{
    const banyan_spec *spec = s->spec;
    const int64_t layer = r->layer * s->tokens * spec->kv_heads;
    return (oracle){.heads = spec->heads,
                    .kv_heads = spec->kv_heads,
                    .key_dim = spec->key_dim,
                    .value_dim = spec->value_dim,
                    .tokens = s->tokens,
                    .scale = spec->scale,
                    .k = s->k + layer * spec->key_dim,
                    .v = s->v + layer * spec->value_dim,
                    .reads = reads,
                    .ctx = r};
}

/* Partials of masked and other blocks are combined, those of DEVICE_PARTS parts of a list, and
 * those of ranks. */
static inline bound bound_of(const sequence *s)
{
    return (bound){.block_tokens = s->spec->block_tokens,
                   .combines = s->plan->ranks + 2 + DEVICE_PARTS,
                   .rounds = DEVICE_ROUNDS(s->spec->cache_dtype)};
}

static inline const float *query(const sequence *s, int32_t layer, int64_t row, int32_t head)
{
    return s->q +
           ((layer * s->tokens + row) * s->spec->heads + head) * (int64_t)s->spec->key_dim;
}

static inline void check_row(const sequence *s, int32_t layer, int64_t row, const char *name)
{
    reader r = {s, layer, 0, INT64_MAX};
    const oracle o = oracle_of(s, &r);
    double expect[BANYAN_MAX_DIM], lse;
    for (int32_t h = 0; h < s->spec->heads; h++) {
        if (!sequence_is_written(s, h, layer)) {
            CHECK_MSG(sequence_is_untouched(s, layer, row, h), "%s: row %lld head %d", name,
                      (long long)row, h);
            continue;
        }
        bound b = bound_of(s);
        oracle_row(&o, query(s, layer, row, h), h, row, expect, &lse, &b);
        const double error =
            oracle_compare(expect, lse, &b, s->spec->value_dim, sequence_out(s, layer, row, h),
                           s->spec->out_dtype, sequence_lse(s, layer, row, h));
        CHECK_MSG(error <= 1,
                  "%s: rank %d of %d, layer %d row %lld head %d: %g times the bound", name,
                  s->plan->rank, s->plan->ranks, layer, (long long)row, h, error);
    }
}

static inline void check_results(const sequence *s, const char *name)
{
    uint64_t seed = 99;
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        for (int i = 0; i < 6; i++) check_row(s, layer, test_below(&seed, s->tokens), name);
        check_row(s, layer, 0, name);
        check_row(s, layer, s->tokens - 1, name);
    }
}

/* What is held, computed and sent is what the CPU holds, computes and sends. */
static inline void check_stats(const sequence *s, const banyan_cache *cache, banyan_comm *comm,
                               const char *name)
{
    banyan_spec spec = *s->spec;
    banyan_stats here, there;
    banyan_share share;
    spec.device = "cpu";
    spec.kernel = "scalar";
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cpu = plan ? sequence_cache(plan) : NULL;
    if (!cpu) return;
    run_script((sequence *)(uintptr_t)s, cpu, 5);
    banyan_cache_stats(cache, &here);
    banyan_cache_stats(cpu, &there);
    CHECK_MSG(here.blocks == there.blocks && here.evicted_blocks == there.evicted_blocks &&
                  here.pairs == there.pairs,
              "%s: blocks %lld %lld, pairs %lld %lld", name, (long long)here.blocks,
              (long long)there.blocks, (long long)here.pairs, (long long)there.pairs);
    CHECK_MSG((here.messages > 0) == (there.messages > 0) && here.messages <= there.messages,
              "%s: messages %lld %lld", name, (long long)here.messages,
              (long long)there.messages);
    CHECK(banyan_plan_share(s->plan, s->plan->rank, 1, s->tokens, &share) == BANYAN_OK);
    CHECK_MSG(here.workspace_bytes <= share.workspace_bytes, "%s: %lld, planned %lld", name,
              (long long)here.workspace_bytes, (long long)share.workspace_bytes);
    CHECK(here.capacity_bytes == share.capacity_bytes && here.device_bytes &&
          here.device_bytes == share.device_bytes && !there.device_bytes);
    CHECK(share.kept_bytes == here.bytes);
    banyan_cache_destroy(cpu);
    banyan_plan_destroy(plan);
}

/* The share of the mass of tokens `first` .., of the last `rows` rows. With both lse right to
 * their bounds a and b, exp(lse' - lse) is right to a factor of exp(a + b), and a few
 * roundings. */
static inline void check_mass(sequence *s, sequence *on, banyan_cache *cache, int64_t first,
                              int64_t count, const char *name)
{
    const int32_t rows = s->spec->max_rows < 30 ? s->spec->max_rows : 30;
    const int64_t at = s->tokens - rows;
    double expect[BANYAN_MAX_DIM];
    /* rows that may be asked for again: those that eviction counted with */
    if (cache->sequence->layer[0].floor > at) return;
    on->probe = (banyan_range){first, first + count};
    CHECK_MSG(sequence_call(on, cache, 0, at, rows, ATTEND | PROBE) == BANYAN_OK, "%s",
              banyan_error_message());
    sequence_fetch(s, on, cache, 0);
    check_row(s, 0, at, name);
    for (int32_t h = 0; h < s->spec->heads; h++) {
        if (!sequence_is_written(s, h, 0)) continue;
        for (int64_t row = at; row < s->tokens; row += 7) {
            reader all = {s, 0, 0, INT64_MAX}, part = {s, 0, first, first + count};
            bound a = bound_of(s), b = bound_of(s);
            double lse, probed;
            oracle o = oracle_of(s, &all);
            oracle_row(&o, query(s, 0, row, h), h, row, expect, &lse, &a);
            o.ctx = &part;
            oracle_row(&o, query(s, 0, row, h), h, row, expect, &probed, &b);
            const double mass = exp(probed - lse), got = *sequence_mass(s, 0, row, h);
            const double off = mass * (expm1(bound_lse(&a) + bound_lse(&b)) + 8 * BOUND_U);
            CHECK_MSG(lse == -INFINITY || fabs(got - mass) <= off,
                      "%s: row %lld head %d: mass %g, expected %g", name, (long long)row, h,
                      got, mass);
        }
    }
}

static inline int64_t capacity_of(const banyan_cache *cache, int32_t layer, int32_t j)
{
    const banyan_plan *plan = cache->plan;
    return banyan_plan_capacity(banyan_plan_kind(plan, layer),
                                banyan_cache_part(cache, layer)->mine[j].kv_head, plan->rank) *
           banyan_device_slots(plan);
}

/* A ring that is full every few calls. */
static inline void shrink_ring(banyan_cache *cache)
{
    int64_t most = 1;
    for (int32_t layer = 0; layer < LAYERS; layer++)
        for (int32_t j = 0; j < banyan_cache_part(cache, layer)->mine_count; j++)
            if (capacity_of(cache, layer, j) > most) most = capacity_of(cache, layer, j);
    CHECK(most <= cache->device->ring_slots);
    cache->device->ring_slots = most;
}

static inline void test_case(const device_case *c, banyan_comm *comm)
{
    banyan_spec spec;
    banyan_rule rules[2];
    uint64_t hash[3] = {0};
    set_spec(c, comm->size, &spec, rules);
    for (int again = 0; again < 3; again++) { /* the last time nothing is evicted */
        spec.evict = again < 2;
        banyan_plan *plan = sequence_plan(&spec, comm);
        banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
        if (!cache) return;
        sequence s;
        if (again != 1) shrink_ring(cache);
        sequence_make(&s, plan, c->tokens, 1234);
        oracle_round(s.k, LAYERS * s.tokens * spec.kv_heads * c->dim, spec.cache_dtype);
        oracle_round(s.v, LAYERS * s.tokens * spec.kv_heads * c->dim, spec.cache_dtype);
        sequence_mark_results(&s);
        sequence on = sequence_board(&s, cache);
        run_script(&on, cache, 5);
        sequence_fetch(&s, &on, cache, 0);
        hash[again] = sequence_results_hash(&s);
        if (again == 0) check_results(&s, c->name);
        if (again == 1) check_mass(&s, &on, cache, s.tokens - 50, 37, c->name);
        if (again == 2) check_mass(&s, &on, cache, 3, s.tokens / 2, c->name);
        if (again == 0) check_stats(&s, cache, comm, c->name);
        sequence_leave(&on, cache);
        banyan_cache_destroy(cache);
        sequence_free(&s);
        banyan_plan_destroy(plan);
    }
    CHECK_MSG(hash[0] == hash[1], "%s: a second run gave other bits", c->name);
    CHECK_MSG(hash[0] == hash[2], "%s: eviction shows", c->name);
}

/* ---- batches ----------------------------------------------------------------------------- */

/* A part, and the rows of the arrays that it is given: first .. first+rows-1. */
typedef struct device_part {
    int32_t of; /* which of the sequences */
    int64_t at;
    int32_t rows, first;
} device_part;

/* A call of layer 0 with parts that stand one behind the other in the arrays. */
static inline void call_parts(const sequence *on, banyan_cache *cache, banyan_sequence **of,
                              const device_part *part, int32_t count)
{
    const banyan_spec *spec = on->spec;
    const size_t in = banyan_dtype_bytes(spec->in_dtype), first = (size_t)part->first;
    banyan_rows batch[4];
    for (int32_t i = 0; i < count; i++)
        batch[i] = (banyan_rows){.sequence = part[i].rows ? of[part[i].of] : NULL,
                                 .at = part[i].at,
                                 .rows = part[i].rows};
    CHECK_MSG(banyan_attend(cache, 0, batch, count,
                            on->q_in + first * (size_t)(spec->heads * spec->key_dim) * in,
                            on->k_in + first * (size_t)(spec->kv_heads * spec->key_dim) * in,
                            on->v_in + first * (size_t)(spec->kv_heads * spec->value_dim) * in,
                            sequence_out(on, 0, part->first, 0),
                            sequence_lse(on, 0, part->first, 0)) == BANYAN_OK,
              "%s", banyan_error_message());
}

/* Two sequences and a fork of one, in batches; or the same calls one by one, and the fork a
 * sequence that was given all of it: the same bits. */
static inline uint64_t run_batches(const banyan_plan *plan, const sequence *s, int as_batch)
{
    static const device_part first[] = {{0, 0, 40, 0}, {1, 0, 30, 40}}, alone = {2, 0, 35, 0};
    static const device_part second[] = {
        {0, 40, 1, 70}, {0, 0, 0, 71}, {2, 35, 5, 71}, {1, 30, 17, 76}};
    banyan_cache *cache = NULL;
    banyan_sequence *of[3] = {NULL};
    CHECK_MSG(banyan_cache_create(plan, NULL, &cache) == BANYAN_OK, "%s",
              banyan_error_message());
    for (int i = 0; i < 3 - as_batch; i++)
        CHECK(banyan_sequence_create(cache, i == 1 ? 5 : 0, &of[i]) == BANYAN_OK);
    sequence mine = *s;
    sequence_mark_results(&mine);
    sequence on = sequence_board(&mine, cache);
    if (as_batch) {
        call_parts(&on, cache, of, first, 2);
        CHECK_MSG(banyan_sequence_fork(of[0], 35, 0, &of[2]) == BANYAN_OK, "%s",
                  banyan_error_message());
        call_parts(&on, cache, of, second, 4);
    } else {
        call_parts(&on, cache, of, &alone, 1);
        for (int i = 0; i < 2; i++) call_parts(&on, cache, of, &first[i], 1);
        for (int i = 0; i < 4; i++) call_parts(&on, cache, of, &second[i], 1);
    }
    settle(cache);
    sequence_fetch(&mine, &on, cache, 0);
    sequence_leave(&on, cache);
    banyan_cache_destroy(cache);
    return sequence_results_hash(&mine);
}

static inline void test_device_batches(const device_case *c, banyan_comm *comm)
{
    banyan_spec spec;
    banyan_rule rules[2];
    set_spec(c, comm->size, &spec, rules);
    spec.sequences = 3;
    spec.pool_tokens = 3 * (spec.max_tokens + spec.block_tokens);
    banyan_plan *plan = sequence_plan(&spec, comm);
    sequence s;
    if (!plan) return;
    sequence_make(&s, plan, c->tokens, 77);
    sequence_mark_results(&s);
    const uint64_t nothing = sequence_results_hash(&s), batch = run_batches(plan, &s, 1);
    const uint64_t calls = run_batches(plan, &s, 0);
    CHECK_MSG(batch == calls, "%s, rank %d of %d: a batch gives other bits than its parts",
              c->name, plan->rank, plan->ranks);
    CHECK(batch != nothing || plan->ranks > 1);
    sequence_free(&s);
    banyan_plan_destroy(plan);
}

#endif
