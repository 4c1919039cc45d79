/* SPDX-License-Identifier: Apache-2.0 */
/* Caches that are saved on P ranks and opened on Q: batches with forks, evicted blocks, ends within a block,
 * sequences that went back; and they go on as the saved one does. With `reproducible`, and on the same
 * ranks without it, bit by bit; otherwise within the oracle's bound. The ranks of a job are all P and Q up to
 * their number. Saving again on the same ranks writes what is new; what was opened can be saved. */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LAYERS = 2, HEADS = 6, KV_HEADS = 3, DIM = 16, TOKENS = 200, ROWS = 48, BLOCK = 16 };
enum { LIVES = 5, KV = KV_HEADS * DIM, Q = HEADS * DIM };

typedef struct snapshot_case {
    const char *name, *placement;
    banyan_dtype dtype;
    int reproducible, rules;
    int32_t evict;
} snapshot_case;

/* clang-format off */
static const snapshot_case cases[] = {
    {"line", "line", BANYAN_BF16, 0, 3, 1},
    {"spread", "spread", BANYAN_F16, 0, 3, 1},
    {"exact", "line", BANYAN_F32, 1, 3, 1},
    {"exact spread", "spread", BANYAN_BF16, 1, 2, 1},
    {"dense", "line", BANYAN_F32, 0, 0, 0},
};
/* clang-format on */
enum { CASES = sizeof cases / sizeof *cases };
static const banyan_rule rules[] = {{0, -1, 2, 3, "sink_window sink=1 window=40t"},
                                    {0, -1, 4, 5, "s2 stride=3 local=2 per=query"},
                                    {1, 1, 0, 1, "sink_window sink=1 window=30t"}};

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

static void set_spec(const snapshot_case *c, banyan_spec *spec)
{
    banyan_spec_init(spec);
    spec->layers = LAYERS;
    spec->heads = HEADS;
    spec->kv_heads = KV_HEADS;
    spec->key_dim = DIM;
    spec->max_tokens = TOKENS;
    spec->sequences = LIVES;
    spec->pool_tokens = LIVES * TOKENS;
    spec->max_rows = ROWS;
    spec->block_tokens = BLOCK;
    spec->rollback_tokens = 20;
    spec->cache_dtype = c->dtype;
    spec->rules = rules;
    spec->rule_count = c->rules;
    spec->placement = c->placement;
    spec->reproducible = c->reproducible;
    spec->evict = c->evict;
    spec->out = BANYAN_OUT_ALL;
}

/* One row: multiples of 1/64 below 2, which every format holds. what: 0 q, 1 k, 2 v. */
static void row_of(int source, int what, int32_t layer, int64_t token, int32_t count, float *to)
{
    uint64_t seed = (uint64_t)(((source * 3 + what) * LAYERS + layer) * 100003 + token);
    for (int32_t i = 0; i < count; i++) to[i] = (float)(test_below(&seed, 256) - 128) / 64;
}

/* ---- a call, and what the oracle says of it ----------------------------------------------- */

typedef struct reader {
    const world *w;
    int32_t layer;
} reader;

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    const reader *r = ctx;
    return banyan_plan_reads(r->w->plan, r->layer, head, row, token);
}

