/* SPDX-License-Identifier: Apache-2.0 */
/* soak_test [SECONDS]: sequences are born, appended to in batches, forked, rolled back and
 * ended at random, and the cache is now and then saved and opened again, for SECONDS (3) on all
 * ranks. Results equal the float64 oracle throughout, and after the first part memory does not
 * grow: neither this process's, nor the library's records, nor the files of the snapshot beyond
 * what is kept. */
#include "tests/dist/sequence.h"
#include "tests/oracle.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADS = 4, KV_HEADS = 2, DIM = 16, BLOCK = 16, TOKENS = 400, ROWS = 64, LIVES = 8 };
enum { KV = KV_HEADS * DIM, Q = HEADS * DIM };

typedef struct life {
    banyan_sequence *sequence;
    int source[TOKENS]; /* token t has the rows of this number */
    int64_t length, longest, lowest;
} life;

typedef struct world {
    banyan_plan *plan;
    banyan_cache *cache;
    life life[LIVES];
    uint64_t seed; /* the same on all ranks */
    int64_t calls, saves, full;
    char folder[256];
} world;

static const banyan_rule rules[] = {{0, -1, 0, 1, "sink_window sink=1 window=70t"},
                                    {0, -1, 3, 3, "s2 stride=3 local=2"}};

static void set_spec(banyan_spec *spec)
{
    banyan_spec_init(spec);
    spec->layers = 1;
    spec->heads = HEADS;
    spec->kv_heads = KV_HEADS;
    spec->key_dim = DIM;
    spec->max_tokens = TOKENS;
    spec->sequences = LIVES;
    spec->pool_tokens = 1500;
    spec->max_rows = ROWS;
    spec->block_tokens = BLOCK;
    spec->rollback_tokens = 30;
    spec->rules = rules;
    spec->rule_count = 2;
    spec->out = BANYAN_OUT_ALL;
    spec->threads = 1;
}

static void row_of(int source, int what, int64_t token, int32_t count, float *to)
{
    uint64_t seed = (uint64_t)((int64_t)source * 3 + what) * 100003 + (uint64_t)token;
    for (int32_t i = 0; i < count; i++) to[i] = (float)(test_below(&seed, 256) - 128) / 64;
}

static int reads(void *ctx, int head, int64_t row, int64_t token)
{
    return banyan_plan_reads(ctx, 0, head, row, token);
}

static void check_row(const world *w, const life *l, int64_t row, const float *out,
                      const float *lse)
{
    static float k[TOKENS * KV], v[TOKENS * KV];
    float q[Q];
    for (int64_t t = 0; t <= row; t++) {
        row_of(l->source[t], 1, t, KV, k + t * KV);
        row_of(l->source[t], 2, t, KV, v + t * KV);
    }
    row_of(l->source[row], 0, row, Q, q);
    const oracle o = {.heads = HEADS,
                      .kv_heads = KV_HEADS,
                      .key_dim = DIM,
                      .value_dim = DIM,
                      .tokens = row + 1,
                      .scale = w->plan->spec.scale,
                      .k = k,
                      .v = v,
                      .reads = reads,
                      .ctx = w->plan};
    for (int32_t h = 0; h < HEADS; h++) {
        double expect[DIM], expect_lse;
        bound b = {.block_tokens = BLOCK,
                   .combines = w->plan->ranks + 4,
                   .rounds = bound_rounds(w->plan->kernel->name, w->plan->spec.cache_dtype)};
        oracle_row(&o, q + h * DIM, h, row, expect, &expect_lse, &b);
        const double error =
            oracle_compare(expect, expect_lse, &b, DIM, out + h * DIM, BANYAN_F32, lse + h);
        CHECK_MSG(error <= 1, "call %lld, rank %d, row %lld, head %d: %g times the bound",
                  (long long)w->calls, w->plan->rank, (long long)row, (int)h, error);
    }
}

/* ---- what may happen --------------------------------------------------------------------- */

static int64_t lowest_at(const world *w, const life *l)
{
    const int64_t low = l->longest - w->plan->spec.rollback_tokens;
    return low > l->lowest ? low : l->lowest;
}

