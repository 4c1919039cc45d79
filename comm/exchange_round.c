/* SPDX-License-Identifier: Apache-2.0 */
/* A round of messages. The host's memory holds them where they are put together and where they come. In a
 * device's memory, with a transport that takes such memory, all of it is queued, one thing behind the
 * other on one stream, and the host goes on:
 *
 *     put header, copy items -> send buffer     for each message
 *     send and receive                          the transport's, as one round
 *     compare header                            of each message that came
 *     combine                                   folds, in the order that is also the host's
 *
 * Staged, messages are those of host memory: the items are copied to them (then the device is waited
 * for), and what comes is copied back, after its headers were compared on the host.
 *
 * To start work on a device costs more than to move a few items. What lies one behind the other is
 * therefore moved, and folded, at once: a joiner does well to place its items in ascending order. */
#include "comm/exchange.h"

#include <string.h>

/* ---- faults -------------------------------------------------------------------------------- */

static banyan_status report_fault(banyan_comm *comm, int peer, const banyan_fault *fault,
                                  const char *const *name)
{
    message_header theirs, mine;
    memcpy(&theirs, fault->got, sizeof theirs);
    memcpy(&mine, fault->expected, sizeof mine);
    const banyan_status status = banyan_header_compare(comm->rank, peer, &theirs, &mine, name);
    banyan_comm_break(comm);
    banyan_mark mark[BANYAN_MARKS + 1];
    for (int i = 0; i < BANYAN_MARKS; i++) mark[i] = (banyan_mark){name[i], mine.mark[i]};
    mark[BANYAN_MARKS] = (banyan_mark){"round", mine.round};
    return status ? banyan_fail_at(status, mark, BANYAN_MARKS + 1) : status;
}

banyan_status banyan_exchange_look(const banyan_exchange *x, banyan_comm *comm)
{
    banyan_status status = banyan_comm_device_poll(comm);
    for (int32_t i = 0; x->fault && i < x->messages && !status; i++)
        if (__atomic_load_n(&x->fault[i].is_set, __ATOMIC_ACQUIRE))
            status = report_fault(comm, x->message[i].peer, &x->fault[i], x->mark_name);
    return status;
}

/* ---- sending ------------------------------------------------------------------------------- */

/* How many items of the message, from `first` on, lie one behind the other. */
static int32_t run_of_items(const exchange_call *run, const message *m, int32_t first)
{
    const int32_t *item = run->x->item + m->first_item;
    int32_t count = 1;
    while (first + count < m->items &&
           run->p->data[item[first + count]] ==
               (char *)run->p->data[item[first + count - 1]] + run->p->item_bytes)
        count++;
    return count;
}

static banyan_status copy_items(const exchange_call *run, const message *m)
{
    const banyan_memory *memory = run->x->memory;
    const char *failed = NULL;
    for (int32_t i = 0, count; i < m->items && !failed; i += count) {
        count = run_of_items(run, m, i);
        failed = banyan_memory_copy(memory, item_at(run, run->x->send_buffer, m, i),
                                    run->p->data[run->x->item[m->first_item + i]],
                                    (size_t)count * run->p->item_bytes);
    }
    return banyan_device_status(failed);
}

/* Posts the round; nothing is queued on the stream for it but the send buffer. */
static banyan_status post_queued(const exchange_call *run, const round_part *part)
{
    const banyan_memory *memory = run->x->memory;
    const message *m = run->x->message + part->first_message;
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; i < part->recvs && !status; i++) {
        const message *in = &m[part->sends + i];
        status = banyan_comm_device_start(run->comm, 1, in->peer,
                                          message_at(run, run->x->recv_buffer, in),
                                          message_bytes(run, in));
    }
    for (int32_t i = 0; i < part->sends && !status; i++) {
        char *place = message_at(run, run->x->send_buffer, &m[i]);
        const message_header h = header_of(run, part, &m[i]);
        status = banyan_device_status(banyan_memory_put(memory, place, &h, sizeof h));
        if (!status) status = copy_items(run, &m[i]);
        if (!status)
            status = banyan_comm_device_start(run->comm, 0, m[i].peer, place,
                                              message_bytes(run, &m[i]));
    }
    return status;
}

