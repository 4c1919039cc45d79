/* SPDX-License-Identifier: Apache-2.0 */
/* Runs one rank's part of any schedule over any transport; allocates nothing. Messages are packed
 * one after another into the round's buffer, so that each is one transfer, header and all:
 *
 *     | header | item | item | header | item |        a round's buffer: to one peer, to another
 *
 * What arrives stays in the receive buffer until all of the round is there, since the folds of a
 * round must not change what is being sent; it is folded from there.
 *
 * A header says what its sender believes; the receiver compares it with what it believes itself.
 * Ranks whose calls are out of step would else fold the partials of one layer into another's, and
 * nobody would notice. */
#include "comm/exchange.h"

#include <string.h>

enum { header_magic = 0x62616e79, header_version = 1 };

typedef struct header {
    uint32_t magic, version;
    uint64_t plan;
    uint64_t item_bytes;
    int64_t mark[BANYAN_MARKS];
    int32_t round, items;
    int32_t dtype, sequence; /* which of several sequences: one in this version */
} header;

_Static_assert(sizeof(header) == BANYAN_HEADER_BYTES, "a header is one cache line");

/* One call of run. */
typedef struct passing {
    banyan_exchange *x;
    banyan_comm *comm;
    const banyan_passage *p;
} passing;

/* Where a message lies in the round's buffer, and its items after the header. */
static char *message_at(const passing *run, char *buffer, const message *m)
{
    return buffer + (size_t)m->before * BANYAN_HEADER_BYTES +
           (size_t)m->offset * run->p->item_bytes;
}

static char *item_at(const passing *run, char *buffer, const message *m, int32_t index)
{
    return message_at(run, buffer, m) + BANYAN_HEADER_BYTES +
           (size_t)index * run->p->item_bytes;
}

static size_t message_bytes(const passing *run, const message *m)
{
    return BANYAN_HEADER_BYTES + (size_t)m->items * run->p->item_bytes;
}

static header header_of(const passing *run, const round_part *part, const message *m)
{
    header h = {.magic = header_magic,
                .version = header_version,
                .plan = run->x->plan,
                .item_bytes = run->p->item_bytes,
                .round = part->number,
                .items = m->items,
                .dtype = (int32_t)run->p->dtype};
    for (int i = 0; i < BANYAN_MARKS; i++) h.mark[i] = run->p->mark[i].value;
    return h;
}

/* ---- comparing headers --------------------------------------------------------------------- */

static banyan_status fail_number(const passing *run, int peer, const char *what, int64_t theirs,
                                 int64_t mine)
{
    return banyan_fail(BANYAN_ERR_COMM, "rank %d sends %s %lld, but rank %d expects %lld", peer,
                       what, (long long)theirs, (int)run->comm->rank, (long long)mine);
}

static banyan_status compare_headers(const passing *run, int peer, const header *theirs,
                                     const header *mine)
{
    const int rank = run->comm->rank;
    if (theirs->magic != mine->magic)
        return banyan_fail(BANYAN_ERR_COMM,
                           "rank %d sends something that begins with %08x, but rank %d expects "
                           "partials, which begin with %08x",
                           peer, (unsigned)theirs->magic, rank, (unsigned)mine->magic);
    if (theirs->version != mine->version)
        return fail_number(run, peer, "message version", theirs->version, mine->version);
    if (theirs->plan != mine->plan)
        return banyan_fail(
            BANYAN_ERR_COMM, "rank %d sends for plan %016llx, but rank %d has plan %016llx",
            peer, (unsigned long long)theirs->plan, rank, (unsigned long long)mine->plan);
    for (int i = 0; i < BANYAN_MARKS; i++)
        if (theirs->mark[i] != mine->mark[i])
            return fail_number(run, peer, run->p->mark[i].name ? run->p->mark[i].name : "mark",
                               theirs->mark[i], mine->mark[i]);
    if (theirs->round != mine->round)
        return fail_number(run, peer, "round", theirs->round, mine->round);
    if (theirs->sequence != mine->sequence)
        return fail_number(run, peer, "sequence", theirs->sequence, mine->sequence);
    if (theirs->dtype != mine->dtype)
        return banyan_fail(BANYAN_ERR_COMM, "rank %d sends %s, but rank %d expects %s", peer,
                           banyan_dtype_name((banyan_dtype)theirs->dtype), rank,
                           banyan_dtype_name((banyan_dtype)mine->dtype));
    if (theirs->item_bytes != mine->item_bytes)
        return fail_number(run, peer, "item size", (int64_t)theirs->item_bytes,
                           (int64_t)mine->item_bytes);
    if (theirs->items != mine->items)
        return fail_number(run, peer, "item count", theirs->items, mine->items);
    return BANYAN_OK;
}

/* Are the headers of what arrived as expected? After a failed transfer, those that are there at all
 * tell more than a wrong size does. */
static banyan_status check_headers(const passing *run, const round_part *part,
                                   banyan_status transfer)
{
    const message *m = run->x->message + part->first_message + part->sends;
    for (int32_t i = 0; i < part->recvs; i++) {
        header theirs;
        const header mine = header_of(run, part, &m[i]);
        memcpy(&theirs, message_at(run, run->x->recv_buffer, &m[i]), sizeof theirs);
        if (transfer && theirs.magic != mine.magic) continue;
        const banyan_status status = compare_headers(run, m[i].peer, &theirs, &mine);
        if (status) return status;
    }
    return transfer;
}

