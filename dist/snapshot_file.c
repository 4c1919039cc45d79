/* SPDX-License-Identifier: Apache-2.0 */
/* Files of a snapshot: whole reads and writes, to disk, and who may do what at the same time.
 *
 * Locks are of bytes of FOLDER/lock and of an open file (F_OFD_SETLK): they end with the
 * process that has them, however it ends, and hold on file systems that hosts share. */
#define _GNU_SOURCE /* F_OFD_SETLK */
#include "dist/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

banyan_status banyan_snapshot_path(char path[BANYAN_PATH], const char *folder, const char *name,
                                   uint64_t id, int rank)
{
    int n = id ? snprintf(path, BANYAN_PATH, "%s/%s-%016" PRIx64, folder, name, id)
               : snprintf(path, BANYAN_PATH, "%s/%s", folder, name);
    if (n > 0 && n < BANYAN_PATH && rank >= 0)
        n += snprintf(path + n, (size_t)(BANYAN_PATH - n), "-%d", rank);
    if (n > 0 && n < BANYAN_PATH) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_ARGUMENT, "the folder's name has %zu bytes: too long",
                       strlen(folder));
}

banyan_status banyan_file_failed(const char *path, const char *what)
{
    return banyan_fail(BANYAN_ERR_FILE, "\"%s\": %s: %s", path, what, strerror(errno));
}

banyan_status banyan_file_create(const char *path, int *fd)
{
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    return *fd < 0 ? banyan_file_failed(path, "cannot be created") : BANYAN_OK;
}

banyan_status banyan_file_open(const char *path, int *fd)
{
    struct stat is;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* which a pipe would wait in */
    if (*fd < 0) return banyan_file_failed(path, "cannot be opened");
    if (!fstat(*fd, &is) && S_ISREG(is.st_mode)) return BANYAN_OK;
    close(*fd);
    *fd = -1;
    return banyan_fail(BANYAN_ERR_FILE, "\"%s\" is no file", path);
}

banyan_status banyan_file_write(int fd, const char *path, const void *data, size_t bytes,
                                int64_t at)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n =
            pwrite(fd, (const char *)data + done, bytes - done, (off_t)(at + (int64_t)done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return banyan_file_failed(path, "cannot be written");
        done += (size_t)n;
    }
    return BANYAN_OK;
}

banyan_status banyan_file_read(int fd, const char *path, void *data, size_t bytes, int64_t at)
{
    for (size_t done = 0; done < bytes;) {
        const ssize_t n =
            pread(fd, (char *)data + done, bytes - done, (off_t)(at + (int64_t)done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return banyan_file_failed(path, "cannot be read");
        if (n == 0)
            return banyan_fail(BANYAN_ERR_FILE,
                               "\"%s\" ends at byte %" PRId64 ": expected %" PRId64 " or more",
                               path, at + (int64_t)done, at + (int64_t)bytes);
        done += (size_t)n;
    }
    return BANYAN_OK;
}

banyan_status banyan_file_all(const char *path, size_t most, unsigned char **data,
                              size_t *bytes)
{
    struct stat is;
    int fd;
    banyan_status status = banyan_file_open(path, &fd);
    if (status) return status;
    unsigned char *all = NULL;
    if (fstat(fd, &is))
        status = banyan_file_failed(path, "cannot be read");
    else if ((uint64_t)is.st_size > most)
        status = banyan_fail(BANYAN_ERR_FILE, "\"%s\" has %lld bytes: expected at most %zu",
                             path, (long long)is.st_size, most);
    else if (!(all = malloc((size_t)is.st_size + 1)))
        status = banyan_fail(BANYAN_ERR_MEMORY, "\"%s\": no memory for its %lld bytes", path,
                             (long long)is.st_size);
    else
        status = banyan_file_read(fd, path, all, (size_t)is.st_size, 0);
    close(fd);
    if (status) {
        free(all);
        return status;
    }
    *data = all;
    *bytes = (size_t)is.st_size;
    return BANYAN_OK;
}

banyan_status banyan_file_sync(int fd, const char *path)
{
    int failed = fsync(fd);
    const int why = failed ? errno : 0;
    failed |= close(fd);
    if (why) errno = why;
    return failed ? banyan_file_failed(path, "cannot be written to disk") : BANYAN_OK;
}

banyan_status banyan_folder_sync(const char *folder)
{
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return banyan_file_failed(folder, "cannot be opened");
    const int failed = fsync(fd) && errno != EINVAL; /* not every file system has it */
    const banyan_status status =
        failed ? banyan_file_failed(folder, "cannot be written to disk") : BANYAN_OK;
    close(fd);
    return status;
}

int banyan_folder_lock(const char *folder, banyan_lock lock, int *fd)
{
    char path[BANYAN_PATH];
    const int is_read = lock == BANYAN_LOCK_OPEN;
    struct flock of = {.l_type = is_read ? F_RDLCK : F_WRLCK,
                       .l_whence = SEEK_SET,
                       .l_start = lock == BANYAN_LOCK_SAVE ? 0 : 1,
                       .l_len = 1};
    *fd = -1;
    if (banyan_snapshot_path(path, folder, "lock", 0, -1)) return 1;
    *fd = open(path,
               (is_read ? O_RDONLY : O_RDWR | O_CREAT) | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW,
               0666);
    if (*fd < 0) return 1;
    int failed;
    do {
        failed = fcntl(*fd, is_read ? F_OFD_SETLKW : F_OFD_SETLK, &of);
    } while (failed && errno == EINTR);
    if (!failed) return 1;
    const int is_taken = errno == EAGAIN || errno == EACCES;
    close(*fd);
    *fd = -1;
    return !is_taken;
}

void banyan_folder_unlock(int fd)
{
    if (fd >= 0) close(fd);
}
