/* SPDX-License-Identifier: Apache-2.0 */
/* What a cache takes besides its records. One function lays the arena out; it runs once without
 * memory, to count, and once with it: the formula and the allocation cannot drift apart.
 *
 *     pool            counters of all ranks, and the numbers of records that were given back
 *     block tables    chunks for all that the pool holds, and for what sequences do not share
 *     sequences       pointers to chunks: capacity / 64 for each (sequence, layer, KV head held
 *                     here)
 *     panel           items held or received here x panel_rows x what a row adds up to (sums.c)
 *     inputs          q of a tile, and its block list: capacity x classes entries
 *     workers         the kernel's workspace, a tile's strongest tokens
 *     partials        of a tile, or of a part of one
 *     plain           a block's rows as they are kept, of each worker, where they are needed
 *     picks           what a panel's rows choose, where somebody chooses
 *     lines           columns that a part's rows read, gathered, and what choosing them takes
 *     joined          compensation tokens of a panel, where there are any
 *     passes          of a merge that reduces: its largest array twice, and maxima
 *     exchange        what comm needs for messages, for each kind of layer
 *
 * With one thread there is one input, and room to compute a partial in beside the one that it
 * is combined with. With T threads the lists of few tiles are cut (panel.c), of at most 2T:
 * hence 2T inputs, and 4T partials. */
#include "dist/device_cache.h"
#include "dist/workspace.h"
#include "dist/plan.h"

static int32_t subgroup_classes(const banyan_head_plan *head, int32_t s)
{
    return head->subgroup_first[s + 1] - head->subgroup_first[s];
}

static int64_t table_chunks(int64_t capacity)
{
    return capacity / BANYAN_HELD_CHUNK + 1;
}

/* All tables of a KV head of one layer: what the pool holds, in whole chunks, and beyond that
 * one chunk of each sequence that is begun, and those that it has changed: where the window
 * moves on, what comes after it moves up. */
static int64_t head_chunks(const banyan_plan *plan, const banyan_head_plan *head,
                           int64_t capacity, int rank)
{
    const banyan_spec *spec = &plan->spec;
    const int32_t index = banyan_holder_index(&head->placed, rank);
    if (spec->sequences == 1) return table_chunks(capacity);
    const int64_t own = banyan_head_window(plan, head) / BANYAN_HELD_CHUNK + 3;
    const int64_t changed = own < table_chunks(capacity) ? own : table_chunks(capacity);
    return head->pooled[index] / BANYAN_HELD_CHUNK + spec->sequences * (1 + changed);
}

static void host_fit_kind(const banyan_plan *plan, const banyan_kind *kind, int rank,
                          banyan_sizes *out)
{
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        if (banyan_holder_index(&head->placed, rank) < 0) continue;
        const int64_t capacity = banyan_plan_capacity(kind, g, rank);
        out->chunks += kind->kept_layers * head_chunks(plan, head, capacity, rank);
        for (int32_t s = 0; s < kind->shape.subgroups; s++) {
            int32_t classes = subgroup_classes(head, s);
            if (classes > out->edges) out->edges = classes;
            if (capacity * classes > out->list) out->list = capacity * classes;
        }
    }
    const int64_t numbers = kind->shape.key_dim + kind->shape.value_dim;
    if (kind->compensates && numbers > out->joined_numbers) out->joined_numbers = numbers;
    if ((kind->compensates || banyan_is_summarised(kind)) && numbers > out->plain_numbers)
        out->plain_numbers = numbers;
    int32_t pickers = 0;
    for (int32_t i = 0; i < kind->pickers; i++)
        pickers += banyan_holder_index(&kind->head[kind->picker[i].kv_head].placed, rank) >= 0;
    if (pickers > out->pickers) out->pickers = pickers;
    if (kind->picks > out->picks) out->picks = kind->picks;
    if (kind->pickers && banyan_pick_bytes(plan, kind) > out->pick_bytes)
        out->pick_bytes = banyan_pick_bytes(plan, kind);
    if (kind->liners) banyan_fit_lines(plan, kind, rank, out);
    if (kind->followers) banyan_fit_followers(plan, kind, rank, out);
    if (kind->liners || kind->pickers || kind->followers) out->chooses = 1;
    const int32_t tile_heads = banyan_tile_heads(&kind->shape);
    if (tile_heads > out->tile_heads) out->tile_heads = tile_heads;
    int64_t items = 0;
    for (int32_t h = 0; h < plan->spec.heads; h++)
        items += banyan_item_is_here(plan, &kind->item[h], rank);
    if (items > out->items) out->items = items;
}

