/* SPDX-License-Identifier: Apache-2.0 */
/* The last matrix: one column per id of the vocabulary, cut like the others. Greedy decoding
 * needs only each rank's largest logit; all logits are gathered only for those who ask. A rank
 * whose logits are not finite says so in its choice, and all ranks refuse the row. */
#include "launch/model/runner.h"

#include <math.h>

typedef struct best_logit {
    float logit;
    uint32_t id;
} best_logit;

/* A logit that is NaN is chosen: it must not go unnoticed. */
static best_logit choose_logit(const float *logits, int64_t count, int64_t first)
{
    best_logit best = {0, UINT32_MAX}; /* of no column */
    if (!finite_row(logits, count)) return (best_logit){NAN, (uint32_t)first};
    for (int64_t i = 0; i < count; i++)
        if (best.id == UINT32_MAX || logits[i] > best.logit)
            best = (best_logit){logits[i], (uint32_t)(first + i)};
    return best;
}

/* Ids that the model must not say. */
static void silence_dummies(model *m, int32_t rows)
{
    for (int32_t i = 0; i < m->is.dummies; i++) {
        int64_t column = m->is.dummy[i] - m->head.first;
        if (column < 0 || column >= m->head.count) continue;
        for (int32_t row = 0; row < rows; row++)
            m->work.logits[row * m->head.count + column] = -INFINITY;
    }
}

static banyan_status head_rows(model *m, const float *h, int32_t rows, float *logits,
                               best_logit *best)
{
    workspace *w = &m->work;
    banyan_status status = linear_run(m, &m->head, h, rows, w->logits);
    if (status) return status;
    if (m->is.logit_divisor != 1)
        rows_scale(w->logits, rows * m->head.count, (float)(1 / m->is.logit_divisor));
    silence_dummies(m, rows);
    for (int32_t row = 0; row < rows; row++)
        best[row] = choose_logit(w->logits + row * m->head.count, m->head.count, m->head.first);
    if (!logits) return BANYAN_OK;
    status = exchange_cut(m, m->head.columns, rows, w->logits, w->columns_of);
    for (int r = 0; !status && r < m->ranks; r++)
        rows_copy(logits + w->columns_of[r].first, m->head.columns, w->columns_of[r].data,
                  w->columns_of[r].stride, rows, w->columns_of[r].count);
    return status;
}

/* all [ranks][rows]: ranks have ascending ids, so the lowest id wins a tie by coming first. */
static banyan_status choose_all(model *m, int64_t token, const best_logit *all, int32_t rows,
                                uint32_t *greedy)
{
    for (int32_t row = 0; row < rows; row++) {
        best_logit best = {0, UINT32_MAX};
        for (int r = 0; r < m->ranks; r++) {
            best_logit c = all[(int64_t)r * rows + row];
            if (isnan(c.logit)) return finite_failed(m, "the logits", token + row);
            if (c.id != UINT32_MAX && (best.id == UINT32_MAX || c.logit > best.logit)) best = c;
        }
        /* Not one id can follow: all logits are -infinity. */
        if (isinf(best.logit)) return finite_failed(m, "the logits", token + row);
        if (greedy) greedy[row] = best.id;
    }
    return BANYAN_OK;
}

banyan_status head_run(model *m, int64_t token, const float *h, int32_t rows, float *logits,
                       uint32_t *greedy)
{
    best_logit best[HEAD_ROWS];
    best_logit *all = (best_logit *)m->work.recv;
    for (int32_t first = 0; first < rows; first += HEAD_ROWS) {
        int32_t n = rows - first < HEAD_ROWS ? rows - first : HEAD_ROWS;
        banyan_status status =
            head_rows(m, h + (int64_t)first * m->shape.hidden, n,
                      logits ? logits + (int64_t)first * m->shape.vocab : NULL, best);
        if (!status)
            status = banyan_comm_allgather(m->comm, best, (size_t)n * sizeof *best, all);
        if (!status)
            status = choose_all(m, token + first, all, n, greedy ? greedy + first : NULL);
        if (status) return status;
    }
    return BANYAN_OK;
}
