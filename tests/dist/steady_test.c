/* SPDX-License-Identifier: Apache-2.0 */
/* Steady: a cache takes its memory when it is made and when tokens arrive, and never else.
 *
 *   - 1000 decode steps, with evictions, allocate nothing. The linker's --wrap counts every
 *     allocation of the library and of this program; Open MPI's and libgomp's own are not
 *     counted.
 *   - resident memory grows by what is kept: 256 MiB of records are appended, and the growth
 *     since before cache_create, less the workspace, is within 10 % of them. */
#include "tests/dist/sequence.h"
#include "tests/world.h"

#include <sys/mman.h>
#include <unistd.h>

static long allocations;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **p, size_t alignment, size_t bytes);
void *__real_mmap(void *p, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **p, size_t alignment, size_t bytes);
void *__wrap_mmap(void *p, size_t bytes, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t bytes)
{
    allocations++;
    return __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes)
{
    allocations++;
    return __real_calloc(count, bytes);
}
void *__wrap_realloc(void *p, size_t bytes)
{
    allocations++;
    return __real_realloc(p, bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    allocations++;
    return __real_aligned_alloc(alignment, bytes);
}
int __wrap_posix_memalign(void **p, size_t alignment, size_t bytes)
{
    allocations++;
    return __real_posix_memalign(p, alignment, bytes);
}
void *__wrap_mmap(void *p, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    allocations++;
    return __real_mmap(p, bytes, protection, flags, fd, offset);
}

/* `last`: what the last KV head reads by. */
static void test_no_allocation(banyan_comm *comm, int32_t threads, const char *placement,
                               const char *last)
{
    const banyan_rule rules[] = {{0, -1, 0, 3, "sink_window sink=1 window=2"},
                                 {0, -1, 4, 5, "s2 stride=4 local=2 per=query"},
                                 {0, -1, 7, 7, last}};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = strncmp(last, "tidal", 5) ? 1 : 2; /* one chooses, one follows */
    spec.heads = 8;
    spec.kv_heads = 4;
    spec.key_dim = 16;
    spec.max_tokens = 1100;
    spec.max_rows = 100;
    spec.block_tokens = 16;
    spec.rollback_tokens = 4;
    spec.rules = rules;
    spec.rule_count = 3;
    spec.threads = threads;
    spec.placement = placement;
    banyan_plan *plan = sequence_plan(&spec, comm);
    banyan_cache *cache = plan ? sequence_cache(plan) : NULL;
    if (cache) {
        sequence s;
        sequence_make(&s, plan, spec.max_tokens, 31);
        CHECK(allocations > 0); /* the count works */
        allocations = 0;
        for (int32_t l = 0; l < spec.layers; l++)
            CHECK(sequence_call(&s, cache, l, 0, 100, APPEND | ATTEND) == BANYAN_OK);
        for (int64_t at = 100; at < 1100; at++) {
            const int what = APPEND | ATTEND | (at % 7 == 0 ? PROBE : 0);
            s.probe = (banyan_range){at / 2, at / 2 + 20};
            for (int32_t l = 0; l < spec.layers; l++)
                CHECK(sequence_call(&s, cache, l, at, 1, what) == BANYAN_OK);
            for (int32_t l = 0; l < spec.layers && at % 5 == 0; l++)
                CHECK(sequence_call(&s, cache, l, at - 2, 3, APPEND | ATTEND) == BANYAN_OK);
        }
        CHECK_MSG(allocations == 0, "%ld allocations in 1000 decode steps", allocations);
        sequence_free(&s);
    }
    banyan_cache_destroy(cache);
    banyan_plan_destroy(plan);
}

static int64_t resident(void)
{
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%*s %lld", &pages) != 1) pages = 0;
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* Llama-3-8B's KV heads, one layer: 4 KiB a token in bf16. With a window, four times as much
 * goes through as stays. */
static void test_resident(banyan_comm *comm, const char *use, int64_t tokens)
{
    enum { ROWS = 512, KV_HEADS = 8, DIM = 128 };
    const banyan_rule rule = {0, -1, 0, -1, use};
    banyan_spec spec;
    banyan_spec_init(&spec);
    spec.layers = 1;
    spec.heads = 32;
    spec.kv_heads = KV_HEADS;
    spec.key_dim = DIM;
    spec.max_tokens = tokens;
    spec.rules = &rule;
    spec.rule_count = 1;
    spec.threads = 1;
    banyan_plan *plan = sequence_plan(&spec, comm);
    if (!plan) return;
    float *k = sequence_take((int64_t)ROWS * KV_HEADS * DIM, sizeof *k);
    for (int64_t i = 0; i < (int64_t)ROWS * KV_HEADS * DIM; i++) k[i] = (float)(i % 7);
    int64_t before = resident();
    banyan_cache *cache = sequence_cache(plan);
    if (cache) {
        for (int64_t at = 0; at < tokens; at += ROWS)
            CHECK(sequence_attend(cache, 0, at, ROWS, NULL, k, k, NULL, NULL) == BANYAN_OK);
        banyan_stats stats;
        banyan_cache_stats(cache, &stats);
        int64_t growth = resident() - before;
        CHECK(stats.bytes >= (int64_t)256 << 20);
        CHECK_MSG(growth <= stats.bytes + stats.bytes / 10 + stats.workspace_bytes &&
                      growth >= stats.bytes - stats.bytes / 10,
                  "%s: resident memory grew by %lld, kept %lld, workspace %lld", use,
                  (long long)growth, (long long)stats.bytes, (long long)stats.workspace_bytes);
    }
    banyan_cache_destroy(cache);
    free(k);
    banyan_plan_destroy(plan);
}

int main(void)
{
    banyan_comm *comm = test_comm(NULL);
    test_no_allocation(comm, 1, "spread", "top blocks=5 by=minmax");
    test_no_allocation(comm, 1, "heads",
                       "vertical_slash columns=40 diagonals=20 last=3 sink=2 local=2");
    test_no_allocation(comm, 2, "spread", "top blocks=5 by=minmax");
    test_no_allocation(comm, 2, "heads",
                       "vertical_slash columns=40 diagonals=20 last=3 sink=2 local=2");
    test_no_allocation(comm, 1, "heads", "flex gamma=0.3 tau=0.2 budget=5 last=3");
    test_no_allocation(comm, 2, "spread", "tidal first=0 again=0 tokens=5");
    test_no_allocation(comm, 2, "heads", "flex gamma=0.3 tau=0.2 budget=5 last=3");
    if (banyan_comm_size(comm) == 1) {
        test_resident(comm, "dense", 66048);
        test_resident(comm, "sink_window sink=1 window=66048t", 132096);
    }
    banyan_comm_destroy(comm);
    return test_end();
}
