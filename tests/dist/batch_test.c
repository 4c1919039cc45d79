/* SPDX-License-Identifier: Apache-2.0 */
/* Several sequences in one cache: whatever they do together, each is as if it were alone.
 *
 * A script that is drawn by chance makes sequences, appends to some of them in one call
 * (decoded rows and longer chunks, in any order, some of them going back), forks, and destroys
 * in any order. Each sequence has a history of its own: the keys that it was given, token by
 * token. Every call's results are compared with the float64 oracle of that history, for some
 * rows; and with those of the same calls made alone, bit by bit, on a cache of one sequence
 * that is brought to the same state. */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"
#include "tests/world.h"

#include <unistd.h>

enum { SEQUENCES = 6, TOKENS = 150, ROWS = 48, BLOCK = 16, HEADS = 6, KV_HEADS = 3, DIM = 16 };
enum { TURNS = 5 };

/* What a sequence holds: token t has the keys of row source[t] of a pool that all share. */
typedef struct life {
    banyan_sequence *sequence;
    int64_t source[TOKENS];
    int64_t length, longest, lowest; /* lowest: no row before it may be asked for */
    uint64_t turn;
} life;

typedef struct world {
    const banyan_plan *plan;
    const banyan_spec *spec;
    banyan_cache *cache;
    life life[SEQUENCES];
    int32_t live;
    float *k, *v; /* [POOL][KV_HEADS][DIM] */
    float *q;     /* [POOL][HEADS][DIM] */
    uint64_t seed;
    int64_t full; /* calls that found the pool full */
} world;

enum { POOL = 4096 };

static const banyan_rule rules[] = {{0, -1, 2, 3, "sink_window sink=1 window=40t"},
                                    {0, -1, 4, 5, "s2 stride=3 local=2 per=query"}};

static void set_spec(banyan_spec *spec, uint64_t *seed)
{
    int placements = 0, merges = 0;
    while (banyan_placement_row(placements)) placements++;
    while (banyan_merge_row(merges)) merges++;
    banyan_spec_init(spec);
    spec->layers = 1;
    spec->heads = HEADS;
    spec->kv_heads = KV_HEADS;
    spec->key_dim = DIM;
    spec->max_tokens = TOKENS;
    spec->sequences = SEQUENCES;
    spec->pool_tokens = 200 + test_below(seed, 400);
    spec->max_rows = ROWS;
    spec->block_tokens = BLOCK;
    spec->rollback_tokens = (int32_t)test_below(seed, 2) * 25;
    spec->cache_dtype = BANYAN_F32;
    spec->rules = rules;
    spec->rule_count = (int32_t)test_below(seed, 3);
    spec->placement = banyan_placement_row((int)test_below(seed, placements))->name;
    spec->merge = banyan_merge_row((int)test_below(seed, merges))->name;
    spec->out = test_below(seed, 2) ? BANYAN_OUT_ALL : BANYAN_OUT_HOME;
    spec->home = test_below(seed, 2) ? BANYAN_HOME_DEALT : BANYAN_HOME_FIRST;
    spec->threads = 1 + (int32_t)test_below(seed, 2);
    spec->evict = test_below(seed, 4) != 0;
    spec->reproducible = test_below(seed, 4) == 0;
}

/* ---- what came of it --------------------------------------------------------------------- */

typedef struct reader {
    const world *w;
    const life *l;
} reader;

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    return banyan_plan_reads(r->w->plan, 0, head, row, token);
}

static int is_written(const world *w, int32_t head)
{
    return w->spec->out == BANYAN_OUT_ALL ||
           banyan_plan_home(w->plan, 0, head) == w->plan->rank;
}

