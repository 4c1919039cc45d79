/* SPDX-License-Identifier: Apache-2.0 */
/* A decoded token on one rank's device as one graph: what the host asks for is the same each
 * time, some twenty kernels and products a layer, and only where the token is and what its id
 * is differ, which kernels read from the device's memory, as the library does
 * (banyan_cache_step):
 *
 *     once        begin capture;  banyan_cache_step;  layers and head;  end capture
 *     each token  banyan_cache_step, whose lists are one copy in;  its place and id in
 *                 another; replay;  its choice, or that and the logits, one copy out
 *
 * The first token goes without: what is opened at its first use (cuBLAS) may not be opened in a
 * capture. What cannot be captured is done call by call, as before: more ranks, whose messages
 * pass through the host, experts, which the host chooses, layers with further readings, probes,
 * more rows. */
#include "launch/model/runner.h"

static bool is_possible(const model *m)
{
    return on_device(m) && m->ranks == 1 && m->is.experts == 0 && m->readings == 0;
}

static banyan_rows one_token(const model *m, int64_t at)
{
    return (banyan_rows){.sequence = m->sequence, .at = at, .rows = 1};
}

/* All that follows the input's copy; *graph stays NULL where something cannot be captured. */
static banyan_status record_token(model *m, const chunk *c, void **graph)
{
    device *d = m->device;
    const banyan_rows part = one_token(m, c->at);
    const int64_t before = m->matrix_work;
    banyan_status status = device_said(d, d->row->capture(d->own));
    if (status) return device_result(m, status);
    status = banyan_cache_step(m->cache, &part, 1);
    if (!status) status = layers_compute(m, c, 1, NULL);
    if (!status) status = head_compute(m, m->work.h, 1);
    const banyan_status ended = device_said(d, d->row->captured(d->own, graph));
    m->graph.work = m->matrix_work - before;
    m->matrix_work = before;
    return status ? status : ended;
}

/* Makes the graph when the second token comes. What was refused is tried once. */
static bool is_ready(model *m, const chunk *c)
{
    step_graph *g = &m->graph;
    if (g->state == GRAPH_COLD) {
        g->state = GRAPH_WARM;
        return false;
    }
    if (g->state == GRAPH_WARM) {
        const banyan_status status = record_token(m, c, &g->graph);
        if (status) graph_drop(m);
        g->state = status ? GRAPH_NEVER : GRAPH_READY;
        m->why[0] = 0;
    }
    return g->state == GRAPH_READY;
}

banyan_status graph_run(model *m, const chunk *c, const uint32_t *id, bool *done)
{
    device *d = m->device;
    *done = false;
    if (!is_possible(m) || !is_ready(m, c)) return BANYAN_OK;
    const banyan_rows part = one_token(m, c->at);
    banyan_status status = banyan_cache_step(m->cache, &part, 1);
    if (status) return status;
    status = layers_input(m, c, id);
    if (!status)
        status = device_result(m, device_said(d, d->row->replay(d->own, m->graph.graph)));
    m->matrix_work += m->graph.work;
    *done = !status;
    return status;
}

void graph_drop(model *m)
{
    if (m->graph.graph) m->device->row->drop(m->device->own, m->graph.graph);
    m->graph = (step_graph){0};
}
