/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan gives to a rank, in numbers. */
#include "dist/plan.h"
#include "dist/snapshot.h"

#include <stdlib.h>

static const int64_t most_sequences = 65536;

/* The blocks that the row at token `tokens`, the next one, reads: without rollback's
 * reserve. */
static banyan_kept_set read_next(const banyan_plan *plan, const banyan_retention *r,
                                 int64_t turn, int64_t tokens)
{
    const int64_t block = plan->spec.block_tokens;
    banyan_kept_set kept = {.retention = r, .blocks = tokens / block + 1, .turn = turn};
    if (tokens >= r->reach) kept.from = (tokens - r->reach) / block;
    return kept;
}

/* Of decoded rows that read what an earlier layer chose, at most so many blocks; 0: they are
 * not such. */
static int64_t followed_of(const banyan_class *class, int32_t layer)
{
    banyan_following law;
    if (!class->pattern.selector->follows) return 0;
    class->pattern.selector->follows(&class->pattern, &law);
    return banyan_follows(&law, layer) < 0 ? 0 : law.tokens;
}

/* Is all that is kept for the next row read by it, by all query heads of the group? What is
 * read is among what is kept, so it is enough to count. */
static int reads_all(const banyan_head_plan *head, const banyan_kept_set *next, int32_t layer,
                     int64_t tokens)
{
    banyan_selection s;
    int64_t blocks = 0;
    if (head->class_count > 1 || head->classes[0].pattern.selector->chooses ||
        followed_of(&head->classes[0], layer))
        return 0;
    banyan_pattern_select(&head->classes[0].pattern, tokens, tokens, &s);
    for (int32_t i = 0; i < s.count; i++)
        blocks += (s.run[i].last - s.run[i].first) / s.run[i].step + 1;
    return blocks == banyan_kept_below(next, UINT64_MAX);
}

static int64_t dealt_to(const banyan_kept_set *kept, const banyan_placed *placed, int32_t index)
{
    return banyan_kept_below(kept, placed->holder[index].cut) -
           banyan_kept_below(kept, banyan_cut_low(placed, index));
}

/* What a class reads of the blocks that it chooses by data: which they are nobody knows yet,
 * but how many: as if they were the last of those that may be. */
static banyan_run chosen_of(const banyan_class *class, int32_t layer, int64_t own)
{
    const banyan_selector *selector = class->pattern.selector;
    const int64_t followed = followed_of(class, layer);
    banyan_choice choice;
    if (followed) return (banyan_run){followed > own ? 0 : own + 1 - followed, own, 1, 0};
    if (!selector->chooses) return (banyan_run){0, -1, 1, 0};
    selector->chooses(&class->pattern, &choice);
    const int64_t last = own - choice.local, first = last - choice.blocks + 1;
    return (banyan_run){first > choice.first ? first : choice.first, last, 1, 0};
}

/* Blocks and (query head, block) pairs of one holder, block by block: when query heads of a
 * group read different blocks there is no short way, since blocks are dealt by the group's
 * union. */
static banyan_status count_reads(const banyan_plan *plan, const banyan_head_plan *head,
                                 int32_t unit, int32_t layer, int32_t index, int64_t sequences,
                                 int64_t tokens, int64_t *blocks, int64_t *pairs)
{
    const int64_t own = tokens / plan->spec.block_tokens;
    banyan_selection *each = calloc((size_t)head->class_count, sizeof *each);
    banyan_run *chosen = calloc((size_t)head->class_count, sizeof *chosen);
    if (!each || !chosen) {
        free(each), free(chosen);
        return banyan_fail(BANYAN_ERR_MEMORY, "out of memory to count reads");
    }
    for (int32_t c = 0; c < head->class_count; c++) {
        banyan_pattern_select(&head->classes[c].pattern, tokens, tokens, &each[c]);
        if (followed_of(&head->classes[c], layer)) each[c].count = 0;
        chosen[c] = chosen_of(&head->classes[c], layer, own);
    }
    for (int64_t b = 0; b <= own; b++) {
        int64_t readers = 0;
        for (int32_t c = 0; c < head->class_count; c++)
            if (banyan_selection_holds(&each[c], b) ||
                (b >= chosen[c].first && b <= chosen[c].last))
                readers += __builtin_popcountll(head->classes[c].heads) * unit;
        if (!readers) continue;
        for (int64_t turn = 0; turn < sequences; turn++) {
            if (banyan_head_owner(head, (uint64_t)turn, b) != index) continue;
            *blocks += 1;
            *pairs += readers;
        }
    }
    free(each), free(chosen);
    return BANYAN_OK;
}

