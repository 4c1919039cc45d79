/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h - what the files that make a plan share among themselves, and nobody else includes.
 *
 * In the order in which banyan_plan_create calls them:
 *
 *   spec_check    is what was asked for possible?         a filled-in copy of the spec
 *   plan_kinds    layers -> kinds of layers
 *   plan_kernel   which kernel of the device
 *   plan_bind     rules -> patterns, classes, retention
 *   plan_cover    which far blocks does nobody read?      warnings
 *   plan_place    weights -> holders, cuts, homes, items
 *   plan_merge    items -> schedules
 *   plan_pick     who chooses blocks by data, and how holders agree on them
 *   plan_lines    who chooses columns and diagonals
 *   plan_memory   records and workspace, against what is free
 *   plan_hash     one number for all of it */
#ifndef BANYAN_DIST_PLAN_H
#define BANYAN_DIST_PLAN_H

#include "dist/dist.h"

/* Zeroed memory that lives as long as the plan; NULL, with the message set, when there is
 * none. */
void *banyan_plan_alloc(banyan_plan *plan, size_t count, size_t bytes);
char *banyan_plan_copy(banyan_plan *plan, const char *text); /* a copy; NULL stays NULL */

banyan_status banyan_spec_widen(const banyan_spec *given, banyan_spec *out);
/* The shape of a layer, with the spec's for what spec.shapes leaves out; also of a spec that is
 * not filled in. */
banyan_layer_shape banyan_spec_shape(const banyan_spec *spec, int32_t layer);
banyan_status banyan_spec_check(const banyan_spec *spec, int32_t ranks);
banyan_status banyan_plan_fill(banyan_plan *plan, const banyan_spec *spec); /* plan->spec */
banyan_status banyan_plan_kinds(banyan_plan *plan);
banyan_status banyan_plan_kernel(banyan_plan *plan);
banyan_status banyan_plan_agree_on_kernel(banyan_plan *plan); /* collective */
banyan_status banyan_plan_bind(banyan_plan *plan);
banyan_status banyan_plan_cover(banyan_plan *plan);
banyan_status banyan_plan_place(banyan_plan *plan);
banyan_status banyan_plan_merge(banyan_plan *plan);
banyan_status banyan_plan_pick(banyan_plan *plan);
banyan_status banyan_plan_liners(banyan_plan *plan);
/* plan_follow.c */
banyan_status banyan_plan_follow(banyan_plan *plan);
/* Query heads of a kind that choose tokens in a layer. */
int32_t banyan_kind_remembers(const banyan_plan *plan, const banyan_kind *kind, int32_t layer);
/* plan_pick.c. Item `item` goes from each holder to each other, in one round; then the schedule
 * is whole. */
void banyan_schedule_holders(banyan_schedule *out, const banyan_placed *placed, int32_t item);
banyan_status banyan_schedule_close(banyan_schedule *out);
/* Bytes of a kind's records, once the kernel is known: the kernel's, and summaries behind
 * them. */
void banyan_plan_record(const banyan_plan *plan, banyan_kind *kind);
banyan_status banyan_plan_memory(const banyan_plan *plan);
/* What control groups leave (groups.c), -1 without a limit; root: "", or where a test keeps its
 * own /proc and /sys. */
int64_t banyan_groups_free(const char *root);
/* MEMORY: "needs 48.0 GiB per rank, 23.4 free" and the note. */
banyan_status banyan_memory_refuse(int64_t need, int64_t have, const char *note);
uint64_t banyan_plan_digest(const banyan_plan *plan);

/* ---- dealing (deal.c) -------------------------------------------------------------------- */

/* A head's kept blocks at one moment: permanent ones below `blocks`, and the others in [from,
 * blocks), of a sequence with this turn, which is small. */
typedef struct banyan_kept_set {
    const banyan_retention *retention;
    int64_t from, blocks, turn;
} banyan_kept_set;

uint64_t banyan_bit_reverse(uint64_t x);
/* How many of the ordinals 0 .. n-1 are dealt below `cut`. */
int64_t banyan_deal_below(int64_t n, uint64_t cut);
/* How many of the kept blocks are dealt below `cut`. */
int64_t banyan_kept_below(const banyan_kept_set *kept, uint64_t cut);
/* The most of any `blocks` consecutive ordinals that are dealt to [low, high); an upper bound
 * that is at most 2 too many per 4096 blocks. */
int64_t banyan_deal_most(int64_t blocks, uint64_t low, uint64_t high);
/* The most of `sequences` runs of consecutive ordinals, `blocks` together, that are dealt to
 * it. */
