/* SPDX-License-Identifier: Apache-2.0 */
/* What a cache on a device takes: laid out in the plan's arithmetic, so that it can be said
 * beforehand and for ranks that are not here, then taken at once.
 *
 * A batch is all strips of a panel, but no more than MOST strips and spans: a panel of very
 * many goes as several. Spans of one strip are bounded by its pattern (attention/spans.c).
 *
 * The ring has room for the changed places of RING_CALLS calls of the largest size: in each
 * table the new blocks, and those behind an evicted one, which move up. So the host is that far
 * ahead of the device before it waits. */
#include "dist/device_cache.h"
#include "dist/plan.h"

enum { MOST = 1 << 16, LEAST_PARTS = 4, LEAST_RING = 1 << 13, RING_CALLS = 4 };

static size_t aligned256(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static int32_t probe_rows(const banyan_plan *plan)
{
    return (int32_t)banyan_smaller(plan->panel_rows, BANYAN_PROBE_ROWS);
}

/* Parts of a batch. Parts of one sequence may be more; then it goes as several. */
static int64_t most_batch_parts(const banyan_plan *plan)
{
    return banyan_smaller(plan->panel_rows, banyan_larger(plan->spec.sequences, LEAST_PARTS));
}

/* Own blocks of the rows of a call, at most. */
static int64_t pieces(const banyan_plan *plan, int64_t rows)
{
    return banyan_blocks(rows - 1, plan->spec.block_tokens) + 1;
}

/* Places of a table that a call of max_rows changes, as a rule: the first block that goes was
 * within reach at the call before. */
static int64_t moved_places(const banyan_plan *plan, const banyan_retention *retention)
{
    const int64_t fresh = pieces(plan, plan->spec.max_rows);
    if (!plan->spec.evict) return fresh;
    return 2 * fresh + banyan_blocks(banyan_smaller(retention->reach, plan->spec.max_tokens),
                                     plan->spec.block_tokens);
}

static uint8_t role_of(const banyan_plan *plan, const banyan_item *item, int rank)
{
    if (!banyan_item_is_here(plan, item, rank)) return 0;
    const int moves =
        item->holders > 1 ||
        ((plan->spec.out == BANYAN_OUT_ALL || plan->merge->reduce) && plan->ranks > 1);
    return (uint8_t)(BANYAN_ITEM_HERE | (moves ? BANYAN_ITEM_MOVES : 0));
}

/* Strips and spans of a KV head: of one own block, and the spans of the largest strip. */
static void fit_head(const banyan_plan *plan, const banyan_head_plan *head, int64_t capacity,
                     int64_t *strips, int64_t *spans, int64_t *longest)
{
    const int64_t blocks = banyan_blocks(plan->spec.max_tokens, plan->spec.block_tokens);
    for (int32_t i = 0; i < head->class_count; i++) {
        const int64_t bound = banyan_spans_bound(&head->classes[i].pattern, blocks, capacity) *
                              banyan_device_slots(plan);
        *strips += 1;
        *spans += bound;
        *longest = banyan_larger(*longest, bound);
    }
}

static void device_fit_kind(const banyan_plan *plan, const banyan_kind *kind, int rank,
                            banyan_device_need *need, int64_t *longest)
{
    int64_t strips = 0, spans = 0, heads = 0, here = 0, moving = 0;
    int64_t longest_table = 0, changed = 0;
    const int64_t slots = banyan_device_slots(plan);
    const int64_t own =
        banyan_smaller(plan->panel_rows, pieces(plan, plan->panel_rows) +
                                             most_batch_parts(plan) - 1 + kind->ends);
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const int64_t capacity = banyan_plan_capacity(kind, g, rank);
        if (banyan_holder_index(&kind->head[g].placed, rank) < 0) continue;
        fit_head(plan, &kind->head[g], capacity, &strips, &spans, longest);
        need->slots += slots * capacity * kind->kept_layers * plan->spec.sequences;
        longest_table = banyan_larger(longest_table, slots * capacity);
        changed +=
            slots * banyan_smaller(capacity, moved_places(plan, &kind->head[g].retention));
        heads++;
    }
    for (int32_t h = 0; h < plan->spec.heads; h++) {
        const int role = role_of(plan, &kind->item[h], rank);
        here += role != 0;
        moving += (role & BANYAN_ITEM_MOVES) != 0;
    }
    banyan_device_limits *most = &need->limits;
    const banyan_block_shape *block = &kind->shape.block;
    if (block->key_dim > most->shape.key_dim) most->shape.key_dim = block->key_dim;
    if (block->value_dim > most->shape.value_dim) most->shape.value_dim = block->value_dim;
    if (kind->shape.kv_heads > most->kv_heads) most->kv_heads = kind->shape.kv_heads;
    const int64_t row = (int64_t)banyan_sum_bytes(plan, kind->shape.value_dim);
    const int64_t probed = here * probe_rows(plan) * row;
    const int64_t items = plan->spec.sinks || plan->spec.reproducible ? here : moving;
    most->tables = banyan_larger(most->tables, heads * most->parts);
    most->strips = banyan_larger(most->strips, banyan_smaller(strips * own, MOST));
    most->spans = banyan_larger(most->spans, banyan_smaller(spans * own, MOST));
    most->packings =
        banyan_larger(most->packings, heads * banyan_device_pieces(plan, plan->spec.max_rows) +
                                          2 * heads * (plan->spec.sequences - 1));
    need->ring_slots =
        banyan_larger(need->ring_slots, banyan_larger(longest_table, RING_CALLS * changed));
    need->probed_bytes = banyan_larger(need->probed_bytes, probed);
    need->items_bytes =
        banyan_larger(need->items_bytes, banyan_larger(items * plan->panel_rows * row, probed));
}

