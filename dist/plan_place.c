/* SPDX-License-Identifier: Apache-2.0 */
/* From patterns to places: how heavy each KV head is, which ranks hold it, where its query
 * heads' results go, and what therefore has to be merged.
 *
 * Weight, by `balance`: decode weighs the blocks that a head keeps at planned_tokens, of all
 * sequences. prefill
 * weighs the (query head, own block, block) triples that computing all rows up to there takes.
 * With n blocks and a window in which block b is read by the w own blocks from its own on, b
 * counts n - b if it is permanent, and min(n - b, w) if not: sums of arithmetic series. */
#include "dist/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

__extension__ typedef __int128 int128;

/* Sum of min(n - b, w) over b = first, first + step, .. < n. */
static int128 series(int64_t first, int64_t step, int64_t n, int64_t w)
{
    if (first >= n) return 0;
    const int64_t longest = n - first, count = (longest - 1) / step + 1;
    const int64_t capped = longest > w ? (longest - w - 1) / step + 1 : 0;
    const int64_t whole = capped < count ? capped : count, rest = count - whole;
    const int64_t top = longest - whole * step; /* the first that is not capped */
    return (int128)whole * w + (int128)(2 * top - (rest - 1) * step) * rest / 2;
}

static double prefill_triples(const banyan_retention *r, int64_t n, int32_t block_tokens)
{
    const int64_t reach = r->reach < n * block_tokens ? r->reach : n * block_tokens;
    const int64_t w = (block_tokens - 1 + reach) / block_tokens + 1;
    const int64_t prefix = r->prefix < n ? r->prefix : n;
    int128 sum = series(0, 1, n, w);
    sum += series(0, 1, n, n) - series(prefix, 1, n, n);
    sum -= series(0, 1, n, w) - series(prefix, 1, n, w);
    for (int32_t i = 0; i < r->period; i++) {
        if (!(r->residue[i / 64] >> i % 64 & 1)) continue;
        const int64_t first =
            prefix + ((i - prefix % r->period) % r->period + r->period) % r->period;
        sum += series(first, r->period, n, n) - series(first, r->period, n, w);
    }
    return (double)sum;
}

/* Alike for all kinds that read the same cache layers, which have the same holders. */
static double placed_weight(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                            int64_t kept)
{
    if (plan->spec.balance == BANYAN_BALANCE_DECODE) return (double)kept;
    const int64_t n = banyan_blocks(plan->spec.planned_tokens, plan->spec.block_tokens);
    double sum = 0;
    for (int32_t i = 0; i < kind->reader_count; i++) {
        const banyan_kind *reader = &plan->kind[kind->reader[i]];
        const banyan_head_plan *head = &reader->head[kv_head];
        for (int32_t c = 0; c < head->class_count; c++) {
            const banyan_class *class = &head->classes[c];
            banyan_retention r;
            class->pattern.selector->keeps(&class->pattern, &r);
            sum += prefill_triples(&r, n, plan->spec.block_tokens) *
                   __builtin_popcountll(class->heads) * reader->shape.unit;
        }
    }
    return sum * plan->spec.sequences;
}

/* Settle a head's cuts, and forget holders that would never be dealt a block. */
static banyan_status keep_holders(banyan_plan *plan, banyan_head_plan *head,
                                  const banyan_placed *placed)
{
    const banyan_spec *spec = &plan->spec;
    const banyan_kept_set planned = banyan_plan_kept_at(plan, head, spec->planned_tokens, 1);
    const int64_t blocks = banyan_blocks(spec->max_tokens, spec->block_tokens);
    const int64_t permanent = banyan_retention_count(&head->retention, blocks);
    /* Of many sequences' dealings the rounding evens out by itself. */
    if (spec->sequences == 1) banyan_deal_settle(&planned, placed->holder, placed->count);

    banyan_placed *out = &head->placed;
    int64_t before = 0;
    for (int32_t i = 0; i < placed->count; i++) {
        const uint64_t cut = placed->holder[i].cut;
        int64_t below = banyan_deal_below(permanent * spec->sequences, cut);
        if (permanent < blocks) below += banyan_deal_below(blocks * spec->sequences, cut);
        if (below > before) placed->holder[out->count++] = placed->holder[i];
        before = below;
    }
    placed->holder[out->count - 1].cut = UINT64_MAX;
    const size_t count = (size_t)out->count;
    out->holder = banyan_plan_alloc(plan, count, sizeof *out->holder);
    head->capacity = banyan_plan_alloc(plan, count, sizeof *head->capacity);
    head->pooled = banyan_plan_alloc(plan, count, sizeof *head->pooled);
    if (!out->holder || !head->capacity || !head->pooled) return BANYAN_ERR_MEMORY;
    memcpy(out->holder, placed->holder, count * sizeof *out->holder);
    banyan_head_capacity(plan, head);
    return BANYAN_OK;
}

/* The holder that keeps most at planned_tokens, the lowest on ties. */
static int32_t largest_holder(const banyan_plan *plan, const banyan_head_plan *head)
{
    const banyan_kept_set planned =
        banyan_plan_kept_at(plan, head, plan->spec.planned_tokens, 1);
    int64_t most = -1, before = 0;
    int32_t best = 0;
    for (int32_t i = 0; i < head->placed.count; i++) {
        const int64_t below = banyan_kept_below(&planned, head->placed.holder[i].cut);
        if (below - before > most) {
            most = below - before;
            best = i;
        }
        before = below;
    }
    return best;
}

