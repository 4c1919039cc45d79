/* SPDX-License-Identifier: Apache-2.0 */
/* Caches that are saved on P ranks and opened on Q: batches with forks, evicted blocks, ends
 * within a block, sequences that went back; and they go on as the saved one does. With
 * `reproducible`, and on the same ranks without it, bit by bit; otherwise within the oracle's
 * bound. The ranks of a job are all P and Q up to their number. Saving again on the same ranks
 * writes what is new; what was opened can be saved. */
#include "dist/snapshot.h"
#include "tests/dist/snapshot_world.h"
#include "tests/world.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

static const banyan_rule rules[] = {{0, -1, 2, 3, "sink_window sink=1 window=40t"},
                                    {0, -1, 4, 5, "s2 stride=3 local=2 per=query"},
                                    {1, 1, 0, 1, "sink_window sink=1 window=30t"}};
static const banyan_rule joins[] = {{0, -1, 2, 3, "razor sink=20t recent=30t part=0"},
                                    {0, -1, 4, 5, "s2 stride=3 local=2 per=query"},
                                    {1, 1, 0, 1, "razor sink=1 recent=1 part=0"}};
/* clang-format off */
static const snapshot_case cases[] = {
    {"line", "line", BANYAN_BF16, 0, rules, 3, 1, 0, 0},
    {"spread", "spread", BANYAN_F16, 0, rules, 3, 1, 0, 0},
    {"exact", "line", BANYAN_F32, 1, rules, 3, 1, 0, 0},
    {"exact spread", "spread", BANYAN_BF16, 1, rules, 2, 1, 0, 0},
    {"dense", "line", BANYAN_F32, 0, NULL, 0, 0, 0, 0},
    {"razor", "heads", BANYAN_F16, 0, joins, 3, 1, 0, 0}, /* whose heads are whole */
    {"exact razor", "heads", BANYAN_BF16, 1, joins, 3, 1, 0, 0},
    {"razor that keeps all", "heads", BANYAN_F32, 1, joins, 3, 0, 0, 0},
};
/* clang-format on */
enum { CASES = sizeof cases / sizeof *cases };

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

static void append(const world *w, int32_t layer, const banyan_rows *part, float value)
{
    static float rows[ROWS * KV];
    for (int32_t i = 0; i < ROWS * KV; i++) rows[i] = value;
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
        append(&w, layer, &part, 0);
    }
    save(&w, "");
    /* rows that never come are owed until the sequence goes back before them */
    const banyan_rows next = {.sequence = w.sequence[2], .at = at + 3, .rows = 1};
    CHECK(banyan_cache_step(w.cache, &next, 1) == BANYAN_OK);
    CHECK(banyan_sequence_fork(w.sequence[2], at + 4, 1, &fork) == BANYAN_OK);
    const banyan_rows more = {.sequence = w.sequence[2], .at = at + 4, .rows = 1};
    for (int32_t layer = 0; layer < LAYERS; layer++) append(&w, layer, &more, 0);
    snprintf(words, sizeof words,
             "layer 0 has %lld tokens, and keys and values of %lld:", (long long)at + 5,
             (long long)at + 3);
    expect_save(&w, words);
    for (int32_t layer = 0; layer < LAYERS; layer++) append(&w, layer, &part, 0);
    snprintf(words, sizeof words,
             "layer 0 has %lld tokens, and keys and values of %lld:", (long long)at + 4,
             (long long)at + 3);
    expect_save(&w, words);
    banyan_sequence_destroy(fork);
    save(&w, "");
    end(&w);
    clear(comm);
}

/* What a life's last row reads. */
static uint64_t look(const world *w, int life)
{
    static float q[Q], out[Q], lse[HEADS];
    uint64_t hash = 1;
    const int64_t length = banyan_sequence_length(w->sequence[life], -1);
    const banyan_rows part = {.sequence = w->sequence[life], .at = length - 1, .rows = 1};
    row_of(7, 0, 0, 0, Q, q);
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        CHECK_MSG(banyan_attend(w->cache, layer, &part, 1, q, NULL, NULL, out, lse) ==
                      BANYAN_OK,
                  "%s", banyan_error_message());
        hash = sequence_hash(lse, sizeof lse, sequence_hash(out, sizeof out, hash));
    }
    return hash;
}

/* Rows of a step that come once more after a save: they are saved. With a fork of what came
 * first, that keeps it. */
static void test_rows_again(const snapshot_case *c, banyan_comm *comm, int forks)
{
    world w = make(c, comm);
    before(&w);
    drop(&w, 0), drop(&w, 3), drop(&w, 4);
    const int32_t rows = BLOCK + 1 - w.life[2].length % BLOCK;
    const banyan_rows part = {.sequence = w.sequence[2], .at = w.life[2].length, .rows = rows};
    CHECK(banyan_cache_step(w.cache, &part, 1) == BANYAN_OK);
    w.life[2].length += rows;
    for (int32_t layer = 0; layer < LAYERS; layer++) append(&w, layer, &part, 0);
    if (forks) fork_of(&w, 2, 0, w.life[2].length, 3);
    save(&w, "");
    const uint64_t first = look(&w, 2);
    for (int32_t layer = 0; layer < LAYERS; layer++) append(&w, layer, &part, 1);
    CHECK(look(&w, 2) != first && (!forks || look(&w, 0) == first));
    save(&w, "");
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    world again = opened(c, comm, &w);
    CHECK_MSG(look(&w, 2) == look(&again, 2) && (!forks || look(&again, 0) == first),
              "%s: other rows than were written last", c->name);
    end(&w), end(&again);
    clear(comm);
}

/* Each way on one of the cases; with a word: on all. */
int main(int argc, char **argv)
{
    (void)argv;
    static const int counts[] = {1, 2, 3, 4, 7};
    banyan_comm *comm = test_comm(NULL);
    long id = (long)getpid();
    CHECK(banyan_comm_broadcast(comm, &id, sizeof id, 0) == BANYAN_OK);
    const char *fast =
        access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm"; /* no disk is waited for */
    snprintf(folder, sizeof folder, "%s/snapshot_test.%ld", fast, id);
    const int ranks = banyan_comm_size(comm), full = argc > 1;
    const size_t usual = banyan_batch_bytes;
    for (int i = 0; i < CASES; i++) {
        banyan_batch_bytes = i % 2 ? usual : 1; /* a block each: many batches of few blocks */
        for (int p = 0; p < 5; p++)
            for (int q = 0; q < 5; q++)
                if (counts[p] <= ranks && counts[q] <= ranks &&
                    (full || ranks == 1 || (p + 2 * q) % CASES == i))
                    test_way(&cases[i], comm, counts[p], counts[q]);
        if (full || ranks < 4) test_again(&cases[i], comm);
        if (full || i == ranks % CASES) test_step(&cases[i], comm);
        for (int forks = 0; forks < 2 && (full || i == ranks % CASES); forks++)
            test_rows_again(&cases[i], comm, forks);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
