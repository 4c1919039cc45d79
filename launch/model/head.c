/* SPDX-License-Identifier: Apache-2.0 */
/* The last matrix: one column per id of the vocabulary, cut like the others. Greedy decoding
 * needs only each rank's largest logit; all logits are gathered only for those who ask. A rank
 * whose logits are not finite says so in its choice, and all ranks refuse the row. */
#include "launch/model/runner.h"

/* Logits, for who asks, and this rank's choices, to the host: in one copy. */
static banyan_status fetch_answer(model *m, int32_t rows, bool with_logits)
{
    const size_t choices = (size_t)(with_logits ? HEAD_ROWS : rows) * sizeof(uint64_t);
    const size_t logits = with_logits ? (size_t)(rows * m->head.count) * sizeof(float) : 0;
    return device_result(m, device_fetch(m->device, &m->work.on[ON_ANSWER], choices + logits));
}

static banyan_status head_rows(model *m, const float *h, int32_t rows, float *logits)
{
    void *own = m->device->own;
    const device_array *on = &m->work.on[ON_ANSWER];
    const int64_t columns = m->head.count;
    uint64_t *choice = on->there;
    float *mine = (float *)(choice + HEAD_ROWS);
    banyan_status status = linear_run(m, &m->head, h, rows, mine);
    if (status) return status;
    if (m->is.logit_divisor != 1)
        m->step->scale(own, mine, rows * columns, (float)(1 / m->is.logit_divisor));
    if (m->is.dummies > 0)
        m->step->silence(own, mine, rows, columns, m->head.first, m->dummy, m->is.dummies);
    m->step->choose(own, mine, rows, columns, m->head.first, choice);
    status = fetch_answer(m, rows, logits);
    if (status || !logits) return status;
    status = exchange_host_cut(m, m->head.columns, rows,
                               (const float *)((const uint64_t *)on->host + HEAD_ROWS));
    if (status) return status;
    moves list = moves_on_host();
    moves_columns(&list, m, logits, m->head.columns, rows, 1);
    moves_end(&list);
    return BANYAN_OK;
}

/* all [ranks][rows] */
static banyan_status choose_all(model *m, int64_t token, const uint64_t *all, int32_t rows,
                                uint32_t *greedy)
{
    for (int32_t row = 0; row < rows; row++) {
        uint64_t best = CHOICE_NONE;
        for (int r = 0; r < m->ranks; r++)
            if (all[(int64_t)r * rows + row] > best) best = all[(int64_t)r * rows + row];
        if (!choice_is_good(best)) return finite_failed(m, "the logits", token + row);
        if (greedy) greedy[row] = choice_id(best);
    }
    return BANYAN_OK;
}

banyan_status head_run(model *m, int64_t token, const float *h, int32_t rows, float *logits,
                       uint32_t *greedy)
{
    const uint64_t *choice = m->work.on[ON_ANSWER].host;
    uint64_t *all = (uint64_t *)m->work.recv;
    for (int32_t first = 0; first < rows; first += HEAD_ROWS) {
        int32_t n = rows - first < HEAD_ROWS ? rows - first : HEAD_ROWS;
        banyan_status status =
            head_rows(m, h + (int64_t)first * m->shape.hidden, n,
                      logits ? logits + (int64_t)first * m->shape.vocab : NULL);
        if (!status)
            status = banyan_comm_allgather(m->comm, choice, (size_t)n * sizeof *choice, all);
        if (!status)
            status = choose_all(m, token + first, all, n, greedy ? greedy + first : NULL);
        if (status) return status;
    }
    return BANYAN_OK;
}
