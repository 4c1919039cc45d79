/* SPDX-License-Identifier: Apache-2.0 */
/* A mapped file is read by looking at memory, and there is no error to return: where the file
 * was cut short, the kernel sends SIGBUS. The handler looks which file it was. Nothing can be
 * gone on with: the reader is in the middle of a product of matrices. */
#include "launch/mapped.h"

#include "launch/command.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { most_maps = 4096 };

static struct {
    uintptr_t begin, end; /* end 0: free */
    const char *path;
} map_table[most_maps];
static char last_rank[16];

static void write_words(const char *text)
{
    const ssize_t ignored = write(2, text, strlen(text));
    (void)ignored; /* there is nobody else to tell */
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)context;
    const uintptr_t at = (uintptr_t)info->si_addr;
    for (int i = 0; i < most_maps; i++) {
        if (at < map_table[i].begin || at >= map_table[i].end) continue;
        write_words("banyan: rank ");
        write_words(last_rank);
        write_words(": ");
        write_words(map_table[i].path);
        write_words(": was truncated while this job read it, or its disk failed\n");
        _exit(EXIT_FAILED);
    }
    signal(number, SIG_DFL); /* not ours: it comes again when this returns */
}

void mapped_watch(const void *map, size_t bytes, const char *path)
{
    const struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    snprintf(last_rank, sizeof last_rank, "%s", launched_rank());
    sigaction(SIGBUS, &action, NULL);
    for (int i = 0; i < most_maps; i++) {
        if (map_table[i].end) continue;
        map_table[i].path = path;
        map_table[i].begin = (uintptr_t)map;
        map_table[i].end = (uintptr_t)map + bytes;
        return;
    }
}

void mapped_forget(const void *map)
{
    for (int i = 0; i < most_maps; i++)
        if (map_table[i].end && map_table[i].begin == (uintptr_t)map)
            map_table[i].begin = map_table[i].end = 0;
}
