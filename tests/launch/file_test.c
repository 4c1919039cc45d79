/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are whole or absent, whatever happens while they are written, and files that
 * several processes add lines to. (file_named_test: the same where temporary files must have
 * names.) */
#include "launch/file.h"
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char why[8192];

static const char *contents(const char *path)
{
    static char text[4096];
    FILE *f = fopen(path, "r");
    if (!f) return "(absent)";
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (!f) exit(99);
    fputs(text, f);
    fclose(f);
}

/* Entries of the folder. */
static int entries(const char *folder)
{
    int count = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        count += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return count;
}

static bool write_whole(const char *path, const char *text)
{
    whole_file *f = whole_begin(path, why, sizeof why);
    if (!f) return false;
    fputs(text, whole_stream(f));
    return whole_end(f, true, why, sizeof why);
}

static void check_whole(void)
{
    struct stat about;
    CHECK(write_whole("new", "1\n") && !strcmp(contents("new"), "1\n"));
    chmod("new", 0640);
    whole_file *f = whole_begin("new", why, sizeof why);
    CHECK(f != NULL);
    fputs("2\n", whole_stream(f));
    fflush(whole_stream(f));
    CHECK(!strcmp(contents("new"), "1\n"));
    CHECK(!whole_begin("new", why, sizeof why));
    CHECK_MSG(strstr(why, "cannot write \"new\": another process is writing it"), "%s", why);
    CHECK(whole_end(f, true, why, sizeof why) && !strcmp(contents("new"), "2\n"));
    CHECK(!stat("new", &about) && (about.st_mode & 0777) == 0640);
    f = whole_begin("new", why, sizeof why);
    CHECK(f && whole_end(f, false, why, sizeof why) && !strcmp(contents("new"), "2\n"));
    CHECK(entries(".") == 1);
    unlink("new");
    CHECK(!whole_begin("no/folder", why, sizeof why) && strstr(why, "No such file"));
    CHECK(!whole_begin(".", why, sizeof why) && strstr(why, "directory"));
    CHECK(!whole_begin("./", why, sizeof why) && !whole_begin("", why, sizeof why));
    CHECK(write_whole("/dev/null", "x"));
    CHECK(!write_whole("/dev/full", "x") && strstr(why, "No space left"));
    CHECK(entries(".") == 0);
}

/* A link stays one, and nobody's link that waits under a name that could be foreseen is
 * followed. */
static void check_links(void)
{
    struct stat about;
    mkdir("far", 0777);
    put("far/real", "old\n");
    put("victim", "whole\n");
    CHECK(!symlink("far/real", "link") && !symlink("far/new", "dangling"));
    CHECK(!symlink("link", "second") && !symlink("round", "round"));
    CHECK(!symlink("../victim", "far/real.partial") && !symlink("../victim", "far/.real.lock"));
    CHECK(!write_whole("second", "x") && strstr(why, "symbolic links"));
    unlink("far/.real.lock");
    CHECK(write_whole("second", "fresh\n") && !strcmp(contents("far/real"), "fresh\n"));
    CHECK(write_whole("dangling", "made\n") && !strcmp(contents("far/new"), "made\n"));
    CHECK(!lstat("second", &about) && S_ISLNK(about.st_mode));
    CHECK(!lstat("dangling", &about) && S_ISLNK(about.st_mode));
    CHECK(!write_whole("round", "x") && strstr(why, "symbolic links"));
    CHECK(!strcmp(contents("victim"), "whole\n"));
    CHECK(entries("far") == 3);
    if (system("rm -r far victim link dangling second round")) exit(99);
}

static void limit_files(rlim_t bytes)
{
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){bytes, RLIM_INFINITY});
}

/* What a full disk does. */
static void check_full(void)
{
    put("kept", "old\n");
    limit_files(100);
    whole_file *f = whole_begin("kept", why, sizeof why);
    for (int i = 0; f && i < 1000; i++) fputs("more\n", whole_stream(f));
    CHECK(f && !whole_end(f, true, why, sizeof why));
    CHECK_MSG(strstr(why, "cannot write \"kept\": File too large"), "%s", why);
    CHECK(!strcmp(contents("kept"), "old\n") && entries(".") == 1);

    append_file *a = append_open("kept", why, sizeof why);
    char line[200];
    memset(line, 'x', sizeof line);
    CHECK(a && append_lock(a, why, sizeof why) && append_size(a) == 4);
    CHECK(!append_write(a, line, sizeof line, why, sizeof why) && strstr(why, "too large"));
    CHECK(append_write(a, "new\n", 4, why, sizeof why));
    append_close(a);
    CHECK(!strcmp(contents("kept"), "old\nnew\n"));
    limit_files(RLIM_INFINITY);
    unlink("kept");
}

/* Killed while it writes, a process leaves the old file and no lock. */
static void check_killed(void)
{
    put("kept", "old\n");
    pid_t child = fork();
    if (!child) {
        whole_file *f = whole_begin("kept", why, sizeof why);
        if (!f) _exit(1);
        fputs("half", whole_stream(f));
        fflush(whole_stream(f));
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && !strcmp(contents("kept"), "old\n"));
#ifndef BANYAN_TEMPORARY_HAS_NAME
    CHECK(entries(".") == 2); /* and .kept.lock, which nobody holds */
#endif
    CHECK(write_whole("kept", "new\n") && !strcmp(contents("kept"), "new\n"));
    CHECK(access(".kept.lock", F_OK));
    if (system("rm -f kept .kept.*")) exit(99);
}

