/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine can do at most, measured in this process, again before every repetition of
 * a row: whatever disturbs one disturbs the other. The two loops do nothing else:
 *
 *     read     a pass over a buffer eight times the last cache, each thread over a part of its
 *              own
 *     math     multiply-adds on registers, as many in flight as their latency wants
 *
 * Threads time themselves, and the slowest counts. */
#include "launch/machine/machine.h"

#include "launch/isa.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const peak *const peaks[] = {
    &peak_scalar,
#ifdef MACHINE_X86
    &peak_avx2, &peak_avx512,
    &peak_avx512_bf16, /* the higher of two for one kernel comes last */
#endif
};

static const peak *peak_of(const char *kernel, banyan_dtype dtype)
{
    const peak *best = &peak_scalar;
    for (size_t i = 0; i < sizeof peaks / sizeof peaks[0]; i++)
        if (!strcmp(peaks[i]->kernel, kernel) && peaks[i]->usable() &&
            (!peaks[i]->bf16 || dtype == BANYAN_BF16))
            best = peaks[i];
    return best;
}

/* ---- clocks ------------------------------------------------------------------------------ */

static double clock_seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double pace_seconds(const pace *by, int threads)
{
    return by->cpu_time ? clock_seconds(CLOCK_PROCESS_CPUTIME_ID) / threads : now_seconds();
}

double pace_thread_seconds(const pace *by)
{
    return by->cpu_time ? clock_seconds(CLOCK_THREAD_CPUTIME_ID) : now_seconds();
}

/* ---- arithmetic -------------------------------------------------------------------------- */

static volatile float kept_float; /* results go somewhere, so that loops are not dropped */
static volatile uint64_t kept_word;

static double time_math(const ceilings *c, int threads, int64_t rounds)
{
    double slowest = 0;
    float sum = 0;
#pragma omp parallel num_threads(threads) reduction(max : slowest) reduction(+ : sum)
    {
        double start = pace_thread_seconds(c->by);
        sum += c->math->loop(rounds);
        slowest = pace_thread_seconds(c->by) - start;
    }
    kept_float = sum;
    return slowest;
}

/* So many rounds that one measurement takes some milliseconds. */
static int64_t enough_rounds(const ceilings *c)
{
    double seconds = c->by->quick ? 0.5e-3 : 4e-3;
    int64_t rounds = 1 << 8;
    while (time_math(c, 1, rounds) < seconds) rounds *= 2;
    return rounds;
}

/* ---- reading ----------------------------------------------------------------------------- */

EACH_ISA
static uint64_t read_words(const uint64_t *restrict words, int64_t count)
{
    uint64_t sum[64] = {0}, total = 0; /* eight cache lines in flight by the code alone */
    for (int64_t i = 0; i + 64 <= count; i += 64)
        for (int n = 0; n < 64; n++) sum[n] += words[i + n];
    for (int n = 0; n < 64; n++) total += sum[n];
    return total;
}

static int64_t words_of_thread(const ceilings *c)
{
    return c->bytes / 8 / c->threads / 512 * 512;
}

/* Each thread reads what it wrote first. */
static double time_read(const ceilings *c, bool writes)
{
    const int64_t part = words_of_thread(c);
    double slowest = 0;
    uint64_t sum = 0;
#pragma omp parallel for num_threads(c->threads) schedule(static) reduction(max : slowest)     \
    reduction(+ : sum)
    for (int t = 0; t < c->threads; t++) {
        if (writes) memset(c->words + t * part, 1, (size_t)part * 8);
        double start = pace_thread_seconds(c->by);
        if (!writes) sum += read_words(c->words + t * part, part);
        slowest = pace_thread_seconds(c->by) - start;
    }
    kept_word = sum;
    return slowest;
}

static bool map_words(ceilings *c, int64_t bytes)
{
    void *p =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return false;
    madvise(p, (size_t)bytes, MADV_HUGEPAGE);
    c->words = p;
    c->bytes = bytes;
    time_read(c, true);
    return true;
}

/* ---- both -------------------------------------------------------------------------------- */

bool ceilings_choose(ceilings *c, const pace *by, int threads, const char *kernel,
                     banyan_dtype dtype)
{
    const peak *math = peak_of(kernel, dtype);
    if (c->threads != threads) {
        ceilings_free(c);
        c->by = by;
        c->threads = threads;
        const int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
        int64_t bytes = (int64_t)(by->quick ? 16 : 256) << 20;
        if (!by->quick && bytes < 8 * cache) bytes = 8 * cache;
        if (!map_words(c, bytes)) return false;
    }
    if (c->math == math) return true;
    c->math = math;
    c->rounds = enough_rounds(c);
    return true;
}

rates ceilings_measure(const ceilings *c, bool reads)
{
    rates r = {0};
    double flops = c->math->flop_of_round * (double)c->rounds * c->threads;
    if (reads) r.read = (double)(words_of_thread(c) * 8 * c->threads) / time_read(c, false);
    r.flops = flops / time_math(c, c->threads, c->rounds);
    return r;
}

double ceilings_read(int threads, int64_t bytes, double *sustained)
{
    enum { passes = 5 };
    const pace by = {.quick = true};
    ceilings c = {.by = &by, .threads = threads};
    double best = 0;
    *sustained = 0;
    if (!map_words(&c, bytes)) return 0;
    const double pass = (double)(words_of_thread(&c) * 8 * threads), start = now_seconds();
    for (int i = 0; i < passes; i++) {
        double rate = pass / time_read(&c, false);
        best = rate > best ? rate : best;
    }
    *sustained = passes * pass / (now_seconds() - start);
    ceilings_free(&c);
    return best;
}

void ceilings_free(ceilings *c)
{
    if (c->words) munmap(c->words, (size_t)c->bytes);
    *c = (ceilings){0};
}
