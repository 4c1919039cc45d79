/* SPDX-License-Identifier: Apache-2.0 */
/* folder.h - what a folder holds that is not a checkpoint of config.json and safetensors.
 *
 * Knows: the other forms in which models come, and how each becomes one that is read.
 * Refuses to know: what stands in the files. */
#ifndef BANYAN_FOLDER_H
#define BANYAN_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

/* A folder in which a file was looked for in vain: if it is something else that is known,
 * says what and what to do, and returns true. */
bool folder_explain(const char *dir, char *why, size_t why_bytes);

/* Is this the beginning of what git-lfs leaves where a large file was not fetched? If so,
 * says it. */
bool folder_is_pointer(const char *path, const void *bytes, size_t count, char *why,
                       size_t why_bytes);

#endif
