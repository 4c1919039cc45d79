/* SPDX-License-Identifier: Apache-2.0 */
/* What choosing columns, diagonals, blocks of a call and tokens takes of a cache's
 * workspace. */
#include "dist/plan.h"
#include "dist/workspace.h"

/* Of a kind whose heads choose columns and diagonals. */
void banyan_fit_lines(const banyan_plan *plan, const banyan_kind *kind, int rank,
                      banyan_sizes *out)
{
    int32_t here = 0;
    int64_t gathered = 0;
    for (int32_t i = 0; i < kind->liners; i++) {
        const banyan_liner *l = &kind->liner[i];
        const int64_t records = banyan_line_records(plan, l);
        if (banyan_holder_index(&kind->head[l->kv_head].placed, rank) < 0) continue;
        here++;
        /* a list is of query heads of one KV head */
        if (i && kind->liner[i - 1].kv_head != l->kv_head) gathered = 0;
        gathered += records < 2 ? 2 : records; /* in place, the two at a range's ends are */
        if (gathered > out->gathered) out->gathered = gathered;
        if (l->chosen > out->lines) out->lines = l->chosen;
        if (l->room > out->columns) out->columns = l->room;
        if (l->law.mass > 0) out->places = 1;
        if (kind->pools) out->pools = 1;
    }
    if (here > out->liners) out->liners = here;
    const int64_t numbers = kind->shape.key_dim + kind->shape.value_dim;
    if (numbers > out->plain_numbers) out->plain_numbers = numbers;
}

/* Of a kind whose decoded rows choose tokens, and read them. */
void banyan_fit_followers(const banyan_plan *plan, const banyan_kind *kind, int rank,
                          banyan_sizes *out)
{
    int32_t here = 0;
    int64_t masks = 0;
    for (int32_t i = 0; i < kind->followers; i++) {
        const banyan_follower *f = &kind->follower[i];
        const int64_t blocks = banyan_most_blocks(plan), tokens = f->law.tokens;
        if (banyan_holder_index(&kind->head[f->kv_head].placed, rank) < 0) continue;
        here++;
        if (i && kind->follower[i - 1].kv_head != f->kv_head) masks = 0;
        masks += tokens < blocks ? tokens : blocks;
        if (masks > out->masks) out->masks = masks;
    }
    if (here > out->followers) out->followers = here;
    if (kind->follow_tokens > out->follow_tokens) out->follow_tokens = kind->follow_tokens;
    if (banyan_follow_bytes(plan, kind) > out->follow_bytes)
        out->follow_bytes = banyan_follow_bytes(plan, kind);
}

/* What a sequence remembers of a step. */
banyan_followed **banyan_lay_followed(const banyan_plan *plan, int rank, banyan_arena *arena,
                                      const banyan_cache *c)
{
    banyan_followed **all = banyan_arena_take(arena, plan->kinds, sizeof *all);
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        banyan_followed *of = banyan_arena_take(arena, kind->followers, sizeof *of);
        if (c) all[k] = of;
        for (int32_t i = 0; i < kind->followers; i++) {
            const banyan_follower *f = &kind->follower[i];
            if (banyan_holder_index(&kind->head[f->kv_head].placed, rank) < 0) continue;
            int64_t *token = banyan_arena_take(arena, f->law.tokens, sizeof *token);
            if (c) of[i].token = token;
        }
    }
    return all;
}

/* What each worker needs to choose columns and diagonals. */
static void lay_observing(const banyan_plan *plan, banyan_arena *arena, const banyan_sizes *z,
                          banyan_cache *c)
{
    const int64_t tokens = plan->spec.block_tokens, plain = tokens * z->plain_numbers;
    const int64_t blocks = z->pools ? banyan_most_blocks(plan) : 0;
    banyan_observing *all = banyan_arena_take(arena, z->workers, sizeof *all);
    for (int32_t i = 0; i < z->workers; i++) {
        banyan_observing o = {
            .sums.diagonal = banyan_arena_take(arena, plan->spec.max_tokens, sizeof(double)),
            .sums.score = banyan_arena_take(arena, BANYAN_LINE_ROWS * tokens, sizeof(float)),
            .q = banyan_arena_take(arena, BANYAN_LINE_ROWS * z->plain_numbers, sizeof(float)),
            .column = banyan_arena_take(arena, BANYAN_SCORED * tokens, sizeof(float)),
            .pick = banyan_arena_take(arena, z->lines, sizeof(banyan_pick)),
            .mass = banyan_arena_take(arena, blocks, sizeof(double)),
            .pooled = banyan_arena_take(arena, BANYAN_POOLED * blocks, sizeof(double)),
            .plain_k = banyan_arena_take(arena, plain, sizeof(float)),
            .plain_v = banyan_arena_take(arena, plain, sizeof(float))};
        if (!c) continue;
        all[i] = o;
        c->worker[i].observing = &all[i];
    }
}

