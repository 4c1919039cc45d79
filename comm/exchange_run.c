/* SPDX-License-Identifier: Apache-2.0 */
/* Runs one rank's part of any schedule over any transport; allocates nothing. Messages are
 * packed one after another into the round's buffer, so that each is one transfer, header and
 * all:
 *
 *     | header | item | item | header | item |        a round's buffer: to one peer, to another
 *
 * What arrives stays in the receive buffer until all of the round is there, since the folds of
 * a round must not change what is being sent; it is folded from there.
 *
 * Headers are exchange_header.c's; how a round moves in one memory or another is
 * exchange_round.c's. */
#include "comm/exchange.h"

#include <string.h>

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
    banyan_status status = x->fault ? banyan_exchange_look(x, comm) : BANYAN_OK;
    if (status || !x->rounds) return status;
    status = banyan_round_post(&run, x->round);
    return status ? fail_in_round(&run, x->round, status) : status;
}

banyan_status banyan_exchange_finish(banyan_exchange *x, banyan_comm *comm,
                                     const banyan_exchange_args *p, int64_t *messages,
                                     int64_t *bytes)
{
    const exchange_call run = {x, comm, p};
    for (int32_t r = 0; r < x->rounds; r++) {
        const round_part *part = &x->round[r];
        banyan_status status = r ? banyan_round_post(&run, part) : BANYAN_OK;
        if (!status) status = banyan_round_end(&run, part);
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
