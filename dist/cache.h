/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h - what a cache is made of; for the files of dist/ that work on one.
 *
 *     cache ─ pool [pools]       block records, and how many of them every rank uses
 *           ─ chunks             what sequences' block tables are made of
 *           ─ sequence  [sequences]
 *               ─ layer [layers]   how long the sequence is here, and how far back it may go
 *                   ─ turns        how its blocks are dealt
 *                   ─ kept         [KV heads held here]  the block table of one KV head
 *           ─ part      [kinds]    what this rank does in all layers of a kind
 *           ─ input     [inputs]   one tile's q and block list
 *           ─ worker    [workers]  one thread's scratch
 *           ─ partials             of tiles, or of parts of tiles
 *
 * Everything but the block records and the turns lies in one arena, laid out by
 * plan_workspace.c, which also measures it for ranks that are not here. */
#ifndef BANYAN_DIST_CACHE_H
#define BANYAN_DIST_CACHE_H

#include "dist/arena.h"
#include "dist/dist.h"
#include "dist/line_set.h"

/* A probed call goes in panels of at most so many rows: its partials need room twice. */
enum { BANYAN_PROBE_ROWS = 256 };

/* ---- blocks ------------------------------------------------------------------------------ */

/* Block records of one size that there is room for here, and how many every rank uses. */
typedef struct banyan_pool {
    char *records; /* [capacity][record_bytes], on the plan's device */
    size_t record_bytes;
    int64_t capacity, held;
    /* [capacity]: of a record that was given back, the one that was before, + 1. */
    uint32_t *next;
    /* What every rank uses, and may: each counts for all, so that all say alike: it is full. */
    int64_t *used, *most, *change; /* [ranks] */
} banyan_pool;

/* Records of a pool from which those of one KV head of one layer are taken by preference, in
 * order, so that a list of blocks goes through memory from front to back. */
typedef struct banyan_region {
    int64_t first, capacity;
    int64_t touched; /* records that were ever used: the first ones */
    uint32_t spare;  /* of those given back, the last, + 1 */
} banyan_region;

/* A part of a block table. Forks share them: what is shared is not written. */
typedef struct banyan_chunk {
    banyan_held held[BANYAN_HELD_CHUNK];
    struct banyan_chunk *next; /* among those that nobody uses */
    int32_t holders;
} banyan_chunk;

/* The block table of one KV head of one layer: the blocks that this rank keeps, ascending. */
typedef struct banyan_kept {
    banyan_held **chunk; /* [capacity / BANYAN_HELD_CHUNK + 1], of banyan_chunks */
    int64_t count;
} banyan_kept;

/* Blocks from `first` on, up to the next of the list, are dealt with this turn. Two sequences
 * hold the same record of a block iff its id is the same in both. */
typedef struct banyan_turn {
    int64_t first;
    uint64_t turn, id;
} banyan_turn;

/* Of a KV head whose rows have a compensation token: sums of its keys and values, from the
 * first token that is left out to end - 1, as rows of the floor's block need them: see
 * compensation.c. */
typedef struct banyan_compensation {
    int64_t end;
    double *sum; /* [key_dim + value_dim]; NULL: the head's rows have none */
} banyan_compensation;

/* A layer of a sequence. What it holds of a KV head, on all ranks together, follows from it:
 * blocks below `length` that are permanent or not below banyan_settled(floor). */
typedef struct banyan_layer {
    int64_t length, longest; /* tokens now, and the most there ever were */
    int64_t floor;           /* rows below it may miss blocks */
    /* Tokens below it have their keys and values: of a step they come after it, layer by layer.
     * On a device those below `replayed` have them as well, once the last step's graph was
     * replayed. */
    int64_t written, replayed;
    /* Blocks below it are as in the snapshot cache->saved_id, under the same ids. */
    int64_t clean;
    banyan_turn *turns; /* ascending, the first from block 0 on */
    int32_t turn_count;
    banyan_kept *kept;                 /* [part->mine_count] */
    banyan_compensation *compensation; /* [part->mine_count]; NULL: no head has any */
} banyan_layer;