/* Bytes of summaries that one holder reads to choose blocks of a KV head: of all that may be
 * chosen, once for each picker. */
static int64_t summaries_of(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                            int32_t index, int64_t sequences, int64_t tokens)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    int64_t bytes = 0;
    for (int32_t p = 0; p < kind->pickers; p++) {
        const banyan_choice *choice = &kind->picker[p].choice;
        const int64_t end = tokens / plan->spec.block_tokens - choice->local + 1;
        if (kind->picker[p].kv_head != kv_head || end <= choice->first) continue;
        banyan_kept_set below = {.retention = &head->retention, .blocks = choice->first},
                        all = {.retention = &head->retention, .blocks = end};
        for (int64_t turn = 0; turn < sequences; turn++) {
            below.turn = all.turn = turn;
            bytes += (dealt_to(&all, &head->placed, index) -
                      dealt_to(&below, &head->placed, index)) *
                     banyan_summary_bytes(choice->summary, kind->shape.key_dim);
        }
    }
    return bytes;
}

/* Of `layers` layers like this one. */
static banyan_status add_reads(const banyan_plan *plan, const banyan_kind *kind,
                               int32_t kv_head, int32_t layer, int32_t layers, int rank,
                               int64_t sequences, int64_t tokens, banyan_share *sum)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    const int32_t index = banyan_holder_index(&head->placed, rank);
    if (index < 0) return BANYAN_OK;
    int64_t blocks = 0, pairs = 0;
    const banyan_kept_set next = read_next(plan, &head->retention, 0, tokens);
    if (reads_all(head, &next, layer, tokens)) {
        for (int64_t turn = 0; turn < sequences; turn++) {
            const banyan_kept_set of = read_next(plan, &head->retention, turn, tokens);
            blocks += dealt_to(&of, &head->placed, index);
        }
        pairs = blocks * kind->shape.group;
    } else {
        const banyan_status status = count_reads(plan, head, kind->shape.unit, layer, index,
                                                 sequences, tokens, &blocks, &pairs);
        if (status) return status;
    }
    sum->read_blocks += blocks * layers;
    sum->pairs += pairs * layers;
    sum->summary_bytes += summaries_of(plan, kind, kv_head, index, sequences, tokens) * layers;
    return BANYAN_OK;
}

/* Layers of a kind read alike, but for those that follow others. */
static banyan_status add_kind_share(const banyan_plan *plan, const banyan_kind *kind, int rank,
                                    int64_t sequences, int64_t tokens, banyan_share *sum)
{
    const int32_t alike = kind->followers ? 1 : kind->layer_count;
    banyan_status status = BANYAN_OK;
    for (int32_t layer = kind->first_layer, n = 0; n < kind->layer_count; layer++) {
        if (banyan_plan_kind(plan, layer) != kind) continue;
        for (int32_t g = 0; g < kind->shape.kv_heads && !status; g++)
            status = add_reads(plan, kind, g, layer, alike, rank, sequences, tokens, sum);
        n += alike;
    }
    return status;
}

/* What a rank keeps of a KV head of one layer, of all sequences. */
static int64_t kept_of(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                       int rank, int64_t sequences, int64_t tokens)
{
    const banyan_head_plan *head = &kind->head[kv_head];
    const int32_t index = banyan_holder_index(&head->placed, rank);
    banyan_kept_set kept = banyan_plan_kept_at(plan, head, tokens, plan->spec.evict);
    int64_t blocks = 0;
    for (kept.turn = 0; kept.turn < sequences && index >= 0; kept.turn++)
        blocks += dealt_to(&kept, &head->placed, index);
    return blocks;
}