/* A row of a life against the oracle. */
static void check_row(const world *w, const life *l, int64_t row, const float *out,
                      const float *lse)
{
    static float k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];
    for (int64_t t = 0; t <= row; t++) {
        const size_t bytes = sizeof *k * KV_HEADS * DIM;
        memcpy(k + t * KV_HEADS * DIM, w->k + l->source[t] * KV_HEADS * DIM, bytes);
        memcpy(v + t * KV_HEADS * DIM, w->v + l->source[t] * KV_HEADS * DIM, bytes);
    }
    reader r = {w, l};
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = DIM,
                      .tokens = row + 1,
                      .scale = w->spec->scale,
                      .k = k,
                      .v = v,
                      .reads = reads,
                      .ctx = &r};
    for (int32_t h = 0; h < HEADS; h++) {
        double expect[DIM], expect_lse;
        bound b = {.block_tokens = BLOCK, .combines = w->plan->ranks + 4, .rounds = 0};
        if (!is_written(w, h)) continue;
        const float *q = w->q + (l->source[row] * HEADS + h) * DIM;
        oracle_row(&o, q, h, row, expect, &expect_lse, &b);
        const double error =
            oracle_compare(expect, expect_lse, &b, DIM, out + h * DIM, BANYAN_F32, lse + h);
        CHECK_MSG(error <= 1, "rank %d of %d, row %lld head %d: %g times the bound",
                  w->plan->rank, w->plan->ranks, (long long)row, h, error);
    }
}

static void rows_of(const float *from, const life *l, int64_t at, int32_t rows, int32_t width,
                    float *to)
{
    for (int32_t i = 0; i < rows; i++)
        memcpy(to + (int64_t)i * width, from + l->source[at + i] * width,
               sizeof *to * (size_t)width);
}

/* The same sequence alone in a cache of its own: the same bits where it has the same turns. */
static void check_alone(const world *w, const life *l, int64_t at, int32_t rows,
                        const float *out, const float *lse)
{
    static float k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];
    static float q[TOKENS * HEADS * DIM], got[TOKENS * HEADS * DIM], got_lse[TOKENS * HEADS];
    banyan_cache *cache = NULL;
    banyan_rows part = {.rows = ROWS};
    CHECK(banyan_cache_create(w->plan, NULL, &cache) == BANYAN_OK);
    CHECK(banyan_sequence_create(cache, l->turn, &part.sequence) == BANYAN_OK);
    for (; part.at < at; part.at += part.rows) {
        if (part.at + part.rows > at) part.rows = (int32_t)(at - part.at);
        rows_of(w->k, l, part.at, part.rows, KV_HEADS * DIM, k);
        rows_of(w->v, l, part.at, part.rows, KV_HEADS * DIM, v);
        CHECK(banyan_attend(cache, 0, &part, 1, NULL, k, v, NULL, NULL) == BANYAN_OK);
    }
    part = (banyan_rows){.sequence = part.sequence, .at = at, .rows = rows};
    rows_of(w->k, l, at, rows, KV_HEADS * DIM, k);
    rows_of(w->v, l, at, rows, KV_HEADS * DIM, v);
    rows_of(w->q, l, at, rows, HEADS * DIM, q);
    CHECK_MSG(banyan_attend(cache, 0, &part, 1, q, k, v, got, got_lse) == BANYAN_OK, "%s",
              banyan_error_message());
    for (int32_t i = 0; i < rows; i++)
        for (int32_t h = 0; h < HEADS; h++) {
            const int64_t x = (int64_t)i * HEADS + h;
            if (!is_written(w, h)) continue;
            CHECK_MSG(!memcmp(out + x * DIM, got + x * DIM, sizeof *out * DIM) &&
                          lse[x] == got_lse[x],
                      "rank %d of %d: row %lld head %d has other bits alone", w->plan->rank,
                      w->plan->ranks, (long long)(at + i), h);
        }
    banyan_cache_destroy(cache);
}

/* ---- what may happen --------------------------------------------------------------------- */

static int64_t lowest_at(const world *w, const life *l)
{
    int64_t lowest = l->longest - w->spec->rollback_tokens;
    if (lowest < l->lowest) lowest = l->lowest;
    return lowest > 0 ? lowest : 0;
}

