/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot's folder that others write to as well: what saves left that died, what is
 * somebody's own, files that were taken away, pipes in their places, words for a terminal. */
#include "dist/snapshot.h"
#include "tests/dist/snapshot_small.h"

#include <signal.h>
#include <sys/resource.h>

static void put_file(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const int fd = open(path, O_CREAT | O_WRONLY, 0666);
    CHECK(fd >= 0 && write(fd, "some", 4) == 4);
    close(fd);
}

static int is_there(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

/* The disk is full: not a byte more than 20 is written. */
static banyan_status save_when_full(banyan_cache *cache)
{
    struct rlimit old, none;
    getrlimit(RLIMIT_FSIZE, &old);
    none = old;
    none.rlim_cur = 20;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &none);
    const banyan_status status = banyan_cache_save(cache, folder, NULL, 0);
    setrlimit(RLIMIT_FSIZE, &old);
    return status;
}

/* Files of a save that died are removed before the next one needs their room: also when that
 * fails. What is only like them is somebody's. */
static void test_left(banyan_comm *comm)
{
    static const char *const left[] = {"manifest-00000000000000aa", "note-00000000000000aa",
                                       "index-00000000000000aa-0", "index-00000000000000ab-12",
                                       "blocks-00000000000000aa-1"};
    static const char *const own[] = {"note-1",
                                      "note-00000000000000AA",
                                      "manifest-aa",
                                      "blocks-00000000000000aa",
                                      "blocks-00000000000000aa-0.txt",
                                      "index-00000000000000aa-01",
                                      "notes"};
    banyan_spec spec;
    set_spec(&spec);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, 40), *again = NULL;
    CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK);
    append(cache, cache->sequence, 40, 10);
    CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK); /* has blocks of the first */
    const uint64_t expected = answer(cache);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) put_file(left[i]);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) put_file(own[i]);
    append(cache, cache->sequence, 50, 10);
    CHECK(save_when_full(cache) == BANYAN_ERR_FILE);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++)
        CHECK_MSG(!is_there(left[i]), "%s is left", left[i]);
    CHECK_MSG(banyan_cache_open(plan, NULL, folder, &again) == BANYAN_OK, "%s",
              banyan_error_message());
    CHECK(again && answer(again) == expected);
    CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        CHECK_MSG(is_there(own[i]), "%s was removed", own[i]);
    banyan_cache_destroy(again);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    clear(comm);
}

/* Blocks that an earlier save wrote are not there any more, or not all: they are written once
 * more. */
static void test_taken(banyan_comm *comm)
{
    char command[600];
    banyan_spec spec;
    set_spec(&spec);
    for (int cut = 0; cut < 2; cut++) {
        banyan_plan *plan = sequence_plan(&spec, comm);
        banyan_cache *cache = filled(plan, 40), *again = NULL;
        CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK);
        snprintf(command, sizeof command,
                 cut ? "truncate -s 1k '%s'/blocks-*" : "rm '%s'/blocks-*", folder);
        CHECK(system(command) == 0);
        append(cache, cache->sequence, 40, 10);
        CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK);
        CHECK_MSG(banyan_cache_open(plan, NULL, folder, &again) == BANYAN_OK, "%s",
                  banyan_error_message());
        CHECK(again && answer(again) == answer(cache));
        banyan_cache_destroy(again);
        banyan_cache_destroy(cache);
        banyan_plan_destroy(plan);
        clear(comm);
    }
}

/* A pipe in place of a file is not waited for. */
static void test_pipes(banyan_comm *comm)
{
    static const char *const files[] = {"lock", "manifest", "index-*", "blocks-*", "note-*"};
    char command[600], note[8];
    size_t length;
    banyan_spec spec;
    set_spec(&spec);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, 40), *again = NULL;
    alarm(60);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        CHECK(banyan_cache_save(cache, folder, "note", 4) == BANYAN_OK);
        snprintf(command, sizeof command, "f=$(echo '%s'/%s) && rm $f && mkfifo $f", folder,
                 files[i]);
        CHECK(system(command) == 0);
        const banyan_status status = banyan_cache_open(plan, NULL, folder, &again);
        CHECK_MSG(i == 0 || i == 4 ? !status : status == BANYAN_ERR_FILE, "%s: %d", files[i],
                  (int)status);
        if (status) CHECK(strstr(banyan_error_message(), "is no file") != NULL);
        CHECK((i == 1 || i == 4) == !!banyan_snapshot_note(folder, note, sizeof note, &length));
        CHECK((i == 0) == !banyan_snapshot_verify(folder, NULL));
        banyan_cache_destroy(again);
        again = NULL;
        clear(comm);
    }
    alarm(0);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

/* What is shown of a manifest that somebody wrote commands no terminal. */
static void test_words(banyan_comm *comm)
{
    static char whole[MOST];
    char path[512];
    banyan_spec spec;
    set_spec(&spec);
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = filled(plan, TOKENS);
    CHECK(banyan_cache_save(cache, folder, NULL, 0) == BANYAN_OK);
    snprintf(path, sizeof path, "%s/manifest", folder);
    const size_t bytes = read_file(path, whole);
    size_t at = 0;
    while (at + 5 < bytes && memcmp(whole + at, "dense", 5) != 0) at++;
    memcpy(whole + at, "\x1b[2J\n", 5);
    banyan_store64((unsigned char *)whole + bytes - 8, banyan_checksum(whole, bytes - 8));
    write_file(path, whole, bytes);
    FILE *out = tmpfile();
    CHECK_MSG(out && banyan_snapshot_print(folder, out) == BANYAN_OK, "%s",
              banyan_error_message());
    rewind(out);
    const size_t shown = fread(whole, 1, sizeof whole - 1, out);
    whole[shown] = 0;
    CHECK_MSG(strstr(whole, ": ?[2J?\n") && !strchr(whole, 27), "%s", whole);
    fclose(out);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    clear(comm);
}

int main(void)
{
    banyan_comm *comm = begin("snapshot_folder_test");
    test_left(comm);
    test_taken(comm);
    test_pipes(comm);
    test_words(comm);
    banyan_comm_destroy(comm);
    return test_end();
}
