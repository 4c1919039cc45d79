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

banyan_status head_compute(model *m, const float *x, int32_t rows)
{
    void *own = m->device->own;
    const int64_t columns = m->head.count;
    uint64_t *choice = m->work.on[ON_ANSWER].there;
    float *logits = (float *)(choice + HEAD_ROWS);
    banyan_status status = linear_run(m, &m->head, x, rows, logits);
    if (status) return status;
    if (m->is.logit_divisor != 1)
        m->step->scale(own, logits, rows * columns, (float)(1 / m->is.logit_divisor));
    if (m->is.dummies > 0)
        m->step->silence(own, logits, rows, columns, m->head.first, m->dummy, m->is.dummies);
    m->step->choose(own, logits, rows, columns, m->head.first, choice);
    return BANYAN_OK;
}

/* All ranks' columns. */
static banyan_status gather_logits(model *m, int32_t rows, float *logits)
{
    const uint64_t *answer = m->work.on[ON_ANSWER].host;
    banyan_status status =
        exchange_host_cut(m, m->head.columns, rows, (const float *)(answer + HEAD_ROWS));
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

banyan_status head_answer(model *m, int64_t token, int32_t rows, float *logits,
                          uint32_t *greedy)
{
    const uint64_t *choice = m->work.on[ON_ANSWER].host;
    uint64_t *all = (uint64_t *)m->work.recv;
    banyan_status status = fetch_answer(m, rows, logits);
    if (!status && logits) status = gather_logits(m, rows, logits);
    if (!status)
        status = banyan_comm_allgather(m->comm, choice, (size_t)rows * sizeof *choice, all);
    return status ? status : choose_all(m, token, all, rows, greedy);
}

banyan_status head_run(model *m, int64_t token, const float *x, int32_t rows, float *logits,
                       uint32_t *greedy)
{
    for (int32_t first = 0; first < rows; first += HEAD_ROWS) {
        int32_t n = rows - first < HEAD_ROWS ? rows - first : HEAD_ROWS;
        banyan_status status = head_compute(m, x + (int64_t)first * m->shape.hidden, n);
        if (!status)
            status = head_answer(m, token + first, n,
                                 logits ? logits + (int64_t)first * m->shape.vocab : NULL,
                                 greedy ? greedy + first : NULL);
        if (status) return status;
    }
    return BANYAN_OK;
}
