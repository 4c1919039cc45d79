/* SPDX-License-Identifier: Apache-2.0 */
/* One question. Greedy decoding gives one token per forward pass; here the expected answer is
 * fed together with the question and each row says what it would have continued with, as
 * speculative decoding verifies a draft. Up to and including the first token that differs
 * from the draft this is what greedy decoding gives, for the price of one pass; and the rows
 * behind a missed token still tell which heads would have seen theirs.
 *
 * Not so where heads choose by data: rows of one pass choose together, and only a row alone
 * follows an earlier layer's choice. There the rows behind the question go one by one. */
#include "launch/needle/needle.h"

#include <stdlib.h>
#include <string.h>

const char *outcome_name(outcome o)
{
    static const char *const name[] = {"none", "found", "wrong"};
    return name[o];
}

void reply_free(reply *r)
{
    free(r->got);
    free(r->mass);
    free(r->out);
    memset(r, 0, sizeof *r);
}

/* Rows of the answer first .. first+rows-1, of which the first reads what comes before it. */
static banyan_status ask_rows(model *m, const question *q, int32_t first, int32_t rows,
                              const reply *out)
{
    const model_shape *shape = model_get_shape(m);
    const int64_t done = first ? q->count + first - 1 : 0, head = (int64_t)first * shape->heads;
    const model_probe probe = {.layer = q->layer,
                               .first_token = q->answer_first,
                               .token_count = q->mass_count,
                               .mass = out->mass ? out->mass + head : NULL,
                               .out = out->out ? out->out + head * shape->head_dim : NULL,
                               .watch = q->watch};
    return model_forward(m, q->at + done, q->ids + done, q->count + first + rows - 1 - done,
                         rows, NULL, out->got + first, &probe, NULL, NULL);
}

banyan_status question_ask(model *m, const question *q, reply *out)
{
    const model_shape *shape = model_get_shape(m);
    memset(out, 0, sizeof *out);
    out->got = malloc((size_t)q->answers * sizeof *out->got);
    if (q->answer_first >= 0)
        out->mass = calloc((size_t)q->answers * (size_t)shape->heads, sizeof *out->mass);
    if (q->with_out)
        out->out = calloc((size_t)q->answers * (size_t)shape->heads * (size_t)shape->head_dim,
                          sizeof *out->out);
    /* a rank that is alone in having no memory must not leave the others waiting */
    bool room = out->got && (out->mass || q->answer_first < 0) && (out->out || !q->with_out);
    double start = now_seconds();
    banyan_status status = model_fork(m, q->at, room ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (status == BANYAN_OK) {
        int32_t layer, head;
        const bool alone = !q->watch && predictor_chooses(model_plan(m), &layer, &head);
        status = ask_rows(m, q, 0, alone ? 1 : q->answers, out);
        for (int32_t i = 1; alone && !status && i < q->answers; i++)
            status = ask_rows(m, q, i, 1, out);
        model_back(m);
        out->seconds = now_seconds() - start;
    }
    if (status != BANYAN_OK) {
        reply_free(out);
        return status;
    }
    out->outcome = OUTCOME_FOUND;
    for (out->count = 0; out->count < q->answers;) {
        uint32_t got = out->got[out->count];
        if (got == q->answer[out->count++]) continue;
        out->outcome = got == q->none ? OUTCOME_NONE : OUTCOME_WRONG;
        break;
    }
    return BANYAN_OK;
}