banyan_sizes banyan_sizes_of(const banyan_plan *plan, int rank)
{
    const banyan_spec *spec = &plan->spec;
    const size_t row = banyan_plan_row_bytes(plan), sums = banyan_sum_bytes(plan, 0);
    const size_t mass = sums > sizeof(banyan_strongest) ? sums : sizeof(banyan_strongest);
    banyan_sizes z = {0};
    z.tile_rows = spec->block_tokens < plan->panel_rows ? spec->block_tokens : plan->panel_rows;
    z.workers = spec->threads > 1 ? spec->threads : 1;
    z.inputs = z.workers > 1 ? 2 * z.workers : 1;
    z.partials = 2 * z.inputs;
    for (int32_t k = 0; k < plan->kinds; k++) host_fit_kind(plan, &plan->kind[k], rank, &z);
    z.gathered += z.masks;
    z.list += z.gathered;
    const size_t vectors = (size_t)z.tile_heads * (size_t)z.tile_rows;
    z.item_bytes = banyan_arena_bytes((size_t)plan->panel_rows * row);
    z.mass_bytes = banyan_arena_bytes((size_t)plan->panel_rows * mass);
    z.partial_bytes = banyan_arena_bytes(vectors * row);
    return z;
}

/* The parts of a kind: which heads, and where a panel's items lie. */
static void lay_part(const banyan_plan *plan, const banyan_kind *kind, int rank,
                     banyan_arena *arena, char *data, char *mass, const banyan_sizes *z,
                     banyan_part *part)
{
    const banyan_spec *spec = &plan->spec;
    const int32_t kv_heads = kind->shape.kv_heads;
    banyan_mine *mine = banyan_arena_take(arena, kv_heads, sizeof *mine);
    int32_t *order = banyan_arena_take(arena, kv_heads, sizeof *order);
    void **items = banyan_arena_take(arena, spec->heads, sizeof *items);
    void **masses = banyan_arena_take(arena, spec->heads, sizeof *masses);
    if (!part) return;

    *part = (banyan_part){.mine = mine, .order = order, .data = items, .mass = masses};
    for (int32_t g = 0; g < kv_heads; g++) {
        int32_t index = banyan_holder_index(&kind->head[g].placed, rank);
        if (index >= 0) mine[part->mine_count++] = (banyan_mine){.kv_head = g, .index = index};
    }
    for (int32_t h = 0; h < spec->heads; h++) {
        if (!data || !banyan_item_is_here(plan, &kind->item[h], rank)) continue;
        items[h] = data;
        masses[h] = mass;
        data += z->item_bytes;
        mass += z->mass_bytes;
    }
}

static void lay_passes(const banyan_plan *plan, banyan_arena *arena, banyan_cache *c)
{
    int64_t floats[BANYAN_PASSES];
    if (!plan->merge->reduce || plan->kernel->device) return; /* device_layout.c */
    banyan_pass_floats(plan, banyan_plan_value_dim(plan), plan->panel_rows, floats);
    float *maxima = banyan_arena_take(arena, floats[0], sizeof *maxima);
    float *room = banyan_arena_take(arena, 2 * floats[1], sizeof *room);
    if (!c) return;
    c->maxima = maxima;
    c->pass_room = room;
}

