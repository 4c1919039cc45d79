/* SPDX-License-Identifier: Apache-2.0 */
/* A file that several jobs add lines to. A line is written whole, at the end, while the file is
 * locked (O_APPEND: on a file that became shorter, no hole of zeros comes before it), and is on
 * the disk when append_write returns. */
#include "launch/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct append_file {
    int fd;
    char *path;
    int64_t left; /* bytes when this job last let go of it */
    int64_t size; /* now; while locked */
    bool regular, created, locked;
};

/* false: errno. */
static bool open_to_append(append_file *f)
{
    struct stat about;
    f->fd = open(f->path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOCTTY);
    if (f->fd < 0 && errno == ENOENT) {
        f->fd = open(f->path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        f->created = f->fd >= 0;
    }
    if (f->fd < 0 && (errno == ENXIO || errno == EACCES || errno == EINVAL)) /* a pipe's end */
        f->fd = open(f->path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY);
    if (f->fd < 0 || fstat(f->fd, &about)) return false;
    f->regular = S_ISREG(about.st_mode);
    return true;
}

append_file *append_open(const char *path, char *why, size_t why_bytes)
{
    append_file *f = calloc(1, sizeof *f);
    if (f) f->fd = -1;
    if (f && (f->path = strdup(path)) && open_to_append(f)) return f;
    snprintf(why, why_bytes, "cannot write \"%s\": %s", path,
             f && f->path ? strerror(errno) : "out of memory");
    append_close(f);
    return NULL;
}

static bool is_still_there(const append_file *f)
{
    struct stat here, there;
    return !fstat(f->fd, &here) && !stat(f->path, &there) && here.st_ino == there.st_ino &&
           here.st_dev == there.st_dev;
}

static bool lock_open(const append_file *f)
{
    int failed;
    while ((failed = flock(f->fd, LOCK_EX)) && errno == EINTR) continue;
    return !failed || errno == ENOLCK || errno == ENOSYS || errno == EOPNOTSUPP;
}

/* Another job may have taken its own empty file away between our opening and locking it. */
static bool lock_named(append_file *f)
{
    for (int tries = 0; tries < 100; tries++) {
        if (!lock_open(f)) return false;
        if (is_still_there(f) || f->left > 0) return true;
        close(f->fd);
        if (!open_to_append(f)) return false;
    }
    errno = EAGAIN;
    return false;
}

bool append_lock(append_file *f, char *why, size_t why_bytes)
{
    struct stat about = {0};
    if (f->regular && (!lock_named(f) || fstat(f->fd, &about))) {
        snprintf(why, why_bytes, "cannot write \"%s\": %s", f->path, strerror(errno));
        return false;
    }
    f->locked = f->regular;
    f->size = f->regular ? (int64_t)about.st_size : 0;
    if (f->regular && !is_still_there(f))
        snprintf(why, why_bytes, "\"%s\" was removed or replaced while this job was writing it",
                 f->path);
    else if (f->size < f->left)
        snprintf(why, why_bytes,
                 "\"%s\" was cut while this job was writing it: %lld bytes of %lld are left",
                 f->path, (long long)f->size, (long long)f->left);
    else
        return true;
    append_unlock(f);
    return false;
}

int append_descriptor(const append_file *f)
{
    return f->fd;
}

int64_t append_size(const append_file *f)
{
    return f->size;
}

bool append_cut(append_file *f, int64_t bytes, char *why, size_t why_bytes)
{
    if (f->regular && bytes < f->size) {
        if (ftruncate(f->fd, (off_t)bytes)) {
            snprintf(why, why_bytes, "cannot cut \"%s\" at byte %lld: %s", f->path,
                     (long long)bytes, strerror(errno));
            return false;
        }
        f->size = bytes;
    }
    return true;
}

bool append_write(append_file *f, const char *text, size_t bytes, char *why, size_t why_bytes)
{
    size_t done = 0;
    int error = 0;
    while (done < bytes && !error) {
        const ssize_t wrote = write(f->fd, text + done, bytes - done);
        if (wrote > 0) done += (size_t)wrote;
        if (wrote < 0 && errno != EINTR) error = errno;
    }
    if (!error && f->regular && fdatasync(f->fd) && errno != EINVAL) error = errno;
    if (!error) {
        if (f->regular) f->size += (int64_t)bytes;
        return true;
    }
    snprintf(why, why_bytes, "cannot write \"%s\": %s", f->path, strerror(error));
    if (f->regular && ftruncate(f->fd, (off_t)f->size)) return false; /* the next run cuts it */
    return false;
}

void append_unlock(append_file *f)
{
    f->left = f->size;
    if (f->locked) flock(f->fd, LOCK_UN);
    f->locked = false;
}

void append_close(append_file *f)
{
    struct stat about;
    if (!f) return;
    if (f->locked) append_unlock(f);
    if (f->created && lock_open(f) && is_still_there(f) && !fstat(f->fd, &about) &&
        !about.st_size)
        unlink(f->path);
    if (f->fd >= 0) close(f->fd);
    free(f->path);
    free(f);
}
