/* SPDX-License-Identifier: Apache-2.0 */
/* The last matrix: one column per id of the vocabulary, cut like the others. Greedy decoding
 * needs only each rank's largest logit; all logits are gathered only for those who ask. A rank
 * whose logits are not finite says so in its choice, and all ranks refuse the row. */
#include "launch/model/runner.h"

static banyan_status head_rows(model *m, const float *h, int32_t rows, float *logits,
                               uint64_t *choice)
{
    workspace *w = &m->work;
    void *own = m->device->own;
    banyan_status status = linear_run(m, &m->head, h, rows, w->logits);
    if (status) return status;
    if (m->is.logit_divisor != 1)
        m->step->scale(own, w->logits, rows * m->head.count, (float)(1 / m->is.logit_divisor));
    if (m->is.dummies > 0)
        m->step->silence(own, w->logits, rows, m->head.count, m->head.first, m->is.dummy,
                         m->is.dummies);
    m->step->choose(own, w->logits, rows, m->head.count, m->head.first, choice);
    if (!logits) return BANYAN_OK;
    status = exchange_cut(m, m->head.columns, rows, w->logits, w->columns_of);
    if (status) return status;
    moves list = moves_of(m, false);
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
    uint64_t choice[HEAD_ROWS];
    uint64_t *all = (uint64_t *)m->work.recv;
    for (int32_t first = 0; first < rows; first += HEAD_ROWS) {
        int32_t n = rows - first < HEAD_ROWS ? rows - first : HEAD_ROWS;
        banyan_status status =
            head_rows(m, h + (int64_t)first * m->shape.hidden, n,
                      logits ? logits + (int64_t)first * m->shape.vocab : NULL, choice);
        if (!status)
            status = banyan_comm_allgather(m->comm, choice, (size_t)n * sizeof *choice, all);
        if (!status)
            status = choose_all(m, token + first, all, n, greedy ? greedy + first : NULL);
        if (status) return status;
    }
    return BANYAN_OK;
}