/* A batch of some of the sequences, and what it gives. */
static void call(world *w)
{
    static float k[ROWS * KV_HEADS * DIM], v[ROWS * KV_HEADS * DIM], q[ROWS * HEADS * DIM];
    static float out[ROWS * HEADS * DIM], lse[ROWS * HEADS];
    banyan_rows batch[SEQUENCES];
    int of[SEQUENCES], count = 0;
    int32_t rows = 0;
    const int start = (int)test_below(&w->seed, SEQUENCES);
    life before[SEQUENCES];
    memcpy(before, w->life, sizeof before);
    for (int i = 0; i < SEQUENCES; i++) {
        const int s = (start + i * 5) % SEQUENCES;
        life *l = &w->life[s];
        if (!l->sequence || test_below(&w->seed, 3) == 0) continue;
        const int64_t low = lowest_at(w, l);
        const int64_t at = test_below(&w->seed, 4) || low >= l->length
                               ? l->length
                               : low + test_below(&w->seed, l->length - low + 1);
        int64_t most = TOKENS - at < ROWS - rows ? TOKENS - at : ROWS - rows;
        if (most > 0 && test_below(&w->seed, 2)) most = 1;
        const int32_t n = most > 0 ? 1 + (int32_t)test_below(&w->seed, most) : 0;
        batch[count] = (banyan_rows){.sequence = n ? l->sequence : NULL, .at = at, .rows = n};
        of[count++] = s;
        for (int32_t r = 0; r < n; r++) l->source[at + r] = test_below(&w->seed, POOL);
        rows_of(w->k, l, at, n, KV_HEADS * DIM, k + (int64_t)rows * KV_HEADS * DIM);
        rows_of(w->v, l, at, n, KV_HEADS * DIM, v + (int64_t)rows * KV_HEADS * DIM);
        rows_of(w->q, l, at, n, HEADS * DIM, q + (int64_t)rows * HEADS * DIM);
        rows += n;
    }
    if (!count) return;
    banyan_stats then, now;
    banyan_cache_stats(w->cache, &then);
    const banyan_status status = banyan_attend(w->cache, 0, batch, count, q, k, v, out, lse);
    banyan_cache_stats(w->cache, &now);
    if (status == BANYAN_ERR_MEMORY) { /* on all ranks, and nothing was changed */
        memcpy(w->life, before, sizeof before);
        w->full++;
        CHECK(now.blocks == then.blocks && now.tokens == then.tokens);
        return;
    }
    CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    CHECK(now.merges == then.merges + (rows > 0));
    int64_t row = 0;
    for (int i = 0; i < count; i++) {
        life *l = &w->life[of[i]];
        const banyan_rows *part = &batch[i];
        if (!part->rows) continue;
        l->length = part->at + part->rows;
        if (l->length > l->longest) l->longest = l->length;
        const int64_t floor = part->at - w->spec->rollback_tokens;
        if (floor > l->lowest) l->lowest = floor;
        CHECK(banyan_sequence_length(l->sequence, 0) == l->length);
        const int64_t pick = test_below(&w->seed, part->rows);
        check_row(w, l, part->at + pick, out + (row + pick) * HEADS * DIM,
                  lse + (row + pick) * HEADS);
        if (l->turn < TURNS && (w->spec->reproducible || test_below(&w->seed, 2)))
            check_alone(w, l, part->at, part->rows, out + row * HEADS * DIM, lse + row * HEADS);
        row += part->rows;
    }
}

static void fork_one(world *w)
{
    const int from = (int)test_below(&w->seed, SEQUENCES),
              to = (int)test_below(&w->seed, SEQUENCES);
    const life *l = &w->life[from];
    if (!l->sequence || w->life[to].sequence) return;
    const int64_t tokens = l->length ? test_below(&w->seed, l->length + 1) : 0;
    const uint64_t turn = (uint64_t)test_below(&w->seed, TURNS);
    banyan_sequence *fork = NULL;
    const banyan_status status = banyan_sequence_fork(l->sequence, tokens, turn, &fork);
    if (tokens < l->lowest) {
        CHECK(status == BANYAN_ERR_ARGUMENT && !fork);
        return;
    }
    if (status == BANYAN_ERR_MEMORY) {
        w->full++;
        return;
    }
    CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    w->life[to] = *l;
    w->life[to].sequence = fork;
    w->life[to].length = w->life[to].longest = tokens;
    /* its blocks are of several turns: only where bits do not depend on them may they be
     * compared */
    w->life[to].turn = w->spec->reproducible ? turn : TURNS;
    w->live++;
}