/* Rows of some sequences, some of them going back; the rows of one are compared. */
static void call(world *w)
{
    static float k[ROWS * KV], v[ROWS * KV], q[ROWS * Q], out[ROWS * Q], lse[ROWS * HEADS];
    static life before[LIVES];
    banyan_rows part[LIVES];
    int of[LIVES], count = 0, rows = 0;
    memcpy(before, w->life, sizeof before);
    for (int i = 0; i < LIVES; i++) {
        life *l = &w->life[i];
        if (!l->sequence || test_below(&w->seed, 3) == 0) continue;
        int64_t at = l->length, low = lowest_at(w, l);
        if (test_below(&w->seed, 6) == 0 && low < at) at = low + test_below(&w->seed, at - low);
        int64_t most = TOKENS - at < ROWS - rows ? TOKENS - at : ROWS - rows;
        if (most < 1) continue;
        const int32_t n = test_below(&w->seed, 2) ? 1 : 1 + (int32_t)test_below(&w->seed, most);
        part[count] = (banyan_rows){.sequence = l->sequence, .at = at, .rows = n};
        of[count++] = i;
        for (int32_t r = 0; r < n; r++, rows++) {
            l->source[at + r] = (int)test_below(&w->seed, 1 << 20);
            row_of(l->source[at + r], 0, at + r, Q, q + rows * Q);
            row_of(l->source[at + r], 1, at + r, KV, k + rows * KV);
            row_of(l->source[at + r], 2, at + r, KV, v + rows * KV);
        }
    }
    if (!count) return;
    w->calls++;
    const banyan_status status = banyan_attend(w->cache, 0, part, count, q, k, v, out, lse);
    if (status == BANYAN_ERR_MEMORY) {
        memcpy(w->life, before, sizeof before);
        w->full++;
        return;
    }
    CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    const int looked = (int)test_below(&w->seed, count);
    for (int p = 0, row = 0; p < count; row += part[p++].rows) {
        life *l = &w->life[of[p]];
        l->length = part[p].at + part[p].rows;
        if (l->length > l->longest) l->longest = l->length;
        const int64_t floor = part[p].at - w->plan->spec.rollback_tokens;
        if (floor > l->lowest) l->lowest = floor;
        const int32_t last = row + part[p].rows - 1;
        if (p == looked) check_row(w, l, l->length - 1, out + last * Q, lse + last * HEADS);
    }
}

static void fork_one(world *w, life *from, life *to)
{
    banyan_sequence *fork = NULL;
    if (!from->sequence || to->sequence || !from->length) return;
    const int64_t low = lowest_at(w, from) > 0 ? lowest_at(w, from) : 0;
    const int64_t tokens = low + test_below(&w->seed, from->length - low + 1);
    if (low > from->length || tokens > from->length) return;
    const banyan_status status =
        banyan_sequence_fork(from->sequence, tokens, test_random(&w->seed) % 64, &fork);
    if (status == BANYAN_ERR_MEMORY) {
        w->full++;
        return;
    }
    CHECK_MSG(status == BANYAN_OK, "%s", banyan_error_message());
    *to = *from;
    to->sequence = fork;
    to->length = to->longest = tokens;
}

