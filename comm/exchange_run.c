/* SPDX-License-Identifier: Apache-2.0 */
/* Runs one rank's part of any schedule over any transport; allocates nothing. Messages are packed
 * one after another into the round's buffer, so that each is one transfer, header and all:
 *
 *     | header | item | item | header | item |        a round's buffer: to one peer, to another
 *
 * What arrives stays in the receive buffer until all of the round is there, since the folds of a
 * round must not change what is being sent; it is folded from there.
 *
 * Headers are exchange_header.c's; what is different in a device's memory is exchange_device.c's. */
#include "comm/exchange.h"

#include <string.h>

static banyan_status start_receive(const exchange_call *run, const message *m)
{
    char *place = message_at(run, run->x->recv_buffer, m);
    memset(place, 0, BANYAN_HEADER_BYTES); /* so that an old one is not taken for a new one */
    return banyan_comm_start(run->comm, 1, m->peer, place, message_bytes(run, m));
}

static banyan_status start_send(const exchange_call *run, const round_part *part,
                                const message *m)
{
    char *place = message_at(run, run->x->send_buffer, m);
    for (int32_t i = 0; i < m->items; i++)
        memcpy(item_at(run, run->x->send_buffer, m, i),
               run->p->data[run->x->item[m->first_item + i]], run->p->item_bytes);
    banyan_header_write(run, part, m, place);
    return banyan_comm_start(run->comm, 0, m->peer, place, message_bytes(run, m));
}

static banyan_status post_round(const exchange_call *run, const round_part *part)
{
    if (run->x->memory) return banyan_device_post(run, part);
    const message *m = run->x->message + part->first_message;
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; i < part->recvs && !status; i++)
        status = start_receive(run, &m[part->sends + i]);
    for (int32_t i = 0; i < part->sends && !status; i++) status = start_send(run, part, &m[i]);
    return status;
}

static banyan_status end_round(const exchange_call *run, const round_part *part)
{
    if (run->x->memory) return banyan_device_end(run, part);
    banyan_status status =
        banyan_headers_check(run, part, run->x->recv_buffer, banyan_comm_wait(run->comm));
    for (int32_t i = 0; i < part->folds && !status; i++)
        status = banyan_exchange_fold(run, &run->x->fold[part->first_fold + i], 1);
    return status;
}

static banyan_status fail_in_round(const exchange_call *run, const round_part *part,
                                   banyan_status status)
{
    banyan_mark mark[BANYAN_MARKS + 1];
    if (status != BANYAN_ERR_COMM && status != BANYAN_ERR_DEVICE) return status;
    banyan_comm_break(run->comm);
    memcpy(mark, run->p->mark, sizeof run->p->mark);
    mark[BANYAN_MARKS] = (banyan_mark){"round", part->number};
    return banyan_fail_at(status, mark, BANYAN_MARKS + 1);
}

banyan_status banyan_exchange_start(banyan_exchange *x, banyan_comm *comm,
                                    const banyan_exchange_args *p)
{
    if (p->item_bytes > x->max_item_bytes)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "items of %zu bytes; at most %zu were planned",
                           p->item_bytes, x->max_item_bytes);
    const exchange_call run = {x, comm, p};
    banyan_status status = x->memory ? banyan_exchange_look(x, comm) : BANYAN_OK;
    if (status || !x->rounds) return status;
    status = post_round(&run, x->round);
    return status ? fail_in_round(&run, x->round, status) : status;
}

banyan_status banyan_exchange_finish(banyan_exchange *x, banyan_comm *comm,
                                     const banyan_exchange_args *p, int64_t *messages,
                                     int64_t *bytes)
{
    const exchange_call run = {x, comm, p};
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
                                  const banyan_exchange_args *p, int64_t *messages,
                                  int64_t *bytes)
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