static void check_row(const world *w, const life *l, int32_t layer, int64_t row,
                      const float *out, const float *lse)
{
    static float k[TOKENS * KV], v[TOKENS * KV];
    float q[Q];
    for (int64_t t = 0; t <= row; t++) {
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

/* Rows from `at` on of every sequence that has some, in one call; hash takes what comes of it. */
static void call(world *w, const int64_t *at, const int32_t *rows, int source, uint64_t *hash)
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

static void grow(world *w, const int32_t *rows, int source, uint64_t *hash)
{
    int64_t at[LIVES];
    for (int i = 0; i < LIVES; i++) at[i] = w->life[i].length;
    call(w, at, rows, source, hash);
}

static void begin(world *w, int i, uint64_t turn)
{
    if (w->cache) CHECK(banyan_sequence_create(w->cache, turn, &w->sequence[i]) == BANYAN_OK);
    w->is_there[i] = 1;
}

static void fork_of(world *w, int from, int to, int64_t tokens, uint64_t turn)
{
    if (w->cache)
        CHECK_MSG(banyan_sequence_fork(w->sequence[from], tokens, turn, &w->sequence[to]) ==
                      BANYAN_OK,
                  "%s", banyan_error_message());
    w->life[to] = w->life[from];
    w->life[to].length = tokens;
    w->is_there[to] = 1;
}

static void drop(world *w, int i)
{
    banyan_sequence_destroy(w->sequence[i]);
    w->sequence[i] = NULL;
    w->is_there[i] = 0;
}

/* ---- what happens before the save, and after it --------------------------------------------- */

static void before(world *w)
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

static uint64_t after(world *w)
{
    uint64_t hash = 1;
    grow(w, (int32_t[LIVES]){20, 0, 1, 3, 9}, 50, &hash);
    call(w, (int64_t[LIVES]){w->life[0].length - 7}, (int32_t[LIVES]){3}, 60, &hash);
    fork_of(w, 2, 1, w->life[2].length - 3, 4);
    for (int i = 0; i < 12; i++) grow(w, (int32_t[LIVES]){1, 1, 1, 1, 1}, 70 + i, &hash);
    drop(w, 0);
    grow(w, (int32_t[LIVES]){0, 5, 5, 5, 5}, 90, &hash);
    return hash;
}

/* Every rank counts what each of them has; and nothing is left in the end. */
static void check_counts(const world *w)
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

static void end(world *w)
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

/* ---- saving and opening -------------------------------------------------------------------- */

/* An empty one; comm NULL: takes no part. */
static world make(const snapshot_case *c, banyan_comm *comm)
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
static world opened(const snapshot_case *c, banyan_comm *comm, const world *from)
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
    while (n < 4 && w.cache) {
        const int i = order[n];
        CHECK(banyan_sequence_open(w.cache, n++, &w.sequence[i]) == BANYAN_OK);
        CHECK(banyan_sequence_length(w.sequence[i], -1) == w.life[i].length);
    }
    CHECK(banyan_cache_sequences(w.cache) == n);
    check_counts(&w);
    return w;
}

static void save(const world *w, const char *note)
{
    if (w->cache)
        CHECK_MSG(banyan_cache_save(w->cache, folder, note, strlen(note)) == BANYAN_OK, "%s",
                  banyan_error_message());
}

static int is_note(const char *expected)
{
    char got[64];
    size_t length = 0;
    CHECK_MSG(banyan_snapshot_note(folder, got, sizeof got, &length) == BANYAN_OK, "%s",
              banyan_error_message());
    return length == strlen(expected) && !memcmp(got, expected, length);
}

/* Files of the folder whose names begin so, and their bytes. */
static int64_t disk_bytes(const char *name, int *files)
{
    DIR *d = opendir(folder);
    int64_t bytes = 0;
    char path[1024];
    struct stat is;
    *files = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, name, strlen(name))) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (stat(path, &is)) continue;
        bytes += is.st_size;
        ++*files;
    }
    if (d) closedir(d);
    return bytes;
}

static void clear(banyan_comm *comm)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (banyan_comm_rank(comm) == 0) CHECK(system(command) == 0);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
}

/* Ranks below `ranks` of comm, or NULL. */
static banyan_comm *first_of(banyan_comm *comm, int ranks)
{
    banyan_comm *some = NULL;
    CHECK(banyan_comm_split(comm, banyan_comm_rank(comm) < ranks ? 0 : -1, 0, &some) ==
          BANYAN_OK);
    return some;
}

/* From p ranks to q, and from there to p. */
static void test_way(const snapshot_case *c, banyan_comm *comm, int p, int q)
{
    banyan_comm *from = first_of(comm, p), *to = first_of(comm, q);
    const int is_both = from && to, exact = c->reproducible;
    int files = 0;
    world saved = make(c, from);
    before(&saved);
    save(&saved, "first");
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    CHECK(is_note("first"));
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    world there = opened(c, to, &saved);
    save(&there, "second");
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    CHECK(is_note("second"));
    disk_bytes("index-", &files);
    CHECK_MSG(files == q, "%d indexes of %d ranks", files, q);
    world back = opened(c, from, &saved);
    const uint64_t hash = after(&saved), on_q = after(&there), on_p = after(&back);
    CHECK_MSG(!from || hash == on_p, "%s: %d to %d ranks and back: other bits", c->name, p, q);
    if (is_both && (exact || p == q))
        CHECK_MSG(hash == on_q, "%s: %d to %d ranks: other bits", c->name, p, q);
    end(&saved), end(&there), end(&back);
    clear(comm);
    banyan_comm_destroy(from);
    banyan_comm_destroy(to);
}

