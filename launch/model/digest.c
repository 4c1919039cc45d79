/* SPDX-License-Identifier: Apache-2.0 */
/* One number for a checkpoint, that changes when it does: for results that are resumed, for
 * ranks that read disks of their own, for snapshots of a cache. It covers
 *
 *     config.json, each file's size and safetensors header, and of each tensor 4 KiB at
 *     16 places, drawn from its name (all of it, up to 64 KiB)
 *
 * and not the names of the files or where the folder is. What it cannot see: a change of a
 * large tensor that leaves all of its places as they were, a few values by hand; training,
 * rounding and merging change all of them. It is no protection against intent. */
#include "launch/model/runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES = 16, PLACE_BYTES = 4096 };

/* One step of SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    uint64_t word;
    hash = mix(hash ^ count);
    for (; count >= sizeof word; at += sizeof word, count -= sizeof word) {
        memcpy(&word, at, sizeof word);
        hash = mix(hash ^ word);
    }
    word = 0;
    memcpy(&word, at, count);
    return mix(hash ^ word);
}

static uint64_t add_tensor(uint64_t hash, const tensor *t)
{
    uint64_t place = hash_bytes(0, t->name, strlen(t->name));
    hash = mix(hash ^ place);
    if (t->bytes <= PLACES * PLACE_BYTES) return hash_bytes(hash, t->data, t->bytes);
    for (int i = 0; i < PLACES; i++) {
        place = mix(place);
        hash = hash_bytes(hash, t->data + place % (t->bytes - PLACE_BYTES + 1), PLACE_BYTES);
    }
    return hash;
}

banyan_status digest_make(const char *dir, const safetensors *files, uint64_t *digest,
                          char *why, size_t why_bytes)
{
    size_t length;
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", dir);
    char *text = hf_read(path, &length, why, why_bytes);
    if (!text) return BANYAN_ERR_CONFIG;
    uint64_t hash = hash_bytes(0, text, length), headers = 0; /* a sum: files have no order */
    free(text);
    size_t bytes, header_bytes;
    const void *header;
    for (int64_t i = 0; (header = safetensors_header(files, i, &header_bytes, &bytes)); i++)
        headers += hash_bytes(bytes, header, header_bytes);
    hash = mix(hash ^ headers);
    for (int64_t i = 0; i < safetensors_count(files); i++)
        hash = add_tensor(hash, safetensors_row(files, i));
    *digest = hash;
    return BANYAN_OK;
}

banyan_status model_digest(const char *dir, uint64_t *digest, char *why, size_t why_bytes)
{
    safetensors *files = safetensors_open(dir, why, why_bytes);
    if (!files) return BANYAN_ERR_CONFIG;
    banyan_status status = digest_make(dir, files, digest, why, why_bytes);
    safetensors_close(files);
    return status;
}