static void lay_compensation(const banyan_kind *kind, int rank, banyan_arena *arena,
                             banyan_layer *layer)
{
    const int64_t numbers = kind->shape.key_dim + kind->shape.value_dim;
    banyan_compensation *of = banyan_arena_take(arena, kind->shape.kv_heads, sizeof *of);
    if (layer) layer->compensation = of;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        if (banyan_holder_index(&head->placed, rank) < 0) continue;
        double *sum = head->compensated ? banyan_arena_take(arena, numbers, sizeof *sum) : NULL;
        if (layer) *of++ = (banyan_compensation){.sum = sum};
    }
}

/* A layer of a sequence. */
static void lay_tables(const banyan_kind *kind, int rank, banyan_arena *arena,
                       banyan_layer *layer)
{
    banyan_kept *kept = banyan_arena_take(arena, kind->shape.kv_heads, sizeof *kept);
    if (layer) layer->kept = kept;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        if (banyan_holder_index(&kind->head[g].placed, rank) < 0) continue;
        const int64_t capacity = banyan_plan_capacity(kind, g, rank);
        banyan_held **chunk = banyan_arena_take(arena, table_chunks(capacity), sizeof *chunk);
        if (layer) *kept++ = (banyan_kept){.chunk = chunk};
    }
    if (kind->compensates) lay_compensation(kind, rank, arena, layer);
}

static void lay_sequences(const banyan_plan *plan, int rank, banyan_arena *arena,
                          const banyan_sizes *z, banyan_cache *c)
{
    const banyan_spec *spec = &plan->spec;
    banyan_sequence *sequence = banyan_arena_take(arena, spec->sequences, sizeof *sequence);
    banyan_chunk *chunks = banyan_arena_take(arena, z->chunks, sizeof *chunks);
    banyan_pool *pool = banyan_arena_take(arena, plan->pools, sizeof *pool);
    for (int32_t i = 0; i < plan->pools; i++) {
        const int64_t records = banyan_plan_records(plan, i, rank);
        uint32_t *next = banyan_arena_take(arena, records, sizeof *next);
        int64_t *counts = banyan_arena_take(arena, 3 * (int64_t)plan->ranks, sizeof *counts);
        if (c)
            pool[i] = (banyan_pool){.next = next,
                                    .used = counts,
                                    .most = counts + plan->ranks,
                                    .change = counts + 2 * plan->ranks};
    }
    banyan_region **region = banyan_arena_take(arena, spec->layers, sizeof *region);
    for (int32_t l = 0; l < spec->layers; l++) {
        const int32_t heads = banyan_plan_kind(plan, l)->shape.kv_heads;
        banyan_region *of = banyan_arena_take(arena, heads, sizeof *of);
        if (c) region[l] = of;
    }
    for (int32_t i = 0; i < spec->sequences; i++) {
        banyan_followed **followed = banyan_lay_followed(plan, rank, arena, c);
        banyan_layer *layer = banyan_arena_take(arena, spec->layers, sizeof *layer);
        for (int32_t l = 0; l < spec->layers; l++)
            lay_tables(banyan_plan_kind(plan, l), rank, arena, c ? &layer[l] : NULL);
        if (c) sequence[i].layer = layer;
        if (c) sequence[i].followed = followed;
    }
    if (!c) return;
    c->sequence = sequence;
    c->chunks = chunks;
    c->pool = pool;
    c->region = region;
}

