/* SPDX-License-Identifier: Apache-2.0 */
/* Rectangles of activations on their way, many to a step: on a device each step is a launch. */
#include "launch/model/runner.h"

moves moves_of(const model *m, bool adds)
{
    return (moves){.step = m->step, .own = m->device->own, .adds = adds};
}

moves moves_on_host(void)
{
    return (moves){.step = &step_row_cpu};
}

void moves_end(moves *l)
{
    if (l->count > 0) (l->adds ? l->step->add : l->step->move)(l->own, l->list, l->count);
    l->count = 0;
}

void moves_put(moves *l, step_move one)
{
    if (one.rows == 0 || one.width == 0) return;
    if (l->count == STEP_MOVES) moves_end(l);
    l->list[l->count++] = one;
}

void moves_columns(moves *l, const model *m, float *to, int64_t to_stride, int64_t rows,
                   float scale)
{
    for (int r = 0; r < m->ranks; r++) {
        const activation_columns *from = &m->work.columns_of[r];
        moves_put(l, (step_move){from->data, to + from->first, from->stride, to_stride,
                                 (int32_t)rows, (int32_t)from->count, scale});
    }
}
