/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots that cannot be: damaged ones, of which every byte is changed and every length is
 * tried; plans that they do not fit; folders that not all ranks see; a rank that cannot write.
 * Each is an error in words, the same verdict on all ranks, and what was there before is
 * whole. */
#include "tests/dist/snapshot_small.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#ifndef VERSION_1 /* a folder: the snapshot of `filled`, as it was written then */
#define VERSION_1 "tests/dist/snapshot_version_1"
#endif

static const banyan_rule window = {0, -1, 0, -1, "sink_window sink=0 window=10t"};
static const banyan_rule joins = {0, -1, 0, -1, "razor sink=3t recent=1 part=0"};

/* ---- damage ------------------------------------------------------------------------------ */

/* What comes of a changed file: an error that names it, or what came of the whole one. */
static void try_changed(const banyan_plan *plan, const char *path, uint64_t expected,
                        const char *what, size_t at, int *refused)
{
    banyan_cache *cache = NULL;
    char words[1024];
    const banyan_status status = banyan_cache_open(plan, NULL, folder, &cache);
    snprintf(words, sizeof words, "%s", banyan_error_message());
    if (status) {
        ++*refused;
        CHECK_MSG(!cache && strstr(words, path), "%s at %zu: %s", what, at, words);
        if (strstr(path, "blocks-")) CHECK_MSG(strstr(words, "block") != NULL, "%s", words);
    } else {
        CHECK_MSG(answer(cache) == expected, "%s at %zu of %s: another answer", what, at, path);
        banyan_cache_destroy(cache);
    }
    const banyan_status verified = banyan_snapshot_verify(folder, NULL);
    if (status) CHECK_MSG(verified, "%s at %zu of %s: verified", what, at, path);
    if (verified) CHECK_MSG(strstr(banyan_error_message(), path), "%s", banyan_error_message());
}

static void damage_file(const banyan_plan *plan, const char *path, uint64_t expected,
                        size_t *total)
{
    static char whole[MOST], changed[MOST];
    static const char flips[] = {1, (char)0x80, (char)0xff};
    const size_t bytes = read_file(path, whole);
    int refused = 0;
    *total += bytes;
    for (size_t i = 0; i < bytes; i++) {
        memcpy(changed, whole, bytes);
        changed[i] = (char)(changed[i] ^ flips[i % 3]);
        write_file(path, changed, bytes);
        try_changed(plan, path, expected, "a flip", i, &refused);
        write_file(path, whole, i);
        try_changed(plan, path, expected, "an end", i, &refused);
    }
    CHECK_MSG(strstr(path, "note-") || refused == 2 * (int)bytes,
              "%s: %d of %zu changes refused", path, refused, 2 * bytes);
    write_file(path, whole, bytes);
    unlink(path);
    try_changed(plan, path, expected, "no file", 0, &refused);
    const int fd = open(path, O_CREAT | O_WRONLY, 0666);
    close(fd);
    write_file(path, whole, bytes);
}

/* Of one sequence; with rule `joins` one block, and sums of what was let go. */
static void test_damage(banyan_comm *comm, const banyan_rule *rule)
{
    banyan_spec spec;
    set_spec(&spec);
    spec.rules = rule;
    spec.rule_count = rule != NULL;
    spec.placement = rule ? "heads" : "line";
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, TOKENS - 2);
    append(cache, cache->sequence, TOKENS - 2, 2);
    char path[1024];
    size_t total = 0;
    CHECK(banyan_cache_save(cache, folder, "note", 4) == BANYAN_OK);
    const uint64_t expected = answer(cache);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' || !strcmp(e->d_name, "lock")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        damage_file(plan, path, expected, &total);
    }
    closedir(d);
    CHECK_MSG(total <= 4096 && total > 2048, "%zu bytes", total);
    CHECK(banyan_snapshot_verify(folder, NULL) == BANYAN_OK);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    clear(comm);
}

/* ---- versions ---------------------------------------------------------------------------- */