struct banyan_sequence {
    banyan_cache *cache;
    int is_live;
    int goes_back;   /* in the call that is under way */
    uint64_t turn;   /* of its own blocks */
    uint64_t family; /* of all that were forked from one */
    int64_t call;    /* the last call that named it */
    int64_t step;    /* the last step that did, and its part: */
    int64_t step_at;
    int32_t step_rows;
    banyan_layer *layer;        /* [layers] */
    banyan_followed **followed; /* [kinds][followers] */
    banyan_turn *turns;         /* [layers][turns]: see banyan_sequence_take */
};

/* ---- the rest ---------------------------------------------------------------------------- */

/* A KV head of which this rank is a holder. */
typedef struct banyan_mine {
    int32_t kv_head, index; /* index among its holders */
} banyan_mine;

typedef struct banyan_part {
    banyan_mine *mine;
    int32_t mine_count;
    int32_t *order; /* [mine_count]: the first `early` have partials that are sent at once */
    int32_t early;
    banyan_exchange *exchange;
    void **data; /* [heads]: a query head's sums of a panel, [rows] (sums.c); NULL: none */
    banyan_pick **pick; /* [pickers]: of each piece of a panel [picks]; NULL: not chosen here */
    int64_t **pick_count; /* [pickers]: of each piece, how many are chosen */
    banyan_exchange *pick_exchange;
    banyan_pick **follow; /* [followers]: of each piece [follow_tokens]; NULL: not held here */
    banyan_exchange *follow_exchange;
    banyan_line_set *line; /* [liners]: what they read, of one part at a time (lines.c) */
    int has_lines;         /* 0: the panel's rows read all */
    void **mass; /* [heads]: likewise what else a panel is asked for: BANYAN_WHAT_.. */
} banyan_part;

/* What a tile attends with: its q, and the list of its blocks. */
typedef struct banyan_tile_input {
    float *q; /* [tile_heads][rows][key_dim] */
    banyan_entry *entry;
    banyan_edge *edge;
    banyan_chosen *chosen;  /* [sizes.edges]: of each class */
    uint64_t *mask;         /* [sizes.gathered][words of a block]: of gathered columns */
    int64_t first, entries; /* of these, those that the part's range leaves */
    int32_t hints;          /* entries behind them that are only to be asked for */
    int is_refused;         /* a list could not be built */
} banyan_tile_input;

typedef struct banyan_worker {
    void *workspace;         /* the kernel's */
    banyan_strongest *best;  /* of one tile's rows */
    int64_t pairs;           /* (query row, block) pairs computed in this panel */
    void *plain_k, *plain_v; /* a block's rows as they are kept; NULL: nobody needs them .. */
    double *sum;             /* .. and sums of them */
    float *keys;             /* .. and the keys in fp32; NULL: nobody chooses by data */
    float *pooled;           /* queries that choose together, each the sum of its rows */
    banyan_observing *observing; /* NULL: nobody chooses columns */
    float *scored; /* [BANYAN_SCORED][block_tokens]; NULL: nobody chooses tokens */
} banyan_worker;

/* Rows of one part of a call, of one own block: one row of tiles. A selector may divide them
 * further. */
typedef struct banyan_piece {
    int32_t part;  /* index into the batch */
    int32_t first; /* row of the call */
    int32_t rows;
    int64_t at; /* token of its first row */
} banyan_piece;

/* Rows first .. first+rows-1 of a call, that are merged together: whole pieces. */
typedef struct banyan_panel {
    int32_t first, rows;
    const banyan_piece *piece;
    int32_t pieces;
    int32_t next_part, next_row; /* where the next panel begins: a part, and a row of it */
    int attends; /* its pieces end where some head begins to read by another law */
} banyan_panel;

/* How much of everything a rank needs: see plan_workspace.c. */
typedef struct banyan_sizes {
    int32_t tile_heads, tile_rows; /* largest tile */
    int32_t workers, inputs, partials;
    int64_t list, edges; /* entries and edges of the longest list */
    int64_t items;       /* items of a kind that lie here, at most */
    int64_t chunks;
    /* Of a key and a value, where somebody needs them as they are kept. */
    int64_t plain_numbers;
    int32_t pickers;   /* of a kind that choose here, at most */
    int64_t picks;     /* of one of them, at most .. */
    size_t pick_bytes; /* .. and bytes of all pieces */
    int32_t chooses;   /* 1: somebody chooses by data, here or elsewhere */
    int32_t liners;    /* of a kind that choose columns here, at most */
    int64_t lines;     /* columns or diagonals of one of them, at most */
    int64_t columns;   /* .. and columns that are gathered */
    int32_t places;    /* 1: some may be too many to gather */
    int32_t pools;     /* 1: some liner may choose blocks */
    int64_t masks;     /* of tokens that a list holds, at most .. */
    int64_t gathered;  /* .. and of columns, and both together */
    int32_t followers; /* of a kind that choose tokens here, at most .. */
    int64_t follow_tokens;
    size_t follow_bytes;    /* .. and bytes of all pieces */
    int64_t joined_numbers; /* of a compensation token's key and value; 0: there are none */
    size_t item_bytes, mass_bytes, partial_bytes;
} banyan_sizes;

