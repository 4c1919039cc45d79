/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h - what a cache is made of; for the files of dist/ that work on one.
 *
 *     cache ─ layer  [layers]   how long the sequence is here, and how far back it may go
 *           ─ part   [kinds]    what this rank does in all layers of a kind
 *           ─ kept   [layers x KV heads held here]   the blocks of one KV head of one layer
 *           ─ lane   [lanes]    one tile's q and block list
 *           ─ worker [workers]  one thread's scratch
 *           ─ slots             partials of tiles, or of parts of tiles
 *
 * Everything but the block records lies in one arena, laid out by plan_workspace.c, which also
 * measures it for ranks that are not here. */
#ifndef BANYAN_DIST_CACHE_H
#define BANYAN_DIST_CACHE_H

#include "dist/dist.h"

/* A call that is probed goes in panels of at most so many rows: its partials need room twice. */
enum { BANYAN_PROBE_ROWS = 256 };

/* The blocks of one KV head of one layer that this rank keeps. */
typedef struct banyan_kept {
    banyan_held *held; /* [capacity]: the first `count`, ascending by block */
    int64_t count, capacity;
    char *records;   /* [capacity][record_bytes], on the plan's device */
    int64_t touched; /* records that were ever used: the first ones */
    int64_t spare;   /* records given back: those of held[capacity - spare ..] */
    int64_t settled; /* blocks below it are judged: what is still held of them stays for good */
} banyan_kept;

typedef struct banyan_layer {
    int64_t length, longest; /* tokens now, and the most there ever were */
    int64_t floor;           /* rows below it may miss blocks */
    banyan_kept *kept;       /* [part->mine_count]; NULL: it reads another layer's */
} banyan_layer;

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
    void **mass; /* [heads]: likewise of the probed tokens, without values */
} banyan_part;

typedef struct banyan_lane {
    float *q; /* [tile_heads][rows][key_dim] */
    banyan_entry *entry;
    banyan_edge *edge;
    int64_t entries;
    int is_refused; /* a list could not be built */
} banyan_lane;

typedef struct banyan_worker {
    void *workspace; /* the kernel's */
    void *probe;     /* sums over the probed tokens of one tile */
    int64_t pairs;   /* (query row, block) pairs computed in this panel */
} banyan_worker;

/* How much of everything a rank needs: see plan_workspace.c. */
typedef struct banyan_sizes {
    int32_t tile_heads, tile_rows; /* largest tile */
    int32_t workers, lanes, slots;
    int64_t list, edges; /* entries and edges of the longest list */
    int64_t items;       /* items of a kind that lie here, at most */
    size_t item_bytes, mass_bytes, slot_bytes, mass_slot_bytes;
} banyan_sizes;

typedef struct banyan_call banyan_call;

/* The four steps of a call that depend on where records lie: rows .. of the call are a panel. */
typedef struct banyan_way {
    /* The call's k and v to the records of its blocks. */
    banyan_status (*write)(banyan_cache *c, const banyan_call *call);
    /* Partials of rows first .. first+rows-1 of the call: of the KV heads part->order[from .. to-1]. */
    banyan_status (*compute)(banyan_cache *c, const banyan_call *call, int32_t first,
                             int32_t rows, int32_t from, int32_t to);
    /* Sends what is sent at once. */
    banyan_status (*send)(banyan_cache *c, const banyan_call *call, int32_t first,
                          int32_t rows);
    /* Merges all of them across ranks, and writes out, lse and mass where they are wanted. */
    banyan_status (*merge)(banyan_cache *c, const banyan_call *call, int32_t first,
                           int32_t rows);
} banyan_way;

struct banyan_cache {
    const banyan_plan *plan;
    const banyan_way *way;
    struct banyan_device_cache *device; /* device_cache.h; NULL on the CPU */
    banyan_sizes sizes;
    banyan_layer *layer;
    banyan_part *part;
    banyan_lane *lane;
    banyan_worker *worker;
    char *slots;      /* [slots][tile_heads * tile_rows] sums */
    char *mass_slots; /* likewise, without values */
    int64_t *start;   /* [lanes + 1]: first entry of a lane's list, end to end */
    /* Of a merge that reduces; else NULL. */
    float *maxima;    /* [heads][panel_rows] */
    float *pass_room; /* twice the longest pass */