static void fit_passes(const banyan_plan *plan, banyan_device_need *need)
{
    int64_t floats[BANYAN_PASSES];
    if (!plan->merge->reduce || plan->ranks == 1) return;
    banyan_pass_floats(plan, banyan_plan_value_dim(plan), plan->panel_rows, floats);
    need->maxima_bytes = floats[0] * (int64_t)sizeof(float);
    need->pass_bytes = floats[1] * (int64_t)sizeof(float);
    need->device += (int64_t)(aligned256((size_t)need->maxima_bytes) +
                              aligned256((size_t)need->pass_bytes));
    if (!plan->comm->transport->device) need->host += 2 * need->pass_bytes;
}

banyan_device_need banyan_device_needs(const banyan_plan *plan, int rank)
{
    const banyan_spec *spec = &plan->spec;
    banyan_device_need need = {
        .limits = {.shape = plan->kind[0].shape.block,
                   .heads = spec->heads,
                   .kv_heads = plan->kind[0].shape.kv_heads,
                   .rows = (int32_t)banyan_smaller(plan->panel_rows, spec->max_rows),
                   .parts = most_batch_parts(plan),
                   .captured = spec->layers,
                   .exact = spec->reproducible}};
    int64_t longest = 0;
    for (int32_t k = 0; k < plan->kinds; k++)
        device_fit_kind(plan, &plan->kind[k], rank, &need, &longest);
    need.limits.spans = banyan_larger(need.limits.spans, longest);
    need.ring_slots = banyan_larger(need.ring_slots, LEAST_RING);

    size_t device, host;
    plan->kernel->device->queue_bytes(&need.limits, &device, &host);
    need.device =
        (int64_t)(device + aligned256((size_t)need.slots * sizeof(banyan_slot)) +
                  aligned256((size_t)need.items_bytes) + aligned256((size_t)need.probed_bytes) +
                  aligned256(sizeof(int64_t)));
    need.host = (int64_t)(host + (size_t)need.ring_slots * sizeof(banyan_slot));
    fit_passes(plan, &need);
    const size_t item = (size_t)plan->panel_rows * banyan_plan_row_bytes(plan);
    for (int32_t k = 0; k < plan->kinds; k++) {
        banyan_exchange_measure_device(&plan->kind[k].schedule, rank, item,
                                       !plan->comm->transport->device, &host, &device);
        need.host += (int64_t)host;
        need.device += (int64_t)device;
        need.exchanges += (int64_t)(host + device);
    }
    return need;
}

