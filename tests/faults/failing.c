/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that runs out on one rank (LD_PRELOAD): of the allocations that code of the program
 * itself asks for, BANYAN_FAIL_NTH and the BANYAN_FAIL_COUNT - 1 after it fail, on rank
 * BANYAN_FAIL_RANK. What MPI and other libraries ask for is not counted: they would end the
 * process. With BANYAN_FAIL_NTH 0 the rank's allocations are counted, and the number is written
 * to stderr at its end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uintptr_t base, low, high;
static long nth, count, asked;
static int is_on, is_wanted;

/* The program's own code: the first object of the list. */
static int find_code(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size, (void)arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        base = info->dlpi_addr;
        low = info->dlpi_addr + part->p_vaddr;
        high = low + part->p_memsz;
    }
    return 1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *wanted = getenv("BANYAN_FAIL_RANK");
    const char *first = getenv("BANYAN_FAIL_NTH"), *many = getenv("BANYAN_FAIL_COUNT");
    if (!wanted || !first || strcmp(rank ? rank : "0", wanted)) return;
    nth = atol(first);
    count = many ? atol(many) : 1;
    dl_iterate_phdr(find_code, NULL);
    is_wanted = 1;
}

/* Counting begins with main: what linked libraries do before is theirs. */
static int (*real_main)(int, char **, char **);

static int counted_main(int words, char **word, char **environment)
{
    is_on = is_wanted;
    return real_main(words, word, environment);
}

typedef int start_fn(int (*)(int, char **, char **), int, char **, void (*)(void),
                     void (*)(void), void (*)(void), void *);
start_fn __libc_start_main;

int __libc_start_main(int (*main)(int, char **, char **), int words, char **word,
                      void (*first)(void), void (*last)(void), void (*loader)(void),
                      void *stack)
{
    start_fn *start;
    *(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main"); /* as POSIX shows it */
    real_main = main;
    return start(counted_main, words, word, first, last, loader, stack);
}

__attribute__((destructor)) static void end(void)
{
    if (is_on && !nth) fprintf(stderr, "(asked for memory %ld times)\n", asked);
}

static int fails(void *caller)
{
    char words[80];
    const uintptr_t at = (uintptr_t)caller;
    if (!is_on || at < low || at >= high) return 0;
    const long number = __atomic_add_fetch(&asked, 1, __ATOMIC_RELAXED);
    if (!nth || number < nth || number >= nth + count) return 0;
    const int length = snprintf(words, sizeof words, "(memory runs out here: addr2line %#lx)\n",
                                (unsigned long)(at - base));
    if (number == nth && write(2, words, (size_t)length) < 0) is_on = 0;
    errno = ENOMEM;
    return 1;
}

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t number, size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(number, bytes);
}

void *realloc(void *old, size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, bytes);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    if (fails(__builtin_return_address(0))) return ENOMEM;
    *out = __libc_memalign(align, bytes);
    return *out ? 0 : ENOMEM;
}

void *aligned_alloc(size_t align, size_t bytes)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(align, bytes);
}

char *strdup(const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *copy = fails(__builtin_return_address(0)) ? NULL : __libc_malloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}
