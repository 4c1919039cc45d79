/* SPDX-License-Identifier: Apache-2.0 */
/* dist.h - the only joiner: which rank keeps what, and attention over it.
 *
 * Knows: attention/ (what a block, a pattern and a partial are) and comm/ (ranks and
 * schedules).
 * Refuses to know: how a block is stored, how bytes move, files, models.
 *
 * The line. Lay the context that every KV head of a layer keeps end to end on a line, and cut
 * the line into P pieces in proportion to the ranks' bandwidths. Piece r is what rank r
 * keeps. */
#ifndef BANYAN_DIST_H
#define BANYAN_DIST_H

#include "attention/attention.h"
#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- placement --------------------------------------------------------------------------- */

/* Products of two 64-bit numbers, exactly. */
__extension__ typedef unsigned __int128 uint128;

/* A rank's part of a KV head. Blocks are dealt in proportion to the parts by a low-discrepancy
 * sequence: the owner of the block with ordinal n is the first holder whose cut exceeds
 * bitreverse64(n). Cuts ascend; the last is UINT64_MAX and takes what remains. */
typedef struct banyan_holder {
    int32_t rank;
    uint64_t cut;
} banyan_holder;

/* What a placement decides for one KV head: holders[0 .. count-1], ascending rank. */
typedef struct banyan_placed {
    banyan_holder *holder; /* room for `ranks` */
    int32_t count;
} banyan_placed;

/* One row of dist/placements.def. weight [kv_heads]: the head's length on the line, in blocks
 * (or in pairs); bandwidth [ranks], multiples of 1/16, none negative, not all 0; node [ranks]:
 * the node of each; border: what 2 blocks are in units of weight (the snap). Pure; the same on
 * every rank. */
typedef struct banyan_placement {
    const char *name;
    void (*place)(const double *weight, int32_t kv_heads, const double *bandwidth,
                  const int32_t *node, int32_t ranks, double border, banyan_placed *out);
} banyan_placement;
const banyan_placement *banyan_placement_find(const char *name);
const banyan_placement *banyan_placement_row(int index); /* NULL past the end */
const char *banyan_placement_doc(const banyan_placement *placement);

int banyan_owner_index(const banyan_holder *holder, int32_t count, uint64_t ordinal);

/* ---- plan -------------------------------------------------------------------------------- */

/* One KV head of a kind of layer. */
typedef struct banyan_head_plan {
    /* The union over its group and all readers of its cache layer. */
    banyan_retention retention;
    banyan_placed placed;
    banyan_class *classes; /* query heads of the group with equal patterns: [class_count] ..  */
    int32_t class_count;   /* .. bit h of a class is query heads kv_head * group + h * unit ..,
                                     h < 64; classes of subgroup s follow those of s-1 .. */
    int32_t *subgroup_first; /* .. [subgroups + 1]: first class of each 64 units */
    int64_t *capacity; /* [placed.count]: records that one sequence takes of each holder .. */
    int64_t *pooled;   /* .. and all together; see plan_memory.c */
    double weight;
    const banyan_pattern *compensated; /* by which rows of some class, or of some reader, have a
                                          compensation token; NULL: none have */
} banyan_head_plan;

/* The shape of a kind of layer: what spec.shapes says of it, with the spec's for what it leaves
 * out. */
typedef struct banyan_shape {
    int32_t kv_heads, key_dim, value_dim;
    int32_t group; /* query heads of a KV head .. */
    int32_t unit; /* .. so many of which a bit of a class stands for: 2 where a group is wide */
    int32_t subgroups; /* .. and how many tiles of heads they make */
    float scale;
    banyan_block_shape block; /* as kernels see it */
    size_t record_bytes;
} banyan_shape;

/* Query heads of one KV head that choose blocks together (selector `chooses`). */
typedef struct banyan_picker {
    const banyan_pattern *pattern;
    banyan_choice choice; /* of at most as many blocks as there are */
    int32_t kv_head, heads;
    int32_t *head; /* [heads] ascending */
} banyan_picker;

/* A query head that chooses columns and diagonals (selector `lines`). */
typedef struct banyan_liner {
    banyan_lines law; /* of at most as many as there are tokens */
    int32_t head, kv_head;
    int64_t chosen; /* at most so many of either .. */
    int64_t room;   /* .. and of columns, so many are gathered at most */
} banyan_liner;

/* A query head whose decoded rows read what an earlier layer chose (selector `follows`). */
typedef struct banyan_follower {
    banyan_following law; /* of at most as many tokens as there are */
    int32_t head, kv_head;
} banyan_follower;

/* Layers whose shapes and rules are the same, and whose cache layers are read alike, share one
 * kind: see plan_kinds.c. */
