/* SPDX-License-Identifier: Apache-2.0 */
/* Folds of what a round brought, in the order that the schedule gives: the same in host memory,
 * one value after another, and in a device's, all items at once. */
#include "comm/exchange.h"

static void *source_value(const exchange_call *run, const fold_source *s)
{
    if (s->message < 0) return run->p->data[s->item];
    return item_at(run, run->x->recv_buffer, &run->x->message[s->message], s->index);
}

/* Folds into the caller's memory from the place of its own value on; what comes before it is
 * folded in the receive buffer, in the place of the first. */
banyan_status banyan_exchange_fold(const exchange_call *run, const fold *f)
{
    const size_t bytes = run->p->item_bytes;
    char *const own = run->p->data[f->item];
    int owned = 0; /* is the caller's value in the sum, or not wanted? */
    char *sum = NULL;
    int32_t own_at = f->sources;
    const fold_source *s = run->x->source + f->first_source;
    for (int32_t i = 0; i < f->sources; i++)
        if (s[i].message < 0) own_at = i;
    if (own_at == f->sources) owned = 1;
    for (int32_t i = 0; i < f->sources; i++) {
        char *value = source_value(run, &s[i]);
        owned |= s[i].message < 0;
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

void banyan_exchange_fold_round(const exchange_call *run, const round_part *part)
{
    banyan_exchange *x = run->x;
    const int32_t first = part->first_message + part->sends;
    banyan_arrivals a = {.fold = x->folded,
                         .check = x->check,
                         .fault = x->fault ? x->fault + first : NULL,
                         .folds = part->folds,
                         .checks = x->arrivals ? 0 : part->recvs,
                         .is_last = part->is_last,
                         .is_over = part->is_over};
    int32_t values = 0;
    for (int32_t i = 0; i < a.checks; i++) {
        const message *m = &x->message[first + i];
        x->header[i] = header_of(run, part, m);
        x->check[i] = (banyan_check){message_at(run, x->recv_buffer, m), &x->header[i]};
    }
    for (int32_t i = 0; i < part->folds; i++) {
        const fold *f = &x->fold[part->first_fold + i];
        x->folded[i] = (banyan_fold){f->item, f->sources, x->value + values};
        for (int32_t s = 0; s < f->sources; s++)
            x->value[values++] = source_value(run, &x->source[f->first_source + s]);
    }
    if (a.checks || a.folds) run->p->fold(run->p->ctx, &a);
}