/* ---- lines --------------------- */

enum { jobs = 4, lines = 150 };

static void add_lines(int job)
{
    append_file *f = append_open("lines", why, sizeof why);
    char line[256];
    for (int i = 0; i < lines; i++) {
        const int length = snprintf(line, sizeof line, "%d %03d %0*d\n", job, i, 100 + job, 0);
        if (!f || !append_lock(f, why, sizeof why) ||
            !append_write(f, line, (size_t)length, why, sizeof why))
            _exit(1);
        append_unlock(f);
    }
    append_close(f);
    _exit(0);
}

static void check_lines(void)
{
    for (int job = 0; job < jobs; job++)
        if (!fork()) add_lines(job);
    for (int job = 0, status; job < jobs; job++) CHECK(wait(&status) > 0 && status == 0);
    FILE *f = fopen("lines", "r");
    char line[512];
    int seen[jobs] = {0}, job, number;
    while (f && fgets(line, sizeof line, f)) {
        const int fields = sscanf(line, "%d %d", &job, &number);
        CHECK(fields == 2 && job >= 0 && job < jobs && number == seen[job]);
        CHECK(strlen(line) == (size_t)(6 + 100 + job + 1));
        if (fields == 2 && job >= 0 && job < jobs) seen[job]++;
    }
    for (job = 0; job < jobs; job++) CHECK(seen[job] == lines);
    if (f) fclose(f);
    unlink("lines");
}

static void expect_lost(append_file *f, const char *words)
{
    CHECK(f && !append_lock(f, why, sizeof why));
    CHECK_MSG(strstr(why, words), "%s", why);
    append_close(f);
}

static append_file *with_two_lines(void)
{
    append_file *f = append_open("lines", why, sizeof why);
    CHECK(f && append_lock(f, why, sizeof why) &&
          append_write(f, "one\ntwo\n", 8, why, sizeof why));
    append_unlock(f);
    return f;
}

/* From outside, while a job writes. */
static void check_lost(void)
{
    append_file *f = with_two_lines();
    unlink("lines");
    expect_lost(f, "\"lines\" was removed or replaced");
    CHECK(entries(".") == 0);
    f = with_two_lines();
    rename("lines", "moved");
    expect_lost(f, "\"lines\" was removed or replaced");
    CHECK(!strcmp(contents("moved"), "one\ntwo\n"));
    unlink("moved");
    f = with_two_lines();
    CHECK(!truncate("lines", 5));
    expect_lost(f, "\"lines\" was cut while this job was writing it: 5 bytes of 8 are left");
    CHECK(!truncate("lines", 0));
    f = with_two_lines();
    CHECK(!truncate("lines", 0));
    expect_lost(f, "0 bytes of 8 are left");
    unlink("lines");
}

/* Files that nobody wrote to go, and who waits for one of them gets the next. */
static void check_unused(void)
{
    append_close(append_open("lines", why, sizeof why));
    CHECK(entries(".") == 0);
    append_file *first = append_open("lines", why, sizeof why);
    append_file *second = append_open("lines", why, sizeof why);
    append_close(first);
    CHECK(second && append_lock(second, why, sizeof why) &&
          append_write(second, "x\n", 2, why, sizeof why));
    append_close(second);
    CHECK(!strcmp(contents("lines"), "x\n"));
    CHECK(!append_open("no/lines", why, sizeof why) && strstr(why, "No such file"));
    append_file *full = append_open("/dev/full", why, sizeof why);
    CHECK(full && append_lock(full, why, sizeof why) &&
          !append_write(full, "x\n", 2, why, sizeof why) && strstr(why, "No space"));
    append_close(full);
    first = append_open("lines", why, sizeof why);
    CHECK(first && append_lock(first, why, sizeof why) && append_size(first) == 2 &&
          append_cut(first, 0, why, sizeof why) &&
          append_write(first, "y\n", 2, why, sizeof why));
    append_close(first);
    CHECK(!strcmp(contents("lines"), "y\n"));
    unlink("lines");
}

/* Waits for the lock, finds that its file went, and makes a new one. */
static void wait_for_lock(void)
{
    while (access(".model.lock", F_OK)) usleep(1000);
    path_lock *mine = path_lock_take("model", 20, why, sizeof why);
    _exit(!mine || access(".model.lock", F_OK) ? 1 : 0);
}

static void check_locks(void)
{
    pid_t child = fork(); /* before there is a lock, which it would inherit */
    if (!child) wait_for_lock();
    path_lock *lock = path_lock_take("model", 0, why, sizeof why);
    CHECK(lock && !path_lock_take("model", .2, why, sizeof why) &&
          strstr(why, "another process"));
    path_lock_release(lock);
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    if (system("rm -f .model.lock")) exit(99); /* the child exited with it */
    lock = path_lock_take("model", 0, why, sizeof why);
    CHECK(lock != NULL);
    path_lock_release(lock);
    path_lock_release(NULL);
    CHECK(entries(".") == 0);
}

int main(void)
{
    char folder[] = "/tmp/banyan_file_XXXXXX";
    if (!mkdtemp(folder) || chdir(folder)) return 99;
    check_whole();
    check_links();
    check_full();
    check_killed();
    check_lines();
    check_lost();
    check_unused();
    check_locks();
    if (chdir("/") || rmdir(folder))
        fprintf(stderr, "%s is not empty\n", folder), test_failures++;
    return test_end();
}