typedef struct banyan_call banyan_call;

/* Asked of a panel's rows: results, a probe's mass (its index), or the strongest token. */
enum { BANYAN_WHAT_RESULTS = -1, BANYAN_WHAT_STRONGEST = -2 };

/* The four steps of a call that depend on where records lie. */
typedef struct banyan_backend {
    /* The call's k and v to the records of its blocks. */
    banyan_status (*write)(banyan_cache *c, const banyan_call *call);
    /* Partials of a panel: of the KV heads part->order[from .. to-1]. */
    banyan_status (*compute)(banyan_cache *c, const banyan_call *call,
                             const banyan_panel *panel, int32_t from, int32_t to);
    /* Sends what is sent at once. */
    banyan_status (*send)(banyan_cache *c, const banyan_call *call, const banyan_panel *panel);
    /* Merges all of them across ranks, and writes out and lse (on a device, mass as well) where
     * they are wanted. */
    banyan_status (*merge)(banyan_cache *c, const banyan_call *call, const banyan_panel *panel);
    /* The panel once more, for a probe or the strongest token; NULL: compute and merge do. */
    banyan_status (*probe)(banyan_cache *c, const banyan_call *call, const banyan_panel *panel,
                           int32_t what);
    /* A copy of a record. */
    banyan_status (*copy)(banyan_cache *c, void *to, const void *from, size_t bytes);
} banyan_backend;

struct banyan_cache {
    const banyan_plan *plan;
    const banyan_backend *backend;
    struct banyan_device_cache *device; /* device_cache.h; NULL on the CPU */
    banyan_sizes sizes;
    banyan_pool *pool;         /* [plan->pools] */
    banyan_region **region;    /* [layers][KV heads held here] */
    banyan_chunk *chunks;      /* [sizes.chunks] */
    banyan_chunk *spare_chunk; /* a list */
    int64_t touched_chunks;
    banyan_sequence *sequence; /* [spec.sequences] */
    int32_t live;              /* sequences that there are */
    uint64_t next_id;          /* of turns and families */
    int64_t calls, steps;
    uint64_t saved_id; /* the snapshot that this was saved to or opened from last; 0: none */
    banyan_part *part;
    banyan_tile_input *input;
    banyan_worker *worker;
    banyan_piece *piece;      /* [panel_rows] */
    banyan_pick *pick_room;   /* [sizes.picks]: of a merge of two */
    banyan_pick *follow_room; /* [sizes.follow_tokens]: likewise */
    uint64_t *no_blocks;      /* of rows whose lists have tokens alone */
    char *partials;           /* [partials][tile_heads * tile_rows] sums */
    int64_t *start;           /* [inputs + 1]: the first cut of an input's list, end to end */
    /* Compensation tokens of a panel, of each KV head held here and piece: for how many tokens
     * it stands (0: there is none), and their means. */
    int64_t *joined;     /* [KV heads][panel_rows] */
    float *joined_means; /* [KV heads][panel_rows][sizes.joined_numbers]: key, value */
    float *maxima;       /* [heads][panel_rows]; NULL: no merge reduces, likewise .. */
    float *pass_room;    /* .. twice the longest pass */

    char *arena;
    size_t arena_bytes;
    void *map; /* records as mapped; the first record lies at a huge page's border */
    size_t map_bytes;

    banyan_stats stats;
};

/* One call of banyan_attend, checked. */
struct banyan_call {
    int32_t layer, cache_layer; /* whose keys and values it reads */
    const banyan_rows *batch;
    int32_t count;
    int32_t rows; /* of all parts */
    const void *q, *k, *v;
    void *out;
    float *lse;
    int is_recorded; /* captured, to be replayed with other sequences at other tokens */
    int32_t probes;  /* the most that a part asks the mass of */
    int strongest;   /* some part asks for the strongest token */
};

