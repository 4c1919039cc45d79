/* SPDX-License-Identifier: Apache-2.0 */
/* A graph of a step, on a device. What is captured is launches with addresses; what they find
 * there, tables, tokens, lists and the records that are written, lies on a tape. A call is
 * recorded with sizes alone: each part has as many strips, spans and packings as it can have
 * anywhere, and those that it has not are empty. Before a replay the same calls are made again,
 * which start nothing and write the tape.
 *
 * Messages between ranks, and what finishes results, do not change from step to step: they are
 * captured as they are. */
#include "dist/device_cache.h"

static banyan_status put_owed(const banyan_device_cache *d, int64_t step)
{
    return banyan_device_said(banyan_memory_put(&d->memory, d->owed, &step, sizeof step));
}

/* ---- recording --------------------------------------------------------------------------- */

banyan_status banyan_device_record_step(banyan_cache *c, const banyan_rows *batch,
                                        int32_t count)
{
    banyan_device_graph *g = &c->device->graph;
    const banyan_spec *spec = &c->plan->spec;
    int64_t rows = 0;
    if (count > spec->sequences)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "step: %d parts are captured: expected at most %d (sequences)",
                           (int)count, (int)spec->sequences);
    for (int32_t i = 0; i < count; i++) {
        if (batch[i].rows < 0 || batch[i].rows > spec->max_rows)
            return banyan_fail(BANYAN_ERR_ARGUMENT,
                               "step: rows %d of part %d: expected 0..%d (max_rows)",
                               (int)batch[i].rows, (int)i, (int)spec->max_rows);
        rows += batch[i].rows;
    }
    if (rows > spec->max_rows || rows > c->plan->panel_rows)
        return banyan_fail(
            BANYAN_ERR_UNSUPPORTED,
            "step: %lld rows are captured: expected at most %d, which are merged "
            "at a time",
            (long long)rows,
            (int)(rows > spec->max_rows ? spec->max_rows : c->plan->panel_rows));
    banyan_status status = banyan_device_tape(c, BANYAN_TAPE_NEW);
    /* The graph's own work, like all that comes after it. */
    if (!status) status = put_owed(c->device, 0);
    if (status) return status;
    for (int32_t i = 0; i < count; i++) g->rows[i] = batch[i].rows;
    g->is_open = 1;
    g->parts = count;
    g->all_rows = (int32_t)rows;
    g->calls = 0;
    return BANYAN_OK;
}

int banyan_device_records(banyan_cache *c)
{
    banyan_device_graph *g = &c->device->graph;
    if (g->is_open && !banyan_device_is_captured(c)) g->is_open = 0;
    return g->is_open;
}

static banyan_status check_recorded_part(const banyan_cache *c, const banyan_call *call,
                                         int32_t i)
{
    const banyan_rows *part = &call->batch[i];
    const banyan_shape *shape = &banyan_plan_kind(c->plan, call->layer)->shape;
    const int32_t rows = c->device->graph.rows[i];
    const int32_t most = c->device->device->shared_vectors(&shape->block);
    const int32_t own = rows < c->plan->spec.block_tokens ? rows : c->plan->spec.block_tokens;
    const int32_t vectors = own * banyan_device_heads(c, call->layer);
    if (part->rows != rows)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "%d rows in a captured call, of %d in its step: expected the same",
                           (int)part->rows, (int)rows);
    if (part->first || part->end || part->mass || part->strongest)
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "a range, a probe or the strongest token in a captured call of a "
                           "step: expected none of them");
    if (vectors > most)
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "%d rows in a captured call of a step are %d query vectors of a KV "
                           "head of layer %d: expected at most %d",
                           (int)rows, (int)vectors, (int)call->layer, (int)most);
    return BANYAN_OK;
}

banyan_status banyan_device_check_recorded(banyan_cache *c, banyan_call *call)
{
    banyan_device_graph *g = &c->device->graph;
    if (call->count != g->parts)
        return banyan_fail(
            BANYAN_ERR_ARGUMENT,
            "a captured call has %d parts, its step has %d: expected the same parts",
            (int)call->count, (int)g->parts);
    for (int32_t i = 0; i < call->count; i++) {
        const banyan_mark mark = {"part", i};
        const banyan_status status = check_recorded_part(c, call, i);
        if (status) return banyan_fail_at(status, &mark, 1);
    }
    if (g->calls == c->plan->spec.layers)
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "more than %d captured calls in a step: expected one for each layer",
                           (int)g->calls);
    const banyan_status status = banyan_device_check_staged(c, call);
    if (status) return status;
    g->call[g->calls++] =
        (banyan_recorded){call->layer, call->q, call->k, call->v, call->out, call->lse};
    call->rows = g->all_rows;
    call->is_recorded = 1;
    return BANYAN_OK;
}

