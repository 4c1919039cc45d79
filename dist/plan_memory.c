/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank must have room for, in block records.
 *
 * A call appends rows at .. at + rows - 1, after evicting what no row from r = at -
 * rollback_tokens on will read. What a KV head then holds of one sequence is
 *
 *     permanent blocks below max_tokens, and
 *     others from the first that row r or a later one reads to the last appended: the window.
 *
 * Block b is read by rows up to (b + 1) block - 1 + reach, so the window's first block is
 * ceil((r - reach + 1) / block) - 1; its last is ceil((at + rows) / block) - 1; it has at most
 *
 *     w = ceil((max_rows + rollback_tokens + reach - 1) / block) + 1      blocks.
 *
 * A sole holder has all of the permanent blocks, and w less the permanent blocks that every w
 * consecutive blocks contain. A holder of a part has the most that it is dealt of so many
 * consecutive ordinals, whatever the sequence's turn (deal.c). With evict: false there is room
 * for all that a holder is ever dealt.
 *
 * The pool. S sequences have N = ceil(pool_tokens / block) blocks together, the last one of
 * each counted as whole. Of n blocks of one sequence at most prefix + R + n R / period are
 * permanent (R residues), so of all at most min(N, S (prefix + R) + N R / period); and S
 * windows have at most min(N, S w). A holder's part of each is its share and what S dealings
 * can exceed theirs by. */
#include "dist/plan.h"

banyan_kept_set banyan_plan_kept_at(const banyan_plan *plan, const banyan_head_plan *head,
                                    int64_t tokens, int evict)
{
    const int64_t block = plan->spec.block_tokens;
    const banyan_retention *r = &head->retention;
    const int64_t row = tokens - 1 - plan->spec.rollback_tokens;
    banyan_kept_set kept = {.retention = r, .blocks = banyan_blocks(tokens, (int32_t)block)};
    if (evict && row - r->reach >= 0) kept.from = (row - r->reach) / block;
    if (kept.from > kept.blocks) kept.from = kept.blocks;
    return kept;
}

/* Blocks of the window, at most. */
int64_t banyan_head_window(const banyan_plan *plan, const banyan_head_plan *head)
{
    const banyan_retention *r = &head->retention;
    const banyan_spec *spec = &plan->spec;
    const int64_t all = banyan_blocks(spec->max_tokens, spec->block_tokens);
    if (r->reach >= spec->max_tokens) return all;
    const int64_t w =
        banyan_blocks((int64_t)spec->max_rows + spec->rollback_tokens + r->reach - 1,
                      spec->block_tokens) +
        1;
    return w < all ? w : all;
}

/* Of `blocks` blocks in so many sequences, the most that are dealt to a holder. */
static int64_t dealt_most(const banyan_head_plan *head, int32_t index, int64_t blocks,
                          int64_t sequences)
{
    return banyan_deal_most_of(blocks, sequences, banyan_cut_low(&head->placed, index),
                               head->placed.holder[index].cut);
}

/* Records of `sequences` sequences with `blocks` blocks together; index -1: of all holders. */
static int64_t room(const banyan_plan *plan, const banyan_head_plan *head, int32_t index,
                    int64_t blocks, int64_t sequences)
{
    const banyan_retention *r = &head->retention;
    const int64_t residues = banyan_residues(r), one = banyan_head_window(plan, head);
    const int64_t permanent = sequences == 1
                                  ? banyan_retention_count(r, blocks)
                                  : banyan_smaller(blocks, sequences * (r->prefix + residues) +
                                                               blocks / r->period * residues);
    int64_t window = plan->spec.evict ? banyan_smaller(blocks, sequences * one) : blocks;
    if (residues == r->period || (sequences == 1 && permanent == blocks)) window = 0;
    if (index >= 0 && head->placed.count > 1)
        return banyan_smaller(blocks, dealt_most(head, index, permanent, sequences) +
                                          dealt_most(head, index, window, sequences));
    if (!plan->spec.evict) return blocks;
    if (sequences == 1) window -= window / r->period * residues;
    return banyan_smaller(blocks, permanent + window);
}

void banyan_head_capacity(const banyan_plan *plan, banyan_head_plan *head)
{
    const banyan_spec *spec = &plan->spec;
    const int64_t pool = banyan_blocks(spec->pool_tokens, spec->block_tokens);
    const int64_t one =
        banyan_smaller(pool, banyan_blocks(spec->max_tokens, spec->block_tokens));
    /* A fork's blocks are of several turns, each with an excess of its own. */
    for (int32_t i = 0; i < head->placed.count; i++) {
        head->capacity[i] = room(plan, head, spec->sequences == 1 ? i : -1, one, 1);
        head->pooled[i] = room(plan, head, i, pool, spec->sequences);
    }
}

int64_t banyan_plan_capacity(const banyan_kind *kind, int32_t kv_head, int rank)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    const int32_t index = banyan_holder_index(&head->placed, rank);
    return index < 0 ? 0 : head->capacity[index];
}

/* Records that a rank has room for, of all layers of a kind. */
static int64_t records_of(const banyan_kind *kind, int rank)
{
    int64_t records = 0;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const int32_t index = banyan_holder_index(&kind->head[g].placed, rank);
        if (index >= 0) records += kind->head[g].pooled[index] * kind->kept_layers;
    }
    return records;
}

int64_t banyan_plan_records(const banyan_plan *plan, int32_t pool, int rank)
{
    int64_t records = 0;
    for (int32_t k = 0; k < plan->kinds; k++)
        if (plan->kind[k].pool == pool) records += records_of(&plan->kind[k], rank);
    return records;
}

int64_t banyan_plan_kept(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                         int rank, int64_t tokens)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    const int32_t index = banyan_holder_index(&head->placed, rank);
    if (index < 0) return 0;
    const banyan_kept_set kept = banyan_plan_kept_at(plan, head, tokens, plan->spec.evict);
    return banyan_kept_below(&kept, head->placed.holder[index].cut) -
           banyan_kept_below(&kept, banyan_cut_low(&head->placed, index));
}

int64_t banyan_plan_capacity_bytes(const banyan_plan *plan, int rank)
{
    int64_t bytes = 0;
    for (int32_t k = 0; k < plan->kinds; k++)
        bytes += records_of(&plan->kind[k], rank) * (int64_t)plan->kind[k].shape.record_bytes;
    return bytes;
}
