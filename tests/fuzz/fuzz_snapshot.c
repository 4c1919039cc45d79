/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot of one rank: u16 bytes of the manifest, of the index's head, u16 entries, u16
 * bytes of the sums, then these four, and the blocks. Checksums and lengths are made right, so
 * that what they guard is reached: a snapshot that somebody wrote on purpose. It must open on
 * four plans, or be refused in words. */
#include "dist/snapshot.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLANS = 4, BLOCK_BYTES = 16 * 2 * 8 * 4, SUM_BYTES = 24 + 2 * 8 * 8 };

static banyan_plan *plans[PLANS];

static void make_plans(void)
{
    static const banyan_rule rules[PLANS] = {
        [2] = {0, -1, 0, -1, "sink_window sink=0 window=20t"},
        [3] = {0, -1, 0, -1, "razor sink=3t recent=1 part=0"},
    };
    banyan_comm *comm = NULL;
    if (plans[0]) return;
    FUZZ_CHECK(!banyan_comm_create("self", NULL, &comm));
    for (int i = 0; i < PLANS; i++) {
        banyan_spec spec;
        banyan_spec_init(&spec);
        spec.layers = 1;
        spec.heads = 2;
        spec.kv_heads = 1;
        spec.key_dim = 8;
        spec.block_tokens = 16;
        spec.max_tokens = 200;
        spec.max_rows = 40;
        spec.cache_dtype = BANYAN_F32;
        spec.threads = 1;
        spec.sequences = i == 1 ? 1 : 3;
        spec.pool_tokens = i == 2 ? 100 : 600;
        spec.rules = &rules[i];
        spec.rule_count = i >= 2;
        FUZZ_CHECK(!banyan_plan_create(&spec, comm, &plans[i]));
    }
}

/* The parts of an input, and their checksums put right. */
typedef struct parts {
    unsigned char *manifest, *head, *entry, *sums, *blocks;
    size_t manifest_bytes, head_bytes, entries, sum_bytes, block_bytes;
} parts;

static size_t take16(const uint8_t **data, size_t *size)
{
    const size_t x = *size < 2 ? 0 : (size_t)((*data)[0] | (*data)[1] << 8);
    const size_t used = *size < 2 ? *size : 2;
    *data += used;
    *size -= used;
    return x;
}

static unsigned char *take(const uint8_t **data, size_t *size, size_t *bytes)
{
    if (*bytes > *size) *bytes = *size;
    unsigned char *copy = (unsigned char *)fuzz_text(*data, *bytes);
    *data += *bytes;
    *size -= *bytes;
    return copy;
}

static uint64_t number(const unsigned char *from, int bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++) x |= (uint64_t)from[i] << 8 * i;
    return x;
}

/* Of the groups, which begin at byte `at` of the head: `bytes` bytes each. */
static void mend_groups(parts *p, size_t at, size_t bytes)
{
    size_t sums_at = 0;
    const size_t groups = at + 4 <= p->head_bytes ? (size_t)number(p->head + at, 4) : 0;
    for (at += 4; groups < 1000 && at + bytes <= p->head_bytes; at += bytes) {
        const uint64_t first = number(p->head + at + 8, 8), n = number(p->head + at + 16, 8);
        if (first <= p->entries && n <= p->entries - first)
            banyan_store64(
                p->head + at + 24,
                banyan_checksum(p->entry + first * BANYAN_ENTRY_BYTES, n * BANYAN_ENTRY_BYTES));
        const uint64_t sums = bytes < 48 ? 0 : number(p->head + at + 32, 8);
        if (!sums || sums > (p->sum_bytes - sums_at) / SUM_BYTES) continue;
        banyan_store64(p->head + at + 40, banyan_checksum(p->sums + sums_at, sums * SUM_BYTES));
        sums_at += sums * SUM_BYTES;
    }
}