banyan_sizes banyan_sizes_of(const banyan_plan *plan, int rank);
/* Lays out a cache's arena; c NULL: only counts. */
void banyan_cache_layout(const banyan_plan *plan, int rank, banyan_arena *arena,
                         banyan_cache *c);

/* Does an item lie on `rank` at some time: is it held or wanted there? */
int banyan_item_is_here(const banyan_plan *plan, const banyan_item *item, int rank);

/* kept.c: block tables and records. */
static inline banyan_held banyan_kept_at(const banyan_kept *kept, int64_t i)
{
    return kept->chunk[i / BANYAN_HELD_CHUNK][i % BANYAN_HELD_CHUNK];
}
/* The first held block that is not below `block`. */
int64_t banyan_kept_find(const banyan_kept *kept, int64_t block);
/* Behind the others. MEMORY: there is no chunk, which was planned for. */
banyan_status banyan_kept_add(banyan_cache *c, banyan_kept *kept, banyan_held held);
banyan_status banyan_kept_put(banyan_cache *c, banyan_kept *kept, int64_t i, banyan_held held);
/* Only the first `count` remain; records are the caller's matter. */
void banyan_kept_cut(banyan_cache *c, banyan_kept *kept, int64_t count);
/* `to`, empty, becomes the first `count` of `from`. */
void banyan_kept_share(banyan_kept *to, const banyan_kept *from, int64_t count);
/* Records of all pools, one behind the other. */
void banyan_pools_place(banyan_cache *c, char *records);
/* Of KV head j of a layer; NULL when all are used. */
void *banyan_record_take(banyan_cache *c, int32_t layer, int32_t j);
void banyan_record_give(banyan_cache *c, int32_t layer, int32_t j, void *record);

/* turns.c: who holds what, on all ranks: arithmetic. */
/* Blocks below it that are not permanent were let go. */
int64_t banyan_settled(const banyan_plan *plan, const banyan_head_plan *head, int64_t floor);
const banyan_turn *banyan_turn_of(const banyan_layer *layer, int64_t block);
/* Does another sequence hold the same record? */
int banyan_is_shared(const banyan_sequence *s, int32_t layer, int32_t kv_head, int64_t block);
/* .. one that comes before it in the cache: which; NULL: none. */
const banyan_sequence *banyan_is_shared_before(const banyan_sequence *s, int32_t layer,
                                               int32_t kv_head, int64_t block);
int banyan_holds(const banyan_sequence *s, int32_t layer, int32_t kv_head, int64_t block);
/* What every rank uses changes by all that s holds of a layer and no sequence before it
 * does. */
void banyan_count_kept(banyan_sequence *s, int32_t layer);
/* What every rank uses changes by the blocks first .. end-1 that s holds of a layer and that
 * are let go for good; with floor >= 0 only by those that are not permanent and settled by
 * it. */
void banyan_count_drops(banyan_sequence *s, int32_t layer, int64_t first, int64_t end,
                        int64_t floor);
/* .. by the blocks first .. end-1, which s takes, dealt with this turn. */
void banyan_count_takes(banyan_sequence *s, int32_t layer, uint64_t turn, int64_t first,
                        int64_t end);
/* .. and by the copies of a block that s shares. */
void banyan_count_copies(banyan_sequence *s, int32_t layer, int64_t block);
/* MEMORY where the change is more than what is left anywhere. */
banyan_status banyan_count_check(banyan_cache *c);
void banyan_count_begin(banyan_cache *c);
void banyan_count_end(banyan_cache *c); /* the change becomes real */
/* Blocks from `block` on are s's own, and not one of them is shared: it is about to write them.
 * Is `block` half written, it stays with the rank that has it. */
void banyan_turns_branch(banyan_sequence *s, int32_t layer, int64_t block, int is_half);

/* sequence.c: a free place, with room for `turns` turns in every layer and some more; not live
 * yet. */
banyan_status banyan_sequence_take(banyan_cache *c, int32_t turns, banyan_sequence **out);

/* compensation.c. The tokens *first .. *end-1 that KV head j's rows from the floor on all leave
 * out; 0: none. */
int banyan_compensation_range(const banyan_cache *c, int32_t layer, int32_t j, int64_t floor,
                              int64_t *first, int64_t *end);
