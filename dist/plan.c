/* SPDX-License-Identifier: Apache-2.0 */
/* A plan: made once, by the same arithmetic on every rank, compared across ranks, never
 * changed.
 *
 * The steps up to the schedules are pure functions of (spec, topology); nothing is exchanged.
 * Then come the three things that ranks must settle together, each a collective that every rank
 * reaches: did anybody fail, which kernel can all of them run, and did all come to the same
 * plan. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "dist/plan.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* ---- defaults ---------------------------------------------------------------------------- */

/* Relative bandwidths in multiples of 1/16 of the least: what measurements call 0.99 and 1.01
 * is the same. */
static double *bandwidths(banyan_plan *plan, const double *given)
{
    double *out = banyan_plan_alloc(plan, (size_t)plan->ranks, sizeof *out);
    double least = 0;
    for (int32_t r = 0; given && r < plan->ranks; r++)
        if (given[r] > 0 && (least <= 0 || given[r] < least)) least = given[r];
    for (int32_t r = 0; out && r < plan->ranks; r++)
        out[r] = given ? (double)llround(given[r] / least * 16) / 16 : 1;
    return out;
}

static banyan_rule *copy_rules(banyan_plan *plan, const banyan_spec *spec)
{
    banyan_rule *rules = banyan_plan_alloc(plan, (size_t)spec->rule_count, sizeof *rules);
    for (int32_t i = 0; rules && i < spec->rule_count; i++) {
        rules[i] = spec->rules[i];
        if (rules[i].last_layer < 0) rules[i].last_layer = spec->layers - 1;
        if (rules[i].last_head < 0) rules[i].last_head = spec->heads - 1;
        for (int32_t j = 0; j < i; j++) /* equal texts share one pointer */
            if (strcmp(rules[j].use, spec->rules[i].use) == 0) rules[i].use = rules[j].use;
        if (rules[i].use == spec->rules[i].use)
            rules[i].use = banyan_plan_copy(plan, rules[i].use);
        if (!rules[i].use) return NULL;
    }
    return rules;
}

static banyan_layer_shape *copy_shapes(banyan_plan *plan, const banyan_spec *spec)
{
    banyan_layer_shape *shapes =
        banyan_plan_alloc(plan, (size_t)spec->shape_count, sizeof *shapes);
    if (shapes && spec->shape_count)
        memcpy(shapes, spec->shapes, (size_t)spec->shape_count * sizeof *shapes);
    return shapes;
}

static int32_t *copy_cache_layers(banyan_plan *plan, const banyan_spec *spec)
{
    int32_t *out = banyan_plan_alloc(plan, (size_t)spec->layers, sizeof *out);
    for (int32_t i = 0; out && i < spec->layers; i++)
        out[i] = spec->cache_layer ? spec->cache_layer[i] : i;
    return out;
}

static float *copy_sinks(banyan_plan *plan, const banyan_spec *spec)
{
    const size_t count = (size_t)spec->layers * (size_t)spec->heads;
    float *out = banyan_plan_alloc(plan, count, sizeof *out);
    return out ? memcpy(out, spec->sinks, count * sizeof *out) : NULL;
}

/* The cores that this process may use, over the ranks of its node. */
static int32_t own_cores(const banyan_comm *comm)
{
    const banyan_topology *t = banyan_comm_topology(comm);
    int32_t neighbours = 0;
    cpu_set_t cores;
    if (comm->transport->is_imaginary) return 1;
    for (int32_t r = 0; r < t->ranks; r++) neighbours += t->node[r] == t->node[comm->rank];
    const int count = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores);
    return count > neighbours ? count / neighbours : 1;
}

/* Whole blocks, and no more than 256 rows: the panel's partials stay in a core's cache.
 * Fixed-point sums are larger. A device is given all rows of a call, as long as their partials
 * take no more than 256 MiB. */