static banyan_mirror *lay_layer_mirrors(const banyan_plan *plan, const banyan_kind *kind,
                                        int rank, banyan_arena *arena)
{
    banyan_mirror *mirror = banyan_arena_take(arena, kind->shape.kv_heads, sizeof *mirror);
    int32_t j = 0;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        if (banyan_holder_index(&kind->head[g].placed, rank) < 0) continue;
        const int64_t capacity = banyan_plan_capacity(kind, g, rank);
        banyan_slot *copy =
            banyan_arena_take(arena, capacity * banyan_device_slots(plan), sizeof *copy);
        if (mirror) mirror[j++] = (banyan_mirror){.copy = copy};
    }
    return mirror;
}

static void lay_mirrors(const banyan_plan *plan, int rank, banyan_arena *arena,
                        banyan_device_cache *d)
{
    const int64_t layers = (int64_t)plan->spec.layers * plan->spec.sequences;
    banyan_mirror **layer = banyan_arena_take(arena, layers, sizeof *layer);
    for (int64_t i = 0; i < layers; i++) {
        const banyan_kind *kind = banyan_plan_kind(plan, (int32_t)(i % plan->spec.layers));
        banyan_mirror *mirror = lay_layer_mirrors(plan, kind, rank, arena);
        if (d) layer[i] = mirror;
    }
    if (d) d->mirror = layer;
}

static void lay_roles(const banyan_plan *plan, int rank, banyan_arena *arena,
                      banyan_device_cache *d)
{
    uint8_t **role = banyan_arena_take(arena, plan->kinds, sizeof *role);
    if (d) d->role = role;
    for (int32_t k = 0; k < plan->kinds; k++) {
        uint8_t *of_kind = banyan_arena_take(arena, plan->spec.heads, sizeof *of_kind);
        if (!d) continue;
        role[k] = of_kind;
        for (int32_t h = 0; h < plan->spec.heads; h++)
            of_kind[h] = role_of(plan, &plan->kind[k].item[h], rank);
    }
}

void banyan_device_lay(const banyan_plan *plan, int rank, banyan_arena *arena,
                       banyan_device_cache *d)
{
    const banyan_device_limits most = banyan_device_needs(plan, rank).limits;
    lay_mirrors(plan, rank, arena, d);
    lay_roles(plan, rank, arena, d);
    banyan_device_cache batch = {
        .part = banyan_arena_take(arena, most.parts, sizeof *batch.part),
        .table = banyan_arena_take(arena, most.tables, sizeof *batch.table),
        .strip = banyan_arena_take(arena, most.strips, sizeof *batch.strip),
        .edge = banyan_arena_take(arena, most.strips, sizeof *batch.edge),
        .span = banyan_arena_take(arena, most.spans, sizeof *batch.span),
        .packing = banyan_arena_take(arena, most.packings, sizeof *batch.packing),
        .partial = banyan_arena_take(arena, plan->spec.heads, sizeof *batch.partial),
        .probe = banyan_arena_take(arena, plan->spec.heads, sizeof *batch.probe),
        .whole = banyan_arena_take(arena, plan->spec.heads, sizeof *batch.whole),
        .folding = banyan_arena_take(arena, plan->spec.heads, sizeof *batch.folding),
        .is_mine = banyan_arena_take(arena, plan->spec.heads, sizeof *batch.is_mine),
        .graph = {.rows = banyan_arena_take(arena, plan->spec.sequences, sizeof(int32_t)),
                  .call =
                      banyan_arena_take(arena, plan->spec.layers, sizeof *batch.graph.call)}};
    if (!d) return;
    d->part = batch.part;
    d->table = batch.table;
    d->strip = batch.strip;
    d->edge = batch.edge;
    d->span = batch.span;
    d->packing = batch.packing;
    d->partial = batch.partial;
    d->probe = batch.probe;
    d->whole = batch.whole;
    d->folding = batch.folding;
    d->is_mine = batch.is_mine;
    d->graph = batch.graph;
    d->max_parts = most.parts;
    d->max_strips = most.strips;
    d->max_spans = most.spans;
}