/* ---- rewriting --------------------------------------------------------------------------- */

/* All rows of a step, as one panel; parts that have none leave their rows out. */
static banyan_panel panel_of(const banyan_cache *c, const banyan_call *call)
{
    const banyan_device_graph *g = &c->device->graph;
    banyan_panel panel = {.rows = g->all_rows, .piece = c->piece};
    int32_t first = 0;
    for (int32_t i = 0; i < call->count; first += g->rows[i++]) {
        const banyan_rows *part = &call->batch[i];
        for (int32_t row = 0; row < part->rows;) {
            const int32_t rows = banyan_piece_rows(c, call, part, row, 1);
            c->piece[panel.pieces++] = (banyan_piece){i, first + row, rows, part->at + row};
            row += rows;
        }
    }
    return panel;
}

static banyan_status rewrite(banyan_cache *c, const banyan_recorded *from,
                             const banyan_rows *batch)
{
    const banyan_device_graph *g = &c->device->graph;
    const banyan_part *part = banyan_cache_part(c, from->layer);
    const banyan_call call = {.layer = from->layer,
                              .cache_layer = c->plan->spec.cache_layer[from->layer],
                              .batch = batch,
                              .count = g->parts,
                              .rows = g->all_rows,
                              .q = from->q,
                              .k = from->k,
                              .v = from->v,
                              .out = from->out,
                              .lse = from->lse,
                              .is_recorded = 1};
    const banyan_panel panel = panel_of(c, &call);
    banyan_status status = call.k ? banyan_device_write(c, &call) : BANYAN_OK;
    if (status || !call.q) return status;
    status = banyan_device_compute(c, &call, &panel, 0, part->early);
    return status ? status
                  : banyan_device_compute(c, &call, &panel, part->early, part->mine_count);
}

static int is_of_graph(const banyan_device_graph *g, const banyan_rows *batch, int32_t count)
{
    if (!g->calls || count != g->parts) return 0;
    for (int32_t i = 0; i < count; i++)
        if (batch[i].rows && batch[i].rows != g->rows[i]) return 0;
    return 1;
}

/* ---- is it replayed? --------------------------------------------------------------------- */

/* Until a replay says otherwise the graph's calls owe the step's rows. Its replay before is
 * taken for granted: the device remembers the last step alone. */
static banyan_status owe(banyan_cache *c, const banyan_rows *batch)
{
    banyan_device_cache *d = c->device;
    const banyan_device_graph *g = &d->graph;
    for (int32_t i = 0; i < g->calls; i++)
        for (int32_t p = 0; g->call[i].k && p < g->parts; p++) {
            if (!batch[p].rows) continue;
            banyan_layer *layer = &batch[p].sequence->layer[g->call[i].layer];
            if (layer->replayed > layer->written) layer->written = layer->replayed;
            layer->replayed = layer->written;
            if (layer->written >= batch[p].at) layer->replayed = batch[p].at + batch[p].rows;
        }
    return put_owed(d, c->steps);
}

banyan_status banyan_device_is_owed(banyan_cache *c, int *is_owed)
{
    banyan_device_cache *d = c->device;
    void *owed = NULL;
    banyan_status status =
        banyan_device_said(banyan_memory_allocate(&d->memory, 1, sizeof *d->owed, &owed));
    if (status) return status;
    status = banyan_device_said(banyan_memory_copy(&d->memory, owed, d->owed, sizeof *d->owed));
    if (!status) status = banyan_device_wait(c);
    if (!status) *is_owed = *(const int64_t *)owed != 0;
    banyan_memory_release(&d->memory, 1, owed);
    return status;
}

banyan_status banyan_device_step(banyan_cache *c, const banyan_rows *batch, int32_t count)
{
    banyan_device_graph *g = &c->device->graph;
    banyan_status status = BANYAN_OK;
    g->is_open = 0;
    for (int32_t i = 0; i < count; i++)
        for (int32_t layer = 0; layer < c->plan->spec.layers && !status; layer++)
            if (batch[i].rows && banyan_keeps_own(c->plan, layer))
                status = banyan_device_follow(c, batch[i].sequence, layer);
    if (status || !is_of_graph(g, batch, count)) return status;
    status = banyan_device_tape(c, BANYAN_TAPE_REWRITE);
    g->is_rewritten = 1;
    for (int32_t i = 0; i < g->calls && !status; i++) status = rewrite(c, &g->call[i], batch);
    g->is_rewritten = 0;
    if (!status) status = banyan_device_tape(c, BANYAN_TAPE_COPY);
    return status ? status : owe(c, batch);
}