/* The holder at the middle of the i-th of `count` equal parts of [0, 1). The parts are all
 * query heads', those of a group apart by as many as there are KV heads: so holders that
 * several groups share get equal numbers of heads, though they be more than a group has. */
static int32_t dealt_holder(const banyan_placed *placed, int32_t i, int32_t count)
{
    const uint64_t half = UINT64_MAX / (2 * (uint64_t)count);
    const uint64_t point = half * (2 * (uint64_t)i + 1);
    int32_t index = 0;
    while (index + 1 < placed->count && point >= placed->holder[index].cut) index++;
    return index;
}

static banyan_status set_items(banyan_plan *plan, banyan_kind *kind)
{
    const banyan_spec *spec = &plan->spec;
    const int32_t group = kind->shape.group;
    size_t pairs = 0;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++)
        pairs += (size_t)kind->head[g].placed.count;
    kind->home = banyan_plan_alloc(plan, (size_t)spec->heads, sizeof *kind->home);
    kind->item = banyan_plan_alloc(plan, (size_t)spec->heads, sizeof *kind->item);
    kind->holder_rank = banyan_plan_alloc(plan, pairs, sizeof *kind->holder_rank);
    if (!kind->home || !kind->item || !kind->holder_rank) return BANYAN_ERR_MEMORY;
    int32_t *ranks = kind->holder_rank;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_placed *placed = &kind->head[g].placed;
        const int32_t first = largest_holder(plan, &kind->head[g]);
        for (int32_t i = 0; i < placed->count; i++) ranks[i] = placed->holder[i].rank;
        for (int32_t i = 0; i < group; i++) {
            const int32_t q = g * group + i;
            const int32_t kv_heads = kind->shape.kv_heads;
            const int32_t index = spec->home == BANYAN_HOME_DEALT
                                      ? dealt_holder(placed, i * kv_heads + g, group * kv_heads)
                                      : first;
            kind->home[q] = ranks[index];
            kind->item[q] =
                (banyan_item){.holder = ranks, .holders = placed->count, .home = kind->home[q]};
        }
        ranks += placed->count;
    }
    return BANYAN_OK;
}

/* A selector may say that its heads have one holder. */
static banyan_status check_one_holder(const banyan_plan *plan, const banyan_kind *kind,
                                      int32_t kv_head)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    for (int32_t c = 0; c < head->class_count && head->placed.count > 1; c++) {
        const banyan_selector *selector = head->classes[c].pattern.selector;
        if (selector->whole)
            return banyan_fail(
                BANYAN_ERR_CONFIG,
                "placement \"%s\" cuts KV head %d of layer %d over %d ranks, but "
                "selector \"%s\" needs it whole: expected a placement of whole "
                "heads",
                plan->placement->name, (int)kv_head, (int)kind->first_layer,
                (int)head->placed.count, selector->name);
    }
    return BANYAN_OK;
}

static banyan_status place_kind(banyan_plan *plan, banyan_kind *kind, double *weight,
                                banyan_placed *placed)
{
    const banyan_spec *spec = &plan->spec;
    const int32_t kv_heads = kind->shape.kv_heads;
    double weights = 0, blocks = 0;
    for (int32_t g = 0; g < kv_heads; g++) {
        banyan_head_plan *head = &kind->head[g];
        const banyan_kept_set kept = banyan_plan_kept_at(plan, head, spec->planned_tokens, 1);
        const int64_t count = banyan_kept_below(&kept, UINT64_MAX) * spec->sequences;
        weight[g] = head->weight = placed_weight(plan, kind, g, count);
        weights += weight[g];
        blocks += (double)count;
    }
    for (; weights > 0x1p52; weights /= 2) /* placements count in integers */
        for (int32_t g = 0; g < kv_heads; g++) weight[g] = floor(weight[g] / 2) + 1;
    plan->placement->place(weight, kv_heads, spec->bandwidth,
                           banyan_comm_topology(plan->comm)->node, plan->ranks,
                           2 * weights / blocks, placed);
    banyan_status status = BANYAN_OK;
    for (int32_t g = 0; !status && g < kv_heads; g++) {
        status = keep_holders(plan, &kind->head[g], &placed[g]);
        if (!status) status = check_one_holder(plan, kind, g);
    }
    return status ? status : set_items(plan, kind);
}

banyan_status banyan_plan_place(banyan_plan *plan)
{
    size_t heads = 1;
    const size_t ranks = (size_t)plan->ranks;
    for (int32_t k = 0; k < plan->kinds; k++)
        if ((size_t)plan->kind[k].shape.kv_heads > heads)
            heads = (size_t)plan->kind[k].shape.kv_heads;
    banyan_holder *holder = calloc(heads * ranks, sizeof *holder);
    banyan_placed *placed = calloc(heads, sizeof *placed);
    double *weight = calloc(heads, sizeof *weight);
    banyan_status status = BANYAN_OK;
    if (!holder || !placed || !weight)
        status = banyan_fail(BANYAN_ERR_MEMORY, "out of memory to place %zu heads on %zu ranks",
                             heads, ranks);
    for (size_t g = 0; !status && g < heads; g++) placed[g].holder = holder + g * ranks;
    for (int32_t k = 0; !status && k < plan->kinds; k++)
        status = place_kind(plan, &plan->kind[k], weight, placed);
    free(weight);
    free(placed);
    free(holder);
    return status;
}
