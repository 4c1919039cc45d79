/* SPDX-License-Identifier: Apache-2.0 */
/* Runs one rank's part of any schedule over any transport; allocates nothing.
 *
 * A message goes straight from the caller's memory when its items lie one after another there
 * (always when it is one item), else it is packed. What arrives goes into the receive buffer, since
 * the folds of a round must not change what is being sent; only a message that replaces items which
 * this rank neither sends nor gets from others in the round may land where it belongs. */
#include "comm/exchange.h"

#include <string.h>

/* One call of run. */
typedef struct passage {
    banyan_exchange *x;
    banyan_comm *comm;
    void *const *data;
    size_t item_bytes;
    banyan_combine_fn combine;
    void *ctx;
} passage;

/* Where a message's items lie one after another in the caller's memory, or NULL. */
static char *find_run(const passage *p, const message *m)
{
    const int32_t *item = p->x->item + m->first_item;
    char *first = p->data[item[0]];
    for (int32_t i = 1; i < m->items; i++)
        if (p->data[item[i]] != first + (size_t)i * p->item_bytes) return NULL;
    return first;
}

static char *buffer_at(const passage *p, char *buffer, const message *m, int32_t index)
{
    return buffer + ((size_t)m->offset + (size_t)index) * p->item_bytes;
}

static banyan_status start_receive(const passage *p, message *m)
{
    char *place = m->may_land ? find_run(p, m) : NULL;
    m->landed = place != NULL;
    if (!place) place = buffer_at(p, p->x->recv_buffer, m, 0);
    return banyan_comm_start(p->comm, 1, m->peer, place, (size_t)m->items * p->item_bytes);
}

static banyan_status start_send(const passage *p, const message *m)
{
    char *place = find_run(p, m);
    for (int32_t i = 0; i < m->items && !place; i++)
        memcpy(buffer_at(p, p->x->send_buffer, m, i), p->data[p->x->item[m->first_item + i]],
               p->item_bytes);
    if (!place) place = buffer_at(p, p->x->send_buffer, m, 0);
    return banyan_comm_start(p->comm, 0, m->peer, place, (size_t)m->items * p->item_bytes);
}

/* Folds into the caller's memory from the place of its own value on; what comes before it is
 * folded in the receive buffer, in the slot of the first. */
static void run_fold(const passage *p, const fold *f)
{
    char *const own = p->data[f->item];
    int owned = 0; /* is the caller's value in the sum, or not wanted? */
    char *sum = NULL;
    int32_t own_at = f->sources;
    const source *s = p->x->source + f->first_source;
    for (int32_t i = 0; i < f->sources; i++)
        if (s[i].message < 0) own_at = i;
    if (own_at == f->sources) owned = 1;
    for (int32_t i = 0; i < f->sources; i++) {
        const message *m = s[i].message < 0 ? NULL : &p->x->message[s[i].message];
        if (m && m->landed) return; /* the only source, and there already */
        char *value = m ? buffer_at(p, p->x->recv_buffer, m, s[i].index) : own;
        owned |= !m;
        if (!sum) {
            sum = value;
            continue;
        }
        char *into = owned ? own : sum;
        p->combine(p->ctx, into, sum, value, p->item_bytes);
        sum = into;
    }
    if (sum != own) memcpy(own, sum, p->item_bytes);
}

static banyan_status run_round(const passage *p, const round_part *part)
{
    message *m = p->x->message + part->first_message;
    banyan_status status = BANYAN_OK;
    for (int32_t i = 0; i < part->recvs && !status; i++)
        status = start_receive(p, &m[part->sends + i]);
    for (int32_t i = 0; i < part->sends && !status; i++) status = start_send(p, &m[i]);
    if (!status) status = banyan_comm_wait(p->comm);
    if (status) return status;
    for (int32_t i = 0; i < part->folds; i++) run_fold(p, &p->x->fold[part->first_fold + i]);
    return BANYAN_OK;
}

banyan_status banyan_exchange_run(banyan_exchange *x, banyan_comm *comm, void *const *data,
                                  size_t item_bytes, banyan_combine_fn combine, void *ctx,
                                  int64_t *messages, int64_t *bytes)
{
    if (item_bytes > x->max_item_bytes)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "items of %zu bytes; at most %zu were planned",
                           item_bytes, x->max_item_bytes);
    const passage p = {x, comm, data, item_bytes, combine, ctx};
    for (int32_t r = 0; r < x->rounds; r++) {
        const round_part *part = &x->round[r];
        const banyan_status status = run_round(&p, part);
        if (status) return status;
        *messages += part->sends;
        for (int32_t i = 0; i < part->sends; i++)
            *bytes += (int64_t)x->message[part->first_message + i].items * (int64_t)item_bytes;
    }
    return BANYAN_OK;
}
