/* SPDX-License-Identifier: Apache-2.0 */
/* mapped.h - files that stay mapped while a job runs, and may change under it. */
#ifndef BANYAN_MAPPED_H
#define BANYAN_MAPPED_H

#include <stddef.h>

/* From now on a byte of the map that is not there any more (the file was truncated, or its disk
 * failed) ends this process with EXIT_FAILED and the file's name, instead of SIGBUS. path:
 * borrowed until mapped_forget. At most 4096 maps at a time; others are not watched. */
void mapped_watch(const void *map, size_t bytes, const char *path);
void mapped_forget(const void *map);

#endif