typedef struct banyan_kind {
    int32_t first_layer, layer_count;
    int32_t kept_layers; /* of these: with keys and values of their own */
    int32_t *reader; /* [reader_count] kinds that read what this one reads, itself among them */
    int32_t reader_count;
    banyan_shape shape;
    const char **use;       /* [heads] the rule text of each query head, for print */
    banyan_head_plan *head; /* [shape.kv_heads] */
    int32_t *home;          /* [heads] */
    banyan_item *item;      /* [heads]: a query head's partials */
    int32_t *holder_rank;   /* what the items' holder lists point into */
    banyan_schedule schedule;
    int64_t *end; /* [ends] ascending: rows from which on some head reads by another law */
    int32_t ends;
    int compensates;       /* some head is `compensated` */
    banyan_picker *picker; /* [pickers] */
    int32_t pickers;
    int32_t *picker_of; /* [heads]: which one a query head is of, or -1; NULL: there are none */
    banyan_liner *liner; /* [liners] */
    int32_t liners;
    int32_t *liner_of;         /* [heads]: likewise; NULL: there are none */
    int32_t line_rows;         /* a part with fewer rows chooses none; 0: nobody does */
    int pools;                 /* some of them may choose blocks instead */
    banyan_follower *follower; /* [followers] */
    int32_t followers;
    int32_t *follower_of;            /* [heads]: likewise */
    int64_t follow_tokens;           /* the most that one of them remembers */
    banyan_schedule follow_schedule; /* the holders of a KV head tell each other the best */
    int64_t picks;                   /* the most blocks that one of them chooses */
    int tallies;                     /* some of them choose by mass */
    /* The holders of a KV head tell each other what they found best. */
    banyan_schedule pick_schedule;
    /* Of each kind of summary that some reader chooses by: where it lies in a record; 0: nobody
     * does. */
    size_t summary_at[BANYAN_SUMMARIES];
    int32_t pool;       /* which of the cache's pools its records are of */
    int32_t cut_blocks; /* blocks of a list that a thread computes at a time (panel.c) */
} banyan_kind;

struct banyan_plan {
    /* Defaults filled in; strings and arrays owned; cache_layer is never NULL. */
    banyan_spec spec;
    banyan_comm *comm;
    int32_t ranks, rank;
    int32_t panel_rows; /* rows that are merged at a time */
    const banyan_kernel *kernel;
    const banyan_placement *placement;
    const banyan_merge *merge;
    int32_t kinds;
    int32_t pools;          /* one for each size of a record */
    banyan_kind *kind;      /* [kinds] */
    int32_t *kind_of_layer; /* [layers] */
    uint64_t hash;
    char *warnings; /* coverage holes and the like, a line each; "" for none */
    void *owned;    /* what plan_free frees */
};

/* Records of (kind, KV head) that one sequence takes on a rank at most. */
int64_t banyan_plan_capacity(const banyan_kind *kind, int32_t kv_head, int rank);
/* Records that a rank has room for in a pool. */
int64_t banyan_plan_records(const banyan_plan *plan, int32_t pool, int rank);
/* Records that a rank keeps of it at `tokens` tokens. */
int64_t banyan_plan_kept(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                         int rank, int64_t tokens);
/* Bytes that a row of a head adds up to: see sums.c. */
size_t banyan_sum_bytes(const banyan_plan *plan, int32_t value_dim);
/* Bytes that a cache takes besides its records on a rank. */
int64_t banyan_plan_workspace(const banyan_plan *plan, int rank);
/* Of the records and all else, those in device memory: 0 on the CPU. */
int64_t banyan_plan_device_bytes(const banyan_plan *plan, int rank);

/* The largest value_dim, and the largest partial or fixed-point sum of a row, of any kind. */
int32_t banyan_plan_value_dim(const banyan_plan *plan);
size_t banyan_plan_row_bytes(const banyan_plan *plan);

static inline const banyan_kind *banyan_plan_kind(const banyan_plan *plan, int32_t layer)
{
    return &plan->kind[plan->kind_of_layer[layer]];
}
/* A panel in which blocks are chosen by data has at most so many pieces, and choices take at
 * most so many bytes of each picker. */
enum { BANYAN_PICK_PIECES = 64 };
static inline int64_t banyan_pick_pieces(const banyan_plan *plan)
{
    return plan->panel_rows < BANYAN_PICK_PIECES ? plan->panel_rows : BANYAN_PICK_PIECES;
}
/* Of one piece: picks, and behind them a tally, if there are any. */
static inline size_t banyan_picks_bytes(const banyan_kind *kind)
{
    return (size_t)kind->picks * sizeof(banyan_pick) +
           (kind->tallies ? sizeof(banyan_tally) : 0);
}
static inline size_t banyan_pick_bytes(const banyan_plan *plan, const banyan_kind *kind)
{
    return (size_t)banyan_pick_pieces(plan) * banyan_picks_bytes(kind);
}
/* Of all pieces of a panel, what one follower remembers. */
static inline size_t banyan_follow_bytes(const banyan_plan *plan, const banyan_kind *kind)
{
    return (size_t)(banyan_pick_pieces(plan) * kind->follow_tokens) * sizeof(banyan_pick);
}
/* Records of the columns that somebody reads, gathered. */
static inline int64_t banyan_line_records(const banyan_plan *plan, const banyan_liner *l)
{
    return (l->room + plan->spec.block_tokens - 1) / plan->spec.block_tokens;
}
/* Is anything remembered of the blocks of a kind's layers? */
static inline int banyan_is_summarised(const banyan_kind *kind)
{
    for (int32_t i = 0; i < BANYAN_SUMMARIES; i++)
        if (kind->summary_at[i]) return 1;
    return 0;
}
/* Index of the holder that a block is dealt to, in a sequence with this turn. */
static inline int banyan_head_owner(const banyan_head_plan *head, uint64_t turn, int64_t block)
{
    const uint64_t ordinal = (uint64_t)banyan_retention_ordinal(&head->retention, block);
    return banyan_owner_index(head->placed.holder, head->placed.count, ordinal + turn);
}
/* Does a layer have keys and values of its own? */
static inline int banyan_keeps_own(const banyan_plan *plan, int32_t layer)
{
    return plan->spec.cache_layer[layer] == layer;
}
/* Query heads of a tile, at most. */
static inline int32_t banyan_tile_heads(const banyan_shape *shape)
{
    const int32_t most = BANYAN_TILE_HEADS * shape->unit;
    return shape->group < most ? shape->group : most;
}
/* Index of `rank` among a KV head's holders, or -1. */
int32_t banyan_holder_index(const banyan_placed *placed, int rank);

#ifdef __cplusplus
}
#endif
#endif
