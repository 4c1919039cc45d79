/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are whole or absent, and the locks of paths. */
#define _GNU_SOURCE /* O_TMPFILE */
#include "launch/file.h"
#include "launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    most_links = 40,
    most_name = 200
}; /* as the kernel; bytes of a name kept in another's */

/* Where a path really leads: its last part is no symbolic link. */
typedef struct real_path {
    char path[PATH_MAX];
    char folder[PATH_MAX];
    const char *name; /* in path */
} real_path;

static bool split(real_path *p)
{
    char *slash = strrchr(p->path, '/');
    p->name = slash ? slash + 1 : p->path;
    if (!slash)
        strcpy(p->folder, ".");
    else
        snprintf(p->folder, sizeof p->folder, "%.*s",
                 (int)(slash - p->path + (slash == p->path)), p->path);
    if (*p->name) return true;
    errno = EISDIR;
    return false;
}

/* Follows links of the last part, whether what they name is there or not. false: errno. */
static bool resolve(const char *path, real_path *out)
{
    char target[PATH_MAX], joined[2 * PATH_MAX];
    errno = ENAMETOOLONG;
    if (strlen(path) >= sizeof out->path) return false;
    strcpy(out->path, path);
    for (int links = 0; split(out); links++) {
        const ssize_t length = readlink(out->path, target, sizeof target - 1);
        if (length < 0) return errno == EINVAL || errno == ENOENT;
        errno = ELOOP;
        if (links == most_links) return false;
        target[length] = 0;
        const bool is_whole = *target == '/' || !strcmp(out->folder, ".");
        snprintf(joined, sizeof joined, "%s%s%s", is_whole ? "" : out->folder,
                 is_whole ? "" : "/", target);
        errno = ENAMETOOLONG;
        if (strlen(joined) >= sizeof out->path) return false;
        strcpy(out->path, joined);
    }
    return false;
}

/* ---- locks --------------------- */

struct path_lock {
    int fd;
    char path[PATH_MAX + most_name + 8];
};

/* Is the open file still the one of that name? */
static bool is_same_file(int fd, const char *path)
{
    struct stat here, there;
    return !fstat(fd, &here) && !lstat(path, &there) && here.st_ino == there.st_ino &&
           here.st_dev == there.st_dev;
}

static void pause_for(double seconds)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

static bool no_locks_here(int error)
{
    return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL;
}

/* The file of the lock, locked; -1: errno. It is made anew when its last holder removed it
 * while this process waited. */
static int lock_file(const char *path, double seconds)
{
    const double end = now_seconds() + seconds;
    for (;;) {
        const int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd < 0) return -1;
        int failed = 0;
        while ((failed = flock(fd, LOCK_EX | LOCK_NB)) && errno == EWOULDBLOCK &&
               now_seconds() < end)
            pause_for(.05);
        if (failed ? no_locks_here(errno) : is_same_file(fd, path)) return fd;
        const int error = errno;
        close(fd);
        errno = error;
        if (failed) return -1;
    }
}

static path_lock *lock_place(const real_path *at, double seconds)
{
    path_lock *lock = malloc(sizeof *lock);
    if (!lock) return NULL;
    snprintf(lock->path, sizeof lock->path, "%s/.%.*s.lock", at->folder, most_name, at->name);
    lock->fd = lock_file(lock->path, seconds);
    if (lock->fd >= 0) return lock;
    const int error = errno;
    free(lock);
    errno = error;
    return NULL;
}

static void say_locked(const char *path, char *why, size_t why_bytes)
{
    const int error = errno;
    if (error == EWOULDBLOCK)
        snprintf(why, why_bytes, "cannot write \"%s\": another process is writing it", path);
    else
        snprintf(why, why_bytes, "cannot write \"%s\": %s", path, strerror(error));
    errno = error;
}

path_lock *path_lock_take(const char *path, double seconds, char *why, size_t why_bytes)
{
    real_path at;
    path_lock *lock = resolve(path, &at) ? lock_place(&at, seconds) : NULL;
    if (!lock) say_locked(path, why, why_bytes);
    return lock;
}

void path_lock_release(path_lock *lock)
{
    if (!lock) return;
    unlink(
        lock->path); /* while it is held: who waits for it sees that it has no name any more */
    close(lock->fd);
    free(lock);
}