banyan_share banyan_plan_load(const banyan_plan *plan, int rank, int64_t sequences,
                              int64_t tokens)
{
    banyan_share sum = {0};
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        int64_t blocks = 0;
        for (int32_t g = 0; g < kind->shape.kv_heads; g++)
            blocks += kept_of(plan, kind, g, rank, sequences, tokens) * kind->kept_layers;
        sum.kept_blocks += blocks;
        sum.kept_bytes += blocks * (int64_t)kind->shape.record_bytes;
        sum.snapshot_bytes += blocks * (int64_t)banyan_plain_bytes(&kind->shape.block);
        const int64_t panel =
            kind->pickers || kind->followers ? banyan_pick_pieces(plan) : plan->panel_rows;
        int32_t choosing = 0;
        for (int32_t i = 0; i < plan->spec.layers && kind->followers; i++)
            choosing += banyan_kind_remembers(plan, kind, i) > 0;
        for (int64_t left = sequences; left > 0; left -= panel) {
            banyan_traffic traffic, choices;
            const int64_t rows = left < panel ? left : panel;
            banyan_kind_traffic(plan, kind, (int32_t)rows, rank, &traffic);
            banyan_pick_traffic(plan, kind, (int32_t)rows, rank, &choices);
            sum.messages += (traffic.messages + choices.messages) * kind->layer_count;
            sum.bytes_sent += (traffic.bytes + choices.bytes) * kind->layer_count;
            banyan_follow_traffic(plan, kind, (int32_t)rows, rank, &choices);
            sum.messages += choices.messages * choosing;
            sum.bytes_sent += choices.bytes * choosing;
        }
    }
    sum.capacity_bytes = banyan_plan_capacity_bytes(plan, rank);
    sum.workspace_bytes = banyan_plan_workspace(plan, rank);
    sum.device_bytes = banyan_plan_device_bytes(plan, rank);
    return sum;
}

banyan_status banyan_plan_share(const banyan_plan *plan, int rank, int64_t sequences,
                                int64_t tokens, banyan_share *out)
{
    if (!plan || !out)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "plan_share: plan and out must be given");
    if (rank < 0 || rank >= plan->ranks)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "rank is %d: expected 0..%d", rank,
                           (int)plan->ranks - 1);
    if (tokens < 0 || tokens > plan->spec.max_tokens)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "tokens is %lld: expected 0..%lld",
                           (long long)tokens, (long long)plan->spec.max_tokens);
    if (sequences < 1 || sequences > most_sequences)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "sequences is %lld: expected 1..%lld",
                           (long long)sequences, (long long)most_sequences);
    banyan_share sum = banyan_plan_load(plan, rank, sequences, tokens);
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        const banyan_status status = add_kind_share(plan, kind, rank, sequences, tokens, &sum);
        if (status) return status;
    }
    *out = sum;
    return BANYAN_OK;
}

void banyan_kind_load(const banyan_plan *plan, const banyan_kind *kind, int64_t tokens,
                      banyan_load *load)
{
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        banyan_kept_set kept = banyan_plan_kept_at(plan, head, tokens, 1);
        int64_t before = 0;
        for (int32_t i = 0; i < head->placed.count; i++) {
            int64_t below = 0;
            for (kept.turn = 0; kept.turn < plan->spec.sequences; kept.turn++)
                below += banyan_kept_below(&kept, head->placed.holder[i].cut);
            const int64_t blocks = (below - before) * kind->kept_layers;
            banyan_load *rank = &load[head->placed.holder[i].rank];
            rank->blocks += blocks;
            rank->bytes += blocks * (int64_t)kind->shape.record_bytes;
            before = below;
        }
    }
}

double banyan_imbalance(const banyan_plan *plan, const banyan_load *kept)
{
    double sum = 0, speed = 0, most = 0;
    for (int32_t r = 0; r < plan->ranks; r++) {
        const double b = plan->spec.bandwidth[r];
        const double bytes = (double)kept[r].bytes;
        if (b > 0 && bytes / b > most) most = bytes / b;
        sum += bytes;
        speed += b;
    }
    return sum > 0 ? most / (sum / speed) : 1;
}

int64_t banyan_kind_extra_holders(const banyan_kind *kind)
{
    int64_t extra = 0;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) extra += kind->head[g].placed.count - 1;
    return extra;
}