static banyan_status fill_staged(const exchange_call *run, const round_part *part)
{
    const message *m = run->x->message + part->first_message;
    banyan_status status = banyan_device_refuse_capture(run->comm, run->x->memory);
    for (int32_t i = 0; i < part->sends && !status; i++) status = copy_items(run, &m[i]);
    /* Also until the last round's messages are out of the buffer to which this one's come. */
    return status ? status : banyan_device_status(banyan_memory_wait(run->x->memory));
}

/* Messages in host memory. */
static banyan_status post_at_once(const exchange_call *run, const round_part *part)
{
    const message *m = run->x->message + part->first_message;
    const int is_apart = run->x->memory->row->is_apart;
    banyan_status status = is_apart ? fill_staged(run, part) : BANYAN_OK;
    for (int32_t i = 0; i < part->recvs && !status; i++) {
        const message *in = &m[part->sends + i];
        char *place = message_at(run, run->x->arrivals, in);
        memset(place, 0,
               BANYAN_HEADER_BYTES); /* so that an old one is not taken for a new one */
        status = banyan_comm_start(run->comm, 1, in->peer, place, message_bytes(run, in));
    }
    for (int32_t i = 0; i < part->sends && !status; i++) {
        char *place = message_at(run, run->x->send_buffer, &m[i]);
        if (!is_apart) status = copy_items(run, &m[i]);
        if (status) return status;
        banyan_header_write(run, part, &m[i], place);
        status = banyan_comm_start(run->comm, 0, m[i].peer, place, message_bytes(run, &m[i]));
    }
    return status;
}

banyan_status banyan_round_post(const exchange_call *run, const round_part *part)
{
    for (int i = 0; i < BANYAN_MARKS; i++) run->x->mark_name[i] = run->p->mark[i].name;
    return run->x->arrivals ? post_at_once(run, part) : post_queued(run, part);
}

/* ---- receiving ----------------------------------------------------------------------------- */

static banyan_status receive_queued(const exchange_call *run, const round_part *part)
{
    const banyan_memory *memory = run->x->memory;
    const int32_t first = part->first_message + part->sends;
    banyan_status status = banyan_comm_device_flush(run->comm, banyan_memory_stream(memory));
    for (int32_t i = first; i < first + part->recvs && !status; i++) {
        const message *m = &run->x->message[i];
        const message_header h = header_of(run, part, m);
        status = banyan_device_status(banyan_memory_compare(
            memory, message_at(run, run->x->recv_buffer, m), &h, &run->x->fault[i]));
    }
    return status;
}

static banyan_status receive_at_once(const exchange_call *run, const round_part *part)
{
    const banyan_memory *memory = run->x->memory;
    const banyan_status status =
        banyan_headers_check(run, part, run->x->arrivals, banyan_comm_wait(run->comm));
    if (status || !part->recvs || run->x->arrivals == run->x->recv_buffer) return status;
    const message *last = &run->x->message[part->first_message + part->sends + part->recvs - 1];
    const char *end = message_at(run, run->x->arrivals, last) + message_bytes(run, last);
    return banyan_device_status(banyan_memory_copy(
        memory, run->x->recv_buffer, run->x->arrivals, (size_t)(end - run->x->arrivals)));
}

/* Do the values of b's sources lie behind those of a's, and the results too? a and b follow each other,
 * and so do their places in a message that brings both, since all that it brings is folded. */
static int is_behind(const exchange_call *run, const fold *a, const fold *b)
{
    const fold_source *s = run->x->source + a->first_source,
                      *t = run->x->source + b->first_source;
    if (a->sources != b->sources) return 0;
    for (int32_t i = 0; i < a->sources; i++)
        if (s[i].message != t[i].message) return 0;
    return run->p->data[b->item] == (char *)run->p->data[a->item] + run->p->item_bytes;
}

banyan_status banyan_round_end(const exchange_call *run, const round_part *part)
{
    const fold *f = run->x->fold + part->first_fold;
    banyan_status status =
        run->x->arrivals ? receive_at_once(run, part) : receive_queued(run, part);
    for (int32_t i = 0, count; i < part->folds && !status; i += count) {
        for (count = 1; run->x->memory->row->is_apart && i + count < part->folds; count++)
            if (!is_behind(run, &f[i + count - 1], &f[i + count])) break;
        status = banyan_exchange_fold(run, &f[i], count);
    }
    return status;
}
