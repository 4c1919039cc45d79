/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine can do at most, measured in this process just before it is compared with: the
 * best of several repetitions, since anything that disturbs a ceiling lowers it. */
#include "launch/bench/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const peak *const peaks[] = {
    &peak_scalar,
#ifdef BENCH_X86
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

static volatile float kept_float; /* results go somewhere, so that loops are not dropped */
static volatile uint64_t kept_word;

/* Every thread times itself, and the slowest counts. */
static double time_peak(const peak *p, int threads, int64_t rounds)
{
    double slowest = 0;
    float sum = 0;
#pragma omp parallel num_threads(threads) reduction(max : slowest) reduction(+ : sum)
    {
        double start = now_seconds();
        sum += p->loop(rounds);
        slowest = now_seconds() - start;
    }
    kept_float = sum;
    return slowest;
}

static double best_peak(const peak *p, int threads, int64_t rounds)
{
    double best = time_peak(p, threads, rounds);
    for (int i = 0; i < 4; i++) {
        double again = time_peak(p, threads, rounds);
        best = again < best ? again : best;
    }
    return best;
}

static double measure_peak(const peak *p, int threads, double seconds)
{
    int64_t rounds = 1 << 10;
    while (best_peak(p, 1, rounds) < seconds) rounds *= 2;
    double best = best_peak(p, threads, rounds);
    return p->flop_of_round * (double)rounds * threads / best;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                         \
    !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
static uint64_t
read_words(const uint64_t *restrict words, int64_t count)
{
    uint64_t sum[64] = {0}, total = 0; /* eight cache lines in flight by the code alone */
    for (int64_t i = 0; i + 64 <= count; i += 64)
        for (int n = 0; n < 64; n++) sum[n] += words[i + n];
    for (int n = 0; n < 64; n++) total += sum[n];
    return total;
}

/* Each thread reads a part of its own, which it has also written first; the slowest counts. */
static double measure_read(int threads, int64_t bytes)
{
    uint64_t *words =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED) return 0;
    madvise(words, (size_t)bytes, MADV_HUGEPAGE);
    int64_t part = bytes / 8 / threads / 512 * 512;
    double best = 0;
    for (int i = 0; i < 8; i++) {
        double slowest = 0;
        uint64_t sum = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : slowest)        \
    reduction(+ : sum)
        for (int t = 0; t < threads; t++) {
            if (i == 0) memset(words + t * part, 1, (size_t)part * 8);
            double start = now_seconds();
            sum += read_words(words + t * part, part);
            slowest = now_seconds() - start;
        }
        kept_word = sum;
        double rate = (double)(part * 8 * threads) / slowest;
        if (i > 0 && rate > best) best = rate;
    }
    munmap(words, (size_t)bytes);
    return best;
}

bool ceilings_measure(int threads, bool quick, const char *kernel, banyan_dtype dtype,
                      ceilings *out)
{
    int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE), bytes = (int64_t)(quick ? 64 : 1024) << 20;
    if (!quick && bytes < 8 * cache) bytes = 8 * cache;
    out->math = peak_of(kernel, dtype);
    out->read = measure_read(threads, bytes);
    out->flops = measure_peak(out->math, threads, quick ? 0.005 : 0.1);
    return out->read > 0;
}
