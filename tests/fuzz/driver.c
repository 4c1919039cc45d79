/* SPDX-License-Identifier: Apache-2.0 */
/* The plain test: each file of the folders that are named, once; and for +N inputs of random
 * bytes, always the same. */
#include "tests/fuzz/fuzz.h"
#include "tests/test.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    static uint8_t room[1 << 20];
    const size_t size = fread(room, 1, sizeof room, f);
    fclose(f);
    uint8_t *data = malloc(size + !size); /* its end is the end: valgrind and ASan see beyond */
    if (!data) return 0;
    for (size_t i = 0; i < size; i++) data[i] = room[i];
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

static int run_random(int count)
{
    uint64_t seed = 1;
    for (int i = 0; i < count; i++) {
        const size_t size = 50 + (size_t)test_below(&seed, 500);
        uint8_t *data = malloc(size);
        if (!data) return 0;
        for (size_t n = 0; n < size; n++) data[n] = (uint8_t)test_below(&seed, 256);
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    return count;
}

int main(int words, char **word)
{
    int files = 0;
    for (int i = 1; i < words; i++) {
        if (*word[i] == '+') files += run_random(atoi(word[i]));
        DIR *folder = opendir(word[i]);
        for (struct dirent *e; folder && (e = readdir(folder));) {
            char path[PATH_MAX];
            snprintf(path, sizeof path, "%s/%s", word[i], e->d_name);
            if (e->d_name[0] != '.') files += run_file(path);
        }
        if (folder) closedir(folder);
    }
    if (!files) fprintf(stderr, "no inputs\n");
    return !files;
}
