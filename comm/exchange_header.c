/* SPDX-License-Identifier: Apache-2.0 */
/* A header says what its sender believes; the receiver compares it with what it believes
 * itself. Ranks whose calls are out of step would else fold the partials of one layer into
 * another's, and nobody would notice. */
#include "comm/exchange.h"

#include <string.h>

static banyan_status fail_number(int rank, int peer, const char *what, int64_t theirs,
                                 int64_t mine)
{
    return banyan_fail(BANYAN_ERR_COMM, "rank %d sends %s %lld, but rank %d expects %lld", peer,
                       what, (long long)theirs, rank, (long long)mine);
}

banyan_status banyan_header_compare(int rank, int peer, const message_header *theirs,
                                    const message_header *mine, const char *const *mark_name)
{
    if (theirs->magic != mine->magic)
        return banyan_fail(BANYAN_ERR_COMM,
                           "rank %d sends something that begins with %08x, but rank %d expects "
                           "partials, which begin with %08x",
                           peer, (unsigned)theirs->magic, rank, (unsigned)mine->magic);
    if (theirs->version != mine->version)
        return fail_number(rank, peer, "message version", theirs->version, mine->version);
    if (theirs->plan != mine->plan)
        return banyan_fail(
            BANYAN_ERR_COMM, "rank %d sends for plan %016llx, but rank %d has plan %016llx",
            peer, (unsigned long long)theirs->plan, rank, (unsigned long long)mine->plan);
    for (int i = 0; i < BANYAN_MARKS; i++)
        if (theirs->mark[i] != mine->mark[i])
            return fail_number(rank, peer, mark_name[i] ? mark_name[i] : "mark",
                               theirs->mark[i], mine->mark[i]);
    if (theirs->round != mine->round)
        return fail_number(rank, peer, "round", theirs->round, mine->round);
    if (theirs->dtype != mine->dtype)
        return banyan_fail(BANYAN_ERR_COMM, "rank %d sends %s, but rank %d expects %s", peer,
                           banyan_dtype_name((banyan_dtype)theirs->dtype), rank,
                           banyan_dtype_name((banyan_dtype)mine->dtype));
    if (theirs->item_bytes != mine->item_bytes)
        return fail_number(rank, peer, "item size", (int64_t)theirs->item_bytes,
                           (int64_t)mine->item_bytes);
    if (theirs->items != mine->items)
        return fail_number(rank, peer, "item count", theirs->items, mine->items);
    return BANYAN_OK;
}

/* Each step is a bijection of h, so that a change within one word is always seen in 64 bits,
 * and missed in the 32 that are kept once in 2^32. */
uint32_t banyan_items_checksum(const void *items, size_t bytes)
{
    const char *at = items;
    uint64_t h = bytes, word;
    for (; bytes >= sizeof word; at += sizeof word, bytes -= sizeof word) {
        memcpy(&word, at, sizeof word);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    word = 0;
    if (bytes) memcpy(&word, at, bytes);
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32) | 1; /* never 0 */
}

void banyan_header_write(const exchange_call *run, const round_part *part, const message *m,
                         char *place)
{
    message_header h = header_of(run, part, m);
    if (run->comm->has_checksums)
        h.checksum = banyan_items_checksum(place + sizeof h, message_bytes(run, m) - sizeof h);
    memcpy(place, &h, sizeof h);
}

static banyan_status check_items(const exchange_call *run, const message *m, const char *items,
                                 uint32_t sent)
{
    if (!run->comm->has_checksums) return BANYAN_OK;
    const size_t bytes = (size_t)m->items * run->p->item_bytes;
    const uint32_t arrived = banyan_items_checksum(items, bytes);
    if (arrived == sent) return BANYAN_OK;
    return banyan_fail(
        BANYAN_ERR_COMM,
        "rank %d sent %zu bytes of partials with checksum %08x, but what rank %d "
        "received has %08x",
        m->peer, bytes, (unsigned)sent, (int)run->comm->rank, (unsigned)arrived);
}

banyan_status banyan_headers_check(const exchange_call *run, const round_part *part,
                                   char *buffer, banyan_status transfer)
{
    const message *m = run->x->message + part->first_message + part->sends;
    const char *name[BANYAN_MARKS];
    for (int i = 0; i < BANYAN_MARKS; i++) name[i] = run->p->mark[i].name;
    for (int32_t i = 0; i < part->recvs; i++) {
        message_header theirs;
        const message_header mine = header_of(run, part, &m[i]);
        memcpy(&theirs, message_at(run, buffer, &m[i]), sizeof theirs);
        if (transfer && theirs.magic != mine.magic) continue;
        banyan_status status =
            banyan_header_compare(run->comm->rank, m[i].peer, &theirs, &mine, name);
        if (!status && !transfer)
            status = check_items(run, &m[i], item_at(run, buffer, &m[i], 0), theirs.checksum);
        if (status) return status;
    }
    return transfer;
}