/* Saved again, only what is new is written; and everything can be read. */
static void test_again(const snapshot_case *c, banyan_comm *comm)
{
    int files = 0;
    int64_t bytes = 0;
    uint64_t hash = 0;
    world w = make(c, comm);
    before(&w);
    save(&w, "");
    const int64_t whole = disk_bytes("blocks-", &files);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    grow(&w, (int32_t[LIVES]){1, 0, 1}, 100, &hash);
    save(&w, "");
    const int64_t more = disk_bytes("blocks-", &files) - whole;
    CHECK_MSG(more > 0 && more < whole / 2, "%lld bytes and then %lld more", (long long)whole,
              (long long)more);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    world again = opened(c, comm, &w);
    grow(&w, (int32_t[LIVES]){1, 0, 0, 1}, 110, &hash);
    grow(&again, (int32_t[LIVES]){1, 0, 0, 1}, 110, &hash);
    /* back over whole blocks, which are others now */
    const int64_t at[LIVES] = {w.life[0].length - 17, 0, w.life[2].length - 18};
    call(&w, at, (int32_t[LIVES]){4, 0, 18}, 120, &hash);
    call(&again, at, (int32_t[LIVES]){4, 0, 18}, 120, &hash);
    save(&again, "more");
    CHECK(disk_bytes("blocks-", &files) - whole - more < whole / 2);
    CHECK_MSG(banyan_snapshot_verify(folder, &bytes) == BANYAN_OK && bytes > 0, "%s",
              banyan_error_message());
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    world last = opened(c, comm, &w);
    const uint64_t one = after(&w), two = after(&again), three = after(&last);
    CHECK(one == two && one == three);
    end(&w), end(&again), end(&last);
    clear(comm);
}

static void expect_save(const world *w, const char *words)
{
    const banyan_status status = banyan_cache_save(w->cache, folder, NULL, 0);
    CHECK_MSG(status == BANYAN_ERR_ARGUMENT && strstr(banyan_error_message(), words),
              "rank %d: %d, \"%s\" lacks \"%s\"", w->plan->rank, (int)status,
              banyan_error_message(), words);
}

static void append(const world *w, int32_t layer, const banyan_rows *part)
{
    static const float rows[ROWS * KV];
    CHECK_MSG(banyan_attend(w->cache, layer, part, 1, NULL, rows, rows, NULL, NULL) ==
                  BANYAN_OK,
              "%s", banyan_error_message());
}

/* Between a step and its last call, no snapshot: not even of a fork of what is not written. */
static void test_step(const snapshot_case *c, banyan_comm *comm)
{
    banyan_sequence *fork = NULL;
    world w = make(c, comm);
    before(&w);
    const int64_t at = w.life[2].length;
    const banyan_rows part = {.sequence = w.sequence[2], .at = at, .rows = 3};
    char words[128];
    CHECK(banyan_cache_step(w.cache, &part, 1) == BANYAN_OK);
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        snprintf(words, sizeof words,
                 "layer %d has %lld tokens, and keys and values of %lld:", (int)layer,
                 (long long)at + 3, (long long)at);
        expect_save(&w, words);
        append(&w, layer, &part);
    }
    save(&w, "");
    /* rows that never come are owed until the sequence goes back before them */
    const banyan_rows next = {.sequence = w.sequence[2], .at = at + 3, .rows = 1};
    CHECK(banyan_cache_step(w.cache, &next, 1) == BANYAN_OK);
    CHECK(banyan_sequence_fork(w.sequence[2], at + 4, 1, &fork) == BANYAN_OK);
    const banyan_rows more = {.sequence = w.sequence[2], .at = at + 4, .rows = 1};
    for (int32_t layer = 0; layer < LAYERS; layer++) append(&w, layer, &more);
    snprintf(words, sizeof words,
             "layer 0 has %lld tokens, and keys and values of %lld:", (long long)at + 5,
             (long long)at + 3);
    expect_save(&w, words);
    for (int32_t layer = 0; layer < LAYERS; layer++) append(&w, layer, &part);
    snprintf(words, sizeof words,
             "layer 0 has %lld tokens, and keys and values of %lld:", (long long)at + 4,
             (long long)at + 3);
    expect_save(&w, words);
    banyan_sequence_destroy(fork);
    save(&w, "");
    end(&w);
    clear(comm);
}

/* Each way on one of the cases; with a word: on all. */
int main(int argc, char **argv)
{
    (void)argv;
    static const int counts[] = {1, 2, 3, 4, 7};
    banyan_comm *comm = NULL;
    if (banyan_comm_create(NULL, NULL, &comm) != BANYAN_OK) {
        fprintf(stderr, "%s\n", banyan_error_message());
        return 1;
    }
    long id = (long)getpid();
    CHECK(banyan_comm_broadcast(comm, &id, sizeof id, 0) == BANYAN_OK);
    const char *fast =
        access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm"; /* no disk is waited for */
    snprintf(folder, sizeof folder, "%s/snapshot_test.%ld", fast, id);
    const int ranks = banyan_comm_size(comm), full = argc > 1;
    for (int i = 0; i < CASES; i++) {
        for (int p = 0; p < 5; p++)
            for (int q = 0; q < 5; q++)
                if (counts[p] <= ranks && counts[q] <= ranks &&
                    (full || ranks == 1 || (p + 2 * q) % CASES == i))
                    test_way(&cases[i], comm, counts[p], counts[q]);
        if (full || ranks < 4) test_again(&cases[i], comm);
        if (full || i == ranks % CASES) test_step(&cases[i], comm);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