/* ---- running ------------------------------------------------------------------------------- */

static banyan_status start_receive(const passing *run, const message *m)
{
    char *place = message_at(run, run->x->recv_buffer, m);
    memset(place, 0, sizeof(header)); /* so that an old one is not taken for a new one */
    return banyan_comm_start(run->comm, 1, m->peer, place, message_bytes(run, m));
}

static banyan_status start_send(const passing *run, const round_part *part, const message *m)
{
    char *place = message_at(run, run->x->send_buffer, m);
    const header h = header_of(run, part, m);
    memcpy(place, &h, sizeof h);
    for (int32_t i = 0; i < m->items; i++)
        memcpy(item_at(run, run->x->send_buffer, m, i),
               run->p->data[run->x->item[m->first_item + i]], run->p->item_bytes);
    return banyan_comm_start(run->comm, 0, m->peer, place, message_bytes(run, m));
}

/* Folds into the caller's memory from the place of its own value on; what comes before it is
 * folded in the receive buffer, in the slot of the first. */
static void run_fold(const passing *run, const fold *f)
{
    char *const own = run->p->data[f->item];
    int owned = 0; /* is the caller's value in the sum, or not wanted? */
    char *sum = NULL;
    int32_t own_at = f->sources;
    const source *s = run->x->source + f->first_source;
    for (int32_t i = 0; i < f->sources; i++)
        if (s[i].message < 0) own_at = i;
    if (own_at == f->sources) owned = 1;
    for (int32_t i = 0; i < f->sources; i++) {
        const message *m = s[i].message < 0 ? NULL : &run->x->message[s[i].message];
        char *value = m ? item_at(run, run->x->recv_buffer, m, s[i].index) : own;
        owned |= !m;
        if (!sum) {
            sum = value;
            continue;
        }
        char *into = owned ? own : sum;
        run->p->combine(run->p->ctx, into, sum, value, run->p->item_bytes);
        sum = into;
    }
    if (sum != own) memcpy(own, sum, run->p->item_bytes);
}

static banyan_status post_round(const passing *run, const round_part *part)
{
    const message *m = run->x->message + part->first_message;
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; i < part->recvs && !status; i++)
        status = start_receive(run, &m[part->sends + i]);
    for (int32_t i = 0; i < part->sends && !status; i++) status = start_send(run, part, &m[i]);
    return status;
}

static banyan_status end_round(const passing *run, const round_part *part)
{
    const banyan_status status = check_headers(run, part, banyan_comm_wait(run->comm));
    for (int32_t i = 0; i < part->folds && !status; i++)
        run_fold(run, &run->x->fold[part->first_fold + i]);
    return status;
}

static banyan_status fail_in_round(const passing *run, const round_part *part,
                                   banyan_status status)
{
    banyan_mark mark[BANYAN_MARKS + 1];
    if (status != BANYAN_ERR_COMM) return status;
    run->comm->broken = 1;
    memcpy(mark, run->p->mark, sizeof run->p->mark);
    mark[BANYAN_MARKS] = (banyan_mark){"round", part->number};
    return banyan_fail_at(status, mark, BANYAN_MARKS + 1);
}

banyan_status banyan_exchange_start(banyan_exchange *x, banyan_comm *comm,
                                    const banyan_passage *p)
{
    if (p->item_bytes > x->max_item_bytes)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "items of %zu bytes; at most %zu were planned",
                           p->item_bytes, x->max_item_bytes);
    const passing run = {x, comm, p};
    const banyan_status status = x->rounds ? post_round(&run, x->round) : BANYAN_OK;
    return status ? fail_in_round(&run, x->round, status) : status;
}

banyan_status banyan_exchange_finish(banyan_exchange *x, banyan_comm *comm,
                                     const banyan_passage *p, int64_t *messages, int64_t *bytes)
{
    const passing run = {x, comm, p};
    for (int32_t r = 0; r < x->rounds; r++) {
        const round_part *part = &x->round[r];
        banyan_status status = r ? post_round(&run, part) : BANYAN_OK;
        if (!status) status = end_round(&run, part);
        if (status) return fail_in_round(&run, part, status);
        *messages += part->sends;
        for (int32_t i = 0; i < part->sends; i++)
            *bytes += (int64_t)message_bytes(&run, &x->message[part->first_message + i]);
    }
    return BANYAN_OK;
}

banyan_status banyan_exchange_run(banyan_exchange *x, banyan_comm *comm,
                                  const banyan_passage *p, int64_t *messages, int64_t *bytes)
{
    const banyan_status status = banyan_exchange_start(x, comm, p);
    return status ? status : banyan_exchange_finish(x, comm, p, messages, bytes);
}

int banyan_exchange_sends_first(const banyan_exchange *x, int32_t item)
{
    const round_part *part = x->round;
    for (int32_t m = 0; x->rounds && m < part->sends; m++) {
        const message *one = &x->message[part->first_message + m];
        for (int32_t i = 0; i < one->items; i++)
            if (x->item[one->first_item + i] == item) return 1;
    }
    return 0;
}
