/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a snapshot: the saved block that a sequence has at a place. */
#include "dist/snapshot_open.h"

#include "dist/plan.h"

static banyan_status not_there(const banyan_opening *o, const banyan_sequence *s, int32_t layer,
                               int32_t kv_head, int64_t block)
{
    const int32_t head = kv_head * banyan_plan_kind(o->plan, layer)->shape.group;
    return banyan_fail(
        BANYAN_ERR_CONFIG,
        "rules: block %lld of sequence %d, layer %d, KV head %d is not in the snapshot in "
        "\"%s\": it was let go there (rule \"%s\"), and \"%s\" %s%s",
        (long long)block, (int)(s - o->c->sequence), (int)layer, (int)kv_head, o->folder,
        o->s.kind[o->s.kind_of_layer[layer]].use[head],
        banyan_plan_kind(o->plan, layer)->use[head],
        banyan_holds(s, layer, kv_head, block) ? "keeps it"
                                               : "adds it to its compensation token",
        o->plan->spec.evict ? "" : " (evict is false)");
}

banyan_status banyan_open_find(const banyan_opening *o, const banyan_sequence *s, int32_t layer,
                               int32_t kv_head, int64_t block, const banyan_entries *of,
                               int32_t count, const banyan_entries **where,
                               const banyan_saved_block **out)
{
    const uint64_t id = banyan_turn_of(&s->layer[layer], block)->id;
    const int64_t left = s->layer[layer].length - block * o->s.block_tokens;
    const banyan_saved_block *found = NULL;
    int32_t i = 0;
    for (; i < count && !found; i++)
        found = banyan_entry_find(of[i].entry, of[i].group->count, block, id);
    if (!found) return not_there(o, s, layer, kv_head, block);
    *where = &of[i - 1];
    *out = found;
    if (found->rows == (left < o->s.block_tokens ? left : o->s.block_tokens)) return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_FILE,
                       "\"%s\": block %lld of layer %d, KV head %d has %d rows: expected "
                       "those of its sequence",
                       (*where)->index->path, (long long)block, (int)layer, (int)kv_head,
                       (int)found->rows);
}