static void lay_scratch(const banyan_plan *plan, banyan_arena *arena, const banyan_sizes *z,
                        banyan_cache *c)
{
    int64_t q = 0;
    size_t kernel = 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_shape *shape = &plan->kind[k].shape;
        const int64_t numbers = (int64_t)z->tile_heads * z->tile_rows * shape->key_dim;
        const size_t bytes =
            plan->kernel->workspace_bytes(&shape->block, z->tile_heads, z->tile_rows);
        if (numbers > q) q = numbers;
        if (bytes > kernel) kernel = bytes;
        const size_t observing =
            z->liners ? plan->kernel->workspace_bytes(&shape->block, 1, BANYAN_LINE_ROWS) : 0;
        if (observing > kernel) kernel = observing;
    }
    banyan_tile_input *input = banyan_arena_take(arena, z->inputs, sizeof *input);
    banyan_worker *worker = banyan_arena_take(arena, z->workers, sizeof *worker);
    int64_t *start = banyan_arena_take(arena, z->inputs + 1, sizeof *start);
    char *partials = banyan_arena_take(arena, z->partials, z->partial_bytes);
    for (int32_t i = 0; i < z->inputs; i++) {
        banyan_tile_input l = {
            .q = banyan_arena_take(arena, q, sizeof(float)),
            .entry = banyan_arena_take(arena, z->list + 1, sizeof(banyan_entry)),
            .edge = banyan_arena_take(arena, z->edges, sizeof(banyan_edge)),
            .chosen =
                banyan_arena_take(arena, z->chooses ? z->edges : 0, sizeof(banyan_chosen)),
            .mask = banyan_arena_take(arena, z->gathered * banyan_mask_words(plan),
                                      sizeof(uint64_t))};
        if (c) input[i] = l;
    }
    for (int32_t i = 0; i < z->workers; i++) {
        banyan_worker w = {.workspace = banyan_arena_take(arena, 1, kernel),
                           .best =
                               banyan_arena_take(arena, (int64_t)z->tile_heads * z->tile_rows,
                                                 sizeof(banyan_strongest))};
        if (c) worker[i] = w;
    }
    if (!c) return;
    c->input = input;
    c->worker = worker;
    c->start = start;
    c->partials = partials;
}

/* A block's rows in the cache's format of each worker; its keys, and queries, where summaries
 * are made. */
static void lay_plain(const banyan_plan *plan, banyan_arena *arena, const banyan_sizes *z,
                      banyan_cache *c)
{
    if (!z->plain_numbers) return;
    const int64_t plain = plan->spec.block_tokens * z->plain_numbers;
    for (int32_t i = 0; i < z->workers; i++) {
        void *k = banyan_arena_take(arena, plain, sizeof(float)),
             *v = banyan_arena_take(arena, plain, sizeof(float));
        const int64_t vectors = z->chooses ? BANYAN_SUMMARY_VECTORS * z->plain_numbers : 0;
        float *keys = banyan_arena_take(arena, z->chooses ? plain : 0, sizeof *keys);
        float *pooled = banyan_arena_take(arena, vectors, sizeof *pooled);
        if (!c) continue;
        c->worker[i].plain_k = k;
        c->worker[i].plain_v = v;
        c->worker[i].keys = keys;
        c->worker[i].pooled = pooled;
    }
}

/* What a panel's rows choose, and what choosing takes. */
static void lay_picks(const banyan_plan *plan, int rank, banyan_arena *arena,
                      const banyan_sizes *z, banyan_part *part, banyan_cache *c)
{
    if (!z->picks) return;
    const int64_t pieces = banyan_pick_pieces(plan);
    char *pick = banyan_arena_take(arena, z->pickers, z->pick_bytes);
    int64_t *count = banyan_arena_take(arena, z->pickers * pieces, sizeof *count);
    banyan_pick *room = banyan_arena_take(arena, z->picks, sizeof *room);
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        banyan_pick **picks = banyan_arena_take(arena, kind->pickers, sizeof *picks);
        int64_t **counts = banyan_arena_take(arena, kind->pickers, sizeof *counts), n = 0;
        if (!c) continue;
        for (int32_t i = 0; i < kind->pickers; i++) {
            const banyan_head_plan *head = &kind->head[kind->picker[i].kv_head];
            if (banyan_holder_index(&head->placed, rank) < 0) continue;
            picks[i] = (banyan_pick *)(void *)(pick + (size_t)n * z->pick_bytes);
            counts[i] = count + n++ * pieces;
        }
        part[k].pick = picks;
        part[k].pick_count = counts;
    }
    if (c) c->pick_room = room;
}