/* What a part's rows read of columns and diagonals. All kinds share it. */
void banyan_lay_lines(const banyan_plan *plan, int rank, banyan_arena *arena,
                      const banyan_sizes *z, banyan_part *part, banyan_cache *c)
{
    if (!z->liners) return;
    size_t record = 0;
    const int64_t tokens = plan->spec.block_tokens;
    const int64_t records = (z->columns + tokens - 1) / tokens;
    const int64_t words = banyan_block_words(plan);
    const int64_t seen = z->places ? banyan_most_blocks(plan) * banyan_mask_words(plan) : 0;
    const int64_t only = z->pools ? banyan_pick_pieces(plan) * words : 0;
    for (int32_t k = 0; k < plan->kinds; k++) {
        const size_t bytes = plan->kernel->record_bytes(&plan->kind[k].shape.block);
        if (plan->kind[k].liners && bytes > record) record = bytes;
    }
    int64_t *column = banyan_arena_take(arena, z->liners * z->columns, sizeof *column);
    uint64_t *band = banyan_arena_take(arena, z->liners * words, sizeof *band);
    uint64_t *places = banyan_arena_take(arena, z->liners * seen, sizeof *places);
    uint64_t *blocks = banyan_arena_take(arena, z->liners * only, sizeof *blocks);
    char *gathered = banyan_arena_take(arena, z->liners * records, record);
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        banyan_line_set *set = banyan_arena_take(arena, kind->liners, sizeof *set);
        int64_t n = 0;
        if (!c) continue;
        part[k].line = set;
        for (int32_t i = 0; i < kind->liners; i++) {
            const int32_t kv_head = kind->liner[i].kv_head;
            if (banyan_holder_index(&kind->head[kv_head].placed, rank) < 0) continue;
            set[i] = (banyan_line_set){.column = column + n * z->columns,
                                       .band = band + n * words,
                                       .seen = places + n * seen,
                                       .only = blocks + n * only,
                                       .records = gathered + (size_t)(n * records) * record};
            n++;
        }
    }
    lay_observing(plan, arena, z, c);
}

/* What a panel's decoded rows choose of tokens, and what choosing takes. */
void banyan_lay_follows(const banyan_plan *plan, int rank, banyan_arena *arena,
                        const banyan_sizes *z, banyan_part *part, banyan_cache *c)
{
    if (!z->follow_bytes) return;
    char *pick = banyan_arena_take(arena, z->followers, z->follow_bytes);
    banyan_pick *room = banyan_arena_take(arena, z->follow_tokens, sizeof *room);
    uint64_t *no_blocks = banyan_arena_take(arena, banyan_block_words(plan), sizeof *no_blocks);
    for (int32_t i = 0; i < z->workers; i++) {
        float *scored =
            banyan_arena_take(arena, BANYAN_SCORED * plan->spec.block_tokens, sizeof *scored);
        if (!c) continue;
        c->worker[i].scored = scored;
    }
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_kind *kind = &plan->kind[k];
        banyan_pick **picks = banyan_arena_take(arena, kind->followers, sizeof *picks);
        int64_t n = 0;
        if (!c) continue;
        part[k].follow = picks;
        for (int32_t i = 0; i < kind->followers; i++)
            if (banyan_holder_index(&kind->head[kind->follower[i].kv_head].placed, rank) >= 0)
                picks[i] = (banyan_pick *)(void *)(pick + (size_t)n++ * z->follow_bytes);
    }
    if (!c) return;
    c->follow_room = room;
    c->no_blocks = no_blocks;
}
