/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_world.h - a cache with sequences that grow, fork, go back and end, and what the
 * oracle says of their rows; for the tests that save one and open it. */
#ifndef BANYAN_TESTS_SNAPSHOT_WORLD_H
#define BANYAN_TESTS_SNAPSHOT_WORLD_H

#include "tests/dist/sequence.h"
#include "tests/oracle.h"

enum { LAYERS = 2, HEADS = 6, KV_HEADS = 3, DIM = 16, TOKENS = 200, ROWS = 48, BLOCK = 16 };
enum { LIVES = 5, KV = KV_HEADS * DIM, Q = HEADS * DIM };

typedef struct snapshot_case {
    const char *name, *placement;
    banyan_dtype dtype;
    int reproducible;
    const banyan_rule *rule;
    int32_t rules, evict, max_rows, rollback;
} snapshot_case;

static char folder[256];

/* Token t of a sequence has the rows of source[t]. */
typedef struct life {
    int source[TOKENS];
    int64_t length;
} life;

/* cache NULL: a rank that takes no part, and knows what happens. */
typedef struct world {
    banyan_plan *plan;
    banyan_cache *cache;
    banyan_sequence *sequence[LIVES];
    life life[LIVES];
    int is_there[LIVES];
} world;

static inline void set_spec(const snapshot_case *c, banyan_spec *spec)
{
    banyan_spec_init(spec);
    spec->layers = LAYERS;
    spec->heads = HEADS;
    spec->kv_heads = KV_HEADS;
    spec->key_dim = DIM;
    spec->max_tokens = TOKENS;
    spec->sequences = LIVES;
    spec->pool_tokens = LIVES * TOKENS;
    spec->max_rows = c->max_rows ? c->max_rows : ROWS;
    spec->block_tokens = BLOCK;
    spec->rollback_tokens = c->max_rows ? c->rollback : 20;
    spec->cache_dtype = c->dtype;
    spec->rules = c->rule;
    spec->rule_count = c->rules;
    spec->placement = c->placement;
    spec->reproducible = c->reproducible;
    spec->evict = c->evict;
    spec->out = BANYAN_OUT_ALL;
}

/* One row: multiples of 1/64 below 2, which every format holds. what: 0 q, 1 k, 2 v. */
static inline void row_of(int source, int what, int32_t layer, int64_t token, int32_t count,
                          float *to)
{
    uint64_t seed = (uint64_t)(((source * 3 + what) * LAYERS + layer) * 100003 + token);
    for (int32_t i = 0; i < count; i++) to[i] = (float)(test_below(&seed, 256) - 128) / 64;
}

/* ---- a call, and what the oracle says of it ---------------------------------------------- */

typedef struct reader {
    const world *w;
    int32_t layer;
} reader;

static inline int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    int64_t first, end;
    return banyan_plan_reads(r->w->plan, r->layer, head, row, token) ||
           (banyan_plan_compensates(r->w->plan, r->layer, head, row, &first, &end) &&
            token >= first && token < end);
}

/* n tokens that count by their means are n tokens with these for keys or values
 * [tokens][KV]. */
static inline void take_means(const world *w, int32_t layer, int32_t head, int64_t row,
                              float *x)
{
    int64_t first, end;
    if (!banyan_plan_compensates(w->plan, layer, head, row, &first, &end)) return;
    x += head / (HEADS / KV_HEADS) * DIM;
    for (int32_t d = 0; d < DIM; d++) {
        double sum = 0;
        for (int64_t t = first; t < end; t++) sum += (double)x[t * KV + d];
        for (int64_t t = first; t < end; t++)
            x[t * KV + d] = (float)(sum / (double)(end - first));
    }
}

