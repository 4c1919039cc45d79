/* SPDX-License-Identifier: Apache-2.0 */
/* One number for all decisions: FNV-1a (Fowler, Noll, Vo) over what was asked and what came of
 * it, so that ranks with different configs, or builds that decide differently, find out at
 * once. Numbers enter as eight bytes, lowest first, whatever their type. Not in it: threads,
 * the memory limit and the kernel, which may differ from machine to machine. */
#include "dist/plan.h"

#include <string.h>

static void hash_number(uint64_t *hash, int64_t number)
{
    for (int i = 0; i < 8; i++) {
        *hash ^= (uint64_t)number >> 8 * i & 0xff;
        *hash *= UINT64_C(0x100000001b3);
    }
}

static void add_text(uint64_t *hash, const char *text)
{
    hash_number(hash, (int64_t)strlen(text));
    for (; *text; text++) hash_number(hash, (unsigned char)*text);
}

static void add_bits(uint64_t *hash, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash_number(hash, bits);
    }
}

static void add_spec(uint64_t *hash, const banyan_plan *plan)
{
    const banyan_spec *s = &plan->spec;
    const int64_t numbers[] = {
        s->layers,      s->heads,          s->kv_heads, s->key_dim,      s->value_dim,
        s->max_tokens,  s->planned_tokens, s->max_rows, s->block_tokens, s->rollback_tokens,
        s->cache_dtype, s->evict != 0,     s->in_dtype, s->out_dtype,    s->lost_rank,
        s->lost_layer,  plan->panel_rows,  plan->ranks, s->sequences,    s->pool_tokens};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        hash_number(hash, numbers[i]);
    add_bits(hash, &s->scale, 1);
    for (int32_t r = 0; r < plan->ranks; r++) {
        hash_number(hash, (int64_t)(s->bandwidth[r] * 16));
        hash_number(hash, banyan_comm_topology(plan->comm)->node[r]);
    }
    add_text(hash, s->placement);
    hash_number(hash, s->balance);
    add_text(hash, s->device);
    hash_number(hash, s->home);
    hash_number(hash, s->out);
    add_text(hash, plan->merge->name);
    if (s->reproducible) add_text(hash, "reproducible");
    if (s->sinks) add_bits(hash, s->sinks, (size_t)s->layers * (size_t)s->heads);
}

/* Of a kind: nothing, where it is the spec's. */
static void add_shape(uint64_t *hash, const banyan_spec *s, const banyan_shape *shape)
{
    if (shape->kv_heads == s->kv_heads && shape->key_dim == s->key_dim &&
        shape->value_dim == s->value_dim && shape->scale == s->scale &&
        !shape->block.value_in_key)
        return;
    hash_number(hash, shape->kv_heads);
    hash_number(hash, shape->key_dim);
    hash_number(hash, shape->value_dim);
    hash_number(hash, shape->block.value_in_key);
    add_bits(hash, &shape->scale, 1);
}

static void add_kind(uint64_t *hash, const banyan_plan *plan, const banyan_kind *kind)
{
    add_shape(hash, &plan->spec, &kind->shape);
    for (int32_t q = 0; q < plan->spec.heads; q++) {
        add_text(hash, kind->use[q]);
        hash_number(hash, kind->home[q]);
    }
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        hash_number(hash, head->placed.count);
        for (int32_t i = 0; i < head->placed.count; i++) {
            hash_number(hash, head->placed.holder[i].rank);
            hash_number(hash, (int64_t)head->placed.holder[i].cut);
            hash_number(hash, head->capacity[i]);
            hash_number(hash, head->pooled[i]);
        }
    }
    for (int32_t i = 0; i < kind->schedule.count; i++) {
        const banyan_step *step = &kind->schedule.step[i];
        hash_number(hash, step->round);
        hash_number(hash, step->src);
        hash_number(hash, step->dst);
        hash_number(hash, step->item);
        hash_number(hash, step->combine);
    }
}

uint64_t banyan_plan_digest(const banyan_plan *plan)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    add_spec(&hash, plan);
    for (int32_t k = 0; k < plan->kinds; k++) add_kind(&hash, plan, &plan->kind[k]);
    for (int32_t layer = 0; layer < plan->spec.layers; layer++)
        hash_number(&hash, plan->kind_of_layer[layer]);
    for (int32_t layer = 0; layer < plan->spec.layers; layer++)
        if (plan->spec.cache_layer[layer] != layer) {
            hash_number(&hash, layer);
            hash_number(&hash, plan->spec.cache_layer[layer]);
        }
    return hash;
}
