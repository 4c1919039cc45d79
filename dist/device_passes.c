/* SPDX-License-Identifier: Apache-2.0 */
/* Partials on a device, merged by all-reduces of whole arrays: what merge_passes.c does in host
 * memory. The arrays are made and taken by the device; the transport adds them up there, or on
 * the host, where it knows no other memory (comm/). */
#include "dist/device_cache.h"
#include "dist/plan.h"

typedef struct device_passing {
    banyan_cache *c;
    const banyan_kind *kind;
    void *const *data;
    int32_t rows;
    int pass; /* the one whose turn it is: each gives, then takes */
} device_passing;

static void remember_failure(banyan_device_cache *d, const char *failed)
{
    if (failed && !d->failed) d->failed = failed;
}

/* A rank gives of the heads that it holds; of others its items hold nothing yet. */
static void give_values(void *ctx, float *values)
{
    const device_passing *p = ctx;
    banyan_device_cache *d = p->c->device;
    const banyan_plan *plan = p->c->plan;
    for (int32_t h = 0; h < plan->spec.heads; h++) {
        const banyan_placed *placed = &p->kind->head[h / p->kind->shape.group].placed;
        const int held = banyan_holder_index(placed, plan->rank) >= 0;
        d->partial[h] = held ? p->data[h] : NULL;
    }
    remember_failure(d, d->device->give(d->queue, p->pass, d->partial, plan->spec.heads,
                                        p->kind->shape.value_dim, p->rows, d->maxima, values));
}

static void take_values(void *ctx, const float *values)
{
    device_passing *p = ctx;
    banyan_device_cache *d = p->c->device;
    const banyan_spec *spec = &p->c->plan->spec;
    if (p->pass++ == 0) {
        const size_t vectors = (size_t)spec->heads * (size_t)p->rows;
        remember_failure(
            d, banyan_memory_copy(&d->memory, d->maxima, values, vectors * sizeof *values));
        return;
    }
    for (int32_t h = 0; h < spec->heads; h++) d->partial[h] = p->data[h];
    remember_failure(d, d->device->take(d->queue, p->pass - 1, d->partial, spec->heads,
                                        p->kind->shape.value_dim, p->rows, d->maxima, values));
}

banyan_status banyan_device_reduce(banyan_cache *c, const banyan_kind *kind, void *const *data,
                                   int32_t rows)
{
    const banyan_plan *plan = c->plan;
    banyan_device_cache *d = c->device;
    device_passing p = {.c = c, .kind = kind, .data = data, .rows = rows};
    int64_t floats[BANYAN_PASSES];
    banyan_pass_floats(plan, kind->shape.value_dim, rows, floats);
    const banyan_pass pass[BANYAN_PASSES] = {
        {BANYAN_MAX, floats[0], give_values, take_values},
        {BANYAN_SUM, floats[1], give_values, take_values},
        {BANYAN_SUM, floats[2], give_values, take_values},
    };
    const banyan_pass_room room = {
        .values = d->pass_values, .memory = &d->memory, .staged = d->pass_staged};
    const banyan_status status = plan->merge->reduce(plan->comm, pass, BANYAN_PASSES, &p, &room,
                                                     &c->stats.messages, &c->stats.bytes_sent);
    return status ? status : banyan_device_said(d->failed);
}