static inline void check_row(const world *w, const life *l, int32_t layer, int64_t row,
                             const float *out, const float *lse)
{
    static float k[TOKENS * KV], v[TOKENS * KV];
    float q[Q];
    for (int64_t t = 0; t <= row;
         t++) { /* means of means are the same: heads of a group agree */
        row_of(l->source[t], 1, layer, t, KV, k + t * KV);
        row_of(l->source[t], 2, layer, t, KV, v + t * KV);
    }
    row_of(l->source[row], 0, layer, row, Q, q);
    reader r = {w, layer};
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = DIM,
                      .tokens = row + 1,
                      .scale = w->plan->spec.scale,
                      .k = k,
                      .v = v,
                      .reads = reads,
                      .ctx = &r};
    for (int32_t h = 0; h < HEADS; h++) {
        double expect[DIM], expect_lse;
        take_means(w, layer, h, row, k);
        take_means(w, layer, h, row, v);
        bound b = {.block_tokens = BLOCK,
                   .combines = w->plan->ranks + 4,
                   .rounds = bound_rounds(w->plan->kernel->name, w->plan->spec.cache_dtype)};
        oracle_row(&o, q + h * DIM, h, row, expect, &expect_lse, &b);
        const double error =
            oracle_compare(expect, expect_lse, &b, DIM, out + h * DIM, BANYAN_F32, lse + h);
        CHECK_MSG(error <= 1, "rank %d of %d, layer %d, row %lld, head %d: %g times the bound",
                  w->plan->rank, w->plan->ranks, (int)layer, (long long)row, (int)h, error);
    }
}

/* Rows from `at` on of every sequence that has some, in one call; hash takes what comes of
 * it. */
static inline void call(world *w, const int64_t *at, const int32_t *rows, int source,
                        uint64_t *hash)
{
    static float k[ROWS * KV], v[ROWS * KV], q[ROWS * Q], out[ROWS * Q], lse[ROWS * HEADS];
    banyan_rows part[LIVES];
    int32_t count = 0, all = 0;
    int of[LIVES];
    for (int i = 0; i < LIVES; i++) {
        if (!w->is_there[i] || !rows[i]) continue;
        of[count] = i;
        part[count++] = (banyan_rows){.sequence = w->sequence[i], .at = at[i], .rows = rows[i]};
        for (int32_t r = 0; r < rows[i]; r++) w->life[i].source[at[i] + r] = source + i;
        w->life[i].length = at[i] + rows[i];
        all += rows[i];
    }
    for (int32_t layer = 0; w->cache && count && layer < LAYERS; layer++) {
        int32_t row = 0;
        for (int32_t p = 0; p < count; p++)
            for (int32_t r = 0; r < part[p].rows; r++, row++) {
                const int64_t token = part[p].at + r;
                row_of(w->life[of[p]].source[token], 0, layer, token, Q, q + row * Q);
                row_of(w->life[of[p]].source[token], 1, layer, token, KV, k + row * KV);
                row_of(w->life[of[p]].source[token], 2, layer, token, KV, v + row * KV);
            }
        CHECK_MSG(banyan_attend(w->cache, layer, part, count, q, k, v, out, lse) == BANYAN_OK,
                  "%s", banyan_error_message());
        *hash = sequence_hash(out, sizeof *out * (size_t)(all * Q), *hash);
        *hash = sequence_hash(lse, sizeof *lse * (size_t)(all * HEADS), *hash);
        const int32_t looked =
            (source + layer) % count; /* one of them: an oracle takes its time */
        for (int32_t p = 0, first = 0; p < count; first += part[p++].rows)
            if (p == looked)
                check_row(w, &w->life[of[p]], layer, part[p].at + part[p].rows - 1,
                          out + (first + part[p].rows - 1) * Q,
                          lse + (first + part[p].rows - 1) * HEADS);
    }
}

static inline void grow(world *w, const int32_t *rows, int source, uint64_t *hash)
{
    int64_t at[LIVES];
    for (int i = 0; i < LIVES; i++) at[i] = w->life[i].length;
    call(w, at, rows, source, hash);
}

static inline void begin(world *w, int i, uint64_t turn)
{
    if (w->cache) CHECK(banyan_sequence_create(w->cache, turn, &w->sequence[i]) == BANYAN_OK);
    w->is_there[i] = 1;
}

static inline void fork_of(world *w, int from, int to, int64_t tokens, uint64_t turn)
{
    if (w->cache)
        CHECK_MSG(banyan_sequence_fork(w->sequence[from], tokens, turn, &w->sequence[to]) ==
                      BANYAN_OK,
                  "%s", banyan_error_message());
    w->life[to] = w->life[from];
    w->life[to].length = tokens;
    w->is_there[to] = 1;
}

static inline void drop(world *w, int i)
{
    banyan_sequence_destroy(w->sequence[i]);
    w->sequence[i] = NULL;
    w->is_there[i] = 0;
}

/* ---- what happens before the save, and after it ------------------------------------------ */

