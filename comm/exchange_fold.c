/* SPDX-License-Identifier: Apache-2.0 */
/* Folds of what a round brought, in the order that the schedule gives: the same in host memory and in a
 * device's. */
#include "comm/exchange.h"

/* Folds into the caller's memory from the place of its own value on; what comes before it is
 * folded in the receive buffer, in the slot of the first. */
banyan_status banyan_exchange_fold(const exchange_call *run, const fold *f, int32_t count)
{
    const size_t bytes = (size_t)count * run->p->item_bytes;
    char *const own = run->p->data[f->item];
    int owned = 0; /* is the caller's value in the sum, or not wanted? */
    char *sum = NULL;
    int32_t own_at = f->sources;
    const fold_source *s = run->x->source + f->first_source;
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
        run->p->combine(run->p->ctx, into, sum, value, bytes);
        sum = into;
    }
    if (sum == own) return BANYAN_OK;
    return banyan_device_status(banyan_memory_copy(run->x->memory, own, sum, bytes));
}
