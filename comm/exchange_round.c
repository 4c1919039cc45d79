/* SPDX-License-Identifier: Apache-2.0 */
/* A round of messages. The host's memory holds them where they are put together and where they
 * come. In a device's memory, with a transport that takes such memory, all of it is queued, one
 * thing behind the other on one stream, and the host goes on:
 *
 *     put headers, copy items -> send buffer    for all messages at once
 *     send and receive                          the transport's, as one round
 *     compare headers, fold items               of all that came at once, items in the order
 *                                               that is also the host's: the caller's
 *
 * Staged, messages are those of host memory: the items are copied to them (then the device is
 * waited for), and what comes is copied back, after its headers were compared on the host.
 *
 * To start work on a device costs more than to move a few items: a round is two pieces of it,
 * whatever it moves. */
#include "comm/exchange.h"

#include <string.h>

/* ---- faults ------------------------------------------------------------------------------ */

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

/* ---- sending ----------------------------------------------------------------------------- */

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

/* The run of items of the message from `first` on, to their place in the send buffer. */
static banyan_gathered move_of(const exchange_call *run, const message *m, int32_t first,
                               int32_t count)
{
    return (banyan_gathered){.to = item_at(run, run->x->send_buffer, m, first),
                             .from = run->p->data[run->x->item[m->first_item + first]],
                             .bytes = (size_t)count * run->p->item_bytes};
}

static banyan_status copy_items(const exchange_call *run, const message *m)
{
    const char *failed = NULL;
    for (int32_t i = 0, count; i < m->items && !failed; i += count) {
        count = run_of_items(run, m, i);
        const banyan_gathered move = move_of(run, m, i, count);
        failed = banyan_memory_copy(run->x->memory, move.to, move.from, move.bytes);
    }
    return banyan_device_status(failed);
}

/* Posts the round; nothing is queued on the stream for it but the send buffer. */
static banyan_status post_queued(const exchange_call *run, const round_part *part)
{
    banyan_exchange *x = run->x;
    const message *m = x->message + part->first_message;
    int32_t moves = 0;
    for (int32_t i = 0; i < part->sends; i++) {
        x->header[i] = header_of(run, part, &m[i]);
        x->move[moves++] = (banyan_gathered){message_at(run, x->send_buffer, &m[i]),
                                             &x->header[i], sizeof *x->header, 1};
        for (int32_t n = 0, count; n < m[i].items; n += count) {
            count = run_of_items(run, &m[i], n);
            x->move[moves++] = move_of(run, &m[i], n, count);
        }
    }
    banyan_status status =
        moves ? banyan_device_status(banyan_memory_gather(x->memory, x->move, moves))
              : BANYAN_OK;
    for (int32_t i = 0; i < part->recvs && !status; i++) {
        const message *in = &m[part->sends + i];
        status = banyan_comm_device_start(run->comm, 1, in->peer,
                                          message_at(run, run->x->recv_buffer, in),
                                          message_bytes(run, in));
    }
    for (int32_t i = 0; i < part->sends && !status; i++) {
        char *place = message_at(run, x->send_buffer, &m[i]);
        status =
            banyan_comm_device_start(run->comm, 0, m[i].peer, place, message_bytes(run, &m[i]));
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

/* ---- receiving --------------------------------------------------------------------------- */

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

banyan_status banyan_round_end(const exchange_call *run, const round_part *part)
{
    const banyan_memory *memory = run->x->memory;
    const fold *f = run->x->fold + part->first_fold;
    banyan_status status =
        run->x->arrivals ? receive_at_once(run, part)
                         : banyan_comm_device_flush(run->comm, banyan_memory_stream(memory));
    if (!status && memory->row->is_apart) banyan_exchange_fold_round(run, part);
    for (int32_t i = 0; i < part->folds && !memory->row->is_apart && !status; i++)
        status = banyan_exchange_fold(run, &f[i]);
    return status;
}