static inline void before(world *w)
{
    uint64_t hash = 0;
    begin(w, 0, 0);
    begin(w, 1, 5);
    grow(w, (int32_t[LIVES]){40, 7}, 10, &hash);
    grow(w, (int32_t[LIVES]){40, 8}, 10, &hash);
    grow(w, (int32_t[LIVES]){32, 16}, 10, &hash);
    fork_of(w, 0, 2, 112, 2); /* at a block's border */
    fork_of(w, 0, 3, 101, 3); /* within one */
    grow(w, (int32_t[LIVES]){9, 0, 20, 19}, 20, &hash);
    call(w, (int64_t[LIVES]){113}, (int32_t[LIVES]){4}, 30, &hash); /* back, and on */
    drop(w, 1);
    fork_of(w, 3, 4, 118, 1); /* of a fork */
    grow(w, (int32_t[LIVES]){0, 0, 1, 0, 1}, 40, &hash);
}

/* ---- saving and opening ------------------------------------------------------------------ */

/* Every rank counts what each of them has; and nothing is left in the end. */
static inline void check_counts(const world *w)
{
    banyan_stats stats;
    int64_t mine, all[64];
    banyan_cache_stats(w->cache, &stats);
    mine = stats.blocks;
    CHECK(banyan_comm_allgather(w->plan->comm, &mine, sizeof mine, all) == BANYAN_OK);
    for (int32_t r = 0; r < w->plan->ranks; r++)
        CHECK_MSG(w->cache->pool[0].used[r] == all[r], "rank %d has %lld blocks, counted %lld",
                  (int)r, (long long)all[r], (long long)w->cache->pool[0].used[r]);
}

static inline void end(world *w)
{
    banyan_stats stats;
    if (!w->cache) return;
    check_counts(w);
    for (int i = 0; i < LIVES; i++) drop(w, i);
    banyan_cache_stats(w->cache, &stats);
    CHECK_MSG(stats.blocks == 0 && stats.sequences == 0, "%lld blocks are left",
              (long long)stats.blocks);
    banyan_cache_destroy(w->cache);
    banyan_plan_destroy(w->plan);
}

/* An empty one; comm NULL: takes no part. */
static inline world make(const snapshot_case *c, banyan_comm *comm)
{
    banyan_spec spec;
    world w = {0};
    if (!comm) return w;
    set_spec(c, &spec);
    w.plan = sequence_plan(&spec, comm);
    CHECK(banyan_cache_create(w.plan, NULL, &w.cache) == BANYAN_OK);
    return w;
}

/* As `from` was when it was saved. */
static inline world opened(const snapshot_case *c, banyan_comm *comm, const world *from)
{
    banyan_spec spec;
    world w = {0};
    memcpy(w.life, from->life, sizeof w.life);
    memcpy(w.is_there, from->is_there, sizeof w.is_there);
    if (!comm) return w;
    set_spec(c, &spec);
    w.plan = sequence_plan(&spec, comm);
    CHECK_MSG(banyan_cache_open(w.plan, NULL, folder, &w.cache) == BANYAN_OK, "%s",
              banyan_error_message());
    static const int order[] = {0, 4, 2, 3}; /* the last one took the place of one that ended */
    int32_t n = 0;
    for (int at = 0; at < 4 && w.cache; at++) {
        const int i = order[at];
        if (!w.is_there[i]) continue;
        CHECK(banyan_sequence_open(w.cache, n++, &w.sequence[i]) == BANYAN_OK);
        CHECK(banyan_sequence_length(w.sequence[i], -1) == w.life[i].length);
    }
    CHECK(banyan_cache_sequences(w.cache) == n);
    check_counts(&w);
    return w;
}

static inline void save(const world *w, const char *note)
{
    if (w->cache)
        CHECK_MSG(banyan_cache_save(w->cache, folder, note, strlen(note)) == BANYAN_OK, "%s",
                  banyan_error_message());
}

/* The folder goes when all ranks have seen what they look for in it. */
static inline void clear(banyan_comm *comm)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    if (banyan_comm_rank(comm) == 0) CHECK(system(command) == 0);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
}

/* Ranks below `ranks` of comm, or NULL. */
static inline banyan_comm *first_of(banyan_comm *comm, int ranks)
{
    banyan_comm *some = NULL;
    CHECK(banyan_comm_split(comm, banyan_comm_rank(comm) < ranks ? 0 : -1, 0, &some) ==
          BANYAN_OK);
    return some;
}

#endif