static void step(world *w)
{
    const int s = (int)test_below(&w->seed, SEQUENCES);
    life *l = &w->life[s];
    switch (test_below(&w->seed, 8)) {
    case 0:
    case 1:
        if (l->sequence) break;
        *l = (life){.turn = (uint64_t)test_below(&w->seed, TURNS)};
        CHECK(banyan_sequence_create(w->cache, l->turn, &l->sequence) == BANYAN_OK);
        w->live++;
        break;
    case 2: fork_one(w); break;
    case 3:
        if (!l->sequence || test_below(&w->seed, 2)) break;
        banyan_sequence_destroy(l->sequence);
        l->sequence = NULL;
        w->live--;
        break;
    default: call(w);
    }
}

static void end(world *w)
{
    banyan_stats stats;
    for (int s = 0; s < SEQUENCES; s++) banyan_sequence_destroy(w->life[s].sequence);
    banyan_cache_stats(w->cache, &stats);
    CHECK_MSG(stats.blocks == 0 && stats.sequences == 0, "%lld blocks are left",
              (long long)stats.blocks);
    for (int32_t r = 0; r < w->plan->ranks; r++)
        CHECK_MSG(w->cache->pool[0].used[r] == 0, "rank %d: %lld counted", (int)r,
                  (long long)w->cache->pool[0].used[r]);
}

/* Every rank counts what each of them has. */
static void check_counts(const world *w)
{
    banyan_stats stats;
    int64_t mine[1], all[64];
    banyan_cache_stats(w->cache, &stats);
    mine[0] = stats.blocks;
    CHECK(banyan_comm_allgather(w->plan->comm, mine, sizeof mine, all) == BANYAN_OK);
    for (int32_t r = 0; r < w->plan->ranks; r++)
        CHECK_MSG(w->cache->pool[0].used[r] == all[r], "rank %d has %lld blocks, counted %lld",
                  (int)r, (long long)all[r], (long long)w->cache->pool[0].used[r]);
}

static void test_world(banyan_comm *comm, uint64_t seed, int steps, int64_t *full)
{
    banyan_spec spec;
    world w = {.seed = seed};
    set_spec(&spec, &w.seed);
    banyan_plan *plan = sequence_plan(&spec, comm);
    if (!plan) return;
    w.plan = plan;
    w.spec = banyan_plan_spec(plan);
    CHECK(banyan_cache_create(plan, NULL, &w.cache) == BANYAN_OK);
    w.k = sequence_take(POOL * KV_HEADS * DIM, sizeof *w.k);
    w.v = sequence_take(POOL * KV_HEADS * DIM, sizeof *w.v);
    w.q = sequence_take(POOL * HEADS * DIM, sizeof *w.q);
    for (int64_t i = 0; i < POOL * KV_HEADS * DIM; i++)
        w.k[i] = test_normal(&w.seed), w.v[i] = test_normal(&w.seed);
    for (int64_t i = 0; i < POOL * HEADS * DIM; i++) w.q[i] = test_normal(&w.seed);
    for (int i = 0; i < steps; i++) {
        step(&w);
        if (i % 10 == 0) check_counts(&w);
    }
    end(&w);
    *full += w.full;
    banyan_cache_destroy(w.cache);
    banyan_plan_destroy(plan);
    free(w.k), free(w.v), free(w.q);
}

int main(int argc, char **argv)
{
    const int worlds = argc > 1 ? atoi(argv[1]) : 12, steps = argc > 2 ? atoi(argv[2]) : 60;
    banyan_comm *comm = test_comm(NULL);
    int64_t full = 0;
    for (int i = 0; i < worlds; i++) test_world(comm, 1000 + (uint64_t)i, steps, &full);
    CHECK_MSG(full > 0 || worlds < 10, "the pool was never full");
    banyan_comm_destroy(comm);
    return test_end();
}
