/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_small.h - a cache of one sequence whose snapshot is a few KiB, and files of
 * snapshots as bytes. */
#ifndef BANYAN_TESTS_SNAPSHOT_SMALL_H
#define BANYAN_TESTS_SNAPSHOT_SMALL_H

#include "tests/dist/sequence.h"
#include "tests/world.h"

#include <fcntl.h>
#include <unistd.h>

enum { TOKENS = 23, MOST = 8192 };

static char folder[256];

static inline void set_spec(banyan_spec *spec)
{
    banyan_spec_init(spec);
    spec->layers = 1;
    spec->heads = 2;
    spec->kv_heads = 1;
    spec->key_dim = 8;
    spec->block_tokens = 16;
    spec->max_tokens = 100;
    spec->max_rows = 50;
    spec->cache_dtype = BANYAN_F32;
    spec->out = BANYAN_OUT_ALL;
    spec->threads = 1;
}

/* `tokens` tokens from token `at` on, of one sequence. */
static inline void append(banyan_cache *cache, banyan_sequence *s, int64_t at, int32_t tokens)
{
    static float k[64 * 8], v[64 * 8];
    uint64_t seed = (uint64_t)at + 77;
    for (int i = 0; i < 64 * 8; i++) k[i] = test_normal(&seed), v[i] = test_normal(&seed);
    const banyan_rows part = {.sequence = s, .at = at, .rows = tokens};
    for (int32_t layer = 0; layer < cache->plan->spec.layers; layer++)
        CHECK_MSG(banyan_attend(cache, layer, &part, 1, NULL, k, v, NULL, NULL) == BANYAN_OK,
                  "%s", banyan_error_message());
}

static inline uint64_t answer(banyan_cache *cache)
{
    float q[2 * 8], out[2 * 8], lse[2];
    banyan_sequence *s = NULL;
    uint64_t seed = 5;
    for (int i = 0; i < 2 * 8; i++) q[i] = test_normal(&seed);
    if (banyan_sequence_open(cache, 0, &s)) return 0;
    const banyan_rows part = {.sequence = s, .at = banyan_sequence_length(s, 0) - 1, .rows = 1};
    if (part.at < 0 || banyan_attend(cache, 0, &part, 1, q, NULL, NULL, out, lse)) return 0;
    return sequence_hash(lse, sizeof lse, sequence_hash(out, sizeof out, 1));
}

static inline banyan_cache *filled(const banyan_plan *plan, int32_t tokens)
{
    banyan_cache *cache = sequence_cache(plan);
    append(cache, cache->sequence, 0, tokens);
    return cache;
}

static inline void clear(banyan_comm *comm)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (banyan_comm_rank(comm) == 0) CHECK(system(command) == 0);
    CHECK(banyan_comm_agree(comm, BANYAN_OK) == BANYAN_OK);
}

static inline size_t read_file(const char *path, char *to)
{
    const int fd = open(path, O_RDONLY);
    const ssize_t n = read(fd, to, MOST);
    close(fd);
    CHECK_MSG(n >= 0 && n < MOST, "%s: %zd bytes", path, n);
    return n > 0 ? (size_t)n : 0;
}

static inline void write_file(const char *path, const char *from, size_t bytes)
{
    const int fd = open(path, O_WRONLY | O_TRUNC);
    CHECK(fd >= 0 && write(fd, from, bytes) == (ssize_t)bytes);
    close(fd);
}

/* In memory where there is a /dev/shm: no disk is waited for. */
static inline banyan_comm *begin(const char *test)
{
    banyan_comm *comm = test_comm(NULL);
    long id = (long)getpid();
    CHECK(banyan_comm_broadcast(comm, &id, sizeof id, 0) == BANYAN_OK);
    snprintf(folder, sizeof folder, "%s/%s.%ld", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm",
             test, id);
    return comm;
}

#endif
