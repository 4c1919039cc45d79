/* SPDX-License-Identifier: Apache-2.0 */
/* What rings are made of. What travels are the block records themselves, from one cache's
 * memory into another's, so that a shard is packed once and computed on wherever it comes by:
 * no copy in between but that of a device's records, which pass through the host's memory, and
 * the same kernel as everybody else's. */
#include "launch/scale/ring.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

ring_span ring_part(const scale_case *c, int64_t tokens, int32_t i, int32_t parts)
{
    const int64_t block = c->t->asked.spec.block_tokens, blocks = (tokens + block - 1) / block;
    int64_t first = blocks * i / parts * block, end = blocks * (i + 1) / parts * block;
    if (end > tokens) end = tokens;
    return (ring_span){first, end > first ? end - first : 0};
}

void ring_add(float *out, float *lse, const float *more, const float *more_lse, int64_t vectors,
              int32_t dim)
{
    for (int64_t i = 0; i < vectors; i++, out += dim, more += dim) {
        const float a = lse[i], b = more_lse[i], most = a > b ? a : b;
        if (most == -INFINITY) continue;
        const float x = expf(a - most), y = expf(b - most), sum = x + y;
        const float keep = x / sum, take = y / sum;
        for (int32_t d = 0; d < dim; d++) out[d] = out[d] * keep + more[d] * take;
        lse[i] = most + logf(sum);
    }
}

bool ring_all_heads(const scale_case *c, int32_t kv_head)
{
    (void)c, (void)kv_head;
    return true;
}

banyan_status ring_list_make(const scale_case *c, int64_t tokens, int shards, ring_list *list)
{
    const banyan_spec *s = c->spec;
    const int64_t blocks = (tokens + s->block_tokens - 1) / s->block_tokens;
    const int64_t most = shards * blocks * s->kv_heads;
    list->count = 0;
    list->message = calloc((size_t)most + 1, sizeof *list->message);
    list->there = calloc((size_t)most + 1, sizeof *list->there);
    return list->message && list->there ? BANYAN_OK : BANYAN_ERR_MEMORY;
}

void ring_list_free(const scale_case *c, ring_list *list)
{
    const device *d = c->t->j->device;
    d->row->memory->release(d->own, 1, list->stage);
    free(list->message);
    free(list->there);
    *list = (ring_list){0};
}

static bool records_are_apart(const scale_case *c)
{
    return c->t->j->device->row->memory->is_apart;
}

static banyan_status make_stage(const scale_case *c, ring_list *list)
{
    device *d = c->t->j->device;
    size_t bytes = 0;
    for (int i = 0; i < list->count; i++) bytes += list->message[i].bytes;
    if (bytes <= list->stage_bytes) return BANYAN_OK;
    d->row->memory->release(d->own, 1, list->stage);
    list->stage = NULL;
    list->stage_bytes = bytes;
    return device_said(d, d->row->memory->allocate(d->own, 1, bytes, (void **)&list->stage));
}

banyan_status ring_lift(const scale_case *c, ring_list *list, bool copies)
{
    device *d = c->t->j->device;
    if (!records_are_apart(c)) return BANYAN_OK;
    banyan_status status = make_stage(c, list);
    char *place = list->stage;
    for (int i = 0; i < list->count && !status; place += list->message[i++].bytes) {
        banyan_message *m = &list->message[i];
        list->there[i] = m->data;
        m->data = place;
        if (copies)
            status =
                device_said(d, d->row->memory->copy(d->own, place, list->there[i], m->bytes));
    }
    return status || !copies ? status : device_wait(d);
}

banyan_status ring_land(const scale_case *c, const ring_list *list)
{
    device *d = c->t->j->device;
    banyan_status status = BANYAN_OK;
    for (int i = 0; i < list->count && records_are_apart(c) && !status; i++)
        status =
            device_said(d, d->row->memory->copy(d->own, list->there[i], list->message[i].data,
                                                list->message[i].bytes));
    return status;
}