/* To disk, and from there on with what was read. */
static void save_and_open(world *w)
{
    banyan_cache *again = NULL;
    banyan_sequence *s[LIVES];
    CHECK_MSG(banyan_cache_save(w->cache, w->folder, NULL, 0) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK_MSG(banyan_cache_open(w->plan, NULL, w->folder, &again) == BANYAN_OK, "%s",
              banyan_error_message());
    if (!again) return;
    const int32_t count = banyan_cache_sequences(w->cache);
    CHECK(banyan_cache_sequences(again) == count);
    for (int32_t n = 0; n < count; n++) CHECK(!banyan_sequence_open(w->cache, n, &s[n]));
    for (int i = 0; i < LIVES; i++)
        for (int32_t n = 0; n < count; n++) {
            if (w->life[i].sequence != s[n]) continue;
            CHECK(!banyan_sequence_open(again, n, &w->life[i].sequence));
            break;
        }
    banyan_cache_destroy(w->cache);
    w->cache = again;
    w->saves++;
}

static void step(world *w)
{
    const int a = (int)test_below(&w->seed, LIVES), b = (int)test_below(&w->seed, LIVES);
    life *l = &w->life[a];
    switch (test_below(&w->seed, 12)) {
    case 0:
        if (l->sequence) break;
        *l = (life){0};
        CHECK(banyan_sequence_create(w->cache, test_random(&w->seed) % 64, &l->sequence) ==
              BANYAN_OK);
        break;
    case 1: fork_one(w, l, &w->life[b]); break;
    case 2:
        if (!l->sequence || l->length < TOKENS / 2) break;
        banyan_sequence_destroy(l->sequence);
        l->sequence = NULL;
        break;
    case 3:
        if (test_below(&w->seed, 40) == 0) save_and_open(w);
        break;
    default: call(w);
    }
    if (w->full % 8 == 7) { /* room is made */
        banyan_sequence_destroy(l->sequence);
        l->sequence = NULL;
        w->full++;
    }
}

/* ---- memory ------------------------------------------------------------------------------ */

static int64_t resident(void)
{
    long long pages = 0, own = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%lld %lld", &pages, &own) != 2) own = 0;
    if (f) fclose(f);
    return own * sysconf(_SC_PAGESIZE);
}

static int64_t disk(const char *folder)
{
    DIR *d = opendir(folder);
    char path[1024];
    struct stat is;
    int64_t bytes = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (!stat(path, &is) && S_ISREG(is.st_mode)) bytes += is.st_size;
    }
    if (d) closedir(d);
    return bytes;
}

/* The longest of all ranks' clocks; for ever, where a rank has failed. */
static double elapsed(const world *w, double start)
{
    double now = test_failures ? 1e9 : banyan_seconds() - start;
    CHECK(banyan_comm_allreduce(w->plan->comm, &now, 1, BANYAN_MAX) == BANYAN_OK);
    return now;
}

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? atof(argv[1]) : 3,
                 settled = seconds > 120 ? 60 : seconds / 3;
    const char *fast = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    world w = {.seed = 11};
    banyan_comm *comm = NULL;
    banyan_spec spec;
    if (banyan_comm_create(NULL, NULL, &comm)) return 1;
    long id = (long)getpid();
    CHECK(banyan_comm_broadcast(comm, &id, sizeof id, 0) == BANYAN_OK);
    snprintf(w.folder, sizeof w.folder, "%s/soak_test.%ld", fast, id);
    set_spec(&spec);
    w.plan = sequence_plan(&spec, comm);
    CHECK(banyan_cache_create(w.plan, NULL, &w.cache) == BANYAN_OK);
    const double start = banyan_seconds();
    int64_t then = 0, now = 0, steps = 0;
    for (double spent = 0; spent < seconds; spent = elapsed(&w, start)) {
        for (int i = 0; i < 200; i++, steps++) step(&w);
        if (spent < settled || !w.saves) then = resident();
    }
    now = resident();
    save_and_open(&w);
    CHECK_MSG(now - then < 2 << 20, "memory grew from %lld to %lld bytes", (long long)then,
              (long long)now);
    /* less than half of them is of blocks that are gone, but for some that are small */
    CHECK_MSG(disk(w.folder) < (int64_t)w.plan->ranks * (80 << 20), "%lld bytes on disk",
              (long long)disk(w.folder));
    for (int i = 0; i < LIVES; i++) banyan_sequence_destroy(w.life[i].sequence);
    banyan_stats stats;
    banyan_cache_stats(w.cache, &stats);
    CHECK_MSG(stats.blocks == 0, "%lld blocks are left", (long long)stats.blocks);
    CHECK_MSG(w.saves > 0 && w.calls > 100, "%lld saves, %lld calls", (long long)w.saves,
              (long long)w.calls);
    if (argc > 1 && comm->rank == 0)
        printf(
            "%.0f s: %lld steps, %lld calls, %lld saved and opened, %lld times full; resident "
            "%.1f MiB after the first %.0f s, %.1f MiB in the end; %.1f MiB on disk\n",
            seconds, (long long)steps, (long long)w.calls, (long long)w.saves,
            (long long)w.full, (double)then / (1 << 20), settled, (double)now / (1 << 20),
            (double)disk(w.folder) / (1 << 20));
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", w.folder);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    if (comm->rank == 0) CHECK(system(command) == 0);
    banyan_cache_destroy(w.cache);
    banyan_plan_destroy(w.plan);
    banyan_comm_destroy(comm);
    return test_end();
}