static int32_t panel_rows(const banyan_spec *s)
{
    const int64_t rows = s->max_rows < s->max_tokens ? s->max_rows : s->max_tokens;
    int64_t most = s->reproducible ? 64 : 256;
    if (strcmp(s->device, "cpu") != 0) {
        int32_t value_dim = 0;
        for (int32_t i = 0; i < s->layers; i++)
            if (banyan_spec_shape(s, i).value_dim > value_dim)
                value_dim = banyan_spec_shape(s, i).value_dim;
        const size_t bytes = s->reproducible ? banyan_fixed_bytes(value_dim)
                                             : banyan_partial_floats(value_dim) * sizeof(float);
        const int64_t row = s->heads * (int64_t)bytes;
        most = (INT64_C(256) << 20) / row / s->block_tokens * s->block_tokens;
        if (most < s->block_tokens) most = s->block_tokens;
    }
    return (int32_t)(banyan_blocks(rows < most ? rows : most, s->block_tokens) *
                     s->block_tokens);
}

banyan_status banyan_plan_fill(banyan_plan *plan, const banyan_spec *spec)
{
    banyan_spec *s = &plan->spec;
    *s = *spec;
    if (!s->kv_heads) s->kv_heads = s->heads;
    if (!s->value_dim) s->value_dim = s->key_dim;
    if (!(s->scale > 0)) s->scale = (float)(1 / sqrt((double)s->key_dim));
    if (!s->planned_tokens) s->planned_tokens = s->max_tokens;
    if (!s->pool_tokens) s->pool_tokens = s->max_tokens;
    if (!s->threads) s->threads = own_cores(plan->comm);
    s->placement = banyan_plan_copy(plan, spec->placement);
    s->merge = banyan_plan_copy(plan, spec->merge);
    s->kernel = banyan_plan_copy(plan, spec->kernel);
    s->device = banyan_plan_copy(plan, spec->device);
    s->bandwidth = bandwidths(plan, spec->bandwidth);
    s->rules = copy_rules(plan, spec);
    s->shapes = copy_shapes(plan, spec);
    s->cache_layer = copy_cache_layers(plan, spec);
    s->sinks = spec->sinks ? copy_sinks(plan, spec) : NULL;
    if (!s->placement || !s->device || !s->bandwidth || !s->rules || !s->shapes ||
        !s->cache_layer || (spec->sinks && !s->sinks) || (spec->merge && !s->merge) ||
        (spec->kernel && !s->kernel))
        return BANYAN_ERR_MEMORY;
    plan->panel_rows = panel_rows(s);
    plan->placement = banyan_placement_find(s->placement);
    return BANYAN_OK;
}

/* ---- making ------------------------------------------------------------------------------ */

/* Counts of bytes are of 64 bits; with so few spare, everything in the plan may be added up. */
static banyan_status check_size(const banyan_plan *plan)
{
    const banyan_spec *s = &plan->spec;
    const int64_t tokens = s->pool_tokens > s->max_tokens ? s->pool_tokens : s->max_tokens;
    const double blocks = (double)banyan_blocks(tokens, s->block_tokens) + s->sequences;
    double bytes = 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        const double record = (double)plan->kernel->record_bytes(&kind->shape.block);
        bytes += blocks * kind->shape.kv_heads * kind->kept_layers * record;
    }
    if (bytes < 0x1p60) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_CONFIG,
                       "%s is %lld: with %d layers of %d KV heads that is %.2g bytes; "
                       "expected less than %.2g",
                       tokens > s->max_tokens ? "pool_tokens" : "max_tokens", (long long)tokens,
                       (int)s->layers, (int)s->kv_heads, bytes, 0x1p60);
}

/* What is chosen by data is chosen on the CPU. */
static banyan_status refuse_choosing(const banyan_plan *plan)
{
    if (strcmp(plan->spec.device, "cpu") == 0) return BANYAN_OK;
    for (const banyan_kind *kind = plan->kind; kind < plan->kind + plan->kinds; kind++)
        for (int32_t g = 0; g < kind->shape.kv_heads; g++)
            for (int32_t c = 0; c < kind->head[g].class_count; c++) {
                const banyan_selector *s = kind->head[g].classes[c].pattern.selector;
                if (s->chooses || s->lines || s->follows)
                    return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                                       "selector \"%s\" and device \"%s\": what it reads is "
                                       "chosen on the CPU only, expected device cpu",
                                       s->name, plan->spec.device);
            }
    return BANYAN_OK;
}