/* One that was written when there were no sums is read, and saved over. */
static void test_version_1(banyan_comm *comm)
{
    banyan_spec spec;
    char command[1024];
    set_spec(&spec);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, TOKENS), *opened = NULL, *again = NULL;
    const uint64_t expected = answer(cache);
    snprintf(command, sizeof command, "cp -r '%s' '%s'", VERSION_1, folder);
    CHECK(system(command) == 0);
    CHECK_MSG(banyan_snapshot_verify(folder, NULL) == BANYAN_OK, "%s", banyan_error_message());
    CHECK_MSG(banyan_cache_open(plan, NULL, folder, &opened) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK(opened && answer(opened) == expected);
    append(opened, opened->sequence, TOKENS, 30);
    append(cache, cache->sequence, TOKENS, 30);
    CHECK(banyan_cache_save(opened, folder, NULL, 0) == BANYAN_OK);
    CHECK_MSG(banyan_cache_open(plan, NULL, folder, &again) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK(again && answer(again) == answer(cache));
    banyan_cache_destroy(cache);
    banyan_cache_destroy(opened);
    banyan_cache_destroy(again);
    banyan_plan_destroy(plan);
    clear(comm);
}

/* Another one is refused by its number. */
static void test_versions(banyan_comm *comm)
{
    static char whole[MOST];
    static const int none[] = {0, 3, 255};
    banyan_spec spec;
    char path[1024], words[64];
    set_spec(&spec);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, TOKENS), *again = NULL;
    CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK);
    snprintf(path, sizeof path, "%s/manifest", folder);
    const size_t bytes = read_file(path, whole);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        whole[16] = (char)none[i];
        write_file(path, whole, bytes);
        snprintf(words, sizeof words, "has version %d: expected one from 1 to 2", none[i]);
        CHECK_MSG(banyan_cache_open(plan, NULL, folder, &again) == BANYAN_ERR_FILE &&
                      strstr(banyan_error_message(), words),
                  "%s", banyan_error_message());
    }
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    clear(comm);
}

/* ---- what does not fit ------------------------------------------------------------------- */

/* A plan that is otherwise as it was must be refused by these words. */
static void refuse(banyan_comm *comm, const banyan_spec *spec, const char *words)
{
    banyan_cache *cache = NULL;
    banyan_plan *plan = sequence_plan(spec, comm);
    const banyan_status status = banyan_cache_open(plan, NULL, folder, &cache);
    const int is_ours = status == BANYAN_ERR_CONFIG ||
                        (status == BANYAN_ERR_PEER && banyan_comm_size(comm) > 1);
    CHECK_MSG(is_ours && strstr(banyan_error_message(), words), "%d: %s; expected \"%s\"",
              status, banyan_error_message(), words);
    banyan_plan_destroy(plan);
}

static void test_fields(banyan_comm *comm)
{
    banyan_spec spec, other;
    set_spec(&spec);
    spec.layers = 2;
    spec.sequences = 2;
    spec.rules = &window;
    spec.rule_count = 1;
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, 40), *again = NULL;
    banyan_sequence *fork = NULL;
    append(cache, cache->sequence, 40, 30);
    CHECK(banyan_sequence_fork(cache->sequence, 69, 1, &fork) == BANYAN_OK);
    CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK);
#define OTHER(field, value, words)                                                             \
    (other = spec, other.field = (value), refuse(comm, &other, words))
    OTHER(layers, 1, "layers is 1: the snapshot");
    OTHER(heads, 4, "heads is 4");
    OTHER(kv_heads, 2, "kv_heads is 2");
    OTHER(key_dim, 16, "key_dim is 16");
    OTHER(value_dim, 16, "value_dim is 16");
    OTHER(block_tokens, 32, "block_tokens is 32: the snapshot in");
    OTHER(cache_dtype, BANYAN_BF16, "cache_dtype is bf16");
    OTHER(sequences, 1, "sequences is 1");
    OTHER(max_tokens, 69, "max_tokens is 69");
    OTHER(rule_count, 0, "rules: block 0 of sequence 0, layer 0, KV head 0");
    OTHER(rule_count, 0, "it was let go there (rule \"sink_window sink=0 window=10t\")");
    OTHER(evict, 0, "keeps it (evict is false)");
    const int32_t map[] = {0, 0};
    OTHER(cache_layer, map, "cache_layer is 0");
    /* fewer blocks are kept, and it is opened */
    static const banyan_rule less = {0, -1, 0, -1, "sink_window sink=0 window=5t"};
    other = spec;
    other.rules = &less;
    banyan_plan *smaller = sequence_plan(&other, comm);
    CHECK_MSG(banyan_cache_open(smaller, NULL, folder, &again) == BANYAN_OK, "%s",
              banyan_error_message());
    banyan_cache_destroy(again);
    banyan_plan_destroy(smaller);
    /* in the middle of a call */
    float kv[8] = {0};
    const banyan_rows part = {.sequence = fork, .at = 69, .rows = 1};
    CHECK(banyan_attend(cache, 0, &part, 1, NULL, kv, kv, NULL, NULL) == BANYAN_OK);
    CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_ERR_ARGUMENT &&
          strstr(banyan_error_message(), "layer 0 has 70 tokens and layer 1 has 69"));
    CHECK(banyan_cache_save(cache, "", NULL, 0) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_cache_save(cache, folder, NULL, 3) == BANYAN_ERR_ARGUMENT);
    CHECK(banyan_sequence_open(cache, 2, &fork) == BANYAN_ERR_ARGUMENT);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    clear(comm);
    plan = sequence_plan(&spec, comm);
    CHECK(banyan_cache_open(plan, NULL, folder, &cache) == BANYAN_ERR_FILE &&
          strstr(banyan_error_message(), folder));
    banyan_plan_destroy(plan);
}

