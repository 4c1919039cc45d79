/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_bench [MIB [ROUNDS [FOLDER [REST]]]]: how fast a cache of so many MiB (4096) is
 * saved, fsync included, and opened when no page of it is in memory, beside dd of the same
 * bytes to and from the same disk, in turns. (Of zeros it would tell nothing: many disks do not
 * write them.) ROUNDS (3) of each in FOLDER (/tmp), REST (0) seconds before each, since disks
 * of clouds save up for bursts: without a rest the second of two writes may be several times as
 * slow as the first. What dd writes lies in memory. Prints every rate, the medians, and their
 * ratios. Exit code 1: a ratio below 0.8. */
#include "dist/cache.h"
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

enum { LAYERS = 8, KV_HEADS = 8, DIM = 128, ROWS = 512, MOST = 16 };

static char folder[256], file[300], same[300];
static unsigned rest;

static void must(int good, const char *what)
{
    if (good) return;
    fprintf(stderr, "%s: %s\n", what, banyan_error_message());
    exit(2);
}

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    must(system(command) == 0, command);
}

static void drop(const char *path)
{
    const int fd = open(path, O_RDONLY);
    if (fd >= 0) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (fd >= 0) close(fd);
}

static void drop_all(void)
{
    char path[600];
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        drop(path);
    }
    if (d) closedir(d);
    drop(file);
}

static void fill(banyan_cache *cache, int64_t tokens)
{
    uint16_t *kv = calloc((size_t)ROWS * KV_HEADS * DIM, sizeof *kv);
    banyan_sequence *s = NULL;
    uint64_t seed = 1;
    must(kv && !banyan_sequence_create(cache, 0, &s), "sequence");
    for (int64_t i = 0; i < (int64_t)ROWS * KV_HEADS * DIM; i++)
        kv[i] = (uint16_t)(0x3f80 + test_below(&seed, 128)); /* 1 to 2 */
    for (banyan_rows part = {.sequence = s, .rows = ROWS}; part.at < tokens; part.at += ROWS)
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            kv[(part.at / ROWS * LAYERS + layer) % (ROWS * KV_HEADS * DIM)] ^= 1;
            must(!banyan_attend(cache, layer, &part, 1, NULL, kv, kv, NULL, NULL), "append");
        }
    free(kv);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static double dd_writes(double bytes)
{
    sleep(rest);
    shell("cat %s > /dev/null", same);
    const double start = banyan_seconds();
    shell("dd if=%s of=%s bs=8M conv=fsync 2> /dev/null", same, file);
    return bytes / (banyan_seconds() - start);
}

static double save(banyan_cache *cache, double bytes)
{
    sleep(rest);
    const double start = banyan_seconds();
    must(!banyan_cache_save(cache, folder, NULL, 0), "save");
    return bytes / (banyan_seconds() - start);
}

static double dd_reads(double bytes)
{
    drop_all();
    sleep(rest);
    const double start = banyan_seconds();
    shell("dd if=%s of=/dev/null bs=8M 2> /dev/null", file);
    return bytes / (banyan_seconds() - start);
}

static double load(const banyan_plan *plan, banyan_cache **cache, double bytes)
{
    banyan_cache_destroy(*cache);
    *cache = NULL;
    drop_all();
    sleep(rest);
    const double start = banyan_seconds();
    must(!banyan_cache_open(plan, NULL, folder, cache), "open");
    return bytes / (banyan_seconds() - start);
}

/* Rates in bytes a second: of dd and of ours, each first in its turn. */
static void one(const banyan_plan *plan, banyan_cache **cache, int turn, double bytes,
                double rate[4])
{
    if (turn % 2) rate[1] = save(*cache, bytes);
    rate[0] = dd_writes(bytes);
    if (turn % 2 == 0) rate[1] = save(*cache, bytes);
    if (turn % 2) rate[3] = load(plan, cache, bytes);
    rate[2] = dd_reads(bytes);
    if (turn % 2 == 0) rate[3] = load(plan, cache, bytes);
    shell("rm -rf %s %s", folder, file);
}

int main(int argc, char **argv)
{
    const int64_t mib = argc > 1 ? atoll(argv[1]) : 4096;
    const int rounds = argc > 2 && atoi(argv[2]) < MOST ? atoi(argv[2]) : 3;
    const double bytes = (double)mib * (1 << 20);
    rest = argc > 4 ? (unsigned)atoi(argv[4]) : 0;
    banyan_comm *comm = NULL;
    banyan_plan *plan = NULL;
    banyan_cache *cache = NULL;
    banyan_spec spec;
    double rate[4][MOST], row[4];
    snprintf(folder, sizeof folder, "%.200s/snapshot_bench.%ld", argc > 3 ? argv[3] : "/tmp",
             (long)getpid());
    snprintf(file, sizeof file, "%s.dd", folder);
    snprintf(same, sizeof same, "%s.same", folder);
    banyan_spec_init(&spec);
    spec.layers = LAYERS;
    spec.heads = spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.max_tokens = mib * (1 << 20) / (LAYERS * KV_HEADS * DIM * 2 * 2);
    spec.max_rows = ROWS;
    spec.in_dtype = BANYAN_BF16;
    must(!banyan_comm_create("self", NULL, &comm), "comm");
    must(!banyan_plan_create(&spec, comm, &plan), "plan");
    must(!banyan_cache_create(plan, NULL, &cache), "cache");
    fill(cache, spec.max_tokens);
    must(!banyan_cache_save(cache, folder, NULL, 0), "the first save");
    shell("cat %s/blocks-* > %s && rm -r %s", folder, same, folder);
    printf("MiB/s      dd writes   save   dd reads   open\n");
    for (int i = 0; i < rounds; i++) {
        one(plan, &cache, i, bytes, row);
        for (int n = 0; n < 4; n++) rate[n][i] = row[n] / (1 << 20);
        printf("           %9.0f %6.0f %10.0f %6.0f\n", rate[0][i], rate[1][i], rate[2][i],
               rate[3][i]);
        fflush(stdout);
    }
    shell("rm %s", same);
    double m[4];
    for (int n = 0; n < 4; n++) m[n] = median(rate[n], rounds);
    printf("median     %9.0f %6.0f %10.0f %6.0f    save %.2f, open %.2f of dd's rate\n", m[0],
           m[1], m[2], m[3], m[1] / m[0], m[3] / m[2]);
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(comm);
    return m[1] < .8 * m[0] || m[3] < .8 * m[2];
}
