/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz.h - what fuzz targets share. A target defines fuzz_one; it must neither crash, nor leak,
 * nor do what UBSan knows as undefined, whatever the bytes are. Built by clang with
 * BANYAN_FUZZ, libFuzzer calls it; otherwise driver.c, with each file of a corpus. */
#ifndef BANYAN_FUZZ_H
#define BANYAN_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); /* libFuzzer's name */

/* The bytes as text, for free(). */
char *fuzz_text(const uint8_t *data, size_t size);
/* The next line of a text, cut out of it; NULL: there is none. */
char *fuzz_line(char **text);
/* A folder of this process's own, in memory where there is a /dev/shm; it goes at the end. */
const char *fuzz_folder(void);
/* A file in it. */
void fuzz_put(const char *name, const void *data, size_t size);
/* This must hold: ends the process otherwise. */
#define FUZZ_CHECK(condition)                                                                  \
    ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition))
void fuzz_fail(const char *file, int line, const char *what);

#endif
