/* SPDX-License-Identifier: Apache-2.0 */
/* file.h - the files that the program writes: whole or absent, or grown line by line; and
 * locks, so that two jobs do not write one file. One process only: output.c adds what ranks
 * have to agree on.
 *
 * Symbolic links are followed, and stay: what they point at is written. Temporary files have no
 * name, or, where a file system has no such files, an unpredictable new one beside the real
 * path. What is done is on the disk (fsync). What is no regular file (/dev/stdout, a pipe) is
 * written in place. */
#ifndef BANYAN_FILE_H
#define BANYAN_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* ---- locks --------------------- */

/* Keeps everybody else out who asks for the lock of `path`: a file .NAME.lock beside it while
 * it is held, which holds nothing any more when its process is gone. Waits at most `seconds`.
 * NULL, with why: errno EWOULDBLOCK when another process holds it. On a file system that knows
 * no locks, one that keeps nobody out. */
typedef struct path_lock path_lock;
path_lock *path_lock_take(const char *path, double seconds, char *why, size_t why_bytes);
void path_lock_release(path_lock *lock); /* may be NULL */

/* ---- whole or absent --------------------- */

/* Appears under its name, in place of what was there, only when it is complete. Locked from
 * begin to end: of two jobs, the second is refused when it begins. */
typedef struct whole_file whole_file;
whole_file *whole_begin(const char *path, char *why, size_t why_bytes); /* NULL: why */
FILE *whole_stream(whole_file *f);
/* keep: under its name, else nothing remains. false: it could not be kept, why, and nothing
 * remains. */
bool whole_end(whole_file *f, bool keep, char *why, size_t why_bytes);

/* ---- grown line by line --------------------- */

/* A file that jobs add whole lines to, several at the same time. Everything that looks at it or
 * writes stands between append_lock and append_unlock. */
typedef struct append_file append_file;
append_file *append_open(const char *path, char *why, size_t why_bytes); /* creates it */
/* Waits for the other jobs. false, with why: it is no longer the file of that name, or shorter
 * than this job left it: somebody moved, removed, cut or emptied it. */
bool append_lock(append_file *f, char *why, size_t why_bytes);
int append_descriptor(
    const append_file *f); /* to read it from the beginning: pread, or dup and seek */
int64_t append_size(const append_file *f); /* 0 for what is no regular file */
bool append_cut(append_file *f, int64_t bytes, char *why,
                size_t why_bytes); /* to that length */
/* All of it, on the disk, or nothing. */
bool append_write(append_file *f, const char *text, size_t bytes, char *why, size_t why_bytes);
void append_unlock(append_file *f);
/* May be NULL. A file that append_open created, and nobody wrote to, goes. */
void append_close(append_file *f);

#endif
