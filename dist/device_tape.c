/* SPDX-License-Identifier: Apache-2.0 */
/* The tape of a graph, as calls see it: is anything captured, and do arguments go to the
 * tape? */
#include "dist/device_cache.h"

int banyan_device_is_captured(const banyan_cache *c)
{
    return banyan_memory_is_captured(&c->device->memory);
}

banyan_status banyan_device_tape(const banyan_cache *c, banyan_tape what)
{
    return banyan_device_said(c->device->device->tape(c->device->queue, what));
}

banyan_status banyan_device_tape_begin(banyan_cache *c, const banyan_call *call)
{
    return call->is_recorded && !c->device->graph.is_rewritten
               ? banyan_device_tape(c, BANYAN_TAPE_RECORD)
               : BANYAN_OK;
}

banyan_status banyan_device_tape_end(banyan_cache *c, const banyan_call *call)
{
    return call->is_recorded && !c->device->graph.is_rewritten
               ? banyan_device_tape(c, BANYAN_TAPE_OFF)
               : BANYAN_OK;
}