/* Sums of what is left out, of each worker; a panel's tokens. */
static void lay_joined(const banyan_plan *plan, banyan_arena *arena, const banyan_sizes *z,
                       banyan_cache *c)
{
    int32_t kv_heads = 0;
    if (!z->joined_numbers) return;
    for (int32_t k = 0; k < plan->kinds; k++)
        if (plan->kind[k].shape.kv_heads > kv_heads) kv_heads = plan->kind[k].shape.kv_heads;
    for (int32_t i = 0; i < z->workers; i++) {
        double *sum = banyan_arena_take(arena, z->joined_numbers, sizeof *sum);
        if (c) c->worker[i].sum = sum;
    }
    const int64_t tokens = (int64_t)kv_heads * plan->panel_rows;
    int64_t *joined = banyan_arena_take(arena, tokens, sizeof *joined);
    float *means = banyan_arena_take(arena, tokens * z->joined_numbers, sizeof *means);
    if (!c) return;
    c->joined = joined;
    c->joined_means = means;
}

void banyan_cache_layout(const banyan_plan *plan, int rank, banyan_arena *arena,
                         banyan_cache *c)
{
    banyan_sizes z = banyan_sizes_of(plan, rank);
    banyan_part *part = banyan_arena_take(arena, plan->kinds, sizeof *part);
    banyan_piece *piece = banyan_arena_take(arena, plan->panel_rows, sizeof *piece);
    lay_sequences(plan, rank, arena, &z, c);
    /* One panel is under way at a time: all kinds share its memory. */
    const int on_device = plan->kernel->device != NULL;
    char *data = on_device ? NULL : banyan_arena_take(arena, z.items, z.item_bytes);
    char *mass = on_device ? NULL : banyan_arena_take(arena, z.items, z.mass_bytes);
    for (int32_t k = 0; k < plan->kinds; k++)
        lay_part(plan, &plan->kind[k], rank, arena, data, mass, &z, c ? &part[k] : NULL);
    if (on_device) {
        banyan_device_lay(plan, rank, arena, c ? c->device : NULL);
    } else {
        lay_passes(plan, arena, c);
        lay_scratch(plan, arena, &z, c);
        lay_plain(plan, arena, &z, c);
        lay_joined(plan, arena, &z, c);
        lay_picks(plan, rank, arena, &z, part, c);
        banyan_lay_lines(plan, rank, arena, &z, part, c);
        banyan_lay_follows(plan, rank, arena, &z, part, c);
    }
    if (!c) return;
    c->sizes = z;
    c->part = part;
    c->piece = piece;
}

int64_t banyan_plan_workspace(const banyan_plan *plan, int rank)
{
    banyan_arena arena = {0};
    banyan_cache_layout(plan, rank, &arena, NULL);
    size_t bytes = sizeof(banyan_cache) + arena.used;
    if (plan->kernel->device) {
        const banyan_device_need need = banyan_device_needs(plan, rank);
        return (int64_t)(bytes + sizeof(banyan_device_cache)) + need.host + need.device;
    }
    size_t item_bytes = banyan_sizes_of(plan, rank).item_bytes;
    for (int32_t k = 0; k < plan->kinds; k++)
        bytes += banyan_exchange_measure(&plan->kind[k].schedule, rank, item_bytes) +
                 (plan->kind[k].pickers
                      ? banyan_exchange_measure(&plan->kind[k].pick_schedule, rank,
                                                banyan_pick_bytes(plan, &plan->kind[k]))
                      : 0) +
                 (plan->kind[k].followers
                      ? banyan_exchange_measure(&plan->kind[k].follow_schedule, rank,
                                                banyan_follow_bytes(plan, &plan->kind[k]))
                      : 0);
    return (int64_t)bytes;
}

int64_t banyan_plan_device_bytes(const banyan_plan *plan, int rank)
{
    if (!plan->kernel->device) return 0;
    return banyan_plan_capacity_bytes(plan, rank) + banyan_device_needs(plan, rank).device;
}