/* To sums of keys and values, rows first .. end-1 of a block, in order. */
void banyan_compensation_add_rows(const banyan_shape *shape, const banyan_plain *plain,
                                  int32_t first, int32_t end, double *sum);
/* Before a layer's floor rises: sums of KV head j up to what its rows need. */
void banyan_compensation_settle(banyan_cache *c, banyan_sequence *s, int32_t layer, int32_t j,
                                int64_t floor);
/* The tokens of a panel's pieces, of the KV heads order[0 .. count-1]. */
void banyan_compensation_join(banyan_cache *c, const banyan_call *call,
                              const banyan_panel *panel, const int32_t *order, int32_t count);
/* KV head j's token of a piece, to sums [heads][rows] of those query heads whose bit is set (of
 * `unit` query heads each). q [heads][rows][key_dim]. */
void banyan_compensation_add(const banyan_cache *c, const banyan_kind *kind, int32_t j,
                             int64_t piece, uint64_t heads, int32_t rows, const float *q,
                             char *sums);

/* summary.c. What is remembered of a block that is full now. */
void banyan_summarise(const banyan_cache *c, const banyan_kind *kind, void *record,
                      const banyan_worker *worker);
/* Of held block i; of the last one, where there are fewer. Summaries lie apart, each behind its
 * record, where no processor guesses them: so many blocks before they are read they are asked
 * for. */
enum { BANYAN_SUMMARY_AHEAD = 8 };
static inline const float *banyan_summary_of(const banyan_kept *kept, int64_t i,
                                             size_t summary_at)
{
    const char *record = banyan_kept_at(kept, i < kept->count ? i : kept->count - 1).record;
    return (const float *)(const void *)(record + summary_at);
}
/* The first `rows` keys of a block, to worker->keys. */
void banyan_plain_keys(const banyan_cache *c, const banyan_shape *shape, const void *record,
                       int32_t rows, const banyan_worker *worker);
/* To sum [dim] a query head's rows first .. first+rows-1 of the call. */
void banyan_add_queries(const banyan_cache *c, const banyan_call *call, int32_t dim,
                        int64_t first, int32_t rows, int32_t head, double *sum);

/* pick.c. The blocks that a panel's rows choose, on all holders of their KV heads. */
banyan_status banyan_panel_pick(banyan_cache *c, const banyan_call *call,
                                const banyan_panel *panel);
static inline banyan_pick *banyan_picks_at(const banyan_kind *kind, banyan_pick *first,
                                           int64_t piece)
{
    return (banyan_pick *)(void *)((char *)first + (size_t)piece * banyan_picks_bytes(kind));
}
/* What a class of query heads of a KV head chose for a piece of the panel. */
banyan_chosen banyan_picked(const banyan_cache *c, const banyan_kind *kind, int32_t kv_head,
                            int32_t subgroup, const banyan_class *of, int64_t piece);

/* pieces.c: the next panel of a call, of at most so many rows; 0 after the last. From {0}
 * on, but for `attends`. */
int banyan_panel_next(const banyan_cache *c, const banyan_call *call, int32_t most,
                      banyan_panel *panel);
/* Of a part's rows from row `row` on, those of the next piece; `attends` as in a panel. */
int32_t banyan_piece_rows(const banyan_cache *c, const banyan_call *call,
                          const banyan_rows *part, int32_t row, int attends);
/* attend.c: may a part's rows be appended to a layer now? */
banyan_status banyan_check_append(const banyan_cache *c, int32_t layer,
                                  const banyan_rows *part);
/* Are the blocks that the part's rows read still there? */
banyan_status banyan_check_floor(const banyan_cache *c, int32_t layer, const banyan_rows *part);
/* The part's rows are 0 to max_rows, and if there are some, of a sequence of this cache. */
banyan_status banyan_check_rows(const banyan_cache *c, const banyan_rows *part);

/* append.c: forget tokens from `at` on, evict for it, and write the call's k and v. */
banyan_status banyan_cache_append(banyan_cache *c, const banyan_call *call);
/* The same without the writing; in layers first .. last of those that have keys of their own.
 * What every rank will use is compared with what there is first: MEMORY before anything
 * changed. */
banyan_status banyan_append_blocks(banyan_cache *c, const banyan_call *call, int32_t first,
                                   int32_t last);