/* ---- ranks ------------------------------------------------------------------------------- */

static int entries(const char *of)
{
    int count = 0;
    DIR *d = opendir(of);
    for (struct dirent *e; d && (e = readdir(d));) count += e->d_name[0] != '.';
    if (d) closedir(d);
    return count;
}

/* Rank 1 cannot write more than some bytes: all fail, and the old snapshot opens. */
static void test_full(banyan_comm *comm, const banyan_plan *plan, banyan_cache *cache)
{
    struct rlimit old, none;
    banyan_cache *again = NULL;
    CHECK(banyan_cache_save(cache, folder, "old", 3) == BANYAN_OK);
    const uint64_t expected = answer(cache);
    const int files = entries(folder);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    append(cache, cache->sequence, 40, 32);
    getrlimit(RLIMIT_FSIZE, &old);
    none = old;
    none.rlim_cur = 300;
    signal(SIGXFSZ, SIG_IGN);
    if (plan->rank == 1) setrlimit(RLIMIT_FSIZE, &none);
    const banyan_status status = banyan_cache_save(cache, folder, "new", 3);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK_MSG(status == (plan->rank == 1 ? BANYAN_ERR_FILE : BANYAN_ERR_PEER), "%d: %s", status,
              banyan_error_message());
    CHECK_MSG(strstr(banyan_error_message(), "cannot be written: File too large"), "%s",
              banyan_error_message());
    if (plan->rank != 1) CHECK(strstr(banyan_error_message(), "rank 1: ") != NULL);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
    CHECK_MSG(entries(folder) == files, "%d files are left of %d", entries(folder), files);
    CHECK_MSG(banyan_cache_open(plan, NULL, folder, &again) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK(answer(again) == expected);
    banyan_cache_destroy(again);
    CHECK(banyan_cache_save(cache, folder, "new", 3) == BANYAN_OK);
}

/* Each rank is in a folder of its own. */
static void test_apart(const banyan_plan *plan, banyan_cache *cache)
{
    char own[512];
    banyan_cache *again = NULL;
    snprintf(own, sizeof own, "%s/of-%d", folder, plan->rank);
    CHECK(mkdir(own, 0777) == 0 && chdir(own) == 0);
    banyan_status status = banyan_cache_save(cache, "here", NULL, 0);
    CHECK_MSG(status && strstr(banyan_error_message(), "expected one that all ranks share"),
              "%d: %s", status, banyan_error_message());
    CHECK(status == (plan->rank ? BANYAN_ERR_FILE : BANYAN_ERR_PEER));
    status = banyan_cache_open(plan, NULL, "here", &again);
    CHECK(status && !again);
    CHECK(chdir("/") == 0);
}

static void test_ranks(banyan_comm *comm)
{
    banyan_spec spec;
    set_spec(&spec);
    spec.placement = "spread";
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, 40);
    test_full(comm, plan, cache);
    test_apart(plan, cache);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    clear(comm);
}

int main(void)
{
    banyan_comm *comm = begin("snapshot_fault_test");
    if (banyan_comm_size(comm) == 1) {
        test_damage(comm, NULL);
        test_damage(comm, &joins);
        test_version_1(comm);
        test_versions(comm);
    }
    test_fields(comm);
    if (banyan_comm_size(comm) > 1) test_ranks(comm);
    banyan_comm_destroy(comm);
    return test_end();
}
