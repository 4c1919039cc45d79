/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers to bytes, lowest first, and back; and their checksum, which is xxHash's XXH3 of 64
 * bits, compiled from its header. */
#include "dist/snapshot.h"

#include <stdlib.h>
#include <string.h>

#ifdef BANYAN_HAS_XXHASH
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t banyan_checksum(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}
#else
uint64_t banyan_checksum(const void *data, size_t bytes) /* snapshots are UNSUPPORTED then */
{
    (void)data, (void)bytes;
    return 0;
}
#endif

void banyan_put(banyan_bytes *to, const void *data, size_t bytes)
{
    if (to->has_failed || !bytes) return;
    if (to->used + bytes > to->room) {
        const size_t room = 2 * (to->used + bytes) + 256;
        unsigned char *more = realloc(to->data, room);
        to->has_failed = !more;
        if (!more) return;
        to->data = more;
        to->room = room;
    }
    memcpy(to->data + to->used, data, bytes);
    to->used += bytes;
}

void banyan_store32(unsigned char *to, uint32_t x)
{
    for (int i = 0; i < 4; i++) to[i] = (unsigned char)(x >> 8 * i);
}

void banyan_store64(unsigned char *to, uint64_t x)
{
    for (int i = 0; i < 8; i++) to[i] = (unsigned char)(x >> 8 * i);
}

void banyan_put32(banyan_bytes *to, uint32_t x)
{
    unsigned char bytes[4];
    banyan_store32(bytes, x);
    banyan_put(to, bytes, sizeof bytes);
}

void banyan_put64(banyan_bytes *to, uint64_t x)
{
    unsigned char bytes[8];
    banyan_store64(bytes, x);
    banyan_put(to, bytes, sizeof bytes);
}

const void *banyan_get(banyan_cursor *from, size_t bytes)
{
    if (from->has_failed || bytes > from->bytes - from->at) {
        from->has_failed = 1;
        return NULL;
    }
    from->at += bytes;
    return from->data + from->at - bytes;
}

uint32_t banyan_get32(banyan_cursor *from)
{
    const unsigned char *bytes = banyan_get(from, 4);
    uint32_t x = 0;
    for (int i = 0; bytes && i < 4; i++) x |= (uint32_t)bytes[i] << 8 * i;
    return x;
}

uint64_t banyan_get64(banyan_cursor *from)
{
    const uint64_t low = banyan_get32(from);
    return low | (uint64_t)banyan_get32(from) << 32;
}

int64_t banyan_get_count(banyan_cursor *from, size_t bytes, int64_t most)
{
    const uint32_t count = banyan_get32(from);
    if (count > (from->bytes - from->at) / bytes || (int64_t)count > most) from->has_failed = 1;
    return from->has_failed ? 0 : (int64_t)count;
}