void ring_messages(const scale_case *c, const ring_shard *shard, int32_t layer, int64_t tokens,
                   int peer, ring_list *list, double *bytes)
{
    const banyan_spec *s = c->spec;
    for (int32_t head = 0; head < s->kv_heads; head++) {
        int64_t block;
        void *record, *behind = NULL;
        size_t size;
        for (int64_t i = 0; i * s->block_tokens < tokens; i++) {
            if (!banyan_sequence_record(shard->sequence, layer, head, i, &block, &record,
                                        &size))
                break;
            if (record == behind)
                list->message[list->count - 1].bytes += size;
            else
                list->message[list->count++] = (banyan_message){peer, record, size};
            behind = (char *)record + size;
            *bytes += (double)size;
        }
    }
}

banyan_status ring_fill(const scale_case *c, const ring_shard *shard, const banyan_spec *s,
                        ring_span span, int64_t room)
{
    const float *k = c->on[SCALE_K].there, *v = c->on[SCALE_V].there;
    banyan_status status = BANYAN_OK;
    for (int64_t at = 0; !status && at < room; at += s->max_rows) {
        int32_t rows = room - at < s->max_rows ? (int32_t)(room - at) : s->max_rows;
        /* Behind the span stands whatever comes next in the arrays; nobody sees it. */
        int64_t token = span.first + at, row = token < c->tokens ? scale_row(token) : 0;
        for (int32_t layer = 0; !status && layer < s->layers; layer++)
            status = single_attend(shard->cache, shard->sequence, layer, at, rows, NULL,
                                   k + row * s->kv_heads * s->key_dim,
                                   v + row * s->kv_heads * s->value_dim, NULL, NULL);
    }
    return status;
}

banyan_status ring_cache(const scale_case *c, const banyan_plan *plan, ring_span span,
                         int64_t room, ring_shard *out)
{
    ring_shard shard = {0};
    banyan_status status =
        single_create(plan, device_stream(c->t->j->device), &shard.cache, &shard.sequence);
    if (!status) status = ring_fill(c, &shard, banyan_plan_spec(plan), span, room);
    if (status) {
        banyan_cache_destroy(shard.cache);
        return status;
    }
    *out = shard;
    return BANYAN_OK;
}

static banyan_status time_work(void *arg)
{
    ring_work *w = arg;
    double start = now_seconds();
    banyan_status status = w->run(w->arg);
    w->seconds = now_seconds() - start;
    return status;
}

/* Look after the messages now and then, and leave the core to who computes. */
static banyan_status tend(banyan_comm *comm, scale_aside *aside)
{
    const struct timespec nap = {0, 20000};
    for (int done = 0; scale_aside_busy(aside);) {
        banyan_status status = banyan_comm_exchange_test(comm, &done);
        if (status || done) return status;
        nanosleep(&nap, NULL);
    }
    return banyan_comm_exchange_wait(comm);
}

banyan_status ring_overlap(banyan_comm *comm, bool started, scale_aside *aside,
                           banyan_status (*run)(void *), void *arg, double *compute)
{
    ring_work work = {.run = run, .arg = arg};
    banyan_status status = BANYAN_OK, computed = BANYAN_OK;
    if (run && started && aside) {
        scale_aside_start(aside, time_work, &work);
        status = tend(comm, aside);
        computed = scale_aside_wait(aside);
    } else {
        if (run) computed = time_work(&work);
        if (started) status = banyan_comm_exchange_wait(comm);
    }
    *compute += work.seconds;
    return status ? status : computed;
}

double ring_hop(const scale_case *c, double messages, double bytes)
{
    const Banyan__Machine *m = c->t->machine;
    double most = 0;
    for (int32_t r = 0; r < c->line->ranks && c->line->ranks > 1; r++) {
        bool inside =
            banyan_comm_node(c->comm, r) == banyan_comm_node(c->comm, (r + 1) % c->line->ranks);
        bool known = inside ? m->has_inside_alpha : m->has_between_alpha;
        double alpha = inside ? m->inside_alpha : m->between_alpha;
        double beta = inside ? m->inside_beta : m->between_beta;
        double lengthy = inside ? m->inside_bulk : m->between_bulk;
        if (bytes / messages > 1 << 18 && lengthy > 0) beta = lengthy;
        most = fmax(most, known ? messages * alpha + bytes * beta : INFINITY);
    }
    return most;
}