/* ---- whole or absent --------------------- */

struct whole_file {
    FILE *stream;
    path_lock *lock;
    real_path at;
    char given[PATH_MAX];     /* the path as it was named, for words */
    char temporary[PATH_MAX]; /* "": the file has no name yet */
    bool in_place;
};

static void whole_free(whole_file *f)
{
    const int error = errno;
    if (f->stream) fclose(f->stream);
    if (*f->temporary) unlink(f->temporary);
    path_lock_release(f->lock);
    free(f);
    errno = error;
}

static bool name_temporary(whole_file *f)
{
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) return false;
    const int length =
        snprintf(f->temporary, sizeof f->temporary, "%s/.%.*s.%016llx.partial", f->at.folder,
                 most_name, f->at.name, (unsigned long long)random);
    errno = ENAMETOOLONG;
    return length < (int)sizeof f->temporary;
}

/* A new file in the folder: without a name, so that it goes with its process however that ends;
 * else with one that nobody can have foreseen. -1: errno. */
static int open_temporary(whole_file *f)
{
#if defined O_TMPFILE && !defined BANYAN_TEMPORARY_HAS_NAME
    if (!access("/proc/self/fd", X_OK)) {
        const int fd = open(f->at.folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
        if (fd >= 0) return fd;
    }
#endif
    if (!name_temporary(f)) return *f->temporary = 0, -1;
    const int fd =
        open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) *f->temporary = 0;
    return fd;
}

static bool begin_beside(whole_file *f, const struct stat *old)
{
    if (old && access(f->at.path, W_OK)) return false;
    if (!(f->lock = lock_place(&f->at, 0))) return false;
    const int fd = open_temporary(f);
    if (fd < 0) return false;
    if (old && fchmod(fd, old->st_mode & 0777)) errno = 0; /* a file system without modes */
    if ((f->stream = fdopen(fd, "w"))) return true;
    close(fd);
    return false;
}

whole_file *whole_begin(const char *path, char *why, size_t why_bytes)
{
    struct stat old;
    whole_file *f = calloc(1, sizeof *f);
    if (!f) return snprintf(why, why_bytes, "out of memory"), NULL;
    snprintf(f->given, sizeof f->given, "%s", path);
    const bool is_there = !stat(path, &old);
    f->in_place = is_there && !S_ISREG(old.st_mode);
    bool good = f->in_place || resolve(path, &f->at);
    if (good && f->in_place)
        good = (f->stream = fopen(path, "w")) != NULL;
    else if (good)
        good = begin_beside(f, is_there ? &old : NULL);
    if (good) return f;
    say_locked(path, why, why_bytes);
    whole_free(f);
    return NULL;
}

FILE *whole_stream(whole_file *f)
{
    return f->stream;
}

static void sync_folder(const char *folder)
{
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

/* Under its name at once: the name of a temporary file is exchanged for the real one. */
static bool publish(whole_file *f)
{
    char self[64];
    const int fd = fileno(f->stream);
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (!*f->temporary) {
        if (!name_temporary(f) ||
            linkat(AT_FDCWD, self, AT_FDCWD, f->temporary, AT_SYMLINK_FOLLOW))
            return *f->temporary = 0, false;
    }
    if (rename(f->temporary, f->at.path)) return false;
    *f->temporary = 0;
    sync_folder(f->at.folder);
    return true;
}

/* Why a write failed is forgotten by the time of closing; one byte more fails alike. */
static int write_error(FILE *stream)
{
    clearerr(stream);
    errno = 0;
    if (fputc('\n', stream) != EOF) fflush(stream);
    return errno ? errno : EIO;
}

bool whole_end(whole_file *f, bool keep, char *why, size_t why_bytes)
{
    int error = ferror(f->stream) ? write_error(f->stream) : 0;
    if (!error && fflush(f->stream)) error = errno;
    if (!error && keep && !f->in_place && (fsync(fileno(f->stream)) || !publish(f)))
        error = errno;
    if (fclose(f->stream) && !error) error = errno; /* in place; the others are on the disk */
    f->stream = NULL;
    if (error && keep)
        snprintf(why, why_bytes, "cannot write \"%s\": %s", f->given, strerror(error));
    whole_free(f);
    return !error || !keep;
}
