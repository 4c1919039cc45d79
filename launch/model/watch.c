/* SPDX-License-Identifier: Apache-2.0 */
/* What all layers look at. A row's ranges are its own, so that each row is a part by itself, in
 * a call that appends nothing and whose outputs nobody needs: it follows the one that the layer
 * goes on with. */
#include "launch/model/runner.h"

#include <stdio.h>
#include <stdlib.h>

static float *zeroed_floats(int64_t count)
{
    return calloc((size_t)count + 1, sizeof(float));
}

banyan_status model_watch_make(const model *m, int32_t rows, int32_t ranges, model_watch *out)
{
    const int64_t layers = m->shape.layers, heads = m->shape.heads;
    const int64_t values = rows * (int64_t)(ranges > 0 ? ranges : 1) * heads;
    watching *work = calloc(1, sizeof *work);
    *out = (model_watch){.rows = rows, .ranges = ranges, .work = work};
    if (!work) return BANYAN_ERR_MEMORY;
    out->range = calloc((size_t)(rows * ranges) + 1, sizeof *out->range);
    out->mass = zeroed_floats(layers * rows * ranges * heads);
    out->strongest = calloc((size_t)(layers * rows * heads), sizeof *out->strongest);
    work->part = calloc((size_t)rows, sizeof *work->part);
    work->out = zeroed_floats(rows * heads * m->shape.head_dim);
    work->value = zeroed_floats(values);
    work->all = zeroed_floats(rows * heads);
    work->strongest = calloc((size_t)(rows * heads), sizeof *work->strongest);
    const bool room = out->range && out->mass && out->strongest && work->part && work->out &&
                      work->value && work->all && work->strongest;
    return room ? BANYAN_OK : BANYAN_ERR_MEMORY;
}

void model_watch_free(model_watch *w)
{
    watching *work = w->work;
    free(w->range);
    free(w->mass);
    free(w->strongest);
    if (work) {
        free(work->part);
        free(work->out);
        free(work->value);
        free(work->all);
        free(work->strongest);
    }
    free(work);
    *w = (model_watch){0};
}

/* From the homes of heads to all ranks; tokens below 2^24 are floats. */
static banyan_status gather_watched(model *m, int32_t layer, int32_t cache_layer,
                                    model_watch *w)
{
    watching *work = w->work;
    const int64_t heads = m->shape.heads, count = w->rows * heads;
    float *mass = w->mass + layer * w->ranges * count;
    int64_t *strongest = w->strongest + layer * count;
    banyan_status status = BANYAN_OK;
    if (w->ranges > 0)
        status = exchange_values(m, cache_layer, w->rows * w->ranges, work->value, mass);
    for (int64_t i = 0; i < count; i++) work->value[i] = (float)work->strongest[i];
    if (!status) status = exchange_values(m, cache_layer, w->rows, work->value, work->all);
    for (int64_t i = 0; i < count; i++) strongest[i] = (int64_t)work->all[i];
    return status;
}

banyan_status watch_run(model *m, int32_t layer, int32_t cache_layer, const chunk *c,
                        model_watch *w)
{
    const int64_t heads = m->shape.heads, dim = m->shape.head_dim;
    const float *q = m->work.q + (c->wanted - w->rows) * heads * dim;
    watching *work = w->work;
    for (int32_t i = 0; i < w->rows; i++)
        work->part[i] =
            (banyan_rows){.sequence = m->sequence,
                          .at = c->at + c->rows - w->rows + i,
                          .rows = 1,
                          .probes = w->range + i * w->ranges,
                          .probe_count = w->ranges,
                          .mass = w->ranges ? work->value + i * w->ranges * heads : NULL,
                          .strongest = work->strongest + i * heads};
    banyan_status status = banyan_attend(m->cache, cache_layer, work->part, w->rows, q, NULL,
                                         NULL, work->out, NULL);
    return status ? status : gather_watched(m, layer, cache_layer, w);
}

banyan_status watch_check(model *m, int64_t end, int32_t rows, const model_watch *w)
{
    if (w->rows > rows || (int64_t)w->rows * w->ranges > m->max_rows || end >= 1 << 24)
        snprintf(m->why, WHY,
                 "%d rows of %d ranges are watched, up to token %lld: expected at most the %d "
                 "that are asked for, %d ranges in all, and 16m tokens",
                 (int)w->rows, (int)w->ranges, (long long)end, (int)rows, (int)m->max_rows);
    else if (m->device->row->memory->is_apart)
        snprintf(m->why, WHY, "what heads look at is measured on the CPU only");
    else if (end > dual_reach(&m->is))
        snprintf(m->why, WHY,
                 "%lld tokens: beyond %lld this model has dual chunk attention, which nothing "
                 "can watch",
                 (long long)end, (long long)dual_reach(&m->is));
    return m->why[0] ? BANYAN_ERR_ARGUMENT : BANYAN_OK;
}