static void mend(parts *p, uint64_t *id)
{
    for (size_t i = 0; i < p->entries; i++) {
        unsigned char *entry = p->entry + i * BANYAN_ENTRY_BYTES;
        const uint64_t at = number(entry + 16, 8);
        if (at + BLOCK_BYTES <= p->block_bytes && at < p->block_bytes)
            banyan_store64(entry + 24, banyan_checksum(p->blocks + at, BLOCK_BYTES));
    }
    if (p->manifest_bytes < 76) return;
    *id = number(p->manifest + 28, 8);
    if (p->head_bytes >= 36) {
        banyan_store64(p->head + 24, *id);
        mend_groups(p, 36 + 16 * (size_t)number(p->head + 32, 4),
                    number(p->head + 16, 4) < 2 ? 32 : 48);
    }
    unsigned char *end = p->manifest + p->manifest_bytes;
    banyan_store64(p->manifest + 20, p->manifest_bytes);
    banyan_store64(end - 40, p->head_bytes);
    banyan_store64(end - 32, banyan_checksum(p->head, p->head_bytes));
    banyan_store64(end - 8, banyan_checksum(p->manifest, p->manifest_bytes - 8));
}

static void attend(banyan_cache *cache)
{
    static const float q[2 * 8];
    float out[2 * 8];
    for (int32_t i = 0; i < banyan_cache_sequences(cache); i++) {
        banyan_rows part = {.rows = 1};
        FUZZ_CHECK(!banyan_sequence_open(cache, i, &part.sequence));
        part.at = banyan_sequence_length(part.sequence, 0);
        for (int more = 0; more < 2;
             more++, part.at++) /* MEMORY and ARGUMENT are answers, too */
            if (banyan_attend(cache, 0, &part, 1, q, q, q, out, NULL)) break;
    }
    banyan_sequence *fork = NULL;
    banyan_sequence *first = NULL;
    if (!banyan_sequence_open(cache, 0, &first) && !banyan_sequence_fork(first, 7, 3, &fork))
        banyan_sequence_destroy(fork);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[64];
    parts p = {0};
    uint64_t id = 0;
    make_plans();
    p.manifest_bytes = take16(&data, &size);
    p.head_bytes = take16(&data, &size);
    p.entries = take16(&data, &size);
    p.sum_bytes = take16(&data, &size);
    p.manifest = take(&data, &size, &p.manifest_bytes);
    p.head = take(&data, &size, &p.head_bytes);
    size_t entry_bytes = p.entries * BANYAN_ENTRY_BYTES;
    p.entry = take(&data, &size, &entry_bytes);
    p.entries = entry_bytes / BANYAN_ENTRY_BYTES;
    p.sums = take(&data, &size, &p.sum_bytes);
    p.block_bytes = size;
    p.blocks = take(&data, &size, &p.block_bytes);
    mend(&p, &id);

    fuzz_put("manifest", p.manifest, p.manifest_bytes);
    p.head = realloc(p.head, p.head_bytes + entry_bytes + p.sum_bytes + 1);
    if (!p.head) abort();
    memcpy(p.head + p.head_bytes, p.entry, entry_bytes);
    memcpy(p.head + p.head_bytes + entry_bytes, p.sums, p.sum_bytes);
    snprintf(name, sizeof name, "index-%016llx-0", (unsigned long long)id);
    fuzz_put(name, p.head, p.head_bytes + entry_bytes + p.sum_bytes);
    char path[256], other[256];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    /* all files that an index names are this one */
    const uint64_t file = p.head_bytes >= 44 ? number(p.head + 36, 8) : 0;
    snprintf(name, sizeof name, "blocks-%016llx-0", (unsigned long long)file);
    fuzz_put(name, p.blocks, p.block_bytes);
    snprintf(other, sizeof other, "%s/%s", fuzz_folder(), name);
    for (int i = 0; i < PLANS; i++) {
        banyan_cache *cache = NULL;
        const banyan_status status = banyan_cache_open(plans[i], NULL, fuzz_folder(), &cache);
        FUZZ_CHECK(!status == !!cache && (!status || *banyan_error_message()));
        if (cache) attend(cache);
        banyan_cache_destroy(cache);
    }
    (void)banyan_snapshot_verify(fuzz_folder(), NULL);
    FILE *nowhere = fopen("/dev/null", "w");
    if (nowhere) (void)banyan_snapshot_print(fuzz_folder(), nowhere), fclose(nowhere);
    remove(path);
    remove(other);
    free(p.manifest), free(p.head), free(p.entry), free(p.sums), free(p.blocks);
    return 0;
}