int64_t banyan_deal_most_of(int64_t blocks, int64_t sequences, uint64_t low, uint64_t high);
/* Move the inner cuts as little as possible so that of the kept blocks each holder has its
 * part, rounded. */
void banyan_deal_settle(const banyan_kept_set *kept, banyan_holder *holder, int32_t count);

/* ---- counting (plan_memory.c, plan_share.c) ---------------------------------------------- */

static inline int64_t banyan_blocks(int64_t tokens, int32_t block_tokens)
{
    return (tokens + block_tokens - 1) / block_tokens;
}
/* Permanent blocks of a period, behind the prefix. */
static inline int32_t banyan_residues(const banyan_retention *r)
{
    return (int32_t)(banyan_retention_count(r, r->prefix + r->period) - r->prefix);
}
/* What a KV head keeps once a call of one row has brought the sequence to `tokens`. */
banyan_kept_set banyan_plan_kept_at(const banyan_plan *plan, const banyan_head_plan *head,
                                    int64_t tokens, int evict);
/* Lower end of a holder's cut range. */
static inline uint64_t banyan_cut_low(const banyan_placed *placed, int32_t index)
{
    return index > 0 ? placed->holder[index - 1].cut : 0;
}
/* Blocks of a head that a sequence may hold and that are not permanent: its window, at most. */
int64_t banyan_head_window(const banyan_plan *plan, const banyan_head_plan *head);
/* Fill head->capacity and head->pooled; its holders are known. */
void banyan_head_capacity(const banyan_plan *plan, banyan_head_plan *head);
/* Bytes of records set aside on a rank, over all layers. */
int64_t banyan_plan_capacity_bytes(const banyan_plan *plan, int rank);
/* A rank's share but for what a row reads, which takes a loop over blocks. */
banyan_share banyan_plan_load(const banyan_plan *plan, int rank, int64_t sequences,
                              int64_t tokens);
/* Add to kept [ranks] what each rank keeps of a kind's layers, of all sequences at `tokens`
 * tokens, as if with evict. */
typedef struct banyan_load {
    int64_t blocks, bytes;
} banyan_load;
void banyan_kind_load(const banyan_plan *plan, const banyan_kind *kind, int64_t tokens,
                      banyan_load *kept);
/* The largest part over the mean, each rank's bytes over its bandwidth; 1 is perfect. */
double banyan_imbalance(const banyan_plan *plan, const banyan_load *kept);
/* (KV head, rank) pairs beyond one per KV head, over the kinds: the holders that merges pay
 * for. */
int64_t banyan_kind_extra_holders(const banyan_kind *kind);
/* How many of *stride residues of the far context some head of a kind reads: *stride for all, 0
 * for windows only. */
int banyan_kind_cover(const banyan_kind *kind, int32_t *stride);
/* "0-3, 8": the layers of a kind. */
void banyan_kind_layers(const banyan_plan *plan, const banyan_kind *kind, char *text,
                        size_t bytes);
/* The steps of a merge row for one kind, sorted; none for a merge that reduces; MEMORY when
 * there is no room. */
banyan_status banyan_kind_schedule(const banyan_plan *plan, const banyan_kind *kind,
                                   const banyan_merge *merge, banyan_schedule *out);
/* What is sent for `rows` rows of a kind's layer, with the plan's merge; rank < 0: by all
 * ranks. */
void banyan_kind_traffic(const banyan_plan *plan, const banyan_kind *kind, int32_t rows,
                         int rank, banyan_traffic *out);
/* What holders tell each other of the blocks that they chose, for `pieces` pieces; likewise. */
void banyan_pick_traffic(const banyan_plan *plan, const banyan_kind *kind, int32_t pieces,
                         int rank, banyan_traffic *out);
/* The same of tokens, in a layer that chooses them. */
void banyan_follow_traffic(const banyan_plan *plan, const banyan_kind *kind, int32_t pieces,
                           int rank, banyan_traffic *out);
/* Seconds that one row's merges take over all layers, by the cost model. */
banyan_status banyan_plan_merge_seconds(const banyan_plan *plan, const banyan_merge *merge,
                                        double *seconds);

/* The all-reduces of a merge that reduces (merge_passes.c): how many floats each, for `rows`
 * rows. */
enum { BANYAN_PASSES = 3 };
void banyan_pass_floats(const banyan_plan *plan, int32_t value_dim, int32_t rows,
                        int64_t floats[BANYAN_PASSES]);

/* The line as text: which part of which head each rank keeps (plan_draw.c). */
void banyan_kind_draw(const banyan_kind *kind, FILE *out);

#endif