/* Keys and values of tokens at .. end-1 have come to a layer. */
void banyan_layer_write(banyan_layer *layer, int64_t at, int64_t end);
/* Is it a part of the step that is under way, and so appended already? */
static inline int banyan_is_stepped(const banyan_cache *c, const banyan_rows *part)
{
    const banyan_sequence *s = part->sequence;
    return s->step == c->steps && c->steps > 0 && s->step_at == part->at &&
           s->step_rows == part->rows;
}
/* Does any block of any rank begin, go or change hands when this part is appended? */
int banyan_changes_blocks(banyan_cache *c, const banyan_call *call, int32_t part);

/* host_backend.c, of append.c, panel.c and merge_rows.c; device_attend.c, with
 * device_append.c. */
extern const banyan_backend banyan_host_backend, banyan_device_backend;
banyan_status banyan_host_write(banyan_cache *c, const banyan_call *call);
banyan_status banyan_host_copy(banyan_cache *c, void *to, const void *from, size_t bytes);
banyan_status banyan_panel_compute(banyan_cache *c, const banyan_call *call,
                                   const banyan_panel *panel, int32_t from, int32_t to);
banyan_status banyan_panel_probe(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel, int32_t what);
/* merge_rows.c: merges what lies in part->mass, and writes it where it is wanted. */
banyan_status banyan_panel_show(banyan_cache *c, const banyan_call *call,
                                const banyan_panel *panel, int32_t what);
/* The tokens that count for a part's rows. */
banyan_range banyan_part_range(const banyan_rows *part, int32_t what);
banyan_status banyan_panel_send(banyan_cache *c, const banyan_call *call,
                                const banyan_panel *panel);
banyan_status banyan_panel_merge(banyan_cache *c, const banyan_call *call,
                                 const banyan_panel *panel);

/* sums.c: what a panel's rows add up to, and how. */
void banyan_sum_clear(const banyan_plan *plan, void *sums, int32_t value_dim, int64_t rows);
void banyan_sum_combine(const banyan_plan *plan, void *out, const void *lo, const void *hi,
                        int32_t value_dim, int64_t rows);
/* A tile's sums [heads][rows] from nothing; sets tile->partial and tile->sums. */
void banyan_sum_attend(const banyan_plan *plan, banyan_tile *tile, void *sums);
/* Without values. */
void banyan_sum_masses(const banyan_plan *plan, void *out, const void *sums, int32_t value_dim,
                       int64_t rows);
/* The same as partials, in the same memory. */
float *banyan_sum_round(const banyan_plan *plan, void *sums, int32_t value_dim, int64_t rows);

/* merge_passes.c: for a merge that reduces; data [heads] on every rank. */
banyan_status banyan_reduce_strongest(banyan_cache *c, const banyan_kind *kind,
                                      void *const *data, int32_t rows);
banyan_status banyan_reduce_partials(banyan_cache *c, const banyan_kind *kind,
                                     void *const *data, int32_t value_dim, int32_t rows);

/* threads.c: body(arg, i, worker) for i = 0 .. count-1 on `threads` threads, in any order; no
 * two at a time have the same worker (0 .. threads-1). */
typedef void (*banyan_body)(void *arg, int64_t i, int32_t worker);
void banyan_each(int32_t threads, int64_t count, banyan_body body, void *arg);

double banyan_seconds(void); /* monotonic */

/* A lost rank's blocks are left out of every result: it finds nothing to read. */
static inline int banyan_is_lost(const banyan_plan *plan, int32_t layer)
{
    const banyan_spec *spec = &plan->spec;
    return spec->lost_rank == plan->rank && (spec->lost_layer < 0 || spec->lost_layer == layer);
}

static inline const banyan_part *banyan_cache_part(const banyan_cache *c, int32_t layer)
{
    return &c->part[c->plan->kind_of_layer[layer]];
}

static inline banyan_pool *banyan_cache_pool(const banyan_cache *c, int32_t layer)
{
    return &c->pool[banyan_plan_kind(c->plan, layer)->pool];
}

static inline banyan_kept *banyan_part_kept(const banyan_rows *part, int32_t layer, int32_t j)
{
    return &part->sequence->layer[layer].kept[j];
}

/* KV heads of a layer that this rank keeps: none of a layer that reads another's. */
static inline int32_t banyan_kept_count(const banyan_cache *c, int32_t layer)
{
    return banyan_keeps_own(c->plan, layer) ? banyan_cache_part(c, layer)->mine_count : 0;
}

#endif