/* Everything that a rank does alone. */
static banyan_status decide(banyan_plan *plan, const banyan_spec *given)
{
    banyan_spec spec;
    banyan_status status = banyan_spec_widen(given, &spec);
    if (!status) status = banyan_spec_check(&spec, plan->ranks);
    if (!status) status = banyan_plan_fill(plan, &spec);
    if (!status) status = banyan_plan_kinds(plan);
    if (!status) status = banyan_plan_kernel(plan);
    if (!status) status = check_size(plan);
    if (!status) status = banyan_plan_bind(plan);
    if (!status) status = banyan_plan_cover(plan);
    if (!status) status = banyan_plan_place(plan);
    if (!status) status = banyan_plan_merge(plan);
    if (!status) status = refuse_choosing(plan);
    if (!status) status = banyan_plan_pick(plan);
    if (!status) status = banyan_plan_liners(plan);
    if (!status) status = banyan_plan_follow(plan);
    return status;
}

static banyan_status compare_hashes(banyan_plan *plan, uint64_t *all)
{
    banyan_status status =
        banyan_comm_allgather(plan->comm, &plan->hash, sizeof plan->hash, all);
    for (int32_t r = 1; !status && r < plan->ranks; r++)
        if (all[r] != all[0])
            status =
                banyan_fail(BANYAN_ERR_CONFIG,
                            "ranks were given different configs: rank %d has plan hash "
                            "%016llx, rank 0 %016llx",
                            (int)r, (unsigned long long)all[r], (unsigned long long)all[0]);
    return status;
}

/* Kinds whose records are equally large share a pool. A cut of a list is about 8 MiB of
 * records: long enough that beginning costs nothing, short enough for many threads. */
static void pool_kinds(banyan_plan *plan)
{
    for (int32_t k = 0; k < plan->kinds; k++) {
        banyan_kind *kind = &plan->kind[k];
        const int64_t blocks = (INT64_C(1) << 23) / (int64_t)kind->shape.record_bytes;
        int32_t same = 0;
        while (plan->kind[same].shape.record_bytes != kind->shape.record_bytes) same++;
        kind->pool = same < k ? plan->kind[same].pool : plan->pools++;
        kind->cut_blocks = blocks < 8 ? 8 : (int32_t)blocks;
    }
}

/* The ranks' part of it. An imaginary cluster has nobody to talk to. */
static banyan_status agree_on_plan(banyan_plan *plan, banyan_status status)
{
    const int alone = plan->ranks == 1 || plan->comm->transport->is_imaginary;
    uint64_t *hashes = banyan_plan_alloc(plan, (size_t)plan->ranks, sizeof *hashes);
    if (!status && !hashes) status = BANYAN_ERR_MEMORY;
    if (!alone) status = banyan_comm_agree(plan->comm, status);
    if (status) return status;
    plan->hash = banyan_plan_digest(plan);
    if (!alone) status = compare_hashes(plan, hashes);
    if (status) return status;
    if (!alone) status = banyan_plan_agree_on_kernel(plan);
    if (!status) {
        plan->spec.kernel = plan->kernel->name; /* of static life */
        for (int32_t k = 0; k < plan->kinds; k++) banyan_plan_record(plan, &plan->kind[k]);
        pool_kinds(plan);
        status = banyan_plan_memory(plan);
    }
    return alone ? status : banyan_comm_agree(plan->comm, status);
}