    char *arena;
    size_t arena_bytes;
    void *map; /* records as mapped; the first record lies at a huge page's border */
    size_t map_bytes;

    float *probe; /* where the next attend writes mass, or NULL */
    int64_t probe_first, probe_end;
    int64_t merges; /* panels merged so far */
    banyan_stats stats;
};

/* One call of banyan_attend, checked. */
struct banyan_call {
    int32_t layer, cache_layer; /* whose keys and values it reads */
    int64_t at;
    int32_t rows;
    const void *q, *k, *v;
    void *out;
    float *lse, *mass;
};

/* A bump allocator. With base NULL it only counts. */
typedef struct banyan_arena {
    char *base;
    size_t used;
} banyan_arena;

banyan_sizes banyan_sizes_of(const banyan_plan *plan, int rank);
/* `count` things at the arena's end, 64-byte aligned. */
void *banyan_arena_take(banyan_arena *arena, int64_t count, size_t bytes);
/* Lays out a cache's arena; c NULL: only counts. */
void banyan_cache_layout(const banyan_plan *plan, int rank, banyan_arena *arena,
                         banyan_cache *c);

/* Does an item lie on `rank` at some time: is it held or wanted there? */
int banyan_item_is_here(const banyan_plan *plan, const banyan_item *item, int rank);

/* append.c: forget tokens from `at` on, evict for it, and write the call's k and v. */
banyan_status banyan_cache_append(banyan_cache *c, const banyan_call *call);

/* On the CPU, append.c, panel.c and merge_rows.c; on a device, device_append.c and device_attend.c. */
extern const banyan_way banyan_host_way, banyan_device_way;
banyan_status banyan_host_write(banyan_cache *c, const banyan_call *call);
banyan_status banyan_panel_compute(banyan_cache *c, const banyan_call *call, int32_t first,
                                   int32_t rows, int32_t from, int32_t to);
banyan_status banyan_panel_send(banyan_cache *c, const banyan_call *call, int32_t first,
                                int32_t rows);
banyan_status banyan_panel_merge(banyan_cache *c, const banyan_call *call, int32_t first,
                                 int32_t rows);

/* sums.c: what a panel's rows add up to, and how. */
void banyan_sum_clear(const banyan_plan *plan, void *sums, int32_t value_dim, int64_t rows);
void banyan_sum_combine(const banyan_plan *plan, void *out, const void *lo, const void *hi,
                        int32_t value_dim, int64_t rows);
/* A tile's sums [heads][rows] from nothing; sets tile->partial and tile->sums. */
void banyan_sum_attend(const banyan_plan *plan, banyan_tile *tile, void *sums);
/* Without values. */
void banyan_sum_strip(const banyan_plan *plan, void *out, const void *sums, int32_t value_dim,
                      int64_t rows);
/* The same as partials, in the same memory. */
float *banyan_sum_round(const banyan_plan *plan, void *sums, int32_t value_dim, int64_t rows);

/* merge_passes.c: for a merge that reduces; data [heads] on every rank. */
banyan_status banyan_reduce_partials(banyan_cache *c, const banyan_kind *kind,
                                     void *const *data, int32_t value_dim, int32_t rows);

/* threads.c: body(arg, i, worker) for i = 0 .. count-1 on `threads` threads, in any order; no two
 * at a time have the same worker (0 .. threads-1). */
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

/* KV heads of a layer that this rank keeps: none of a layer that reads another's. */
static inline int32_t banyan_kept_count(const banyan_cache *c, int32_t layer)
{
    return banyan_keeps_own(c->plan, layer) ? banyan_cache_part(c, layer)->mine_count : 0;
}

#endif
