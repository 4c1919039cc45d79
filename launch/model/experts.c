/* SPDX-License-Identifier: Apache-2.0 */
/* The second half of a layer with experts (Shazeer et al., arXiv 1701.06538): a router gives
 * each row a logit for every expert; the best `top_experts` of their softmax are computed,
 * and added by their shares.
 *
 * Each expert is cut by columns over the ranks like any matrix, so that all ranks work on
 * all pairs of a row and an expert, in the same order: by expert, then by row. The router's
 * logits are gathered, so that all ranks choose from the same bits: on the host, which must
 * know how many rows each expert has before it can ask for their products. With a device that
 * is a copy out a layer, and rows are gathered and scattered there, a launch an expert. */
#include "launch/model/runner.h"

#include <math.h>
#include <string.h>

/* Shares of all experts from their logits, in place. */
static void softmax(float *x, int32_t count)
{
    float most = x[0], sum = 0;
    for (int32_t i = 1; i < count; i++) most = x[i] > most ? x[i] : most;
    for (int32_t i = 0; i < count; i++) sum += x[i] = expf(x[i] - most);
    for (int32_t i = 0; i < count; i++) x[i] /= sum;
}

/* The best of one row (ties: the lower) keep their shares; those of the others become -1. */
static void choose_experts(const description *d, float *share, unsigned char *taken)
{
    float kept = 0;
    memset(taken, 0, (size_t)d->experts);
    for (int32_t k = 0; k < d->top_experts; k++) {
        int32_t best = -1;
        for (int32_t e = 0; e < d->experts; e++)
            if (!taken[e] && (best < 0 || share[e] > share[best])) best = e;
        taken[best] = 1;
        kept += share[best];
    }
    for (int32_t e = 0; e < d->experts; e++) {
        if (!taken[e])
            share[e] = -1;
        else if (d->experts_normed)
            share[e] /= kept;
    }
}

/* work.share [rows][experts], the same on all ranks. */
static banyan_status route(model *m, const layer *l, int32_t rows)
{
    workspace *w = &m->work;
    int64_t width = m->is.experts;
    banyan_status status = linear_run(m, &l->router, w->h, rows, w->cut);
    const float *mine = w->cut;
    if (!status && on_device(m)) {
        mine = w->send;
        status =
            device_result(m, device_read(m->device, w->send, w->cut,
                                         (size_t)(rows * l->router.count) * sizeof *w->send));
    }
    if (!status) status = exchange_host_cut(m, width, rows, mine);
    if (status) return status;
    moves list = moves_on_host();
    moves_columns(&list, m, w->share, width, rows, 1);
    moves_end(&list);
    for (int32_t row = 0; row < rows; row++) {
        softmax(w->share + row * width, m->is.experts);
        choose_experts(&m->is, w->share + row * width, w->taken);
    }
    return BANYAN_OK;
}

static float expert_share(const model *m, int32_t expert, int32_t row)
{
    return m->work.share[row * (int64_t)m->is.experts + expert];
}

/* The rows that chose an expert, one after the other in `out`; how many. */
static int32_t gather_expert(const model *m, int32_t expert, int32_t rows, float *out)
{
    const int64_t width = m->shape.hidden;
    int32_t count = 0;
    moves list = moves_of(m, false);
    for (int32_t row = 0; row < rows; row++)
        if (expert_share(m, expert, row) >= 0)
            moves_put(&list, (step_move){m->work.h + row * width, out + count++ * width, width,
                                         width, 1, (int32_t)width, 1});
    moves_end(&list);
    return count;
}

/* sum [rows][width] += an expert's rows, by their shares. */
static void scatter_expert(const model *m, int32_t expert, int32_t rows, const float *from,
                           int64_t width, float *sum)
{
    moves list = moves_of(m, true);
    for (int32_t row = 0; row < rows; row++) {
        const float share = expert_share(m, expert, row);
        if (share < 0) continue;
        moves_put(&list,
                  (step_move){from, sum + row * width, width, width, 1, (int32_t)width, share});
        from += width;
    }
    moves_end(&list);
}

/* act(Wg h) * Wu h of all pairs, cut, in `mine` [pairs][count]. */
static banyan_status activate_experts(model *m, const layer *l, int32_t rows, float *mine)
{
    workspace *w = &m->work;
    banyan_status status = BANYAN_OK;
    for (int32_t e = 0; !status && e < m->is.experts; e++) {
        const linear *both = &l->expert_gate_up[e];
        int32_t count = gather_expert(m, e, rows, w->some);
        status = linear_run(m, both, w->some, count, w->cut);
        if (!status)
            m->step->activate(m->device->own, m->is.act, (float)m->is.act_cap, w->cut, count,
                              both->count, mine);
        mine += count * both->count;
    }
    return status;
}

banyan_status experts_run(model *m, const layer *l, int32_t rows)
{
    workspace *w = &m->work;
    int64_t width = m->is.expert_intermediate, pairs = (int64_t)rows * m->is.top_experts;
    int64_t out = l->expert_down[0].count;
    float *mine = w->out; /* free by now */
    banyan_status status = route(m, l, rows);
    if (!status) status = activate_experts(m, l, rows, mine);
    const float *in = NULL;
    if (!status) status = exchange_whole(m, width, (int32_t)pairs, mine, w->wide, &in);
    m->step->zero(m->device->own, w->cut, rows * out);
    for (int32_t e = 0; !status && e < m->is.experts; e++) {
        int32_t count = 0;
        for (int32_t row = 0; row < rows; row++) count += expert_share(m, e, row) >= 0;
        status = linear_run(m, &l->expert_down[e], in, count, w->some);
        if (!status) scatter_expert(m, e, rows, w->some, out, w->cut);
        in += count * width;
    }
    return status;
}