banyan_status banyan_plan_create(const banyan_spec *spec, banyan_comm *comm, banyan_plan **out)
{
    if (!spec || !comm || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT,
                           "plan_create: spec, comm and out must be given");
    banyan_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a plan");
    plan->comm = comm;
    plan->ranks = comm->size;
    plan->rank = comm->rank;
    const banyan_status status = agree_on_plan(plan, decide(plan, spec));
    if (status) {
        banyan_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return BANYAN_OK;
}

/* ---- questions --------------------------------------------------------------------------- */

static const banyan_head_plan *head_plan_of(const banyan_plan *plan, int32_t layer,
                                            int32_t kv_head)
{
    if (!plan || layer < 0 || layer >= plan->spec.layers || kv_head < 0 ||
        kv_head >= banyan_plan_kind(plan, layer)->shape.kv_heads)
        return NULL;
    return &banyan_plan_kind(plan, layer)->head[kv_head];
}

uint64_t banyan_plan_hash(const banyan_plan *plan)
{
    return plan->hash;
}

const banyan_spec *banyan_plan_spec(const banyan_plan *plan)
{
    return &plan->spec;
}

int banyan_plan_holds(const banyan_plan *plan, int32_t layer, int32_t kv_head, int rank)
{
    const banyan_head_plan *head = head_plan_of(plan, layer, kv_head);
    return head && banyan_holder_index(&head->placed, rank) >= 0;
}

int banyan_plan_owner(const banyan_plan *plan, uint64_t turn, int32_t layer, int32_t kv_head,
                      int64_t block)
{
    const banyan_head_plan *head = head_plan_of(plan, layer, kv_head);
    if (!head || block < 0 ||
        block >= banyan_blocks(plan->spec.max_tokens, plan->spec.block_tokens))
        return -1;
    return head->placed.holder[banyan_head_owner(head, turn, block)].rank;
}

int banyan_plan_home(const banyan_plan *plan, int32_t layer, int32_t head)
{
    if (!plan || layer < 0 || layer >= plan->spec.layers || head < 0 ||
        head >= plan->spec.heads)
        return -1;
    return banyan_plan_kind(plan, layer)->home[head];
}

/* By which a query head reads; NULL outside the plan. */
static const banyan_pattern *head_pattern(const banyan_plan *plan, int32_t layer, int32_t head)
{
    if (!plan || layer < 0 || layer >= plan->spec.layers || head < 0 ||
        head >= plan->spec.heads)
        return NULL;
    const banyan_shape *shape = &banyan_plan_kind(plan, layer)->shape;
    const int32_t group = shape->group, tile = BANYAN_TILE_HEADS * shape->unit;
    const banyan_head_plan *kv = head_plan_of(plan, layer, head / group);
    const int32_t within = head % group, s = within / tile;
    for (int32_t c = kv->subgroup_first[s]; c < kv->subgroup_first[s + 1]; c++)
        if (kv->classes[c].heads >> within % tile / shape->unit & 1)
            return &kv->classes[c].pattern;
    return NULL;
}

int banyan_plan_reads(const banyan_plan *plan, int32_t layer, int32_t head, int64_t row,
                      int64_t token)
{
    const banyan_pattern *pattern = head_pattern(plan, layer, head);
    return pattern && row >= 0 && banyan_pattern_reads(pattern, row, token);
}

int banyan_plan_compensates(const banyan_plan *plan, int32_t layer, int32_t head, int64_t row,
                            int64_t *first, int64_t *end)
{
    const banyan_pattern *pattern = head_pattern(plan, layer, head);
    return pattern && row >= 0 && first && end && pattern->selector->compensates &&
           pattern->selector->compensates(pattern, row / plan->spec.block_tokens, first, end);
}

int32_t banyan_plan_lines(const banyan_plan *plan, int32_t layer, int32_t head)
{
    const banyan_pattern *pattern = head_pattern(plan, layer, head);
    banyan_lines law;
    if (!pattern || !pattern->selector->lines) return 0;
    pattern->selector->lines(pattern, &law);
    return law.rows;
}

int32_t banyan_plan_follows(const banyan_plan *plan, int32_t layer, int32_t head,
                            int64_t *tokens)
{
    const banyan_pattern *pattern = head_pattern(plan, layer, head);
    banyan_following law;
    if (!pattern || !pattern->selector->follows) return -1;
    pattern->selector->follows(pattern, &law);
    const int32_t source = banyan_follows(&law, layer);
    if (tokens && source >= 0) *tokens = law.tokens;
    return source;
}

int banyan_plan_chooses(const banyan_plan *plan, int32_t layer, int32_t head,
                        banyan_choosing *out)
{
    const banyan_pattern *pattern = head_pattern(plan, layer, head);
    if (!pattern || !pattern->selector->chooses || !out) return 0;
    const banyan_kind *kind = banyan_plan_kind(plan, layer);
    const banyan_picker *p = &kind->picker[kind->picker_of[head]];
    *out = (banyan_choosing){.by = banyan_summary_row(p->choice.summary)->name,
                             .first = p->choice.first,
                             .local = p->choice.local,
                             .blocks = p->choice.blocks,
                             .mass = p->choice.mass,
                             .sharpness = p->choice.sharpness,
                             .head = p->head,
                             .heads = p->heads,
                             .summary_bytes =
                                 banyan_summary_bytes(p->choice.summary, kind->shape.key_dim)};
    return 1;
}
